"""A plan of a run, from its recipe: what `planner.py` knows about stages, for a run that is only looked at."""

import dataclasses
from pathlib import Path

import torch
from transformers import LlamaConfig

from ..costs import cpu_threads
from ..recipe import ParentRecipe, PuzzleRecipe, RecipeError, load_recipe
from .machines import find_machine
from .pipeline import PuzzleRun
from .planner import Plan, Planner
from .published import PARENTS, parent_config


class _PlannedRun(PuzzleRun):
    """A run that is only looked at: its tokens have a number and no value, and no weights are read."""

    given_config: object = None

    @property
    def config(self):
        if self.given_config is not None:
            return self.given_config
        if self.recipe.parent.recipe is not None and not (Path(self.parent_path) / "config.json").exists():
            recipe = load_recipe(self.recipe_dir / self.recipe.parent.recipe)
            if not isinstance(recipe, ParentRecipe):
                raise RecipeError(f"parent.recipe {self.recipe.parent.recipe} is not a recipe with `system: parent`")
            try:
                return LlamaConfig(**recipe.config, vocab_size=recipe.vocab_size)
            except (TypeError, ValueError) as error:
                raise RecipeError(f"config: {error}") from None
        try:
            return super().config
        except RecipeError as error:
            first = str(error).splitlines()[0]
            raise RecipeError(f"{first} Shapes that need no Hub: --parent {', '.join(PARENTS)}") from None

    @property
    def tokens(self) -> dict[str, torch.Tensor]:
        sizes = {"train": self.recipe.data.num_tokens}
        sizes |= {"validation": self.recipe.data.heldout_tokens // 3}
        sizes |= {"test": self.recipe.data.heldout_tokens - sizes["validation"]}
        return {name: torch.zeros(1, dtype=torch.int32).expand(size) for name, size in sizes.items()}

    def _parent_fingerprint(self) -> str:
        return ""


def plan(
    recipe: PuzzleRecipe,
    recipe_dir: Path,
    machine: str = "this",
    workers: int = 1,
    parent: str | None = None,
    out: Path = Path("plan-of-no-run"),
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
    run = _PlannedRun(recipe if found is None else dataclasses.replace(recipe, device="cpu"), out, recipe_dir)
    run.given_config = parent_config(parent) if parent else None
    run.check_recipe()
    with cpu_threads(recipe.threads):
        return Planner(run, found, workers).plan()
