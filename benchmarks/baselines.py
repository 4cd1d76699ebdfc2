"""The searched child against simpler choices from the same library: same speed, same refit, same GKD tokens.

    python benchmarks/baselines.py --run runs/bench/seed_0_2.0 --measure    # layouts, and all of them timed in turn
    python benchmarks/baselines.py --run runs/bench/seed_0_2.0 --tokens 0 500000

`--run` is a folder of benchmarks/tiny_cpu.py. Layouts may take the time that the searched child is
predicted to take, and 2 % more; the table shows what was measured, parent and all networks in one interleaved session.
"""

import argparse
from pathlib import Path

import torch

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.puzzle.assess import baseline_child, baseline_layouts, chosen_blocks, test_targets
from hf_puzzle.puzzle.bench import jsonable
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml"


def measure(run: PuzzleRun) -> dict:
    """Layouts of all baselines, timed with the searched child and the parent."""
    batch_size, searched = run.chosen["batch_size"], chosen_blocks(run)
    pick = baseline_layouts(run)
    layouts = {
        "searched": searched,
        "uniform": pick.uniform(),
        "greedy": pick.greedy(),
        "random": pick.random(run.recipe.baselines.num_random),
        "drop_layers": pick.drop_layers(),
    }
    layouts = {name: blocks for name, blocks in layouts.items() if blocks is not None}
    speeds = run.bench.measure(list(layouts.values()), batch_size, run.recipe.solve.measure_rounds)
    return {
        name: {"blocks": [b.id for b in blocks], "kl_before_refit": pick.distance(blocks), "speed": jsonable(speed)}
        for (name, blocks), speed in zip(layouts.items(), speeds, strict=True)
    }


def quality(run: PuzzleRun, name: str, blocks: list[Block], tokens: int) -> dict:
    """Quality on the test text after refit and `tokens` of GKD; `scratch` starts from random weights instead."""
    child = baseline_child(run, name, blocks, tokens)
    return test_targets(run).compare(child).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="+", default=[0, 500_000])
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/baselines.json")
    args = parser.parse_args()
    run = PuzzleRun(load_recipe(RECIPE), args.run, RECIPE.parent)
    if args.measure:
        result = {"environment": artifacts.environment(), "networks": measure(run), "rows": []}
        artifacts.write_json(args.out, result)
        for name, row in result["networks"].items():
            print(name, f"{row['speed']['total']['value']:.3f}x", f"KL {row['kl_before_refit']:.4f}", row["blocks"])
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    result = artifacts.read_json(args.out)
    for name in args.names or [*result["networks"], "scratch"]:
        network = result["networks"].get(name, result["networks"]["searched"])
        for tokens in args.tokens:
            if (name, tokens) in {(row["name"], row["gkd_tokens"]) for row in result["rows"]}:
                continue
            measured = quality(run, name, [Block.parse(text) for text in network["blocks"]], tokens)
            result = artifacts.read_json(args.out)  # another process may have added rows
            result["rows"].append({"name": name, "gkd_tokens": tokens, "speed": network["speed"], "quality": measured})
            result["rows"].sort(key=lambda row: (row["gkd_tokens"], -row["quality"]["top1_kept"]))
            artifacts.write_json(args.out, result)
            print(name, tokens, f"kept {measured['top1_kept']:.4f} loss {measured['loss']:.4f}")


if __name__ == "__main__":
    main()
