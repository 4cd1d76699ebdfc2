"""Keys and values in fewer bits: scored, counted, served, and one type for all layers."""

import shutil

import pytest
import yaml
from tiny_run import steady_clock, write_recipes

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.cards import write_card
from hf_puzzle.cli import main
from hf_puzzle.costs import Workload
from hf_puzzle.engines import measuring, serving
from hf_puzzle.engines.cache_types import rounded_cache
from hf_puzzle.engines.export import export
from hf_puzzle.evaluation import Targets
from hf_puzzle.formats import DECILM
from hf_puzzle.puzzle.assess import test_rows as rows_of
from hf_puzzle.puzzle.bench import Bench
from hf_puzzle.puzzle.block_costs import kv_bytes_per_token
from hf_puzzle.puzzle.checks import check_kv_cache
from hf_puzzle.puzzle.deployed import in_llama_cpp
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.pipeline import PuzzleRun, load_run
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import CostConfig, RecipeError, ScoreConfig, SearchSpaceConfig, load_recipe


for package in ("gguf", "llama_cpp"):
    pytest.importorskip(package)


def test_bytes_of_a_token(make_parent):
    config = make_parent("llama", num_attention_heads=2, num_key_value_heads=2).config
    assert kv_bytes_per_token(config, 2, "float32") == 2 * 2 * 32 * 4
    assert kv_bytes_per_token(config, 2, "float32", "q8_0") == 2 * 2 * 34
    assert kv_bytes_per_token(config, 1, "float32", "q4_0") == 2 * 18
    assert kv_bytes_per_token(config, "none", "float32", "q4_0") == 0


def test_networks_are_rounded_and_their_teacher_is_not(make_parent, tokens, sequence_length, tmp_path):
    parent = make_parent("llama", num_attention_heads=2, num_key_value_heads=2)
    space = build_search_space(parent.config, SearchSpaceConfig(attention=["none"], ffn=["none"]))
    metric = Metric.of(ScoreConfig(num_tokens=96, batch_size=4), tokens["validation"], sequence_length, 0)
    judge = Judge(parent, space, BlockLibrary(tmp_path), metric, cache_type="q4_0")
    targets = Targets(parent, metric.rows, 4)
    with rounded_cache("q4_0"):
        expected = targets.compare(parent).mean("kl")[0]
    assert 0 < expected == pytest.approx(judge.distance(space.parents)[0], rel=1e-5)
    for layer_idx, values in judge.block_values(range(4)):
        own = values[space.parents[layer_idx].id]
        assert own.mean().item() == pytest.approx(expected, rel=1e-4)
        layout = [*space.parents[:layer_idx], Block("none", 768), *space.parents[layer_idx + 1 :]]
        assert values["none+w768"].mean().item() == pytest.approx(judge.distance(layout)[0], rel=1e-4)


def test_children_are_timed_with_it_and_the_stock_parent_is_not(make_parent, monkeypatch):
    parent, opened = make_parent("llama", num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2), []
    open_file = measuring.llama_cpp.from_model

    def recorded(*args, kv_dtype, **options):
        opened.append(kv_dtype)
        return open_file(*args, kv_dtype=kv_dtype, **options)

    monkeypatch.setattr(measuring.llama_cpp, "from_model", recorded)
    config = CostConfig(prefill_tokens=4, decode_tokens=2, dtype="float32", engine="llama.cpp", clock="cpu", threads=1)
    bench = Bench(parent, config, DECILM, cache_type="q8_0")
    assert bench.timings({"child": [Block(1, 256)] * 2}, 1, 1).keys() == {"parent", "0", "child"}
    assert opened == ["f16", "q8_0", "q8_0"]  # both parents, the child


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose children keep keys and values in four bits."""
    folder = write_recipes(tmp_path_factory.mktemp("kv_cache"))
    parent = yaml.safe_load((folder / "tiny_parent.yaml").read_text())
    parent["config"] |= {"hidden_size": 64}  # heads of 32
    (folder / "tiny_parent.yaml").write_text(yaml.safe_dump(parent))
    recipe = yaml.safe_load((folder / "tiny.yaml").read_text())
    recipe["search_space"] = {"attention": [1], "ffn": [256]}
    recipe |= {"deploy": ["llama.cpp"], "constraints": {"memory_gb": 1.1e-3}, "baselines": {"names": ["greedy"]}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe | {"kv_cache": {"bits": 4}}))
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder


def test_a_child_is_measured_and_counted_with_its_cache(folder):
    run = load_run(folder / "run", recipe_dir=folder)
    evaluation, child = artifacts.read_json(folder / "run/eval.json"), run.load_child("distilled")
    targets = Targets(run.teacher, rows_of(run), run.recipe.evaluate.batch_size)
    with rounded_cache("q4_0"):
        kl = targets.compare(child).mean("kl")[0]
    assert evaluation["quality"]["distilled"]["kl"] == pytest.approx(kl, rel=1e-5)
    assert targets.compare(child).mean("kl")[0] != pytest.approx(kl, rel=1e-5)
    workload = Workload(1, 4, 2)
    deployed = in_llama_cpp(run.teacher, child, rows_of(run), "f32", 1, 1, workload, "cpu", cache_type="q4_0")
    assert deployed["quality"]["child"]["kl"] == pytest.approx(kl, rel=1e-2)
    # scores add up to the distance of a whole network, rounding included
    own = sum(s.value for s in run.scores if s.block == run.space.parents[s.layer_idx].id)
    assert own == pytest.approx(run.judge.distance(list(run.space.parents))[0], rel=1e-3)
    tokens, memory = 2 * (8 + 4), evaluation["memory"]
    heads = sum(Block.parse(text).attention for text in run.chosen["blocks"])
    assert memory["child"]["kv_bytes"] == tokens * heads * 2 * 18
    assert memory["parent"]["kv_bytes"] == tokens * 3 * 2 * 2 * 32 * 4
    held = memory["child"]["kv_bytes"] + memory["child"]["weight_bytes"]
    assert held <= 1.1e6


def test_its_gguf_file_says_so_and_is_served_so(folder, monkeypatch):
    assert artifacts.read_json(folder / "run/distilled/puzzle.json")["cache_type"] == "q4_0"
    export(folder / "run/distilled", "llama.cpp", folder / "child.gguf", outtype="f32")
    monkeypatch.setattr(serving.shutil, "which", lambda name: f"/bin/{name}")
    flags = ["--cache-type-k", "q4_0", "--cache-type-v", "q4_0", "--flash-attn", "on"]
    assert serving.command(folder / "child.gguf")[1] == ["/bin/llama-server", "-m", str(folder / "child.gguf"), *flags]
    monkeypatch.setattr(serving.shutil, "which", lambda name: None)
    monkeypatch.setattr(serving, "find_spec", lambda name: name)
    words = serving.command(folder / "child.gguf")[1]
    assert words[-6:] == ["--type_k", "2", "--type_v", "2", "--flash_attn", "true"]


def test_its_report_and_card_say_the_type(folder, tmp_path):
    assert "| keys and values in llama.cpp's | f16 | q4_0 |" in (folder / "run/report.md").read_text()
    shutil.copytree(folder / "run/distilled", tmp_path / "staged")
    write_card(tmp_path / "staged", folder / "run", "me/x")
    card = (tmp_path / "staged/README.md").read_text()
    assert "llama-server -m child.gguf --cache-type-k q4_0 --cache-type-v q4_0 --flash-attn on\n" in card
    assert "| keys and values in llama.cpp's | `f16` | q4_0 | |" in card


def test_sixteen_bits_are_the_stages_of_before(folder):
    def stages(*changes):
        recipe = load_recipe(folder / "tiny.yaml", list(changes))
        return {stage.name: stage.settings for stage in PuzzleRun(recipe, folder / "run", folder).stages()}

    four, whole = stages(), stages("kv_cache.bits=16")
    assert [name for name in four if four[name] != whole[name]] == ["score", "cost"]
    assert "kv_cache" not in str(whole["score"])


@pytest.mark.parametrize(
    "changes, message",
    [
        (["kv_cache.bits=3"], "kv_cache.bits: 3 is none of 16, 8, 4"),
        (["deploy=[]"], "q4_0 is a cache type of llama.cpp, for all layers at once, and deploy is"),
        (["deploy=[llama.cpp, vllm]"], "set `deploy: .llama.cpp.`, or leave kv_cache out"),
    ],
)
def test_what_no_cache_holds_is_refused_by_name(folder, changes, message):
    run = PuzzleRun(load_recipe(folder / "tiny.yaml", changes), folder / "none", folder)
    with pytest.raises(RecipeError, match=message):
        run.check_recipe()


def test_heads_that_fill_no_group_are_refused(folder, tmp_path, llama):
    run = PuzzleRun(load_recipe(folder / "tiny.yaml"), tmp_path, folder, parent=llama)
    with pytest.raises(RecipeError, match="q4_0 keeps groups of 32 numbers, and heads of 16 are no multiple of it"):
        check_kv_cache(run)
