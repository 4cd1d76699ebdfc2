"""The cost model against the machine: predicted and measured time of children that no fit has seen.

    python benchmarks/costs.py --children 12

Uses the shapes of recipes/puzzle/tiny_cpu.yaml; also predicted against really held bytes, over many shapes.
"""

import argparse
import random
import statistics
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.costs import cache_bytes, median_timing, weight_bytes
from hf_puzzle.formats import DECILM
from hf_puzzle.puzzle.bench import Bench
from hf_puzzle.puzzle.block_costs import kv_bytes_per_token, measure_costs, non_block_parameters, num_parameters
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml"
ROUNDS = 4


def held_out_times(num_children: int, seed: int) -> dict:
    """Relative error of the calibrated prediction on random children over the whole search space."""
    recipe = load_recipe(RECIPE)
    parent = AutoModelForCausalLM.from_pretrained(RECIPE.parent / "tiny_parent", dtype=torch.float32).eval()
    space = build_search_space(parent.config, recipe.search_space, recipe.deploy)
    bench = Bench(parent, recipe.cost, DECILM)
    costs = measure_costs(bench, space, seed)
    generator = random.Random(seed + 1)
    layouts = [[generator.choice(layer.blocks) for layer in space.layers] for _ in range(num_children)]
    batch_size = recipe.cost.batch_sizes[0]
    named = {f"child {i}": blocks for i, blocks in enumerate(layouts)}
    measured = bench.timings(named, batch_size, ROUNDS, "children", parents=False)
    rows = []
    for name, blocks in named.items():
        timing = median_timing(measured[name])
        predicted = costs.predict(blocks, batch_size)
        rows.append(
            {
                "blocks": [b.id for b in blocks],
                "measured_ms": timing.total_ms,
                "predicted_ms": predicted.total_ms,
                "error": predicted.total_ms / timing.total_ms - 1,
            }
        )
    errors = [abs(row["error"]) for row in rows]
    fit = next(iter(costs.fits[batch_size].values()))
    return {
        "seed": seed,
        "error_mean": statistics.fmean(errors),
        "error_max": max(errors),
        "printed_mean": fit.error_mean,  # what a run says of itself, on the few that its fit had not seen
        "printed_max": fit.error_max,
        "children": rows,
    }


def held_bytes() -> list[dict]:
    """Formula against tensors really held, weights and cache, over shapes: ties, biases, head_dim, dtypes."""
    from transformers import LlamaConfig, Qwen2Config

    rows = []
    tokens = torch.randint(0, 128, (3, 20))
    blocks = [Block(8, 512), Block(2, "linear"), Block("linear", 256), Block("none", 512), Block(1, "none")]
    for name, config_class in (("llama", LlamaConfig), ("qwen2", Qwen2Config)):
        for tied in (True, False):
            for extra in ({}, {"head_dim": 32}, {"attention_bias": True, "mlp_bias": True}):
                if name == "qwen2" and extra:
                    continue
                for dtype in ("float32", "bfloat16"):
                    config = config_class(
                        vocab_size=128, hidden_size=64, intermediate_size=512, num_hidden_layers=5,
                        num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=tied, **extra,
                    )  # fmt: skip
                    child = Network(config, blocks).random(getattr(torch, dtype))
                    cache = DynamicCache()
                    with torch.no_grad():
                        child(input_ids=tokens, past_key_values=cache, use_cache=True)
                    size = 4 if dtype == "float32" else 2
                    weights = size * (
                        non_block_parameters(config)
                        + sum(
                            num_parameters(config, k, v)
                            for b in blocks
                            for k, v in zip(("attention", "ffn"), b, strict=True)
                        )
                    )
                    kv = tokens.numel() * sum(kv_bytes_per_token(config, b.attention, dtype) for b in blocks)
                    rows.append(
                        {
                            "config": {"family": name, "tied": tied, "dtype": dtype, **extra},
                            "weight_error": weights / weight_bytes(child) - 1,
                            "kv_error": kv / cache_bytes(cache) - 1,
                        }
                    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/costs.json")
    args = parser.parse_args()
    bytes_rows = held_bytes()
    times = [held_out_times(args.children, seed) for seed in args.seeds]
    for row in times:
        print(f"seed {row['seed']}: error on unseen children mean {row['error_mean']:.1%}, max {row['error_max']:.1%}")
    print(
        f"bytes: largest error {max(abs(r['weight_error']) + abs(r['kv_error']) for r in bytes_rows):.2%} on {len(bytes_rows)} configs"
    )
    artifacts.write_json(args.out, {"environment": artifacts.environment(), "times": times, "bytes": bytes_rows})


if __name__ == "__main__":
    main()
