"""A child takes its cache under every name, swallows none, and notices a version that computes something else with it."""

import copy

import pytest
import torch
import transformers
from families import block_kinds, family_child, own_block
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from hf_puzzle import formats, hub
from hf_puzzle.remote import caches_puzzle
from hf_puzzle.remote.caches_puzzle import CacheError, is_cache, one_cache


TOKENS = torch.randint(3, 128, (2, 14), generator=torch.Generator().manual_seed(0))


def made(fmt, window=2):
    kinds, own = block_kinds("llama", window=window), own_block("llama")
    second = kinds["window"] if fmt == formats.PER_LAYER else kinds["kv_heads"]
    model = family_child("llama", [kinds["no_attention"], second, kinds["linear_ffn"], own], fmt=fmt)
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(params=formats.FORMATS)
def child(request):
    return made(request.param)


@pytest.fixture(params=formats.FORMATS)
def checked(request, monkeypatch):
    """A child that takes the installed transformers for a version that it was not tested with."""
    monkeypatch.setattr(caches_puzzle, "TESTED", ("4.57",))
    return made(request.param)


def uncached(model, tokens, count=5):
    for _ in range(count):
        best = model(tokens, use_cache=False).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, best], dim=1)
    return tokens


def generate(model, **kwargs):
    mask = torch.ones_like(TOKENS)
    return model.generate(TOKENS, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0, **kwargs)


def two_steps(model, name, cache):
    model(TOKENS[:, :9], use_cache=True, **{name: cache})
    return model(TOKENS[:, 9:], use_cache=True, **{name: cache}).logits


# -- names


@pytest.mark.parametrize("name", caches_puzzle.NAMES)
@torch.no_grad()
def test_both_names_are_the_cache_on_every_version(child, name):
    expected = child(TOKENS, use_cache=False).logits[:, 9:]
    for cache in (DynamicCache(), DynamicCache(config=child.config), StaticCache(child.config, max_cache_len=16)):
        torch.testing.assert_close(two_steps(child, name, cache), expected, rtol=0, atol=1e-5)
        assert cache.get_seq_length() == TOKENS.shape[1]
    decoder, cache = child.get_decoder(), DynamicCache()
    decoder(TOKENS[:, :9], use_cache=True, **{name: cache})
    states = decoder(TOKENS[:, 9:], use_cache=True, **{name: cache}).last_hidden_state
    torch.testing.assert_close(child.lm_head(states), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_positional_cache_is_the_cache(child):
    cache = DynamicCache()
    child(TOKENS[:, :9], None, None, cache)
    expected = child(TOKENS, use_cache=False).logits[:, 9:]
    torch.testing.assert_close(child(TOKENS[:, 9:], None, None, cache).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_cache_under_an_unknown_name_is_an_error_that_names_it(child):
    for model in (child, child.get_decoder()):
        with pytest.raises(CacheError, match="state=DynamicCache: a cache under a name that this model does not know"):
            model(TOKENS, state=DynamicCache())


@torch.no_grad()
def test_other_keywords_are_passed_on_as_stock_classes_do(child):
    assert torch.equal(child(TOKENS, colour="blue").logits, child(TOKENS).logits)


@torch.no_grad()
def test_two_caches_and_what_is_none_are_refused(child):
    one = DynamicCache()
    with pytest.raises(CacheError, match="different caches"):
        child(TOKENS, past_key_values=one, cache=DynamicCache())
    assert torch.equal(child(TOKENS, past_key_values=one, cache=one).logits, child(TOKENS).logits)
    with pytest.raises(CacheError, match="is a tuple: expected a Cache"):
        child(TOKENS, past_key_values=((TOKENS, TOKENS),))


@torch.no_grad()
def test_a_mask_over_tokens_whose_cache_is_missing_is_refused(child):
    with pytest.raises(CacheError, match="covers 14 tokens, the call has 1 and no cache"):
        child(TOKENS[:, -1:], attention_mask=torch.ones_like(TOKENS))


@torch.no_grad()
def test_the_cache_of_the_outputs_continues(child):
    outputs = child(TOKENS[:, :9])
    name = caches_puzzle.OUTPUT_NAME
    again = child(TOKENS[:, 9:], **{name: outputs[name]}).logits
    torch.testing.assert_close(again, child(TOKENS, use_cache=False).logits[:, 9:], rtol=0, atol=1e-5)


def test_what_a_cache_is():
    assert is_cache(DynamicCache())
    assert not any(is_cache(value) for value in ({}, None, (), TOKENS))
    assert one_cache({"cache": None}, {"colour": "blue"}) is None


@torch.no_grad()
def test_a_window_of_one_token(tmp_path):
    model = made(formats.PER_LAYER, window=1)
    folder = hub.write_model_folder(tmp_path / "child", model)
    again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    again.generation_config.eos_token_id = None
    expected = uncached(model, TOKENS)
    for kwargs in ({}, {"cache_implementation": "static", "disable_compile": True}, {"prefill_chunk_size": 4}):
        assert torch.equal(generate(again, **kwargs), expected)


# -- the proof


def hooks(model):
    return [hook for hook in model._forward_hooks.values() if isinstance(hook, caches_puzzle._Proof)]


def test_tested_versions_prove_nothing(child):
    assert hooks(child) == []


def test_the_switch(monkeypatch):
    monkeypatch.setenv(caches_puzzle.SWITCH, "1")
    assert caches_puzzle.self_checks()
    monkeypatch.setattr(caches_puzzle, "TESTED", ("4.57",))
    monkeypatch.setenv(caches_puzzle.SWITCH, "0")
    assert not caches_puzzle.self_checks()
    monkeypatch.setenv(caches_puzzle.SWITCH, "")
    assert caches_puzzle.self_checks()
    monkeypatch.setenv(caches_puzzle.SWITCH, "no")
    with pytest.raises(ValueError, match="HF_PUZZLE_SELF_CHECK='no'"):
        caches_puzzle.self_checks()


@pytest.mark.parametrize(
    "version, tested", [("4.57.6", True), ("4.57", True), ("4.5.7", False), ("4.570.1", False), ("6.0", False)]
)
def test_which_versions_are_tested(monkeypatch, version, tested):
    monkeypatch.delenv(caches_puzzle.SWITCH, raising=False)
    monkeypatch.setattr(transformers, "__version__", version)
    assert caches_puzzle.self_checks() is not tested


@torch.no_grad()
def test_an_untested_version_that_is_right_passes_once(checked):
    [proof] = hooks(checked)
    assert torch.equal(generate(checked), uncached(checked, TOKENS))
    assert proof.passed
    assert proof.seen is None


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m(TOKENS[:, -1:], **{caches_puzzle.OUTPUT_NAME: m(TOKENS[:, :-1])[caches_puzzle.OUTPUT_NAME]}),
        lambda m: generate(m, num_beams=3),
        lambda m: generate(m, num_return_sequences=2, num_beams=2),
        lambda m: generate(m, prefill_chunk_size=4),
        lambda m: generate(m, cache_implementation="static", disable_compile=True),
        lambda m: m.generate(inputs_embeds=m.get_input_embeddings()(TOKENS), max_new_tokens=3, pad_token_id=0),
        lambda m: m.generate(TOKENS.repeat(1, 12), max_new_tokens=3, pad_token_id=0),  # too long to be computed twice
        lambda m: m.generate(
            TOKENS, attention_mask=(TOKENS > 40).long().cummax(1).values, max_new_tokens=3, pad_token_id=0
        ),
    ],
)
@torch.no_grad()
def test_every_way_of_stepping_is_proven(checked, call):
    call(checked)
    assert hooks(checked)[0].passed


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate(TOKENS[:1, :6], max_new_tokens=3, do_sample=False, pad_token_id=0),
        lambda model: model.generate(TOKENS.repeat(1, 12), max_new_tokens=3, pad_token_id=0),
    ],
    ids=["whole", "made text"],
)
@torch.no_grad()
def test_a_version_that_forgets_is_noticed_at_the_first_step(checked, monkeypatch, call):
    def forgetful(self, key, value, layer_idx, *args, **kwargs):
        keys, values = update(self, key, value, layer_idx, *args, **kwargs)
        return (keys, values) if keys.shape[-2] == key.shape[-2] else (keys * 0, values * 0)

    update = DynamicCache.update
    monkeypatch.setattr(DynamicCache, "update", forgetful)
    for _ in range(2):  # and again: a model that failed is not taken for a proven one
        with pytest.raises(CacheError, match="other logits than without .*4.57.*HF_PUZZLE_SELF_CHECK=0"):
            call(checked)
    monkeypatch.setattr(DynamicCache, "update", update)
    assert torch.equal(generate(checked), uncached(checked, TOKENS))


@torch.no_grad()
def test_a_copy_proves_itself(checked):
    generate(checked)
    again = copy.deepcopy(checked)
    assert hooks(again)[0] is not hooks(checked)[0]
    assert torch.equal(generate(again), generate(checked))


def test_training_is_left_alone(checked):
    checked.train()
    checked(TOKENS[:, -1:], cache=checked(TOKENS[:, :-1])[caches_puzzle.OUTPUT_NAME])
    assert not hooks(checked)[0].passed
