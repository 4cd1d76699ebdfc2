"""Kills, cuts, full disks and jumping clocks at a small size; `benchmarks/survive.py` does the same some hundred times."""

import signal
import subprocess
import sys

import pytest
from kills import Lab, said


STAGES = ["parent", "library", "score", "child", "distill"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("kills"))
    yield lab
    lab.close()


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_killed_and_cut_leaves_the_files_of_an_undisturbed_one(lab, stage):
    died = lab.life(lab.up_to(stage, lab.folder / f"killed_{stage}"), kills=3, cut_share=0.5)
    assert died == 3


def test_a_finished_run_that_lost_files_makes_them_again(lab):
    out = lab.up_to("report", lab.folder / "cut")
    names = [
        "importance.safetensors",
        "library/layer_01/ffn.w256.safetensors",
        "child/model.safetensors",
        "manifest.json",
    ]
    for name in names:
        with open(out / name, "r+b") as file:
            file.truncate(100)
    (out / "scores.jsonl").unlink()
    assert lab.attempt(out) == 0
    lab.compare(out)


@pytest.mark.parametrize("size", [10_000, 60_000, 200_000])
def test_a_full_disk_is_an_error_and_the_next_attempt_goes_on(lab, size):
    out = lab.folder / f"full_{size}"
    assert lab.attempt(out, full_at=size) == 2
    assert lab.attempt(out) == 0
    lab.compare(out)


def test_a_clock_that_jumps_changes_nothing(lab):
    out = lab.up_to("importance", lab.folder / "clock")
    assert lab.attempt(out, jumping_clock=True) == 0
    lab.compare(out)


def test_a_second_run_says_who_holds_the_folder(lab):
    out = lab.up_to("library", lab.folder / "held")
    code = "import sys, time; from hf_puzzle import artifacts\nwith artifacts.locked(sys.argv[1]): print(); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        assert lab.attempt(out) == 2
        assert f"in use by process {holder.pid}" in said(out).read_text()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert lab.attempt(out) == 0
    lab.compare(out)


def test_the_harness_sees_a_file_that_is_wrong(lab):
    out = lab.up_to("report", lab.folder / "spoiled")
    assert lab.attempt(out) == 0
    (out / "scores.jsonl").write_text((out / "scores.jsonl").read_text().replace("0.0", "0.1", 1))
    with pytest.raises(AssertionError, match="scores.jsonl"):
        lab.compare(out)
