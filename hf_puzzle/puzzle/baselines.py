"""What simpler methods, and searches on the true loss, reach at the speed of the searched child.

All choose from the same blocks, library and costs. The calibrated cost model gives each the child's time: no more, and
where the menu allows it, no less than `FULL` of it. They are then measured like the child.
"""

import itertools
import logging
import random
from collections.abc import Callable, Collection, Iterable

import torch

from ..blocks import NONE, Block
from ..progress import bar
from ..recipe import RecipeError, did_you_mean
from .block_costs import CostTable
from .judge import Judge
from .scoring import Score
from .search import choices
from .search_space import SearchSpace
from .solver import Limit
from .true_loss import FULL, Menu, evolve, project


logger = logging.getLogger(__name__)

NAMES = ("drop_layers", "uniform", "two_blocks", "greedy", "evolution", "projection", "random", "scratch")
# layouts of equal speed that summed scores let through to the true distance
FINALISTS = 5


def check_names(names: list[str]) -> None:
    """Raises RecipeError for a baseline that does not exist."""
    for name in names:
        if name not in NAMES:
            raise RecipeError(
                f"baselines.names: unknown {name!r}{did_you_mean(name, NAMES)}; known: {', '.join(NAMES)}"
            )


class Baselines:
    """Layouts of each baseline within a time budget; None where no layout of its kind is as fast.

    Args:
        budget_ms: predicted time of one batch that no baseline may exceed.
        judge: gives the true distance of a layout from the parent.
        tokens: forward tokens that a search on the true loss may spend.
    """

    def __init__(
        self,
        space: SearchSpace,
        scores: list[Score],
        costs: CostTable,
        batch_size: int,
        budget_ms: float,
        judge: Judge,
        tokens: float,
        seed: int = 0,
    ):
        self.space, self.costs, self.batch_size, self.budget_ms = space, costs, batch_size, budget_ms
        self.judge, self.tokens, self.seed = judge, tokens, seed
        self.score = {(s.layer_idx, s.block): s.value for s in scores}
        self.num_layers = len(space.layers)
        self.offered = [[b for b in layer.blocks if (i, b.id) in self.score] for i, layer in enumerate(space.layers)]
        maximum = budget_ms - costs.non_block_costs(batch_size)["total_ms"]
        limit = Limit("budget", "total_ms", maximum * (1 + 1e-9))  # a layout as slow as the child fits
        self.menu = Menu(choices(scores, costs, batch_size), [limit])

    def predicted_ms(self, blocks: list[Block]) -> float:
        return self.costs.predict(blocks, self.batch_size).total_ms

    def distance(self, blocks: list[Block]) -> float:
        return self.judge.distance(blocks)[0]

    def _block_ms(self, block: Block) -> float:
        return self.costs.block_costs(block, self.batch_size)["total_ms"]

    def _fits(self, milliseconds: float) -> bool:
        return milliseconds <= self.budget_ms * (1 + 1e-9)

    def _floor(self, milliseconds: Iterable[float]) -> float:
        """Least time of a layout of equal speed: nearly the budget, or the slowest that fits where the menu is coarse."""
        slowest = max((ms for ms in milliseconds if self._fits(ms)), default=0.0)
        return min(FULL * self.budget_ms, slowest * (1 - 1e-9))

    def drop_layers(self, exhaustive_below: int = 200) -> list[Block] | None:
        """Whole layers removed (ShortGPT-like), as few as the budget allows; at most two come back in part to meet it.

        All subsets are ranked by their true distance where there are few, else layers go one by one, the least missed
        first, re-ranked after every removal (summed scores mislead here: removals are not additive).
        """
        for count in range(1, self.num_layers):
            subsets = list(itertools.combinations(range(self.num_layers), count))
            if not self._fits(self.predicted_ms(self._without(subsets[0]))):
                continue
            if len(subsets) <= exhaustive_below:
                dropped = min(bar(subsets, desc="drop layers"), key=lambda s: self.distance(self._without(s)))
            else:
                dropped = ()
                for _ in bar(range(count), desc="drop layers"):
                    rest = [i for i in range(self.num_layers) if i not in dropped]
                    dropped += (min(rest, key=lambda i: self.distance(self._without((*dropped, i)))),)  # noqa: B023
            return min(self._landed(self._without(dropped), dropped), key=self.distance)
        return None

    def _without(self, dropped: Collection[int]) -> list[Block]:
        return [Block(NONE, NONE) if i in dropped else own for i, own in enumerate(self.space.parents)]

    def uniform(self) -> list[Block] | None:
        """The same block in every layer (Minitron-like width pruning), or two of them evenly interleaved: the best one by
        true distance that takes the child's time."""
        return self._of_two(lambda slow, fast, count, free: _spread(count, free))

    def two_blocks(self) -> list[Block] | None:
        """The MIP's best with at most two distinct blocks, the parent's counted like any other.

        Exact without a solver: a block costs the same in every layer, so time fixes how many layers take the faster one,
        and they are those that lose the least by it.
        """

        def where_it_costs_least(slow: Block, fast: Block, count: int, free: list[int]) -> list[int]:
            return sorted(free, key=lambda i: self.score[i, fast.id] - self.score[i, slow.id])[:count]

        return self._of_two(where_it_costs_least)

    def _of_two(self, place: Callable[[Block, Block, int, list[int]], list[int]]) -> list[Block] | None:
        """The best layout of at most two blocks by true distance, of those of equal speed with the lowest summed scores.

        Args:
            place: which of the layers that offer both blocks take the faster one: `(slow, fast, count, layers)`.
        """
        blocks = list(dict.fromkeys(b for layer in self.offered for b in layer))
        fixed = self.costs.non_block_costs(self.batch_size)["total_ms"]
        mixes = []
        for pair in itertools.combinations_with_replacement(blocks, 2):
            fast, slow = sorted(pair, key=self._block_ms)
            if all(slow in layer or fast in layer for layer in self.offered):
                forced = {i: fast if slow not in layer else slow for i, layer in enumerate(self.offered) if not {slow, fast} <= {*layer}}  # fmt: skip
                free = [i for i in range(self.num_layers) if i not in forced]
                base = fixed + sum(map(self._block_ms, forced.values())) + len(free) * self._block_ms(slow)
                for count in range(len(free) + 1 if slow != fast else 1):
                    ms = base - count * (self._block_ms(slow) - self._block_ms(fast))
                    mixes.append((ms, slow, fast, count, forced, free))
        floor, layouts = self._floor(mix[0] for mix in mixes), set()
        for ms, slow, fast, count, forced, free in mixes:
            if floor <= ms and self._fits(ms):
                faster = set(place(slow, fast, count, free))
                layouts.add(tuple(forced.get(i, fast if i in faster else slow) for i in range(self.num_layers)))
        finalists = sorted(layouts, key=lambda layout: (self._summed(layout), describe(layout)))[:FINALISTS]
        return min(map(list, finalists), key=self.distance, default=None)

    def _summed(self, blocks: Iterable[Block]) -> float:
        return sum(self.score[i, b.id] for i, b in enumerate(blocks))

    def greedy(self) -> list[Block] | None:
        """From the parent down: always the exchange that costs least score per millisecond saved, until it fits; the last
        two exchanges are those that land at the budget for the lowest score."""
        blocks = list(self.space.parents)
        while not self._fits(now := self.predicted_ms(blocks)):
            best = None
            for i, layer in enumerate(self.offered):
                for block in layer:
                    saved = self._block_ms(blocks[i]) - self._block_ms(block)
                    lost = self.score[i, block.id] - self.score[i, blocks[i].id]
                    if saved > 1e-9 * now and (best is None or lost / saved < best[0]):
                        best = (lost / saved, i, block)
            if best is None:
                return None
            blocks[best[1]] = best[2]
        return self._landed(blocks, range(self.num_layers))[0]

    def _landed(self, blocks: list[Block], layers: Collection[int]) -> list[list[Block]]:
        """The layouts of equal speed with the lowest summed scores, best first, after at most two exchanges in `layers`."""
        exchanges = [(0.0, 0.0, -1, blocks[0])]  # none
        for i in layers:
            own_ms, own_score = self._block_ms(blocks[i]), self.score.get((i, blocks[i].id), 0.0)
            exchanges += [
                (self._block_ms(b) - own_ms, self.score[i, b.id] - own_score, i, b) for b in self.offered[i] if b != blocks[i]
            ]  # fmt: skip
        ms, score, where = (torch.tensor([e[k] for e in exchanges], dtype=torch.float64) for k in range(3))
        total = self.predicted_ms(blocks) + ms[:, None] + ms
        # each pair once, and never two exchanges of one layer
        valid = (where[:, None] < where) | ((where[:, None] < 0) & (where < 0))
        valid &= total <= self.budget_ms * (1 + 1e-9)
        valid &= total >= min(FULL * self.budget_ms, total[valid].max().item() * (1 - 1e-9))
        summed = torch.where(valid, score[:, None] + score, torch.inf).flatten()
        found = []
        for place in summed.topk(min(FINALISTS, int(valid.sum())), largest=False).indices.tolist():
            layout = list(blocks)
            for _, _, i, block in (exchanges[place // len(ms)], exchanges[place % len(ms)]):
                if i >= 0:
                    layout[i] = block
            found.append(layout)
        return found

    def evolution(self) -> list[Block] | None:
        """Of `true_loss.evolve`, from random layouts, with its own judge: what others have judged is not free for it."""
        found = evolve(self.judge.on(slice(None)), self.menu, self.tokens, seed=self.seed)
        return found and list(found)

    def projection(self) -> list[Block] | None:
        """Of `true_loss.project`, like `evolution`."""
        found = project(self.judge.on(slice(None)), self.menu, self.tokens, seed=self.seed)
        return found and list(found)

    def random(self, count: int) -> list[Block] | None:
        """Median, by true distance, of `count` random layouts of equal speed."""
        generator = random.Random(self.seed)
        drawn = [layout for _ in range(20 * count) if (layout := self.menu.draw(generator)) is not None]
        floor = self._floor(map(self.predicted_ms, drawn))
        found = [list(layout) for layout in dict.fromkeys(drawn) if self.predicted_ms(layout) >= floor][:count]
        return sorted(found, key=self.distance)[len(found) // 2] if found else None


def _spread(count: int, layers: list[int]) -> list[int]:
    """`count` of `layers`, as evenly as they go, the middle one for one."""
    step = count / max(1, len(layers))
    return [i for place, i in enumerate(layers) if int((place + 1) * step + 0.5) > int(place * step + 0.5)]


def describe(blocks: list[Block]) -> str:
    """One line for logs and reports: runs of equal blocks folded."""
    runs = [(block, len(list(group))) for block, group in itertools.groupby(blocks)]
    return " ".join(b.id + (f" x{n}" if n > 1 else "") for b, n in runs)
