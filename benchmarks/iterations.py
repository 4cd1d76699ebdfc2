"""Compressing in one step against several (`solve.iterations`) at equal tokens, on a small Llama trained here.

    python benchmarks/iterations.py --work runs/iterations --seeds 0 1 2

Every arm has the same tokens of BLD and of GKD in all, the same search space, refit and target, a speed-up that one cost
table predicts (nothing is timed again, so that all arms meet it alike). KL(parent || child) per token in nats on test text
that nothing in a run saw, standard error clustered by document; differences are paired by token.
"""

import argparse
import time
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.costs import cpu_threads
from hf_puzzle.evaluation import mean_and_error
from hf_puzzle.puzzle import cost_stages
from hf_puzzle.puzzle.assess import test_targets
from hf_puzzle.puzzle.iterations import Iteration
from hf_puzzle.puzzle.parent import train_parent
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.puzzle.search import Search
from hf_puzzle.recipe import DataConfig, ParentRecipe, parse_recipe, to_dict
from hf_puzzle.stages import run_stages


ROOT = Path(__file__).parent.parent
LENGTH = 64
DATA = DataConfig(name="python-stdlib", sequence_length=LENGTH, num_tokens=500_000, heldout_tokens=90_000,
                  heldout_fraction=0.3, heldout_document_tokens=768)  # fmt: skip
PARENT = {
    "hidden_size": 96, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
RECIPE = {
    "search_space": {"attention": [4, 2, 1, "linear", "none"], "ffn": [0.75, 0.5, 0.25, "linear", "none"]},
    "importance": {"num_tokens": 16_384, "batch_size": 32},
    "library": {"batch_size": 8, "attention_learning_rate": 5e-3, "ffn_learning_rate": 5e-3, "eval_tokens": 4_096},
    "score": {"num_tokens": 4_096, "batch_size": 16},
    "cost": {"batch_sizes": [16], "prefill_tokens": 32, "decode_tokens": 32, "dtype": "float32", "clock": "cpu", "threads": 1,
             "rounds": 2, "calibration_children": 4, "unseen_children": 1},
    "child": {"batch_size": 32, "refit_tokens": 16_384},
    "distill": {"batch_size": 8, "learning_rate": 2e-3, "optimizer": "muon", "evals": 4, "eval_tokens": 16_384},
    "evaluate": {"num_tokens": 32_768, "batch_size": 32},
}  # fmt: skip


def trained(folder: Path, tokens: int) -> Path:
    path = folder / "parent"
    if not (path / "training.json").exists():
        train_parent(
            ParentRecipe(DATA, vocab_size=1024, config=PARENT, batch_size=16, num_tokens=tokens, device="cpu"), path
        )
    return path


def run_of(arguments, seed: int, count: int) -> PuzzleRun:
    changed = {
        "parent": {"name": str(trained(arguments.work, arguments.parent_tokens)), "dtype": "float32"},
        "data": to_dict(DATA),
        "library": RECIPE["library"] | {"num_tokens": arguments.library_tokens},
        "distill": RECIPE["distill"] | {"num_tokens": arguments.tokens},
        "constraints": {"speedup": arguments.speedup},
        "solve": {"iterations": count},
    }
    recipe = parse_recipe({**RECIPE, **changed, "seed": seed})
    return PuzzleRun(recipe, arguments.work / f"seed_{seed}_iterations_{count}")


def made(run: PuzzleRun) -> float:
    """All stages up to the child; their seconds."""
    stages = run.stages()
    names = [stage.name for stage in stages]
    run.run_dir.mkdir(parents=True, exist_ok=True)
    run_stages(run.run_dir, stages[: names.index("distill") + 1], say=print)
    manifest = artifacts.Manifest(run.run_dir)
    return sum(manifest.stages[name]["seconds"] for name in names[: names.index("distill") + 1])


def compared(arguments, seed: int) -> dict:
    """Of one seed: every arm, and what one step is behind by."""
    rows, columns = [], {}
    for count in arguments.iterations:
        run = run_of(arguments, seed, count)
        seconds, targets = made(run), test_targets(run)
        row = {"iterations": count, "seconds": seconds}
        for name in ("child", "distilled"):
            columns[count] = targets.compare(run.load_child(name), name).columns["kl"]
            row[f"kl_{name}"], row[f"kl_{name}_error"] = mean_and_error(columns[count], targets.rows.documents)
        row["steps"] = []
        for number in range(1, count + 1):
            step = Iteration(run, number)
            gkd = artifacts.read_json(step.folder / "distilled/puzzle.json")["gkd"]
            row["steps"].append({"blocks": [b.id for b in step.blocks], "kl_before": gkd["kl_before"], "kl_after": gkd["kl_after"],
                                 "speedup": step.constraints.speedup})  # fmt: skip
        rows.append(row)
    once = columns[arguments.iterations[0]]
    for row in rows[1:]:
        difference = mean_and_error(once - columns[row["iterations"]], targets.rows.documents)
        row["one_step_behind"], row["one_step_behind_error"] = difference
    return {"seed": seed, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--speedup", type=float, default=2.5)
    parser.add_argument("--parent-tokens", type=int, default=500_000)
    parser.add_argument("--library-tokens", type=int, default=40_000)
    parser.add_argument("--tokens", type=int, default=100_000, help="of GKD")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs: a killed one continues")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "iterations.json")
    arguments = parser.parse_args()
    table = arguments.work / "costs.json"

    def once(bench, space, *others):
        if not table.exists():
            artifacts.write_json(table, measure(bench, space, *others).to_dict())
        return cost_stages.CostTable.from_dict(artifacts.read_json(table))

    measure, cost_stages.measure_costs = cost_stages.measure_costs, once
    Search.run = lambda self: (self.propose(), None)
    arguments.work.mkdir(parents=True, exist_ok=True)
    with cpu_threads(1):
        for seed in arguments.seeds:
            began = time.time()
            found = compared(arguments, seed)
            artifacts.write_json(arguments.work / f"seed_{seed}.json", found)
            print(f"seed {seed}: {time.time() - began:.0f} s", *found["rows"], sep="\n  ")
            seeds = [artifacts.read_json(path) for path in sorted(arguments.work.glob("seed_?.json"))]
            artifacts.write_json(
                arguments.out,
                {
                    "what": "KL(parent || child) per token on test text after one step and after several at equal tokens and predicted speed-up",
                    "parent": PARENT, "parent_tokens": arguments.parent_tokens, "speedup": arguments.speedup, "library_tokens": arguments.library_tokens, "gkd_tokens": arguments.tokens,
                    "seeds": seeds, "environment": artifacts.environment(),
                },
            )  # fmt: skip


if __name__ == "__main__":
    main()
