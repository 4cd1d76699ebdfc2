"""Every rewrite computes what the child computed, and the engine's row says that it runs the result."""

import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM, Qwen2ForCausalLM
from transformers.initialization import no_init_weights

from hf_puzzle.engines import ENGINES, refuses, refuses_model, runs_directly, splits_heads
from hf_puzzle.engines.check import FolderError, tensor_shapes
from hf_puzzle.engines.rewrites import CannotRun, as_plain, rewrite
from hf_puzzle.formats import describe
from hf_puzzle.hub import read_model_folder
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))
from published_layouts import LAYOUTS, config_json


VOCAB, HIDDEN, HEADS = 64, 64, 4
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def child(blocks, seed=0, **overrides):
    """A tiny DeciLM child; norms and biases are not at their trivial values."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "initializer_range": 0.1}
    sizes |= {"max_position_embeddings": 64} | overrides
    entries = [block_config(HEADS, sizes["hidden_size"], *block) for block in blocks]
    model = DeciLMForCausalLM(DeciLMConfig(**sizes, block_configs=entries)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            parameter.data.normal_(float(name.endswith("norm.weight")), 0.2)
    return model


IDS = torch.randint(0, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits_of(config, state, model_class=DeciLMForCausalLM):
    """Logits of a model made of exactly these tensors."""
    with no_init_weights():
        model = model_class(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    model.tie_weights()
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    return model(IDS).logits


@torch.no_grad()
def assert_same_function(model, done, tolerance=0.0):
    config, state = done[:2]
    torch.testing.assert_close(logits_of(config, state), model(IDS).logits, rtol=0, atol=tolerance)


variants = st.tuples(st.sampled_from([4, 2, 1, "linear", "none"]), st.sampled_from([256, 512, "linear", "none"]))
extras = st.sampled_from(
    [{}, {}, {"tie_word_embeddings": True}, {"qkv_bias": True}, {"attention_bias": True, "mlp_bias": True}]
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(variants, max_size=5), extras)
def test_any_layout_runs_in_any_engine_or_is_refused(blocks, extra):
    model = child(blocks, **extra)
    state, before = model.state_dict(), model(IDS).logits
    kept = [block for block in blocks if block != ("none", "none")]
    for engine in ENGINES:
        refused = refuses_model(engine, model.config) or (engine == "portable" and not kept)
        if refused or any(refuses(engine, i, len(kept), *block) for i, block in enumerate(kept)):
            with pytest.raises(CannotRun):
                rewrite(model.config, state, engine)
            continue
        done = rewrite(model.config, state, engine)
        assert runs_directly(engine, describe(done.config), HEADS)
        assert {name: tuple(t.shape) for name, t in done.state.items()} == tensor_shapes(done.config)
        assert bool(done.changes) or (
            done.config.to_dict() == model.config.to_dict() and set(done.state) == set(state)
        )
        assert torch.equal(logits_of(done.config, done.state), before), engine


FULL, BARE = (2, 256), (2, "none")


@pytest.mark.parametrize(
    "engine, blocks, after, changes",
    [
        (
            "transformers",
            [FULL, ("none", "none"), ("linear", "linear")],
            ["kv2+w256", "linear+linear"],
            ["layer 1: dr"],
        ),
        ("tensorrt-llm", [("none", 512), BARE, ("linear", "linear")], ["none+w512", "kv2+none", "linear+linear"], []),
        ("tensorrt-llm", [("none", 256)], ["kv1+w256"], ["attention of 1 KV head, all zeros, put in front"]),
        ("llama.cpp", [FULL, BARE, ("none", 512)], ["kv2+w256", "kv2+w512"], ["layer 2: joins the layer before"]),
        ("llama.cpp", [FULL, BARE], ["kv2+w256", "kv2+w256"], ["layer 1: an FFN of zeros, 256 wide"]),
        (
            "llama.cpp",
            [FULL, (4, "linear"), ("none", 512)],
            ["kv2+w256", "kv4+w256", "linear+w512"],
            ["layer 1: linear FFN moved", "layer 2: joins", "layer 1: an FFN of zeros"],
        ),
        ("llama.cpp", [("none", 512), FULL], ["linear+w512", "kv2+w256"], ["a linear map, all zeros, put in front"]),
        ("llama.cpp", [("linear", 512), FULL], ["linear+w512", "kv2+w256"], []),
        ("llama.cpp", [("linear", 512)], ["kv1+w256", "linear+w512"], ["attention of 1 KV head", "an FFN of zeros"]),
        ("llama.cpp", [FULL, ("none", "none")], ["kv2+w256"], ["layer 1: dropped"]),
        ("exllamav2", [("linear", 256), FULL], ["kv1+w256", "linear+w256", "kv2+w256"], ["attention of 1", "an FFN"]),
        ("vllm", [FULL, BARE, ("none", 512)], ["kv2+w256", "kv2+none", "none+w512"], []),
        ("vllm", [("none", 512), FULL], ["kv1+w512", "kv2+w256"], ["attention of 1 KV head"]),
        (
            "vllm",
            [FULL, ("linear", 256), (4, "linear")],
            ["kv2+w256", "none+w256", "none+w256", "kv4+w256"],
            ["layers 1, 2: linear map written as an FFN with biases", "all other FFNs get biases of zeros"],
        ),
        (
            "mlx-lm",
            [("linear", "linear")],
            ["kv1+w256", "none+w256"],
            ["layer 0: linear map", "all", "attention of 1"],
        ),
        ("sglang", [(2, 256), (1, 256)], ["kv2+w256"] * 2, ["layer 1: 1 KV heads repeated up to 2"]),
        ("sglang", [("none", 512), (4, 256)], ["kv4+w512", "kv4+w256"], ["attention of 1", "1 KV heads repeated"]),
        ("exllamav3", [("none", 512), BARE], ["none+w512", "kv2+none"], []),
        ("continuous-batching", [FULL, ("linear", 256)], ["kv4+w256", "linear+w256"], ["layer 0: 2 KV heads rep"]),
        ("vllm", [("none", "none")] * 2, ["kv1+none"], ["layers 0, 1: dropped", "attention of 1 KV head"]),
        ("llama.cpp", [("none", "none")], ["kv1+w256"], ["layer 0: dropped", "attention of 1", "an FFN of zeros"]),
        ("transformers", [("none", "none")], [], ["layer 0: dropped"]),
    ],
)
def test_layers_after(engine, blocks, after, changes):
    model = child(blocks)
    done = rewrite(model.config, model.state_dict(), engine)
    assert [block.id for block in describe(done.config)] == after
    assert done.config.num_hidden_layers == len(after)
    assert len(done.changes) == len(changes)
    assert all(said.startswith(start) for said, start in zip(done.changes, changes, strict=True)), done.changes
    assert_same_function(model, done)


def test_the_input_is_not_touched():
    model = child([("none", 256), FULL, ("linear", "linear")], qkv_bias=True)
    config, state = model.config.to_dict(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for engine in ("mlx-lm", "llama.cpp", "continuous-batching"):
        rewrite(model.config, model.state_dict(), engine)
    assert model.config.to_dict() == config
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("hidden", [64, 256, 320])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_linear_map_as_an_ffn_in_any_width_and_dtype(hidden, dtype):
    model = child([FULL, ("linear", "linear")], hidden_size=hidden, mlp_bias=True).to(dtype)
    done = rewrite(model.config, model.state_dict(), "vllm")
    written = DeciLMForCausalLM(done.config).to(dtype).eval()
    written.load_state_dict(done.state)
    assert {tensor.dtype for tensor in done.state.values()} == {dtype}
    assert torch.equal(written(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("engine", ["mlx-lm", "sglang"])
def test_biases_on_q_k_v_become_attention_biases(engine):
    model = child([FULL, (2, 512)], qkv_bias=True)
    done = rewrite(model.config, model.state_dict(), engine)
    saved = done.config.to_dict()
    assert saved["attention_bias"] is True
    assert "qkv_bias" not in saved
    assert not done.state["model.layers.1.self_attn.o_proj.bias"].any()
    assert_same_function(model, done)
    assert rewrite(model.config, model.state_dict(), "vllm").config.qkv_bias


@pytest.mark.parametrize(
    "engine, size, counts", [("vllm", 2, [4, 2, 1]), ("vllm", 4, [4, 2, 1]), ("transformers", 2, [4, 2, 2])]
)
def test_kv_heads_for_tensor_parallelism(engine, size, counts):
    model = child([(4, 256), (2, 256), (1, 256)])
    done = rewrite(model.config, model.state_dict(), engine, tensor_parallel=size)
    assert [block.attention for block in describe(done.config)] == counts
    assert all(splits_heads(engine, size, count) for count in counts)
    assert_same_function(model, done)
    with pytest.raises(CannotRun, match=f"{engine} cannot split 4 heads over 3 devices: use a divisor of 4"):
        rewrite(model.config, model.state_dict(), engine, tensor_parallel=3)
    with pytest.raises(CannotRun, match=r"llama\.cpp is not known to split"):
        rewrite(model.config, model.state_dict(), "llama.cpp", tensor_parallel=2)


@pytest.mark.parametrize(
    "engine, blocks, overrides, message",
    [
        ("sglang", [FULL, ("linear", 256)], {}, r"sglang cannot run layer 1 \(linear\+w256\): no linear attention; "),
        (
            "exllamav3",
            [FULL, ("none", "none"), (2, "linear")],
            {},
            r"exllamav3 cannot run layer 2 \(kv2\+linear\): no",
        ),
        ("portable", [FULL, BARE], {}, r"layer 1 \(kv2\+none\): drops the attention.*in the recipe's `deploy`"),
        ("portable", [("none", "none")], {}, "portable cannot run this child: no layer has attention"),
        ("llama.cpp", [FULL], {"head_dim": 32}, "head_dim 32 must be .* 16; transformers, vllm.* can"),
        ("mlx-lm", [FULL], {"head_dim": 32}, "head_dim 32"),
        ("vllm", [FULL], {"hidden_act": "gelu"}, "hidden_act 'gelu' is not 'silu'; transformers"),
        ("llama.cpp", [FULL], {"rope_parameters": LLAMA3 | {"rope_type": "linear"}}, "RoPE scaling 'linear'"),
        ("mlx-lm", [FULL], {"rope_parameters": LLAMA3 | {"rope_theta": 1e4}}, "takes rope_theta 500000 for 10000"),
        ("tensorrt-llm", [FULL], {"qkv_bias": True}, "tensorrt-llm cannot run this child: no biases on q, k and v"),
        ("tensorrt-llm", [FULL], {"attention_bias": True}, "no attention biases"),
        ("sglang", [FULL], {"mlp_bias": True}, "no FFN biases; .*mlx-lm"),
    ],
)
def test_refusals(engine, blocks, overrides, message):
    model = child(blocks, **overrides)
    with pytest.raises(CannotRun, match=message):
        rewrite(model.config, model.state_dict(), engine)


def test_unknown_engines_and_wrong_tensors():
    model = child([FULL, FULL])
    with pytest.raises(ValueError, match="did you mean 'vllm'"):
        rewrite(model.config, model.state_dict(), "vlm")
    state = model.state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    for wrong, message in (
        ({n: t for n, t in state.items() if n != name}, rf"layer 1: tensor {re.escape(name)} .* is missing"),
        (state | {name: state[name][:7]}, r"layer 1: .* has shape \[7, 64\], the config says \[256, 64\]"),
        (state | {"model.layers.1.mlp.linear_mlp.weight": state[name]}, "layer 1: .*linear_mlp.weight has no place"),
    ):
        with pytest.raises(FolderError, match=message):
            rewrite(model.config, wrong, "vllm")


def test_rotary_frequencies_of_old_checkpoints_are_left_behind():
    model = child([FULL, ("linear", 256)])
    state = model.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    done = rewrite(model.config, state, "llama.cpp")
    assert not any("inv_freq" in name for name in done.state)


def test_drop_dummies():
    model = child([("none", "none"), FULL, ("none", "none"), ("linear", "none")])
    done = rewrite(model.config, model.state_dict(), "transformers")
    assert [block.id for block in describe(done.config)] == ["kv2+w256", "linear+none"]
    assert done.changes == ["layers 0, 2: dropped, for it has neither attention nor FFN"]
    assert_same_function(model, done)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "blocks", [[FULL, ("none", "none"), FULL], [FULL, BARE, ("none", 256)]], ids=["dummy", "split"]
)
@pytest.mark.parametrize(
    "model_class, extra",
    [
        (LlamaForCausalLM, {}),
        (LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3}),
        (LlamaForCausalLM, {"head_dim": 32}),
        (Qwen2ForCausalLM, {"qkv_bias": True}),
    ],
)
@torch.no_grad()
def test_plain_is_the_stock_parent(model_class, extra, blocks, tied, tmp_path):
    model = child(blocks, tie_word_embeddings=tied, eos_token_id=3, **extra)
    config, state = as_plain(model.config, model.state_dict())
    assert (config.num_hidden_layers, config.intermediate_size, config.num_key_value_heads) == (2, 256, 2)
    assert config.architectures == [model_class.__name__]
    assert torch.equal(logits_of(config, state, model_class), model(IDS).logits)
    assert config.eos_token_id == 3
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "block_configs")


@pytest.mark.parametrize(
    "blocks, extra",
    [
        ([FULL, (4, 256)], {}),
        ([FULL, (2, 512)], {}),
        ([FULL, ("linear", 256)], {}),
        ([FULL, ("none", 256)], {}),
        ([BARE, BARE], {}),
        ([("none", "none")], {}),
        ([FULL], {"qkv_bias": True, "mlp_bias": True}),
    ],
)
def test_what_is_not_plain(blocks, extra):
    model = child(blocks, **extra)
    assert as_plain(model.config, model.state_dict()) is None


def test_a_rewritten_folder_is_read_back(tmp_path):
    model = child([("none", 256), (1, "linear"), FULL], tie_word_embeddings=True)
    done = rewrite(model.config, model.state_dict(), "llama.cpp")
    written = DeciLMForCausalLM(done.config)
    written.load_state_dict(done.state)
    written.save_pretrained(tmp_path, max_shard_size="100kB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    config, state = read_model_folder(tmp_path)
    assert describe(config) == describe(done.config)
    assert torch.equal(logits_of(config, state), model(IDS).logits)


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_published_layouts_in_every_engine(name):
    config = DeciLMConfig(**config_json(name, reduced=True))
    torch.manual_seed(0)
    model = DeciLMForCausalLM(config).eval()
    state, before = model.state_dict(), model(IDS).logits
    assert before.isfinite().all()
    layers = {"51B": 80, "49B": 80, "253B": 162 - 81}[name]
    assert rewrite(config, state, "transformers").config.num_hidden_layers == layers
    refused = set()
    for engine in ("vllm", "sglang", "tensorrt-llm", "llama.cpp", "exllamav2"):
        try:
            done = rewrite(config, state, engine)
        except CannotRun:
            refused.add(engine)
            continue
        if engine in ("vllm", "llama.cpp"):
            assert torch.equal(logits_of(done.config, done.state), before)
    # llama3 scaling without a top-level rope_theta is not for exllamav2
    assert refused == {"exllamav2"} | ({"sglang"} if name == "51B" else set())


# -- the engines themselves, where they run here


@pytest.mark.parametrize(
    "engine, blocks",
    [
        ("llama.cpp", [("none", 512), BARE, ("none", "none"), (1, "linear"), ("linear", "linear"), (4, "none")]),
        ("llama.cpp", [("linear", "none"), ("none", "linear")]),
        ("llama.cpp", [("none", "none")]),
        # llama.cpp knows biases in FFNs too, but no first layer without attention, which mlx-lm takes
        ("mlx-lm", [FULL, ("linear", 256), ("none", "linear"), (1, 512)]),
    ],
)
@torch.no_grad()
def test_llama_cpp_computes_the_same(engine, blocks, tmp_path):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from hf_puzzle.engines.gguf import write_model_gguf
    from hf_puzzle.engines.llama_cpp import LlamaCpp

    model = child(blocks, hidden_size=256)
    done = rewrite(model.config, model.state_dict(), engine)
    assert done.changes
    rewritten = DeciLMForCausalLM(done.config)
    rewritten.load_state_dict(done.state)
    with LlamaCpp(write_model_gguf(rewritten, tmp_path / "child.gguf", "f32"), n_ctx=32, kv_dtype="f32") as llama:
        logits = torch.tensor(llama.logits(IDS[0].tolist()))
    torch.testing.assert_close(logits, model(IDS[:1]).logits[0], rtol=0, atol=1e-4)


def test_continuous_batching_generates_the_same():
    model = child([("none", 256), (2, "linear"), (1, 512)], eos_token_id=None, pad_token_id=0)
    done = rewrite(model.config, model.state_dict(), "continuous-batching")
    batched = DeciLMForCausalLM(done.config).eval()
    batched.load_state_dict(done.state)
    settings = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompts = [row[:length].tolist() for row, length in zip(IDS, (5, 9), strict=True)]
    small = ContinuousBatchingConfig(num_blocks=8, page_size=16, max_batch_tokens=32)
    found = batched.generate_batch(prompts, settings, continuous_batching_config=small, progress_bar=False)
    for prompt, output in zip(prompts, found.values(), strict=True):
        ids = torch.tensor([prompt])
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        assert output.generated_tokens == alone[0, len(prompt) :].tolist()
