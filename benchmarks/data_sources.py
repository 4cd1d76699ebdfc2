"""What a child is best distilled on, at equal tokens: natural text, chats that its parent wrote, both, or both with each
document masked from the others.

    python benchmarks/data_sources.py --run runs/smollm2_135m --recipe recipes/puzzle/smollm2_135m.yaml

Takes the child of a run whose recipe mixes text with `self`, before GKD, and distils it anew on each source alone and on
the mixture: same tokens, learning rate, seeds and validation text (the run's, of both). A source with fewer tokens is read
several times. Judged on held-out documents of each kind (differences of KL paired by row, errors clustered by document),
and by how much of the parent's greedy answers to chats that no stream has is the child's first choice. Killed, it goes on
with the next row.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path

import torch

from hf_puzzle import artifacts, data, hub
from hf_puzzle.chat_evaluation import answer, followed, prompt_ids
from hf_puzzle.corpora import MIXTURE, SELF, reserved_chats
from hf_puzzle.evaluation import Rows, Targets, mean_and_error
from hf_puzzle.puzzle.distillation import distill, validation_rows
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import DataConfig, load_recipe


ROOT = Path(__file__).parent.parent
KINDS = ("natural", "self")
ROWS = {"none": None, "natural": "natural", "self": "self", "both": "both", "both, masked": "both"}


def corpora_of(run: PuzzleRun, num_tokens: int, heldout: int) -> dict[str, DataConfig]:
    """The run's text, its sources other than `self`, and `self` alone."""
    both, asked = run.corpus, run.recipe.data
    if asked.name != MIXTURE or not any(s.name == SELF for s in asked.sources):
        raise SystemExit("the recipe's data is no mixture with `self`")
    own = [s.name == SELF for s in asked.sources]
    settings = {"num_tokens": num_tokens, "heldout_tokens": heldout}
    parts = {
        "natural": [s for s, is_own in zip(both.sources, own, strict=True) if not is_own],
        "self": [s for s, is_own in zip(both.sources, own, strict=True) if is_own],
        "both": both.sources,
    }
    return {name: dataclasses.replace(both, sources=sources, **settings) for name, sources in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run folder with its child")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as it was run")
    parser.add_argument("--tokens", type=int, default=60_000, help="of GKD, for each row")
    parser.add_argument("--learning-rate", type=float, default=None, help="default: what the run's GKD used")
    parser.add_argument("--heldout", type=int, default=60_000, help="tokens of each kind that children are judged on")
    parser.add_argument("--chats", type=int, default=64)
    parser.add_argument("--note", help="what else ran meanwhile, and other budgets than the recipe's")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/data_sources.json")
    args = parser.parse_args()
    run = PuzzleRun(load_recipe(args.recipe, args.overrides), args.run, args.recipe.parent)
    rate = args.learning_rate
    if rate is None:
        rate = artifacts.read_json(args.run / "distilled" / "puzzle.json")["gkd"]["learning_rate"]
    config = dataclasses.replace(run.recipe.distill, num_tokens=args.tokens, learning_rate=rate, on_policy_tokens=0)
    corpora = corpora_of(run, args.tokens + 4 * run.sequence_length, args.heldout)
    streams = {name: data.tokenize(corpus, run.tokenizer, run.source.end_tokens) for name, corpus in corpora.items()}
    judged = Judged(run, streams, args.chats)
    chosen_by = validation_rows(run.tokens["validation"], config, run.sequence_length, run.recipe.seed)
    for name, source in ROWS.items():
        path = args.run / "data_sources" / f"{name}.json"
        if not path.exists():
            child, gkd = run.load_child("child"), None
            if source is not None:
                masks = dataclasses.replace(config, document_masks=name.endswith("masked"))
                tokens = streams[source]["train"]
                child, done = distill(child, run.parent, tokens, masks, run.sequence_length, path.parent / name, chosen_by, 5)  # fmt: skip
                gkd = dataclasses.asdict(done) | {"different_tokens": len(tokens)}
                hub.write_model_folder(path.parent / name / "child", child, run.tokenizer)
            path.parent.mkdir(exist_ok=True)
            artifacts.write_json(path, {"data": name, "gkd": gkd, **judged(child)})
        found = artifacts.read_json(path)
        print(
            name, {k: round(found[f"on_{k}"]["kl"], 4) for k in KINDS}, round(found["chat_agreement"], 4), flush=True
        )
    rows = [artifacts.read_json(args.run / "data_sources" / f"{name}.json") for name in ROWS]
    facts = {
        "environment": artifacts.environment(),
        "note": args.note,
        "gkd_tokens": args.tokens,
        "batch_size": config.batch_size,
        "learning_rate": rate,
        "chats": len(judged.prompts),
    }
    artifacts.write_json(args.out, facts | {"blocks": run.chosen["blocks"], "rows": compared(rows)})


class Judged:
    """The parent's answers that every child is compared with."""

    def __init__(self, run: PuzzleRun, streams: dict, chats: int):
        self.batch = run.recipe.evaluate.batch_size
        heldout = {kind: streams[kind]["heldout"] for kind in KINDS}
        self.targets = {
            kind: Targets(run.parent, Rows.draw(tokens, run.sequence_length, len(tokens), 21), self.batch)
            for kind, tokens in heldout.items()
        }
        self.prompts = prompt_ids(list(itertools.islice(reserved_chats(run.corpus), chats)), run.tokenizer)
        ends, longest = run.source.end_tokens, run.recipe.evaluate.chat_tokens
        self.answers = answer(run.parent, self.prompts, ends, longest, self.batch)

    def __call__(self, child) -> dict:
        shares = followed(child, self.prompts, self.answers, self.batch)
        agreement, error = mean_and_error(shares)
        row = {"chat_agreement": agreement, "chat_agreement_stderr": error, "shares": shares.tolist()}
        for kind, targets in self.targets.items():
            verdict = targets.compare(child)
            row[f"on_{kind}"] = verdict.to_dict()
            row[f"rows_{kind}"] = [verdict.columns["kl"].tolist(), verdict.documents.tolist()]
        return row


def compared(rows: list[dict]) -> list[dict]:
    """Rows with their differences from `both`, in place of what each row of text gave."""
    (both,) = (row for row in rows if row["data"] == "both")
    found = []
    for row in rows:
        row = dict(row)
        for kind in KINDS:
            (own, documents), (other, _) = row.pop(f"rows_{kind}"), both[f"rows_{kind}"]
            difference = torch.tensor(own, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)
            kl, error = mean_and_error(difference, torch.tensor(documents))
            row[f"on_{kind}"] = row[f"on_{kind}"] | {"kl_behind_both": kl, "kl_behind_both_stderr": error}
        shares = torch.tensor(row.pop("shares")) - torch.tensor(both["shares"])
        more, error = mean_and_error(shares)
        found.append(row | {"chat_agreement_over_both": more, "chat_agreement_over_both_stderr": error})
    return found


if __name__ == "__main__":
    main()
