"""What the blocks of a library are worth: KL of the parent with one block exchanged, by kind of block, and its cost.

    python benchmarks/library.py --set library.num_tokens=100000

Every block of the demo's search space, distilled and judged on text that it was not made on; processor time on one
thread. `--layers 2 5` takes a few layers. Run it in two checkouts to compare two versions of the library.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_puzzle import artifacts, data
from hf_puzzle.costs import cpu_threads
from hf_puzzle.puzzle.block_distillation import build_layers
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/puzzle/tiny_cpu.yaml")
    parser.add_argument("--parent", default=ROOT / "recipes/puzzle/tiny_parent", help="a model folder")
    parser.add_argument("--layers", type=int, nargs="*", help="default: all")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/library.json")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.overrides)
    length = recipe.data.sequence_length
    parent = AutoModelForCausalLM.from_pretrained(args.parent, dtype=torch.float32).eval().requires_grad_(False)
    streams = data.tokenize(recipe.data, AutoTokenizer.from_pretrained(args.parent))
    half = len(streams["heldout"]) // 2
    tokens = {"train": streams["train"], "validation": streams["heldout"][:half]}
    space = build_search_space(parent.config, recipe.search_space, recipe.deploy)
    layers = args.layers or range(len(space.layers))
    with cpu_threads(1), tempfile.TemporaryDirectory() as folder:
        rows = data.sequences(tokens["train"], length, recipe.importance.num_tokens, 0)
        importance = channel_importance(parent, rows, recipe.importance.batch_size)
        library = BlockLibrary(folder)
        began = time.process_time()
        for job in [range(i, i + 1) for i in layers] if args.layers else [layers]:
            build_layers(parent, space, job, importance, tokens, library, recipe.library, length, 0)
        seconds = time.process_time() - began
        judge = Judge(parent, space, library, Metric.of(recipe.score, streams["heldout"][half:], length, 0))
        by_block, by_name = defaultdict(list), defaultdict(list)
        for _, values in judge.block_values(layers):
            for block, value in values.items():
                by_block[block].append(value.mean().item())
        for name, row in library.index.items():
            by_name[name.partition("/")[2]].append(row)
    artifacts.write_json(
        args.out,
        {
            "environment": artifacts.environment(),
            "overrides": args.overrides,
            "layers": list(layers),
            "cpu_s": seconds,
            "kl": {block: statistics.mean(values) for block, values in by_block.items()},
            "losses": {
                name: {key: statistics.mean(row[key] for row in rows) for key in ("loss_before", "loss_after")}
                | {"init": [row["init"] for row in rows]}
                for name, rows in by_name.items()
            },
        },
    )
    print(f"{len(library.index)} blocks in {seconds:.0f} processor seconds; mean KL of one exchange:")
    for block, values in by_block.items():
        print(f"  {block:16} {statistics.mean(values):.5f}")


if __name__ == "__main__":
    main()
