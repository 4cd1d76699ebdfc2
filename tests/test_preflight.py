"""Folders, disks and tokenizers that do not work are named before any compute, and nothing is left behind."""

import collections
import shutil

import pytest
from pcw_models import byte_level

from hf_puzzle import parse_recipe, preflight
from hf_puzzle.cli import main
from hf_puzzle.hub import located
from hf_puzzle.mrkl.run import run_recipe as run_mrkl
from hf_puzzle.pcw.evaluate import run_recipe as run_pcw
from hf_puzzle.preflight import NotReadyError, check_folder, check_room, check_tokenizer


RUNS = {
    "pcw": (run_pcw, {"system": "pcw", "device": "cpu", "datasets": [{"name": "episode"}]}),
    "mrkl": (run_mrkl, {"system": "mrkl", "device": "cpu", "today": "2022-05-02", "questions": ["what is 2 plus 2?"]}),
}


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReadyError, match=f"{tmp_path / 'file' / 'run'} cannot be written to .*another --out"):
        check_folder(tmp_path / "file" / "run")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preflight.os, "fsync", full)
    with pytest.raises(NotReadyError, match="No space left on device"):
        check_folder(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_too_little_room_is_told_with_both_numbers(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(9e9, 8e9, 1e9))
    check_room(tmp_path, 0.9e9, "buy a disk")
    with pytest.raises(NotReadyError, match="needs 1.10 GB more, 1.00 GB are free on its disk: buy a disk"):
        check_room(tmp_path, 1.1e9, "buy a disk")


def test_tokenizers_must_open_and_encode():
    check_tokenizer(byte_level, "bytes")

    def damaged():
        raise Exception("expected value at line 1\nand much more")

    with pytest.raises(NotReadyError, match="tokenizer of 'x' cannot be opened: Exception: expected value at line 1$"):
        check_tokenizer(damaged, "x")
    with pytest.raises(NotReadyError, match="makes no tokens"):
        check_tokenizer(lambda: lambda text: {"input_ids": []}, "x")


@pytest.mark.parametrize("system", RUNS)
def test_other_systems_try_folder_and_tokenizer(system, tmp_path):
    run, raw = RUNS[system]
    (tmp_path / "file").write_text("")
    (tmp_path / "model").mkdir()
    recipe = parse_recipe(raw | {"model": {"name": "model"}})
    with pytest.raises(NotReadyError, match="cannot be written to"):
        run(recipe, tmp_path / "file" / "run", tmp_path)
    with pytest.raises(NotReadyError, match="tokenizer of 'model' cannot be opened"):
        run(recipe, tmp_path / "run", tmp_path)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_parent_is_not_trained_into_a_folder_that_cannot_be_written_to(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", "recipes/puzzle/tiny_parent.yaml", "--out", str(tmp_path / "file" / "parent")]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_models_are_found_beside_the_recipe_in_packages_and_on_the_hub(tmp_path, monkeypatch):
    package = tmp_path / "site" / "carries_a_model"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('wants more than its files')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "mine").mkdir()
    assert located("mine", tmp_path) == str(tmp_path / "mine")
    assert located("carries_a_model", tmp_path) == str(package)
    assert located("carries_a_model/model", tmp_path) == str(package / "model")
    for name in ("carries_a_model/other", "someone/some-model", "gpt2"):
        assert located(name, tmp_path) == name
