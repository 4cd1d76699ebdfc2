"""Blocks to configs and back in both formats, and children converted from one to the other without loss."""

import pytest
import torch
from families import FAMILIES, block_kinds, family_child, family_config, family_model, own_head, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, GPT2Config, PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from hf_puzzle import artifacts, formats, hub
from hf_puzzle.blocks import Block, num_experts, windowed
from hf_puzzle.formats import DECILM, PER_LAYER, FormatError, convert, describe, per_layer_config
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config, ffn_width


LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
PARENTS = {
    "llama, tied": ("llama", {}),
    "llama, untied": ("llama", {"tie_word_embeddings": False}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, head_dim 16": ("llama", {"head_dim": 16}),
    "llama, grouped": ("llama", {"num_key_value_heads": 2}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "mistral": ("mistral", {}),
    "mistral, head_dim 16": ("mistral", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen2, qkv bias": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
}
TOKENS = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(0))

words = st.sampled_from(["linear", "none"])
attentions = st.sampled_from([4, 2, 1]) | words
layouts = st.lists(
    st.builds(Block, attentions, st.sampled_from([64, 100, 256, 300, 1]) | words), min_size=1, max_size=4
)
decilm_layouts = st.lists(st.builds(Block, attentions, st.sampled_from([256, 512]) | words), min_size=1, max_size=4)


def bit_equal(first, second):
    return set(first) == set(second) and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@torch.no_grad()
def logits(config, state):
    """In double precision, where a sum of more zeros rounds alike."""
    return formats.build_model(config, state, torch.float64)(TOKENS).logits


# -- conversion


@pytest.mark.parametrize("parent", PARENTS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(blocks=layouts)
def test_a_per_layer_child_becomes_decilm_and_itself_again(parent, blocks):
    family, own = PARENTS[parent]
    child = family_child(family, blocks, **own)
    state = child.state_dict()
    config, padded = convert(child.config, state, DECILM)
    assert [b.attention for b in describe(config)] == [b.attention for b in blocks]
    for block, described in zip(blocks, describe(config), strict=True):
        wanted = -(-block.ffn // 256) * 256 if isinstance(block.ffn, int) else block.ffn
        assert described.ffn == wanted
    torch.testing.assert_close(logits(config, padded), logits(child.config, state), rtol=1e-6, atol=1e-6)

    back, unpadded = convert(config, padded, PER_LAYER)
    assert describe(back) == blocks
    assert bit_equal(unpadded, state)
    assert torch.equal(logits(back, unpadded), logits(child.config, state))

    again, padded_again = convert(back, unpadded, DECILM)
    assert again.to_dict() == config.to_dict()
    assert bit_equal(padded_again, padded)


@pytest.mark.parametrize("parent", PARENTS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(blocks=decilm_layouts, dead=st.integers(0, 511))
def test_a_decilm_child_becomes_per_layer_and_itself_again(parent, blocks, dead):
    family, own = PARENTS[parent]
    child = family_child(family, blocks, fmt=DECILM, **own)
    for layer in child.model.layers:
        if isinstance(gate := getattr(layer.mlp, "gate_proj", None), torch.nn.Linear):
            for linear in (gate, layer.mlp.up_proj):
                linear.weight[max(1, gate.out_features - dead) :] = 0
                if linear.bias is not None:
                    linear.bias[max(1, gate.out_features - dead) :] = 0
            layer.mlp.down_proj.weight[:, max(1, gate.out_features - dead) :] = 0
    state = child.state_dict()
    config, unpadded = convert(child.config, state, PER_LAYER)
    for block, described in zip(blocks, describe(config), strict=True):
        assert described.attention == block.attention
        if isinstance(block.ffn, int):  # only what pads to a multiple of 256 is padding
            assert described.ffn == max(1, block.ffn - min(dead, 255))
    torch.testing.assert_close(logits(config, unpadded), logits(child.config, state), rtol=1e-6, atol=1e-6)

    back, padded = convert(config, unpadded, DECILM)
    assert back.block_configs == child.config.block_configs
    assert back.to_dict() | {"architectures": None} == child.config.to_dict() | {"architectures": None}
    assert bit_equal(padded, state)


def test_a_stock_parent_converts_like_a_child_that_keeps_everything():
    parent = family_model("qwen2")
    config, state = convert(parent.config, parent.state_dict(), DECILM)
    assert describe(config) == [Block(4, 256)] * 4
    back, unpadded = convert(config, state, PER_LAYER)
    assert formats.format_of(back) is None  # nothing differs: no remote code is needed
    assert back.model_type == "qwen2"
    assert bit_equal(unpadded, parent.state_dict())


def test_padding_channels_are_zero_and_last():
    child = family_child("llama", [Block(4, 100)], mlp_bias=True)
    state = child.state_dict()
    _, padded = convert(child.config, state, DECILM)
    for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        weight = padded[f"model.layers.0.mlp.{name}.weight"]
        assert weight.shape[dim] == 256
        assert torch.equal(weight.narrow(dim, 0, 100), state[f"model.layers.0.mlp.{name}.weight"])
        assert not weight.narrow(dim, 100, 156).any()
    assert not padded["model.layers.0.mlp.gate_proj.bias"][100:].any()
    assert torch.equal(padded["model.layers.0.mlp.down_proj.bias"], state["model.layers.0.mlp.down_proj.bias"])


@pytest.mark.parametrize("fmt", [DECILM, PER_LAYER])
def test_converting_to_the_same_format_changes_nothing(fmt):
    child = family_child("llama", [Block(2, 256), Block("none", 256)], fmt=fmt)
    config, state = convert(child.config, child.state_dict(), fmt)
    assert config is child.config
    assert bit_equal(state, child.state_dict())


@pytest.mark.parametrize("width", [1, 255, 256, 257, 14336])
@pytest.mark.parametrize("hidden_size", [32, 96, 4096])
def test_decilm_widths_are_the_next_multiple_and_survive_the_config(width, hidden_size):
    wide = formats.decilm_width(width)
    assert wide % 256 == 0
    assert 0 <= wide - width < 256
    entry = block_config(4, hidden_size, 4, wide)
    assert ffn_width(entry["ffn"]["ffn_mult"], hidden_size) == wide


# -- configs


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_describe_is_the_inverse_of_per_layer_config(family, data, tmp_path_factory):
    kinds = block_kinds(family).values()
    attention = st.sampled_from([block.attention for block in kinds])
    ffn = st.sampled_from([block.ffn for block in kinds])
    blocks = data.draw(st.lists(st.builds(Block, attention, ffn), min_size=1, max_size=6))
    config = per_layer_config(family_config(family), blocks)
    assert describe(config) == blocks
    folder = tmp_path_factory.getbasetemp() / "config"
    config.save_pretrained(folder)
    read = AutoConfig.from_pretrained(folder)
    assert describe(read) == blocks
    assert formats.format_of(read) == formats.format_of(config)
    own = formats.parent_block(family_config(family))
    assert formats.format_of(config) == (None if set(blocks) == {own} else PER_LAYER)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(blocks=decilm_layouts)
def test_describe_is_the_inverse_of_decilm_config(blocks):
    config = formats.decilm_config(family_config("qwen2"), blocks)
    assert describe(config) == blocks
    assert describe(DeciLMConfig.from_dict(config.to_dict())) == blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_making_a_child_s_config_leaves_the_parent_s_alone(family):
    config = family_config(family)
    before = config.to_dict()
    per_layer_config(config, list(block_kinds(family).values()))
    assert config.to_dict() == before


def test_fewer_experts_than_are_chosen_are_all_chosen():
    config = per_layer_config(family_config("mixtral"), [Block(4, "e1"), Block(4, "e3")])
    assert config.per_layer_config[0].num_experts_per_tok == 1
    assert config.per_layer_config[1].num_experts_per_tok == 2
    assert describe(config) == [Block(4, "e1"), Block(4, "e3")]


# -- what cannot be written


@pytest.mark.parametrize(
    "family, blocks, message",
    [
        ("llama", [Block(4, 64), Block(3, 64)], "layer 1, block kv3+w64: 3 KV heads do not divide 4 heads; use one of 1, 2, 4"),
        ("llama", [Block(8, 64)], "layer 0, block kv8+w64: 8 KV heads do not divide 4 heads"),
        ("llama", [Block(0, 64)], "layer 0, block kv0+w64: attention of size 0; use none"),
        ("llama", [Block(4, 0)], "layer 0, block kv4+w0: ffn of size 0; use none"),
        ("llama", [Block(4, "half")], "layer 0, block kv4+half: 'half' is not an ffn variant"),
        ("llama", [Block(4, 64), Block(4, "e2")], "layer 1, block kv4+e2: the parent's FFN is dense; use w<width>, linear or none"),
        ("mixtral", [Block(4, 32)], "layer 0, block kv4+w32: the parent's FFN is a mixture of experts; use e<number>, linear or none"),
        ("gpt_neox", [Block(2, 64)], "layer 0, block kv2+w64: gpt_neox has no grouped KV heads; use kv4, linear or none"),
        (
            "llama",
            [Block(4, 64), Block(windowed(4, 8), 64), Block(windowed(4, 6), 64), Block(windowed(2, 8), 64)],
            "windows of 6 tokens (layer 2) and 8 tokens (layer 1) in one model: masks and caches know one size; choose one",
        ),
    ],
)  # fmt: skip
def test_per_layer_says_what_it_cannot_express(family, blocks, message):
    with pytest.raises(FormatError) as error:
        per_layer_config(family_config(family), blocks)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "block, message",
    [
        (Block(windowed(4, 8), 64), "layer 1, block kv4win8+w64: DeciLM engines ignore windows; use the per_layer format"),
        (Block(3, 64), "layer 1, block kv3+w64: attention=3: KV heads must divide num_attention_heads=4"),
        (Block(4, "e2"), "layer 1, block kv4+e2: ffn='e2': expected a positive integer, 'linear' or 'none'"),
        (Block(4, 0), "layer 1, block kv4+w0: DeciLM cannot express an FFN of width 0"),
    ],
)  # fmt: skip
def test_decilm_says_what_it_cannot_express(block, message):
    with pytest.raises(FormatError) as error:
        formats.decilm_config(family_config("llama"), [Block(4, 64), block])
    assert str(error.value).startswith(message)
    with pytest.raises(FormatError):
        formats.choose_format(family_config("llama"), [block], DECILM)
    assert formats.choose_format(family_config("llama"), [block]) == PER_LAYER


def test_windows_and_other_families_do_not_convert_to_decilm():
    child = family_child("llama", [Block(4, 64), Block(windowed(2, 6), 64)])
    with pytest.raises(
        FormatError, match="layer 1, block kv2win6.w64: DeciLM engines ignore windows; use the per_layer"
    ):
        convert(child.config, child.state_dict(), DECILM)
    child = family_child("granite", [Block(2, 64)])
    with pytest.raises(
        FormatError, match="family 'granite' is none of llama, mistral, qwen2; use the per_layer format"
    ):
        convert(child.config, child.state_dict(), DECILM)


@pytest.mark.parametrize("family", FAMILIES)
def test_decilm_takes_llama_shaped_parents_only(family):
    config = family_config(family)
    block = formats.parent_block(config)
    if family in ("llama", "mistral", "qwen2"):
        assert formats.choose_format(config, [block]) == DECILM
        return
    assert formats.choose_format(config, [block]) == PER_LAYER
    with pytest.raises(FormatError, match="DeciLM cannot express this parent: .*; use the per_layer format"):
        formats.choose_format(config, [block], DECILM)


def test_decilm_needs_silu():
    with pytest.raises(FormatError, match="hidden_act is 'gelu', not 'silu'; use the per_layer format"):
        formats.decilm_config(family_config("llama", hidden_act="gelu"), [])


@pytest.mark.parametrize(
    "call",
    [
        lambda config: formats.choose_format(config, [], "decillm"),
        lambda config: formats.child_config(config, [], "decillm"),
        lambda config: convert(config, {}, "decillm"),
    ],
)
def test_an_unknown_format_is_named_with_the_known_ones(call):
    with pytest.raises(FormatError, match="unknown format 'decillm'; known: decilm, per_layer"):
        call(family_config("llama"))


def test_what_no_stock_family_has_stays_decilm():
    config = formats.decilm_config(family_config("qwen2"), [Block(4, 256)])
    config.mlp_bias = True
    with pytest.raises(FormatError, match="qkv_bias together with mlp_bias: no stock architecture has both"):
        formats.stock_config(config, Block(4, 256))


def test_a_parent_without_a_norm_epsilon_cannot_be_guarded(monkeypatch):
    monkeypatch.setattr(formats.modeling_puzzle, "GUARDS", ("no_such_eps",))
    with pytest.raises(FormatError, match="llama: no norm epsilon in its config to guard the checkpoint with"):
        formats.block_overrides(family_config("llama"), Block(4, "none"))


def test_parents_tell_what_they_have():
    assert formats.parent_block(family_config("llama", num_key_value_heads=2)) == Block(2, 64)
    assert formats.parent_block(family_config("gpt_neox")) == Block(4, 64)
    assert [num_experts(formats.parent_block(family_config(f)).ffn) for f in ("mixtral", "qwen3_moe", "llama")] == [
        4,
        4,
        None,
    ]
    assert not formats.has_kv_heads(GPT2Config())


def test_tensors_that_do_not_fit_a_config_are_named():
    child = family_child("llama", [Block(2, 64), Block(4, "none")])
    state = child.state_dict()
    missing = {name: tensor for name, tensor in state.items() if "layers.1.self_attn.o_proj" not in name}
    with pytest.raises(FormatError, match=r"missing tensors model\.layers\.1\.self_attn\.o_proj\.weight \(1 in all\)"):
        formats.build_model(child.config, missing)
    with pytest.raises(FormatError, match="unexpected tensors extra.weight"):
        formats.build_model(child.config, state | {"extra.weight": torch.zeros(1)})


# -- tied heads


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox", "cohere"])
def test_a_head_of_its_own_makes_the_flag_false(family):
    parent = own_head(family_model(family, tie_word_embeddings=True))
    model = formats.build_model(parent.config, parent.state_dict())
    assert not model.config.tie_word_embeddings
    assert parent.config.tie_word_embeddings  # the caller's is not touched
    assert not formats.model_is_tied(model)
    assert torch.equal(model(TOKENS).logits, parent(TOKENS).logits)


@pytest.mark.parametrize("to", formats.FORMATS)
def test_conversions_keep_a_head_that_the_config_calls_tied(to):
    parent = own_head(family_model("llama", intermediate_size=256))
    config, state = convert(parent.config, parent.state_dict(), to)
    assert not config.tie_word_embeddings
    torch.testing.assert_close(logits(config, state), parent.double()(TOKENS).logits)
    child = own_head(family_child("qwen3", [Block("none", 64), Block(2, 64)], num_hidden_layers=2))
    config, state, _ = formats.simplify(child.config, child.state_dict())
    assert not config.tie_word_embeddings
    torch.testing.assert_close(logits(config, state), child.double()(TOKENS).logits)


def test_equal_copies_of_a_tied_matrix_are_tied():
    parent = family_model("llama")
    state = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    assert "lm_head.weight" in state
    assert formats.model_is_tied(formats.build_model(parent.config, state))
    # and under a config that says "untied", what is one tensor in memory
    parent.config.tie_word_embeddings = False
    assert formats.as_tied(parent.config, parent.state_dict()).tie_word_embeddings
    assert not formats.as_tied(parent.config, state).tie_word_embeddings


def test_an_untied_model_without_a_head_is_refused():
    parent = family_model("llama")
    state = {name: tensor for name, tensor in parent.state_dict().items() if name != "lm_head.weight"}
    parent.config.tie_word_embeddings = False
    with pytest.raises(FormatError, match="false, and there is no lm_head.weight: set it to true"):
        formats.build_model(parent.config, state)


def test_a_vocabulary_of_another_size_than_the_head_is_refused():
    parent = family_model("llama", tie_word_embeddings=False)
    state = parent.state_dict()
    state["lm_head.weight"] = state["lm_head.weight"][:-8]
    with pytest.raises(FormatError, match=r"lm_head.weight has shape \(120, 32\)"):
        formats.build_model(parent.config, state)
    parent.resize_token_embeddings(136)
    model = formats.build_model(parent.config, parent.state_dict())
    assert torch.equal(model(TOKENS).logits, parent(TOKENS).logits)


@pytest.mark.parametrize("tied", [False, True])
def test_the_bias_of_a_head_is_kept(tied, tmp_path):
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    parent = spread(PhiForCausalLM(PhiConfig(**sizes, num_attention_heads=4, tie_word_embeddings=tied)))
    assert parent.lm_head.bias.abs().max() > 0
    config, state = convert(parent.config, parent.state_dict(), PER_LAYER)
    assert torch.equal(formats.build_model(config, state)(TOKENS).logits, parent(TOKENS).logits)
    hub.write_model_folder(tmp_path / "copy", parent)
    config, state = hub.read_model_folder(tmp_path / "copy")
    assert ("lm_head.weight" in state, "lm_head.bias" in state) == (not tied, True)


def test_a_tokenizer_without_a_class_has_a_name_that_transformers_4_knows(tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")))
    folder = hub.write_model_folder(tmp_path / "child", family_model("llama"), tokenizer)
    config = artifacts.read_json(folder / "tokenizer_config.json")
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_input_names"] == list(tokenizer.model_input_names)
    opened = AutoTokenizer.from_pretrained(folder)
    assert opened.get_vocab() == tokenizer.get_vocab()
    assert list(opened("a b")) == list(tokenizer("a b"))
