"""A Puzzle run proves what its stages need of this machine before the first of them."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import LocalHub
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from hf_puzzle import artifacts, preflight
from hf_puzzle.engines import llama_cpp, measuring
from hf_puzzle.preflight import NotReadyError
from hf_puzzle.puzzle import planner
from hf_puzzle.puzzle.loading import LoadingError
from hf_puzzle.puzzle.machines import MACHINES
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.puzzle.preflight import check_weights
from hf_puzzle.puzzle.solver import SolverUnusableError
from hf_puzzle.recipe import RecipeError, load_recipe


RECIPES = Path(__file__).parents[2] / "recipes" / "puzzle"


@pytest.fixture
def parent(tmp_path):
    """A copy of the tiny parent that a test may spoil."""
    return Path(shutil.copytree(RECIPES / "tiny_parent", tmp_path / "parent"))


@pytest.fixture
def make_run(parent, tmp_path):
    def make(*overrides):
        return PuzzleRun(
            load_recipe(RECIPES / "tiny_cpu.yaml", [f"parent.name={parent}", *overrides]), tmp_path / "run"
        )

    return make


def assert_nothing_began(run):
    assert not run.run_dir.exists() or list(run.run_dir.iterdir()) == []


def cut(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def test_what_works_leaves_nothing(make_run):
    run = make_run()
    run.check()
    assert_nothing_began(run)


def test_a_parent_that_is_made_by_the_run_is_not_looked_for(tmp_path):
    for name in ("tiny_cpu.yaml", "tiny_parent.yaml"):
        shutil.copy(RECIPES / name, tmp_path)
    run = PuzzleRun(load_recipe(tmp_path / "tiny_cpu.yaml"), tmp_path / "run", tmp_path)
    run.check()
    shutil.copytree(RECIPES / "tiny_parent", run.run_dir / "parent")
    cut(run.run_dir / "parent" / "model.safetensors")  # its stage makes it again
    PuzzleRun(run.recipe, run.run_dir, tmp_path).check()


@pytest.mark.parametrize(
    "name, spoil, error, message",
    [
        ("model.safetensors", cut, LoadingError, "truncated"),
        ("model.safetensors", Path.unlink, LoadingError, "holds no safetensors"),
        ("tokenizer.json", cut, NotReadyError, "the tokenizer of .* cannot be opened"),
        ("config.json", cut, RecipeError, "cannot be opened"),
    ],
)
def test_a_damaged_parent_is_named(make_run, parent, name, spoil, error, message):
    spoil(parent / name)
    run = make_run()
    with pytest.raises(error, match=message):
        run.run()
    assert_nothing_began(run)


@pytest.mark.parametrize("lost", ["shard", "tensor"])
def test_a_sharded_parent_must_be_whole(parent, lost):
    tensors = load_file(parent / "model.safetensors")
    (parent / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    (parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in tensors if shards[name] == shard}, parent / shard)
    check_weights(str(parent))
    last = parent / "model-00002-of-00002.safetensors"
    last.unlink() if lost == "shard" else save_file({"other": torch.zeros(1)}, last)
    with pytest.raises(LoadingError, match="missing"):
        check_weights(str(parent))


FROM_HUB = """
import huggingface_hub.constants
from hf_puzzle.puzzle.preflight import check_weights

def said(repo):
    try:
        check_weights(repo)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"

print(said("me/parent"))
print(said("me/nothing"))
huggingface_hub.constants.HF_HUB_OFFLINE = True
print(said("me/parent"))
"""


def test_of_a_repository_the_headers_are_read_and_no_weights(parent, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with LocalHub() as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        for repo in ("me/parent", "me/nothing"):
            api.create_repo(repo)
        api.upload_folder(repo_id="me/parent", folder_path=parent)
        environment = hub.environment(OMP_NUM_THREADS="1")
        done = subprocess.run([sys.executable, "-c", FROM_HUB], env=environment, capture_output=True, text=True)
        fetched = list(Path(environment["HF_HOME"]).rglob("*.safetensors"))
    reached, nothing, offline = done.stdout.splitlines()
    assert reached == "None"
    assert "'me/nothing' holds no safetensors" in nothing
    assert offline.startswith("NotReadyError: parent.name 'me/parent' is neither in reach (OfflineModeIsEnabled")
    assert fetched == []


def test_a_solver_that_does_not_work_is_named(make_run, monkeypatch):
    monkeypatch.setenv("PMIP_HIGHS_LIBRARY", "/nowhere/libhighs.so")
    run = make_run("solve.solver=HIGHS")
    with pytest.raises(SolverUnusableError, match="/nowhere/libhighs.so"):
        run.run()
    assert_nothing_began(run)
    make_run().check()  # auto takes CBC


def test_an_engine_that_is_installed_and_does_not_load_is_named(make_run, monkeypatch):
    def broken():
        raise OSError("libllama.so: undefined symbol")

    monkeypatch.setattr(measuring, "find_spec", lambda name: name)
    monkeypatch.setattr(llama_cpp, "version", broken)
    run = make_run("cost.engine=llama.cpp", "device=cpu")
    with pytest.raises(RecipeError, match="cost.engine: llama.cpp does not open: libllama.so: undefined symbol"):
        run.run()
    assert_nothing_began(run)


def test_the_disk_must_have_room_for_what_is_left(make_run, monkeypatch):
    run = make_run()
    needed = planner.disk_still_needed(run, planner.plan_here(run))
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: type("usage", (), {"free": 0.5 * needed}))
    with pytest.raises(NotReadyError, match=f"needs {needed / 1e9:.2f} GB more, {0.5 * needed / 1e9:.2f} GB are free"):
        run.run()
    assert_nothing_began(run)


def test_room_is_needed_for_the_worst_moment_of_unfinished_stages(make_run):
    run = make_run()
    plan = planner.plan_here(run)
    sizes = [(stage.kept_bytes, stage.scratch_bytes) for stage in plan.stages]
    needed = max(sum(left for left, _ in sizes[:i]) + sum(sizes[i]) for i in range(len(sizes)))
    assert planner.disk_still_needed(run, plan) == pytest.approx(needed)
    # what a killed stage has written is there already
    (run.run_dir / "library").mkdir(parents=True)
    (run.run_dir / "library" / "half.safetensors").write_bytes(bytes(10_000))
    assert planner.disk_still_needed(run, plan) == pytest.approx(needed - 10_000)
    # the checkpoints of a finished stage are no more
    artifacts.write_json(run.run_dir / "manifest.json", {"library": {"inputs": "", "finished": "now"}})
    (scratch,) = (stage.scratch_bytes for stage in plan.stages if stage.stage == "library")
    assert planner.disk_still_needed(run, plan) < needed - scratch / 2


def test_what_does_not_fit_into_memory_is_said_and_not_refused(make_run, monkeypatch, caplog):
    small = dataclasses.replace(MACHINES["l4"], memory_gb=0.6)
    monkeypatch.setattr(planner, "this_machine", lambda device: small)
    make_run("device=cpu").check()
    assert "library does not fit: " in caplog.text
    assert "of 0.6 GB on this machine" in caplog.text
    assert "lower library.layers_per_job" in caplog.text
    caplog.clear()
    make_run("device=cpu").check(here=False)  # workers elsewhere compute
    assert "does not fit" not in caplog.text
