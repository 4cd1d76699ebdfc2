"""Lines where there is no terminal: what they say by a clock of the test's own, that they come, and that bars stay bars."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hf_puzzle import progress
from hf_puzzle.progress import Step, bar, line, seconds_between, under_way
from hf_puzzle.stages import Stage, run_stages


ROOT = Path(progress.__file__).parent


@pytest.fixture(autouse=True)
def nothing_under_way(monkeypatch):
    monkeypatch.setattr(progress, "_open", [])
    monkeypatch.setattr(progress, "_thread", None)
    monkeypatch.setenv(progress.EVERY, "0")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_line_has_done_total_and_time_left():
    clock = Clock()
    step = Step("score", total=10, initial=2, clock=clock)
    assert line() == "score 2 of 10, ? left"
    clock.now = 60.0
    step.update(3)
    assert line() == "score 5 of 10, 01:40 left"  # 20 s a unit; those that were done before took no time of this one
    step.set_postfix(loss="0.5")
    clock.now, step.n = 80.0, 10
    assert line() == "score 10 of 10, 00:00 left, loss 0.5"
    step.close()
    step.close()
    assert line() == ""


def test_a_step_of_unknown_length_says_how_long_it_has_taken():
    clock = Clock()
    Step("cost", clock=clock)
    clock.now = 3700.0
    assert line() == "cost, 1:01:40 so far"


def test_lines_go_from_the_outermost_inwards():
    seen = []
    with under_way("solve"):
        for _ in bar([1, 2], desc="rounds"):
            inner = bar(total=4, desc="distance")
            inner.update(2)
            seen.append(re.sub(r"[\d:?]+ (left|so far)", r"\1", line()))
            inner.close()
        bar(total=3, desc="left open by an error")
    assert seen == [f"solve, so far | rounds {n} of 2, left | distance 2 of 4, left" for n in (0, 1)]
    assert line() == ""


def test_a_stage_is_not_named_twice():
    with under_way("score"), under_way("score: checking files"):
        assert line().count("score") == 1


def test_iterating_gives_the_items_and_ends_with_an_error_too():
    assert list(bar(iter("ab"), desc="x", total=2)) == ["a", "b"]
    assert list(bar({"a": 1}.items(), desc="x")) == [("a", 1)]
    with pytest.raises(RuntimeError):
        _raise_in_loop()
    assert line() == ""


def _raise_in_loop():
    for _ in bar([1, 2], desc="x"):
        raise RuntimeError


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert sum(bar([1, 2], desc="score", mininterval=0, miniters=1)) == 3
    assert "score:  50%" in capsys.readouterr().err
    with under_way("score"):
        assert line() == ""


def test_lines_come_while_one_unit_takes_long(monkeypatch):
    monkeypatch.setenv(progress.EVERY, "0.01")
    said = threading.Event()
    monkeypatch.setattr(progress.logger, "info", lambda text: text.startswith("slow") and said.set())
    with under_way("slow"):
        assert said.wait(60)
    thread = progress._thread
    for _ in bar([1], desc="again"):
        assert progress._thread is thread
    progress._thread = None  # which ends it
    thread.join(60)
    assert not thread.is_alive()


def test_no_thread_where_lines_are_switched_off():
    list(bar([1], desc="x"))
    assert progress._thread is None


def test_stages_are_under_way_while_they_run(tmp_path):
    seen = []
    stages = [
        Stage("a", lambda **task: seen.append(line()), 0, (), (), tasks=lambda workers: [{"part": 0}, {"part": 1}]),
        Stage("b", lambda: seen.append(line()), 0, ("a",), ()),
    ]
    run_stages(tmp_path, stages, say=lambda text: None)
    assert [re.sub(r", .*", "", text) for text in seen] == ["a: tasks 0 of 2", "a: tasks 1 of 2", "b"]
    assert line() == ""


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_seconds_that_are_none(monkeypatch, text):
    monkeypatch.setenv(progress.EVERY, text)
    with pytest.raises(ValueError, match=f"HF_PUZZLE_LOG_EVERY is '{text}'.*30 for example"):
        seconds_between()


def test_no_other_module_makes_bars():
    users = [
        path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if re.search(r"\btqdm\b", path.read_text())
    ]
    assert set(users) <= {"progress.py", "training.py", "mrkl/adapters.py"}
    assert not any(re.search(r"\btqdm\(", (ROOT / name).read_text()) for name in users if name != "progress.py")


def test_a_process_ends_while_a_line_is_due():
    program = "from hf_puzzle.progress import bar\nfor _ in bar([1], desc='x'): pass"
    subprocess.run([sys.executable, "-c", program], check=True, env={progress.EVERY: "1000"}, cwd=ROOT.parent)
