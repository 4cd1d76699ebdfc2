"""A slice of the tests beside the releases of today: `make newest` installs them, and the wheel, and runs this file.

Every step prints one line; exit code 1 when one failed. Then come the versions that differ from constraints.txt, and the
releases that pyproject's ranges leave out. Steps run in a folder elsewhere, where only what was installed can be imported.
"""

import importlib
import itertools
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
BIN = Path(sys.executable).parent
MODEL = ROOT / "recipes" / "puzzle" / "tiny_parent"
# extras that are built from source, have wheels for some Pythons only, or bring triton
NOT_INSTALLED = {"fuzz", "llama-cpp"}
# of packages that are not called like them
MODULES = {"currencyconverter": "currency_converter", "optimum-quanto": "optimum.quanto", "pytest-xdist": "xdist"}
TOKENS = 12

OPEN = """
import sys
sys.modules["hf_puzzle"] = None
import torch
from transformers import AutoModelForCausalLM
folder, tokens = sys.argv[1], int(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="float32").eval()
ids = torch.arange(3, 11)[None]
cached = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None)
with torch.no_grad():
    for _ in range(tokens):
        ids = torch.cat((ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)), 1)
assert torch.equal(cached, ids), f"{cached.tolist()} cached, {ids.tolist()} uncached"
"""
CLASSIFY = """
import sys
sys.modules["hf_puzzle"] = None
from transformers import pipeline
classify = pipeline("pcw-classification", sys.argv[1], trust_remote_code=True)
assert classify("where is my card?")[0]["label"] == sys.argv[2]
"""
ASK = """
import sys
sys.modules["hf_puzzle"] = None
from transformers import pipeline
ask = pipeline("mrkl", sys.argv[1], trust_remote_code=True)
assert ask(sys.argv[2])["answer"] == sys.argv[3]
"""


def run(*command: str | Path) -> str:
    """Output of a command.

    Raises:
        RuntimeError: with the end of it, where the command failed.
    """
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise RuntimeError(
            f"{Path(command[0]).name} {' '.join(map(str, command[1:3]))[:60]!r}: " + "\n".join(lines[-5:])
        )
    return done.stdout


def fresh(program: str, *arguments: str | Path) -> None:
    """Run a program where hf_puzzle cannot be imported."""
    run(sys.executable, "-P", "-c", program, *arguments)


def installed() -> None:
    import hf_puzzle

    assert not Path(hf_puzzle.__file__).is_relative_to(ROOT / "hf_puzzle"), (
        f"{hf_puzzle.__file__} is the checkout: pip install ."
    )


def extras() -> None:
    failures = []
    for extra in sorted(set(metadata.metadata("hf_puzzle").get_all("Provides-Extra")) - NOT_INSTALLED):
        for requirement in map(Requirement, metadata.requires("hf_puzzle")):
            package = canonicalize_name(requirement.name)
            if package == "hf-puzzle" or not requirement.marker or not requirement.marker.evaluate({"extra": extra}):
                continue
            module = MODULES.get(package, package.replace("-", "_"))
            try:
                importlib.import_module(module)
            except Exception as error:
                failures.append(f"{extra}: {module}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


def solves(solver: str) -> None:
    from hf_puzzle.puzzle.solver import Choice, Limit, solve

    generator = random.Random(0)
    layers = [
        [Choice(str(b), generator.random() if b else 0.0, {"ms": (4 - b) + generator.random()}) for b in range(4)]
        for _ in range(6)
    ]
    totals = [
        (sum(c.score for c in chosen), sum(c.costs["ms"] for c in chosen)) for chosen in itertools.product(*layers)
    ]
    best = min(score for score, ms in totals if ms <= 15)
    (found,) = solve(layers, [Limit("latency_ms", "ms", 15.0)], solver=solver)
    assert found.solver == solver, f"{found.solver} answered"
    assert abs(found.score - best) < 1e-6 * best, f"{found.score}, the best is {best}"


def pipeline_of_stages() -> None:
    sys.path.append(str(TESTS))
    from tiny_run import write_recipes

    write_recipes(Path.cwd())
    run(BIN / "hf-puzzle", "run", "tiny.yaml", "--out", "run")
    assert Path("run/report.md").exists()
    fresh(OPEN, "run/distilled", TOKENS)


def converts(fmt: str) -> None:
    run(BIN / "hf-puzzle", "convert", "run/distilled", "--to", fmt, "--out", fmt)
    fresh(OPEN, fmt, TOKENS)


def check() -> None:
    assert "llama.cpp" in run(BIN / "hf-puzzle", "check", "run/distilled")


def export(target: str) -> None:
    run(BIN / "hf-puzzle", "export", "run/distilled", "--target", target, "--out", f"exported-{target}")
    assert Path(f"exported-{target}").exists()


def publish() -> None:
    assert "config.json" in run(BIN / "hf-puzzle", "publish", "run", "user/child", "--dry-run")


def optimum_cli() -> None:
    assert "constraints.speedup" in run(BIN / "optimum-cli", "puzzle", "keys")


def pcw() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    import hf_puzzle  # noqa: F401 (registers the pipeline)

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32")
    shots = [("my card has not arrived", "card late"), ("I left my card in a taxi", "card lost")]
    classify = pipeline(
        "pcw-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(MODEL), demonstrations=shots, num_windows=2
    )  # fmt: skip
    label = classify("where is my card?")[0]["label"]
    assert label in {label for _, label in shots}, label
    classify.save_pretrained("classifier")
    fresh(CLASSIFY, "classifier", label)


def mrkl() -> None:
    from transformers import pipeline

    import hf_puzzle  # noqa: F401 (registers the pipeline)
    from hf_puzzle.remote.experts_mrkl import Experts

    question, answer = "What was the price of Solvane Power on 29 April 2022?", "43"
    experts = Experts.from_fixtures(ROOT / "recipes" / "mrkl" / "jurassic_x", today="2022-05-02")
    ask = pipeline("mrkl", model=str(MODEL), experts=experts, today="2022-05-02")
    assert (said := ask(question)["answer"]) == answer, said
    ask.save_pretrained("mrkl")
    fresh(ASK, "mrkl", question, answer)


STEPS: dict[str, Callable[[], None]] = {
    "the wheel is what is imported": installed,
    "modules of the extras": extras,
    "solve by HiGHS": lambda: solves("HIGHS"),
    "solve by CBC": lambda: solves("CBC"),
    "puzzle: a recipe through all stages": pipeline_of_stages,
    "puzzle: decilm opens elsewhere": lambda: converts("decilm"),
    "puzzle: per_layer opens elsewhere": lambda: converts("per_layer"),
    "hf-puzzle check": check,
    "hf-puzzle export --target vllm": lambda: export("vllm"),
    "hf-puzzle export --target llama.cpp": lambda: export("llama.cpp"),
    "hf-puzzle export --target onnx": lambda: export("onnx"),
    "hf-puzzle publish --dry-run": publish,
    "optimum-cli puzzle": optimum_cli,
    "pcw: a pipeline, saved and opened elsewhere": pcw,
    "mrkl: a pipeline, saved and opened elsewhere": mrkl,
}


def take(name: str, step: Callable[[], None]) -> bool:
    """Whether a step succeeds; prints its line."""
    began = time.monotonic()
    try:
        step()
        error = None
    except Exception as caught:
        error = str(caught) or type(caught).__name__
    print(f"{'ok    ' if error is None else 'FAILED'} {name} ({time.monotonic() - began:.0f} s)", flush=True)
    if error is not None:
        print("       " + error[-2000:].replace("\n", "\n       "), flush=True)
    return error is None


def differences(lock: Path) -> list[tuple[str, str, str]]:
    """(package, locked, installed) of every package with another version; local versions (`+cpu`) count as equal."""
    rows = []
    for line in lock.read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = _version(requirement.name)
        if version is not None and not requirement.specifier.contains(Version(version).public, prereleases=True):
            rows.append((requirement.name, str(requirement.specifier).removeprefix("=="), version))
    return rows


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def left_out() -> list[tuple[str, str, str]]:
    """(package, range, newest release) of what our ranges leave out, as far as pip says."""
    rows = []
    for requirement in map(Requirement, metadata.requires("hf_puzzle")):
        if "<" not in str(requirement.specifier) or _version(requirement.name) is None:
            continue
        command = [sys.executable, "-m", "pip", "index", "versions", requirement.name]
        said = subprocess.run(command, capture_output=True, text=True).stdout
        newest = re.match(r"\S+ \((\S+)\)", said)
        if newest is not None and not requirement.specifier.contains(newest[1]):
            rows.append((requirement.name, str(requirement.specifier), newest[1]))
    return rows


def table(title: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [f"{package:<24} {first:<16} {second}" for package, first, second in rows]
    return "\n".join([title, *(f"  {line}" for line in lines or ["none"])])


def main() -> int:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"HF_HOME": f"{folder}/cache", "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1", "TQDM_DISABLE": "1"}
        failed = [name for name, step in STEPS.items() if not take(name, step)]
        os.chdir(ROOT)
    print(table("differ from constraints.txt (package, locked, installed):", differences(ROOT / "constraints.txt")))
    print(table("newer than pyproject allows (package, range, newest):", left_out()))
    print(
        f"newest releases: {len(STEPS) - len(failed)} of {len(STEPS)} steps ok"
        + "; FAILED: " * bool(failed)
        + ", ".join(failed)
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
