"""`hf puzzle ...` through the real `hf` command, in a home of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_puzzle import artifacts
from hf_puzzle.cli import main
from hf_puzzle.hf_extension import LinkError, link, unlink


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def hf(home):
    """Runs the `hf` of this environment, with a way to the outside that leads nowhere."""

    def run(*args):
        dead = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
        command = [Path(sys.executable).with_name("hf"), *args]
        return subprocess.run(command, env=os.environ | dead, capture_output=True, text=True, cwd=home)

    return run


def state(home):
    folder = home / ".local/share/hf/extensions/hf-puzzle"
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_hf_puzzle_runs_this_hf_puzzle_and_can_be_taken_away(home, hf, capsys):
    assert main(["link"]) == 0
    assert "now runs this hf-puzzle" in capsys.readouterr().out
    (home / "hf_puzzle").mkdir()
    (home / "hf_puzzle" / "cli.py").write_text("raise SystemExit('the wrong hf_puzzle')")
    ours = subprocess.run([sys.executable, "-m", "hf_puzzle.cli", "keys", "mrkl"], capture_output=True, text=True)
    theirs = hf("puzzle", "keys", "mrkl")
    assert (theirs.returncode, theirs.stdout) == (0, ours.stdout), theirs.stderr
    assert "compositions" in theirs.stdout
    assert hf("puzzle", "publish", "no such folder", "x").returncode == 2
    listed = hf("extensions", "list")
    assert "hf puzzle" in listed.stdout
    assert "hf_puzzle/hf-puzzle" in listed.stdout

    before = state(home)
    assert main(["link"]) == 0
    assert "already" in capsys.readouterr().out
    assert state(home) == before
    (home / ".local/share/hf/extensions/hf-puzzle/hf-puzzle").write_text("#!/bin/sh\nexec /gone/python\n")
    assert "now runs" in link()
    assert {name: text for name, (text, _) in state(home).items() if name != "manifest.json"} == {
        name: text for name, (text, _) in before.items() if name != "manifest.json"
    }

    assert main(["link", "--remove"]) == 0
    assert hf("puzzle", "keys").returncode != 0
    assert not (home / ".local/share/hf/extensions/hf-puzzle").exists()
    assert unlink() == "`hf puzzle` is not linked"


def test_an_extension_of_somebody_else_is_left_alone(home):
    link()
    manifest = home / ".local/share/hf/extensions/hf-puzzle/manifest.json"
    artifacts.write_json(manifest, artifacts.read_json(manifest) | {"owner": "you", "repo_id": "you/hf-puzzle"})
    before = state(home)
    for change in (link, unlink):
        with pytest.raises(LinkError, match="is the extension you/hf-puzzle"):
            change()
    assert state(home) == before


def test_a_broken_manifest_is_written_again(home):
    link()
    manifest = Path(home, ".local/share/hf/extensions/hf-puzzle/manifest.json")
    manifest.write_text("{}")
    assert "now runs" in link()
    assert artifacts.read_json(manifest)["owner"] == "hf_puzzle"
