"""Children in the per-layer format behave as any model of transformers does, in every family, in memory and reopened."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from families import FAMILIES, block_kinds, family_child, family_config, family_model, own_block
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    StaticCache,
)
from transformers.integrations.heterogeneity import AmbiguousGlobalPerLayerAttributeError

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.remote import modeling_puzzle


KINDS = [(family, kind) for family in FAMILIES for kind in block_kinds(family)]
NO_SDPA = ("gemma2", "gpt_oss")
TOKENS = torch.randint(3, 128, (2, 14), generator=torch.Generator().manual_seed(0))
LAYOUTS = ("attention_free", "windowed", "even_free", "odd_free", "even_windowed", "odd_windowed", "window_or_nothing")


def layout(family, name):
    """Blocks that caches and masks could trip over; in some families every other layer has a window of its own."""
    own, kinds = own_block(family), block_kinds(family)
    free, window = kinds["no_attention"], kinds["window"]
    return {
        "attention_free": [free, kinds["linear_attention"], Block("none", "none")],
        "windowed": [window] * 3,
        "even_free": [free, own] * 2,
        "odd_free": [own, free] * 2,
        "even_windowed": [window, own] * 2,
        "odd_windowed": [own, window] * 2,
        "window_or_nothing": [window, free, window],
    }[name]


def everything(family):
    """A layout in which every kind of block occurs; layer 0 has no attention."""
    kinds = block_kinds(family)
    smaller = kinds.get("ffn_width") or kinds["experts"]
    fewer = kinds.get("kv_heads") or own_block(family)
    return [
        kinds["no_attention"],
        Block(kinds["window"].attention, smaller.ffn),
        Block(fewer.attention, "linear"),
        Block("linear", "none"),
    ]


def endless(model):
    """`model`, generating as many tokens as it is asked for."""
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def child(family):
    return endless(family_child(family, everything(family)))


@pytest.fixture(scope="module")
def folder(child, tmp_path_factory):
    return hub.write_model_folder(tmp_path_factory.mktemp("hub") / "child", child)


def greedy(model, tokens, count):
    """`tokens` and the `count` likeliest next ones, by full forwards."""
    for _ in range(count):
        best = model(tokens, use_cache=False).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, best], dim=1)
    return tokens


def cached_logits(model, cache):
    """Logits of TOKENS in chunks, longer and shorter than every window."""
    chunks = TOKENS.split((9, 1, 2, 1, 1), dim=1)
    return torch.cat([model(chunk, past_key_values=cache, use_cache=True).logits for chunk in chunks], dim=1)


# -- in memory


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("family, kind", KINDS)
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(family, kind, position):
    blocks = [own_block(family)] * 3
    blocks[position] = block_kinds(family)[kind]
    model = family_child(family, blocks)
    full = model(TOKENS, use_cache=False).logits
    for cache in (DynamicCache(), DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=16)):
        torch.testing.assert_close(cached_logits(model, cache), full, rtol=0, atol=1e-5)
        assert cache.get_seq_length() == TOKENS.shape[1]


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_generation_is_the_argmax_loop_in_every_layout(family, name):
    model = endless(family_child(family, layout(family, name)))
    assert torch.equal(model.generate(TOKENS, max_new_tokens=4, do_sample=False), greedy(model, TOKENS, 4))
    torch.testing.assert_close(
        cached_logits(model, DynamicCache()), model(TOKENS, use_cache=False).logits, rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_generation_is_the_argmax_loop_with_every_cache(child):
    expected = greedy(child, TOKENS, 6)
    settings = ({}, {"cache_implementation": "static"}, {"past_key_values": DynamicCache()}, {"use_cache": False})
    for kwargs in settings:
        assert torch.equal(child.generate(TOKENS, max_new_tokens=6, num_beams=1, do_sample=False, **kwargs), expected)
    drafted = child.generate(TOKENS[:1], max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(drafted, expected[:1])


@torch.no_grad()
def test_beam_search_with_a_cache_is_beam_search_without(child):
    kwargs = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    assert torch.equal(child.generate(TOKENS, **kwargs), child.generate(TOKENS, use_cache=False, **kwargs))


@pytest.mark.parametrize("name", ["windowed", "even_windowed", "even_free"])
@pytest.mark.parametrize("family", ["llama", "mistral_windowed", "gemma3", "mixtral"])
@torch.no_grad()
def test_a_child_drafts_for_its_parent_and_the_parent_for_it(family, name):
    parent, child = endless(family_model(family)), endless(family_child(family, layout(family, name)))
    for model, assistant in ((parent, child), (child, parent), (child, child)):
        drafted = model.generate(TOKENS[:1], max_new_tokens=6, do_sample=False, assistant_model=assistant)
        assert torch.equal(drafted, greedy(model, TOKENS[:1], 6))


@torch.no_grad()
def test_left_padding_changes_nothing(child):
    short = TOKENS[:1, :10]
    padded = torch.cat([torch.cat([torch.zeros_like(TOKENS[:1, :4]), short], dim=1), TOKENS[1:]])
    mask = torch.ones_like(padded)
    mask[0, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = child(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(logits[:1, 4:], child(short, use_cache=False).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[1:], child(TOKENS[1:], use_cache=False).logits, rtol=0, atol=1e-5)
    generated = child.generate(padded, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert torch.equal(generated[:1, 4:], greedy(child, short, 4))
    assert torch.equal(generated[1:], greedy(child, TOKENS[1:], 4))


@torch.no_grad()
def test_attention_implementations_agree(child, family):
    expected = child(TOKENS, use_cache=False).logits
    if family in NO_SDPA:
        assert child.config._attn_implementation == "eager"
    child.set_attn_implementation("eager")
    eager = child(TOKENS, use_cache=False, output_hidden_states=True)
    cached = cached_logits(child, DynamicCache())
    child.set_attn_implementation("eager" if family in NO_SDPA else "sdpa")
    torch.testing.assert_close(eager.logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(cached, expected, rtol=0, atol=1e-5)
    assert len(eager.hidden_states) == child.config.num_hidden_layers + 1


def test_recomputed_activations_change_no_gradient(child):
    model = copy.deepcopy(child).requires_grad_(True).train()
    gradients = []
    for switch in (model.activation_checkpointing_disable, model.activation_checkpointing_enable):
        switch()
        model.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6)


# -- saved and opened again


def trusted(auto_class, folder, **kwargs):
    """A model of a folder in the code beside it; fails where a tensor of the decoder was made up."""
    model, info = auto_class.from_pretrained(folder, trust_remote_code=True, output_loading_info=True, **kwargs)
    assert {name for name in info["missing_keys"] if not name.startswith("score.")} == set()
    assert not info["mismatched_keys"]
    assert type(model).__module__.startswith("transformers_modules.")
    return model


@torch.no_grad()
def test_a_classifier_and_the_bare_decoder_compute_the_child_s_states(child, folder):
    expected = child.base_model(TOKENS, use_cache=False).last_hidden_state
    # first, as it makes its decoder through AutoModel, which must not ask for trust again
    if "AutoModelForSequenceClassification" in child.config.auto_map:
        classifier = trusted(AutoModelForSequenceClassification, folder, num_labels=3)
        assert torch.equal(classifier.base_model(TOKENS, use_cache=False).last_hidden_state, expected)
        assert classifier(TOKENS).logits.shape == (2, 3)
    assert torch.equal(trusted(AutoModel, folder)(TOKENS, use_cache=False).last_hidden_state, expected)


@torch.no_grad()
def test_a_child_opens_bit_equal_and_in_half_precision(child, folder):
    opened = trusted(AutoModelForCausalLM, folder)
    assert torch.equal(opened(TOKENS).logits, child(TOKENS).logits)
    half = trusted(AutoModelForCausalLM, folder, dtype=torch.bfloat16)
    expected = child.state_dict()
    assert all(torch.equal(tensor, expected[name].bfloat16()) for name, tensor in half.state_dict().items())
    assert half.generate(TOKENS, max_new_tokens=2).shape == (2, 16)


def test_saving_what_was_opened_keeps_the_code_and_adds_nothing(child, folder, tmp_path):
    trusted(AutoModelForCausalLM, folder).save_pretrained(tmp_path)
    saved, before = (json.loads((path / "config.json").read_text()) for path in (tmp_path, folder))
    assert saved == before
    assert "allow_global_per_layer_attribute_access" not in saved
    assert (tmp_path / "modeling_puzzle.py").read_bytes() == (folder / "modeling_puzzle.py").read_bytes()


def test_stock_classes_refuse_the_folder(folder):
    for auto_class in (AutoModelForCausalLM, AutoModel):
        with pytest.raises(AmbiguousGlobalPerLayerAttributeError, match="per-layer attribute"):
            auto_class.from_pretrained(folder, trust_remote_code=False)


@pytest.mark.parametrize("family, kind", KINDS)
def test_stock_classes_refuse_every_kind_of_block(family, kind, tmp_path):
    blocks = [own_block(family), block_kinds(family)[kind]]
    formats.per_layer_config(family_config(family), blocks).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(AmbiguousGlobalPerLayerAttributeError):
        AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    with pytest.raises(AmbiguousGlobalPerLayerAttributeError):
        AutoModel.from_config(config, trust_remote_code=False)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gpt_neox", "mixtral"])
def test_lora_merges_into_a_child_that_opens_again(family, tmp_path):
    from peft import LoraConfig, get_peft_model

    child = family_child(family, everything(family))
    opened = trusted(AutoModelForCausalLM, hub.write_model_folder(tmp_path / "child", child))
    adapted = get_peft_model(opened, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1)
    with torch.no_grad():
        expected = adapted(TOKENS).logits
        assert not torch.allclose(expected, child(TOKENS).logits, atol=1e-3)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(TOKENS).logits, expected, rtol=0, atol=1e-4)
        merged.save_pretrained(tmp_path / "merged")
        assert (tmp_path / "merged" / "modeling_puzzle.py").exists()
        again = trusted(AutoModelForCausalLM, tmp_path / "merged")
        assert torch.equal(again(TOKENS).logits, merged(TOKENS).logits)


# -- the classes


def test_classes_are_made_once_and_only_for_what_transformers_has():
    made = modeling_puzzle.PuzzleLlamaForCausalLM
    assert made is modeling_puzzle.PuzzleLlamaForCausalLM
    assert (made.__module__, made.__qualname__) == (modeling_puzzle.__name__, "PuzzleLlamaForCausalLM")
    for name in ("PuzzleNothingForCausalLM", "LlamaForCausalLM"):
        with pytest.raises(AttributeError, match=name):
            getattr(modeling_puzzle, name)


def test_auto_map_names_the_classes_of_a_family():
    assert modeling_puzzle.auto_map("Gemma3ForCausalLM") == {
        "AutoModel": "modeling_puzzle.PuzzleGemma3TextModel",
        "AutoModelForCausalLM": "modeling_puzzle.PuzzleGemma3ForCausalLM",
        "AutoModelForDecision": "modeling_puzzle.PuzzleGemma3ForCausalLM",
        "AutoModelForSequenceClassification": "modeling_puzzle.PuzzleGemma3TextForSequenceClassification",
    }
    assert "AutoModelForSequenceClassification" not in modeling_puzzle.auto_map("CohereForCausalLM")


def test_a_layer_without_a_known_attention_is_named():
    with pytest.raises(ValueError, match="Linear has no attention: looked for self_attn, attention"):
        modeling_puzzle.place_of(torch.nn.Linear(2, 2), "attention")


@torch.no_grad()
def test_windows_refuse_an_attention_that_takes_no_mask():
    model = family_child("llama", [block_kinds("llama")["window"]])
    with pytest.raises(ValueError, match="attention_window needs attn_implementation 'sdpa' or 'eager'"):
        model.model.layers[0].self_attn(
            hidden_states=torch.zeros(1, 3, 32), attention_mask=torch.ones(1, 3), position_embeddings=None
        )


def test_a_child_made_before_its_stock_class_can_do_what_that_can():
    """transformers looks into the file of the class that is asked first, and remembers the answer."""
    program = """
from hf_puzzle.remote import modeling_puzzle as code
child = code.PuzzleMixtralForCausalLM
assert child._can_set_experts_implementation() and child._can_set_attn_implementation()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
