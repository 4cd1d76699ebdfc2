"""What `hf-puzzle run recipes/pcw/smollm2.yaml --out RUN` gave, as far as it went: rows of whole draws, and the documents.

    python benchmarks/pcw_real.py --run runs/pcw_smollm2

Each draw asks for other texts, so that the interval of a share is binomial over all of them (Wilson, 95 %).
"""

import argparse
import math
from collections import Counter
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.pcw import documents
from hf_puzzle.pcw.evaluate import PARTS, losses, summarize
from hf_puzzle.pcw.methods import names_of
from hf_puzzle.recipe import load_recipe, to_dict


ROOT = Path(__file__).parent.parent


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Ends of the interval of a share of `count`."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def whole_draws(run: Path, protocol) -> list[dict]:
    """Rows of the draws that are complete."""
    rows = [row for path in sorted((run / PARTS).glob("*.jsonl")) for row in artifacts.read_jsonl(path)]
    if (run / "draws.jsonl").exists():
        rows = artifacts.read_jsonl(run / "draws.jsonl")
    wanted = sum(len(names_of(protocol, b)) for b in protocol.num_windows)
    counts = Counter((row["dataset"], row["draw"]) for row in rows)
    return [row for row in rows if counts[row["dataset"], row["draw"]] == wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/pcw/smollm2.yaml")
    parser.add_argument("--note", help="what else ran meanwhile, and how far the run went")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/pcw_real.json")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    rows = whole_draws(args.run, recipe.protocol)
    summary = summarize(rows)
    for row in summary:
        row["texts"] = row["draws"] * (recipe.protocol.items_per_draw or recipe.protocol.test_items)
        row["interval"] = wilson(row["accuracy"], row["texts"])
    (dataset,) = {row["dataset"] for row in rows}
    result = {
        "note": args.note,
        "recipe": to_dict(recipe),
        "summary": summary,
        "losses": losses(rows, dataset),
        "documents": None,
        "environment": artifacts.environment(),
    }
    if (args.run / "documents.jsonl").exists():
        found = documents.summarize(artifacts.read_jsonl(args.run / "documents.jsonl"))
        result["documents"] = [
            row | {"interval": wilson(row["found"], row["items"])}
            for row in found
            if row.pop("half_interval") is not None
        ]
    artifacts.write_json(args.out, result)
    for row in summary:
        low, high = row["interval"]
        print(f"B={row['num_windows']} {row['mode']}: {row['accuracy']:.3f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
