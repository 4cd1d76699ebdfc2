"""Tasks of a stage on a Ray cluster, or as Slurm jobs: the same functions over the same files as in one process.

The run folder must be visible to all machines under the same path. On Ray, a task that dies with its machine is started again
and continues from its own files; a task that fails by its own fault, a Slurm job, or one of a pipeline ends the run: what is
finished stays, and the same command continues.
"""

import abc
import contextlib
import functools
import logging
import math
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import artifacts, progress
from .preflight import check_folder, check_tokenizer_of
from .recipe import RecipeError, ResourcesConfig, parse_recipe, to_dict
from .stages import Executor, InProcess, Stage, run_stages, task_name


logger = logging.getLogger(__name__)

RETRIES = 3  # of a task whose process or machine died

# how a worker gets the stages of a run again; imported there
STAGES_OF = {
    "puzzle": "hf_puzzle.puzzle.pipeline.stages_of",
    "pcw": "hf_puzzle.pcw.evaluate.stages_of",
    "mrkl": "hf_puzzle.mrkl.run.stages_of",
}


class TaskError(RuntimeError):
    """A task failed on its worker; the message names the task, the machine and the cause."""


@dataclass(frozen=True)
class RunSpec:
    """What a worker needs to do a task of a run: JSON and absolute paths.

    Attributes:
        recipe: as `recipe.to_dict` gives it.
        manifest: sha256 of `manifest.json`, by which a worker knows that it sees the same folder.
    """

    recipe: dict
    run_dir: str
    recipe_dir: str
    manifest: str = ""

    def stages(self) -> list[Stage]:
        module, _, function = STAGES_OF[self.recipe["system"]].rpartition(".")
        stages_of = getattr(import_module(module), function)
        return stages_of(parse_recipe(self.recipe), Path(self.run_dir), Path(self.recipe_dir))


_stages_of_worker: tuple[tuple, list[Stage]] | None = None


def work(spec: RunSpec, stage_name: str, arguments: dict, threads: int) -> dict:
    """Do one task; what a worker runs.

    Returns:
        `{"node", "process", "seconds"}`, and `{"error", "traceback"}` when the task failed by its own fault.
    """
    global _stages_of_worker
    from .costs import cpu_threads

    began = time.perf_counter()
    facts: dict[str, Any] = {"node": platform.node(), "process": os.getpid()}
    try:
        manifest = Path(spec.run_dir) / "manifest.json"
        if not manifest.exists() or artifacts.file_sha256(manifest) != spec.manifest:
            raise artifacts.ArtifactError(f"the run folder is not visible on {platform.node()}: share {spec.run_dir}")
        key = (spec.run_dir, artifacts.fingerprint(spec.recipe))
        if _stages_of_worker is None or _stages_of_worker[0] != key:  # a worker keeps its parent from task to task
            _stages_of_worker = key, spec.stages()
        stage = next(each for each in _stages_of_worker[1] if each.name == stage_name)
        with _alone(spec, f"{stage_name} {task_name(arguments)}"), cpu_threads(spec.recipe.get("threads") or threads):
            stage.run(**arguments)
    except Exception as error:
        facts |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return facts | {"seconds": round(time.perf_counter() - began, 2)}


@contextlib.contextmanager
def _alone(spec: RunSpec, name: str) -> Iterator[None]:
    """Wait until no other process is at this task: jobs of a driver that was killed may still be at work on a cluster."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(artifacts.locked(Path(spec.run_dir) / ".locks" / name))
                break
            except artifacts.RunLockedError:
                time.sleep(1.0)
        yield


class _Cluster(abc.ABC):
    """What Ray and Slurm share: start all tasks, wait for them, show one bar, report the first failure."""

    def __init__(self, spec: RunSpec, resources: ResourcesConfig):
        self.spec, self.resources = spec, resources
        self.threads = max(1, math.floor(resources.cpu))

    @abc.abstractmethod
    def submit(self, stage: Stage, arguments: dict, call: Callable[[], dict]) -> Any:
        """Start a task; a handle of it."""

    @abc.abstractmethod
    def wait(self, handles: list) -> list:
        """Those of `handles` that are done, after a second at the latest."""

    @abc.abstractmethod
    def result(self, handle: Any) -> dict:
        """What `call` answered; raises what the cluster says of a task that died."""

    @abc.abstractmethod
    def cancel(self, handle: Any) -> None:
        """Stop a task that is no longer wanted."""

    def run(self, stage: Stage, tasks: list[dict], on_event: Callable[..., None]) -> None:
        manifest = artifacts.file_sha256(Path(self.spec.run_dir) / "manifest.json")
        spec = RunSpec(self.spec.recipe, self.spec.run_dir, self.spec.recipe_dir, manifest)
        pending = {}
        for arguments in tasks:
            call = functools.partial(work, spec, stage.name, arguments, self.threads)
            pending[self.submit(stage, arguments, call)] = name = task_name(arguments)
            on_event("task_started", task=name)
        bar = progress.bar(total=_progress(stage)[1], desc=stage.name)
        try:
            while pending:
                for handle in self.wait(list(pending)):
                    name = pending.pop(handle)
                    try:
                        facts = self.result(handle)
                    except Exception as error:  # the cluster's own: a worker that died too often, a lost node
                        on_event("task_failed", task=name, error=str(error)[:2000])
                        raise TaskError(
                            f"{stage.name}, {name}: its worker died ({_first_line(error)}); what is finished is kept, and the "
                            "same command continues"
                        ) from None
                    if "error" in facts:
                        logger.debug("%s", facts["traceback"])
                        on_event("task_failed", task=name, **facts)
                        raise TaskError(f"{stage.name}, {name}, on {facts['node']}: {facts['error']}")
                    on_event("task_finished", task=name, **facts)
                bar.n, _ = _progress(stage)
                bar.set_postfix(tasks=f"{len(tasks) - len(pending)}/{len(tasks)}")
        finally:
            bar.close()
            for handle in pending:
                self.cancel(handle)


def _progress(stage: Stage) -> tuple[int, int]:
    return stage.progress() if stage.progress else (0, 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Ray(_Cluster):
    """Ray tasks with the recipe's resources.

    Args:
        address: `ray://host:port` of a cluster; default: the cluster of this machine, which is started
            where there is none.
    """

    def __init__(self, spec: RunSpec, resources: ResourcesConfig, address: str | None = None):
        super().__init__(spec, resources)
        if find_spec("ray") is None:
            raise RecipeError("--on ray needs Ray: pip install 'hf_puzzle[ray]'")
        import ray

        self.ray = ray
        try:
            if not ray.is_initialized():
                ray.init(address, log_to_driver=False, configure_logging=False, namespace="hf_puzzle")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RecipeError(f"no Ray cluster answers at {address or 'this machine'}: {_first_line(error)}") from None
        self.room = self._room()
        self.workers = resources.workers or self.room

    def _room(self) -> int:
        """Tasks that fit into the cluster at once."""
        there = self.ray.cluster_resources()
        fits = [
            math.floor(there.get(name, 0.0) / asked)
            for name, asked in (("CPU", self.resources.cpu), ("GPU", self.resources.gpu))
            if asked
        ]
        room = min(fits, default=1)
        if room < 1:
            raise RecipeError(
                f"resources: a task asks for {self.resources.cpu} CPUs and {self.resources.gpu} GPUs, the cluster has "
                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}"
            )
        return room

    def run(self, stage: Stage, tasks: list[dict], on_event: Callable[..., None]) -> None:
        # queues between tasks belong to this process, which outlives its workers
        queues = [channel(arguments["above"]) for arguments in tasks if arguments.get("above")]
        if queues and len(tasks) > self.room:
            raise RecipeError(
                f"library.states: pipeline needs all {len(tasks)} jobs at once, the cluster has room for {self.room}: lower "
                "resources.workers"
            )
        try:
            super().run(stage, tasks, on_event)
        finally:
            for queue in queues:
                queue.shutdown(force=True)

    def submit(self, stage: Stage, arguments: dict, call: Callable[[], dict]) -> Any:
        asked = self.resources
        # a job of a pipeline cannot start again alone: what its neighbour handed to it is gone
        retries = 0 if arguments.get("below") or arguments.get("above") else RETRIES
        options = {"num_cpus": asked.cpu, "num_gpus": asked.gpu, "max_retries": retries}
        options["name"] = f"{stage.name} {task_name(arguments)}"
        if asked.memory_gb is not None:
            options["memory"] = int(asked.memory_gb * 1e9)
        if (kind := arguments.get("accelerator") or asked.accelerator) is not None:
            options["accelerator_type"] = kind
        return self.ray.remote(_call).options(**options).remote(call)

    def wait(self, handles: list) -> list:
        return self.ray.wait(handles, timeout=1.0)[0]

    def result(self, handle: Any) -> dict:
        return self.ray.get(handle)

    def cancel(self, handle: Any) -> None:
        self.ray.cancel(handle, force=True)


def channel(name: str, capacity: int = 8):
    """The bounded queue of this name between two tasks of a Ray run."""
    from ray.util.queue import Queue

    return Queue(capacity, actor_options={"name": name, "get_if_exists": True, "num_cpus": 0})


def _call(call: Callable[[], dict]) -> dict:
    return call()


class Slurm(_Cluster):
    """Slurm jobs through submitit; `cluster="local"` runs them as processes of this machine."""

    def __init__(self, spec: RunSpec, resources: ResourcesConfig, cluster: str | None = None):
        super().__init__(spec, resources)
        if find_spec("submitit") is None:
            raise RecipeError("--on slurm needs submitit: pip install 'hf_puzzle[slurm]'")
        import submitit

        try:
            self.executor = submitit.AutoExecutor(Path(spec.run_dir) / "slurm", cluster=cluster or "slurm")
            own = {"cpus_per_task": self.threads, "gpus_per_node": math.ceil(resources.gpu), "timeout_min": 24 * 60}
            self.executor.update_parameters(**own | resources.slurm)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            raise RecipeError(f"--on slurm: {_first_line(error)}") from None
        if resources.memory_gb is not None:
            self.executor.update_parameters(mem_gb=math.ceil(resources.memory_gb))
        self.workers = resources.workers or 4

    def submit(self, stage: Stage, arguments: dict, call: Callable[[], dict]) -> Any:
        return self.executor.submit(call)

    def wait(self, handles: list) -> list:
        done = [job for job in handles if job.done()]
        if not done:
            time.sleep(1.0)
        return done

    def result(self, handle: Any) -> dict:
        return handle.result()

    def cancel(self, handle: Any) -> None:
        handle.cancel()


def executor_for(on: str | None, spec: RunSpec, resources: ResourcesConfig) -> Executor:
    """What `--on` names: nothing, `ray`, `ray://host:port`, `slurm`.

    Raises:
        RecipeError: another name, a package that is missing, a cluster that does not answer or is too small.
    """
    if on is None:
        return InProcess()
    for name, value, least in (
        ("cpu", resources.cpu, 1e-3),
        ("gpu", resources.gpu, 0),
        ("workers", resources.workers, 1),
    ):
        if value is not None and value < least:
            raise RecipeError(f"resources.{name}: {value} is less than {least}")
    if on == "slurm":
        return Slurm(spec, resources)
    if on == "ray" or on.startswith("ray://"):
        return Ray(spec, resources, None if on == "ray" else on)
    raise RecipeError(f"--on {on!r} is unknown; known: ray, ray://HOST:PORT, slurm")


def run_to_report(
    recipe: Any, stages: list[Stage], out: Path, base: Path, only: str | None, start: str | None, say, on: str | None
) -> str:
    """Run the stages of a recipe that is known by its folder alone (PCW, MRKL); the text of its `report.md`.

    Args:
        base: folder of the recipe.
        only, start, say: as of `stages.run_stages`.
        on: as of `executor_for`.

    Raises:
        NotReadyError: `out` cannot be written to, or the tokenizer of `model.name` cannot be opened.
    """
    check_folder(out)
    check_tokenizer_of(recipe.model, base)
    spec = RunSpec(to_dict(recipe), str(out.resolve()), str(base.resolve()))
    with artifacts.locked(out):
        run_stages(out, stages, only, start, say, executor_for(on, spec, recipe.resources))
    path = out / "report.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""
