"""Cache types: what is left of keys and values is what llama.cpp has left of them."""

import contextlib

import pytest
import torch
from families import family_model

from hf_puzzle.conversions import probe_logits
from hf_puzzle.engines.cache_types import CACHE_TYPES, cache_bytes, cache_type, kept_states, rounded, rounded_cache
from hf_puzzle.recipe import RecipeError
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


def test_bits_name_a_type():
    assert [cache_type(bits) for bits in (16, 8, 4, "q8_0", "q4_0")] == [None, "q8_0", "q4_0", "q8_0", "q4_0"]
    for wrong in (2, "q5_1"):
        with pytest.raises(RecipeError, match=f"kv_cache.bits: {wrong!r} is none of 16, 8, 4, q8_0, q4_0"):
            cache_type(wrong)


def test_bytes_are_those_of_groups():
    assert [cache_bytes(64, name) for name in CACHE_TYPES] == [2 * 34, 2 * 18]


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_groups_are_rounded_as_matrices_of_gguf_files_are(name):
    pytest.importorskip("gguf")
    from hf_puzzle.engines.weight_types import rounded_rows

    numbers = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    numbers[0] = 0
    assert torch.equal(rounded(numbers, name), rounded_rows(numbers, name))


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("is_key", [True, False])
def test_turns_are_taken_back(head_dim, is_key):
    states = torch.randn(2, 3, 5, head_dim, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    kept = kept_states(states, "q8_0", is_key)
    assert kept.dtype == states.dtype
    assert (kept - states).float().norm() < 0.02 * states.float().norm()


def test_the_context_ends_with_its_rounding():
    model = family_model("llama", head_dim=32)
    own = probe_logits(model)
    with rounded_cache(None):
        assert torch.equal(probe_logits(model), own)
    found = []
    for name in CACHE_TYPES:
        with rounded_cache(name):
            found.append((probe_logits(model) - own).norm())
    assert 0 < found[0] < found[1]
    with contextlib.suppress(KeyError), rounded_cache("q4_0"):
        raise KeyError
    assert torch.equal(probe_logits(model), own)


@torch.no_grad()
@pytest.mark.parametrize("name", CACHE_TYPES)
@pytest.mark.parametrize("hidden, heads", [(64, 2), (128, 2), (128, 1)])
def test_llama_cpp_has_the_same_logits(tmp_path, name, hidden, heads):
    """Without turns (heads of 32), with one of keys and values (64), and with another for either (128)."""
    for package in ("gguf", "llama_cpp"):
        pytest.importorskip(package)
    from hf_puzzle.engines.llama_cpp import from_model

    torch.manual_seed(0)
    blocks = [block_config(heads, hidden, *block) for block in ((heads, 256), (1, 512), (heads, 256))]
    config = DeciLMConfig(
        vocab_size=97, hidden_size=hidden, num_attention_heads=heads, max_position_embeddings=128, initializer_range=0.1,
        block_configs=blocks, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = DeciLMForCausalLM(config).eval()
    tokens = torch.randint(0, 97, (1, 60), generator=torch.Generator().manual_seed(1))
    own = model(tokens).logits[0]
    with rounded_cache(name):
        ours = model(tokens).logits[0]
    with from_model(model, tmp_path, 64, "f32", kv_dtype=name) as engine:
        theirs = torch.from_numpy(engine.logits(tokens[0].tolist()))
    assert (ours - theirs).norm() < 0.2 * (own - theirs).norm()
