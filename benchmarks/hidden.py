"""A narrower residual stream (`hidden.size`) before any training: how far each correction brings it back to the parent.

    python benchmarks/hidden.py --sizes 112 96 64 --seeds 0 1 2

The demo's parent (128 channels). Channels and corrections are found on training text and chosen on validation text, as in a
run; KL(parent || narrowed parent) per token in nats here is of test text that neither saw, standard error by document.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_puzzle import artifacts
from hf_puzzle.anatomy import frozen
from hf_puzzle.costs import cpu_threads
from hf_puzzle.data import tokenize
from hf_puzzle.evaluation import Rows, Targets
from hf_puzzle.puzzle.hidden import narrowed_parent
from hf_puzzle.recipe import HiddenConfig, load_recipe


ROOT = Path(__file__).parent.parent
TEST_TOKENS = 32_768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 96, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/hidden.json")
    arguments = parser.parse_args()
    recipe = load_recipe(ROOT / "recipes/puzzle/tiny_cpu.yaml")
    folder = ROOT / "recipes/puzzle" / recipe.parent.name
    parent = frozen(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text, rows = dataclasses.replace(recipe.data, num_tokens=100_000), []
    heldout = tokenize(text, tokenizer)["heldout"]
    _, test = heldout.split_at_document(len(heldout) // 3)
    with cpu_threads(1):
        for seed in arguments.seeds:
            judged = Rows.draw(test, text.sequence_length, TEST_TOKENS, seed + 11)
            targets = Targets(parent, judged, recipe.child.batch_size)
            for size in arguments.sizes:
                row = {"seed": seed, "size": size, "parent_size": parent.config.hidden_size}
                for refit in (False, True):
                    start = time.process_time()
                    asked = HiddenConfig(size=size, refit=refit)
                    narrow, found = narrowed_parent(parent, tokenizer, text, asked, recipe.child, seed)
                    kl, error = targets.compare(narrow).mean("kl")
                    row["corrected" if refit else "cut"] = {
                        "kl": kl, "stderr": error, "validation_kl": found.kl, "accepted": found.accepted,
                        "processor_s": round(time.process_time() - start, 1),
                    }  # fmt: skip
                rows.append(row)
                print(size, seed, row["cut"]["kl"], row["corrected"]["kl"], row["corrected"]["accepted"], flush=True)
                made = {"test_tokens": TEST_TOKENS, "rows": rows, "environment": artifacts.environment()}
                artifacts.write_json(arguments.out, made)


if __name__ == "__main__":
    main()
