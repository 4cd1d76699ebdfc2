"""Number formats against the libraries that define them, and GGUF files whose tensors have several of them."""

import copy
import math

import pytest
import torch
from torch import nn

from hf_puzzle import hub
from hf_puzzle.artifacts import ArtifactError
from hf_puzzle.blocks import Block
from hf_puzzle.engines import weight_types
from hf_puzzle.engines.export import export
from hf_puzzle.engines.quanto import _held_bytes
from hf_puzzle.engines.rewrites import CannotRun
from hf_puzzle.engines.weight_types import (
    WeightTypeError,
    does_not_fit,
    engine_of,
    held_bytes,
    missing_package,
    rounded,
    rounded_rows,
)
from hf_puzzle.puzzle.block_costs import non_block_bytes, weight_bytes
from hf_puzzle.puzzle.network import Network


gguf = pytest.importorskip("gguf")

from hf_puzzle.engines.gguf import (  # noqa: E402
    NotExpressible,
    read_gguf,
    read_types,
    rounded_tensors,
    tensor_types,
    write_gguf,
    write_model_gguf,
    write_types,
)


GGUF_TYPES, QUANTO_TYPES = ("q8_0", "q4_0"), ("int8", "int4")
BLOCKS = [Block("kv4@q8_0", "w768@q4_0"), Block(2, "w512@q8_0"), Block("linear@q4_0", 256), Block("kv1@q4_0", 768)]


def linear(rows, columns, dtype=torch.float32):
    torch.manual_seed(rows + columns)
    return nn.Linear(columns, rows, bias=False, dtype=dtype)


@pytest.mark.parametrize("name", QUANTO_TYPES)
@pytest.mark.parametrize("columns", [64, 128, 160, 200, 384])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantos_bytes_and_values(name, columns, dtype):
    quanto = pytest.importorskip("optimum.quanto")
    own = linear(48, columns, dtype)
    theirs = nn.Sequential(nn.Linear(columns, 48, bias=False, dtype=dtype))
    theirs.load_state_dict({"0.weight": own.weight})
    quanto.quantize(theirs, weights=quanto.qtypes[f"q{name}"])
    quanto.freeze(theirs)
    assert _held_bytes(theirs[0].weight) == held_bytes((48, columns), name, own.weight.element_size())
    kept = rounded(own, name)
    assert kept.weight.dtype == dtype
    assert torch.equal(kept.weight, theirs[0].weight.dequantize())
    assert not torch.equal(kept.weight, own.weight)


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_ggufs_bytes_and_values(name):
    weight = linear(48, 96).weight.detach()
    kind = gguf.GGMLQuantizationType[name.upper()]
    packed = gguf.quantize(weight.numpy(), kind)
    assert packed.nbytes == held_bytes((48, 96), name, 2)
    assert torch.equal(rounded_rows(weight, name), torch.from_numpy(gguf.dequantize(packed, kind)))
    # what a row is filled up with changes nothing, and rounding twice is rounding once
    padded = nn.functional.pad(weight[:, :48], (0, 16))
    assert torch.equal(rounded_rows(padded, name)[:, :48], rounded_rows(weight[:, :48], name))
    once = rounded_rows(weight, name)
    assert torch.equal(rounded_rows(once, name), once)


def test_more_bits_are_nearer():
    own = linear(64, 128)
    errors = {n: (rounded(own, n).weight - own.weight).norm() for n in GGUF_TYPES}
    assert 0 < 5 * errors["q8_0"] < errors["q4_0"]


def test_what_a_format_cannot_hold_is_named():
    assert "rows of 40 weights, no multiple of the 32" in does_not_fit(linear(8, 40), "q4_0")
    assert does_not_fit(linear(8, 40), "int4") is None
    experts = nn.Module()
    experts.gate, experts.weights = linear(4, 32), nn.Parameter(torch.zeros(4, 32, 32))
    assert does_not_fit(experts, "int8") == "most of its weights in no linear map"
    with pytest.raises(WeightTypeError, match="'q3_0': known formats are q8_0, q4_0, int8, int4"):
        engine_of("q3_0")


@pytest.mark.parametrize("name, how", [("q8_0", r"gguf: pip install"), ("int4", r"optimum.quanto: pip install")])
def test_missing_packages_are_named(monkeypatch, name, how):
    monkeypatch.setattr(weight_types, "find_spec", lambda name: None)
    assert how in missing_package(name)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def child(request, make_parent):
    parent = make_parent("llama", tie_word_embeddings=request.param)
    torch.manual_seed(0)
    return parent.config, Network(parent.config, BLOCKS).random(torch.float32)


@pytest.mark.parametrize("outtype, dtype", [("f32", "float32"), ("bf16", "bfloat16")])
def test_a_file_of_mixed_types_is_read_back_equal(child, tmp_path, outtype, dtype):
    config, model = child
    model = copy.deepcopy(model)
    for parameter in model.parameters():  # so that the other matrices lose nothing
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    types = tensor_types(BLOCKS)
    path = write_model_gguf(model, tmp_path / "model.gguf", outtype, types)
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert {name: held[name].tensor_type.name.lower() for name in types} == types
    assert types["blk.0.attn_q.weight"] == "q8_0"
    assert types["blk.0.ffn_down.weight"] == types["blk.2.attn_output.weight"] == "q4_0"
    assert held["blk.1.attn_q.weight"].tensor_type.name.lower() == outtype
    expected = rounded_tensors(model.config, model.state_dict(), types)
    found = read_gguf(path, model.config, torch.float32)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    # the bytes that the search counts are those of the file
    size = non_block_bytes(config, dtype, gguf=True)
    size += sum(
        weight_bytes(config, kind, variant, dtype, gguf=True)
        for block in BLOCKS
        for kind, variant in zip(("attention", "ffn"), block, strict=True)
    )
    assert size == sum(tensor.n_bytes for tensor in held.values())


def test_types_lie_in_a_file_of_llama_cpps_own_form(child, tmp_path):
    types = tensor_types(BLOCKS)
    write_types(tmp_path, types)
    lines = (tmp_path / "tensor_types.txt").read_text().splitlines()
    assert lines[0] == r"blk\.0\.attn_q\.weight=q8_0"
    assert read_types(tmp_path) == types
    write_types(tmp_path / "none", tensor_types([block.plain for block in BLOCKS]))
    assert read_types(tmp_path / "none") == {}
    for line in ("blk.0.attn_q.weight", "blk.0.attn_q.weight=q9", "../x=q8_0"):
        (tmp_path / "tensor_types.txt").write_text(line)
        with pytest.raises(ArtifactError, match="is not `blk"):
            read_types(tmp_path)


def test_types_of_other_layers_are_refused(child, tmp_path):
    _, model = child
    with pytest.raises(NotExpressible, match=r"names blk.9.ffn_up.weight, which this model does not have"):
        write_model_gguf(model, tmp_path / "a.gguf", "f16", {"blk.9.ffn_up.weight": "q8_0"})
    with pytest.raises(NotExpressible, match="q4_k_m lets llama.cpp choose"):
        write_model_gguf(model, tmp_path / "a.gguf", "q4_k_m", tensor_types(BLOCKS))
    assert list(tmp_path.iterdir()) == []


def test_an_export_has_the_types_of_its_folder(child, tmp_path):
    _, model = child
    types = tensor_types(BLOCKS)
    folder = hub.write_model_folder(tmp_path / "child", model, also=lambda path: write_types(path, types))
    path = write_gguf(folder, tmp_path / "child.gguf", "f32", vocabulary=False)
    found = read_gguf(path, model.config, torch.float32)
    for name, tensor in rounded_tensors(model.config, model.state_dict(), types).items():
        assert torch.equal(found[name], tensor), name
    assert math.isclose(path.stat().st_size, sum(t.n_bytes for t in gguf.GGUFReader(path).tensors), rel_tol=0.1)


def test_layers_that_are_cut_again_keep_no_types(make_parent, tmp_path):
    blocks = [Block(4, 256), Block("none", "none"), Block(2, "w512@q8_0"), Block(4, 256)]
    model = Network(make_parent("llama").config, blocks).random(torch.float32)
    types = tensor_types(blocks)
    folder = hub.write_model_folder(tmp_path / "child", model, also=lambda path: write_types(path, types))
    with pytest.raises(CannotRun, match="layers that were cut again"):
        export(folder, "llama.cpp", tmp_path / "child.gguf")
