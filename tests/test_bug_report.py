"""`hf-puzzle env`: what a maintainer must know of a machine, and nothing that is nobody's business."""

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
import torch

from hf_puzzle import artifacts, bug_report
from hf_puzzle.cli import main
from hf_puzzle.puzzle import solver


@pytest.fixture(autouse=True)
def forgotten():
    """What was read of installations; tests change it."""
    yield
    artifacts.requirements.cache_clear()
    artifacts.versions.cache_clear()


@pytest.fixture
def installed(monkeypatch):
    """Says what an installed hf_puzzle needs, instead of how it was installed here."""

    def say(*lines, extras=()):
        class Metadata:
            def get_all(self, name):
                return list(extras)

        monkeypatch.setattr(metadata, "requires", lambda name: list(lines))
        monkeypatch.setattr(metadata, "metadata", lambda name: Metadata())
        artifacts.requirements.cache_clear()
        artifacts.versions.cache_clear()

    return say


def test_json_says_what_is_used(capsys):
    assert main(["env", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["processor"]["torch_capability"] == torch.backends.cpu.get_cpu_capability()
    assert report["processor"]["name"] == artifacts.environment()["cpu"]
    versions = {each["name"]: each["installed"] for each in report["packages"] if each["installed"]}
    assert versions == artifacts.environment()["versions"]
    assert report["solvers"]["auto"] == solver.pick_solver("auto")
    assert report["solvers"]["HIGHS"]["version"] == solver.solver_state("HIGHS").version
    assert Path(solver.solver_state("HIGHS").library).match(
        report["solvers"]["HIGHS"]["library"].rpartition("~")[2].lstrip("/")
    )
    assert report["engines"]["transformers"]["version"] == versions["transformers"]
    assert 0 < report["memory_bytes"]["available"] <= report["memory_bytes"]["total"]


def test_the_table_says_the_same(capsys):
    assert main(["env"]) == 0
    table = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    report = bug_report.bug_report()
    for text in (report["python"], report["processor"]["name"], "solver HIGHS", "engine vllm", "HF_HUB_OFFLINE"):
        assert text in table
    assert f"torch {torch.__version__} " in table


def test_nothing_personal_is_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "alice"))
    for name in ("HF_HOME", "PMIP_HIGHS_LIBRARY", "PMIP_CBC_LIBRARY"):
        monkeypatch.setenv(name, str(tmp_path / "home" / "alice" / "x"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for arguments in (["env"], ["env", "--json"]):
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert "alice" not in said
        assert "hf_secret" not in said
    assert "~/x" in said
    assert json.loads(said)["HF_HOME"] == "set"


def test_what_does_not_work_says_why(monkeypatch):
    monkeypatch.setenv("PMIP_HIGHS_LIBRARY", "/nowhere/libhighs.so")
    monkeypatch.setenv("PATH", "/nowhere")
    report = bug_report.bug_report()
    assert report["solvers"]["auto"] == "CBC"
    assert "/nowhere/libhighs.so" in report["solvers"]["HIGHS"]["reason"]
    assert "vLLM is not installed here" in report["engines"]["vllm"]["reason"]
    facts = dict(bug_report.rows(report)[0][1])
    assert facts["solver HIGHS"] == report["solvers"]["HIGHS"]["reason"]
    assert facts["solver CBC"].startswith("works: ")


def test_packages_are_those_of_the_projects_own_requirements(installed):
    numpy = metadata.version("numpy")
    installed(
        "numpy>=1", "torch>=999", "not-there>=1", "for-another; python_version < '3'",
        "safetensors>=0.1; extra == 'fine'", "absent>=1; extra == 'broken'", "safetensors>=999; extra == 'broken'",
        "pytest; extra == 'dev'", extras=("fine", "broken", "dev"),
    )  # fmt: skip
    report = bug_report.bug_report()
    packages = {each["name"]: (each["installed"], each["needed"], each["fits"]) for each in report["packages"]}
    assert packages["numpy"] == (numpy, ">=1", True)
    assert packages["torch"] == (metadata.version("torch"), ">=999", False)
    assert packages["not-there"] == (None, ">=1", False)
    assert packages["tokenizers"] == (metadata.version("tokenizers"), "", True)
    assert not {"for-another", "pytest"} & set(packages)
    assert report["extras"] == {"fine": [], "broken": ["absent", "safetensors"]}
    assert {"numpy", "torch", "safetensors", "tokenizers"} <= set(artifacts.versions())
    assert "not-there" not in artifacts.versions()


def test_a_checkout_that_is_not_installed_says_what_it_can(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    artifacts.requirements.cache_clear()
    artifacts.versions.cache_clear()
    assert artifacts.versions()["torch"] == torch.__version__
    assert bug_report.bug_report()["extras"] == {}
