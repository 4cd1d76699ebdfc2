"""MRKL's gates on our own held-back queries, and decoding under the grammar (arXiv 2205.00445).

    python benchmarks/mrkl.py [--reader] [--decodes 10000] [--practice ../shared/mrkl_practice]

Writes mrkl.json beside this file. The held-back wordings were measured once before any of them was looked at; those
first numbers stand under `first_blind` and are not overwritten.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_puzzle.mrkl.data import make_world
from hf_puzzle.mrkl.evaluate import HELDBACK, ask_all, score
from hf_puzzle.remote.calls_mrkl import Expert
from hf_puzzle.remote.experts_mrkl import Experts
from hf_puzzle.remote.generation_mrkl import Constrained, call_grammar
from hf_puzzle.remote.masks_mrkl import ENGINES, Masks, Vocabulary, text


OUT = Path(__file__).with_suffix(".json")
TOKENIZER = Path(__file__).parents[1] / "recipes" / "puzzle" / "tiny_parent"


def decodes(count: int, batch: int = 100, seed: int = 0) -> dict:
    """Sample `count` calls from an untrained model under the grammar of all seven experts; how many are valid."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    known = Vocabulary(tokenizer, len(tokenizer))
    with tempfile.TemporaryDirectory() as directory:
        world = make_world(directory, "train", 0)
        experts = Experts.from_fixtures(directory, world.today)
        schemas = {name: expert.parameters for name, expert in experts.items()}
        grammar = call_grammar(schemas, text("</call>"))
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        model = LlamaForCausalLM(config).eval()
        found = {}
        for engine in ENGINES:
            masks = Masks(grammar, known, engine)
            valid, made, names, start = 0, 0, {}, time.process_time()
            while made < count:
                calls = Recorded(masks, "<call>", 60, required=masks)
                prompt = torch.randint(1, len(tokenizer), (min(batch, count - made), 4))
                model.generate(
                    prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=200, do_sample=True,
                    logits_processor=[calls], pad_token_id=0, eos_token_id=0,
                )  # fmt: skip
                made += len(prompt)
                for call in calls.made:
                    name, _, written = call.removesuffix("</call>").partition("(")
                    # the schema alone: an expert's own check asks for more, such as what goes with which operation
                    Expert.check(experts[name], json.loads(written[:-1], parse_float=str))
                    valid += 1
                    names[name] = names.get(name, 0) + 1
            seconds = round(time.process_time() - start, 1)
            found[engine] = {"decodes": made, "schema_valid": valid, "by_expert": names, "cpu_s": seconds}
    return found


class Recorded(Constrained):
    """Keeps what was written, and ends there."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.made = []

    def completed(self, number, call):
        self.made.append(call)
        return [0]


def practice(folder: Path) -> dict:
    """Scores of the practice set by its own scorer."""
    with tempfile.TemporaryDirectory() as work:
        predictions, scores = Path(work) / "p.jsonl", Path(work) / "s.json"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        run = [sys.executable, folder / "run.py", "hf_puzzle.mrkl.evaluate:factory", "--out", predictions]
        said = subprocess.run(run, check=True, capture_output=True, text=True, env=environment).stdout
        database = said.rsplit("--db", 1)[1].strip()
        subprocess.run(
            [sys.executable, folder / "score.py", predictions, "--json", scores, "--db", database],
            check=True,
            capture_output=True,
        )
        out = json.loads(scores.read_text())
    tables = {
        key.removeprefix("category / "): value
        for key, value in out["tables"].items()
        if key == "all" or key.startswith("category / ")
    }
    return {"tables": tables} | {
        key: value for key, value in out.items() if key != "tables" and not key.startswith("wording")
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decodes", type=int, default=10_000)
    parser.add_argument("--practice", type=Path)
    parser.add_argument("--reader", action="store_true", help="measure the held-back questions alone, keep the rest")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    before = json.loads(OUT.read_text()) if OUT.exists() else {}
    rows = [json.loads(line) for line in HELDBACK.read_text(encoding="utf-8").splitlines()]
    if arguments.reader:
        OUT.write_text(
            json.dumps(before | {"heldback": score(rows, ask_all(rows))}, indent=1) + "\n", encoding="utf-8"
        )
        return
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "first_blind": before.get("first_blind"),
        "heldback": score(rows, ask_all(rows)),
        "constrained": decodes(arguments.decodes),
        "practice": practice(arguments.practice.resolve()) if arguments.practice else before.get("practice"),
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: found[key] for key in ("constrained",)}, indent=1))


if __name__ == "__main__":
    main()
