"""Gated linear attention for an attention: what a step costs by context, and what it loses beside a window and a linear map.

    python benchmarks/recurrent.py --work /some/folder --seeds 0 1 2

Speed: layers in the shapes of SmolLM2-135M, random weights, networks in turn. Loss: parents trained on the source text of the
Python standard library; every attention of every layer is replaced on its own, and trained by block distillation at equal
tokens (a linear map is solved in closed form). KL(parent || child) of the children in which half of the layers, or all, have it.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from hf_puzzle import artifacts, data
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Workload, cpu_threads, time_generation
from hf_puzzle.evaluation import Rows, Targets, mean_and_error
from hf_puzzle.layers import parent_block
from hf_puzzle.puzzle.block_costs import kv_bytes_per_token, kv_tokens, state_bytes
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.parent import train_parent
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import DataConfig, LibraryConfig, ParentRecipe, SearchSpaceConfig


ROOT = Path(__file__).parent.parent
LENGTH = 512
DATA = DataConfig(name="python-stdlib", sequence_length=LENGTH, num_tokens=1_500_000, heldout_tokens=100_000)
PARENT = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 16, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
WINDOW = 256
SHAPE = LlamaConfig(
    vocab_size=8192, hidden_size=576, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
CONTEXTS = (64, 256, 1024, 4096, 8192)
DTYPE = "bfloat16"
VARIANTS = {"attention": 3, "gla": "gla3", f"window{WINDOW}": f"kv3win{WINDOW}", "linear": "linear"}


def layouts() -> dict[str, list[Block]]:
    """Of the shape of the speed part: all layers alike, and half of them with attention."""
    width, layers = SHAPE.intermediate_size, SHAPE.num_hidden_layers
    alike = {name: [Block(variant, width)] * layers for name, variant in VARIANTS.items()}
    half = {
        f"half {name}": [Block(variant if i % 2 else 3, width) for i in range(layers)]
        for name, variant in {"gla": "gla3", "none": "none"}.items()
    }
    return alike | half


@torch.no_grad()
def speeds(rounds: int, decode: int, batch: int) -> list[dict]:
    """Milliseconds of a decoded token and of the prefill, and bytes of the cache, by context."""
    models = {
        name: Network(SHAPE, blocks, fmt="per_layer").random(getattr(torch, DTYPE))
        for name, blocks in layouts().items()
    }
    rows = []
    for context in CONTEXTS:
        workload, found = Workload(batch, context, decode), {name: [] for name in models}
        for number in range(rounds + 1):
            for name, model in models.items():
                timing = time_generation(model, workload, "cpu")
                if number:  # the first warms up
                    found[name].append((timing.prefill_ms, timing.decode_ms / (decode - 1)))
        for name, blocks in layouts().items():
            prefill, step = zip(*found[name], strict=True)
            rows.append({
                "network": name, "context": context, "batch": batch, "decoded": decode,
                "prefill_ms": statistics.median(prefill), "ms_per_token": statistics.median(step),
                "spread": (max(step) - min(step)) / statistics.median(step),
                "cache_bytes": batch * sum(held(block, context) for block in blocks),
            })  # fmt: skip
        shown = {row["network"]: round(row["ms_per_token"], 2) for row in rows[-len(models) :]}
        print(context, shown, flush=True)
    return rows


def held(block: Block, context: int) -> int:
    """Bytes that a layer keeps of a sequence."""
    tokens = kv_tokens(block.attention, context)
    return tokens * kv_bytes_per_token(SHAPE, block.attention, DTYPE) + state_bytes(SHAPE, block.attention, DTYPE)


def throughput(rows: list[dict], context: int, decode: int) -> dict[str, float]:
    """Tokens a second of `context` in and `decode` out, over the network with attention everywhere."""
    total = {r["network"]: r["prefill_ms"] + decode * r["ms_per_token"] for r in rows if r["context"] == context}
    return {name: total["attention"] / value for name, value in total.items()}


def losses(seed: int, work: Path, parent_tokens: int, block_tokens: int) -> dict:
    """Held-out block losses of each variant in each layer, and KL of the children that have it."""
    path = work / f"llama_{seed}"
    if not (path / "training.json").exists():
        recipe = ParentRecipe(
            DATA, seed=seed, vocab_size=1024, model_type="llama", config=PARENT, batch_size=4, learning_rate=3e-3,
            num_tokens=parent_tokens, device="cpu",
        )  # fmt: skip
        train_parent(recipe, path)
    parent = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
    streams = data.tokenize(DATA, AutoTokenizer.from_pretrained(path))
    heldout = streams.pop("heldout")
    streams["validation"], test = heldout.split_at_document(len(heldout) // 3)
    own = parent_block(parent.config)
    space = build_search_space(parent.config, SearchSpaceConfig(["gla", f"window{WINDOW}", "linear", "none"], []))
    importance = channel_importance(parent, data.sequences(streams["train"], LENGTH, 8 * LENGTH, seed), 4)
    library = BlockLibrary(work / f"library_{seed}")
    config = LibraryConfig(
        num_tokens=block_tokens, batch_size=4, eval_tokens=8 * LENGTH, evals=4, ridge_tokens=64 * LENGTH
    )
    build_library(parent, space, importance, streams, library, config, LENGTH, seed)
    rows = []
    for name, row in library.index.items():
        place, _, variant = name.partition("/attention.")
        if variant:
            keys = ("loss_before", "loss_after", "trained_tokens", "init")
            rows.append({"layer": int(place.removeprefix("layer_")), "variant": variant} | {k: row[k] for k in keys})
    targets = Targets(parent, Rows.draw(test, LENGTH, 48 * LENGTH, seed), 4, "parent")
    children = []
    for variant in space.variants["attention"][1:]:
        for half in (True, False):
            layers = range(parent.config.num_hidden_layers)
            blocks = [own if half and i % 2 == 0 else Block(variant, own.ffn) for i in layers]
            child = Network(parent.config, blocks, library, "per_layer").assembled(parent)
            value, error = mean_and_error(targets.compare(child, variant).columns["kl"], targets.rows.documents)
            children.append(
                {"variant": str(variant), "layers": "half" if half else "all", "kl": value, "kl_error": error}
            )
    return {"seed": seed, "parent": artifacts.read_json(path / "training.json"), "blocks": rows, "children": children}


def below(runs: list[dict], other: str) -> dict:
    """In how many layers the trained state's loss is below another variant's."""
    pairs = []
    for run in runs:
        by_place = {(row["layer"], row["variant"]): row["loss_after"] for row in run["blocks"]}
        states = {layer: value for (layer, variant), value in by_place.items() if variant.startswith("gla")}
        pairs += [value < by_place[layer, other] for layer, value in states.items()]
    return {"below": other, "layers": sum(pairs), "of": len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parent-tokens", type=int, default=500_000)
    parser.add_argument("--block-tokens", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", choices=["speed", "loss"])
    parser.add_argument("--note", default="", help="what else ran")
    parser.add_argument("--work", type=Path, required=True, help="folder for the parents")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "recurrent.json")
    arguments = parser.parse_args()
    done = artifacts.read_json(arguments.out) if arguments.out.exists() else {}
    done |= {"what": __doc__.splitlines()[0], "environment": artifacts.environment(), "note": arguments.note}
    with cpu_threads(1):
        if arguments.only != "loss":
            rows = speeds(arguments.rounds, arguments.decode, arguments.batch)
            ratios = {context: throughput(rows, context, 128) for context in CONTEXTS}
            done["speed"] = {"dtype": DTYPE, "shape": SHAPE.to_diff_dict(), "rows": rows, "throughput_ratio": ratios}
            artifacts.write_json(arguments.out, done)
        runs = []
        for seed in arguments.seeds if arguments.only != "speed" else ():
            began = time.time()
            runs.append(losses(seed, arguments.work, arguments.parent_tokens, arguments.block_tokens))
            print(f"seed {seed}: {time.time() - began:.0f} s", runs[-1]["blocks"], runs[-1]["children"], flush=True)
            ahead = [below(runs, other) for other in ("linear", f"kv{PARENT['num_key_value_heads']}win{WINDOW}")]
            done["loss"] = {
                "parent": PARENT, "length": LENGTH, "block_tokens": arguments.block_tokens, "ahead": ahead, "runs": runs,
            }  # fmt: skip
            artifacts.write_json(arguments.out, done)


if __name__ == "__main__":
    main()
