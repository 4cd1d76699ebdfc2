"""Assisted generation with a child as the draft of its parent: the same tokens, at what speed?

    python benchmarks/assisted.py --child runs/tiny_cpu/child

Greedy, one sequence at a time, prompts from held-out text. Without --child the draft is the parent with narrowed FFNs
and some layers gone, not trained at all. Plain and assisted generation take turns on every prompt.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.costs import assisted_generation, cpu_threads
from hf_puzzle.data import sequences, tokenize
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import LibraryConfig, SearchSpaceConfig, load_recipe


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml"
OWN, NARROW, GONE = Block(8, 1024), Block(8, 512), Block("none", "none")
UNTRAINED = [OWN, NARROW, NARROW, GONE, NARROW, GONE, NARROW, OWN]


def untrained_child(parent: PreTrainedModel, tokens: dict[str, torch.Tensor], length: int) -> PreTrainedModel:
    """The parent with `UNTRAINED` blocks: the most important FFN channels and the layers that are left."""
    space = build_search_space(
        parent.config, SearchSpaceConfig(attention=["none"], ffn=[512, "none"]), ["transformers"]
    )
    importance = channel_importance(parent, sequences(tokens["train"], length, 32_768, seed=0), 32)
    config = LibraryConfig(num_tokens=0, eval_tokens=1_024)
    with tempfile.TemporaryDirectory() as folder:
        library = build_library(parent, space, importance, tokens, BlockLibrary(folder), config, length)
        return Network(parent.config, UNTRAINED, library).assembled(parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", type=Path, help="folder of a child of the recipe's parent")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--draft-tokens", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/assisted.json")
    args = parser.parse_args()
    recipe = load_recipe(RECIPE)
    folder = RECIPE.parent / "tiny_parent"
    parent = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    data = dataclasses.replace(recipe.data, num_tokens=100_000, heldout_tokens=100_000)
    tokens = tokenize(data, AutoTokenizer.from_pretrained(folder))
    with cpu_threads(1):
        if args.child:
            child = AutoModelForCausalLM.from_pretrained(
                args.child, dtype=torch.float32, trust_remote_code=True
            ).eval()
        else:
            streams = {"train": tokens["train"], "validation": tokens["heldout"]}
            child = untrained_child(parent, streams, data.sequence_length)
        size = args.prompts * args.prompt_tokens
        prompts = sequences(tokens["heldout"], args.prompt_tokens, size, seed=1).long()
        rows = [
            assisted_generation(parent, child, prompts, args.new_tokens, drafts, "cpu") for drafts in args.draft_tokens
        ]
    for row in rows:
        print(
            f"{row['draft_tokens']} drafts: identical {row['identical']}/{row['prompts']}, "
            f"{row['accepted_per_step']:.2f} accepted per step, speed {row['speed']['value']:.2f}x "
            f"(at least {row['speed']['lower_bound']:.2f}x)"
        )
    result = {
        "environment": artifacts.environment(),
        "child": args.child.name if args.child else [block.id for block in UNTRAINED],
        "trained": args.child is not None,
        "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens,
        "rows": rows,
    }
    artifacts.write_json(args.out, result)


if __name__ == "__main__":
    main()
