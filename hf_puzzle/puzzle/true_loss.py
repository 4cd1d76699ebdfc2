"""Searches on the true loss: every layout is judged whole, no scores are summed. Rivals of the MIP, or its polish.

Both keep exactly the limits that the MIP keeps and count the tokens they send through networks, so that they can be given
what the MIP's scores and distances cost.
"""

import math
import random
from collections.abc import Callable, Sequence

from ..blocks import Block
from .judge import Judge
from .solver import Choice, Limit, solve


# a layout that takes this share of a limit is taken for one that takes all of it
FULL = 0.995
# an evolution's offspring: `(share of the rows that judges, how many survive)`; the last is judged on all rows
STAGES = ((1 / 8, 4), (1 / 2, 1))
OFFSPRING = 16
ROWS = 4  # that stay together: of an item of the cloze task
# steps in a row that judge nothing new: the space is exhausted
IDLE = 5

Layout = tuple[Block, ...]


class Menu:
    """What each layer may take, and the limits that a layout keeps.

    Args:
        layers: choices of each layer, as the solver takes them; scores are not looked at.
        limits: upper limits on totals.
    """

    def __init__(self, layers: Sequence[Sequence[Choice]], limits: Sequence[Limit]):
        self.limits = list(limits)
        self.layers = [{Block.parse(choice.block): choice for choice in layer} for layer in layers]
        self._near = [
            {
                own: [b for b in layer if b != own and (b.attention == own.attention or b.ffn == own.ffn)]
                for own in layer
            }
            for layer in self.layers
        ]

    def used(self, layout: Sequence[Block]) -> float:
        """The largest share of a limit that a layout takes; it keeps them up to 1."""
        return self._share(self._totals(layout))

    def _totals(self, layout: Sequence[Block]) -> list[float]:
        rows = [layer[block].costs for layer, block in zip(self.layers, layout, strict=True)]
        return [math.fsum(row[limit.quantity] for row in rows) for limit in self.limits]

    def _share(self, totals: Sequence[float]) -> float:
        return max(
            (
                t / limit.maximum if limit.maximum > 0 else math.inf
                for t, limit in zip(totals, self.limits, strict=True)
            ),
            default=FULL,
        )

    def near(self, layer_idx: int, block: Block) -> list[Block]:
        """Blocks of a layer that differ from `block` in attention or FFN, not in both."""
        return self._near[layer_idx][block]

    def draw(self, generator: random.Random) -> Layout | None:
        return self.fitted([generator.choice(list(layer)) for layer in self.layers], generator)

    def mutated(self, layout: Layout, generator: random.Random) -> Layout | None:
        """One to three random exchanges, rather few, and those that make the result fit again."""
        blocks = list(layout)
        for _ in range(min(generator.randint(1, 3), generator.randint(1, 3))):
            self._exchange(blocks, generator, lambda _: True)
        return self.fitted(blocks, generator)

    def fitted(self, layout: Sequence[Block], generator: random.Random) -> Layout | None:
        """A layout near this one that keeps the limits and, where random exchanges find such, takes all of one."""
        blocks, fullest = list(layout), None
        for step in range(10 * len(blocks)):
            now = self.used(blocks)
            if now <= 1 and (fullest is None or now > self.used(fullest)):
                fullest = tuple(blocks)
            if FULL <= now <= 1:
                break
            # rather without exceeding the limits: every way back changes more layers
            most = 1 if step < 2 * len(blocks) else math.inf
            self._exchange(blocks, generator, lambda s: s < now if now > 1 else now < s <= most)  # noqa: B023
        return fullest

    def _exchange(self, blocks: list[Block], generator: random.Random, wanted: Callable[[float], bool]) -> None:
        """Exchange attention or FFN of a random layer for one whose share of the limits is `wanted`, if it has one."""
        i = generator.randrange(len(blocks))
        totals, own = self._totals(blocks), self.layers[i][blocks[i]].costs
        options = [
            block
            for block in self.near(i, blocks[i])
            for costs in [self.layers[i][block].costs]
            if wanted(
                self._share(
                    [t - own[m.quantity] + costs[m.quantity] for t, m in zip(totals, self.limits, strict=True)]
                )
            )
        ]
        if options:
            blocks[i] = generator.choice(options)


def evolve(
    judge: Judge, menu: Menu, tokens: float, start: Sequence[Block] | None = None, seed: int = 0
) -> Layout | None:
    """The best layout of an evolution like EvoPress (arXiv 2410.14649): mutants of the best one so far, judged on ever
    more rows while fewer survive.

    Args:
        tokens: forward tokens that may be spent.
        start: an incumbent, which the answer is never worse than; default: random layouts.

    Returns:
        None where nothing on the menu keeps the limits.
    """
    generator = random.Random(seed)
    items = math.ceil(len(judge.metric.rows) / ROWS)
    judges = [judge.on(slice(0, ROWS * math.ceil(items * share))) for share, _ in STAGES]
    best = tuple(start) if start is not None else None

    def generation() -> None:
        nonlocal best
        drawn = [menu.draw(generator) if best is None else menu.mutated(best, generator) for _ in range(OFFSPRING)]
        left = [layout for layout in dict.fromkeys(drawn) if layout not in (None, best)]
        left = [layout for layout in left if menu.used(layout) >= FULL] or left
        for each, (_, survivors) in zip(judges, STAGES, strict=True):
            left = sorted(left, key=lambda layout: each.distance(layout)[0])[:survivors]  # noqa: B023
        best = min(
            [*([] if best is None else [best]), *left], key=lambda layout: judge.distance(layout)[0], default=None
        )

    _spend(generation, tokens, lambda: judge.forward_tokens + sum(each.forward_tokens for each in judges))
    return best


def project(judge: Judge, menu: Menu, tokens: float, seed: int = 0) -> Layout | None:
    """The best layout of descents along the true loss, from random layouts.

    A step judges all exchanges of a sub-block of the incumbent, which is the loss's finite-difference gradient, and lets
    the solver project the step on the limits; it is halved until the loss falls. Arguments as of `evolve`.
    """
    generator = random.Random(seed)
    best = incumbent = None
    left: set[Layout] = set()

    def step() -> None:
        nonlocal best, incumbent
        incumbent = incumbent or menu.draw(generator)
        if incumbent in left:
            incumbent = None
        elif incumbent is not None:
            left.add(incumbent)
            best = min((best or incumbent, incumbent), key=lambda layout: judge.distance(layout)[0])
            incumbent = _projected(judge, menu, incumbent)
            best = min((best, incumbent or best), key=lambda layout: judge.distance(layout)[0])

    _spend(step, tokens, lambda: judge.forward_tokens)
    return best


def _spend(step: Callable[[], None], tokens: float, spent: Callable[[], float]) -> None:
    """Take steps while there are tokens for one like the dearest so far, at least one; until nothing new is judged."""
    begun, dearest, idle = spent(), 0.0, 0
    while idle < IDLE and (dearest == 0 or spent() - begun + dearest <= tokens):
        before = spent()
        step()
        dearest = max(dearest, spent() - before)
        idle = idle + 1 if spent() == before else 0


def _projected(judge: Judge, menu: Menu, incumbent: Layout) -> Layout | None:
    """A better layout by one linearisation around `incumbent`; None at a local optimum."""
    num_layers = len(incumbent)
    offered = [[own, *menu.near(i, own)] for i, own in enumerate(incumbent)]
    layers = []
    for i, values in judge.block_values(range(num_layers), list(incumbent), offered):
        own, mean = incumbent[i], {Block.parse(name): column.mean().item() for name, column in values.items()}
        halves = {b: (Block(b.attention, own.ffn), Block(own.attention, b.ffn)) for b in menu.layers[i]}
        layers.append(
            [
                Choice(b.id, mean[x] + mean[y] - mean[own], menu.layers[i][b].costs)
                for b, (x, y) in halves.items()
                if x in mean and y in mean
            ]
        )
    radius = num_layers
    while radius >= 1:
        near = solve(layers, menu.limits, fixed_distance=([b.id for b in incumbent], radius))
        layout = tuple(Block.parse(text) for text in near[0].blocks)
        if layout == incumbent:
            return None
        if judge.distance(layout)[0] < judge.distance(incumbent)[0]:
            return layout
        radius //= 2
    return None
