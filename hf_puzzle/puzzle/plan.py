"""A plan of a run, from its recipe: what `planner.py` knows about stages, for a run that is only looked at."""

import dataclasses
from pathlib import Path

from ..costs import cpu_threads
from ..recipe import PuzzleRecipe, RecipeError
from .machines import find_machine
from .parent import planned_config as trained_config
from .pipeline import PuzzleRun
from .planner import NOWHERE, Plan, make_plan, only_looked_at
from .published import PARENTS, parent_config


def _parent_config(run: PuzzleRun, parent: str | None):
    """Of one of `PARENTS`, of the parent that the run makes, or of the recipe's."""
    if parent is not None:
        run.source.original_config = parent_config(parent)
        return run.source.planned(run.source.original_config)
    if run.source.trained:
        return trained_config(run.source.recipe, run.source.recipe_file.parent)
    try:
        return run.config
    except RecipeError as error:
        first = str(error).splitlines()[0]
        raise RecipeError(f"{first} Shapes that need no Hub: --parent {', '.join(PARENTS)}") from None


def plan(
    recipe: PuzzleRecipe,
    recipe_dir: Path,
    machine: str = "this",
    workers: int = 1,
    parent: str | None = None,
) -> Plan:
    """The plan of a recipe on a machine.

    Args:
        machine: as of `machines.find_machine`.
        workers: tasks that run at once, each on a device of its own.
        parent: one of `PARENTS` instead of the recipe's.

    Raises:
        RecipeError: what `hf-puzzle run` would say of the recipe; an unknown machine or parent.
    """
    if workers < 1:
        raise RecipeError(f"--workers {workers}: at least 1 is needed")
    found = find_machine(machine)
    # `auto` would ask for a GPU of this machine: a plan for another one does not
    run = PuzzleRun(recipe if found is None else dataclasses.replace(recipe, device="cpu"), NOWHERE, recipe_dir)
    run = only_looked_at(run, _parent_config(run, parent))
    run.check_recipe()
    with cpu_threads(recipe.threads):
        return make_plan(run, found, workers)
