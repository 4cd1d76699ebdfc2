"""The other two systems on a run's parent and on its child, from recipes of their own, side by side in its report."""

import dataclasses
import functools
import logging
import statistics
from pathlib import Path

from .. import artifacts
from ..fanout import RunSpec, run_to_report
from ..recipe import RecipeError, load_recipe, to_dict
from ..stages import Estimate, Stage
from .estimates import Pieces


logger = logging.getLogger(__name__)

FOLDER, TABLE = "systems", "systems.json"
SIDES = ("parent", "distilled")
FORWARDS, LENGTH = 1_000, 1_024  # that a recipe may take: a guess for plans


def opened(run) -> list:
    """The recipes of `evaluate.systems`, on this run's device and threads; their model is named by `_on`.

    Raises:
        RecipeError: unreadable, of `system: puzzle`, or two of one file name, which is their folder's.
    """
    names = [Path(name).stem for name in run.recipe.evaluate.systems]
    if len(set(names)) < len(names):
        raise RecipeError(f"evaluate.systems: two recipes are called {max(names, key=names.count)!r}; rename one")
    recipes = []
    for name in run.recipe.evaluate.systems:
        recipe = load_recipe(run.recipe_dir / name)
        if recipe.system not in ("pcw", "mrkl"):
            raise RecipeError(f"evaluate.systems: {name} is a recipe of `system: {recipe.system}`, not of pcw or mrkl")
        recipes.append(dataclasses.replace(recipe, device=run.recipe.device, threads=run.recipe.threads))
    return recipes


def stages(run) -> list[Stage]:
    """The stage of these recipes, if there are any: each of them on either side is a task."""
    names = run.recipe.evaluate.systems
    if not names:
        return []
    written = [artifacts.file_sha256(run.recipe_dir / name) for name in names]
    tasks = [{"number": number, "side": side} for number in range(len(names)) for side in SIDES]
    return [
        Stage("systems", functools.partial(run_system, run), [run.recipe.device, run.recipe.threads, names, written], ("distill",),
              (FOLDER, TABLE), tasks=lambda workers: tasks, merge=lambda: merge(run), keeps_parts=True, estimate=estimate)
    ]  # fmt: skip


def run_system(run, number: int, side: str) -> None:
    """One recipe on the parent or on the child, in a folder of its own, where a killed one continues."""
    recipe, path = opened(run)[number], run.recipe_dir / run.recipe.evaluate.systems[number]
    recipe, out, base = _on(run, recipe, side), run.run_dir / FOLDER / f"{path.stem}_{side}", path.parent
    stages = RunSpec(to_dict(recipe), str(out.resolve()), str(base.resolve())).stages()
    run_to_report(recipe, stages, out, base, None, None, logger.info, None)


def _on(run, recipe, side: str):
    """The recipe for one of the two models, trained by nobody."""
    asked = run.recipe.parent
    if side == "parent":
        path = run.source.original_path if run.source.narrowed else run.parent_path
        name, more = path, {"revision": asked.revision, "trust_remote_code": asked.trust_remote_code}
    else:
        name, more = str(run.run_dir.resolve() / side), {"revision": None, "trust_remote_code": True}
    if side == "parent" and Path(name).exists():
        name = str(Path(name).resolve())
    # a new section: what the recipe says of its own model (a GGUF file, say) is of that one
    model = type(recipe.model)(name=name, dtype=recipe.model.dtype, **more)
    return dataclasses.replace(recipe, train=None, model=model)


def merge(run) -> None:
    """`systems.json`: rows `{"system", "what", "parent", "child", "gain", "error"}`, shares, of all recipes."""
    rows = []
    for recipe, name in zip(opened(run), run.recipe.evaluate.systems, strict=True):
        folders = [run.run_dir / FOLDER / f"{Path(name).stem}_{side}" for side in SIDES]
        compared = windows if recipe.system == "pcw" else answers
        rows += [{"system": recipe.system} | row for row in compared(*folders)]
    artifacts.write_json(run.run_dir / TABLE, rows)


def windows(parent: Path, child: Path) -> list[dict]:
    """Accuracy by data set, mode and number of windows, paired by draw."""
    sides = []
    for folder in (parent, child):
        values: dict[tuple, dict[int, float]] = {}
        for row in artifacts.read_jsonl(folder / "draws.jsonl"):
            values.setdefault((row["dataset"], row["mode"], row["num_windows"]), {})[row["draw"]] = row["accuracy"]
        sides.append(values)
    rows = []
    for key in sides[0].keys() & sides[1].keys():
        before, after = sides[0][key], sides[1][key]
        draws = sorted(before.keys() & after.keys())
        gains = [after[draw] - before[draw] for draw in draws]
        rows.append(
            _row(f"{key[0]}: {key[1]}, B={key[2]}", [before[d] for d in draws], [after[d] for d in draws], gains)
        )
    return sorted(rows, key=lambda row: row["what"])


def answers(parent: Path, child: Path) -> list[dict]:
    """Questions that exact experts answered, those left to the model, and whether both sides say the same."""
    both = [artifacts.read_json(folder / "replies.json")["questions"] for folder in (parent, child)]
    exact = [[float(bool(reply["trace"])) for reply in replies] for replies in both]
    same = [float(a["answer"] == b["answer"]) for a, b in zip(*both, strict=True) if a["trace"] and b["trace"]]
    rows = (
        [_row("questions that experts answered", *exact, [b - a for a, b in zip(*exact, strict=True)])]
        if exact[0]
        else []
    )
    if same:
        rows.append(_row("of those, answers that are the parent's", [1.0] * len(same), same, [s - 1.0 for s in same]))
    return rows


def _row(what: str, parent: list[float], child: list[float], gains: list[float]) -> dict:
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
    means = (statistics.fmean(values) for values in (parent, child, gains))
    return {"what": what, **dict(zip(("parent", "child", "gain"), means, strict=True)), "error": error}


def estimate(p: Pieces, number: int, side: str) -> Estimate:
    """A guess: what such a recipe asks of a model is known when it runs."""
    seconds = FORWARDS * p.child_forward(1, LENGTH)
    return Estimate(seconds, p.held(model=p.parameters * p.width), "take recipes out of evaluate.systems", 10e6)
