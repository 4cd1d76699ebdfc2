"""What the callback costs a fine-tuning until its search starts: the tiny parent, trained with and without it in turn.

    python benchmarks/callback.py --steps 200 --repeats 10

Processor seconds of `Trainer.train()` on one thread, with an evaluation every `--eval-steps` steps, in which the
callback ranks the FFN channels; its checks before the first step count as well. Afterwards one search, to see that the
child and its report are beside the checkpoint.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator

from hf_puzzle import PuzzleCallback, artifacts, data
from hf_puzzle.costs import Timing, cpu_threads, speed_ratio
from hf_puzzle.recipe import load_recipe, parse_recipe, to_dict
from hf_puzzle.training import show_progress


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml"
PARENT = RECIPE.parent / "tiny_parent"
# the search that follows: the recipe's at a fraction of its budgets
SEARCH = [
    "library.num_tokens=8192", "library.eval_tokens=1024", "score.num_tokens=1024", "cost.rounds=2",
    "cost.batch_sizes=[8]", "cost.prefill_tokens=16", "cost.decode_tokens=16", "solve.measure_rounds=4",
    "constraints.speedup=1.5", "distill.num_tokens=8192", "evaluate.num_tokens=4096", "evaluate.task_items=64",
    "evaluate.assisted_prompts=0", "evaluate.measure_rounds=4", "baselines.names=[]", "importance.num_tokens=4096",
]  # fmt: skip


def rows_of(tokens: torch.Tensor, length: int, count: int, seed: int) -> list[dict]:
    rows = data.sequences(tokens, length, count * length, seed)
    return [{"input_ids": row, "labels": row} for row in rows]


def make_trainer(folder: str, args, tokens: dict, length: int, callback: PuzzleCallback | None) -> Trainer:
    options = TrainingArguments(
        folder, max_steps=args.steps, per_device_train_batch_size=args.batch_size, learning_rate=1e-4, seed=args.seed,
        per_device_eval_batch_size=args.batch_size, eval_strategy="steps", eval_steps=args.eval_steps, use_cpu=True,
        save_strategy="no", report_to="none", logging_steps=50,
    )  # fmt: skip
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(PARENT, dtype=torch.float32),
        options,
        default_data_collator,
        rows_of(tokens["train"], length, 8 * args.steps, args.seed),
        rows_of(tokens["heldout"], length, args.eval_rows, args.seed),
        processing_class=AutoTokenizer.from_pretrained(PARENT),
        callbacks=[callback] if callback else [],
    )
    show_progress(trainer, "with" if callback else "without")
    return trainer


def train_s(trainer: Trainer) -> float:
    began = time.process_time()
    trainer.train()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--eval-steps", type=int, default=50)
    parser.add_argument("--eval-rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/callback.json")
    args = parser.parse_args()
    raw = to_dict(load_recipe(RECIPE, SEARCH))
    length = raw["data"]["sequence_length"]
    text = {**raw["data"], "num_tokens": 8 * args.steps * length, "heldout_tokens": 2 * args.eval_rows * length}
    tokens = data.tokenize(parse_recipe({**raw, "data": text}).data, AutoTokenizer.from_pretrained(PARENT))
    recipe = {name: section for name, section in raw.items() if name not in ("parent", "data")}
    seconds, identical = {"without": [], "with": []}, True
    with cpu_threads(1), tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeats + 1):  # the first round warms up
            weights = {}
            for name in seconds:  # in turn, so that both meet the same machine
                callback = PuzzleCallback(recipe, search_at=None) if name == "with" else None
                trainer = make_trainer(folder, args, tokens, length, callback)
                seconds[name].append(train_s(trainer))
                weights[name] = [p.detach().clone() for p in trainer.model.parameters()]
            identical &= all(map(torch.equal, weights["without"], weights["with"]))
        seconds = {name: values[1:] for name, values in seconds.items()}
        began = time.process_time()
        run_dir = callback.search(trainer)
        search_s = time.process_time() - began
        written = sorted(path.name for path in run_dir.iterdir() if path.name in ("distilled", "report.md"))
    # speed_ratio bounds how much faster training is with the callback, so its inverse is at most this much slower
    ratio = speed_ratio(*([Timing(s * 1e3, 0.0) for s in seconds[name]] for name in ("without", "with")))
    pairs = [w / wo for w, wo in zip(seconds["with"], seconds["without"], strict=True)]
    result = {
        "environment": artifacts.environment(),
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "sequence_length": length,
        "train_cpu_s": seconds,
        "slowdown": {
            "value": 1 / ratio.value,
            "upper_bound": 1 / ratio.lower_bound,
            "confidence": ratio.confidence,
            "median": statistics.median(pairs),
            "spread": [min(pairs), max(pairs)],
        },
        "identical_weights": identical,
        "search_cpu_s": search_s,
        "written": written,
        "logged": {name: value for name, value in trainer.state.log_history[-1].items() if name.startswith("puzzle/")},
    }
    artifacts.write_json(args.out, result)
    slowdown = result["slowdown"]
    print(
        f"training takes {slowdown['value'] - 1:+.1%} with the callback (at most {slowdown['upper_bound'] - 1:+.1%}, "
        f"pairs {slowdown['spread'][0]:.3f} to {slowdown['spread'][1]:.3f}); weights identical: {identical}; {written}"
    )


if __name__ == "__main__":
    main()
