"""The searched child against simpler choices, at equal predicted speed and equal GKD tokens.

    python benchmarks/baselines.py --out-dir runs/tiny_cpu_baselines

Runs recipes/puzzle/tiny_cpu_baselines.yaml (what is there is reused) and collects its baselines.jsonl.
"""

import argparse
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu_baselines.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out-dir", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/baselines.json")
    args = parser.parse_args()
    recipe = load_recipe(RECIPE, args.overrides)
    run = PuzzleRun(recipe, args.out_dir, RECIPE.parent)
    run.run(say=print)
    rows = artifacts.read_jsonl(args.out_dir / "baselines.jsonl")
    order = list(dict.fromkeys(row["name"] for row in rows))
    rows.sort(key=lambda row: (row["gkd_tokens"], order.index(row["name"])))
    artifacts.write_json(
        args.out,
        {"environment": artifacts.environment(), "seed": recipe.seed, "overrides": args.overrides, "rows": rows},
    )


if __name__ == "__main__":
    main()
