"""Matrices in fewer bits as variants: offered, scored, counted, chosen, and written as their engine reads them."""

import copy
import dataclasses

import pytest
import torch
import yaml
from tiny_run import steady_clock, write_recipes
from transformers import AutoModelForCausalLM

from hf_puzzle import artifacts, hub
from hf_puzzle.blocks import Block, parse_variant, plain, typed, variant_id, weight_type
from hf_puzzle.cli import main
from hf_puzzle.conversions import probe_logits
from hf_puzzle.engines.check import check_folder
from hf_puzzle.engines.export import export
from hf_puzzle.engines.quanto import weight_bytes_of
from hf_puzzle.engines.rewrites import CannotRun
from hf_puzzle.evaluation import kl_divergence
from hf_puzzle.puzzle.assess import load_kept
from hf_puzzle.puzzle.bench import Bench
from hf_puzzle.puzzle.bits import check_bits, keep_bits, kept_logits, write_formats
from hf_puzzle.puzzle.block_costs import non_block_bytes, weight_bytes
from hf_puzzle.puzzle.judge import Judge, Metric, scored_blocks
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.pipeline import load_run
from hf_puzzle.puzzle.scoring import score_blocks
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import CostConfig, RecipeError, ScoreConfig, SearchSpaceConfig


gguf = pytest.importorskip("gguf")

from hf_puzzle.engines.gguf import read_gguf, rounded_tensors, tensor_types, write_gguf  # noqa: E402


def space_of(llama, config, bits, deploy=("llama.cpp",)):
    return build_search_space(llama.config, dataclasses.replace(config, weight_bits=bits), deploy)


@pytest.mark.parametrize("kind, text, own", [("attention", "kv4@q8_0", 4), ("ffn", "w512@int4", 512), ("ffn", "linear@int8", "linear"), ("attention", "gla2@int8", "gla2"), ("ffn", "e4top1@int8", "e4top1")])  # fmt: skip
def test_ids_are_read_back(kind, text, own):
    variant = parse_variant(kind, text)
    assert variant_id(kind, variant) == text
    assert plain(variant) == own
    assert typed(kind, own, weight_type(variant)) == variant
    assert weight_type(own) is None


@pytest.mark.parametrize("text", ["kv4@", "kv4@q3_0", "none@q8_0", "kv4@q8_0@q8_0", "@q8_0"])
def test_other_texts_are_no_variants(text):
    with pytest.raises(ValueError, match="is not an attention variant"):
        parse_variant("attention", text)


def test_sixteen_bits_alone_are_the_space_of_before(llama, space_config):
    assert space_of(llama, space_config, [16]) == build_search_space(llama.config, space_config, ["llama.cpp"])
    assert space_of(llama, space_config, [16]).weight_types == []


def test_every_sub_block_is_offered_in_every_format(llama):
    config = SearchSpaceConfig(attention=[2], ffn=[256, "none"])
    space = space_of(llama, config, ["q8_0", "q4_0"], [])
    assert space.weight_types == ["q8_0", "q4_0"]
    # llama.cpp loses an attention's output where no FFN follows, and its rewrite cuts layers again
    assert space.variants == {"attention": [4, 2], "ffn": [768, 256]}
    assert space.offered["attention"] == [4, "kv4@q8_0", "kv4@q4_0", 2, "kv2@q8_0", "kv2@q4_0"]
    middle = space.layers[1]
    assert middle.attention == (4, 2)
    assert len(middle.blocks) == 2 * 3 * 2 * 3
    assert middle.blocks[0] == space.parent


@pytest.mark.parametrize(
    "bits, deploy, message",
    [
        ([16, 8], ["vllm"], r"8 bits for deploy \['vllm'\]: no engine in it reads any"),
        ([8], ["transformers", "llama.cpp"], "transformers and llama.cpp read different formats"),
        (["q8_0"], ["transformers"], "q8_0 is a format of llama.cpp, which is not in deploy"),
        ([3], ["llama.cpp"], "3 is none of 16, 8, 4, q8_0, q4_0, int8, int4"),
        ([8, 4], ["transformers"], "int8 and int4 in one model"),
        (["q8_0", "int8"], [], "q8_0 and int8 in one model"),
    ],
)
def test_bits_that_no_engine_reads_are_refused(llama, space_config, bits, deploy, message):
    with pytest.raises(RecipeError, match=message):
        space_of(llama, space_config, bits, deploy)


def test_another_engine_leaves_them_out_with_a_line(llama, space_config, caplog):
    with caplog.at_level("INFO"):
        space = space_of(llama, space_config, [16, 8], ["llama.cpp", "vllm"])
    assert space.weight_types == []
    assert "vllm: no weights in q8_0" in caplog.text


def test_what_a_format_does_not_hold_leaves_with_a_line(make_parent, caplog):
    config = SearchSpaceConfig(attention=[2], ffn=[256])
    with caplog.at_level("INFO"):
        space = space_of(make_parent("llama", hidden_size=48), config, [16, 8])
    assert space.weight_types == []
    assert "q8_0: attention kv4 has rows of 48 weights, no multiple of the 32 of a group" in caplog.text


@torch.no_grad()
def test_scores_are_those_of_the_quantised_block(llama, library, tokens, sequence_length):
    config = SearchSpaceConfig(attention=[2], ffn=[256], weight_bits=[16, 4])
    space = build_search_space(llama.config, config, ["llama.cpp"])
    metric = Metric.of(ScoreConfig(num_tokens=96, batch_size=4), tokens["validation"], sequence_length, seed=0)
    judge = Judge(llama, space, library, metric)
    scores = {(s.layer_idx, s.block): s.value for s in score_blocks(judge)}
    assert len(scores) == sum(map(len, scored_blocks(space, metric.config))) == 4 * (4 + 4 - 1)
    rows = judge.metric.rows.input_ids
    target = llama(rows).logits[:, :-1]
    for text in ("kv4@q4_0+w768", "kv4+w768@q4_0", "kv2@q4_0+w768"):
        block = Block.parse(text)
        blocks = [block if i == 1 else space.parent for i in range(4)]
        model = copy.deepcopy(llama)
        attention, ffn = library.modules(model, 1, block.plain, space.parent)
        model.model.layers[1].self_attn, model.model.layers[1].mlp = copy.deepcopy(attention), ffn
        keep_bits(model, blocks)
        kl = kl_divergence(target, model(rows).logits[:, :-1]).mean().item()
        assert scores[1, text] == pytest.approx(kl, rel=1e-5, abs=1e-7)
        assert judge.distance(blocks)[0] == pytest.approx(kl, rel=1e-5, abs=1e-7)
    assert scores[1, "kv4+w768"] == 0 < scores[1, "kv4+w768@q4_0"]
    assert scores[1, "kv2+w768"] != scores[1, "kv2@q4_0+w768"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = write_recipes(tmp_path_factory.mktemp("bits"))
    recipe = yaml.safe_load((folder / "tiny.yaml").read_text())
    recipe["search_space"] = {"attention": [1], "ffn": [256], "weight_bits": [16, 8, 4]}
    recipe |= {"deploy": ["llama.cpp"], "constraints": {"memory_gb": 2.3e-4}, "baselines": {"names": []}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        assert main(["plan", str(folder / "tiny.yaml"), "--machine", "h200"]) == 0
        assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return load_run(folder / "run", recipe_dir=folder)


def test_a_run_chooses_bits_and_its_file_holds_the_bytes(finished):
    chosen = artifacts.read_json(finished.run_dir / "solutions.json")["chosen"]
    blocks = [Block.parse(text) for text in chosen["blocks"]]
    assert any(block != block.plain for block in blocks)
    costs, folder = finished.costs, finished.run_dir / "distilled"
    held = sum(map(costs.held_bytes, (None, *blocks)))
    path = write_gguf(folder, finished.run_dir / "child.gguf", "f32", vocabulary=False)
    assert held == sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors)
    total = costs.non_block_costs(2)["memory_bytes"] + sum(costs.block_costs(b, 2)["memory_bytes"] for b in blocks)
    cache = sum(costs.kv_bytes_per_token[f"attention:{variant_id('attention', b.attention)}"] for b in blocks)
    assert total == held + 2 * 12 * cache <= 2.3e-4 * 1e9
    child = finished.load_child("distilled")
    expected = rounded_tensors(child.config, child.state_dict(), tensor_types(blocks))
    found, kept = read_gguf(path, child.config, torch.float32), load_kept(finished, "distilled")
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert torch.equal(kept.state_dict()[name], tensor), name
    memory = artifacts.read_json(finished.run_dir / "eval.json")["memory"]["child"]
    assert memory["weight_bytes"] == held
    assert memory["kv_bytes"] == total - held


def test_the_report_says_which_bits(finished):
    chosen = artifacts.read_json(finished.run_dir / "solutions.json")["chosen"]
    report = (finished.run_dir / "report.md").read_text()
    for i, text in enumerate(chosen["blocks"]):
        assert f"| {i} | {' | '.join(text.split('+'))} |" in report


def test_costs_of_files_in_one_type_are_refused(finished):
    for section, key, value, message in (
        ("cost", "gguf_type", "q8_0", "leave it at `auto`"),
        ("parent", "device_map", "auto", "leave parent.device_map out"),
    ):
        recipe = dataclasses.replace(
            finished.recipe, **{section: dataclasses.replace(getattr(finished.recipe, section), **{key: value})}
        )
        with pytest.raises(RecipeError, match=message):
            check_bits(recipe, finished.space)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name, fmt", [("int4", "decilm"), ("int8", "per_layer")])
def test_transformers_opens_what_was_scored_and_holds_the_bytes_that_were_counted(
    make_parent, tmp_path, name, fmt, tied
):
    quanto = pytest.importorskip("optimum.quanto")
    config = make_parent("llama", tie_word_embeddings=tied).config
    blocks = [Block(f"kv4@{name}", 768), Block(2, f"w512@{name}"), Block(f"linear@{name}", 256), Block(4, "none")]
    child = Network(config, blocks, fmt=fmt).random(torch.float32)
    kept = kept_logits(child, blocks)
    folder = hub.write_model_folder(
        tmp_path / "child", child, also=lambda path: write_formats(path, child, blocks), expected=kept
    )
    predicted = non_block_bytes(config, "float32") + sum(
        weight_bytes(config, kind, variant, "float32", fmt)
        for block in blocks
        for kind, variant in zip(("attention", "ffn"), block, strict=True)
    )
    opened = hub.open_model_folder(folder)
    assert weight_bytes_of(opened) == predicted
    assert weight_bytes_of(opened) < weight_bytes_of(child)
    theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    quanto.freeze(theirs)
    assert weight_bytes_of(theirs) == predicted
    for model in (opened, theirs.eval()):
        converted = {path for path, m in model.named_modules() if isinstance(m, quanto.QLinear)}
        assert {path.split(".")[2] for path in converted} == {"0", "1", "2"}
        assert len(converted) == 4 + 3 + 1
        assert (probe_logits(model) - kept).abs().max() < 1e-4 * kept.abs().max()
    verdicts = {verdict.engine: verdict for verdict in check_folder(folder)}
    assert {engine for engine, verdict in verdicts.items() if verdict.status != "no"} == {"transformers"}
    assert "needs optimum-quanto" in verdicts["transformers"].reason
    with pytest.raises(CannotRun, match="without quantization_config in its config.json"):
        export(folder, "vllm", tmp_path / "vllm")


def test_what_transformers_times_is_packed(llama):
    quanto = pytest.importorskip("optimum.quanto")
    blocks = [Block("kv4@int8", 768), *[Block(4, "w768@int8")] * 3]
    bench = Bench(llama, CostConfig(prefill_tokens=4, decode_tokens=2, dtype="float32", threads=1), "decilm")
    child = bench._child(blocks)
    assert sum(isinstance(m, quanto.QLinear) for m in child.modules()) == 4 + 3 * 3
    timings = bench.timings({"child": blocks}, 1, 1)
    assert all(timing.total_ms > 0 for timing in timings["child"])
    assert bench.peak_bytes(blocks, 1) is None


def test_groups_that_padding_would_change_leave_with_a_line(llama, caplog):
    config = SearchSpaceConfig(attention=[2], ffn=[0.25], width_multiple=64, weight_bits=[16, 4])
    with caplog.at_level("INFO"):
        space = build_search_space(llama.config, config, ["transformers"])
    assert space.offered["ffn"] == [768, "w768@int4", 192]
    assert "int4: ffn w192 has a width that is no multiple of 128" in caplog.text
