"""What the exact rewrites for an engine add to a child: weights and cached values that every token has to read there."""

import math
from pathlib import Path
from typing import NamedTuple

import torch

from ..formats import DECILM, DECILM_FAMILIES, FormatError, describe, format_of, stock_of
from ..formats import decilm_config as as_decilm
from ..hub import read_config
from . import ENGINES, measured, rewrites
from .check import AFTER_EXPORT, NO, check_folder, tensor_shapes


WORTH_SAYING = 1.05
LESS = 0.9  # of what transformers gives


class Burden(NamedTuple):
    """Numbers that one token reads: weights of all layers, and keys and values that it leaves."""

    weights: int
    cached: int


def in_engine(config, engine: str) -> tuple[Burden, Burden] | None:
    """A DeciLM child (or one that can be written so) as it is, and as its export for `engine`; None where nothing is
    rewritten.

    Raises:
        rewrites.CannotRun: there is no export.
    """
    if format_of(config) is None or ENGINES[engine].graphs:
        return None
    if format_of(config) != DECILM:
        if config.model_type not in DECILM_FAMILIES:
            return None
        config = as_decilm(stock_of(config), describe(config))
    tied = config.tie_word_embeddings
    state = {
        name: torch.empty(shape, device="meta")
        for name, shape in tensor_shapes(config).items()
        if not (tied and name == "lm_head.weight")
    }
    if rewrites.as_plain(config, state) is not None:
        return None
    done = rewrites.rewrite(config, state, engine)
    return _read(config, state), _read(done.config, done.state)


def _read(config, state: rewrites.State) -> Burden:
    heads = sum(block.attention for block in describe(config) if isinstance(block.attention, int))
    weights = sum(math.prod(tensor.shape) for name, tensor in state.items() if ".layers." in name)
    return Burden(weights, 2 * heads * config.head_dim)


class Warned(NamedTuple):
    """What an export costs in `engine`; `nothing`: it reads as much as the parent does."""

    engine: str
    text: str
    nothing: bool


def warnings(folder: str | Path, evaluation: dict | None = None) -> list[Warned]:
    """The engines in which a child's export reads more than the child.

    Args:
        evaluation: of `eval.json`, which knows the parent's size; without it no engine is said to give nothing.
    """
    verdicts = [verdict for verdict in check_folder(folder) if verdict.status == AFTER_EXPORT]
    config, memory, found = read_config(folder) if verdicts else None, (evaluation or {}).get("memory", {}), []
    for verdict in verdicts:
        try:
            both = in_engine(config, verdict.engine)
        except (rewrites.CannotRun, FormatError):
            continue
        if both is None:
            continue
        own, there = both
        ratios = there.weights / own.weights, there.cached / own.cached if own.cached else 1.0
        told = [
            f"{ratio:.2f}x the child's {what}"
            for ratio, what in zip(ratios, ("weights", "keys and values"), strict=True)
            if ratio >= WORTH_SAYING
        ]
        if not told:
            continue
        text, nothing = f"{verdict.engine}: the export reads {' and '.join(told)} for a token", False
        if "parent" in memory and "child" in memory:
            size = memory["child"]["num_parameters"] + there.weights - own.weights
            nothing = size >= memory["parent"]["num_parameters"]
        text += ", no fewer than the parent: this engine gives the child nothing" if nothing else ""
        found.append(Warned(verdict.engine, text, nothing))
    return found


def gains(folder: str | Path) -> list[Warned]:
    """The engines that open a child, and gave another one, of several kinds of block, less than transformers did."""
    usual, found = measured.gain("transformers"), []
    if usual is None or format_of(read_config(folder)) is None:
        return []
    for verdict in check_folder(folder):
        there = measured.gain(verdict.engine)
        if verdict.status == NO or there is None or there >= LESS * usual:
            continue
        version, nothing = measured.speeds()["engines"][verdict.engine]["version"], there < WORTH_SAYING
        text = f"{verdict.engine} {version}: a child measured {usual:.2f}x as fast as its parent in transformers was {there:.2f}x there"
        found.append(
            Warned(verdict.engine, text + (": this engine gives such a child nothing" if nothing else ""), nothing)
        )
    return found
