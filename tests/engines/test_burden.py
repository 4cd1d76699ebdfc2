import json

import pytest
import torch
from families import family_model

from hf_puzzle import cli, formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.engines import burden, measured
from hf_puzzle.engines.check import check_folder
from hf_puzzle.engines.export import export
from hf_puzzle.engines.rewrites import CannotRun


def child_folder(path, blocks):
    parent = family_model("llama", hidden_size=64, intermediate_size=256, num_hidden_layers=4, vocab_size=128)
    torch.manual_seed(0)
    config = formats.decilm_config(parent.config, blocks)
    return hub.write_model_folder(path, formats.model_class(config)(config)), parent


BLOCKS = [Block(2, 512), Block("linear", 256), Block("none", "linear"), Block(1, "none")]


@pytest.mark.parametrize("engine", ["vllm", "mlx-lm", "continuous-batching"])
def test_it_counts_what_the_export_has(tmp_path, engine):
    folder, _ = child_folder(tmp_path / "child", BLOCKS)
    own, there = burden.in_engine(hub.read_config(folder), engine)
    export(folder, engine, tmp_path / "out")
    for path, said in ((folder, own), (tmp_path / "out", there)):
        model = hub.open_model_folder(path)
        assert said.weights == sum(p.numel() for name, p in model.named_parameters() if ".layers." in name)
        with torch.no_grad():
            cache = model(torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
        kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers if layer.keys is not None)
        assert said.cached * 5 == kept


def test_plain_children_graphs_and_refusals(tmp_path):
    uniform, parent = child_folder(tmp_path / "uniform", [Block(2, 256)] * 2)
    assert burden.in_engine(hub.read_config(uniform), "vllm") is None
    assert burden.in_engine(parent.config, "vllm") is None
    folder, _ = child_folder(tmp_path / "child", BLOCKS)
    assert burden.in_engine(hub.read_config(folder), "openvino") is None
    with pytest.raises(CannotRun, match="sglang cannot run"):
        burden.in_engine(hub.read_config(folder), "sglang")


def test_an_engine_that_gives_nothing_is_named(tmp_path, capsys):
    folder, _ = child_folder(tmp_path / "child", BLOCKS)
    own, there = burden.in_engine(hub.read_config(folder), "mlx-lm")
    sizes = {"child": {"num_parameters": 10**6}, "parent": {"num_parameters": 10**6 + there.weights - own.weights}}
    warned = {each.engine: each for each in burden.warnings(folder, {"memory": sizes})}
    assert warned["mlx-lm"].nothing
    assert f"{there.weights / own.weights:.2f}x the child's weights" in warned["mlx-lm"].text
    sizes["parent"]["num_parameters"] += 1
    assert not {each.engine: each for each in burden.warnings(folder, {"memory": sizes})}["mlx-lm"].nothing
    assert set(warned) <= {v.engine for v in check_folder(folder) if v.status == "opens after export"}
    sizes["parent"]["num_parameters"] -= 1
    (folder / "eval.json").write_text(json.dumps({"memory": sizes}))
    assert cli.main(["check", str(folder)]) == 0
    assert "mlx-lm: the export reads" in (told := capsys.readouterr().out)
    assert "no fewer than the parent: this engine gives the child nothing" in told


def test_engines_that_gave_less_than_transformers_are_named(tmp_path, capsys, monkeypatch):
    def row(*ratios):
        return {"version": "1.0", "work": [{"models": {"searched": {"with 128 out": [r, r, r]}}} for r in ratios]}

    engines = {
        "transformers": row(1.0, 4.0),
        "vllm": row(1.7),
        "mlx-lm": row(1.9),
        "openvino": row(1.0),
        "sglang": row(1.0),
    }
    monkeypatch.setattr(measured, "speeds", lambda: {"engines": engines})
    folder, parent = child_folder(tmp_path / "child", BLOCKS)
    found = {each.engine: each for each in burden.gains(folder)}
    assert set(found) == {"vllm", "openvino"}  # mlx-lm gave nearly as much, sglang does not open it
    assert (
        found["vllm"].text == "vllm 1.0: a child measured 2.00x as fast as its parent in transformers was 1.70x there"
    )
    assert [each.engine for each in found.values() if each.nothing] == ["openvino"]
    assert cli.main(["check", str(folder)]) == 0
    assert found["openvino"].text in capsys.readouterr().out
    assert burden.gains(hub.write_model_folder(tmp_path / "parent", parent)) == []  # no child
    monkeypatch.setattr(measured, "speeds", lambda: {"engines": {}})
    assert burden.gains(folder) == []
