"""What a child is best distilled on, at equal tokens: natural text, chats that its parent wrote, or both.

    python benchmarks/data_sources.py --run runs/smollm2_135m --recipe recipes/puzzle/smollm2_135m.yaml

Takes the child of a run whose recipe mixes text with `self`, before GKD, and distils it anew on each source alone and on
the mixture: same tokens, learning rate, seeds and validation text (the run's, of both). Judged on held-out documents of each
kind, and by how much of the parent's greedy answers to held-out chats is the child's first choice. Killed, it goes on with
the next row.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path

from hf_puzzle import artifacts, data
from hf_puzzle.chat_evaluation import answer, followed, prompt_ids
from hf_puzzle.corpora import MIXTURE, SELF, reserved_chats
from hf_puzzle.evaluation import Rows, Targets, mean_and_error
from hf_puzzle.puzzle.distillation import distill, validation_rows
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import DataConfig, load_recipe


ROOT = Path(__file__).parent.parent
HELDOUT = 60_000  # tokens of each kind


def corpora_of(run: PuzzleRun, num_tokens: int) -> dict[str, DataConfig]:
    """The run's text, its sources other than `self`, and `self` alone."""
    both, asked = run.corpus, run.recipe.data
    if asked.name != MIXTURE or not any(s.name == SELF for s in asked.sources):
        raise SystemExit("the recipe's data is no mixture with `self`")
    own = [s.name == SELF for s in asked.sources]
    settings = {"num_tokens": num_tokens, "heldout_tokens": HELDOUT}
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
    parser.add_argument("--chats", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/data_sources.json")
    args = parser.parse_args()
    run = PuzzleRun(load_recipe(args.recipe, args.overrides), args.run, args.recipe.parent)
    rate = args.learning_rate
    if rate is None:
        rate = artifacts.read_json(args.run / "distilled" / "puzzle.json")["gkd"]["learning_rate"]
    config = dataclasses.replace(run.recipe.distill, num_tokens=args.tokens, learning_rate=rate, on_policy_tokens=0)
    corpora = corpora_of(run, args.tokens + 4 * run.sequence_length)
    streams = {name: data.tokenize(corpus, run.tokenizer, run.source.end_tokens) for name, corpus in corpora.items()}
    batch = run.recipe.evaluate.batch_size
    targets = {
        name: Targets(run.parent, Rows.draw(streams[name]["heldout"], run.sequence_length, HELDOUT // 2, 21), batch)
        for name in ("natural", "self")
    }
    prompts = prompt_ids(list(itertools.islice(reserved_chats(run.corpus), args.chats)), run.tokenizer)
    answers = answer(run.parent, prompts, run.source.end_tokens, run.recipe.evaluate.chat_tokens, batch)
    rows, chosen_by = [], validation_rows(run.tokens["validation"], config, run.sequence_length, run.recipe.seed)
    for name in ("none", "natural", "self", "both"):
        path = args.run / "data_sources" / f"{name}.json"
        if not path.exists():
            child, gkd = run.load_child("child"), None
            if name != "none":
                folder = path.parent / name
                child, done = distill(
                    child, run.parent, streams[name]["train"], config, run.sequence_length, folder, chosen_by, 5
                )
                gkd = dataclasses.asdict(done)
            agreement, error = mean_and_error(followed(child, prompts, answers, batch))
            row = {"data": name, "gkd": gkd, "chat_agreement": agreement, "chat_agreement_stderr": error}
            row |= {f"on_{kind}": each.compare(child).to_dict() for kind, each in targets.items()}
            path.parent.mkdir(exist_ok=True)
            artifacts.write_json(path, row)
        rows.append(artifacts.read_json(path))
        kls = {kind: round(rows[-1][f"on_{kind}"]["kl"], 4) for kind in targets}
        print(name, kls, round(rows[-1]["chat_agreement"], 4), flush=True)
    facts = {
        "environment": artifacts.environment(),
        "gkd_tokens": args.tokens,
        "learning_rate": rate,
        "chats": len(prompts),
    }
    artifacts.write_json(args.out, facts | {"blocks": run.chosen["blocks"], "rows": rows})


if __name__ == "__main__":
    main()
