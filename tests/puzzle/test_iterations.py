"""Compressing twice: what the second iteration may cut, what it starts from, and a run of both."""

import dataclasses
import shutil

import pytest
import torch
from tiny_run import steady_clock, write_recipes

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.cli import main
from hf_puzzle.conversions import probe_logits
from hf_puzzle.evaluation import Targets
from hf_puzzle.puzzle.importance import channel_importance as importance_of_parent
from hf_puzzle.puzzle.iterations import (
    Iteration,
    channel_importance,
    check_iterations,
    each_of,
    hosted,
    interpolated,
    may_become,
    narrowed,
)
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.pipeline import PuzzleRun, load_run
from hf_puzzle.puzzle.plan import plan
from hf_puzzle.puzzle.scoring import score_blocks
from hf_puzzle.recipe import ConstraintsConfig, RecipeError, ScoreConfig, load_recipe


@pytest.mark.parametrize(
    "kind, own, variant, may",
    [
        ("attention", 4, 2, True),
        ("attention", 2, 1, True),
        ("attention", 2, 4, False),
        ("attention", 2, "linear", True),
        ("attention", 2, "none", True),
        ("attention", 2, "kv2win512", True),
        ("attention", 2, "kv4win512", False),
        ("attention", "kv2win512", "kv1win512", True),
        ("attention", "kv2win512", 2, False),
        ("attention", 2, "gla4", False),  # its states are made of the parent's heads
        ("attention", 4, "gla4", True),
        ("attention", "linear", "none", True),
        ("attention", "linear", 1, False),
        ("attention", "none", "linear", False),
        ("ffn", 512, 256, True),
        ("ffn", 512, 768, False),
        ("ffn", 512, "linear", True),
        ("ffn", "linear", 256, False),
        ("ffn", "r64", "r64", True),
    ],
)
def test_cuts_are_of_what_a_child_has(kind, own, variant, may):
    assert may_become(kind, own, 4 if kind == "attention" else 768, variant) is may


def test_a_narrowed_space_keeps_only_cuts_of_the_child(space):
    blocks = [Block(4, 768), Block(2, 256), Block("linear", "none"), Block("none", 512)]
    after = narrowed(space, blocks)
    assert after.parents == tuple(blocks)
    assert after.layers[0].blocks == space.layers[0].blocks
    for layer, own, full in zip(after.layers, blocks, space.layers, strict=True):
        assert layer.blocks[0] == own
        assert set(layer.blocks) <= set(full.blocks)
        assert (layer.attention[0], layer.ffn[0]) == own
    assert set(after.layers[1].attention) == {2, 1, "linear", "none"}
    assert set(after.layers[2].blocks) == {Block(a, "none") for a in ("linear", "none")}


@pytest.fixture(scope="module")
def second(llama, library, space):
    """A child of all sorts of blocks, in its own code and in the parent's."""
    blocks = [Block(4, 768), Block(2, 256), Block("linear", "none"), Block("none", 512)]
    child = Network(llama.config, blocks, library).assembled(llama)
    with torch.no_grad():  # as after training: not what the library has
        for parameter in child.parameters():
            parameter.mul_(1.01)
    return blocks, child, hosted(llama, child, blocks, "decilm")


def test_a_child_in_its_parents_code_is_the_child(second, llama):
    blocks, child, host = second
    assert type(host) is type(llama)
    assert torch.allclose(probe_logits(host), probe_logits(child), atol=1e-5)
    again = Network(llama.config, blocks, None, parents=blocks)
    assert again.swaps(host) == {}


def test_channels_of_a_child_are_ranked_however_wide_it_is(second, llama, tokens, sequence_length):
    blocks, _, host = second
    rows = tokens["train"][: 4 * sequence_length].view(4, -1)
    ranked = channel_importance(host, blocks, rows, 2)
    assert {name: len(each) for name, each in ranked.items()} == {"layer_0": 768, "layer_1": 256, "layer_3": 512}
    own = [Block(4, 768)] * 4
    for name, expected in importance_of_parent(llama, rows, 2).items():
        assert torch.allclose(channel_importance(llama, own, rows, 2)[name], expected, rtol=1e-4)


def test_a_child_is_judged_against_the_parent_of_all(second, llama, library, space, tokens, sequence_length):
    """Scores in a child are the distances of whole networks from the parent."""
    blocks, child, host = second
    metric = Metric.of(ScoreConfig(num_tokens=64, blocks="all"), tokens["validation"], sequence_length, 0)
    after = narrowed(space, blocks)
    kept = dataclasses.replace(
        after, layers=tuple(dataclasses.replace(s, blocks=(s.blocks[0], Block("none", "none"))) for s in after.layers)
    )
    judge = Judge(host, kept, library, metric, llama)
    scores = {(s.layer_idx, s.block): s.value for s in score_blocks(judge)}
    whole, _ = judge.distance(blocks)
    own = Targets(llama, metric.rows, 4).compare(host)  # by the host's own head, which GKD trained, too
    assert whole == pytest.approx(own.mean("kl")[0], rel=1e-4)
    for layer_idx in range(4):
        assert scores[layer_idx, blocks[layer_idx].id] == pytest.approx(whole, rel=1e-4)
        layout = [*blocks[:layer_idx], Block("none", "none"), *blocks[layer_idx + 1 :]]
        assert scores[layer_idx, "none+none"] == pytest.approx(judge.distance(layout)[0], rel=1e-4)


# -- a run


ASKED = ["solve.iterations=2", "baselines.names=[]", "constraints={speedup: 1.5}"]


def run_of(folder, out, *more):
    return main(
        ["run", str(folder / "tiny.yaml"), "--out", str(out), *(a for s in (*ASKED, *more) for a in ("--set", s))]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_recipes(tmp_path_factory.mktemp("iterations"))
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        assert run_of(folder, folder / "run") == 0
    return folder


def test_the_second_child_is_cut_from_the_first(folder):
    run = load_run(folder / "run", recipe_dir=folder)
    first, last = Iteration(run, 1), Iteration(run, 2)
    assert (first.constraints.speedup, last.constraints.speedup) == (pytest.approx(1.5**0.5), 1.5)
    assert last.space == narrowed(run.space, first.blocks)
    for i, block in enumerate(last.blocks):
        assert block in last.space.layers[i].blocks
    chosen = run.chosen
    assert chosen["measured"]["total"]["value"] >= 1.5
    assert artifacts.read_json(folder / "run/iterations/1/solutions.json")["chosen"]["measured"] is None
    summed = sum(s.value for s in last.scores if s.block == first.blocks[s.layer_idx].id)
    assert summed == pytest.approx(last.judge.distance(first.blocks)[0], rel=1e-3)
    child, evaluation = run.load_child("distilled"), artifacts.read_json(folder / "run/eval.json")
    assert evaluation["memory"]["child"]["num_parameters"] == child.num_parameters()
    assert evaluation["gkd_tokens"] == 256
    report = (folder / "run/report.md").read_text()
    assert "| 1 | speedup 1.225 |" in report
    assert "| 2 | speedup 1.5 |" in report
    assert artifacts.read_json(folder / "run/distilled/puzzle.json")["chosen"] == chosen


def test_what_the_second_child_keeps_has_the_first_ones_weights(folder):
    run = load_run(folder / "run", recipe_dir=folder)
    last = Iteration(run, 2)
    assembled = last.network(list(last.space.parents)).assembled(last.host)
    trained = artifacts.read_tensors(folder / "run/iterations/1/distilled/model.safetensors")
    for name, tensor in trained.items():
        assert torch.equal(assembled.state_dict()[name], tensor), name


def test_a_finished_iteration_is_reused(folder, tmp_path, monkeypatch, caplog):
    steady_clock(monkeypatch)
    out = tmp_path / "run"
    shutil.copytree(folder / "run", out)
    (out / "iterations/2/scores.jsonl").unlink()
    with caplog.at_level("INFO", logger="hf_puzzle"):
        assert run_of(folder, out) == 0
    began = [
        m.partition(":")[0] for r in caplog.records if (m := r.getMessage()).endswith((": starts", ": continues"))
    ]
    assert began[:1] == ["score_2"]
    assert "distill_1" not in began
    same = artifacts.read_json(out / "solutions.json")["chosen"]["blocks"]
    assert same == artifacts.read_json(folder / "run/solutions.json")["chosen"]["blocks"]


def test_another_target_is_solved_from_the_last_scores(folder):
    run = load_run(folder / "run", ["constraints.speedup=1.55"], folder)
    last = Iteration(run, 2)
    for candidate in run.resolve():
        assert all(block in layer.blocks for block, layer in zip(candidate.blocks, last.space.layers, strict=True))


def test_one_iteration_is_what_it_was(folder, tmp_path):
    run = PuzzleRun(load_recipe(folder / "tiny.yaml"), tmp_path, folder)
    assert run.each is run.recipe
    stages = {stage.name: stage for stage in run.stages()}
    assert not [name for name in stages if "_" in name and name != "baseline_speeds"]
    assert "iterations" not in stages["solve"].settings[1]
    assert stages["solve"].outputs == ("solutions.json",)
    assert stages["solve"].needs == ("score", "cost")


def test_tokens_are_split(folder, tmp_path):
    recipe = load_recipe(folder / "tiny.yaml", ASKED)
    each = each_of(recipe)
    assert (each.library.num_tokens, each.distill.num_tokens) == (256, 128)
    made = {stage.stage: stage for stage in plan(recipe, folder, "l4").stages}
    once = {s.stage: s for s in plan(load_recipe(folder / "tiny.yaml", ASKED[1:]), folder, "l4").stages}
    assert list(made)[4:] == ["score", "cost", "solve_1", "child_1", "distill_1", "library_2", "score_2", "solve", "child",
                              "distill", "evaluate", "baselines", "baseline_speeds", "report"]  # fmt: skip
    assert made["distill_1"].seconds == made["distill"].seconds < once["distill"].seconds
    assert made["library_2"].memory["child"] > 0


@pytest.mark.parametrize(
    "change, said",
    [
        ("baselines.names=[uniform]", "baselines are made in one step"),
        ("library.coupling=coupled", "blocks are trained apart"),
        ("library.states=streamed", "parent and child are whole on one device"),
    ],
)
def test_what_is_compressed_once_is_refused_by_name(folder, change, said):
    with pytest.raises(RecipeError, match=f"solve.iterations: 2: {said}"):
        check_iterations(load_recipe(folder / "tiny.yaml", [*ASKED, change]), None)


def test_targets_in_between(folder):
    run = load_run(folder / "run", recipe_dir=folder)
    asked = ConstraintsConfig(num_parameters=80_000, latency_ms=1e9, memory_gb=1e-4)
    half = interpolated(asked, run.costs, run.space.parents, 0.5)
    own = run.parent.num_parameters()
    assert half.num_parameters == pytest.approx((own * 80_000) ** 0.5, abs=1)
    assert half.latency_ms == 1e9  # the parent meets it
    assert half.memory_gb > 1e-4
    assert interpolated(asked, run.costs, run.space.parents, 1.0) == asked
