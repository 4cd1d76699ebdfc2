"""What simpler methods reach at the speed of the searched child: the same blocks, library and costs, other choices.

All are picked by the calibrated cost model to be as fast as the child (2 % of tolerance), then measured like it.
"""

import itertools
import logging
import random
from collections.abc import Callable

from ..blocks import NONE, Block
from ..progress import bar
from ..recipe import RecipeError, did_you_mean
from .block_costs import CostTable
from .scoring import Score
from .search_space import SearchSpace


logger = logging.getLogger(__name__)

# baselines come in coarse steps: one that is this little slower counts as equally fast
TOLERANCE = 1.02
NAMES = ("drop_layers", "uniform", "greedy", "random", "scratch")


def check_names(names: list[str]) -> None:
    """Raises RecipeError for a baseline that does not exist."""
    for name in names:
        if name not in NAMES:
            raise RecipeError(
                f"baselines.names: unknown {name!r}{did_you_mean(name, NAMES)}; known: {', '.join(NAMES)}"
            )


class Baselines:
    """Layouts of each baseline within a time budget.

    Args:
        budget_ms: predicted time of one batch that no baseline may exceed by more than `TOLERANCE`.
        distance: true distance of a layout from the parent (KL, say); lower is better.
    """

    def __init__(
        self,
        space: SearchSpace,
        scores: list[Score],
        costs: CostTable,
        batch_size: int,
        budget_ms: float,
        distance: Callable[[list[Block]], float],
        seed: int = 0,
    ):
        self.space, self.costs, self.batch_size, self.budget_ms = space, costs, batch_size, budget_ms
        self.distance = distance
        self.generator = random.Random(seed)
        self.score = {(s.layer_idx, s.block): s.value for s in scores}
        self.num_layers = len(space.layers)

    def predicted_ms(self, blocks: list[Block]) -> float:
        return self.costs.predict(blocks, self.batch_size).total_ms

    def _fits(self, blocks: list[Block]) -> bool:
        return self.predicted_ms(blocks) <= TOLERANCE * self.budget_ms

    def drop_layers(self, exhaustive_below: int = 200) -> list[Block] | None:
        """Whole layers removed (ShortGPT-like), as few as the budget allows.

        All subsets are ranked by their true distance where there are few, else layers go one by one, the least missed
        first, re-ranked after every removal (summed scores mislead here: removals are not additive).
        """
        gone = Block(NONE, NONE)
        for count in range(1, self.num_layers):
            subsets = list(itertools.combinations(range(self.num_layers), count))
            if not self._fits(self._without(subsets[0], gone)):
                continue
            if len(subsets) <= exhaustive_below:
                return min((self._without(s, gone) for s in bar(subsets, desc="drop layers")), key=self.distance)
            dropped: tuple[int, ...] = ()
            for _ in bar(range(count), desc="drop layers"):
                rest = [i for i in range(self.num_layers) if i not in dropped]
                dropped += (min(rest, key=lambda i: self.distance(self._without((*dropped, i), gone))),)  # noqa: B023
            return self._without(dropped, gone)
        return None

    def _without(self, dropped, gone: Block) -> list[Block]:
        return [gone if i in dropped else self.space.parent for i in range(self.num_layers)]

    def uniform(self) -> list[Block] | None:
        """The same block in every layer (Minitron-like width pruning): the best one by true distance that fits."""
        common = [b for b in self.space.layers[0].blocks if all(b in layer.blocks for layer in self.space.layers)]
        layouts = [[b] * self.num_layers for b in common if self._fits([b] * self.num_layers)]
        scored = [layout for layout in layouts if all((i, b.id) in self.score for i, b in enumerate(layout))]
        # the true distance of a handful, preselected by summed scores
        scored.sort(key=lambda layout: sum(self.score[i, b.id] for i, b in enumerate(layout)))
        return min(scored[:5], key=self.distance, default=None)

    def greedy(self) -> list[Block] | None:
        """From the parent down: always the exchange that costs least score per millisecond saved, until it fits."""
        blocks = [self.space.parent] * self.num_layers
        while not self._fits(blocks):
            now = self.predicted_ms(blocks)
            best = None
            for i, layer in enumerate(self.space.layers):
                for block in layer.blocks:
                    if (i, block.id) not in self.score or block == blocks[i]:
                        continue
                    saved = now - self.predicted_ms([*blocks[:i], block, *blocks[i + 1 :]])
                    lost = self.score[i, block.id] - self.score[i, blocks[i].id]
                    if saved > 1e-9 and (best is None or lost / saved < best[0]):
                        best = (lost / saved, i, block)
            if best is None:
                return None
            blocks[best[1]] = best[2]
        return blocks

    def random(self, count: int, tries: int = 4000) -> list[Block] | None:
        """Median, by true distance, of `count` random layouts within 10 % below the budget."""
        found = []
        for _ in range(tries):
            blocks = [self.generator.choice(layer.blocks) for layer in self.space.layers]
            if (
                all((i, b.id) in self.score for i, b in enumerate(blocks))
                and 0.9 <= self.predicted_ms(blocks) / self.budget_ms <= TOLERANCE
            ):
                found.append(blocks)
            if len(found) == count:
                break
        if not found:
            return None
        return sorted(found, key=self.distance)[len(found) // 2]


def describe(blocks: list[Block]) -> str:
    """One line for logs and reports: runs of equal blocks folded."""
    runs = [(block, len(list(group))) for block, group in itertools.groupby(blocks)]
    return " ".join(b.id + (f" x{n}" if n > 1 else "") for b, n in runs)
