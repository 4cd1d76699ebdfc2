"""What BLD of the whole library costs, against training the parent on the same tokens.

    python benchmarks/bld.py --tokens 40960

Processor seconds on one thread, both with the settings of their recipes; the library includes its closed forms and
evaluations, scaled to the share of the tokens that is trained here.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_puzzle import artifacts, data
from hf_puzzle.costs import cpu_threads
from hf_puzzle.optim import MuonWithAdamW
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.closed_form import calibration_tokens
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import load_recipe, parse_recipe, to_dict


ROOT = Path(__file__).parent.parent
RECIPE, PARENT_RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml", ROOT / "recipes/puzzle/tiny_parent.yaml"


def parent_training_s(tokens: torch.Tensor, num_tokens: int) -> float:
    """Processor seconds of training the parent's architecture from its recipe's batch on `num_tokens`."""
    recipe = load_recipe(PARENT_RECIPE)
    model = AutoModelForCausalLM.from_pretrained(RECIPE.parent / "tiny_parent", dtype=torch.float32).train()
    optimizer = MuonWithAdamW(model.named_parameters(), lr=1e-4)
    rows = data.sequences(tokens, recipe.data.sequence_length, num_tokens, 0)
    began = time.process_time()
    for batch in rows.split(recipe.batch_size):
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(recipe.args.get("bf16"))):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - began


def library_s(recipe, tokens: dict, num_tokens: int) -> tuple[float, int]:
    """Processor seconds of BLD alone, all variants over one streamed parent forward; and how many were trained."""
    parent = AutoModelForCausalLM.from_pretrained(RECIPE.parent / "tiny_parent", dtype=torch.float32)
    parent.eval().requires_grad_(False)
    space = build_search_space(parent.config, recipe.search_space, recipe.deploy)
    importance = channel_importance(parent, data.sequences(tokens["train"], 128, 4096, 0), 16)
    share = num_tokens / recipe.library.num_tokens
    raw = to_dict(recipe)
    closed_forms = calibration_tokens(recipe.library, parent.config.hidden_size, space.variants["ffn"])
    for key, count in (("ridge_tokens", closed_forms), ("eval_tokens", recipe.library.eval_tokens)):
        raw["library"][key] = max(1024, int(count * share))
    raw["library"]["num_tokens"] = num_tokens
    config = parse_recipe(raw).library
    with tempfile.TemporaryDirectory() as folder:
        library = BlockLibrary(folder)
        began = time.process_time()
        build_library(parent, space, importance, tokens, library, config, 128, 0)
        seconds = time.process_time() - began
        return seconds, sum(row["trained_tokens"] > 0 for row in library.index.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=40_960)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/bld.json")
    args = parser.parse_args()
    recipe = load_recipe(RECIPE, args.overrides)
    tokenizer = AutoTokenizer.from_pretrained(RECIPE.parent / "tiny_parent")
    streams = data.tokenize(recipe.data, tokenizer)
    tokens = {"train": streams["train"], "validation": streams["heldout"]}
    rows = []
    with cpu_threads(1):
        for _ in range(args.repeats):  # in turn, so that both meet the same machine
            seconds, blocks = library_s(recipe, tokens, args.tokens)
            rows.append((seconds, parent_training_s(tokens["train"], args.tokens)))
    ratios = [bld / training for bld, training in rows]
    result = {
        "environment": artifacts.environment(),
        "tokens": args.tokens,
        "blocks": blocks,
        "overrides": args.overrides,
        "library_cpu_s": [bld for bld, _ in rows],
        "parent_training_cpu_s": [training for _, training in rows],
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
    }
    artifacts.write_json(args.out, result)
    print(
        f"BLD of the library / training the parent on the same tokens: {result['ratio']:.2f}x {result['ratio_spread']}"
    )


if __name__ == "__main__":
    main()
