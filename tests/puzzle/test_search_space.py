"""Blocks per layer, their names, and what leaves the space for an engine's sake."""

import pytest
from transformers import LlamaConfig

from hf_puzzle.blocks import Block, parse_variant, variant_id
from hf_puzzle.engines import ENGINES, refuses
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import RecipeError, SearchSpaceConfig


WORDS = ["linear", "none"]


@pytest.mark.parametrize("attention", [1, 16, "linear", "none"])
@pytest.mark.parametrize("ffn", [256, 14336, "linear", "none"])
def test_ids_are_read_back(attention, ffn):
    block = Block(attention, ffn)
    assert Block.parse(block.id) == block
    assert parse_variant("ffn", variant_id("ffn", ffn)) == ffn


@pytest.mark.parametrize("text", ["", "kv4", "kv4+", "w512+kv4", "kv-4+w512", "kv4+w5.0", "kv4+w512+none", "4+512"])
def test_other_texts_are_no_blocks(text):
    with pytest.raises(ValueError, match="is not a"):
        Block.parse(text)


def test_space_is_the_product_with_the_parent_first(llama, space_config):
    space = build_search_space(llama.config, space_config)
    assert space.parent == Block(4, 768)
    for layer in space.layers:
        assert layer.attention == (4, 2, 1, "linear", "none")
        assert layer.ffn == (768, 512, 256, "linear", "none")
        assert layer.blocks == tuple(Block(a, f) for a in layer.attention for f in layer.ffn)
        assert layer.blocks[0] == space.parent
    assert space.blocks == list(space.layers[0].blocks)
    assert space.variants == {"attention": [4, 2, 1, *WORDS], "ffn": [768, 512, 256, *WORDS]}


def test_shares_are_rounded_to_the_multiple_and_named_once(llama):
    config = SearchSpaceConfig(attention=[4, 2, 2], ffn=[0.9, 0.67, 0.66, 0.01, 512, 1.0, 768])
    layer = build_search_space(llama.config, config).layers[0]
    assert layer.attention == (4, 2)
    assert layer.ffn == (768, 512, 256)  # 0.9 rounds to the parent's own
    assert build_search_space(llama.config, SearchSpaceConfig(attention=[], ffn=[0.9], width_multiple=64)).layers[
        0
    ].ffn == (768, 704)


def test_layers_may_differ(llama):
    config = SearchSpaceConfig(attention=[2], ffn=[256], layers={-1: {"ffn": ["none"]}, 0: {"attention": []}})
    layers = build_search_space(llama.config, config).layers
    assert [layer.attention for layer in layers] == [(4,), (4, 2), (4, 2), (4, 2)]
    assert [layer.ffn for layer in layers] == [(768, 256), (768, 256), (768, 256), (768, "none")]
    space = build_search_space(llama.config, config)
    assert space.variants == {"attention": [4, 2], "ffn": [768, 256, "none"]}


@pytest.mark.parametrize("engine", list(ENGINES))
def test_engines_take_their_blocks_and_no_others(llama, space_config, engine):
    full = build_search_space(llama.config, space_config)
    space = build_search_space(llama.config, space_config, [engine])
    for i, (layer, everything) in enumerate(zip(space.layers, full.layers, strict=True)):
        kept = [b for b in everything.blocks if b == full.parent or refuses(engine, i, 4, *b) is None]
        assert list(layer.blocks) == kept
        assert set(layer.attention) == {b.attention for b in kept}
        assert set(layer.ffn) == {b.ffn for b in kept}
        assert full.parent in layer.blocks


def test_two_engines_leave_what_both_run(llama, space_config):
    spaces = [
        build_search_space(llama.config, space_config, d) for d in (["vllm"], ["llama.cpp"], ["vllm", "llama.cpp"])
    ]
    for one, two, both in zip(*(space.layers for space in spaces), strict=True):
        assert set(both.blocks) == set(one.blocks) & set(two.blocks)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"attention": [3]}, r"search_space\.attention: 3 KV heads do not divide the parent's 4; use \[1, 2, 4\]"),
        ({"attention": [0]}, "0 KV heads do not divide"),
        ({"attention": [8]}, "8 KV heads do not divide"),
        ({"attention": ["nothing"]}, "'nothing' is neither"),
        ({"attention": [True]}, "True is neither"),
        ({"ffn": [300]}, "width 300 is not a multiple of search_space.width_multiple 256"),
        ({"ffn": [1024]}, "1024 is more than the parent's 768 channels"),
        ({"ffn": [0]}, "0 is not positive"),
        ({"ffn": [-0.5]}, "-0.5 is not positive"),
        ({"ffn": ["lin"]}, "'lin' is neither"),
        ({"layers": {4: {}}}, "layer 4 does not exist; the parent has 4 layers"),
        ({"layers": {-5: {}}}, "layer -5 does not exist"),
        ({"layers": {1: {"fnn": []}}}, r"unknown key 'search_space\.layers\.1\.fnn'; did you mean 'ffn'"),
        ({"layers": {1: {"ffn": 256}}}, r"search_space\.layers\.1\.ffn: expected a list, got 256"),
        ({"layers": {1: {"ffn": [300]}}}, r"search_space\.layers\.1\.ffn: width 300"),
    ],
)
def test_what_does_not_fit_is_named(llama, config, message):
    with pytest.raises(RecipeError, match=message):
        build_search_space(llama.config, SearchSpaceConfig(**config))


def test_unknown_engine(llama, space_config):
    with pytest.raises(RecipeError, match="did you mean 'vllm'"):
        build_search_space(llama.config, space_config, ["vlm"])


def test_the_default_is_the_papers_space_for_eight_kv_heads():
    config = LlamaConfig(hidden_size=512, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8)
    space = build_search_space(config, SearchSpaceConfig())
    assert space.layers[0].attention == (8, 4, 2, 1, "linear", "none")
    assert len(space.layers[0].ffn) == 9
    assert len(space.layers[0].blocks) == 54


def test_default_attention_is_every_divisor():
    config = LlamaConfig(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3)
    assert build_search_space(config, SearchSpaceConfig()).layers[0].attention == (3, 1, "linear", "none")
