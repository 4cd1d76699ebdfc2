"""A run is a list of stages, each a function from files to files; finished ones are reused, killed ones continue."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import artifacts


logger = logging.getLogger(__name__)


class StageError(ValueError):
    """A stage was named that does not exist, or that lacks its inputs."""


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: what `--only` and `--from` take.
        run: called without arguments; must continue where a killed call left off.
        settings: everything of the recipe that its result depends on, JSON-like.
        needs: stages whose outputs it reads.
        outputs: files and folders it writes, relative to the run folder.
        scratch: what it leaves there only when it is killed; deleted with the outputs when the inputs change.
    """

    name: str
    run: Callable[[], None]
    settings: object
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    scratch: tuple[str, ...] = ()


def run_stages(
    run_dir: Path, stages: Sequence[Stage], only: str | None = None, start: str | None = None, say=logger.info
) -> None:
    """Run what is missing or stale.

    Args:
        only: run just this stage (again, if its inputs changed; its needs must be finished).
        start: run this stage and all later ones again, even if finished.

    Raises:
        StageError: unknown stage, or `only` a stage whose inputs are missing.
    """
    names = [stage.name for stage in stages]
    for name in (only, start):
        if name is not None and name not in names:
            raise StageError(f"unknown stage {name!r}; stages: {', '.join(names)}")
    manifest = artifacts.Manifest(run_dir)
    inputs: dict[str, str] = {}
    if start is not None:  # forgotten before anything runs, so that a killed rerun does not take old files for new
        for stage in stages[names.index(start) :]:
            manifest.forget(stage.name, _paths(run_dir, stage))
    for stage in stages:
        inputs[stage.name] = artifacts.fingerprint(stage.settings, [inputs[need] for need in stage.needs])
        if only is not None and stage.name != only:
            continue
        if only is not None:
            stale = [need for need in stage.needs if not manifest.is_finished(need, inputs[need])]
            if stale:
                raise StageError(f"stage {only!r} needs {', '.join(stale)}: run without --only first")
        present = all((run_dir / name).exists() for name in stage.outputs)
        if manifest.is_finished(stage.name, inputs[stage.name]) and present and only is None:
            say(f"{stage.name}: reused ({manifest.stages[stage.name]['seconds']:.0f} s saved)")
            continue
        if manifest.is_finished(stage.name, inputs[stage.name]):  # asked for again by name, or files are missing
            manifest.forget(stage.name, _paths(run_dir, stage))
        began = time.perf_counter()
        spent = manifest.begin(stage.name, inputs[stage.name], _paths(run_dir, stage))
        say(f"{stage.name}: " + ("continues" if spent else "starts"))
        stage.run()
        seconds = time.perf_counter() - began
        manifest.finish(stage.name, seconds)
        say(f"{stage.name}: done in {seconds:.0f} s")


def _paths(run_dir: Path, stage: Stage) -> list[Path]:
    return [run_dir / name for name in (*stage.outputs, *stage.scratch)]
