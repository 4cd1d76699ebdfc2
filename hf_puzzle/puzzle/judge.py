"""The judge of a search: how far any network of a library is from its parent, on rows that no block was trained on.

The one place where scores, search, baselines and gates get their distances from. Blocks are swapped into the parent in
place; only the layers from the exchanged one upwards run again.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..anatomy import final_states, float_head_of
from ..blocks import NONE, Block
from ..engines.cache_types import rounded_cache
from ..evaluation import ClozeTask, Rows, Targets, mean_and_error
from ..progress import bar
from ..recipe import ScoreConfig
from .estimates import Pieces
from .library import BlockLibrary
from .network import Network
from .search_space import SearchSpace
from .surgery import first_states, layers_of, only_layers, run_layer, sub_blocks, swapped


HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Metric:
    """What a distance is, and the text that it is taken on.

    Attributes:
        rows: held-out text, or the rows of a cloze task (`metric: accuracy`, four rows an item).
    """

    config: ScoreConfig
    rows: Rows
    task: ClozeTask | None = None

    @classmethod
    def of(cls, config: ScoreConfig, heldout: torch.Tensor, length: int, seed: int) -> "Metric":
        """The recipe's metric on `score.num_tokens` tokens of a held-out stream."""
        if config.metric != "accuracy":
            return cls(config, Rows.draw(heldout, length, config.num_tokens, seed))
        task = ClozeTask.from_tokens(heldout, max(1, config.num_tokens // 160), 32, 8, seed)
        return cls(config, Rows.of(task.rows), task)

    @property
    def clusters(self) -> torch.Tensor:
        """What each value belongs to: a row's document, or an item of the task."""
        return self.rows.documents if self.task is None else torch.arange(len(self.rows) // 4)

    def values(
        self, targets: Targets, index: int, networks: list[torch.Tensor], head: Callable | None = None
    ) -> list[torch.Tensor]:
        """One value per row (or item) of batch `index` for each network, from final hidden states; 0 is the parent.

        Args:
            head: of the networks, where it is not the parent's.
        """
        wanted = ("kl",) if self.config.metric == "kl" else ("loss",)
        answers = targets.tokens(index, networks, head, wanted)
        if self.task is not None:
            return [self.task.correct(a["parent_loss"]) - self.task.correct(a["loss"]) for a in answers]
        parts = [a["kl"] if self.config.metric == "kl" else a["loss"] - a["parent_loss"] for a in answers]
        return [targets.per_row(index, part) for part in parts]


class Judge:
    """Measures networks of a library against their parent by one metric; keeps what it has measured.

    A layout is judged once, whoever asks again. The parent's targets are computed once, when they are first needed.

    Args:
        parent: model that blocks are put into; `space.parents` are its own.
        teacher: model that networks are measured against; default: `parent`.
        cache_type: in which networks, not the teacher, keep keys and values, as of `cache_types.rounded_cache`.

    Attributes:
        judged: `(value, standard error)` of every layout so far.
        forward_tokens: tokens that went through a whole network so far; through some of the layers, that share of them.
    """

    def __init__(
        self,
        parent: PreTrainedModel,
        space: SearchSpace,
        library: BlockLibrary,
        metric: Metric,
        teacher: PreTrainedModel | None = None,
        cache_type: str | None = None,
    ):
        self.parent, self.space, self.library, self.metric = parent, space, library, metric
        self.teacher = parent if teacher is None else teacher
        self.cache_type = cache_type
        self.judged: dict[tuple[Block, ...], tuple[float, float]] = {}
        self.forward_tokens = 0.0

    @property
    def is_teacher(self) -> bool:
        """Whether the parent's own blocks, in place, give the teacher's answers."""
        return self.teacher is self.parent and self.cache_type is None

    def on(self, part: slice) -> "Judge":
        """The same on some of the rows."""
        metric = dataclasses.replace(self.metric, rows=self.metric.rows[part])
        return Judge(self.parent, self.space, self.library, metric, self.teacher, self.cache_type)

    @functools.cached_property
    def targets(self) -> Targets:
        self.forward_tokens += self.metric.rows.input_ids.numel()
        return Targets(self.teacher, self.metric.rows, rows_per_batch(self.metric.config), "parent")

    def values(self, index: int, networks: list[torch.Tensor]) -> list[torch.Tensor]:
        """As of `Metric.values`."""
        return self.metric.values(self.targets, index, networks, self._head)

    @functools.cached_property
    def _head(self) -> Callable | None:
        """Of what blocks are put into, where that has another than the teacher: it was trained, or is narrower."""
        return None if self.teacher is self.parent else float_head_of(self.parent)

    @torch.no_grad()
    def distance(self, blocks: Sequence[Block]) -> tuple[float, float]:
        """The metric of a whole child, with its standard error: what the sum of its blocks' scores estimates."""
        layout = tuple(blocks)
        if layout not in self.judged:
            found, targets = [], self.targets  # the parent's, before it is swapped
            network = Network(self.parent.config, layout, self.library, parents=self.space.parents)
            with network.inside(self.parent), rounded_cache(self.cache_type):
                for index, batch in enumerate(bar(targets.batches, desc="distance")):
                    found += self.values(index, [final_states(self.parent, batch)])
            self.forward_tokens += self.metric.rows.input_ids.numel()
            self.judged[layout] = mean_and_error(torch.cat(found), self.metric.clusters)
        return self.judged[layout]

    @torch.no_grad()
    def block_values(
        self,
        layers: Collection[int],
        incumbent: list[Block] | None = None,
        offered: list[list[Block]] | None = None,
    ) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """The metric's values of every block of `layers`, in order of layers: `(layer_idx, {block id: one value per unit})`.

        A unit is a sequence, or an item of the task; values of two halves of the rows are the halves of the values. In
        half precision, what rounding alone does (`_rounded_otherwise`) is taken off each exchange, unit by unit; it stays
        where weights are offloaded.

        Args:
            incumbent: blocks of a child; values are then the distance from the *parent* of that child with one block
                exchanged, which repairs the additivity error of scores taken around the parent. Default: the parent.
            offered: blocks of each layer to score; default: as `scored_blocks`.
        """
        if not layers:
            return
        parent, parents, targets = self.parent, self.space.parents, self.targets
        incumbent = incumbent or list(parents)
        kept = [b == own for b, own in zip(incumbent, parents, strict=True)]
        is_teacher = self.is_teacher  # then the parent's own answers are the targets
        at_parent = [is_teacher and all(kept[:layer] + kept[layer + 1 :]) for layer in range(len(incumbent))]
        standing = Network(parent.config, incumbent, self.library, parents=parents).swaps(parent)
        states = [first_states(parent, batch) for batch in targets.batches]
        offered = offered or scored_blocks(self.space, self.metric.config)
        progress = bar(total=sum(len(offered[i]) for i in layers) * len(states), desc="score")
        for layer_idx in range(max(layers) + 1):
            if layer_idx in layers:
                own, sub = parents[layer_idx], sub_blocks(layers_of(parent)[layer_idx])
                blocks = [b for b in offered[layer_idx] if not self.library.is_dropped(layer_idx, b)]
                loaded: dict = {}  # blocks share their sub-blocks
                swaps = [
                    {**standing, layer_idx: self.library.modules(parent, layer_idx, b, own, loaded)} for b in blocks
                ]
                values: list[list[torch.Tensor]] = [[] for _ in blocks]
                floors: list[list[torch.Tensor]] = [[] for _ in sub]
                for index, state in enumerate(states):
                    networks = []
                    for swap, block in zip(swaps, blocks, strict=True):
                        if at_parent[layer_idx] and block == own:
                            networks.append(targets.states[index])
                        else:
                            networks.append(self._from_layer(layer_idx, swap, state))
                        progress.update()
                    if at_parent[layer_idx] and has_floor(layers_of(parent)[layer_idx]):
                        for kind in sub:
                            with _rounded_otherwise(sub[kind]):
                                networks.append(self._from_layer(layer_idx, standing, state))
                    found = self.values(index, networks)
                    for column, value in zip([*values, *floors], found, strict=False):
                        column.append(value)
                del swaps, loaded  # before those of the next layer are read
                floor = {kind: torch.cat(column) if column else 0.0 for kind, column in zip(sub, floors, strict=True)}
                yield (
                    layer_idx,
                    {
                        b.id: torch.cat(column)
                        - sum(f for kind, f in floor.items() if getattr(b, kind) not in (getattr(own, kind), NONE))
                        for b, column in zip(blocks, values, strict=True)
                    },
                )
            with swapped(parent, standing), rounded_cache(self.cache_type):
                for index, state in enumerate(states):  # in place: all of them twice may not fit
                    states[index] = run_layer(parent, layer_idx, state)
            self._count(states, 1)
        progress.close()

    def _count(self, states: list[torch.Tensor], layers: int) -> None:
        self.forward_tokens += sum(s.shape[0] * s.shape[1] for s in states) * layers / len(self.space.layers)

    def _from_layer(self, layer_idx: int, swap: dict, state: torch.Tensor) -> torch.Tensor:
        """Final hidden states of the parent with other blocks, from what enters `layer_idx`."""
        self._count([state], len(self.space.layers) - layer_idx)
        swap = swapped(self.parent, swap)
        with swap, only_layers(self.parent, layer_idx, states=state), rounded_cache(self.cache_type):
            return self.parent.get_decoder()(inputs_embeds=state, use_cache=False).last_hidden_state


def has_floor(layer: nn.Module) -> bool:
    """Whether rounding alone moves a layer's answer, and that can be measured: half precision, weights in memory."""
    weights = list(layer.parameters())
    return weights[0].dtype in HALF and all(p.device.type != "meta" for p in weights)


@contextlib.contextmanager
def _rounded_otherwise(block: nn.Module) -> Iterator[None]:
    """A sub-block of half precision computes in float32, and only its answer is rounded: the same, but for rounding."""
    dtype = next(block.parameters()).dtype

    def cast(value, to):
        if isinstance(value, tuple):
            return tuple(cast(each, to) for each in value)
        return value.to(to) if isinstance(value, torch.Tensor) and value.dtype in (dtype, torch.float32) else value

    def enter(module, args, kwargs):
        return cast(args, torch.float32), {name: cast(value, torch.float32) for name, value in kwargs.items()}

    weights = {name: p.data for name, p in block.named_parameters()}
    # hooks: `forward` itself may be wrapped by whoever placed the model
    handles = [
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.register_forward_hook(lambda module, args, output: cast(output, dtype)),
    ]
    try:
        for parameter in block.parameters():
            parameter.data = parameter.data.float()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in block.named_parameters():
            parameter.data = weights[name]


def scored_blocks(space: SearchSpace, config: ScoreConfig) -> list[list[Block]]:
    """The blocks of each layer that are run: all, or with `score.blocks: sub_blocks` one exchange of a sub-block each."""
    if config.blocks == "all":
        return [list(layer.blocks) for layer in space.layers]
    return [
        [b for b in layer.blocks if own.attention == b.attention or own.ffn == b.ffn]
        for layer, own in zip(space.layers, space.parents, strict=True)
    ]


def rows_per_batch(config: ScoreConfig) -> int:
    """Rows that one forward takes: whole items of the task, which have four."""
    return 4 * max(1, config.batch_size // 4)


def batches_of_metric(p: Pieces, num_rows: int | None = None) -> tuple[int, int, int]:
    """`(number, rows, length)` of the batches of the metric, or of some of its rows."""
    rows, every = rows_per_batch(p.recipe.score), p.run.metric.rows.input_ids
    num_rows = num_rows or len(every)
    return math.ceil(num_rows / rows), min(rows, num_rows), every.shape[1]


def seconds_of_distance(p: Pieces) -> float:
    """The metric of one whole child."""
    count, rows, length = batches_of_metric(p)
    return count * (p.child_forward(rows, length) + p.clock.logits(rows, length) + p.clock.divergence(rows, length))
