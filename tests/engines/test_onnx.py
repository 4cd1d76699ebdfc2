"""An exported graph gives the model's logits, for other batches and lengths; a failed export leaves nothing behind."""

import json

import pytest
import torch
from families import family_model

from hf_puzzle import formats
from hf_puzzle.blocks import Block
from hf_puzzle.engines import onnx, onnx_graph
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
    (folder / "tokenizer.json").write_text("{}")
    out = tmp_path / "onnx"
    out.mkdir()
    (out / "stale").touch()
    found = export_onnx(folder, out)
    assert set(found) == {"prefill", "decode"}
    assert max(found.values()) < 1e-4
    assert files(out) == {"model.onnx", "model.onnx.data", "config.json", "generation_config.json", "tokenizer.json"}
    assert files(tmp_path) == {"child", "onnx"}
    assert "auto_map" not in json.loads((out / "config.json").read_text())

    # the cache holds the layers that have attention, with their KV heads
    graph = onnx.OnnxGraph(out)
    assert [each.name for each in graph.caches] == ["past_key_values.0.key", "past_key_values.0.value"]
    tokens = torch.arange(10).view(2, 5)
    mask = torch.ones_like(tokens)
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": mask.cumsum(-1) - 1}
    _, cache = graph(inputs, None)
    assert [each.shape for each in cache] == [(2, 1, 5, 16)] * 2
    with torch.no_grad():
        child.lm_head.weight.mul_(1.01)
    with pytest.raises(ValueError, match="graphs differ from the model by .*prefill.*decode"):
        onnx_differences(child, out)


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


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    "family, settings",
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 32}),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, **LLAMA3}}),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 8}}),
        ("qwen2", {}),
    ],
    ids=["tied", "biases", "head_dim", "llama3", "yarn", "biases on q, k, v"],
)  # fmt: skip
def test_stock_models_are_written_operator_by_operator(family, settings, tmp_path, monkeypatch):
    """As they are in the folder, in which no block is exchanged; transformers' exporter is not called."""
    for package in onnx.PACKAGES:
        pytest.importorskip(package)
    from transformers.exporters import OnnxExporter

    monkeypatch.setattr(OnnxExporter, "export", None)
    torch.manual_seed(0)
    parent = family_model(family, **settings)
    for parameter in parent.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    parent.save_pretrained(tmp_path / "parent")
    assert max(export_onnx(tmp_path / "parent", tmp_path / "onnx").values()) < 1e-4


@pytest.mark.slow
def test_other_families_go_through_transformers_exporter(tmp_path):
    """A window that the prompts of the check are longer than, in a graph whose cache is whole."""
    for package in onnx.PACKAGES:
        pytest.importorskip(package)
    parent = family_model("qwen3")
    blocks = [Block(4, 64), Block("kv4win8", 64), *[Block(4, 64)] * (parent.config.num_hidden_layers - 2)]
    config = formats.per_layer_config(parent.config, blocks)
    formats.model_class(config)(config).save_pretrained(tmp_path / "child")
    assert max(export_onnx(tmp_path / "child", tmp_path / "onnx").values()) < 1e-4
    names = [each.name for each in onnx.OnnxGraph(tmp_path / "onnx").caches]
    assert names[:3] == ["past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key"]


def test_what_cannot_be_exported_is_named_and_leaves_nothing(make_folder, tmp_path, monkeypatch):
    from transformers.exporters import OnnxExporter

    def fail(*args):
        raise RuntimeError("export_program failed on component 'decode'") from NotImplementedError("aten::spam")

    monkeypatch.setattr(OnnxExporter, "export", fail)
    monkeypatch.setattr(onnx_graph, "decilm_parts", lambda model: None)
    _, folder = make_folder(Block(1, 256))
    with pytest.raises(ValueError, match=r"cannot express .*child: .*component 'decode' aten::spam"):
        export_onnx(folder, tmp_path / "onnx")
    assert files(tmp_path) == {"child"}


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'hf_puzzle\[export\]'"):
        export_onnx(tmp_path, tmp_path / "onnx")
