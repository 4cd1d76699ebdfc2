"""Engines that cannot be timed are refused before any compute; rewritten children are the same function."""

import sys

import pytest
import torch
import transformers
from families import family_model
from transformers import AutoConfig

from hf_puzzle import formats
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Timing, Workload
from hf_puzzle.engines import measuring
from hf_puzzle.recipe import RecipeError


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "engine, fmt, device, missing, message",
    [
        ("llama.cpp", "per_layer", CPU, False, "opens no per_layer children"),
        ("llama.cpp", "decilm", CPU, True, r"hf_puzzle\[llama-cpp\]"),
        ("llama.cpp", "decilm", GPU, False, "measured on the CPU"),
        ("vllm", "decilm", GPU, True, "vLLM is not installed here"),
        ("openvino", "per_layer", CPU, True, "openvino is not installed here: pip install openvino"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_any_compute(monkeypatch, engine, fmt, device, missing, message):
    monkeypatch.delenv(measuring.openvino.PYTHON, raising=False)
    monkeypatch.setattr(measuring, "find_spec", lambda name: None if missing else name)
    monkeypatch.setattr(measuring.vllm, "find_spec", lambda name: None if missing else name)
    monkeypatch.setattr(measuring.openvino, "find_spec", lambda name: None if missing else name)
    monkeypatch.setattr(measuring.vllm.shutil, "which", lambda name: None if missing else name)
    with pytest.raises(RecipeError, match=message):
        measuring.check_measured(engine, fmt, device)
    measuring.check_measured("transformers", fmt, device)


def test_openvino_gets_graphs_in_float32(monkeypatch):
    monkeypatch.setattr(measuring.openvino, "find_spec", lambda name: name)
    measuring.check_measured("openvino", "per_layer", CPU, "float32")
    with pytest.raises(RecipeError, match="exported in float32, cost.dtype is bfloat16; set `dtype: float32`"):
        measuring.check_measured("openvino", "decilm", CPU, "bfloat16")
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"need onnx, onnxscript, onnxruntime: pip install 'hf_puzzle\[export\]'"):
        measuring.check_measured("openvino", "decilm", CPU, "float32")


def test_an_engine_is_really_loaded(monkeypatch, tmp_path):
    assert measuring.open_engine("transformers") == transformers.__version__
    monkeypatch.setenv(measuring.vllm.PYTHON, sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = tmp_path / "vllm.py"
    for code, found in (("__version__ = '0.30.1'", "0.30.1"), ("raise RuntimeError('no CUDA')", None)):
        module.write_text(code)
        measuring.vllm.shared().close()
        if found is not None:
            assert measuring.open_engine("vllm") == found
        else:
            with pytest.raises(RecipeError, match="vllm does not open: vllm: RuntimeError: no CUDA; or use `transf"):
                measuring.open_engine("vllm")
    measuring.vllm.shared().close()
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    with pytest.raises(RecipeError, match="llama.cpp does not open"):
        measuring.open_engine("llama.cpp")


@torch.no_grad()
def test_models_are_rewritten_for_the_engine_that_times_them():
    parent = family_model("llama")
    config = formats.decilm_config(parent.config, [Block("none", 256), Block(2, "none"), Block(4, "linear")])
    child = formats.model_class(config)(config).eval()
    tokens = torch.randint(3, 128, (2, 9))
    rewritten = measuring.as_engine_runs_it(child, "llama.cpp")
    assert "none" not in {block.ffn for block in formats.describe(rewritten.config)}
    assert torch.equal(rewritten(tokens).logits, child(tokens).logits)
    assert measuring.as_engine_runs_it(parent, "llama.cpp") is parent


def test_vllm_opens_a_folder_with_the_rewritten_child(monkeypatch):
    config = formats.decilm_config(family_model("llama").config, [Block(4, 256), Block("none", 256)])
    child = formats.model_class(config)(config).eval()
    asked = []

    class Shared:
        def time(self, folder, workload, rounds):
            names = AutoConfig.from_pretrained(folder, trust_remote_code=True).architectures
            asked.append((names, workload, rounds))
            return [Timing(100.0, 400.0)] * rounds

    monkeypatch.setattr(measuring.vllm, "shared", Shared)
    assert measuring.time_elsewhere("vllm", child, Workload(2, 8, 5), 7) == [Timing(100.0, 400.0)] * 7
    assert asked == [(["DeciLMForCausalLM"], Workload(2, 8, 5), 7)]
