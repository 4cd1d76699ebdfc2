"""The table of engines, fact by fact as research found them (decilm_interop, sections 2.1 to 2.7)."""

import re
import subprocess
import sys

import pytest
from transformers import GraniteConfig, LlamaConfig, Qwen2Config, Qwen3Config, Starcoder2Config

from hf_puzzle.blocks import Block
from hf_puzzle.engines import (
    ENGINES,
    check_engines,
    check_format,
    check_tensor_parallel,
    needs_one_kv_count,
    refuses,
    refuses_model,
    rewritten,
    runs_directly,
    why_not_direct,
)
from hf_puzzle.recipe import RecipeError


LAYERS = 4
REAL = {name for name, row in ENGINES.items() if row.rewritten}
GRAPHS = {name for name, row in ENGINES.items() if row.graphs}
OURS = {"transformers", "transformers-serve", "continuous-batching", *GRAPHS}
NO_LINEAR = {"vllm", "sglang", "mlx-lm", "exllamav3", "portable"}
# block in a middle layer -> engines that do not run it as it is
MIDDLE = {
    (4, 256): set(),
    (1, 512): set(),
    ("none", 256): set(),
    ("none", "none"): {"exllamav2", "portable"},
    (4, "none"): {"llama.cpp", "exllamav2", "portable"},
    ("linear", 256): NO_LINEAR,
    ("linear", "none"): NO_LINEAR | {"llama.cpp", "exllamav2"},
    (4, "linear"): NO_LINEAR | {"llama.cpp", "exllamav2"},
    ("none", "linear"): NO_LINEAR | {"llama.cpp", "exllamav2"},
    ("kv4win128", 256): set(ENGINES) - {"transformers", "transformers-serve", "onnxruntime", "openvino"},
    (4, "e2"): set(ENGINES)
    - {"transformers", "transformers-serve", "continuous-batching", "vllm", "onnxruntime", "openvino"},
}
BLOCKS = [(a, f) for a in (4, 1, "linear", "none") for f in (256, "linear", "none")]


def engines_where(function, layer_idx, block):
    return {engine for engine in ENGINES if function(engine, layer_idx, LAYERS, *block)}


@pytest.mark.parametrize("block", MIDDLE, ids=str)
def test_blocks_of_a_middle_layer(block):
    assert engines_where(why_not_direct, 1, block) == engines_where(why_not_direct, 2, block) == MIDDLE[block]


def test_layer_zero():
    none = {"vllm", "sglang", "llama.cpp", "exllamav2", "portable"}
    assert engines_where(why_not_direct, 0, ("none", 256)) == none
    assert engines_where(why_not_direct, 0, ("none", "none")) == none - {"vllm"}
    # llama.cpp takes rope and head sizes from layer 0, of a linear map too
    assert engines_where(why_not_direct, 0, ("linear", 256)) == NO_LINEAR | {"exllamav2"}
    assert engines_where(why_not_direct, 0, (1, 256)) == set()
    assert why_not_direct("transformers", 0, LAYERS, "kv2win8", 256) is None


def test_last_layer_without_ffn():
    assert engines_where(why_not_direct, LAYERS - 1, ("none", "none")) == {"llama.cpp", "exllamav2", "portable"}
    assert engines_where(why_not_direct, LAYERS - 1, ("none", 256)) == set()


@pytest.mark.parametrize("layer_idx", range(LAYERS))
def test_a_block_stays_where_an_exact_rewrite_exists(layer_idx):
    """Only linear maps in SGLang and ExLlamaV3 have none, and `portable` takes no rewrite at all."""
    for block in BLOCKS:
        linear = {"sglang", "exllamav3"} if "linear" in block else set()
        refusing = engines_where(refuses, layer_idx, block)
        assert refusing & REAL == linear
        assert ("portable" in refusing) == (why_not_direct("portable", layer_idx, LAYERS, *block) is not None)
        for engine in ENGINES:
            direct = why_not_direct(engine, layer_idx, LAYERS, *block) is None
            assert (rewritten(engine, layer_idx, LAYERS, *block) is not None) == (
                not direct and engine not in refusing
            )


@pytest.mark.parametrize(
    "engine, layer_idx, block, reason, rewrite",
    [
        ("llama.cpp", 1, (4, "none"), "drops the attention output", "FFN of zeros behind the attention"),
        ("llama.cpp", 1, (4, "linear"), "no linear FFN", "linear FFN moved to a linear attention"),
        ("llama.cpp", 0, ("none", 256), "needs attention in layer 0", "linear map of zeros put in front"),
        ("llama.cpp", 3, ("none", "none"), "needs an FFN in the last layer", "dummy layer dropped"),
        ("vllm", 1, ("linear", "linear"), "no linear attention", "linear map written as an FFN with biases"),
        ("sglang", 0, ("none", 256), "needs attention in layer 0", "attention of zeros put in front"),
        ("vllm", 1, (4, "none"), None, None),
        ("sglang", 1, ("linear", 256), "no linear attention", None),
        ("vllm", 1, ("kv2win64", 256), "no sliding windows", None),
        ("tensorrt-llm", 1, (2, "e4"), "no expert counts per layer", None),
    ],
)
def test_what_is_said(engine, layer_idx, block, reason, rewrite):
    said = why_not_direct(engine, layer_idx, LAYERS, *block)
    assert said == reason or said.startswith(reason)
    assert rewritten(engine, layer_idx, LAYERS, *block) == rewrite
    assert refuses(engine, layer_idx, LAYERS, *block) == (None if rewrite else reason)


def test_engines_with_one_number_of_kv_heads():
    assert {name for name in ENGINES if needs_one_kv_count([name])} == {"sglang", "continuous-batching"}
    assert needs_one_kv_count(["vllm", "sglang"])
    assert not needs_one_kv_count(["vllm", "portable"])


def test_whole_models():
    mixed = [Block(4, 256), Block("none", 512), Block(2, 256)]
    assert {name for name in ENGINES if not runs_directly(name, mixed, 4)} == {"sglang", "continuous-batching"}
    assert runs_directly("sglang", [Block(2, 256), Block("none", 256)], 4)
    assert not runs_directly("continuous-batching", [Block(2, 256)], 4)
    assert runs_directly("continuous-batching", [Block(4, 256)], 4)
    without = [Block("linear", 256)] * 2
    assert {name for name in ENGINES if runs_directly(name, without, 4)} == OURS
    assert {name for name in ENGINES if runs_directly(name, [], 4)} == OURS
    # dummies in front make the next layer the first
    assert not runs_directly("vllm", [Block("none", "none"), Block("none", 256), Block(4, 256)], 4)
    assert runs_directly("vllm", [Block("none", "none"), Block(4, 256), Block("none", 256)], 4)


def test_portable_runs_everywhere_else():
    """Blocks that `portable` takes run as they are in every engine, with one KV count in all of them."""
    blocks = [(4, 256), ("none", 256), ("none", 512), (4, 512)]
    for layer_idx in range(LAYERS):
        for block in BLOCKS:
            if refuses("portable", layer_idx, LAYERS, *block) is None:
                assert engines_where(why_not_direct, layer_idx, block) == set()
    for name in ENGINES:
        assert runs_directly(name, [Block(*block) for block in blocks], 4)


def llama(**changes):
    return LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, **changes)


def rope(kind, theta=500_000.0):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, "factor": 8.0}}


LLAMA3 = rope("llama3")["rope_parameters"] | {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "config, refusing, reason",
    [
        (llama(), set(), ""),
        (llama(hidden_act="gelu"), REAL - OURS, "'gelu'"),
        (llama(head_dim=32), {"llama.cpp", "mlx-lm"}, "head_dim 32 .* 16"),
        (llama(attention_bias=True), {"tensorrt-llm", "exllamav2"}, "no attention biases"),
        (llama(mlp_bias=True), {"sglang", "tensorrt-llm", "exllamav2"}, "no FFN biases"),
        (Qwen2Config(hidden_size=64, num_attention_heads=4), {"tensorrt-llm", "exllamav2"}, "biases on q, k and v"),
        (llama(**rope("default")), set(), ""),
        (llama(**rope("linear")), {"llama.cpp", "exllamav2"}, "'linear'"),
        (llama(rope_parameters=LLAMA3), {"exllamav2"}, "takes rope_theta 10000 for 500000"),
        (llama(rope_parameters=LLAMA3 | {"rope_theta": 1e6}), {"exllamav2", "mlx-lm"}, "takes rope_theta"),
        (
            llama(**rope("dynamic")),
            REAL - (OURS - GRAPHS),
            "RoPE scaling 'dynamic'",
        ),
    ],
)
def test_what_holds_for_all_layers(config, refusing, reason):
    found = {name: why for name in REAL if (why := refuses_model(name, config))}
    assert set(found) == refusing
    assert not found or any(re.search(reason, why) for why in found.values()), found


def test_a_top_level_rope_theta_is_found_by_all():
    config = llama(rope_parameters=LLAMA3 | {"rope_theta": 1e6})
    assert not any(refuses_model(name, config, rope_theta_beside_scaling=True) for name in REAL)


def test_portable_is_what_all_engines_compute():
    assert refuses_model("portable", llama()) is None
    for config in (llama(hidden_act="gelu"), llama(head_dim=32), llama(mlp_bias=True), llama(**rope("yarn"))):
        assert refuses_model("portable", config)
    assert refuses_model("portable", Qwen2Config(hidden_size=64, num_attention_heads=4)) == "no biases on q, k and v"


@pytest.mark.parametrize(
    "engines, size, kv_heads, message",
    [
        (["transformers"], 2, 1, "transformers cannot split 1 KV heads; it needs multiples of 2: offer"),
        (["transformers"], 4, 6, "cannot split 6 KV heads"),
        (["vllm"], 4, 3, "vllm cannot split 3 KV heads; it needs multiples of 4, or divisors of 4"),
        (["vllm", "transformers"], 8, 2, "transformers cannot"),
        (["llama.cpp"], 2, 2, "llama.cpp is not known to split"),
    ],
)
def test_tensor_parallelism(engines, size, kv_heads, message):
    with pytest.raises(RecipeError, match=message):
        check_tensor_parallel(size, kv_heads, engines)
    check_tensor_parallel(1, kv_heads, ENGINES)
    check_tensor_parallel(2, 4)
    check_tensor_parallel(8, 2, ["vllm", "sglang", "tensorrt-llm"])


@pytest.mark.parametrize("wrong, nearest", [("vlm", "vllm"), ("llamacpp", "llama.cpp"), ("exllama3", "exllamav3")])
def test_unknown_engines_name_the_nearest(wrong, nearest):
    with pytest.raises(
        RecipeError, match=rf"unknown engine '{wrong}'; did you mean '{nearest}'\?.*known: transformers"
    ):
        check_engines(["vllm", wrong])
    check_engines(list(ENGINES))


def test_formats():
    check_format(ENGINES, "decilm")
    check_format(ENGINES, "plain")
    check_format(["transformers", "transformers-serve", "continuous-batching"], "per_layer")
    with pytest.raises(
        RecipeError, match="deploy: mlx-lm opens decilm and plain folders, not per_layer; .*transformers"
    ):
        check_format(["transformers", "mlx-lm"], "per_layer")
    check_format(["vllm"], "per_layer", Qwen3Config())
    check_format(["vllm"], "decilm", LlamaConfig())
    with pytest.raises(RecipeError, match="vllm cannot run children of this parent: drops logits_scaling 3"):
        check_format(["vllm"], "per_layer", GraniteConfig(logits_scaling=3.0))
    with pytest.raises(RecipeError, match="RoPE scaling 'dynamic' depends on the longest sequence"):
        check_format(["vllm"], "per_layer", Qwen3Config(**rope("dynamic")))
    with pytest.raises(RecipeError, match="family 'starcoder2' was not measured there"):
        check_format(["vllm"], "per_layer", Starcoder2Config())


def test_the_table_is_light():
    code = "import sys, hf_puzzle.engines; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
