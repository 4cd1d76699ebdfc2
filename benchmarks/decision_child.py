"""What `hf-puzzle run recipes/puzzle/tiny_decisions.yaml --out RUN` made: a child for decisions and its baselines.

    python benchmarks/decision_child.py --run runs/tiny_decisions

Besides the run's own numbers: the calibration of parent and child with a temperature fitted on the validation requests and
judged on the test requests, and how often another order of the options changes the answer.
"""

import argparse
import itertools
from pathlib import Path

import torch

from hf_puzzle import artifacts
from hf_puzzle.corpora import is_heldout
from hf_puzzle.decision_data import requests_of
from hf_puzzle.evaluation import Decisions, Rows
from hf_puzzle.pcw import Decider
from hf_puzzle.puzzle.assess import test_rows
from hf_puzzle.puzzle.pipeline import load_run
from hf_puzzle.recipe import to_dict


ROOT = Path(__file__).parent.parent
ORDERS, ASKED = 4, 64
QUALITY = ("rows", "documents", "agreement", "agreement_stderr", "top1", "parent_top1", "top1_kept", "top1_kept_stderr", "kl", "kl_stderr", "loss", "parent_loss")  # fmt: skip
SPEED = ("total", "same_code", "child_ms", "parent_ms")


@torch.no_grad()
def decisions_of(model, rows: Rows, batch_size: int = 32) -> Decisions:
    """What a model says on rows of requests."""
    found, right = [], rows.decisions[:, 1].tolist()
    for ids, decisions in zip(rows.input_ids.split(batch_size), rows.decisions.split(batch_size), strict=True):
        states = model(ids, use_cache=False).logits[torch.arange(len(ids)), decisions[:, 0]]
        options = decisions[:, 2:]
        logits = states.gather(1, options.clamp(min=0)).masked_fill(options < 0, float("-inf"))
        found += list(logits.softmax(-1))
    return Decisions(found, right)


def calibration(model, development: Rows, test: Rows) -> dict:
    """ECE, Brier score and coverage on the test requests, as they are and with the temperature of the development ones."""
    fitted, judged = decisions_of(model, development), decisions_of(model, test)
    temperature = fitted.temperature()

    def cooled(each: Decisions) -> Decisions:
        logits = [p.double().clamp(min=1e-30).log() / temperature for p in each.probabilities]
        return Decisions([row.softmax(-1) for row in logits], each.right)

    return {
        "temperature": temperature,
        "as_it_is": judged.to_dict(fitted),
        "with_temperature": cooled(judged).to_dict(cooled(fitted)),
    }


def orders(model, tokenizer, requests: list[dict]) -> float:
    """Share of other orders of the options in which the answer is another."""
    decide = Decider(model, tokenizer, permute=ORDERS)
    answers = decide(requests)
    moved = [answer["moved"] for each in answers for answer in each.values()]
    return sum(moved) / len(moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--note", help="what else ran meanwhile")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/decision_child.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(args.run, recipe_dir=ROOT / "recipes/puzzle")
    evaluation = artifacts.read_json(args.run / "eval.json")
    baselines = artifacts.read_jsonl(args.run / "baselines.jsonl")
    models = {"parent": run.parent, "child": run.load_child("distilled")}
    length, test = run.sequence_length, test_rows(run)
    development = Rows.draw(run.tokens["validation"], length, len(run.tokens["validation"]), 0)
    heldout = (r for name, r in requests_of(run.recipe.data) if is_heldout(name, run.recipe.data.heldout_fraction))
    seen = len(run.tokens["validation"].decisions)  # they come first
    asked = list(itertools.islice(heldout, seen, seen + ASKED))
    quality = evaluation["quality"]
    result = {
        "note": args.note,
        "recipe": to_dict(run.recipe),
        "parent_recipe": to_dict(run.source.recipe),
        "parent": artifacts.read_json(args.run / "parent" / "training.json"),
        "blocks": run.chosen["blocks"],
        "before_gkd": {name: quality["child"][name] for name in QUALITY},
        "child": {name: quality["distilled"][name] for name in QUALITY} | {"speed": {k: evaluation["speed"][k] for k in SPEED}},
        "gkd_tokens": evaluation["gkd_tokens"],
        "parameters": {who: row["num_parameters"] for who, row in evaluation["memory"].items()},
        "requests": evaluation["requests"],
        "baselines": [
            {"name": row["name"], "gkd_tokens": row["gkd_tokens"], "blocks": row["blocks"]}
            | {name: row["quality"][name] for name in QUALITY}
            | {"speed": {k: row["speed"][k] for k in SPEED}}
            for row in baselines
        ],
        "calibration": {name: calibration(model, development, test) for name, model in models.items()},
        "orders": {"orders": ORDERS, "requests": len(asked)}
        | {name: orders(model, run.tokenizer, asked) for name, model in models.items()},
        "workload": evaluation["workload"],
        "environment": evaluation["environment"],
    }  # fmt: skip
    artifacts.write_json(args.out, result)
    child = result["child"]
    print(
        f"{child['speed']['total']['value']:.2f}x, {child['agreement']:.2%} of the parent's decisions; "
        f"ECE {result['calibration']['child']['with_temperature']['ece']:.3f}"
    )


if __name__ == "__main__":
    main()
