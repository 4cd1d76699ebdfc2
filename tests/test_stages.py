"""A run is driven through its stages by recording what ran."""

import pytest

from hf_puzzle import artifacts
from hf_puzzle.stages import EVENTS, InProcess, Stage, StageError, run_stages, time_spent


NEEDS = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


class Run:
    """Four stages, a -> (b, c) -> d; each writes its file and notes that it ran."""

    def __init__(self, folder):
        self.folder, self.settings, self.ran, self.said, self.fail = folder, dict.fromkeys(NEEDS, 0), [], [], None

    def __call__(self, **kwargs):
        self.ran, self.said = [], []
        stages = [Stage(n, lambda n=n: self.write(n), self.settings[n], NEEDS[n], (f"{n}.txt",)) for n in NEEDS]
        run_stages(self.folder, stages, say=self.said.append, **kwargs)
        return "".join(self.ran)

    def write(self, name):
        self.ran.append(name)
        with open(self.folder / f"{name}.txt", "a") as file:
            file.write(f"{self.settings[name]};")
        if self.fail == name:
            raise KeyboardInterrupt

    def text(self, name):
        return (self.folder / f"{name}.txt").read_text()


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_finished_stages_are_reused(run):
    assert run() == "abcd"
    assert run() == ""
    assert all("reused" in line for line in run.said)
    assert [run.text(name) for name in NEEDS] == ["0;"] * 4


@pytest.mark.parametrize("stage, again", [("a", "abcd"), ("b", "bd"), ("c", "cd"), ("d", "d")])
def test_changed_settings_rerun_that_stage_and_what_needs_it(run, stage, again):
    run()
    run.settings[stage] = 1
    assert run() == again
    assert run.text(stage) == "1;"  # made from other inputs: the old file was deleted first
    assert all(run.text(name) == "0;" for name in NEEDS if name != stage)
    assert run() == ""
    run.settings[stage] = 0
    assert run() == again


def test_an_interrupted_stage_continues_with_its_files(run):
    run.fail = "c"
    with pytest.raises(KeyboardInterrupt):
        run()
    assert "".join(run.ran) == "abc"
    run.fail = None
    assert run() == "cd"
    assert run.said[2] == "c: continues"
    assert run.text("c") == "0;0;"  # its partial file was there
    assert run() == ""


def test_an_interrupted_stage_of_other_inputs_starts_afresh(run):
    run.fail = "c"
    with pytest.raises(KeyboardInterrupt):
        run()
    run.fail, run.settings["c"] = None, 1
    assert run() == "cd"
    assert run.said[2] == "c: starts"
    assert run.text("c") == "1;"


def test_scratch_goes_with_the_inputs_and_is_not_needed(tmp_path):
    seen = []

    def train(value, fails):
        seen.append((tmp_path / "checkpoints").exists())
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        if fails:
            raise KeyboardInterrupt
        (tmp_path / "out").write_text(value)
        (tmp_path / "checkpoints").rmdir()

    def start(value, fails=False):
        stage = Stage("train", lambda: train(value, fails), value, (), ("out",), ("checkpoints",))
        run_stages(tmp_path, [stage], say=lambda line: None)

    for value, fails in (("1", True), ("1", True), ("2", True), ("2", False), ("2", False)):
        try:
            start(value, fails)
        except KeyboardInterrupt:
            assert fails
    # kept for a rerun, deleted when the settings change, kept again; the last call reused the stage
    assert seen == [False, True, False, True]


def test_a_lost_output_is_made_again(run):
    run()
    (run.folder / "b.txt").unlink()
    assert run() == "b"
    assert run() == ""


def test_from_runs_that_stage_and_all_later_ones(run):
    run()
    assert run(start="c") == "cd"
    assert [run.text(name) for name in NEEDS] == ["0;"] * 4  # made afresh, not continued
    assert run(start="a") == "abcd"


def test_only_runs_one_stage_again(run):
    run()
    assert run(only="b") == "b"
    assert run.text("b") == "0;"
    assert run() == ""


def test_only_needs_what_the_stage_reads(run):
    with pytest.raises(StageError, match="stage 'd' needs b, c: run without --only first"):
        run(only="d")
    run()
    run.settings["b"] = 1
    with pytest.raises(StageError, match="stage 'd' needs b:"):
        run(only="d")
    assert run(only="b") == "b"
    assert run(only="d") == "d"
    assert run() == ""


def test_only_continues_an_interrupted_stage(run):
    run.fail = "b"
    with pytest.raises(KeyboardInterrupt):
        run()
    run.fail = None
    assert run(only="b") == "b"
    assert run.text("b") == "0;0;"


@pytest.mark.parametrize("key", ["only", "start"])
def test_unknown_stages_are_named(run, key):
    with pytest.raises(StageError, match="unknown stage 'e'; stages: a, b, c, d"):
        run(**{key: "e"})
    assert not (run.folder / "manifest.json").exists()


def test_a_damaged_output_is_made_again_and_said(run):
    run()
    for text in ("", None):
        path = run.folder / "b.txt"
        path.write_text(text) if text is not None else path.unlink()
        assert run() == "b"
        assert any("b.txt is missing or was changed" in line for line in run.said)
        assert run.text("b") == "0;"
        assert run() == ""


def parts(folder, executor=None, **options):
    """A stage of three units in as many tasks as there are workers; merged to one file."""
    folder = folder / "run"

    def work(first, last):
        for i in range(first, last):
            artifacts.append_jsonl(folder / "parts" / f"{first}.jsonl", {"i": i})

    def done():
        return sorted(r["i"] for p in (folder / "parts").glob("*.jsonl") for r in artifacts.read_jsonl(p))

    def tasks(workers):
        left = [i for i in range(3) if i not in done()]
        return (
            [{"first": i, "last": i + 1} for i in left] if workers > 1 else [{"first": i, "last": 3} for i in left[:1]]
        )

    def merge():
        artifacts.write_json(folder / "out.json", done())

    stage = Stage("s", work, 0, (), ("out.json",), ("parts",), tasks=tasks, merge=merge, **options)
    run_stages(folder, [stage], executor=executor)
    return artifacts.read_json(folder / "out.json"), artifacts.read_jsonl(folder / EVENTS)


class Backwards(InProcess):
    workers = 3

    def run(self, stage, tasks, on_event):
        super().run(stage, tasks[::-1], on_event)


def test_tasks_give_the_same_outputs_whoever_runs_them(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, events = parts(tmp_path / "a")
    assert one == [0, 1, 2]
    assert [e["event"] for e in events] == ["stage_started", "task_started", "task_finished", "stage_finished"]
    assert {e["stage"] for e in events} == {"s"}
    three, events = parts(tmp_path / "b", Backwards())
    assert three == one
    assert [e["task"] for e in events if e["event"] == "task_finished"] == [
        f"first={i} last={i + 1}" for i in (2, 1, 0)
    ]
    ((stage, wall, work),) = time_spent(tmp_path / "b" / "run")
    assert stage == "s"
    assert 0 <= work <= wall


def test_a_failed_stage_is_an_event_with_its_cause(tmp_path):
    def fails():
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        run_stages(tmp_path, [Stage("s", fails, 0, (), ("out",))])
    assert artifacts.read_jsonl(tmp_path / EVENTS)[-1]["error"] == "ValueError: no such thing"


def test_a_kill_right_after_the_work_repeats_nothing(tmp_path, monkeypatch):
    """What a stage continues from goes only when the manifest says that it has finished."""
    (tmp_path / "a").mkdir()
    finish = artifacts.Manifest.finish

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.Manifest, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        parts(tmp_path / "a")
    monkeypatch.setattr(artifacts.Manifest, "finish", finish)
    result, events = parts(tmp_path / "a")
    assert result == [0, 1, 2]
    assert [e["tasks"] for e in events if e["event"] == "stage_started"] == [1, 0]
    assert not (tmp_path / "a/run/parts").exists()


def test_a_kill_during_a_repair_loses_no_other_part(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    made = []

    def work():
        for name in ("one", "two"):
            if not (folder / "out" / name).exists():
                made.append(name)
                artifacts.write_text(folder / "out" / name, name)

    stage = Stage("s", work, 0, (), ("out",), keeps_parts=True)
    run_stages(folder, [stage])
    (folder / "out" / "one").write_text("spoiled")
    begin = artifacts.Manifest.begin

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.Manifest, "begin", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stages(folder, [stage])
    monkeypatch.setattr(artifacts.Manifest, "begin", begin)
    run_stages(folder, [stage])
    assert made == ["one", "two", "one"]


def test_a_lost_manifest_keeps_what_the_running_stage_did(tmp_path):
    folder = tmp_path / "run"

    def fails():
        artifacts.write_text(
            folder / "out", (folder / "out").read_text() + "+" if (folder / "out").exists() else "work"
        )
        if "+" not in (folder / "out").read_text():
            raise KeyboardInterrupt

    stages = [Stage("first", lambda: None, 0, (), ()), Stage("s", fails, 0, ("first",), ("out",))]
    with pytest.raises(KeyboardInterrupt):
        run_stages(folder, stages)
    with open(folder / "manifest.json", "r+b") as file:
        file.truncate(30)
    run_stages(folder, stages)
    assert (folder / "out").read_text() == "work+"


def test_only_refuses_inputs_that_were_spoiled(run):
    run()
    (run.folder / "b.txt").write_text("spoiled")
    with pytest.raises(StageError, match="'d' needs b: run without --only first"):
        run(only="d")


def test_time_counts_killed_sittings(tmp_path):
    rows = [
        ("stage_started", 0.0, {}), ("task_finished", 5.0, {"seconds": 4.0}),  # killed
        ("stage_reused", 0.5, {}), ("stage_started", 1.0, {}), ("stage_finished", 3.0, {"seconds": 2.0}),
    ]  # fmt: skip
    for event, elapsed, more in rows:
        artifacts.append_jsonl(tmp_path / EVENTS, {"event": event, "elapsed_s": elapsed, "stage": "s", **more})
    assert time_spent(tmp_path) == [("s", 7.0, 4.0)]
