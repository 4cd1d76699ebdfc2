"""Three tables on the language model's side of MRKL, by one command in under 15 CPU-minutes on one thread.

1. Copying digits against naming slots, and the model alone, for operands of 1 to 9 digits (trained on 1 to 3).
2. Prompt tuning (as in the paper) against LoRA and full fine-tuning on one frozen model, for a call it can nearly
   write already and for one it has never seen.
3. How many wordings the training needs: seen wordings, unseen openings, unseen words for the operation.

    python benchmarks/mrkl_tables.py [--out benchmarks/mrkl_tables.json]

All models have 0.9 M parameters and the same number of steps within a table. No table is a claim about large models.
"""

import argparse
import copy
import time
from pathlib import Path

import torch

from hf_puzzle import artifacts
from hf_puzzle.mrkl.adapters import accuracy, fit, make_model, make_tokenizer, pretrain, train_adapter, write
from hf_puzzle.mrkl.pairs import MODES, arithmetic


STEPS = 300
QUESTIONS = 40
VERBS = {" +": " add", " -": " sub", " *": " mul", " /": " div"}


def rows_of(pairs):
    return [(pair.question, pair.items) for pair in pairs]


def trained(mode, pairs):
    """A model from scratch on pairs of one mode, and the CPU seconds it took."""
    began = time.process_time()
    model = make_model()
    fit(model, make_tokenizer(), rows_of(pairs), STEPS, 1e-2, muon=True, name=mode)
    return model, round(time.process_time() - began, 1)


def copy_or_slots():
    """Exact answers by length of the operands; both forms of numbers are in the training."""
    table = {}
    for mode in MODES:
        model, seconds = trained(mode, arithmetic(STEPS * 48, 0, mode=mode, diverse=False))
        rows = {}
        for words in (False, True):
            rows["words" if words else "digits"] = [
                accuracy(
                    model,
                    make_tokenizer(),
                    arithmetic(QUESTIONS, 1000 + n, (n,), mode, diverse=False, words=words),
                    mode,
                )
                for n in range(1, 10)
            ]
        table[mode] = {"cpu_seconds": seconds, **rows}
        print(mode, table[mode], flush=True)
    return table


def call_syntax(pair):
    left, sign, right = pair.items[:3]
    return VERBS[sign], left, " ,", right, " ;"


def prompt_or_lora():
    """Exactly written calls per method, trained on six wordings per operation without a task tag."""
    began = time.process_time()
    base, loss = pretrain(500)
    table = {"base": {"cpu_seconds": round(time.process_time() - began, 1), "loss": round(loss, 3)}}
    tokenizer = make_tokenizer()
    train = arithmetic(4000, 50, diverse=False)
    tests = {pool: arithmetic(200, 60, pool=pool, diverse=False) for pool in ("seen", "carrier", "operator")}
    tagged = [f"infix: {pair.question}" for pair in tests["seen"]]
    hits = [t == "".join(p.items) for t, p in zip(write(base, tokenizer, tagged), tests["seen"], strict=True)]
    table["base"]["infix with its tag"] = sum(hits) / len(hits)
    for target, items in (("infix", lambda pair: pair.items), ("new call", call_syntax)):
        for method, steps in (("prompt", 150), ("lora", 100), ("full", 100)):
            model = copy.deepcopy(base)
            rows = [(pair.question, items(pair)) for pair in train]
            adapted, facts = train_adapter(model, tokenizer, rows, "calculator", method, steps)
            row = {"steps": steps, **facts}
            for pool, pairs in tests.items():
                texts = write(adapted, tokenizer, [pair.question for pair in pairs], 24)
                row[pool] = sum(t == "".join(items(p)) for t, p in zip(texts, pairs, strict=True)) / len(pairs)
            table[f"{target}, {method}"] = row
            print(target, method, row, flush=True)
    return table


def wordings():
    """Exact answers of slot models by how many wordings they saw; 1 to 9 digits."""
    table = {}
    for name, diverse in (("6 phrases, 1 opening", False), ("10 phrases, 22 openings", True)):
        model, seconds = trained(name, arithmetic(STEPS * 48, 0, tuple(range(1, 10)), diverse=diverse))
        table[name] = {"cpu_seconds": seconds}
        for pool in ("seen", "carrier", "operator"):
            pairs = arithmetic(200, 90, tuple(range(1, 10)), pool=pool, diverse=diverse)
            table[name][pool] = accuracy(model, make_tokenizer(), pairs, "slots")
        print(name, table[name], flush=True)
    model, seconds = trained("two", arithmetic(STEPS * 24, 0, tuple(range(1, 10)), operations=2)
                             + arithmetic(STEPS * 24, 1, tuple(range(1, 10))))  # fmt: skip
    table["10 phrases, 22 openings, half with two operations"] = {"cpu_seconds": seconds} | {
        f"{pool}, {n} operation{'s' * (n > 1)}": accuracy(
            model, make_tokenizer(), arithmetic(200, 91, tuple(range(1, 10)), pool=pool, operations=n), "slots"
        )
        for pool in ("seen", "carrier", "operator")
        for n in (1, 2)
    }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    began = time.process_time()
    result = {"copy_or_slots": copy_or_slots(), "prompt_or_lora": prompt_or_lora(), "wordings": wordings()}
    result |= {
        "questions_per_cell": {"copy_or_slots": QUESTIONS, "prompt_or_lora": 200, "wordings": 200},
        "steps": STEPS,
        "cpu_seconds": round(time.process_time() - began, 1),
        "environment": artifacts.environment(),
    }
    artifacts.write_json(out, result)
    print(f"{result['cpu_seconds']} CPU-seconds; written to {out}")


if __name__ == "__main__":
    main()
