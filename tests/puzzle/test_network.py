"""A child is its blocks: logits of the parent with the same blocks swapped in, before and after saving."""

import json
import weakref

import pytest
import torch
from families import own_head
from safetensors.torch import load_file
from transformers import AutoConfig

from hf_puzzle import hub
from hf_puzzle.blocks import Block
from hf_puzzle.conversions import NotTheSame
from hf_puzzle.formats import DECILM, PER_LAYER, FormatError, child_config, decilm_config
from hf_puzzle.puzzle.block_costs import non_block_parameters, num_parameters
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.loading import Shards, with_true_tie
from hf_puzzle.puzzle.network import Network, meta_model
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.surgery import KINDS
from hf_puzzle.recipe import LibraryConfig, SearchSpaceConfig
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


OWN = Block(4, 768)
MIXED = [Block("none", 256), Block(2, "linear"), Block("linear", "none"), Block(1, 768)]


@pytest.fixture(
    scope="module",
    params=[
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 24}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": False}),
    ],
    ids=str,
)
def parent(request, make_parent):
    family, changes = request.param
    return make_parent(family, **changes)


@pytest.fixture(scope="module")
def untrained(parent, tokens, calibration, sequence_length, tmp_path_factory):
    """The library of a parent without any training."""
    space = build_search_space(
        parent.config, SearchSpaceConfig(attention=[2, 1, "linear", "none"], ffn=[256, "linear", "none"])
    )
    config = LibraryConfig(num_tokens=0, ridge_tokens=128, eval_tokens=32)
    library = BlockLibrary(tmp_path_factory.mktemp("untrained"))
    return build_library(
        parent, space, channel_importance(parent, calibration, 8), tokens, library, config, sequence_length
    )


@pytest.fixture(scope="module")
def untrained_llama(llama, tmp_path_factory):
    """Blocks that were cut and not trained, of the plain parent."""
    library = BlockLibrary(tmp_path_factory.mktemp("untrained_llama"))
    for layer_idx, block in enumerate(MIXED):
        for kind, variant in zip(KINDS, block, strict=True):
            if variant not in ("none", getattr(OWN, kind)):
                channels = torch.arange(768)
                weights = initial_weights(llama.model.layers[layer_idx], kind, variant, llama.config, channels)
                library.put(BlockLibrary.name(layer_idx, kind, variant), weights)
    return library


@torch.no_grad()
def test_a_child_of_the_parents_blocks_is_the_parent(parent, untrained, calibration):
    child = Network(parent.config, [OWN] * 4, untrained).assembled(parent)
    assert isinstance(child, DeciLMForCausalLM)
    torch.testing.assert_close(child(calibration).logits, parent(calibration).logits, rtol=0, atol=1e-5)
    assert child.num_parameters() == parent.num_parameters()
    assert child.dtype == parent.dtype
    generated = [m.generate(calibration[:2], max_new_tokens=4, do_sample=False) for m in (child, parent)]
    assert torch.equal(*generated)


@torch.no_grad()
def test_a_mixed_child_is_the_parent_with_swapped_blocks(parent, untrained, calibration):
    child = Network(parent.config, MIXED, untrained).assembled(parent)
    with Network(parent.config, MIXED, untrained).inside(parent):
        expected = parent(calibration, use_cache=False).logits
    torch.testing.assert_close(child(calibration).logits, expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_a_saved_child_is_the_same_child(parent, untrained, calibration, tmp_path):
    child = Network(parent.config, MIXED, untrained).assembled(parent)
    folder = hub.write_model_folder(tmp_path / "child", child, provenance={"made": "by a test"})
    again = DeciLMForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(again(calibration).logits, child(calibration).logits)
    assert {p.name for p in folder.iterdir()} >= {
        "config.json", "model.safetensors", "configuration_decilm.py", "modeling_decilm.py", "caches_puzzle.py", "puzzle.json"
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [folder]  # nothing half-written stays behind
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_decilm.DeciLMForCausalLM"
    assert "made" not in config


def test_config_values_are_the_parents(parent):
    config = decilm_config(parent.config, MIXED)
    for name in (
        "vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings", "initializer_range", "rms_norm_eps",
        "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "num_hidden_layers",
    ):  # fmt: skip
        assert getattr(config, name) == getattr(parent.config, name), name
    assert config.rope_theta == parent.config.rope_parameters["rope_theta"]
    assert dict(config.rope_parameters) == dict(parent.config.rope_parameters)
    assert getattr(config, "qkv_bias", False) == (parent.config.model_type == "qwen2")


def test_a_child_does_not_share_the_parents_memory(parent, untrained):
    child = Network(parent.config, MIXED, untrained).assembled(parent)
    theirs = {p.data_ptr() for p in parent.parameters()}
    assert not theirs & {p.data_ptr() for p in child.parameters()}
    tied = child.get_input_embeddings().weight.data_ptr() == child.get_output_embeddings().weight.data_ptr()
    assert tied == parent.config.tie_word_embeddings


@torch.no_grad()
def test_a_half_precision_parent_gives_a_half_precision_child(make_parent, library, calibration):
    parent = make_parent()
    for parameter in parent.parameters():  # as from_pretrained does: the rotary frequencies stay float32
        parameter.data = parameter.data.to(torch.bfloat16)
    child = Network(parent.config, [OWN, Block(2, 512), OWN, OWN], library).assembled(parent)
    assert {p.dtype for p in child.parameters()} == {torch.bfloat16}
    same = Network(parent.config, [OWN] * 4, library).assembled(parent)
    assert torch.equal(same(calibration).logits, parent(calibration).logits)


def test_pairs_of_the_library_are_used(llama, library, tmp_path):
    paired = BlockLibrary(tmp_path)
    weights = {f"attention.{k}": v for k, v in library.weights("layer_01/attention.kv2").items()}
    weights |= {f"ffn.{k}": 2 * v for k, v in library.weights("layer_01/ffn.w256").items()}
    paired.put("layer_01/block.kv2+w256", weights)
    child = Network(llama.config, [OWN, Block(2, 256), OWN, OWN], paired).assembled(llama)
    assert torch.equal(child.model.layers[1].mlp.up_proj.weight, weights["ffn.up_proj.weight"])


def test_what_the_format_cannot_express_is_named(make_parent):
    config = make_parent().config
    with pytest.raises(ValueError, match=r"layer 2, block kv3\+w768: .*must divide"):
        decilm_config(config, [OWN, OWN, Block(3, 768), OWN])


def test_a_random_child_has_the_shapes(llama):
    child = Network(llama.config, MIXED).random(torch.bfloat16)
    assert {p.dtype for p in child.parameters()} == {torch.bfloat16}
    assert [layer.self_attn is None for layer in child.model.layers] == [True, False, False, False]
    assert [layer.mlp is None for layer in child.model.layers] == [False, False, True, False]
    assert not child.training


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"mlp_bias": True}], ids=str)
def test_widths_that_decilm_lacks_are_padded_exactly(
    make_parent, tokens, calibration, sequence_length, tmp_path, changes
):
    parent = make_parent("llama", intermediate_size=300, **changes)
    own = Block(4, 300)
    space = build_search_space(parent.config, SearchSpaceConfig(attention=[], ffn=[100], width_multiple=4))
    config = LibraryConfig(num_tokens=0, ridge_tokens=128, eval_tokens=32)
    library = BlockLibrary(tmp_path)
    build_library(parent, space, channel_importance(parent, calibration, 8), tokens, library, config, sequence_length)
    blocks = [own, Block(4, 100), own, own]
    child = Network(parent.config, blocks, library).assembled(parent)
    with Network(parent.config, blocks, library).inside(parent):
        expected = parent(calibration, use_cache=False).logits
    torch.testing.assert_close(child(calibration).logits, expected, rtol=1e-4, atol=2e-5)
    assert child.model.layers[0].mlp.gate_proj.out_features == 512
    counted = non_block_parameters(parent.config)
    counted += sum(
        num_parameters(parent.config, "attention", 4) + num_parameters(parent.config, "ffn", b.ffn) for b in blocks
    )
    assert child.num_parameters() == counted


def test_a_head_that_the_config_calls_tied_is_the_childs_too(make_parent, untrained_llama, calibration):
    parent = own_head(make_parent("llama"))
    child = Network(parent.config, MIXED, untrained_llama).assembled(parent)
    assert not child.config.tie_word_embeddings
    assert torch.equal(child.lm_head.weight, parent.lm_head.weight)
    with torch.no_grad(), Network(parent.config, MIXED, untrained_llama).inside(parent):
        torch.testing.assert_close(child(calibration).logits, parent(calibration).logits, rtol=0, atol=1e-4)


def test_a_child_that_is_not_its_blocks_is_refused(llama, untrained_llama, monkeypatch):
    original = Network._layer

    def with_a_doubled_norm(*args):
        return {name: t * 2 if "layernorm" in name else t for name, t in original(*args).items()}

    monkeypatch.setattr(Network, "_layer", with_a_doubled_norm)
    with pytest.raises(NotTheSame, match="the assembled child computes something else"):
        Network(llama.config, MIXED, untrained_llama).assembled(llama)


# -- shard by shard


def tensors_of(folder):
    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


@pytest.fixture
def streamed(parent, untrained, tmp_path):
    """A function that writes a child without ever holding it; the folder, and the pieces' sizes."""
    parent.save_pretrained(tmp_path / "parent", max_shard_size="300KB")

    def write(name, fmt, blocks=MIXED, pieces=lambda pieces: pieces):
        child = meta_model(child_config(parent.config, blocks, fmt), parent.dtype, tmp_path / "parent")
        weights = Network(parent.config, blocks, untrained, fmt).weights(Shards(tmp_path / "parent"))
        return hub.write_model_folder(tmp_path / name, child, weights=pieces(weights))

    return write


@pytest.mark.parametrize("fmt", [DECILM, PER_LAYER])
def test_streamed_child_is_the_assembled_one(
    parent, untrained, streamed, calibration, tmp_path, fmt, assert_bit_equal
):
    child = Network(parent.config, MIXED, untrained, fmt).assembled(parent)
    whole = hub.write_model_folder(tmp_path / "whole", child)
    folder = streamed("streamed", fmt)
    assert_bit_equal(tensors_of(whole), tensors_of(folder))
    assert sorted(p.name for p in whole.iterdir()) == sorted(p.name for p in folder.iterdir())
    for name in ("config.json", "generation_config.json"):
        assert (whole / name).read_text() == (folder / name).read_text()
    with torch.no_grad():
        assert torch.equal(hub.open_model_folder(folder)(calibration).logits, child(calibration).logits)


def test_no_more_than_a_shard_is_held(streamed, tmp_path, monkeypatch, assert_bit_equal):
    alive, peak, sizes = {}, [0], []

    def watched(pieces):
        for piece in pieces:
            sizes.append(sum(tensor.nbytes for tensor in piece.values()))
            for tensor in piece.values():
                key = id(tensor)
                alive[key] = tensor.nbytes
                weakref.finalize(tensor, alive.pop, key, None)
            peak[0] = max(peak[0], sum(alive.values()))
            yield piece
            del piece, tensor

    limit, original = 400_000, hub.write_shards
    monkeypatch.setattr(hub, "write_shards", lambda *args: original(*args, max_shard_size=limit))
    folder = streamed("small", PER_LAYER, [OWN, *MIXED[1:]], watched)
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(sizes)
    assert all((folder / name).stat().st_size <= limit + 8192 for name in files)
    assert peak[0] <= limit + max(sizes) < sum(sizes)
    monkeypatch.undo()
    assert_bit_equal(tensors_of(folder), tensors_of(streamed("large", PER_LAYER, [OWN, *MIXED[1:]])))
    assert hub.open_model_folder(folder).config.num_hidden_layers == 4


def test_a_streamed_child_keeps_a_head_that_the_config_calls_tied(
    make_parent, untrained_llama, tmp_path, assert_bit_equal
):
    parent = own_head(make_parent("llama"))
    parent.save_pretrained(tmp_path / "parent", max_shard_size="300KB")
    shards = Shards(tmp_path / "parent")
    config = with_true_tie(AutoConfig.from_pretrained(tmp_path / "parent"), shards)
    assert not config.tie_word_embeddings
    child = meta_model(child_config(config, MIXED, DECILM), parent.dtype)
    folder = hub.write_model_folder(
        tmp_path / "streamed", child, weights=Network(config, MIXED, untrained_llama).weights(shards)
    )
    whole = hub.write_model_folder(
        tmp_path / "whole", Network(parent.config, MIXED, untrained_llama).assembled(parent)
    )
    assert_bit_equal(tensors_of(whole), tensors_of(folder))
    assert (whole / "config.json").read_text() == (folder / "config.json").read_text()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda piece: piece.popitem(), "missing tensors"),
        (lambda piece: piece.update(more=torch.zeros(1)), "unexpected tensor more"),
        (lambda piece: piece.update({next(iter(piece)): torch.zeros(3)}), "its config asks for"),
    ],
)
def test_wrong_pieces_leave_no_folder(streamed, tmp_path, change, message):
    def broken(pieces):
        for piece in pieces:
            change(piece)
            yield piece

    with pytest.raises(FormatError, match=message):
        streamed("broken", PER_LAYER, pieces=broken)
    assert not (tmp_path / "broken").exists()
