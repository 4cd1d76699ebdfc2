"""Keys and values in llama.cpp's cache types: what they cost a model, by this library's rounding and in the engine itself.

    python benchmarks/kv_cache.py --run runs/smollm2_135m --seeds 0 1 2

The parent of a run in float32, on the run's test text: KL(whole || with such a cache) per token in nats, standard error by
document, where transformers rounds as `cache_types.rounded_cache` does, and where llama.cpp holds the cache; KL between the two;
bytes of a token's keys and values in all layers.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from hf_puzzle import artifacts
from hf_puzzle.costs import cpu_threads
from hf_puzzle.engines.cache_types import CACHE_TYPES, rounded_cache
from hf_puzzle.engines.gguf import write_model_gguf
from hf_puzzle.engines.llama_cpp import LlamaCpp
from hf_puzzle.evaluation import Rows, Targets, kl_divergence
from hf_puzzle.layers import parent_blocks
from hf_puzzle.puzzle.block_costs import kv_bytes_per_token
from hf_puzzle.puzzle.pipeline import load_run


ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=4_096)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/kv_cache.json")
    arguments = parser.parse_args()
    run = load_run(arguments.run, ["device=cpu"])
    model, length = run.parent.float(), run.sequence_length
    blocks, made = parent_blocks(run.config), []
    with cpu_threads(1), tempfile.TemporaryDirectory() as folder:
        path = write_model_gguf(model, f"{folder}/parent.gguf", "f32")
        for seed in arguments.seeds:
            rows = Rows.draw(run.tokens["test"], length, arguments.tokens, seed)
            targets = Targets(model, rows, 1)
            for name in (None, *CACHE_TYPES):
                made.append({"seed": seed, "cache_type": name or "f16", **measured(model, targets, path, name)})
                made[-1]["bytes_per_token"] = sum(
                    kv_bytes_per_token(run.config, block.attention, "float16", name) for block in blocks
                )
                print(made[-1], flush=True)
                about = {"sequence_length": length, "tokens": arguments.tokens, "environment": artifacts.environment()}
                artifacts.write_json(arguments.out, {**about, "rows": made})


@torch.no_grad()
def measured(model, targets: Targets, path: Path, name: str | None) -> dict:
    """KL of one type in transformers and in llama.cpp, `[mean, standard error]`, and between them."""
    ours, theirs = [], []
    with LlamaCpp(path, targets.rows.input_ids.shape[1], kv_dtype=name or "f16") as engine, rounded_cache(name):
        for batch in targets.batches:
            ours.append(model(batch).logits)
            theirs.append(torch.from_numpy(np.stack([engine.logits(row) for row in batch.tolist()])))
    found = {
        key: targets.verdict(logits, head=lambda given: given).mean("kl")
        for key, logits in (("transformers", ours), ("llama.cpp", theirs))
    }
    between = torch.cat([kl_divergence(a[:, :-1], b[:, :-1]).flatten() for a, b in zip(ours, theirs, strict=True)])
    return {**found, "between": between.mean().item()}


if __name__ == "__main__":
    main()
