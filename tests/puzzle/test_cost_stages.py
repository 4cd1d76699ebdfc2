"""A run whose costs are measured behind prompts of two lengths, from the command line to its card."""

import shutil

import pytest
from tiny_run import steady_clock, write_recipes

from hf_puzzle import artifacts
from hf_puzzle.cards import write_card
from hf_puzzle.cli import main
from hf_puzzle.puzzle.pipeline import PuzzleRun, load_run
from hf_puzzle.puzzle.plan import plan
from hf_puzzle.recipe import load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_recipes(tmp_path_factory.mktemp("lengths"))
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        assert started(folder, "[8, 24]") == 0
    return folder


def started(folder, lengths):
    asked = [f"cost.prefill_tokens={lengths}", "baselines.names=[]", "constraints={speedup: 1.2}"]
    return main(
        ["run", str(folder / "tiny.yaml"), "--out", str(folder / "run"), *(a for s in asked for a in ("--set", s))]
    )


def test_every_length_has_its_table_and_its_row(folder):
    run = load_run(folder / "run", recipe_dir=folder)
    assert run.costs.workload["prefill_tokens"] == list(run.costs.lengths) == [8, 24]
    for length, table in run.costs.lengths.items():
        stored = artifacts.read_json(folder / "run" / f"costs.{length}_tokens.json")
        assert table.to_dict()["workload"] == stored["workload"]
    assert set(run.chosen["solution"]["costs"]) >= {"8_total_ms", "24_prefill_ms"}
    evaluation = artifacts.read_json(folder / "run" / "eval.json")
    assert evaluation["workload"] == {"batch_size": 2, "prefill_tokens": [8, 24], "decode_tokens": 4}
    assert [row["prefill_tokens"] for row in evaluation["speed"]["by_length"]] == [8, 24]
    report = (folder / "run" / "report.md").read_text()
    assert "| throughput behind 24 tokens, tokens/s |" in report
    assert "8 and 24 prompt and 4 generated tokens" in report


def test_the_card_names_each_length(folder, tmp_path):
    shutil.copytree(folder / "run" / "distilled", tmp_path / "staged")
    write_card(tmp_path / "staged", folder / "run", "me/x")
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "| throughput behind 24 tokens, tokens per second |" in card
    assert "8 or 24 prompt and 4 generated tokens" in card


def test_another_length_is_measured_alone(folder, caplog, monkeypatch):
    steady_clock(monkeypatch)
    with caplog.at_level("INFO", logger="hf_puzzle"):
        assert started(folder, "[8, 40]") == 0
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("cost_8: reused") for line in lines)
    assert {"cost_40: starts", "cost: starts", "solve: starts"} <= set(lines)


def test_one_length_is_what_it_was(folder, tmp_path):
    def stages(*changes):
        return {
            s.name: s for s in PuzzleRun(load_recipe(folder / "tiny.yaml", list(changes)), tmp_path, folder).stages()
        }

    one, two = stages(), stages("cost.prefill_tokens=[8, 24]")
    assert one["cost"].settings[0]["prefill_tokens"] == 8
    assert one["cost"].outputs == ("costs.json",)
    assert two["cost_8"].settings == one["cost"].settings
    assert two["cost"].needs == ("cost_8", "cost_24")


def test_plans_count_every_length(folder):
    def seconds(lengths):
        recipe = load_recipe(folder / "tiny.yaml", [f"cost.prefill_tokens={lengths}"])
        return {stage.stage: stage for stage in plan(recipe, folder, "l4").stages}

    one, two = seconds("8"), seconds("[8, 24]")
    assert two["cost_8"].seconds == pytest.approx(one["cost"].seconds)
    assert two["cost_24"].seconds >= two["cost_8"].seconds
    assert two["cost"].seconds < one["cost"].seconds + 1
