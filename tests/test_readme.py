import ast
import re
import subprocess
import sys
from pathlib import Path

import yaml

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
