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
