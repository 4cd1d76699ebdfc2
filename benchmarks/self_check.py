"""What the proof of the first cached step costs, which children do on untested versions of transformers.

    python benchmarks/self_check.py

A child with the sizes of SmolLM2-135M (random weights, both formats): processor seconds of the proof alone, several times, against
those of a generation of 256 tokens without it, on one thread.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent
PROMPTS = (32, 512)
NEW_TOKENS = 256


def child(fmt):
    import torch
    from transformers import LlamaConfig

    from hf_puzzle import formats
    from hf_puzzle.blocks import Block

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    blocks = [Block(1, 768), Block("none", 1536), Block(3, 1024)] * 10
    torch.manual_seed(0)
    model = formats.model_class(built := formats.child_config(config, blocks, fmt))(built)
    return model.eval()


def seconds(model, prompt, new_tokens: int) -> float:
    began = time.process_time()
    model.generate(prompt, attention_mask=prompt * 0 + 1, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
                   do_sample=False, pad_token_id=0)  # fmt: skip
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proofs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    from hf_puzzle import artifacts
    from hf_puzzle.remote.caches_puzzle import SWITCH, _Proof

    torch.set_num_threads(1)
    os.environ[SWITCH] = "1"
    spent, step = [], _Proof._step

    def timed(self, *arguments):
        began = time.process_time()
        step(self, *arguments)
        if self.passed:
            spent.append(time.process_time() - began)

    _Proof._step = timed
    rows = []
    for fmt in ("decilm", "per_layer"):
        model = child(fmt)
        [proof] = [hook for hook in model._forward_hooks.values() if isinstance(hook, _Proof)]
        for length in PROMPTS:
            prompt = torch.randint(3, 49152, (1, length), generator=torch.Generator().manual_seed(0))
            seconds(model, prompt, 4)
            whole = seconds(model, prompt, NEW_TOKENS)  # proven already: without
            spent.clear()
            for _ in range(args.proofs):
                proof.passed, proof.seen = False, None
                seconds(model, prompt, 4)
            shares = [each / whole for each in spent]
            assert len(shares) == args.proofs
            rows.append({
                "format": fmt, "prompt_tokens": length, "new_tokens": NEW_TOKENS, "proofs": args.proofs,
                "extra_share_median": statistics.median(shares), "extra_share_all": shares, "process_seconds_without": whole,
            })  # fmt: skip
            print(json.dumps(rows[-1]))
    artifacts.write_json(args.out, {"environment": artifacts.environment(), "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
