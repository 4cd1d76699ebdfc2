"""Exported graphs give the model's logits, for other batches and lengths; a failed export leaves nothing behind."""

import pytest
import torch
from transformers import DynamicCache

from hf_puzzle.blocks import Block
from hf_puzzle.engines import onnx
from hf_puzzle.engines.onnx import export_onnx, onnx_differences
from hf_puzzle.puzzle.network import Network


@pytest.fixture
def make_folder(make_parent, tmp_path):
    """A function that writes a child of these blocks and returns it and its folder."""
    for package in onnx.PACKAGES:
        pytest.importorskip(package)

    def make(*blocks):
        parent = make_parent("llama", num_hidden_layers=len(blocks))
        child = Network(parent.config, list(blocks)).random(torch.float32)
        child.save_pretrained(tmp_path / "child")
        return child, tmp_path / "child"

    return make


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_a_small_child(make_folder, tmp_path):
    child, folder = make_folder(Block("linear", "none"), Block(1, "linear"))
    out = tmp_path / "onnx"
    out.mkdir()
    (out / "stale").touch()
    found = export_onnx(folder, out)
    assert set(found) == {"prefill", "decode"}
    assert max(found.values()) < 1e-4
    assert files(out) >= {"prefill.onnx", "decode.onnx", "config.json", "generation_config.json", "export.json"}
    assert files(tmp_path) == {"child", "onnx"}
    assert "stale" not in files(out)

    from transformers.exporters import ExportedModel

    # the cache holds the layers that have attention, with their KV heads
    runner = ExportedModel.from_pretrained(out, trust_remote_code=True).runners["prefill"]
    tokens = torch.arange(10).view(2, 5)
    mask = torch.ones_like(tokens)
    output = runner(input_ids=tokens, attention_mask=mask, position_ids=mask.cumsum(-1) - 1)
    assert isinstance(output.past_key_values, DynamicCache)
    keys = [layer.keys for layer in output.past_key_values.layers if layer.keys is not None]
    assert [each.shape for each in keys] == [(2, 1, 5, 16)]
    with torch.no_grad():
        child.lm_head.weight.mul_(1.01)
    with pytest.raises(ValueError, match="ONNX graphs differ from the model by .*prefill.*decode"):
        onnx_differences(child, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "blocks",
    [
        [Block("none", 256), Block(4, "none"), Block("linear", "linear"), Block(1, 512), Block(2, "linear")],
        [Block("none", 256), Block("linear", "none")],
        [Block(4, 768), Block("none", "none"), Block(2, 256)],
    ],
    ids=["mixed", "no attention", "attention first"],
)
def test_every_kind_of_block(make_folder, tmp_path, blocks):
    _, folder = make_folder(*blocks)
    assert max(export_onnx(folder, tmp_path / "onnx").values()) < 1e-4


def test_what_cannot_be_exported_is_named_and_leaves_nothing(make_folder, tmp_path, monkeypatch):
    from transformers.exporters import OnnxExporter

    def fail(*args):
        raise RuntimeError("export_program failed on component 'decode'") from NotImplementedError("aten::spam")

    monkeypatch.setattr(OnnxExporter, "export_for_generation", fail)
    _, folder = make_folder(Block(1, 256))
    with pytest.raises(ValueError, match=r"cannot express .*child: .*component 'decode' aten::spam"):
        export_onnx(folder, tmp_path / "onnx")
    assert files(tmp_path) == {"child"}


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'hf_puzzle\[export\]'"):
        export_onnx(tmp_path, tmp_path / "onnx")
