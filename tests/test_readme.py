import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import LocalHub
from pcw_models import byte_level, tiny_llama
from tiny_run import write_recipes

from hf_puzzle.recipe import parse_recipe


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_recipes_of_the_readme_parse_strictly():
    for text in blocks("yaml"):
        parse_recipe(yaml.safe_load(text))


def test_recipe_of_the_python_example_parses_strictly():
    (call,) = [text for text in blocks("python") if "parse_recipe(" in text]
    calls = [node for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Call)]
    (recipe,) = [c.args[0] for c in calls if getattr(c.func, "id", "") == "parse_recipe"]
    parse_recipe(ast.literal_eval(recipe))


def test_python_examples_compile():
    for text in blocks("python"):
        compile(text, "README.md", "exec")


def test_results_are_those_of_the_committed_json_files():
    check = subprocess.run([sys.executable, str(ROOT / "benchmarks/readme_table.py"), "--check"])
    assert check.returncode == 0, "run benchmarks/readme_table.py"


def test_files_named_in_the_readme_exist():
    for name in re.findall(r"`((?:recipes|benchmarks|hf_puzzle|tests)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name


def section(title: str) -> list[str]:
    """Python examples of one section."""
    text = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_parallel_windows_run_as_written(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    program = "\n".join(section("Parallel context windows"))
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "runs/classifier/pcw.json").exists()


def test_mrkl_runs_as_written(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    program = "\n".join(section("MRKL: exact experts beside a language model"))
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "'answer': '43'" in run.stdout


def commands(title: str) -> list[str]:
    """Command lines of one section, without comments and installations."""
    text = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [
        line.partition("#")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    return [line for line in lines if line and not line.startswith("pip ")]


def shell(line: str, folder: Path, **environment: str) -> str:
    """What a command prints; hf-puzzle and torchrun are those of this Python."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | environment | own, capture_output=True, text=True
    )
    assert run.returncode == 0, f"{line}\n{run.stdout}\n{run.stderr}"
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the README's names stand for tiny runs."""
    folder = write_recipes(tmp_path_factory.mktemp("readme"))
    (folder / "recipes").symlink_to(ROOT / "recipes")
    settings = ["--set", "evaluate.assisted_prompts=0", "--set", "baselines.names=[]", "--set", "threads=1"]
    shell(" ".join(["hf-puzzle run tiny.yaml --out runs/tiny_cpu", *settings]), folder)
    return folder


def test_publishing_runs_as_written(workplace):
    from hf_puzzle.remote.pipeline_pcw import PCWClassificationPipeline

    shutil.copytree(workplace / "runs/tiny_cpu", workplace / "runs/other")
    shots = [("a card that is late", "late"), ("a card that is lost", "lost")]
    tokenizer = byte_level()
    classifier = PCWClassificationPipeline(tiny_llama(tokenizer), tokenizer, demonstrations=shots)
    classifier.save_pretrained(workplace / "runs/classifier")
    with LocalHub() as hub:
        said = {line: shell(line, workplace, **hub.environment()) for line in commands("On the Hub")}
        assert {repo_id for _, repo_id in hub.repos} == {
            "me/tiny-child",
            "me/other",
            "me/puzzle-code",
            "me/classifier",
        }
        again = next(line for line in said if "--private" in line)
        assert "nothing to do" in shell(again, workplace, **hub.environment())
        assert hub.token not in "".join(said.values())
        opened = shell(f"{sys.executable} -c {shlex.quote(OPENED)}", workplace, **hub.environment())
    assert opened.splitlines()[:3] == ["DeciLMForCausalLM"] * 2 + ["PCWClassificationPipeline"]


OPENED = """
import sys
sys.modules["hf_puzzle"] = None
from transformers import AutoModelForCausalLM, pipeline
for name in ("me/tiny-child", "me/other"):
    print(type(AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)).__name__)
print(type(pipeline("pcw-classification", model="me/classifier", trust_remote_code=True)).__name__)
"""


def test_beyond_one_machine_runs_as_written(workplace):
    plan, here, elsewhere, torchrun = commands("Beyond one machine")
    assert "library" in shell(plan, workplace)
    # the demo's recipe takes minutes: a smaller one under its name
    small = here.replace(
        "recipes/puzzle/tiny_cpu.yaml", "tiny.yaml --out runs/on_ray --set evaluate.assisted_prompts=0"
    )
    assert small != here
    shell(small, workplace)
    assert (workplace / "runs/on_ray/report.md").exists()
    assert "ray://" in elsewhere
    torchrun = torchrun.replace("RECIPE", "tiny.yaml").replace("--nproc-per-node 8", "--standalone --nproc-per-node 2")
    settings = "--set evaluate.assisted_prompts=0 --set threads=1 --set baselines.names=[]"
    shell(f"{torchrun} {settings}".replace("DIR", "runs/tiny_cpu"), workplace)
