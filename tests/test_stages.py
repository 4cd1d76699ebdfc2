"""A run is driven through its stages by recording what ran."""

import pytest

from hf_puzzle.stages import Stage, StageError, run_stages


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
