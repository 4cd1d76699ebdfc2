"""The smallest whole Puzzle run: a corpus of random words, a recipe for a parent of three layers, and one for its child.

The child is chosen by parameters, not by time, so that everything but timings comes out the same in every run.
"""

import random
from pathlib import Path

import pytest
import yaml

from hf_puzzle import costs
from hf_puzzle.costs import Timing
from hf_puzzle.puzzle.bench import Bench


PARENT = {
    "system": "parent",
    "vocab_size": 300,
    "config": {
        "hidden_size": 32, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
    },
    "batch_size": 8,
    "num_tokens": 6_000,
}  # fmt: skip
RECIPE = {
    "parent": {"name": "tiny_parent", "recipe": "tiny_parent.yaml", "dtype": "float32"},
    "search_space": {"attention": [1, "none"], "ffn": [256, "none"]},
    "importance": {"num_tokens": 256},
    "library": {"num_tokens": 512, "batch_size": 4, "eval_tokens": 64, "ridge_tokens": 256, "evals": 2},
    "score": {"num_tokens": 96},
    "cost": {
        "batch_sizes": [2], "prefill_tokens": 8, "decode_tokens": 4, "dtype": "float32", "clock": "cpu", "threads": 1,
        "rounds": 2, "stack_layers": 2, "calibration_children": 3,
    },
    "constraints": {"num_parameters": 120_000},
    "solve": {"num_solutions": 2, "measure_rounds": 3, "sessions": 1, "time_limit_s": 20},
    "child": {"refit_tokens": 256},
    "distill": {"num_tokens": 256, "batch_size": 4, "learning_rate": 1.0e-3, "optimizer": "muon"},
    "evaluate": {"num_tokens": 256, "task_items": 8, "task_context": 8, "task_continuation": 4, "measure_rounds": 3,
        "batch_sizes": [1, 2]},
    "baselines": {"names": ["drop_layers", "greedy"], "num_tokens": [0]},
}  # fmt: skip

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
# a hybrid and a dense-first mixture, with what is searched of them
HYBRID_PARENTS = {
    "qwen3_5_text": _SIZES
    | {
        "intermediate_size": 512, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    },
    "glm4_moe": _SIZES
    | {
        "intermediate_size": 512, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1,
    },
}  # fmt: skip
HYBRID_SPACES = {
    "qwen3_5_text": {"attention": [1, "none"], "ffn": [256, "none"]},
    "glm4_moe": {"attention": [1, "none"], "ffn": ["w256", "e4", "e4top1", "none"]},
}


def steady_clock(patch: pytest.MonkeyPatch) -> None:
    """A machine that needs a millisecond per model and one more per 20 000 parameters: tiny models drown in noise."""

    def fake(model, workload, clock="wall"):
        total = 1.0 + model.num_parameters() / 20_000
        return Timing(0.2 * total, 0.8 * total)

    patch.setattr(costs, "time_generation", fake)
    patch.setattr(Bench, "_stays", property(lambda self: True))


def write_recipes(folder: Path) -> Path:
    """Write `corpus/`, `tiny_parent.yaml` and `tiny.yaml` to `folder`."""
    (folder / "corpus").mkdir()
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(2, 5))) for _ in range(60)]
    for i in range(60):
        lines = [" ".join(generator.choices(words, k=8)) for _ in range(25)]
        (folder / "corpus" / f"{i}.txt").write_text("\n".join(lines))
    data = {
        "name": "text", "data_files": [str(folder / "corpus" / "*.txt")], "sequence_length": 16, "num_tokens": 6_000,
        "heldout_tokens": 3_000, "heldout_fraction": 0.3,
    }  # fmt: skip
    (folder / "tiny_parent.yaml").write_text(yaml.safe_dump({**PARENT, "data": data}))
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**RECIPE, "data": data}))
    return folder
