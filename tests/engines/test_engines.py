"""The table of engines, fact by fact as research found them (decilm_interop, section 2.1)."""

import pytest

from hf_puzzle.engines import ENGINES, check_engines, refuses
from hf_puzzle.recipe import RecipeError


LAYERS = 4
# block in a middle layer -> engines that do not run it
MIDDLE = {
    (4, 256): set(),
    (1, 512): set(),
    ("none", 256): set(),
    ("none", "none"): set(),
    (4, "none"): {"llama.cpp"},
    ("linear", 256): {"vllm", "sglang", "mlx-lm", "exllamav3"},
    ("linear", "none"): {"vllm", "sglang", "mlx-lm", "exllamav3", "llama.cpp"},
    (4, "linear"): {"vllm", "sglang", "mlx-lm", "exllamav3", "llama.cpp"},
    ("none", "linear"): {"vllm", "sglang", "mlx-lm", "exllamav3", "llama.cpp"},
}


def refusing(layer_idx, block):
    return {engine for engine in ENGINES if refuses(engine, layer_idx, LAYERS, *block)}


@pytest.mark.parametrize("block", MIDDLE, ids=str)
def test_blocks_of_a_middle_layer(block):
    assert refusing(1, block) == refusing(2, block) == MIDDLE[block]


def test_layer_zero_without_attention():
    assert refusing(0, ("none", 256)) == {"vllm", "sglang", "llama.cpp", "mlx-lm"}
    # a linear map is no attention either: llama.cpp takes rope and head sizes from layer 0
    assert "llama.cpp" in refusing(0, ("linear", 256))
    assert refusing(0, (1, 256)) == set()


def test_last_layer_without_ffn():
    assert refusing(LAYERS - 1, ("none", "none")) == {"llama.cpp"}
    assert refusing(LAYERS - 1, ("none", 256)) == set()


def test_transformers_and_tensorrt_run_everything():
    blocks = [(a, f) for a in (4, 1, "linear", "none") for f in (256, "linear", "none")]
    for layer_idx in range(LAYERS):
        for block in blocks:
            assert not refusing(layer_idx, block) & {"transformers", "tensorrt-llm"}


def test_only_sglang_wants_one_number_of_kv_heads():
    assert {name for name, engine in ENGINES.items() if not engine.mixed_kv_heads} == {"sglang"}


@pytest.mark.parametrize("wrong, nearest", [("vlm", "vllm"), ("llamacpp", "llama.cpp"), ("exllama3", "exllamav3")])
def test_unknown_engines_name_the_nearest(wrong, nearest):
    with pytest.raises(
        RecipeError, match=rf"unknown engine '{wrong}'; did you mean '{nearest}'\?.*known: transformers"
    ):
        check_engines(["vllm", wrong])
    check_engines(list(ENGINES))
