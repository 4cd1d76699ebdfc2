"""How many processes of an engine a cost table starts, and whether one that stays says the same as a new one for each model.

    HF_PUZZLE_OPENVINO_PYTHON=... python benchmarks/process_starts.py

Up to commit d79c983 every measurement in an engine of its own process started one. Here the cost table of a small search
space is measured as a run does it; each model that goes to the shared process also goes to a new one, before or after it
in turn, so that a machine's drift meets both.
"""

import argparse
import contextlib
import statistics
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.costs import median_timing, student_quantile
from hf_puzzle.engines import measuring
from hf_puzzle.formats import DECILM
from hf_puzzle.puzzle.bench import Bench
from hf_puzzle.puzzle.block_costs import measure_costs
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml"


class Both:
    """In the place of an engine's shared process: asks it, and a new one."""

    def __init__(self, shared):
        self.shared, self.new, self.pairs = shared, 0, []

    def time(self, folder, workload, rounds, options=None):
        found = {}
        for fresh in (False, True) if len(self.pairs) % 2 else (True, False):
            with type(self.shared)() if fresh else contextlib.nullcontext(self.shared) as process:
                found[fresh] = process.time(folder, workload, rounds, options)
                self.new += process.starts if fresh else 0
        pair = {("new" if fresh else "shared"): median_timing(each).total_ms for fresh, each in found.items()}
        self.pairs.append(pair)
        print(pair, flush=True)
        return found[False]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="openvino", choices=list(measuring.OWN_PROCESS))
    parser.add_argument("--set", dest="overrides", action="append", default=["search_space.attention=[2, linear]", "search_space.ffn=[0.5]", "cost.batch_sizes=[8]", "cost.prefill_tokens=32", "cost.decode_tokens=32"])  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/process_starts.json")
    args = parser.parse_args()
    recipe = load_recipe(RECIPE, [*args.overrides, f"cost.engine={args.engine}", "cost.clock=wall"])
    parent = AutoModelForCausalLM.from_pretrained(RECIPE.parent / "tiny_parent", dtype=torch.float32).eval()
    space = build_search_space(parent.config, recipe.search_space, recipe.deploy)
    both = Both(measuring.process_of(args.engine))
    measuring.process_of = lambda engine: both
    measure_costs(Bench(parent, recipe.cost, DECILM), space, 0)
    ratios = [pair["new"] / pair["shared"] for pair in both.pairs]
    mean, error = statistics.fmean(ratios), statistics.stdev(ratios) / len(ratios) ** 0.5
    half = student_quantile(0.975, len(ratios) - 1) * error
    result = {
        "environment": artifacts.environment(),
        "engine": args.engine,
        "overrides": args.overrides,
        "measurements": len(both.pairs),
        "starts_shared": both.shared.starts,
        "starts_new": both.new,
        "fewer_starts": both.new / both.shared.starts,
        "new_over_shared": {"mean": mean, "interval": [mean - half, mean + half]},
        "ms": both.pairs,
    }
    artifacts.write_json(args.out, result)
    print({key: result[key] for key in ("starts_shared", "starts_new", "new_over_shared")})


if __name__ == "__main__":
    main()
