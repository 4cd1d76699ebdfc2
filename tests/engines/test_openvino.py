"""OpenVINO's process; with OpenVINO itself where it is installed or HF_PUZZLE_OPENVINO_PYTHON names it."""

import os
import sys
from importlib.util import find_spec

import pytest
import torch
from families import family_model
from pcw_models import byte_level

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Workload
from hf_puzzle.engines import measuring, openvino
from hf_puzzle.engines.export import export
from hf_puzzle.engines.openvino import PYTHON, OpenVino
from hf_puzzle.engines.process import EngineError


def test_no_openvino(monkeypatch):
    monkeypatch.delenv(PYTHON, raising=False)
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=f"openvino is not installed here: pip install openvino openvino-tokenizers, .* {PYTHON}"
    ):
        OpenVino().version()
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    with pytest.raises(EngineError, match=f"{PYTHON} is '/nowhere/python', which is no executable"):
        openvino.interpreter()


def test_the_worker_says_that_openvino_is_not_there(monkeypatch):
    monkeypatch.setenv(PYTHON, sys.executable)
    monkeypatch.setitem(os.environ, "PYTHONPATH", "/nowhere")
    if find_spec("openvino") is None:
        with OpenVino() as engine, pytest.raises(EngineError, match="openvino: ModuleNotFoundError"):
            engine.version()
        assert engine.starts == 1


needs_openvino = pytest.mark.skipif(
    PYTHON not in os.environ and find_spec("openvino") is None, reason="openvino is not installed"
)


@pytest.mark.slow
@needs_openvino
def test_an_export_has_state_and_tokenizer_and_the_childs_logits(tmp_path):
    parent = family_model("llama", hidden_size=64, intermediate_size=256, num_hidden_layers=3, vocab_size=300)
    config = formats.decilm_config(parent.config, [Block(4, 256), Block("none", 256), Block(1, "linear")])
    torch.manual_seed(0)
    child = formats.model_class(config)(config)
    hub.write_model_folder(tmp_path / "child", child, byte_level())
    changes = export(tmp_path / "child", "openvino", tmp_path / "out")
    assert [change.partition(":")[0] for change in changes] == ["prefill", "decode"]
    assert max(float(change.partition(":")[2]) for change in changes) < 1e-4
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"openvino_{name}.xml" for name in ("model", "tokenizer", "detokenizer")} < names
    assert "model.onnx" not in names
    graph = (tmp_path / "out" / "openvino_model.xml").read_text()
    assert graph.count('type="ScaledDotProductAttention"') == 2  # whose kernel keeps no scores
    assert 'type="Softmax"' not in graph
    with torch.no_grad():
        child.lm_head.weight.mul_(1.01)
    with pytest.raises(ValueError, match="graphs differ from the model"):
        openvino.shared().differences(child, tmp_path / "out")
    openvino.shared().close()


@pytest.mark.slow
@needs_openvino
def test_children_are_exchanged_in_one_process():
    """Every kind of block, a child without attention among them, whose graph has no cache."""
    parent = family_model("llama", hidden_size=64, intermediate_size=256, num_hidden_layers=4, vocab_size=128)
    process = openvino.shared()
    before = process.starts
    for blocks in ([Block(4, 256), Block("none", 256), Block("linear", "none")], [Block("none", 256)]):
        config = formats.decilm_config(parent.config, blocks)
        child = formats.model_class(config)(config)
        times = measuring.time_elsewhere("openvino", child, Workload(2, 16, 8), 2)
        assert len(times) == 2
        assert all(t.prefill_ms > 0 and t.decode_ms > 0 for t in times)
    assert process.starts - before <= 1
    process.close()
