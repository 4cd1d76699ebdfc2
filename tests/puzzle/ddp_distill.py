"""GKD on however many processes torchrun starts: `ddp_distill.py OUT BATCH_SIZE` writes the child to OUT."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from hf_puzzle.blocks import Block
from hf_puzzle.evaluation import Rows
from hf_puzzle.puzzle.distillation import distill
from hf_puzzle.puzzle.network import Network
from hf_puzzle.recipe import DistillConfig


torch.set_num_threads(1)


def main(output: Path, batch_size: int) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 256, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.1}
    parent = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    child = Network(parent.config, [Block(1, 256), Block("none", 256)]).random(torch.float32)
    tokens = torch.randint(3, 64, (2000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    args = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    config = DistillConfig(num_tokens=512, batch_size=batch_size, learning_rate=1e-3, optimizer="muon", args=args)
    rows = Rows.draw(tokens, 16, 512, seed=1)
    child, done = distill(child, parent, tokens, config, 16, output.with_suffix(".run"), rows)
    assert 0 < done.step <= done.steps
    assert done.kl_after < done.kl_before
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        save_file({k: v.contiguous() for k, v in child.state_dict().items()}, output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
