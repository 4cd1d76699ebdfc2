"""Files of hf_puzzle/remote are copied to the Hub by transformers, which follows `from .sibling import name` only."""

import ast
import sys
from pathlib import Path

import pytest


REMOTE = Path(__file__).parents[2] / "hf_puzzle" / "remote"
FILES = sorted(REMOTE.glob("*.py"))
ALLOWED = {"safetensors", "torch", "transformers"} | sys.stdlib_module_names


def forbidden_imports(source, siblings):
    """The import statements of `source` that would break, or tie, a file published alone with its siblings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wrong = [alias.name for alias in node.names if alias.name.split(".")[0] not in ALLOWED]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            wrong = [node.module] if node.module.split(".")[0] not in ALLOWED else []
        elif isinstance(node, ast.ImportFrom):
            wrong = [ast.unparse(node)] if node.level > 1 or node.module not in siblings else []
        else:
            continue
        yield from wrong


def test_remote_is_flat():
    assert [path.name for path in REMOTE.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_are_self_contained(path):
    assert list(forbidden_imports(path.read_text(), {each.stem for each in FILES})) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_text_looks_like_an_import(path):
    """transformers finds the imports with a regular expression, inside docstrings too."""
    source = path.read_text()
    statements = {
        line for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom) for line in (n.lineno,)
    }
    starts = {i for i, line in enumerate(source.splitlines(), 1) if line.strip().startswith(("import ", "from "))}
    assert starts <= statements


@pytest.mark.parametrize(
    "source, wrong",
    [
        ("import hf_puzzle", True),
        ("from hf_puzzle.costs import x", True),
        ("from . import sibling", True),
        ("from .sub.sibling import x", True),
        ("from ..remote import x", True),
        ("try:\n    import numpy\nexcept ImportError:\n    pass", True),
        ("from .sibling import x\nimport torch.nn\nfrom transformers.utils import y\nimport json", False),
    ],
)
def test_the_check_itself(source, wrong):
    assert bool(list(forbidden_imports(source, {"sibling"}))) == wrong
