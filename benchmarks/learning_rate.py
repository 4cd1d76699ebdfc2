"""How a good learning rate of GKD grows with the steps, and what `distill.learning_rate: auto` takes of it.

    python benchmarks/learning_rate.py --runs runs/iterations/seed_*_iterations_1

The children of finished runs (those of iterations.py, say), before GKD: each is distilled for several numbers of steps at
several rates and at `auto`, always with warm-up and a linear decay to zero. KL(parent || child) per token in nats on the
run's validation text after the last step. A killed benchmark continues.
"""

import argparse
import dataclasses
import math
import shutil
import tempfile
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.costs import cpu_threads
from hf_puzzle.puzzle.distillation import distill, validation_rows
from hf_puzzle.puzzle.learning_rate import lowest
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import parse_recipe


ROOT = Path(__file__).parent.parent


def distilled(run: PuzzleRun, steps: int, rate: float | str, optimizer: str) -> dict:
    recipe = run.recipe
    length = recipe.data.sequence_length
    changes = {
        "num_tokens": steps * recipe.distill.batch_size * length, "learning_rate": rate, "optimizer": optimizer, "evals": 1,
    }  # fmt: skip
    config = dataclasses.replace(recipe.distill, **changes)
    rows = validation_rows(run.tokens["validation"], config, length, recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        child = run.load_child("child")
        _, done = distill(child, run.parent, run.tokens["train"], config, length, folder, rows, recipe.seed)
        shutil.rmtree(folder, ignore_errors=True)
    return {"steps": steps, "rate": rate, "used": done.learning_rate, "before": done.kl_before, "kl": done.kl_last}


def best_rate(rows: list[dict]) -> float:
    """Where a parabola through the best rate and its neighbours is lowest."""
    return lowest({row["rate"]: math.inf if row["kl"] is None else row["kl"] for row in rows if row["rate"] != "auto"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 24, 200, 800])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 9e-4, 2.7e-3, 8.1e-3])
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/learning_rate.json")
    args = parser.parse_args()
    made = artifacts.read_json(args.out)["children"] if args.out.exists() else {}
    for folder in args.runs:
        recipe = parse_recipe(artifacts.read_json(folder / "child/puzzle.json")["recipe"])
        run, rows = PuzzleRun(recipe, folder), made.setdefault(folder.name, {"rows": []})["rows"]
        known = {(row["steps"], row["rate"]) for row in rows}
        for steps in args.steps:
            for rate in [*args.rates, "auto"]:
                if (steps, rate) in known:
                    continue
                with cpu_threads(1):
                    rows.append(distilled(run, steps, rate, args.optimizer))
                print(folder.name, rows[-1], flush=True)
            of_these = [row for row in rows if row["steps"] == steps]
            made[folder.name].setdefault("best", {})[str(steps)] = best_rate(of_these)
            facts = {
                "what": "KL(parent || child) per token on validation text after the last step of GKD, by steps and peak rate; best: the lowest point of a parabola through the three best rates",
                "optimizer": args.optimizer, "children": made, "environment": artifacts.environment(),
            }  # fmt: skip
            artifacts.write_json(args.out, facts)


if __name__ == "__main__":
    main()
