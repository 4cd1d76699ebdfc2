"""Windows and experts on a run's parent and child: the recipes' own numbers, side by side, in the report."""

import json
import shutil

import pytest
import yaml
from tiny_run import steady_clock, write_recipes

from hf_puzzle import artifacts
from hf_puzzle.cli import main
from hf_puzzle.puzzle import systems


PCW = {
    "system": "pcw",
    # what the recipe says of its own model is of that one
    "model": {"name": "nowhere", "gguf_file": "nowhere.gguf"},
    "datasets": [{"name": "episode", "num_classes": 2, "title": "two"}],
    "protocol": {"num_windows": [1, 2], "modes": ["pcw", "single"], "draws": 2, "test_items": 6, "context_size": 48},
}
MRKL = {
    "system": "mrkl",
    "today": "2022-05-02",
    "train": {"num_steps": 1},
    "questions": ["What is 12 times 34?", "Who wrote this?", "What is 2 plus 2?"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose recipe names both."""
    folder = write_recipes(tmp_path_factory.mktemp("systems"))
    for name, recipe in (("windows", PCW), ("experts", MRKL)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    recipe = yaml.safe_load((folder / "tiny.yaml").read_text())
    recipe["evaluate"]["systems"] = ["windows.yaml", "experts.yaml"]
    recipe["baselines"] = {"names": []}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_both_sides_answer_with_their_own_weights(run):
    rows = artifacts.read_json(run / systems.TABLE)
    assert {row["system"] for row in rows} == {"pcw", "mrkl"}
    for row in rows:
        assert row["gain"] == pytest.approx(row["child"] - row["parent"])
    for side, name in (("parent", "parent"), ("distilled", "distilled")):
        used = artifacts.read_json(run / systems.FOLDER / f"windows_{side}" / "pcw.json")["recipe"]
        assert used["model"]["name"] == str((run / name).resolve())
        assert used["train"] is None


def test_windows_are_paired_by_draw(run):
    draws = {s: artifacts.read_jsonl(run / systems.FOLDER / f"windows_{s}" / "draws.jsonl") for s in systems.SIDES}
    (row,) = (r for r in artifacts.read_json(run / systems.TABLE) if r["what"] == "two: pcw, B=2")
    for side, key in (("parent", "parent"), ("distilled", "child")):
        values = [d["accuracy"] for d in draws[side] if (d["mode"], d["num_windows"]) == ("pcw", 2)]
        assert row[key] == pytest.approx(sum(values) / len(values))


def test_what_experts_answer_does_not_depend_on_the_model(run):
    answered, same = (row for row in artifacts.read_json(run / systems.TABLE) if row["system"] == "mrkl")
    assert answered["parent"] == answered["child"] == pytest.approx(2 / 3)
    assert same["child"] == 1.0


def test_the_report_has_the_table(run):
    report = (run / "report.md").read_text()
    assert "| pcw | two: pcw, B=1 |" in report
    assert "| mrkl | questions that experts answered | 66.7% | 66.7% | +0.0%" in report


def test_a_changed_recipe_of_windows_runs_again_and_nothing_else_does(run, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(run.parent, folder)
    (folder / "windows.yaml").write_text(yaml.safe_dump(PCW | {"seed": 3}))
    before = {name: entry["finished"] for name, entry in artifacts.read_json(folder / "run/manifest.json").items()}
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    after = {name: entry["finished"] for name, entry in artifacts.read_json(folder / "run/manifest.json").items()}
    assert {name for name in before if before[name] != after[name]} == {"systems", "report"}


@pytest.mark.parametrize(
    "names, message",
    [
        (["nowhere.yaml"], "cannot read recipe"),
        (["tiny.yaml"], "of `system: puzzle`, not of pcw or mrkl"),
        (["windows.yaml", "copy/windows.yaml"], "two recipes are called 'windows'"),
    ],
)
def test_wrong_recipes_are_named_before_compute(run, tmp_path, capsys, names, message):
    folder = run.parent
    out = tmp_path / "out"
    arguments = ["--set", f"evaluate.systems={json.dumps(names)}", "--set", f"parent.name={run / 'parent'}"]
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "manifest.json").exists()
