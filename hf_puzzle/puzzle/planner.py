"""`hf-puzzle plan`: time, memory and disk of every stage of a run, from the recipe and the parent's config alone.

A sum over tasks, cut for the workers by the functions that the run itself uses; what a task takes, its stage says
(`Stage.estimate`).
"""

import copy
import dataclasses
import heapq
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import artifacts
from .estimates import Pieces
from .machines import MACHINES, Machine
from .timing import this_machine


NOWHERE = Path("plan-of-no-run")  # folder of a run that is only looked at


@dataclass(frozen=True)
class StagePlan:
    """One stage: `seconds` on the workers, what the largest of its tasks holds at once, and the bytes that all of them
    leave on the disk, with those that are there besides at the worst moment."""

    stage: str
    needs: tuple[str, ...]
    tasks: int
    seconds: float
    memory: dict[str, float]
    help: str
    kept_bytes: float
    scratch_bytes: float

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def disk_bytes(self) -> float:
        return self.kept_bytes + self.scratch_bytes

    def to_dict(self) -> dict:
        return {**dataclasses.asdict(self), "memory_bytes": self.memory_bytes, "disk_bytes": self.disk_bytes}


@dataclass(frozen=True)
class Plan:
    """The task graph of a run on a machine; `problems` says what does not fit, and which key helps."""

    machine: Machine
    workers: int
    parent_parameters: int
    child_share: float
    stages: list[StagePlan]
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        return {
            "machine": dataclasses.asdict(self.machine),
            "workers": self.workers,
            "parent_parameters": self.parent_parameters,
            "child_share_of_blocks": self.child_share,
            "seconds": sum(stage.seconds for stage in self.stages),
            "memory_bytes": max(stage.memory_bytes for stage in self.stages),
            "disk_bytes": sum(stage.disk_bytes for stage in self.stages),
            "stages": [stage.to_dict() for stage in self.stages],
            "problems": self.problems,
        }


def only_looked_at(run, config=None):
    """A copy of a `PuzzleRun` of which nothing is done: its tokens have a number and no value, no weights are read.

    Args:
        config: of another parent.
    """
    seen = copy.copy(run)
    seen.source, data = copy.copy(run.source), run.recipe.data
    seen.source.config, seen.source.fingerprint = config if config is not None else run.config, lambda: ""
    for name in ("space", "metric", "fmt"):
        vars(seen).pop(name, None)
    seen.run_dir, seen.given_streams = NOWHERE, None
    streams = run.given_streams
    train, heldout = (len(streams["train"]), len(streams["heldout"])) if streams else (data.num_tokens, data.heldout_tokens)  # fmt: skip
    sizes = {"train": train, "validation": heldout // 3, "test": heldout - heldout // 3}
    seen.tokens = {name: torch.zeros(1, dtype=torch.int32).expand(size) for name, size in sizes.items()}
    return seen


def make_plan(run, machine: Machine | None, workers: int = 1, on_gpu: bool | None = None) -> Plan:
    """The plan of a run that is `only_looked_at`; `machine` and `on_gpu` as of `Pieces`."""
    pieces, stages = Pieces(run, machine, workers, on_gpu), []
    for stage in run.stages():
        made = [stage.estimate(pieces, **task) for task in stage.tasks(workers)]
        largest = max(made, key=lambda each: sum(each.memory.values()), default=None)
        scratch = sorted((each.scratch for each in made), reverse=True)[:workers]
        stages.append(
            StagePlan(
                stage.name, stage.needs, len(made), _scheduled([each.seconds for each in made], workers),
                largest.memory if largest else {}, largest.help if largest else "",
                sum(each.disk for each in made), sum(scratch),
            )
        )  # fmt: skip
    plan = Plan(pieces.machine, workers, pieces.parameters, pieces.share, stages)
    plan.problems.extend(_problems(plan))
    return plan


def _scheduled(seconds: list[float], workers: int) -> float:
    """When the last task ends, each given to the worker that is free first."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def _problems(plan: Plan) -> list[str]:
    lines, room = [], plan.machine.memory_bytes
    for stage in plan.stages:
        over = stage.memory_bytes - room
        if over > 0:
            name, largest = max(stage.memory.items(), key=lambda item: item[1])
            lines.append(
                f"{stage.stage} does not fit: {gigabytes(stage.memory_bytes)} of {gigabytes(room)} on {plan.machine.name}, "
                f"{gigabytes(over)} too much ({name}: {gigabytes(largest)}); {stage.help}"
            )
    disk, limit = sum(stage.disk_bytes for stage in plan.stages), plan.machine.disk_gb
    if limit is not None and disk > limit * 1e9:
        lines.append(f"disk: {gigabytes(disk)} of {limit:.1f} GB; --out on a larger disk, or fewer blocks in search_space")  # fmt: skip
    return lines


def plan_here(run) -> Plan:
    """What a run takes of the memory of its device and of the disk; times are those of no machine in particular."""
    here = this_machine(run.device)
    name = "this GPU" if run.device.type != "cpu" else "this machine"
    # speeds of the table, so that nothing is measured; they only say how small a target makes the child
    machine = dataclasses.replace(MACHINES["h200"], name=name, memory_gb=here.memory_gb, count=here.count)
    # a pipeline needs all its jobs at once: how many workers there will be is the executor's to say
    workers = run.config.num_hidden_layers if run.recipe.library.states == "pipeline" else 1
    return make_plan(only_looked_at(run), machine, workers, on_gpu=run.device.type != "cpu")


def disk_still_needed(run, plan: Plan) -> float:
    """Bytes that the unfinished stages of a `PuzzleRun` will take beyond what they hold already, at the worst moment."""
    manifest, kept, most = artifacts.Manifest(run.run_dir), 0.0, 0.0
    for stage, planned in zip(run.stages(), plan.stages, strict=True):
        if "finished" not in manifest.stages.get(stage.name, {}):
            held = sum(artifacts.size_on_disk(run.run_dir / name) for name in (*stage.outputs, *stage.scratch))
            most = max(most, kept + planned.disk_bytes - held)
            kept += max(0.0, planned.kept_bytes - held)
    return most


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} days"
