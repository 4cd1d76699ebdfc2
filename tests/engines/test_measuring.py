"""Engines that cannot be timed are refused before any compute; rewritten children are the same function."""

import pytest
import torch
from families import family_model

from hf_puzzle import formats
from hf_puzzle.blocks import Block
from hf_puzzle.engines import measuring
from hf_puzzle.recipe import RecipeError


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "engine, fmt, device, missing, message",
    [
        ("llama.cpp", "per_layer", CPU, False, "opens no per_layer children"),
        ("llama.cpp", "decilm", CPU, True, r"hf_puzzle\[llama-cpp\]"),
        ("llama.cpp", "decilm", GPU, False, "measured on the CPU"),
        ("vllm", "decilm", GPU, True, "no executable `vllm`"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_any_compute(monkeypatch, engine, fmt, device, missing, message):
    monkeypatch.setattr(measuring, "find_spec", lambda name: None if missing else name)
    monkeypatch.setattr(measuring.shutil, "which", lambda name: None if missing else name)
    with pytest.raises(RecipeError, match=message):
        measuring.check_measured(engine, fmt, device)
    measuring.check_measured("transformers", fmt, device)


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
