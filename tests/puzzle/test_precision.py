"""`fastest`: one answer for a run, from its first moment on, whatever machine continues it."""

import dataclasses

import pytest
import torch
import yaml
from tiny_run import RECIPE

from hf_puzzle import artifacts
from hf_puzzle.puzzle import precision
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import parse_recipe


ASKS = {
    "parent": {"name": "nowhere", "dtype": "fastest"},
    "data": {"name": "text", "data_files": ["x.txt"]},
    "cost": {"dtype": "fastest"},
    "library": {"num_tokens": 1, "args": {"bf16": "fastest", "weight_decay": 0.5}},
    "distill": {"num_tokens": 1, "args": {"bf16": "fastest"}},
}
CPU = torch.device("cpu")


@pytest.fixture
def recipe():
    return parse_recipe(RECIPE | ASKS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_place_gets_the_dtype(recipe, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(precision, "fastest", lambda device: dtype)
    found = precision.resolved(recipe, tmp_path, CPU)
    assert (found.parent.dtype, found.cost.dtype) == (dtype, dtype)
    assert found.library.args == {"bf16": dtype == "bfloat16", "weight_decay": 0.5}
    assert found.distill.args == {"bf16": dtype == "bfloat16"}
    assert not precision.asks(found)


def test_what_was_said_stays(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "fastest", lambda device: "float32")
    said = dataclasses.replace(recipe, parent=dataclasses.replace(recipe.parent, dtype="float16"))
    assert precision.resolved(said, tmp_path, CPU).parent.dtype == "float16"
    nothing = parse_recipe(RECIPE | {"data": ASKS["data"]})
    assert precision.resolved(nothing, tmp_path, CPU) is nothing


def test_a_run_keeps_its_dtype_on_another_machine(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "fastest", lambda device: "float32")
    run = PuzzleRun(recipe, tmp_path)
    run._save_recipe()
    assert artifacts.read_json(tmp_path / precision.FILE) == {"fastest": "float32"}
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["parent"]["dtype"] == "fastest"
    monkeypatch.setattr(precision, "fastest", lambda device: "bfloat16")
    again = PuzzleRun(recipe, tmp_path)
    again._save_recipe()
    assert again.recipe == run.recipe
    assert artifacts.read_json(tmp_path / precision.FILE) == {"fastest": "float32"}
    assert PuzzleRun(recipe, tmp_path / "other").recipe.parent.dtype == "bfloat16"


@pytest.mark.parametrize("seconds, dtype", [({"float32": 2.0, "bfloat16": 1.0}, "bfloat16"), ({"float32": 1.0, "bfloat16": 1.0}, "float32")])  # fmt: skip
def test_the_faster_one_wins_and_float32_a_draw(monkeypatch, seconds, dtype):
    monkeypatch.setattr(
        precision, "_seconds", lambda product, device: seconds[str(product().dtype).removeprefix("torch.")]
    )
    precision.fastest.cache_clear()
    assert precision.fastest("cpu") == dtype
    precision.fastest.cache_clear()
