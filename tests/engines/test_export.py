"""What `hf-puzzle check`, `convert` and `export` write computes what the child computes, and opens where it says."""

import json

import pytest
import torch
from families import family_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.cli import main
from hf_puzzle.engines import ENGINES, rewrites
from hf_puzzle.engines.check import NO, OPENS, FolderError, check_folder
from hf_puzzle.engines.export import convert_folder, export
from hf_puzzle.recipe import RecipeError


TOKENS = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(0))
MIXED = [Block(2, 256), Block(4, "none"), Block("none", "none"), Block("linear", 512)]


def write(folder, blocks, fmt, family="llama", **overrides):
    """A random child of a tiny family in a folder, with a file that only travels along."""
    torch.manual_seed(0)
    parent = family_model(family, **overrides)
    config = formats.child_config(parent.config, blocks, fmt)
    child = formats.model_class(config)(config).eval()
    hub.write_model_folder(folder, child, provenance={"recipe": {"seed": 3}})
    (folder / "LICENSE").write_text("as is")
    return child


@torch.no_grad()
def logits(folder):
    return hub.open_model_folder(folder)(TOKENS, use_cache=False).logits


@pytest.fixture
def child(tmp_path):
    return tmp_path / "child", write(tmp_path / "child", MIXED, formats.DECILM, num_hidden_layers=4)


@pytest.mark.parametrize("engine", [e for e in ENGINES if e not in ("sglang", "exllamav3", "portable", "llama.cpp")])
def test_export_computes_the_same(child, engine, tmp_path):
    folder, model = child
    changes = export(folder, engine, tmp_path / "out")
    torch.testing.assert_close(logits(tmp_path / "out"), model(TOKENS).logits, rtol=0, atol=1e-5)
    verdicts = {v.engine: v for v in check_folder(tmp_path / "out")}
    assert verdicts[engine].status == OPENS, verdicts[engine]
    assert any("dropped" in change for change in changes)
    assert (tmp_path / "out" / "LICENSE").read_text() == "as is"
    assert json.loads((tmp_path / "out" / "puzzle.json").read_text())["recipe"] == {"seed": 3}


def test_llama_cpp_folder_for_the_stock_converter(child, tmp_path):
    folder, model = child
    export(folder, "llama.cpp", tmp_path / "out", as_folder=True)
    assert torch.equal(logits(tmp_path / "out"), model(TOKENS).logits)


@pytest.mark.parametrize("engine", ["sglang", "exllamav3"])
def test_what_cannot_be_expressed_is_refused_before_anything_is_written(child, engine, tmp_path):
    with pytest.raises(
        rewrites.CannotRun, match=rf"{engine} cannot run layer 3 \(linear\+w512\): no linear attention"
    ):
        export(child[0], engine, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["child"]


@pytest.mark.parametrize("fmt", formats.FORMATS)
def test_a_uniform_child_becomes_the_plain_architecture(fmt, tmp_path):
    model = write(tmp_path / "child", [Block(2, 256), Block("none", "none"), Block(2, 256), Block(2, 256)], fmt)
    changes = export(tmp_path / "child", "vllm", tmp_path / "out")
    assert any("uniform" in change for change in changes)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # no trust needed
    assert type(plain) is LlamaForCausalLM
    assert not list((tmp_path / "out").glob("*.py"))
    assert torch.equal(plain(TOKENS).logits, model(TOKENS).logits)
    # but for the stock converters' vocabularies, everything opens it
    assert {v.status for v in check_folder(tmp_path / "out")} == {OPENS}


@pytest.mark.parametrize(
    "family, blocks",
    [
        ("qwen3", [Block(2, 32), Block("none", "none"), Block(2, 32), Block(2, 32)]),
        ("gemma3", [Block(4, 32)] * 4),
        ("mixtral", [Block(4, "e3"), Block(4, "e3"), Block("none", "none"), Block(4, "e3")]),
    ],
)
def test_a_uniform_child_of_any_family_becomes_its_stock_class(family, blocks, tmp_path):
    model = write(tmp_path / "child", blocks, formats.PER_LAYER, family)
    export(tmp_path / "child", "transformers", tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(plain).__name__ == type(model).__name__.removeprefix("Puzzle")
    assert plain.config.num_hidden_layers == len([b for b in blocks if b != Block("none", "none")])
    torch.testing.assert_close(plain(TOKENS).logits, model(TOKENS).logits, rtol=0, atol=1e-6)


def test_dummy_layers_of_a_per_layer_child_are_dropped(tmp_path):
    blocks = [Block("none", 32), Block("none", "none"), Block(2, "none"), Block("linear", 64)]
    model = write(tmp_path / "child", blocks, formats.PER_LAYER, "gemma2")
    changes = export(tmp_path / "child", "transformers", tmp_path / "out")
    assert changes == ["dummy layers dropped: 1"]
    again = hub.open_model_folder(tmp_path / "out")
    # layer_types go with their layers: what was sliding still is
    assert formats.describe(again.config) == [blocks[0], blocks[2], blocks[3]]
    torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, rtol=0, atol=1e-6)


def test_engines_that_read_decilm_get_a_per_layer_llama_as_decilm(tmp_path):
    model = write(
        tmp_path / "child", [Block(2, 100), Block(4, "none"), Block("none", 40), Block(1, 64)], formats.PER_LAYER
    )
    assert {v.engine: v.status for v in check_folder(tmp_path / "child")}["vllm"] != NO
    changes = export(tmp_path / "child", "vllm", tmp_path / "out")
    assert changes[0] == "written as DeciLM"
    torch.testing.assert_close(logits(tmp_path / "out"), model(TOKENS).logits, rtol=0, atol=1e-5)


def test_engines_without_the_per_layer_format_refuse_other_families(tmp_path):
    write(tmp_path / "child", [Block(2, 32)] + [Block(4, 64)] * 3, formats.PER_LAYER, "qwen3")
    with pytest.raises(rewrites.CannotRun, match="vllm reads no per-layer.*'qwen3'"):
        export(tmp_path / "child", "vllm", tmp_path / "out")


def test_convert_there_and_back_is_lossless(child, tmp_path):
    folder, model = child
    convert_folder(folder, "per_layer", tmp_path / "there")
    convert_folder(tmp_path / "there", "decilm", tmp_path / "back")
    torch.testing.assert_close(logits(tmp_path / "there"), model(TOKENS).logits, rtol=0, atol=1e-6)
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "back" / "config.json").read_text() == (folder / "config.json").read_text()


@pytest.mark.parametrize(
    "target, out, error, message",
    [
        ("vlm", "out", RecipeError, "did you mean 'vllm'"),
        ("vllm", "child", FolderError, "is the folder itself"),
        ("vllm", "full", ValueError, "holds no model"),
    ],
)
def test_wrong_arguments(child, target, out, error, message, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(error, match=message):
        export(child[0], target, tmp_path / out)
    assert (tmp_path / "full" / "thesis.tex").exists()


def test_broken_folders_are_named_before_anything_is_written(child, tmp_path, capsys):
    folder, _ = child
    config = json.loads((folder / "config.json").read_text())
    config["block_configs"][1]["attention"]["n_heads_in_group"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["export", str(folder), "--target", "vllm", "--out", str(tmp_path / "out")]) == 2
    assert "block_configs[1].attention.n_heads_in_group is 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_line(child, tmp_path, capsys):
    folder, _ = child
    assert main(["check", str(folder)]) == 0
    assert "opens after export" in capsys.readouterr().out
    assert main(["convert", str(folder), "--to", "per-layer"]) == 0
    assert (tmp_path / "child-per_layer" / "modeling_puzzle.py").exists()
    assert main(["export", str(folder), "--target", "vllm"]) == 0
    assert "dropped" in capsys.readouterr().out
    assert (tmp_path / "child-vllm" / "modeling_decilm.py").exists()
    assert main(["check", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["convert", "--to", "per-layer"], ["export", "--target", "vllm"]])
def test_nothing_that_is_no_model_is_replaced(child, command, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    (tmp_path / "notes.txt").write_text("more of it")
    for out in ("thesis", "notes.txt"):
        assert main([command[0], str(child[0]), *command[1:], "--out", str(tmp_path / out)]) == 2
        assert "holds no model" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "notes.txt").read_text() == "more of it"
    assert main(["export", str(child[0]), "--target", "llama.cpp", "--out", str(tmp_path / "thesis")]) == 2
    assert "gets a file" in capsys.readouterr().err
