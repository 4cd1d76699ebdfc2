"""What all trainings share: checkpoints that are known to be whole, trackers that are there."""

import pytest

from hf_puzzle.recipe import RecipeError
from hf_puzzle.training import check_trackers, last_checkpoint, seal


@pytest.fixture
def checkpoints(tmp_path):
    """Three sealed checkpoints."""
    for step in (2, 10, 9):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "shares").mkdir(parents=True)
        for name in ("model.safetensors", "shares/0.distcp"):
            (folder / name).write_bytes(bytes(step) * 50)
        seal(folder)
    return tmp_path


def test_the_newest_by_step_not_by_name(checkpoints):
    assert last_checkpoint(checkpoints).name == "checkpoint-10"
    assert last_checkpoint(checkpoints / "nothing") is None


@pytest.mark.parametrize("name", ["model.safetensors", "shares/0.distcp", "sealed.json"])
def test_a_checkpoint_that_was_cut_is_passed_over_and_deleted(checkpoints, name, caplog):
    with open(checkpoints / "checkpoint-10" / name, "r+b") as file:
        file.truncate(7)
    assert last_checkpoint(checkpoints).name == "checkpoint-9"
    assert "checkpoint-10 is not whole" in caplog.text
    assert not (checkpoints / "checkpoint-10").exists()
    (checkpoints / "checkpoint-9" / name).unlink()
    assert last_checkpoint(checkpoints).name == "checkpoint-2"


def test_trackers_that_are_not_there_are_said_before_anything():
    check_trackers([])
    check_trackers(["none"])
    with pytest.raises(RecipeError, match="report_to: nothing is not supported"):
        check_trackers(["nothing"])
