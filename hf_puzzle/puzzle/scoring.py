"""Replace-1-block scores: how far the model moves from the parent when one block of one layer is exchanged.

(Puzzle, arXiv 2411.19146, section 4.) Lower is better and the parent's own block is exactly 0. Only the layers from
the exchanged one upwards run again: the hidden states below it are those of the unchanged model.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from .. import artifacts
from ..blocks import Block
from ..data import given_tokens, sequences
from ..evaluation import ClozeTask, kl_divergence, mean_and_error, mean_per_row, token_losses
from ..progress import bar
from ..recipe import ScoreConfig
from .library import BlockLibrary
from .search_space import SearchSpace
from .surgery import first_states, input_device, only_layers, run_layer, swapped


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
    rows, given = sequences(heldout, sequence_length, config.num_tokens, seed), given_tokens(heldout)
    if config.metric == "lm_loss":
        return Metric(
            rows, lambda p, c, rows: mean_per_row(token_losses(c, rows) - token_losses(p, rows), rows, given)
        )
    return Metric(rows, lambda p, c, rows: mean_per_row(kl_divergence(p, c), rows, given))


@torch.no_grad()
def block_values(
    parent: PreTrainedModel,
    space: SearchSpace,
    library: BlockLibrary,
    metric: Metric,
    config: ScoreConfig,
    layers: Collection[int],
    incumbent: list[Block] | None = None,
    offered: list[list[Block]] | None = None,
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """The metric's values of every block of `layers`, in order of layers: `(layer_idx, {block id: one value per unit})`.

    A unit is a sequence, or an item of the task; values of two halves of the rows are the halves of the values.

    Args:
        incumbent: blocks of a child; values are then the distance from the *parent* of that child with one block
            exchanged, which repairs the additivity error of scores taken around the parent. Default: the parent.
        offered: blocks of each layer to score; default: all of the search space.
    """
    if not layers:
        return
    incumbent = incumbent or [space.parent] * len(space.layers)
    standing = library.swaps(parent, incumbent, space.parent)
    batches = [b.to(input_device(parent)) for b in metric.rows.split(rows_per_batch(config))]
    states = [first_states(parent, batch) for batch in batches]
    offered = offered or [list(layer.blocks) for layer in space.layers]
    progress = bar(total=sum(len(offered[i]) for i in layers) * len(batches), desc="score")
    for layer_idx in range(max(layers) + 1):
        if layer_idx in layers:
            blocks = [b for b in offered[layer_idx] if not library.is_dropped(layer_idx, b)]
            others_stand = all(b == space.parent for i, b in enumerate(incumbent) if i != layer_idx)
            unchanged = [others_stand and block == space.parent for block in blocks]
            loaded: dict = {}  # blocks share their sub-blocks
            swaps = [
                {**standing, layer_idx: library.modules(parent, layer_idx, b, space.parent, loaded)} for b in blocks
            ]
            values: list[list[torch.Tensor]] = [[] for _ in blocks]
            for batch, state in zip(batches, states, strict=True):
                target = parent(input_ids=batch, use_cache=False).logits
                for column, swap, is_parent in zip(values, swaps, unchanged, strict=True):
                    if is_parent:
                        column.append(metric.values(target, target, batch))
                    else:
                        with swapped(parent, swap), only_layers(parent, layer_idx, states=state):
                            logits = parent(inputs_embeds=state, use_cache=False).logits
                        column.append(metric.values(target, logits, batch))
                    progress.update()
            del swaps, loaded  # before those of the next layer are read
            yield layer_idx, {b.id: torch.cat(column).cpu() for b, column in zip(blocks, values, strict=True)}
        with swapped(parent, standing):
            states = [run_layer(parent, layer_idx, state) for state in states]
    progress.close()


def rows_per_batch(config: ScoreConfig) -> int:
    """Rows that one forward takes: whole items of the task, which have four."""
    return 4 * max(1, config.batch_size // 4)


def to_score(layer_idx: int, block: str, values: torch.Tensor, tokens: int, config: ScoreConfig) -> Score:
    """Mean and standard error of a block's values."""
    return Score(layer_idx, block, *mean_and_error(values), tokens, config.metric)


def score_blocks(
    parent: PreTrainedModel,
    space: SearchSpace,
    library: BlockLibrary,
    metric: Metric,
    config: ScoreConfig,
    incumbent: list[Block] | None = None,
    offered: list[list[Block]] | None = None,
    done: set[int] = frozenset(),
) -> list[Score]:
    """Score every block of every layer that is not `done`; arguments as of `block_values`."""
    layers = [i for i in range(len(space.layers)) if i not in done]
    return [
        to_score(layer_idx, block, column, metric.rows.numel(), config)
        for layer_idx, values in block_values(parent, space, library, metric, config, layers, incumbent, offered)
        for block, column in values.items()
    ]


# -- scores as tasks


@dataclass(frozen=True)
class ScoreTask:
    """Some layers on some rows of the metric."""

    start: int
    stop: int
    first_row: int
    last_row: int

    @property
    def name(self) -> str:
        return f"layers_{self.start:02d}_{self.stop - 1:02d}_rows_{self.first_row}_{self.last_row - 1}"


def score_tasks(
    space: SearchSpace,
    num_rows: int,
    sequence_length: int,
    config: ScoreConfig,
    done: set[tuple[int, int]],
    workers: int,
) -> list[ScoreTask]:
    """What is left, in ranges of layers that take about as long: the lower a layer, the more layers run above it.

    Args:
        done: `(layer_idx, first_row)` pairs that are stored already.
        workers: tasks to aim at.
    """
    shards = row_shards(num_rows, sequence_length, config)
    num_layers = len(space.layers)
    costs = [len(layer.blocks) * (num_layers - i + 1) for i, layer in enumerate(space.layers)]
    ranges = even_ranges(costs, max(1, -(-workers // len(shards))))
    tasks = []
    for first in shards:
        for start, stop in ranges:
            left = [i for i in range(start, stop) if (i, first) not in done]
            if left:
                tasks.append(ScoreTask(left[0], left[-1] + 1, first, min(first + shards.step, num_rows)))
    return tasks


def row_shards(num_rows: int, sequence_length: int, config: ScoreConfig) -> range:
    """First rows of each task: whole batches, so that a task computes what one process would."""
    if config.tokens_per_task is None:
        return range(0, num_rows, max(1, num_rows))
    batch = rows_per_batch(config)
    return range(0, num_rows, max(1, config.tokens_per_task // (batch * sequence_length)) * batch)


def even_ranges(costs: list[float], count: int) -> list[tuple[int, int]]:
    """At most `count` ranges of consecutive items whose costs are about equal."""
    total, ends, spent = sum(costs), [], 0.0
    for i, cost in enumerate(costs):
        spent += cost
        if spent >= total * (len(ends) + 1) / count - 1e-9 * total:
            ends.append(i + 1)
    ends[-1] = len(costs)
    return [(a, b) for a, b in zip([0, *ends], ends, strict=False) if a < b]


def run_score_task(parent, space, library, metric: Metric, config: ScoreConfig, task: ScoreTask, folder: Path) -> None:
    """Score a task's layers, those that `folder` has already left out; values go to a file of the task's own."""
    rows = metric.rows[task.first_row : task.last_row]
    stored = stored_values(folder)
    layers = [i for i in range(task.start, task.stop) if (i, task.first_row) not in stored]
    part = dataclasses.replace(metric, rows=rows)
    for layer_idx, values in block_values(parent, space, library, part, config, layers):
        row = {"layer_idx": layer_idx, "first_row": task.first_row}
        row["values"] = {block: column.double().tolist() for block, column in values.items()}
        artifacts.append_jsonl(folder / f"{task.name}.jsonl", row)


def stored_values(folder: Path) -> dict[tuple[int, int], dict[str, list[float]]]:
    """`(layer_idx, first_row)` -> values by block, of all tasks below `folder`."""
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in artifacts.read_jsonl(path)]
    return {(row["layer_idx"], row["first_row"]): row["values"] for row in rows}


def merge_scores(space: SearchSpace, num_tokens: int, config: ScoreConfig, folder: Path) -> list[Score]:
    """The scores of all tasks: values of the same block joined in the order of their rows, then averaged."""
    joined: list[dict[str, list[float]]] = [{} for _ in space.layers]
    for (layer_idx, _), values in sorted(stored_values(folder).items()):
        for block, column in values.items():
            joined[layer_idx].setdefault(block, []).extend(column)
    return [
        to_score(layer_idx, block, torch.tensor(column, dtype=torch.float64), num_tokens, config)
        for layer_idx, columns in enumerate(joined)
        for block, column in columns.items()
    ]


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
    for batch in bar(metric.rows.split(4 * max(1, batch_size // 4)), desc="distance"):
        batch = batch.to(input_device(parent))
        target = parent(input_ids=batch, use_cache=False).logits
        with swapped(parent, swaps):
            values.append(metric.values(target, parent(input_ids=batch, use_cache=False).logits, batch))
    return mean_and_error(torch.cat(values).cpu())
