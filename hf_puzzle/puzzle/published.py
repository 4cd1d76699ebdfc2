"""Shapes of parents, and NVIDIA's published children of them: the speed-up that a roofline predicts for them beside the reported one.

Layers are run-length strings, `attention/ffn_mult` with a repeat count: gN has N query heads in a group, L is linear, N
none, n no FFN.
"""

import functools
from dataclasses import dataclass

from transformers import LlamaConfig, Qwen3Config

from ..blocks import LINEAR, NONE, Block
from ..layers import parent_block
from ..recipe import RecipeError, did_you_mean
from ..remote.configuration_decilm import ffn_width
from .block_costs import kv_bytes_per_token
from .machines import MACHINES
from .surgery import KINDS
from .timing import Shapes


_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}  # fmt: skip
# config.json of meta-llama/Llama-3.2-1B and Llama-3.1-8B, -70B, -405B, and of Qwen/Qwen3-0.6B, as far as shapes go:
# hidden size, FFN, layers, heads, tied
PARENTS = {
    "llama-1b": (2048, 8192, 16, 32, True),
    "llama-8b": (4096, 14336, 32, 32, False),
    "llama-70b": (8192, 28672, 80, 64, False),
    "llama-405b": (16384, 53248, 126, 128, False),
    "qwen3-0.6b": (1024, 3072, 28, 16, True),
}


def parent_config(name: str) -> LlamaConfig | Qwen3Config:
    """One of the shapes that need no Hub."""
    if name not in PARENTS:
        raise RecipeError(
            f"--parent {name[:200]!r} is unknown{did_you_mean(name, PARENTS)}; known: {', '.join(PARENTS)}"
        )
    hidden, intermediate, layers, heads, tied = PARENTS[name]
    shape = {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 64 if name == "llama-1b" else 128, "tie_word_embeddings": tied, "dtype": "bfloat16",
    }  # fmt: skip
    if name.startswith("qwen3"):
        rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
        return Qwen3Config(vocab_size=151_936, max_position_embeddings=40_960, rope_parameters=rope, **shape)
    return LlamaConfig(vocab_size=128_256, max_position_embeddings=131_072, rope_parameters=dict(_ROPE), **shape)


# config.json of nvidia/Llama-3_1-Nemotron-51B-Instruct, nvidia/Llama-3_3-Nemotron-Super-49B-v1 and
# nvidia/Llama-3_1-Nemotron-Ultra-253B-v1, the last one after FFN fusion: `attention/ffn_mult` with a repeat count; gN
# has N query heads in a group, L is linear, N none, n no FFN
LAYOUTS = {
    "51B": """g8/1.3125 g16/2.625 g8/5.25x3 g32/2.625x2 g64/2.625x2 g32/2.625x2 L/2.625 g64/2.625 g32/2.625x2 L/1.3125
        g8/5.25x19 L/2.625 g8/5.25x2 L/2.625 L/5.25 L/2.625x3 N/1.3125 L/1.3125 g8/5.25 N/1.3125 L/1.3125 N/1.3125
        g8/5.25 L/1.3125 N/1.3125 L/1.3125x2 N/1.3125x2 L/1.3125 N/1.3125x2 L/1.3125x4 g8/5.25x17""",
    "49B": """g8/2.625 g8/5.25x5 N/2.625x2 g8/5.25x3 N/3.28125 g8/5.25x30 N/1.3125 N/2.625x2 N/1.3125 N/5.25 N/1.3125
        N/2.625 N/1.3125x3 g8/5.25 N/1.3125 N/1.0x2 N/1.3125 N/1.0x3 N/1.3125x2 N/0.5x2 N/1.0x2 N/0.5x2 N/1.0 N/0.5x2
        g8/5.25x9""",
    "253B": """g16/0.4875 g16/0.975 g16/1.4625x6 g16/1.95 N/nx4 g16/1.95x3 g16/4.875x2 N/nx6 g16/4.875x3 N/nx5
        g16/4.875x3 g16/2.4375 N/nx3 g16/1.95x3 N/1.95 g16/4.875 N/4.875 N/nx5 g16/4.875x4 N/nx5 g16/4.875x4 N/nx5
        g16/4.875x4 N/nx5 g16/4.875x4 N/nx5 g16/4.875 g16/3.4125x3 N/nx2 g16/2.925 g16/2.4375x3 N/2.4375x2 g16/2.4375
        N/n N/2.4375x7 g16/2.4375 N/nx5 g16/2.925 g16/4.875 N/4.875 g16/4.875 N/nx8 N/36.5625 N/nx8 N/39.0 N/nx8
        N/31.40625 N/nx5 N/27.5625 N/1.95 g16/1.95 g16/2.4375 N/n g16/2.4375x2 g16/3.4125 g16/4.875x4 g16/2.4375""",
}
PARENT_OF = {"51B": "llama-70b", "49B": "llama-70b", "253B": "llama-405b"}
EIGHT_BIT = 1.0  # bytes of a weight, and of a key or value


@dataclass(frozen=True)
class Reported:
    """A measurement of the authors: tokens in and out, devices and largest batches of child and parent, and the ratio."""

    child: str
    prefill_tokens: int
    decode_tokens: int
    child_devices: int
    parent_devices: int
    child_batch: int
    parent_batch: int
    speedup: float
    per: str  # device: tokens/s per device; user: tokens/s of one sequence
    source: str


_PAPER = "arXiv 2411.19146, throughput table"
# H100 SXM, FP8 weights, activations and cache. The paper names batches of 256 (51B, one device) and 384 (70B, four); in
# other rows, and where memory holds less, the batch is what fits.
REPORTED = [
    Reported("51B", 128, 128, 1, 1, 256, 256, 2.07, "device", _PAPER),
    Reported("51B", 128, 1024, 1, 4, 256, 384, 2.17, "device", _PAPER),
    Reported("51B", 128, 1024, 1, 1, 256, 256, 5.08, "device", _PAPER),
    Reported("51B", 128, 2048, 2, 4, 384, 384, 1.76, "device", _PAPER),
    Reported("51B", 128, 4096, 2, 4, 384, 384, 2.11, "device", _PAPER),
    Reported("51B", 2048, 128, 1, 1, 256, 256, 2.17, "device", _PAPER),
    Reported("51B", 2048, 2048, 2, 4, 384, 384, 1.96, "device", _PAPER),
    Reported("49B", 500, 2000, 1, 1, 256, 256, 5.0, "device", "arXiv 2505.00949; lengths are our assumption"),
    Reported("49B", 500, 2000, 1, 4, 256, 256, 2.17, "device", "arXiv 2505.00949, 'at least'; lengths are our assumption"),
    Reported("253B", 500, 2000, 8, 8, 1, 1, 1.71, "user", "arXiv 2503.18908; batch 1 is our assumption"),
]  # fmt: skip


def layout(name: str, shapes: Shapes) -> list[Block]:
    """The blocks of a published child of the parent with these shapes."""
    heads, hidden, blocks = shapes.config.num_attention_heads, shapes.hidden, []
    for item in LAYOUTS[name].split():
        kind, _, count = item.partition("x")
        attention, ffn = kind.split("/")
        own = {"N": NONE, "L": LINEAR}.get(attention)
        width = NONE if ffn == "n" else ffn_width(float(ffn), hidden)
        blocks += [Block(own or heads // int(attention[1:]), width)] * int(count or 1)
    return blocks


@dataclass(frozen=True)
class Prediction:
    """Tokens/s of a model at the largest batch that fits, per device and per user."""

    batch_size: int
    per_device: float
    per_user: float


def predict(blocks: list[Block], shapes: Shapes, devices: int, batch: int, row: Reported) -> Prediction:
    """Prefill at the FLOPs, decode at the bytes of weights and cache, and an all-reduce behind every sub-block that is
    split over devices. At most `batch` sequences, as many as fit."""
    machine = MACHINES["h100-80gb"]
    weights = shapes.ends + sum(shapes.weights(kind, v) for b in blocks for kind, v in zip(KINDS, b, strict=True))
    length = row.prefill_tokens + row.decode_tokens
    kept = sum(kv_bytes_per_token(shapes.config, b.attention, "float16") / 2 for b in blocks) * EIGHT_BIT
    room = 0.9 * (machine.memory_bytes * devices - weights * EIGHT_BIT)  # TensorRT-LLM's default share of what is free
    batch = min(batch, int(room // (length * kept)))
    rate, bandwidth = machine.flops["float8"] * machine.utilisation * devices, machine.memory_bandwidth * devices
    live = sum(part != NONE for block in blocks for part in block)
    head = 2.0 * shapes.hidden * shapes.vocab

    def seconds(tokens: int, past: float) -> float:
        flops = sum(shapes.flops(kind, v, batch, tokens, past=int(past)) for b in blocks for kind, v in zip(KINDS, b, strict=True))  # fmt: skip
        moved = (weights - shapes.ends / 2) * EIGHT_BIT + batch * past * kept
        link = 0.0
        if devices > 1:
            sent = 2 * batch * tokens * shapes.hidden * 2 * (devices - 1) / devices / machine.link_bandwidth
            link = live * (machine.link_seconds + sent)
        return max((flops + batch * head) / rate, moved / bandwidth) + link

    total = seconds(row.prefill_tokens, 0.0) + row.decode_tokens * seconds(
        1, row.prefill_tokens + row.decode_tokens / 2
    )
    return Prediction(batch, batch * row.decode_tokens / total / devices, row.decode_tokens / total)


def predictions() -> list[dict]:
    """Every reported speed-up with the predicted one."""
    shapes = functools.cache(lambda name: Shapes(parent_config(name)))
    rows = []
    for row in REPORTED:
        own = shapes(PARENT_OF[row.child])
        parent = [parent_block(own.config)] * own.num_layers
        child = predict(layout(row.child, own), own, row.child_devices, row.child_batch, row)
        slow = predict(parent, own, row.parent_devices, row.parent_batch, row)
        speed = getattr(child, f"per_{row.per}") / getattr(slow, f"per_{row.per}")
        found = {"predicted": speed, "error": speed / row.speedup - 1}
        rows.append({**vars(row), **found, "child_batch": child.batch_size, "parent_batch": slow.batch_size})
    return rows
