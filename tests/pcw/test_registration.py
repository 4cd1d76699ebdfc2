"""`import hf_puzzle` makes the pipelines known, whenever transformers is imported, and stays light."""

import importlib.util
import subprocess
import sys

import pytest
import transformers.pipelines

import hf_puzzle.pcw


CHECK = """
from transformers.pipelines import PIPELINE_REGISTRY
tasks = {task: PIPELINE_REGISTRY.check_task(task)[1]["impl"] for task in ("pcw-classification", "pcw-decision", "pcw-generation")}
assert tasks["pcw-generation"] == "hf_puzzle.remote.pipeline_pcw.PCWGenerationPipeline", tasks
assert "hf_puzzle.remote.pipeline_pcw" not in sys.modules
"""
# looking for the module must not use the registration up
LATER = (
    """
import sys, hf_puzzle, importlib.util
assert not {"torch", "transformers"} & set(sys.modules)
importlib.util.find_spec("transformers.pipelines")
"""
    + CHECK
)


def test_pipelines_are_registered_once_transformers_is_imported():
    result = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_pipelines_are_registered_at_once_where_transformers_is_there(monkeypatch):
    tasks = transformers.pipelines.PIPELINE_REGISTRY.supported_tasks
    for task in hf_puzzle._PIPELINES:
        monkeypatch.delitem(tasks, task)
    spec = importlib.util.spec_from_file_location("again", hf_puzzle.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert set(hf_puzzle._PIPELINES) <= set(tasks)


def test_public_names_exist():
    for name in hf_puzzle.pcw.__all__:
        assert getattr(hf_puzzle.pcw, name) is not None
    assert set(hf_puzzle.pcw.__all__) <= set(dir(hf_puzzle.pcw))
    with pytest.raises(AttributeError, match="nothing"):
        _ = hf_puzzle.pcw.nothing
