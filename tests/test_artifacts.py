"""Files of a run folder: whole or absent, and never mistaken for those of another run."""

import subprocess
import sys

import pytest
import torch

from hf_puzzle import artifacts
from hf_puzzle.artifacts import ArtifactError, Manifest, RunLockedError


def test_a_failing_writer_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "value.json"
    artifacts.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"a": object()})
    assert artifacts.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_dies_halfway_leaves_the_old_tensors(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    artifacts.write_tensors(path, {"a": torch.ones(2)})

    def die(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(artifacts, "save_file", die)
    with pytest.raises(OSError, match="disk full"):
        artifacts.write_tensors(path, {"a": torch.zeros(2)})
    assert torch.equal(artifacts.read_tensors(path)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_parents_are_made_and_values_come_back(tmp_path):
    artifacts.write_json(tmp_path / "a" / "b.json", {"x": [1, None, "ü"]})
    assert artifacts.read_json(tmp_path / "a" / "b.json") == {"x": [1, None, "ü"]}
    transposed = torch.arange(6.0).view(2, 3).T
    artifacts.write_tensors(tmp_path / "c" / "t.safetensors", {"x": transposed})
    assert torch.equal(artifacts.read_tensors(tmp_path / "c" / "t.safetensors")["x"], transposed)


def test_append_jsonl_drops_a_cut_last_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    for i in range(3):
        artifacts.append_jsonl(path, {"i": i})
    path.write_bytes(path.read_bytes()[:-4])
    assert artifacts.read_jsonl(path) == [{"i": 0}, {"i": 1}]
    artifacts.append_jsonl(path, {"i": 9})
    assert artifacts.read_jsonl(path) == [{"i": 0}, {"i": 1}, {"i": 9}]
    path.write_bytes(b'{"i"')  # nothing but a cut line
    artifacts.append_jsonl(path, {"i": 7})
    assert path.read_bytes() == b'{"i": 7}\n'


def test_read_jsonl_names_a_damaged_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert artifacts.read_jsonl(path) == []
    path.write_text('{"i": 0}\n{"i": \n{"i": 2}\n{"i"')
    with pytest.raises(ArtifactError, match=r"rows\.jsonl, line 2: .*delete that line"):
        artifacts.read_jsonl(path)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_tensors(tmp_path, keep):
    path = tmp_path / "t.safetensors"
    artifacts.write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"t\.safetensors is truncated"):
        artifacts.read_tensors(path)


def test_missing_and_broken_files_say_what_to_do(tmp_path):
    for read in (artifacts.read_json, artifacts.read_tensors):
        with pytest.raises(ArtifactError, match="missing is missing: run the stage"):
            read(tmp_path / "missing")
    (tmp_path / "broken").write_text('{"a": ')
    with pytest.raises(ArtifactError, match="not valid JSON"):
        artifacts.read_json(tmp_path / "broken")


def test_fingerprint_is_stable_and_ignores_key_order():
    assert artifacts.fingerprint({"a": 1, "b": [2.5, None]}, "x") == artifacts.fingerprint(
        {"b": [2.5, None], "a": 1}, "x"
    )
    assert artifacts.fingerprint({"a": 1}) == "2696610e78752a9e"
    assert len({artifacts.fingerprint(v) for v in (1, "1", 1.5, [1], {"a": 1}, None, [1, 2], [2, 1])}) == 8


def test_folder_fingerprint_sees_contents_only(tmp_path):
    for name in ("a", "b"):
        artifacts.write_json(tmp_path / name / "config.json", {"x": 1})
        artifacts.write_tensors(tmp_path / name / "model.safetensors", {"w": torch.ones(3)})
    (tmp_path / "b" / "notes.log").write_text("not part of a model")
    first = artifacts.folder_fingerprint(tmp_path / "a")
    assert artifacts.folder_fingerprint(tmp_path / "b") == first
    artifacts.write_tensors(tmp_path / "b" / "model.safetensors", {"w": torch.zeros(3)})
    assert artifacts.folder_fingerprint(tmp_path / "b") != first


HOLDER = """
import os, sys
from hf_puzzle.artifacts import locked
with locked(sys.argv[1]):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_lock_refuses_a_second_process_and_names_the_holder(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        pid = holder.stdout.readline().strip()
        with pytest.raises(RunLockedError, match=rf"in use by process {pid} on .*--out"), artifacts.locked(tmp_path):
            pass
    finally:
        holder.kill()  # the kernel releases the lock of a killed process
        holder.communicate()
    with artifacts.locked(tmp_path):
        pass
    with artifacts.locked(tmp_path):
        pass


def test_manifest_begin_finish_continue(tmp_path):
    output = tmp_path / "out.json"
    manifest = Manifest(tmp_path)
    assert not manifest.is_finished("s", "1")
    assert not manifest.begin("s", "1", [output])  # a first start continues nothing
    output.write_text("partial")
    again = Manifest(tmp_path)
    assert not again.is_finished("s", "1")
    assert again.begin("s", "1", [output])  # killed before the end: continues, and keeps what is there
    assert output.read_text() == "partial"
    again.finish("s", 1.234, [output])
    final = Manifest(tmp_path)
    assert final.is_finished("s", "1")
    assert not final.is_finished("s", "2")
    assert final.stages["s"]["seconds"] == 1.23
    assert final.stages["s"]["environment"]["versions"]["torch"] == artifacts.environment()["versions"]["torch"]
    assert final.damaged("s", [output]) == []
    output.write_text("parti")
    assert final.damaged("s", [output]) == [output]
    assert not final.begin("s", "1", [output])  # finished: a new start of the same inputs
    assert output.exists()
    assert not final.begin("s", "2", [output])  # other inputs: what was made from the old ones goes
    assert not output.exists()


def test_a_manifest_that_a_disk_lost_is_read_from_the_one_before(tmp_path, caplog):
    manifest, output = Manifest(tmp_path), tmp_path / "out"
    output.mkdir()
    (output / "a.txt").write_text("a")
    manifest.stages["one"] = {"inputs": "1"}
    manifest.finish("one", 1.0, [output])
    manifest.begin("two", "1", [])
    manifest.finish("two", 1.0, [])
    manifest.path.write_text(manifest.path.read_text()[:40])
    with caplog.at_level("WARNING"):
        again = Manifest(tmp_path)
    assert "not valid JSON" in caplog.text
    assert again.is_finished("one", "1")
    assert not again.is_finished("two", "1")
    assert again.begin("two", "1", [])  # but that it was under way is known
    (output / "a.txt").unlink()
    assert again.damaged("one", [output]) == [output / "a.txt"]


def test_remove_takes_files_folders_and_nothing(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("folder", "file", "absent"):
        artifacts.remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
