"""A run is a list of stages, each a function from files to files; finished ones are reused, killed ones continue.

A stage may be cut into tasks, which an executor (`fanout.py`) runs here, on a Ray cluster or as Slurm jobs. Tasks write
files of their own; the stage's `merge` makes its outputs of them, the same whoever ran the tasks.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import artifacts, progress


logger = logging.getLogger(__name__)


EVENTS = "events.jsonl"


class StageError(ValueError):
    """A stage was named that does not exist, or that lacks its inputs."""


@dataclass(frozen=True)
class Estimate:
    """What one task of a stage is expected to take.

    Attributes:
        seconds: on one worker.
        memory: bytes that its process holds at once, at the worst moment, by what they are.
        help: which key helps where that does not fit.
        disk: bytes that it leaves.
        scratch: bytes that it has besides, at the worst moment.
    """

    seconds: float
    memory: dict[str, float]
    help: str
    disk: float = 0.0
    scratch: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: what `--only` and `--from` take.
        run: does one task, whose arguments it gets by name; must continue where a killed call left off.
        settings: everything of the recipe that its result depends on, JSON-like.
        needs: stages whose outputs it reads.
        outputs: files and folders it writes, relative to the run folder.
        scratch: what it continues from after a kill; deleted when it has finished, and when the inputs change.
        tasks: arguments (JSON) of the tasks that are left to do, cut for so many workers; default: the stage is one task.
        merge: makes the outputs of what the tasks wrote.
        progress: `(done, all)` units of work, read off the files; for a view on workers elsewhere.
        keeps_parts: when a file of its outputs is lost, that one alone is made again.
        estimate: what a task takes, from what its planner offers and its arguments.
    """

    name: str
    run: Callable[..., None]
    settings: object
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    scratch: tuple[str, ...] = ()
    tasks: Callable[[int], list[dict]] = lambda workers: [{}]
    merge: Callable[[], None] = lambda: None
    progress: Callable[[], tuple[int, int]] | None = None
    keeps_parts: bool = False
    estimate: Callable[..., Estimate] | None = None


class Executor(Protocol):
    """Where tasks run."""

    workers: int

    def run(self, stage: Stage, tasks: list[dict], on_event: Callable[..., None]) -> None:
        """Run all `tasks` of `stage`; `on_event(event, **facts)` is told of each task's start and end."""


class InProcess:
    """Tasks one after the other, in this process."""

    workers = 1

    def run(self, stage: Stage, tasks: list[dict], on_event: Callable[..., None]) -> None:
        for arguments in progress.bar(tasks, desc=f"{stage.name}: tasks") if len(tasks) > 1 else tasks:
            name, began = task_name(arguments), time.perf_counter()
            on_event("task_started", task=name)
            stage.run(**arguments)
            on_event("task_finished", task=name, seconds=round(time.perf_counter() - began, 2))


def task_name(arguments: dict) -> str:
    """`start=0 stop=6`; `all` of a stage that is one task."""
    return " ".join(f"{name}={value}" for name, value in arguments.items()) or "all"


def run_stages(
    run_dir: Path,
    stages: Sequence[Stage],
    only: str | None = None,
    start: str | None = None,
    say=logger.info,
    executor: Executor | None = None,
) -> None:
    """Run what is missing or stale. Everything that happens is a line of `events.jsonl`.

    Args:
        only: run just this stage (again, if its inputs changed; its needs must be finished).
        start: run this stage and all later ones again, even if finished.
        executor: where tasks run; default: here.

    Raises:
        StageError: unknown stage, or `only` a stage whose inputs are missing.
    """
    names = [stage.name for stage in stages]
    for name in (only, start):
        if name is not None and name not in names:
            raise StageError(f"unknown stage {name!r}; stages: {', '.join(names)}")
    executor, by_name = executor or InProcess(), {stage.name: stage for stage in stages}
    manifest = artifacts.Manifest(run_dir)
    inputs: dict[str, str] = {}
    run_began = time.perf_counter()

    def on_event(event: str, **facts) -> None:
        # the clock on the wall may jump; `elapsed_s` and `seconds` do not
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        row = {"time": now, "elapsed_s": round(time.perf_counter() - run_began, 2), "event": event, **facts}
        artifacts.append_jsonl(run_dir / EVENTS, row)

    if start is not None:  # forgotten before anything runs, so that a killed rerun does not take old files for new
        for stage in stages[names.index(start) :]:
            manifest.forget(stage.name, _paths(run_dir, stage))
    for stage in stages:
        inputs[stage.name] = artifacts.fingerprint(stage.settings, [inputs[need] for need in stage.needs])
        if only is not None and stage.name != only:
            continue
        if only is not None:
            stale = [need for need in stage.needs if not _is_there(run_dir, manifest, by_name[need], inputs[need])]
            if stale:
                raise StageError(f"stage {only!r} needs {', '.join(stale)}: run without --only first")
        outputs = [run_dir / name for name in stage.outputs]
        if manifest.is_finished(stage.name, inputs[stage.name]):
            with progress.under_way(f"{stage.name}: checking files"):
                damaged = manifest.damaged(stage.name, outputs)
            if only is None and not damaged:
                _remove(run_dir, stage.scratch)  # of a run that was killed right after it had finished
                seconds = manifest.stages[stage.name]["seconds"]
                say(f"{stage.name}: reused ({seconds:.0f} s saved)")
                on_event("stage_reused", stage=stage.name, seconds=seconds)
                continue
            if only is not None:  # asked for again by name
                manifest.forget(stage.name, _paths(run_dir, stage))
            else:
                say(f"{stage.name}: {damaged[0].relative_to(run_dir)} is missing or was changed, and is made again")
                broken = damaged if stage.keeps_parts else [p for p in outputs for d in damaged if d.is_relative_to(p)]
                manifest.reopen(stage.name, broken)
        began = time.perf_counter()
        spent = manifest.begin(stage.name, inputs[stage.name], _paths(run_dir, stage))
        say(f"{stage.name}: " + ("continues" if spent else "starts"))
        tasks = stage.tasks(executor.workers)
        on_event("stage_started", stage=stage.name, continues=spent, tasks=len(tasks))
        try:
            with progress.under_way(stage.name):
                executor.run(stage, tasks, functools.partial(on_event, stage=stage.name))
                stage.merge()
        except BaseException as error:
            on_event("stage_failed", stage=stage.name, error=f"{type(error).__name__}: {error}"[:2000])
            raise
        seconds = time.perf_counter() - began
        manifest.finish(stage.name, seconds, outputs)
        _remove(run_dir, stage.scratch)  # not earlier: a kill in between would lose what it continues from
        on_event("stage_finished", stage=stage.name, seconds=round(seconds, 2))
        say(f"{stage.name}: done in {seconds:.0f} s")


def time_spent(run_dir: Path) -> list[tuple[str, float, float]]:
    """`(stage, wall seconds, seconds of its tasks)` over all sittings of a run, from `events.jsonl`.

    A sitting that was killed counts up to the last thing that it said.
    """
    wall: dict[str, float] = {}
    work: dict[str, float] = {}
    last = 0.0
    for row in artifacts.read_jsonl(run_dir / EVENTS):
        stage, elapsed = row["stage"], row["elapsed_s"]
        if row["event"] not in ("stage_started", "stage_reused") and elapsed >= last:
            wall[stage] = wall.get(stage, 0.0) + elapsed - last
        if row["event"] == "task_finished":
            work[stage] = work.get(stage, 0.0) + row["seconds"]
        last = elapsed
    return [(stage, seconds, work.get(stage, 0.0)) for stage, seconds in wall.items()]


def _is_there(run_dir: Path, manifest: artifacts.Manifest, stage: Stage, inputs: str) -> bool:
    outputs = [run_dir / name for name in stage.outputs]
    return manifest.is_finished(stage.name, inputs) and not manifest.damaged(stage.name, outputs)


def _remove(run_dir: Path, names: tuple[str, ...]) -> None:
    for name in names:
        artifacts.remove(run_dir / name)


def _paths(run_dir: Path, stage: Stage) -> list[Path]:
    return [run_dir / name for name in (*stage.outputs, *stage.scratch)]
