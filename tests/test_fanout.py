"""The same run in this process, on a local Ray cluster and as submitit jobs: the same files, whatever dies on the way."""

import dataclasses
import logging
import os
import shutil
import signal
import threading
import time
from collections import Counter

import psutil
import pytest
import yaml
from tiny_run import write_recipes

from hf_puzzle import artifacts, fanout
from hf_puzzle.cli import main
from hf_puzzle.fanout import RunSpec, Slurm, executor_for, work
from hf_puzzle.puzzle.pipeline import PuzzleRun, load_run
from hf_puzzle.recipe import RecipeError, ResourcesConfig, to_dict
from hf_puzzle.stages import EVENTS, run_stages


pytest.importorskip("ray")
STAGES = ("parent", "data", "importance", "library", "score")
# what holds no time of this machine
SAME = ["tokens.safetensors", "importance.safetensors", "library", "scores.jsonl"]
LAYERWISE = ["--set", "library.layers_per_job=1", "--set", "threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_recipes(tmp_path_factory.mktemp("fanout"))


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()


def cli(*arguments):
    return main([str(a) for a in arguments])


def run(folder, name, *more, stages=STAGES):
    for stage in stages:
        assert cli("run", folder / "tiny.yaml", "--out", folder / name, "--only", stage, *LAYERWISE, *more) == 0
    return folder / name


def digest(out):
    files = [p for name in SAME for p in ([out / name] if (out / name).is_file() else sorted((out / name).rglob("*")))]
    return {p.relative_to(out).as_posix(): artifacts.file_sha256(p) for p in files if p.is_file()}


def finished_tasks(out, stage):
    rows = artifacts.read_jsonl(out / EVENTS)
    return [row for row in rows if row.get("stage") == stage and row["event"] == "task_finished"]


@pytest.fixture(scope="module")
def local(folder):
    return run(folder, "local")


def test_a_ray_run_leaves_the_files_of_a_local_one(folder, local, cluster):
    out = run(folder, "on_ray", "--on", "ray")
    assert digest(out) == digest(local)
    for stage, tasks in (("data", 1), ("library", 3), ("score", 2)):
        rows = finished_tasks(out, stage)
        assert len(rows) == tasks
        assert os.getpid() not in {row["process"] for row in rows}


def test_a_killed_worker_is_replaced_and_nothing_is_lost(folder, local, cluster):
    killed, over = [], threading.Event()

    def kill_one():
        while not killed and not over.is_set():
            time.sleep(0.01)
            if any((folder / "killed" / "library").glob("job_*/checkpoint-*")):
                workers = [p for p in psutil.process_iter(["cmdline"]) if "ray::library" in str(p.info["cmdline"])]
                for process in workers[:1]:
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        out = run(folder, "killed", "--on", "ray")
    finally:
        over.set()
        thread.join()
    assert killed, "no worker was alive to be killed"
    assert killed[0] not in {row["process"] for row in finished_tasks(out, "library")}
    assert digest(out) == digest(local)


def test_a_pipeline_of_jobs_makes_the_same_library(folder, local, cluster):
    settings = ["--set", "library.states=pipeline", "--set", "library.layers_per_job=2"]
    out = run(folder, "pipeline", "--on", "ray", *settings)
    assert digest(out) == digest(local)
    tasks = [row["task"] for row in finished_tasks(out, "library")]
    assert sorted(task.split(" below=")[0] for task in tasks) == ["start=0 stop=2", "start=2 stop=3"]


def test_a_pipeline_needs_room_for_all_its_jobs(folder, local, cluster, capsys):
    settings = ["--set", "library.states=pipeline", "--set", "library.layers_per_job=1", "--set", "threads=1"]
    out = run(folder, "too_long", *settings, stages=STAGES[:3])
    arguments = ["run", folder / "tiny.yaml", "--out", out, "--only", "library", *settings]
    assert cli(*arguments, "--on", "ray") == 2
    assert "needs all 3 jobs at once, there is room for 2" in capsys.readouterr().err
    assert cli(*arguments, "--on", "ray", "--set", "resources.workers=3") == 2
    assert "the cluster has room for 2" in capsys.readouterr().err
    assert cli(*arguments, "--on", "slurm") == 2
    assert "pipeline needs --on ray" in capsys.readouterr().err


def test_a_task_that_fails_is_named_with_its_cause(folder, local, cluster, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(local, out)
    (out / "parent" / "model.safetensors").write_bytes(b"cut")
    assert cli("run", folder / "tiny.yaml", "--out", out, "--only", "library", *LAYERWISE, "--on", "ray") == 2
    message = capsys.readouterr().err
    assert "library, start=" in message
    assert "incomplete metadata" in message or "deserializing" in message
    assert artifacts.read_jsonl(out / EVENTS)[-1]["event"] == "stage_failed"


def test_slurm_jobs_leave_the_files_of_a_local_run(folder, local, tmp_path):
    pytest.importorskip("submitit")
    out = tmp_path / "run"
    shutil.copytree(local, out)
    copied = load_run(out, recipe_dir=folder)
    spec = dataclasses.replace(copied.spec, recipe_dir=str(folder))
    executor = Slurm(spec, ResourcesConfig(workers=2), cluster="local")
    before = digest(out)
    stages = copied.stages()
    with artifacts.locked(out):
        run_stages(out, stages, only="score", executor=executor)
    assert digest(out) == before
    assert len(finished_tasks(out, "score")) == 1 + 2


def test_a_worker_that_does_not_see_the_folder_says_so(folder, local, tmp_path):
    spec = dataclasses.replace(load_run(local).spec, manifest="0" * 64)
    assert "is not visible" in work(spec, "score", {}, 1)["error"]
    spec = dataclasses.replace(spec, run_dir=str(tmp_path / "elsewhere"))
    assert "is not visible" in work(spec, "score", {}, 1)["error"]


@pytest.mark.parametrize(
    "on, resources, message",
    [
        ("kubernetes", {}, "known: ray, ray://HOST:PORT, slurm"),
        ("ray", {"gpu": 1.0}, "the cluster has 2 and 0"),
        ("ray", {"cpu": 64.0}, "asks for 64.0 CPUs"),
        ("ray", {"cpu": 0.0}, "resources.cpu"),
        ("ray", {"workers": 0}, "resources.workers"),
        ("ray", {"workers": 2, "gpu": 1.0}, "the cluster has 2 and 0"),
        ("slurm", {}, "slurm"),
    ],
)
def test_executors_that_cannot_be(folder, cluster, on, resources, message, tmp_path):
    spec = RunSpec({"system": "puzzle"}, str(tmp_path), str(folder))
    with pytest.raises(RecipeError, match=message):
        executor_for(on, spec, ResourcesConfig(**resources))


def test_slurm_takes_the_users_own_parameters(folder, tmp_path):
    resources = ResourcesConfig(cpu=2, slurm={"timeout_min": 5, "slurm_partition": "gpu"})
    executor = Slurm(RunSpec({"system": "puzzle"}, str(tmp_path), str(folder)), resources, cluster="local")
    assert executor.executor._executor.parameters["timeout_min"] == 5


def test_kinds_of_accelerators_are_a_clusters(folder, local, capsys):
    arguments = ["run", folder / "tiny.yaml", "--out", folder / "kinds", *LAYERWISE]
    assert cli(*arguments, "--set", "cost.accelerators=[H100]") == 2
    assert "kinds of machines of a Ray cluster" in capsys.readouterr().err


def test_who_does_the_work_is_no_reason_to_do_it_again(folder, local, tmp_path, caplog):
    out = tmp_path / "run"
    shutil.copytree(local, out)
    more = ["--set", "library.layers_per_job=3", "--set", "score.tokens_per_task=32", "--only", "score"]
    assert cli("run", folder / "tiny.yaml", "--out", out, *LAYERWISE, *more) == 0  # its needs still stand
    assert digest(out) == digest(local)


@pytest.mark.parametrize("package, on", [("ray", "ray"), ("submitit", "slurm")])
def test_a_missing_package_is_named_with_its_extra(package, on, monkeypatch, tmp_path):
    monkeypatch.setattr(fanout, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=rf"pip install 'hf_puzzle\[{on}\]'"):
        executor_for(on, RunSpec({"system": "puzzle"}, str(tmp_path), "."), ResourcesConfig())


def test_a_parent_in_memory_stays_in_this_process(folder, local):
    read = load_run(local)
    run = PuzzleRun(read.recipe, folder / "memory", parent=read.parent, tokenizer=read.tokenizer)
    with pytest.raises(RecipeError, match="parent in memory"):
        run.run(on="ray")


def test_a_recipe_survives_the_way_to_a_worker(folder, local):
    spec = RunSpec(to_dict(load_run(local).recipe), str(local), str(folder))
    assert [stage.name for stage in spec.stages()][1:5] == list(STAGES[1:])


PCW = {
    "system": "pcw",
    "device": "cpu",
    "threads": 1,
    "train": {"num_steps": 4, "tokens_per_step": 128, "max_classes": 12, "config": {"hidden_size": 16, "num_hidden_layers": 2}},
    "datasets": [{"name": "episode", "num_classes": 6, "title": "six"}],
    "protocol": {"num_windows": [1, 3], "modes": ["pcw"], "draws": 4, "test_items": 10},
}  # fmt: skip


def test_draws_of_an_evaluation_are_tasks_too(tmp_path, cluster):
    (tmp_path / "pcw.yaml").write_text(yaml.safe_dump(PCW))
    draws = []
    for on in ([], ["--on", "ray"]):
        out = tmp_path / f"run{len(draws)}"
        assert cli("run", tmp_path / "pcw.yaml", "--out", out, *on) == 0
        rows = artifacts.read_jsonl(out / "draws.jsonl")
        draws.append([{name: value for name, value in row.items() if name != "seconds"} for row in rows])
    assert draws[0] == draws[1]
    # two numbers of windows and the two baselines on the shots of each, four draws
    assert Counter(row["mode"] for row in draws[0]) == {"pcw": 8, "nearest": 8, "linear": 8}
    tasks = {row["task"] for row in finished_tasks(out, "evaluate")}
    assert tasks == {"dataset=0 first_draw=0 last_draw=1", "dataset=0 first_draw=2 last_draw=3"}


@pytest.mark.slow
def test_a_whole_run_on_ray(folder, cluster):
    out = folder / "whole"
    assert cli("run", folder / "tiny.yaml", "--out", out, "--on", "ray", *LAYERWISE) == 0
    here = folder / "here"
    assert cli("run", folder / "tiny.yaml", "--out", here, *LAYERWISE) == 0
    for name in ("child", "distilled"):
        assert artifacts.file_sha256(out / name / "model.safetensors") == artifacts.file_sha256(
            here / name / "model.safetensors"
        )
    assert (out / "report.md").exists()
