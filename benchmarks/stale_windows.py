"""Kept windows through random sequences of weight changes, adapter switches, casts and calls: right, refused or wrong?

    python benchmarks/stale_windows.py --sequences 1000

Each reading of windows kept in memory, in a store and in a pipeline is compared bit by bit with windows encoded anew
(the sequences are those of tests/stale.py). Then what asking for the state of the weights costs against the cheapest
call: one short task, at the shape of a 135 M model.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.remote.generation_pcw import encode_windows, score_labels
from hf_puzzle.remote.weights_pcw import model_state, weights_hash


ROOT = Path(__file__).parent.parent
SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


def sequences(count: int, steps: int, minutes: float) -> dict:
    """Readings by outcome over `count` seeds, or as many as `minutes` allow, and the sequences in which one was wrong."""
    from stale import live

    readings, changes, wrong = Counter(), Counter(), []
    until, done = time.monotonic() + 60 * minutes, 0
    for seed in range(count):
        if time.monotonic() > until:
            break
        done += 1
        happened, found = live(seed, steps)
        readings.update(found)
        changes.update(happened)
        if "wrong" in found:
            wrong.append({"seed": seed, "changes": happened, "readings": found})
    return {"sequences": done, "readings": dict(readings), "changes": dict(changes), "wrong": wrong}


def cost(rounds: int) -> dict:
    """Milliseconds of processor time of the state and of scoring labels after one task of 20 tokens behind a window of 128, in turn."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMOLLM2)).eval()
    began = time.process_time()
    weights_hash(model, fresh=True)
    whole = time.process_time() - began
    encoded = encode_windows(model, [list(range(3, 131))])
    task, labels, times = [list(range(200, 220))], [[5], [6, 7]], {"state": [], "call": []}
    for _ in range(rounds):
        for name, run in (
            ("state", lambda: model_state(model)),
            ("call", lambda: score_labels(model, encoded, task, labels)),
        ):
            began = time.process_time()
            run()
            times[name].append(time.process_time() - began)
    ratios = [state / call for state, call in zip(times["state"], times["call"], strict=True)]
    return {
        "parameters": model.num_parameters(),
        "state_ms": 1e3 * statistics.median(times["state"]),
        "call_ms": 1e3 * statistics.median(times["call"]),
        "share": statistics.median(ratios),
        "share_deciles": [statistics.quantiles(ratios, n=10)[i] for i in (0, 8)],
        "whole_ms": 1e3 * whole,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of sequences; fewer are said to be fewer")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "stale_windows.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    sys.path[:0] = [str(ROOT / "tests")]
    result = {"cost": cost(args.rounds), **sequences(args.sequences, args.steps, args.minutes)}
    result["environment"] = artifacts.environment()
    artifacts.write_json(args.out, result)
    print(
        f"{result['sequences']} sequences: {result['readings']}; state {result['cost']['share']:.2%} of the cheapest call"
    )


if __name__ == "__main__":
    main()
