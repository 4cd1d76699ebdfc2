"""Blocks on disk: what was put comes back, by sub-block or by pair."""

import pytest
import torch

from hf_puzzle.artifacts import ArtifactError
from hf_puzzle.blocks import Block
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.surgery import layers_of, swapped
from hf_puzzle.remote.modeling_puzzle import LinearMap, Nothing


PARENT = Block(4, 768)


@pytest.fixture
def stored(llama, tmp_path):
    """A library with two sub-blocks of layer 1."""
    library = BlockLibrary(tmp_path / "library")
    layer = layers_of(llama)[1]
    library.put("layer_01/attention.kv2", initial_weights(layer, "attention", 2, llama.config), loss_after=0.5)
    library.put("layer_01/ffn.linear", {"linear_mlp.weight": torch.eye(64)}, loss_after=0.25)
    return library


def test_names():
    assert BlockLibrary.name(7, "ffn", 512) == "layer_07/ffn.w512"
    assert BlockLibrary.name(7, "attention", "linear") == "layer_07/attention.linear"
    assert BlockLibrary.name(12, "block", Block(2, "none")) == "layer_12/block.kv2+none"


def test_what_was_put_is_there_for_the_next_process(stored, llama):
    again = BlockLibrary(stored.folder)
    assert again.index == stored.index
    assert again.index["layer_01/attention.kv2"]["loss_after"] == 0.5
    expected = initial_weights(layers_of(llama)[1], "attention", 2, llama.config)
    weights = again.weights("layer_01/attention.kv2")
    assert set(weights) == set(expected)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights.items())


def test_a_lost_index_is_made_of_the_files(stored):
    before = dict(stored.index)
    index = stored.folder / "index.jsonl"
    index.write_text(index.read_text()[:-20])
    assert BlockLibrary(stored.folder).index == before
    index.unlink()
    assert BlockLibrary(stored.folder).index == before
    with open(stored.folder / "layer_01" / "ffn.linear.safetensors", "r+b") as file:
        file.truncate(200)
    assert list(BlockLibrary(stored.folder).index) == ["layer_01/attention.kv2"]


def test_modules_of_a_block(stored, llama):
    layer = layers_of(llama)[1]
    attention, ffn = stored.modules(llama, 1, Block(2, "linear"), PARENT)
    assert type(attention) is type(layer.self_attn)
    assert attention.k_proj.weight.shape == (32, 64)
    assert isinstance(ffn, LinearMap)
    assert torch.equal(ffn.linear_mlp.weight, torch.eye(64))
    assert not any(p.requires_grad for p in (*attention.parameters(), *ffn.parameters()))
    own = stored.modules(llama, 1, PARENT, PARENT)
    assert own == (layer.self_attn, layer.mlp)  # the parent's own, not copies
    assert [type(m) for m in stored.modules(llama, 1, Block("none", "none"), PARENT)] == [Nothing, Nothing]


def test_modules_take_the_parents_dtype(stored, make_parent):
    parent = make_parent().to(torch.bfloat16)
    for module in stored.modules(parent, 1, Block(2, "linear"), PARENT):
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_a_pair_is_preferred_to_its_sub_blocks(stored, llama):
    block = Block(2, "linear")
    weights = {f"attention.{k}": 2 * v for k, v in stored.weights("layer_01/attention.kv2").items()}
    stored.put("layer_01/block.kv2+linear", weights | {"ffn.linear_mlp.weight": 3 * torch.eye(64)})
    attention, ffn = stored.modules(llama, 1, block, PARENT)
    assert torch.equal(attention.k_proj.weight, 2 * stored.weights("layer_01/attention.kv2")["k_proj.weight"])
    assert torch.equal(ffn.linear_mlp.weight, 3 * torch.eye(64))
    # other blocks of the same sub-blocks are not touched by it
    assert torch.equal(stored.modules(llama, 1, Block(4, "linear"), PARENT)[1].linear_mlp.weight, torch.eye(64))
    stored.drop("layer_01/block.kv2+linear", "diverged")
    assert torch.equal(stored.modules(llama, 1, block, PARENT)[1].linear_mlp.weight, torch.eye(64))
    assert not stored.is_dropped(1, block)


def test_dropped_sub_blocks_drop_their_blocks(stored):
    stored.drop("layer_02/ffn.w256", "loss became nan")
    for library in (stored, BlockLibrary(stored.folder)):
        assert library.is_dropped(2, Block(2, 256))
        assert library.is_dropped(2, Block("none", 256))
        assert not library.is_dropped(1, Block(2, 256))
        assert not library.is_dropped(2, Block(2, 512))


def test_missing_blocks_are_named(stored, llama):
    with pytest.raises(ArtifactError, match=r"layer_02/attention\.kv2\.safetensors is missing"):
        stored.modules(llama, 2, Block(2, 768), PARENT)


@torch.no_grad()
def test_swaps_of_the_parent_change_nothing(library, llama, calibration):
    assert Network(llama.config, [PARENT] * 4, library).swaps(llama) == {}
    blocks = [PARENT, Block(2, 768), PARENT, Block(4, "linear")]
    swaps = Network(llama.config, blocks, library).swaps(llama)
    assert set(swaps) == {1, 3}
    before = llama(calibration).logits
    with swapped(llama, swaps):
        assert not torch.equal(llama(calibration).logits, before)
    assert torch.equal(llama(calibration).logits, before)
