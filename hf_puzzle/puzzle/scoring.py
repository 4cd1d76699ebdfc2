"""Replace-1-block scores: how far the model moves from the parent when one block of one layer is exchanged.

(Puzzle, arXiv 2411.19146, section 4.) Lower is better and the parent's own block is exactly 0. Only the layers from
the exchanged one upwards run again: the hidden states below it are those of the unchanged model.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .. import artifacts
from ..blocks import NONE, Block
from ..evaluation import mean_and_error
from ..recipe import ScoreConfig
from ..stages import Estimate
from .estimates import Pieces
from .judge import HALF, Judge, Metric, batches_of_metric, rows_per_batch, scored_blocks
from .search_space import SearchSpace
from .surgery import KINDS


@dataclass(frozen=True)
class Score:
    """One line of `scores.jsonl`: `value` with its standard error, clustered by document (or task item).

    `tokens` is 0 where a block was not run: its value is then the sum of its sub-blocks' scores.
    """

    layer_idx: int
    block: str
    value: float
    standard_error: float
    tokens: int
    metric: str

    @classmethod
    def of(cls, layer_idx: int, block: str, values: torch.Tensor, metric: Metric) -> "Score":
        """Mean and clustered standard error of a metric's values."""
        tokens = metric.rows.input_ids.numel()
        return cls(layer_idx, block, *mean_and_error(values, metric.clusters), tokens, metric.config.metric)

    def to_dict(self) -> dict:
        return asdict(self)


def score_blocks(
    judge: Judge,
    incumbent: list[Block] | None = None,
    offered: list[list[Block]] | None = None,
    done: Collection[int] = frozenset(),
) -> list[Score]:
    """Score every block of every layer that is not `done`; arguments as of `Judge.block_values`."""
    layers = [i for i in range(len(judge.space.layers)) if i not in done]
    return [
        Score.of(layer_idx, block, column, judge.metric)
        for layer_idx, values in judge.block_values(layers, incumbent, offered)
        for block, column in values.items()
    ]


def with_sums(scores: list[Score], space: SearchSpace, incumbent: Sequence[Block] | None = None) -> list[Score]:
    """Scores of all blocks: those that were not measured are the sum of their two sub-blocks' exchanges.

    Blocks with a half that was not measured (dropped, or not offered) are left out.

    Args:
        incumbent: blocks that the scores were taken around; default: the parent.
    """
    known, filled = {(s.layer_idx, s.block): s for s in scores}, []
    for layer_idx, layer in enumerate(space.layers):
        own = incumbent[layer_idx] if incumbent is not None else space.parents[layer_idx]
        for block in layer.blocks:
            score = known.get((layer_idx, block.id))
            if score is None:
                halves = [Block(block.attention, own.ffn), Block(own.attention, block.ffn)]
                parts = [known.get((layer_idx, half.id)) for half in halves]
                if None in parts:
                    continue
                error = math.hypot(*(part.standard_error for part in parts))
                # what the rest of an incumbent loses is in both
                value = sum(part.value for part in parts) - (known[layer_idx, own.id].value if incumbent else 0.0)
                score = dataclasses.replace(parts[0], block=block.id, value=value, standard_error=error, tokens=0)
            filled.append(score)
    return filled


def forward_tokens(scores: list[Score], space: SearchSpace) -> float:
    """What measuring these scores around the parent cost, as `Judge.forward_tokens` counts (rounding floors left out)."""
    num_layers = len(space.layers)
    run = sum(s.tokens * (num_layers - s.layer_idx) for s in scores if s.block != space.parents[s.layer_idx].id)
    # the parent's targets, and its states below each layer
    return 2 * max((s.tokens for s in scores), default=0) + run / num_layers


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
    costs = [len(blocks) * (num_layers - i + 1) for i, blocks in enumerate(scored_blocks(space, config))]
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


def run_score_task(judge: Judge, task: ScoreTask, folder: Path) -> None:
    """Score a task's layers, those that `folder` has already left out; values go to a file of the task's own."""
    stored = stored_values(folder)
    layers = [i for i in range(task.start, task.stop) if (i, task.first_row) not in stored]
    for layer_idx, values in judge.on(slice(task.first_row, task.last_row)).block_values(layers):
        row = {"layer_idx": layer_idx, "first_row": task.first_row}
        row["values"] = {block: column.double().tolist() for block, column in values.items()}
        artifacts.append_jsonl(folder / f"{task.name}.jsonl", row)


def stored_values(folder: Path) -> dict[tuple[int, int], dict[str, list[float]]]:
    """`(layer_idx, first_row)` -> values by block, of all tasks below `folder`."""
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in artifacts.read_jsonl(path)]
    return {(row["layer_idx"], row["first_row"]): row["values"] for row in rows}


def merge_scores(space: SearchSpace, metric: Metric, folder: Path, in_child: bool = False) -> list[Score]:
    """The scores of all tasks, `with_sums`.

    Args:
        in_child: whether blocks were put into something that is itself some way from the teacher; over all layers, scores then
            add up to the distance of a whole network, of which each layer has its share.
    """
    found = measured_scores(space, metric, folder)
    if not in_child:
        return with_sums(found, space)
    layers = len(space.layers)
    own = {s.layer_idx: s.value for s in found if s.block == space.parents[s.layer_idx].id}
    found = [dataclasses.replace(s, value=s.value - own[s.layer_idx] * (1 - 1 / layers)) for s in found]
    return with_sums(found, space, space.parents)


def measured_scores(space: SearchSpace, metric: Metric, folder: Path) -> list[Score]:
    """Of all tasks: values of the same block joined in the order of their rows, then averaged."""
    joined: list[dict[str, list[float]]] = [{} for _ in space.layers]
    for (layer_idx, _), values in sorted(stored_values(folder).items()):
        for block, column in values.items():
            joined[layer_idx].setdefault(block, []).extend(column)
    return [
        Score.of(layer_idx, block, torch.tensor(column, dtype=torch.float64), metric)
        for layer_idx, columns in enumerate(joined)
        for block, column in columns.items()
    ]


def estimate_score(p: Pieces, **arguments: int) -> Estimate:
    """P w + sub-blocks of one layer w + 2 D H w (the parent's targets, what enters the layer) + final states of every block
    on a batch, T H w each + logits of a chunk + A(T); in half precision, the parent's sub-block computes in float32, too."""
    task, clock, num_layers = ScoreTask(**arguments), p.clock, p.shapes.num_layers
    count, rows, length = batches_of_metric(p, task.last_row - task.first_row)
    ends, layer = clock.ends(rows, length), p.layer(rows, length)
    answer = clock.logits(rows, length) + clock.divergence(rows, length)
    floors = len(KINDS) if getattr(torch, p.dtype) in HALF else 0
    # the parent's targets, and what enters each layer
    seconds = p.open() + count * (ends + num_layers * layer + ends + task.stop * layer)
    most, blocks_bytes = 0, 0.0
    scored = scored_blocks(p.space, p.run.score_config)
    for i in range(task.start, task.stop):
        own, blocks = p.own[i], scored[i]
        others = [block for block in blocks if block != own]
        above = ends + (num_layers - 1 - i) * layer
        exchanged = sum(clock.layer(block, rows, length) for block in others) + floors * layer
        networks = len(blocks) + floors
        seconds += count * ((networks - 1) * above + exchanged + networks * answer + clock.logits(rows, length))
        read = {
            (kind, v) for b in others for kind, v in zip(KINDS, b, strict=True) if v not in (NONE, getattr(own, kind))
        }
        seconds += sum(clock.block(kind, v) for kind, v in read)
        most = max(most, networks)
        blocks_bytes = max(blocks_bytes, sum(p.shapes.part(kind, v).parameters for kind, v in read) * p.width)
    tokens, every = rows * length, (task.last_row - task.first_row) * length
    copy = 4.0 * p.largest_part(lambda part: part.parameters) if floors else 0.0
    memory = p.held(
        blocks=blocks_bytes + copy,
        states=(every + most * tokens) * p.shapes.hidden * float(p.width),
        activations=p.activations(tokens, 4 if floors else p.width),
        **p.judging(every, tokens),
    )
    help = "lower score.batch_size or score.tokens_per_task, offer fewer blocks, or use parent.device_map"
    return Estimate(seconds, memory, help, 200.0 * sum(len(layer.blocks) for layer in p.space.layers[task.start : task.stop]))  # fmt: skip


def whole_score(p: Pieces) -> Estimate:
    """All layers and rows as one task."""
    return estimate_score(p, start=0, stop=len(p.space.layers), first_row=0, last_row=len(p.run.metric.rows))
