"""What `make real` gave: the numbers of its run folder that the README quotes, with times and peaks by stage.

python benchmarks/real.py --run runs/smollm2_135m
"""

import argparse
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
KEPT = (
    "speed",
    "quality",
    "task",
    "requests",
    "chats",
    "keys",
    "gguf",
    "memory",
    "gkd_tokens",
    "workload",
    "environment",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--note", help="what else ran meanwhile, and other budgets than the recipe's")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/real.json")
    args = parser.parse_args()
    evaluation, manifest = (artifacts.read_json(args.run / name) for name in ("eval.json", "manifest.json"))
    solutions = artifacts.read_json(args.run / "solutions.json")
    overrides, precision = args.run / "overrides.json", args.run / "precision.json"
    changed = artifacts.read_json(overrides) if overrides.exists() else []
    cost = load_recipe(args.run / "recipe.yaml", changed).cost
    result = {
        "note": args.note,
        # where the parent lies is of no interest
        "overrides": [o for o in changed if not o.startswith("parent.")],
        "engine": cost.engine if cost.gguf_type == "auto" else f"{cost.engine}, {cost.gguf_type}",
        "dtype": artifacts.read_json(precision)["fastest"] if precision.exists() else cost.dtype,
        "stage_s": {name: entry["seconds"] for name, entry in manifest.items()},
        "library_bytes": sum(path.stat().st_size for path in (args.run / "library").rglob("*") if path.is_file()),
        "blocks": solutions["chosen"]["blocks"],
        "gkd": artifacts.read_json(args.run / "distilled" / "puzzle.json").get("gkd"),
        "baselines": artifacts.read_jsonl(args.run / "baselines.jsonl"),
        **{name: evaluation[name] for name in KEPT},
    }
    artifacts.write_json(args.out, result)
    print(f"{sum(result['stage_s'].values()) / 60:.0f} minutes, library {result['library_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
