"""Parallel windows against one explicit pass with a block mask and shared positions, over stock architectures.

    python benchmarks/pcw_exact.py --seeds 3

Tiny random models in float32 (those of tests/remote/test_generation_pcw.py, whose explicit pass uses none of the code
under test). Largest differences of the task's logits; trie against label-by-label log-probabilities; and whether one
window generates the tokens of plain `generate`, in each way of generating.
"""

import argparse
import sys
from pathlib import Path

import torch
import transformers

from hf_puzzle import artifacts
from hf_puzzle.remote.generation_pcw import check_model, encode_windows, generate, score_labels, task_logits


ROOT = Path(__file__).parent.parent
WINDOW_LENGTHS, TASK_LENGTHS, LABEL_LENGTHS, PREFIX_LENGTH = (20, 24, 12), (7, 4, 9), (1, 3, 2, 2, 4), 3
GENERATED = 6


@torch.no_grad()
def exactness(name: str, seed: int) -> dict:
    """All differences of one architecture, with windows, tasks and labels of `seed`."""
    from test_generation_pcw import WAYS, differences, one_pass, random_ids, tiny

    model = tiny(name)
    windows, tasks = random_ids(*WINDOW_LENGTHS, seed=3 * seed), random_ids(*TASK_LENGTHS, seed=3 * seed + 1)
    labels, prefix = random_ids(*LABEL_LENGTHS, seed=3 * seed + 2), random_ids(PREFIX_LENGTH, seed=seed)[0]
    labels.append(labels[1][:2])
    found = differences(model, windows, prefix, tasks)
    encoded = encode_windows(model, windows, prefix)
    trie, each = (score_labels(model, encoded, tasks, labels, scores=scores) for scores in ("trie", "each"))
    task = torch.tensor([tasks[0]])
    length = {"min_new_tokens": GENERATED, "max_new_tokens": GENERATED}
    greedy = generate(
        task, model=model, encoded=encoded, do_sample=False, output_logits=True, return_dict_in_generate=True, **length
    )
    own = one_pass(model, prefix, windows, tuple(greedy.sequences[0].tolist()))[len(tasks[0]) - 1 : -1]
    found["greedy logits"] = float((torch.cat(greedy.logits) - own).abs().max())
    equal = {}
    for way, options in WAYS.items():
        torch.manual_seed(seed)
        plain = model.generate(torch.tensor([prefix + windows[0] + tasks[0]]), use_cache=True, **options, **length)
        torch.manual_seed(seed)
        ours = generate(task, model=model, contexts=windows[:1], prefix=prefix, **options, **length)
        equal[way] = torch.equal(ours[:, -GENERATED:], plain[:, -GENERATED:])
    return {
        "architecture": name,
        "class": type(model).__name__,
        "kind": check_model(model),
        "seed": seed,
        "logit_std": float(torch.cat(task_logits(model, encoded, tasks)).std()),
        "max_abs_difference": found | {"trie and label by label": float((trie - each).abs().max())},
        "one_window_generates_as_plain": equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/pcw_exact.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/remote")]
    from test_generation_pcw import ARCHITECTURES

    rows = []
    for name in ARCHITECTURES:
        rows += [exactness(name, seed) for seed in range(args.seeds)]
        worst = max(max(row["max_abs_difference"].values()) for row in rows[-args.seeds :])
        equal = all(all(row["one_window_generates_as_plain"].values()) for row in rows[-args.seeds :])
        print(f"{name:18} {rows[-1]['kind']:8} largest difference {worst:.1e}, one window generates as plain: {equal}")
    measures = rows[0]["max_abs_difference"]
    summary = {
        "architectures": len(ARCHITECTURES),
        "max_abs_difference": {name: max(row["max_abs_difference"][name] for row in rows) for name in measures},
        "one_window_generates_as_plain": all(all(row["one_window_generates_as_plain"].values()) for row in rows),
    }
    print(summary)
    artifacts.write_json(
        args.out,
        {
            "environment": artifacts.environment(),
            "dtype": "float32",
            "window_tokens": WINDOW_LENGTHS,
            "task_tokens": TASK_LENGTHS,
            "label_tokens": [*LABEL_LENGTHS, 2],
            "prefix_tokens": PREFIX_LENGTH,
            "generated_tokens": GENERATED,
            "summary": summary,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
