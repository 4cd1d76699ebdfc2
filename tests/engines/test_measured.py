"""The measured table and what `check` says of the very folders that were run are one."""

import sys
from pathlib import Path

import numpy as np
import pytest
from families import family_model

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.engines import ENGINES, measured
from hf_puzzle.engines.check import AFTER_EXPORT, NO, OPENS, check_folder
from hf_puzzle.engines.export import export
from hf_puzzle.engines.rewrites import CannotRun


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "engines"))
import cases as engine_cases


CASES = {case.name: case for case in engine_cases.cases()}
TABLE = measured.table()
MEASURED = sorted({cell["case"] for row in TABLE.values() for cell in row["cells"]})
# right, and yet called anything but open, each with the reason
STRICTER: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    words = engine_cases.tokenizer()
    place = tmp_path_factory.mktemp("cases")

    def make(name):
        folder = place / str(MEASURED.index(name))
        if not folder.exists():
            engine_cases.write_without_weights(CASES[name], folder, words)
        return folder

    return make


@pytest.mark.parametrize("name", MEASURED)
def test_every_measured_cell_is_what_check_says(folders, name):
    verdicts = {verdict.engine: verdict for verdict in check_folder(folders(name))}
    for engine, row in TABLE.items():
        for cell in (cell for cell in row["cells"] if cell["case"] == name):
            said = verdicts[engine]
            where = (name, engine, cell, said)
            assert said.source == f"measured with {row['version']} on {row['date']}", where
            if (name, engine) in STRICTER:
                assert (cell["verdict"], said.status != OPENS) == ("right", True), where
            elif (name, engine) == ("RoPE dynamic", "transformers"):  # against the same model without a cache
                assert (cell["verdict"], "with a cache than without" in said.reason) == ("wrong", True), where
            elif cell["verdict"] == "refuses" and "CPU" in cell["message"]:  # other builds may run it
                assert "not in its CPU build" in said.reason, where
            elif cell["folder"] == "raw":
                assert (said.status == OPENS) == (cell["verdict"] == "right"), where
            else:
                assert (said.status == NO) == (cell["verdict"] == "refuses"), where
                assert cell["verdict"] != "wrong" or said.status == NO, where
                if engine != "llama.cpp":  # its GGUF file is another thing than a folder for its converter
                    assert said.status in (AFTER_EXPORT, NO), where


def test_the_table_is_of_this_table_of_engines_and_these_cases():
    assert set(TABLE) <= set(ENGINES)
    assert set(MEASURED) <= set(CASES)
    for row in TABLE.values():
        assert {cell["verdict"] for cell in row["cells"]} <= {"right", "wrong", "refuses"}
        for cell in row["cells"]:
            assert ("where" in cell) == (cell["verdict"] == "refuses")


def test_what_was_not_run_is_said_to_be_read(folders):
    verdicts = {verdict.engine: verdict for verdict in check_folder(folders(MEASURED[0]))}
    for engine in set(verdicts) - set(TABLE):
        assert verdicts[engine].source == measured.READ


def test_another_version_is_named(monkeypatch):
    row = {"package": "numpy", "version": "0.1", "date": "2026-11-29", "cells": []}
    rows = {"vllm": row, "mlx-lm": row | {"package": "not-there"}, "openvino": row | {"version": np.__version__}}
    rows["llama.cpp"] = row | {"also": {np.__version__: {}}}
    monkeypatch.setattr(measured, "table", lambda: rows)
    assert measured.advice("vllm").startswith("vllm was measured with numpy 0.1 on 2026-11-29, and ")
    assert "is installed here: `make engines` measures it, or `pip install numpy==0.1`" in measured.advice("vllm")
    assert measured.advice("mlx-lm") == (
        "mlx-lm was measured with not-there 0.1 on 2026-11-29; it is not installed in this environment: "
        "`pip install not-there==0.1` where it shall run"
    )
    assert measured.advice("sglang") is measured.advice("openvino") is measured.advice("llama.cpp") is None
    monkeypatch.setattr(measured, "_OTHER_NAMES", {"not-there": ("numpy",)})
    assert f"and {np.__version__} is installed here" in measured.advice("mlx-lm")


def test_a_refused_export_names_the_measured_version_before_anything_is_written(tmp_path):
    parent = family_model("llama")
    folder = hub.write_model_folder(tmp_path / "child", windowed(parent))
    with pytest.raises(CannotRun, match=r"layer 1, .*; .* \(mlx-lm was measured with mlx-lm [\d.]+ on \d{4}-"):
        export(folder, "mlx-lm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def windowed(parent):
    config = formats.per_layer_config(parent.config, [Block(4, 64), Block("kv4win8", 64), *[Block(4, 64)] * 2])
    return formats.model_class(config)(config)
