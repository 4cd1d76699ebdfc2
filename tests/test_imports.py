"""Who may import whom, by walking the sources; design.md has the picture."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1] / "hf_puzzle"
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for path in ROOT.rglob("*.py")
    if "optimum_plugin" not in path.parts
}
SHARED = {
    "anatomy",
    "artifacts",
    "blocks",
    "cards",
    "chat_evaluation",
    "conversions",
    "corpora",
    "costs",
    "data",
    "decision_data",
    "energy",
    "engines",
    "evaluation",
    "fanout",
    "formats",
    "hub",
    "key_retrieval",
    "layers",
    "lm_evaluation",
    "metrics",
    "optim",
    "preflight",
    "progress",
    "training",
}
SYSTEMS = {"mrkl", "pcw", "puzzle"}
ABOVE = {
    "cli",
    "publishing",
    "hf_extension",
    "bug_report",
}  # they may import all systems, and nothing below imports them


def ours(module, source):
    """Modules of hf_puzzle that `source`, the text of `module`, imports anywhere; `puzzle/solver` style."""
    package = module.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "hf_puzzle"]
            yield from ("/".join(name.split(".")[1:]) for name in names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                if node.module.split(".")[0] != "hf_puzzle":
                    continue
                base = node.module.split(".")[1:]
            else:
                base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inner = "/".join([*base, alias.name])
                yield inner if inner in MODULES or f"{inner}/__init__" in MODULES else "/".join(base)


def test_every_module_has_a_place():
    known = SHARED | SYSTEMS | ABOVE | {"stages", "recipe", "strict", "remote", "__init__"}
    assert {module.split("/")[0] for module in MODULES} <= known


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module):
    top = module.split("/")[0]
    for target in ours(module, MODULES[module].read_text()):
        place = target.split("/")[0]
        if top == "remote":
            assert place == "remote", target
        elif top in SHARED:
            # recipes are plain dataclasses and stages plain functions: everyone may read them
            assert place in SHARED | {"recipe", "strict", "remote"} | ({"stages"} if top == "fanout" else set()), (
                target
            )
        elif top in ("recipe", "stages", "strict"):
            assert place in {"artifacts", "progress"} | ({"strict"} if top == "recipe" else set()), target
        elif top in SYSTEMS:
            assert place in SHARED | {top, "recipe", "stages", "remote"}, target
        elif top == "__init__":
            raise AssertionError(f"hf_puzzle/__init__.py imports {target}")


def test_systems_do_not_import_the_command_line():
    for module, path in MODULES.items():
        if module not in ABOVE:
            assert not ABOVE & set(ours(module, path.read_text())), module


def test_no_cycles():
    graph = {m: {t for t in ours(m, p.read_text()) if t in MODULES} for m, p in MODULES.items()}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_, module])
        if module not in done:
            open_.append(module)
            for target in graph[module]:
                visit(target)
            done.add(open_.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize(
    "module, source, expected",
    [
        ("costs", "from .puzzle.solver import solve", ["puzzle/solver"]),
        ("costs", "from . import artifacts", ["artifacts"]),
        ("costs", "import hf_puzzle.puzzle.network", ["puzzle/network"]),
        ("puzzle/network", "from ..remote.modeling_decilm import X", ["remote/modeling_decilm"]),
        (
            "puzzle/network",
            "from .. import artifacts\nfrom .solver import a, b",
            ["artifacts", "puzzle/solver"] + ["puzzle/solver"],
        ),
        ("puzzle/network", "def f():\n    from hf_puzzle.cli import main", ["cli"]),
        ("puzzle/network", "import torch\nfrom transformers import x", []),
    ],
)
def test_the_walk_itself(module, source, expected):
    assert list(ours(module, source)) == expected


LIGHT = """
import sys
import hf_puzzle
heavy = {"torch", "transformers", "numpy", "datasets"} & set(sys.modules)
assert not heavy, heavy
assert {"PuzzleRun", "load_recipe", "parse_recipe"} <= set(dir(hf_puzzle))
assert hf_puzzle.parse_recipe is __import__("hf_puzzle.recipe", fromlist=["x"]).parse_recipe
import hf_puzzle.cli
hf_puzzle.cli._parser()
heavy = {"torch", "transformers", "numpy", "datasets"} & set(sys.modules)
assert not heavy, heavy
try:
    hf_puzzle.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""


def test_importing_the_library_and_its_command_line_is_light():
    result = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
