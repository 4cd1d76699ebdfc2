"""Random small runs: does any step end worse than it began, on text that no gate has seen?

    python benchmarks/gates.py --runs 50

A run is a family, a dtype, a random layout and random budgets, learning rates that are far too high among them. After each
step (training the library, refit, GKD) the whole child is compared with its state before it on 512 sequences of their own;
`worse` counts steps whose KL rose by more than two standard errors (paired, by document).
"""

import argparse
import dataclasses
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.costs import cpu_threads
from hf_puzzle.data import TokenStream
from hf_puzzle.evaluation import Rows, Targets, mean_and_error
from hf_puzzle.formats import choose_format
from hf_puzzle.puzzle.block_distillation import build_layers
from hf_puzzle.puzzle.distillation import distill
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.refit import calibration_rows, refit
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import ChildConfig, DistillConfig, LibraryConfig, SearchSpaceConfig


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from families import FAMILIES, family_model  # noqa: E402


LENGTH, VALIDATION, TEST = 16, 64, 512
SPACE = SearchSpaceConfig(attention=[2, 1, "linear", "none"], ffn=[0.5, 0.25, "linear", "none"], width_multiple=8)
EXPERTS = SearchSpaceConfig(attention=[2, 1, "linear", "none"], ffn=[3, 2, "none"])


def stream(generator: random.Random, count: int) -> TokenStream:
    """Documents of 64 tokens, each of its own sixteen words in any order."""
    tokens = [generator.choice(words) for _ in range(count // 64) for words in [generator.sample(range(3, 128), 16)] for _ in range(64)]  # fmt: skip
    return TokenStream.of(torch.tensor(tokens, dtype=torch.int32), documents=torch.arange(0, len(tokens), 64))


def one_run(seed: int) -> dict:
    """KL on the test text after each step, and the difference to the step before with its error."""
    generator = random.Random(seed)
    family = generator.choice(sorted(set(FAMILIES) - {"gpt_neox"}))  # it has no KV heads to share
    dtype = generator.choice(["float32", "bfloat16"])
    asked = {
        "family": family, "dtype": dtype, "library_tokens": generator.choice([256, 2_048, 8_192]),
        "library_rate": generator.choice([1e-3, 1e-2, 1.0]), "refit_tokens": generator.choice([64, 512, 4_096]),
        "gkd_tokens": generator.choice([256, 2_048, 8_192]), "gkd_rate": generator.choice(["auto", 1e-4, 1e-2, 1.0]),
        "optimizer": generator.choice(["adamw", "muon"]),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:  # opened as users do: `.to(bfloat16)` would round buffers, too
        family_model(family, seed).save_pretrained(folder)
        parent = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)
    train, validation, test = (stream(generator, count * LENGTH) for count in (2_048, VALIDATION, TEST))
    space = build_search_space(
        parent.config, EXPERTS if "experts" in str(parent.config.to_dict().keys()) else SPACE, ["transformers"]
    )
    layout = [generator.choice(layer.blocks) for layer in space.layers]
    fmt = choose_format(parent.config, space.blocks, "auto")
    tokens = {"train": train, "validation": validation}
    importance = channel_importance(parent, Rows.draw(train, LENGTH, 512, seed).input_ids, 8)
    targets = Targets(parent, Rows.draw(test, LENGTH, TEST * LENGTH, seed), 64)
    kl, steps = {}, []

    def judged(name: str, child, since: str | None = None) -> None:
        verdict = targets.compare(child)
        kl[name] = verdict.columns["kl"]
        row = {"step": name, "kl": verdict.mean("kl")[0]}
        if since is not None:
            difference, error = mean_and_error(kl[name] - kl[since], verdict.documents)
            row |= {"change": difference, "change_stderr": error, "worse": difference > 2 * error}
        steps.append(row)

    with tempfile.TemporaryDirectory() as folder:
        config = LibraryConfig(
            num_tokens=0, batch_size=8, eval_tokens=VALIDATION * LENGTH, ridge_tokens=512,
            attention_learning_rate=asked["library_rate"], ffn_learning_rate=asked["library_rate"],
        )  # fmt: skip
        for name, count in (("initial", 0), ("library", asked["library_tokens"])):
            library = BlockLibrary(Path(folder, name))
            build_layers(
                parent, space, range(len(space.layers)), importance, tokens, library,
                dataclasses.replace(config, num_tokens=count), LENGTH, seed,
            )  # fmt: skip
            child = Network(parent.config, layout, library, fmt).assembled(parent)
            judged(name, child, "initial" if count else None)
        refitted = ChildConfig(refit_tokens=asked["refit_tokens"])
        refit(child, parent, calibration_rows(child, train, LENGTH, refitted, seed), refitted, ())
        judged("refit", child, "library")
        gkd = DistillConfig(
            num_tokens=asked["gkd_tokens"], batch_size=8, learning_rate=asked["gkd_rate"], optimizer=asked["optimizer"],
            eval_tokens=VALIDATION * LENGTH, evals=4,
        )  # fmt: skip
        rows = Rows.draw(validation, LENGTH, VALIDATION * LENGTH, seed)
        child, _ = distill(child, parent, train, gkd, LENGTH, Path(folder, "gkd"), rows, seed)
        judged("gkd", child, "refit")
    return asked | {"seed": seed, "blocks": [b.id for b in layout], "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/gates.json")
    args = parser.parse_args()
    rows, began = [], time.time()
    with cpu_threads(1):
        for seed in range(args.first, args.first + args.runs):
            rows.append(one_run(seed))
            last = rows[-1]
            print(seed, last["family"], last["dtype"], *(f"{s['step']} {s['kl']:.4f}{'!' if s.get('worse') else ''}" for s in last["steps"]), flush=True)  # fmt: skip
            write(rows, (time.time() - began) / 60, args.out)


def write(rows: list[dict], minutes: float, out: Path) -> None:
    """`out` from the runs so far."""
    steps = [step for row in rows for step in row["steps"] if "worse" in step]
    summary = {
        "runs": len(rows),
        "steps": len(steps),
        "worse": sum(step["worse"] for step in steps),
        "better": sum(step["change"] < -2 * step["change_stderr"] for step in steps),
        "largest_rise": max(step["change"] for step in steps),
        "minutes": minutes,
    }
    artifacts.write_json(out, {"environment": artifacts.environment(), "summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
