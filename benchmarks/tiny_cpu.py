"""Quality kept at a measured speed, over GKD budgets and seeds.

    python benchmarks/tiny_cpu.py --runs runs/bench            # all of it, about an hour and a half on two cores
    python benchmarks/tiny_cpu.py --runs runs/bench --targets 2.17 --seeds 0 --tokens 500000

Each (target, seed) is a run of recipes/puzzle/tiny_cpu.yaml up to the refitted child, the layout searched with the first
seed; every GKD budget is a training of its own, decayed to zero. Runs and results that are there already are reused.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from hf_puzzle import artifacts
from hf_puzzle.costs import cpu_threads
from hf_puzzle.puzzle.assess import test_targets
from hf_puzzle.puzzle.distillation import distill, validation_rows
from hf_puzzle.puzzle.iterations import Iteration
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml"


def child_of(target: float, seed: int, first_seed: int, runs: Path, settings: Sequence[str] = ()) -> PuzzleRun:
    """Run the recipe up to the child, for one target and seed.

    Every seed trains its own library; the layout is searched and timed once, with the first seed, so that the spread
    over seeds is that of BLD, refit and GKD on one network.
    """
    recipe = load_recipe(RECIPE, [f"constraints.speedup={target}", f"seed={seed}", *settings])
    run = PuzzleRun(recipe, runs / f"seed_{seed}_{target}", RECIPE.parent)
    shared, timed = (PuzzleRun(recipe, runs / name, RECIPE.parent) for name in (f"seed_{seed}", "costs"))
    shared.check()
    for stage in ("data", "importance", "library", *(("score",) if seed == first_seed else ())):
        shared_run(shared, stage)
    for stage in ("data", "cost"):
        shared_run(timed, stage)
    run.run_dir.mkdir(parents=True, exist_ok=True)
    for folder, names in (
        (shared.run_dir, ("tokens.safetensors", "importance.safetensors", "library", "scores.jsonl")),
        (timed.run_dir, ("costs.json",)),
        *([(runs / f"seed_{first_seed}_{target}", ("solutions.json",))] if seed != first_seed else []),
    ):
        for name in names:
            link = run.run_dir / name
            if not link.is_symlink():
                link.symlink_to(Path("..") / folder.name / name)
    if not (run.run_dir / "child" / "config.json").exists():
        with cpu_threads(recipe.threads):
            if seed == first_seed:
                run.solve(Iteration(run))
            run.make_child(Iteration(run))
    return run


def shared_run(run: PuzzleRun, stage: str) -> None:
    manifest = artifacts.Manifest(run.run_dir)
    if "finished" not in manifest.stages.get(stage, {}):
        run.run(only=stage, say=print)


def result(run: PuzzleRun, tokens: int) -> dict:
    """Quality after `tokens` of GKD, on the test text."""
    child = run.load_child("child")
    if tokens:
        config = dataclasses.replace(run.recipe.distill, num_tokens=tokens)
        folder = run.run_dir / f"gkd_{tokens}"
        rows = validation_rows(run.tokens["validation"], config, run.sequence_length, run.recipe.seed)
        child, _ = distill(
            child, run.parent, run.tokens["train"], config, run.sequence_length, folder, rows, run.recipe.seed
        )
        artifacts.remove(folder)
    return test_targets(run).compare(child).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[2.17, 2.0, 1.45])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--first-seed", type=int, default=0, help="the seed whose search gives the layout")
    parser.add_argument("--tokens", type=int, nargs="+", default=[0, 164_000, 500_000, 1_000_000])
    parser.add_argument("--children-only", action="store_true", help="stop when the children are made and timed")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/tiny_cpu.json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    done = {(row["target"], row["seed"], row["gkd_tokens"]) for row in rows}
    for seed in args.seeds:
        for target in args.targets:
            run = child_of(target, seed, args.first_seed, args.runs)
            chosen = run.chosen
            if args.children_only:
                print(target, seed, chosen["measured"]["total"], chosen["distance"], chosen["blocks"])
                continue
            for tokens in args.tokens:
                if (target, seed, tokens) in done:
                    continue
                row = {
                    "target": target,
                    "seed": seed,
                    "gkd_tokens": tokens,
                    "blocks": chosen["blocks"],
                    "measured": {k: chosen["measured"][k] for k in ("total", "prefill", "decode", "same_code")},
                    "quality": result(run, tokens),
                }
                rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
                rows.append(row)
                rows.sort(key=lambda r: (-r["target"], r["seed"], r["gkd_tokens"]))
                artifacts.write_json(args.out, {"environment": artifacts.environment(), "rows": rows})
                print(
                    f"{target}x seed {seed} {tokens:>9} tokens: kept {row['quality']['top1_kept']:.4f} KL {row['quality']['kl']:.4f}"
                )


if __name__ == "__main__":
    main()
