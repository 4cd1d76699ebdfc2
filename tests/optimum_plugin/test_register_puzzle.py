"""optimum finds our command by its own search, and hands over what is behind it."""

import sys

import pytest
from optimum.commands import optimum_cli

from hf_puzzle import cli


def test_optimum_cli_runs_our_command_line(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "main", lambda argv: seen.append(argv) or 7)
    for arguments in (["puzzle", "check", "folder"], ["puzzle", "--", "export", "--target", "vllm"]):
        monkeypatch.setattr(sys, "argv", ["optimum-cli", *arguments])
        with pytest.raises(SystemExit, match="7"):
            optimum_cli.main()
    assert seen == [["check", "folder"], ["export", "--target", "vllm"]]
