"""Replace-1-block scores: how far the model moves from the parent when one block of one layer is exchanged.

(Puzzle, arXiv 2411.19146, section 4.) Lower is better and the parent's own block is exactly 0. Only the layers from
the exchanged one upwards run again: the hidden states below it are those of the unchanged model.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..blocks import Block
from ..data import sequences
from ..evaluation import ClozeTask, kl_divergence, mean_and_error, token_losses
from ..recipe import ScoreConfig
from .library import BlockLibrary
from .search_space import SearchSpace
from .surgery import first_states, only_layers, run_layer, swapped


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """One line of `scores.jsonl`: `value` with its standard error over sequences (or task items)."""

    layer_idx: int
    block: str
    value: float
    standard_error: float
    tokens: int
    metric: str

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Metric:
    """What a score measures: rows of tokens, and one value per unit from `(parent logits, logits, rows)`."""

    rows: torch.Tensor
    values: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def make_metric(config: ScoreConfig, heldout: torch.Tensor, sequence_length: int, seed: int) -> Metric:
    """The recipe's metric on `score.num_tokens` held-out tokens."""
    if config.metric == "accuracy":
        task = ClozeTask.from_tokens(heldout, max(1, config.num_tokens // 160), 32, 8, seed)
        return Metric(task.rows, lambda p, c, rows: task.correct(p, rows) - task.correct(c, rows))
    rows = sequences(heldout, sequence_length, config.num_tokens, seed)
    if config.metric == "lm_loss":
        return Metric(rows, lambda p, c, rows: (token_losses(c, rows) - token_losses(p, rows)).mean(1))
    return Metric(rows, lambda p, c, rows: kl_divergence(p, c).mean(1))


@torch.no_grad()
def score_blocks(
    parent: PreTrainedModel,
    space: SearchSpace,
    library: BlockLibrary,
    metric: Metric,
    config: ScoreConfig,
    incumbent: list[Block] | None = None,
    offered: list[list[Block]] | None = None,
    done: set[int] = frozenset(),
    on_layer: Callable[[list[Score]], None] = lambda scores: None,
) -> list[Score]:
    """Score every block of every layer.

    Args:
        incumbent: blocks of a child; scores are then the distance from the *parent* of that child with one block
            exchanged, which repairs the additivity error of scores taken around the parent. Default: the parent.
        offered: blocks of each layer to score; default: all of the search space.
        done: layers to skip; `on_layer` gets the scores of each finished layer, so that a killed run keeps them.
    """
    num_layers = len(space.layers)
    incumbent = incumbent or [space.parent] * num_layers
    standing = library.swaps(parent, incumbent, space.parent)
    batches = [b.to(parent.device) for b in metric.rows.split(4 * max(1, config.batch_size // 4))]
    states = [first_states(parent, batch) for batch in batches]
    offered = offered or [list(layer.blocks) for layer in space.layers]
    todo = sum(len(blocks) for i, blocks in enumerate(offered) if i not in done)
    progress = tqdm(total=todo * len(batches), desc="score", leave=False, disable=None)
    scores: list[Score] = []
    for layer_idx in range(num_layers):
        if layer_idx not in done:
            blocks = [b for b in offered[layer_idx] if not library.is_dropped(layer_idx, b)]
            swaps = [{**standing, layer_idx: library.modules(parent, layer_idx, b, space.parent)} for b in blocks]
            values: list[list[torch.Tensor]] = [[] for _ in blocks]
            for batch, state in zip(batches, states, strict=True):
                target = parent(input_ids=batch, use_cache=False).logits
                for column, swap in zip(values, swaps, strict=True):
                    with swapped(parent, swap), only_layers(parent, layer_idx, states=state):
                        column.append(
                            metric.values(target, parent(inputs_embeds=state, use_cache=False).logits, batch)
                        )
                    progress.update()
            rows = []
            for block, column in zip(blocks, values, strict=True):
                is_parent = (
                    all(b == space.parent for i, b in enumerate(incumbent) if i != layer_idx) and block == space.parent
                )
                value, error = (0.0, 0.0) if is_parent else mean_and_error(torch.cat(column).cpu())
                rows.append(Score(layer_idx, block.id, value, error, metric.rows.numel(), config.metric))
            on_layer(rows)
            scores.extend(rows)
        with swapped(parent, standing):
            states = [run_layer(parent, layer_idx, state) for state in states]
    progress.close()
    return scores


@torch.no_grad()
def distance(
    parent: PreTrainedModel,
    space: SearchSpace,
    library: BlockLibrary,
    metric: Metric,
    batch_size: int,
    blocks: list[Block],
) -> tuple[float, float]:
    """The metric of a whole child, with its standard error: what the sum of its blocks' scores estimates."""
    swaps = library.swaps(parent, blocks, space.parent)
    values = []
    for batch in metric.rows.split(4 * max(1, batch_size // 4)):
        batch = batch.to(parent.device)
        target = parent(input_ids=batch, use_cache=False).logits
        with swapped(parent, swaps):
            values.append(metric.values(target, parent(input_ids=batch, use_cache=False).logits, batch))
    return mean_and_error(torch.cat(values).cpu())
