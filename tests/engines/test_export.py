"""What `hf-puzzle check`, `convert` and `export` write computes what the child computes, and opens where it says."""

import json

import pytest
import torch
from families import family_model, own_head
from pcw_models import byte_level
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.cli import main
from hf_puzzle.conversions import NotTheSame, probe_logits, relative_difference
from hf_puzzle.engines import ENGINES, openvino, rewrites
from hf_puzzle.engines.check import NO, OPENS, FolderError, check_folder
from hf_puzzle.engines.export import convert_folder, export
from hf_puzzle.engines.process import EngineError
from hf_puzzle.recipe import RecipeError


TOKENS = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(0))
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
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


GRAPHS = {engine for engine, row in ENGINES.items() if row.graphs}


@pytest.mark.parametrize("engine", sorted(set(ENGINES) - {"sglang", "exllamav3", "portable", "llama.cpp"} - GRAPHS))
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
    assert {v.status for v in check_folder(tmp_path / "out") if v.engine not in GRAPHS} == {OPENS}


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


@pytest.mark.parametrize("scaled", [False, True])
def test_a_stock_folder_says_rope_theta_where_older_readers_look(scaled, tmp_path):
    """mlx-lm's Llama reads no rope_parameters, and takes 10,000 for what it does not find."""
    scaling = {"rope_type": "linear", "factor": 4.0} if scaled else {"rope_type": "default"}
    parent = family_model("llama", rope_parameters={**scaling, "rope_theta": 123_456.0})
    parent.save_pretrained(tmp_path / "parent")
    verdict = {v.engine: v for v in check_folder(tmp_path / "parent")}["mlx-lm"]
    assert verdict.status == "opens after export"
    assert "rope_theta is in rope_parameters only, where mlx-lm's LlamaForCausalLM does not look" in verdict.reason
    export(tmp_path / "parent", "mlx-lm", tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["rope_theta"] == 123_456.0
    assert raw.get("rope_scaling") == (scaling if scaled else None)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(plain(TOKENS).logits, parent(TOKENS).logits)
    assert {v.engine: v for v in check_folder(tmp_path / "out")}["mlx-lm"].status == OPENS


def test_each_type_of_layer_keeps_its_theta(tmp_path):
    model = write(tmp_path / "child", [Block(4, 32)] * 4, formats.PER_LAYER, "gemma3")
    export(tmp_path / "child", "mlx-lm", tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    rope = model.config.rope_parameters
    assert raw["rope_theta"] == rope["full_attention"]["rope_theta"]
    assert raw["rope_local_base_freq"] == rope["sliding_attention"]["rope_theta"] != raw["rope_theta"]


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
    with pytest.raises(rewrites.CannotRun, match="mlx-lm reads no per-layer.*'qwen3'"):
        export(tmp_path / "child", "mlx-lm", tmp_path / "out")


EVERY_KIND = [
    Block("none", 64),
    Block("linear", 32),
    Block("none", "none"),
    Block("linear", "none"),
    Block(2, "linear"),
]


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3"])
def test_vllm_gets_attention_in_every_layer(family, tmp_path):
    model = write(tmp_path / "child", EVERY_KIND, formats.PER_LAYER, family)
    changes = export(tmp_path / "child", "vllm", tmp_path / "out")
    assert [change.partition(":")[0] for change in changes] == ["dummy layers dropped", "layer 0", "layers 1, 2"]
    again = hub.open_model_folder(tmp_path / "out")
    zeros = Block(1, "linear")
    assert formats.describe(again.config) == [Block(1, 64), zeros, Block(1, 32), zeros, Block(2, "linear")]
    torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, rtol=0, atol=1e-5)
    assert {v.engine: v.status for v in check_folder(tmp_path / "out")}["vllm"] == OPENS


@pytest.mark.parametrize(
    "family, block, reason",
    [
        ("qwen3", Block("kv2win8", 64), "no sliding windows"),
        ("granite", Block(2, 64), "drops logits_scaling 2"),
        ("gpt_neox", Block(4, 32), "family 'gpt_neox' was not measured there"),
    ],
)
def test_what_vllm_runs_wrong_is_refused(family, block, reason, tmp_path):
    write(tmp_path / "child", [block, Block(4, 64), Block(4, 64), Block(4, "none")], formats.PER_LAYER, family)
    with pytest.raises(rewrites.CannotRun, match=f"vllm cannot run this child: .*{reason}"):
        export(tmp_path / "child", "vllm", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["child"]


@pytest.mark.parametrize("engine", ["mlx-lm", "exllamav2", "vllm"])
def test_code_travels_only_where_an_engine_runs_it(child, engine, tmp_path):
    """transformers asks on the terminal about an `auto_map`, which an engine's own architecture does not need."""
    folder, _ = child
    export(folder, engine, tmp_path / "out")
    needed = ENGINES[engine].remote_code
    assert ("auto_map" in json.loads((tmp_path / "out" / "config.json").read_text())) == needed
    assert bool(list((tmp_path / "out").glob("*.py"))) == needed


@pytest.mark.parametrize("target", ["onnx", "onnxruntime", "onnxruntime-genai"])
def test_graphs_of_a_child(child, target, tmp_path):
    pytest.importorskip("onnxruntime")
    folder, _ = child
    assert main(["export", str(folder), "--target", target]) == 0
    out = tmp_path / f"child-{target}"
    assert {"model.onnx", "config.json"} <= {path.name for path in out.iterdir()}
    if target == "onnxruntime-genai":
        told = json.loads((out / "genai_config.json").read_text())["model"]
        live = [block.attention for block in MIXED if isinstance(block.attention, int)]
        assert told["decoder"]["num_hidden_layers"] == len(live)
        assert told["decoder"]["num_key_value_heads"] == live[0]


def test_openvino_has_to_be_there_before_anything_is_computed(child, tmp_path, monkeypatch):
    monkeypatch.setenv(openvino.PYTHON, "/nowhere/python")
    monkeypatch.setattr(hub, "open_model_folder", None)
    with pytest.raises(EngineError, match="which is no executable"):
        export(child[0], "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


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


# -- tied heads


@pytest.fixture
def mislabelled(child):
    """The folder of a child that has a head of its own, and whose config.json calls it tied."""
    folder, model = child
    own_head(model).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    return folder, model


@pytest.mark.parametrize("target", ["transformers", "vllm", "mlx-lm", "continuous-batching"])
def test_an_export_keeps_a_head_that_the_config_calls_tied(mislabelled, target, tmp_path):
    folder, model = mislabelled
    export(folder, target, tmp_path / "out")
    assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    torch.testing.assert_close(logits(tmp_path / "out"), model(TOKENS).logits, rtol=0, atol=1e-5)
    assert {v.engine: v for v in check_folder(tmp_path / "out")}[target].status == OPENS


@pytest.mark.parametrize("target", ["transformers", "vllm"])
def test_an_export_of_a_uniform_child_keeps_its_head(target, tmp_path):
    model = write(tmp_path / "child", [Block(2, 256)] * 4, formats.DECILM)
    own_head(model).save_pretrained(tmp_path / "child")
    export(tmp_path / "child", target, tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), model(TOKENS).logits)


def test_a_conversion_keeps_a_head_that_the_config_calls_tied(mislabelled, tmp_path):
    folder, model = mislabelled
    convert_folder(folder, "per_layer", tmp_path / "there")
    convert_folder(tmp_path / "there", "decilm", tmp_path / "back")
    for name in ("there", "back"):
        assert not json.loads((tmp_path / name / "config.json").read_text())["tie_word_embeddings"]
        torch.testing.assert_close(logits(tmp_path / name), model(TOKENS).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rewrite_that_computes_something_else_is_not_written(child, dtype, tmp_path, monkeypatch):
    folder, model = child
    model.to(dtype).save_pretrained(folder)
    original = rewrites.rewrite

    def slightly_wrong(*args):
        done = original(*args)
        name = next(n for n in done.state if n.endswith("v_proj.weight"))
        done.state[name] = done.state[name] * 1.05
        return done

    monkeypatch.setattr(rewrites, "rewrite", slightly_wrong)
    with pytest.raises(NotTheSame, match=r"out computes something else: .* differ from the source's by \d"):
        export(folder, "vllm", tmp_path / "out")
    monkeypatch.setattr(
        "hf_puzzle.engines.export.convert", lambda config, state, to: (config, {**state, HEAD: -state[EMBED]})
    )
    with pytest.raises(NotTheSame):
        convert_folder(folder, "per_layer", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["child"]


# -- GGUF


@pytest.fixture
def gguf():
    pytest.importorskip("gguf")
    from hf_puzzle.engines import gguf

    return gguf


@pytest.mark.parametrize(
    "outtype, tolerance",
    [("f32", 1e-6), ("f16", 2e-3), ("q8_0", 0.1), ("q6_k", 0.15), ("q5_k_m", 0.2), ("q4_k_m", 0.4)],
)
def test_a_gguf_file_read_back_is_the_model(gguf, tmp_path, outtype, tolerance):
    if outtype in gguf.QUANTIZED_BY_LLAMA_CPP:
        pytest.importorskip("llama_cpp")
    blocks = [Block(2, 256), Block("linear", 512), Block(4, 256)]
    model = write(tmp_path / "child", blocks, formats.DECILM, hidden_size=256, num_hidden_layers=3)
    path = gguf.write_model_gguf(model, tmp_path / "model.gguf", outtype)
    again = formats.build_model(model.config, gguf.read_gguf(path, model.config, torch.float32))
    assert relative_difference(probe_logits(model), probe_logits(again)) < tolerance


@pytest.mark.parametrize("outtype, size, others", [("q8_0", 32, "f16"), ("q4_k_m", 256, "q8_0, f16")])
def test_rows_that_are_no_multiple_of_a_block_are_refused(gguf, tmp_path, outtype, size, others):
    """llama.cpp would write them in another type without a word."""
    hidden = {"q8_0": 48, "q4_k_m": 64}[outtype]
    model = write(tmp_path / "child", [Block(2, 256)] * 4, formats.DECILM, hidden_size=hidden)
    with pytest.raises(
        gguf.NotExpressible, match=rf"has rows of {hidden}, no multiple of the {size} .* of {outtype}.*use {others}$"
    ):
        gguf.write_model_gguf(model, tmp_path / "model.gguf", outtype)
    assert [path.name for path in tmp_path.iterdir()] == ["child"]


def test_a_gguf_file_keeps_a_head_that_the_config_calls_tied(gguf, tmp_path):
    def holds_head(path):
        return "output.weight" in {tensor.name for tensor in gguf._gguf().GGUFReader(path).tensors}

    model = write(tmp_path / "tied", [Block(4, 256)] * 2, formats.DECILM)
    assert model.config.tie_word_embeddings
    assert not holds_head(gguf.write_model_gguf(model, tmp_path / "tied.gguf", "f32"))
    own_head(model).save_pretrained(tmp_path / "own")
    for path in (
        gguf.write_model_gguf(model, tmp_path / "model.gguf", "f32"),
        gguf.write_gguf(tmp_path / "own", tmp_path / "folder.gguf", "f32", vocabulary=False),
    ):
        assert holds_head(path)
        again = formats.build_model(model.config, gguf.read_gguf(path, model.config, torch.float32))
        assert relative_difference(probe_logits(model), probe_logits(again)) < 1e-6


def test_a_bias_of_the_head_has_no_place_in_gguf(gguf, tmp_path):
    write(tmp_path / "child", [Block(4, 256)] * 2, formats.DECILM, tie_word_embeddings=False)
    weights = tmp_path / "child" / "model.safetensors"
    save_file(load_file(weights) | {"lm_head.bias": torch.ones(128)}, weights)
    with pytest.raises(gguf.NotExpressible, match="no place for the tensors lm_head.bias"):
        gguf.write_gguf(tmp_path / "child", tmp_path / "model.gguf", vocabulary=False)


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0", "q4_k_m"])
def test_a_gguf_file_is_compared_with_the_child(gguf, tmp_path, monkeypatch, outtype):
    if outtype in gguf.QUANTIZED_BY_LLAMA_CPP:
        pytest.importorskip("llama_cpp")
    tokenizer = byte_level()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 256}
    model = write(tmp_path / "child", [Block(2, 256), Block(4, "none")] * 2, formats.DECILM, **sizes)
    own_head(model).save_pretrained(tmp_path / "child")
    tokenizer.save_pretrained(tmp_path / "child")
    out = tmp_path / "model.gguf"
    export(tmp_path / "child", "llama.cpp", out, outtype=outtype)
    before = out.read_bytes()
    monkeypatch.setattr(gguf, "_paired", lambda rows, head_dim: rows)  # rows of q and k in another order
    with pytest.raises(NotTheSame, match="model.gguf computes something else"):
        export(tmp_path / "child", "llama.cpp", out, outtype=outtype)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["child", "model.gguf"]
