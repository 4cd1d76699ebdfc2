"""Baselines on a machine where the time of a layout is a sum that the test knows."""

import itertools
import random
from types import SimpleNamespace

import pytest

from hf_puzzle.blocks import Block
from hf_puzzle.costs import Timing
from hf_puzzle.puzzle.baselines import NAMES, Baselines, check_names, describe
from hf_puzzle.puzzle.scoring import Score
from hf_puzzle.puzzle.solver import Choice, Limit
from hf_puzzle.puzzle.true_loss import FULL, Menu, evolve, project
from hf_puzzle.recipe import RecipeError


MILLISECONDS = {4: 2.0, 2: 1.5, 1: 1.2, "linear": 0.4, "none": 0.0, 768: 3.0, 512: 2.0, 256: 1.1}
PARENT_MS = 1.0 + 4 * 5.0
GONE = Block("none", "none")
TOKENS = 4000


class Costs:
    """1 ms and the sum of the sub-blocks; half of a linear attention for a linear FFN."""

    def block_costs(self, block, batch_size):
        return {
            "total_ms": MILLISECONDS[block.attention] + (0.2 if block.ffn == "linear" else MILLISECONDS[block.ffn])
        }

    def non_block_costs(self, batch_size):
        return {"total_ms": 1.0}

    def predict(self, blocks, batch_size):
        return Timing(0.0, 1.0 + sum(self.block_costs(b, batch_size)["total_ms"] for b in blocks))


def milliseconds(blocks):
    return Costs().predict(blocks, 1).total_ms


def missing_of(block):
    """A made-up score: the share of the parent's time that a block lacks."""
    return 1 - (milliseconds([block]) - 1) / 5


def weight_of(layer_idx):
    return (3.0, 1.0, 2.5, 4.0)[layer_idx]


def distance(blocks):
    """Not additive: removing neighbours is worse than the sum says."""
    parts = [weight_of(i) * missing_of(b) for i, b in enumerate(blocks)]
    return sum(parts) + sum(a * b for a, b in itertools.pairwise(parts))


class Judge:
    """Counts 10 tokens a row and layout; its answer on some rows is a little off."""

    def __init__(self, rows=range(16)):
        self.metric, self.forward_tokens, self.judged = SimpleNamespace(rows=rows), 0.0, {}

    def on(self, part):
        return Judge(self.metric.rows[part])

    def distance(self, blocks):
        if tuple(blocks) not in self.judged:
            self.forward_tokens += 10 * len(self.metric.rows)
            self.judged[tuple(blocks)] = (distance(blocks) * (1 + 0.01 * (16 - len(self.metric.rows))), 0.0)
        return self.judged[tuple(blocks)]

    def block_values(self, layers, incumbent, offered):
        for i in layers:
            self.forward_tokens += 10 * len(self.metric.rows) * len(offered[i]) * (4 - i) / 4
            values = {b.id: distance([*incumbent[:i], b, *incumbent[i + 1 :]]) for b in offered[i]}
            yield (
                i,
                {
                    name: SimpleNamespace(mean=lambda v=v: SimpleNamespace(item=lambda: v))
                    for name, v in values.items()
                },
            )


@pytest.fixture
def scores(space):
    return [
        Score(i, b.id, weight_of(i) * missing_of(b), 0.0, 1, "kl")
        for i, layer in enumerate(space.layers)
        for b in layer.blocks
    ]


@pytest.fixture
def make(space, scores):
    def baselines(budget_ms, seed=0, scores=scores):
        return Baselines(space, scores, Costs(), 1, budget_ms, Judge(), TOKENS, seed)

    return baselines


@pytest.fixture
def menu(make):
    return lambda budget: make(budget).menu


def layouts_of(baselines):
    return {
        "drop_layers": baselines.drop_layers(),
        "uniform": baselines.uniform(),
        "two_blocks": baselines.two_blocks(),
        "greedy": baselines.greedy(),
        "evolution": baselines.evolution(),
        "projection": baselines.projection(),
        "random": baselines.random(3),
    }


@pytest.mark.parametrize("budget", [16.0, 14.9, 11.0, 8.0, 6.2])
def test_every_layout_takes_the_time_of_the_child_and_is_of_the_space(make, space, budget):
    found = layouts_of(make(budget))
    assert [*found, "scratch"] == list(dict.fromkeys([*found, *NAMES]))
    for name, layout in found.items():
        assert len(layout) == 4
        assert FULL * budget <= milliseconds(layout) <= budget * (1 + 1e-8), name
        assert all(block in layer.blocks for block, layer in zip(layout, space.layers, strict=True))


def test_where_the_menu_is_coarse_the_slowest_that_fits_is_taken(make, scores):
    whole_or_none = [s for s in scores if s.block in ("kv4+w768", "none+none")]
    for name, layout in layouts_of(make(12.0, scores=whole_or_none)).items():
        assert milliseconds(layout) == pytest.approx(11.0), name


@pytest.mark.parametrize("budget", [20.0, 15.0, 11.0, 7.0])
def test_drop_layers_keeps_the_best_subset_whole(make, space, budget):
    layouts = [
        [GONE if i in subset else space.parent for i in range(4)]
        for count in range(5)
        for subset in itertools.combinations(range(4), count)
    ]
    fitting = [layout for layout in layouts if milliseconds(layout) <= budget * (1 + 1e-9)]
    fewest = min(layout.count(GONE) for layout in fitting)
    best = min((layout for layout in fitting if layout.count(GONE) == fewest), key=distance)
    found = make(budget).drop_layers()
    assert all(block == space.parent for block, kept in zip(found, best, strict=True) if kept == space.parent)
    assert distance(found) <= distance(best)


def test_drop_layers_one_by_one_where_subsets_are_many(make, space):
    layout = make(11.0).drop_layers(exhaustive_below=1)
    first = min(range(4), key=lambda i: distance([GONE if j == i else space.parent for j in range(4)]))
    assert layout.count(GONE) == 2
    assert layout[first] == GONE
    second = min(
        (i for i in range(4) if i != first),
        key=lambda i: distance([GONE if j in (first, i) else space.parent for j in range(4)]),
    )
    assert layout[second] == GONE


@pytest.mark.parametrize("budget", [15.0, 11.0, 7.0, 4.0])
def test_uniform_is_one_block_or_two_in_turn(make, budget):
    layout = make(budget).uniform()
    assert layout in ([a, b, a, b] for a in layout for b in layout) or max(map(layout.count, layout)) >= 3
    assert len(set(layout)) <= 2


@pytest.mark.parametrize("budget", [15.0, 11.0, 7.0])
def test_two_blocks_are_the_best_sum_of_all_with_two_blocks(make, space, budget):
    def summed(layout):
        return sum(weight_of(i) * missing_of(b) for i, b in enumerate(layout))

    baselines = make(budget)
    baselines.judge.distance = lambda blocks: (summed(blocks), 0.0)
    layouts = {
        layout
        for pair in itertools.combinations_with_replacement(space.layers[0].blocks, 2)
        for layout in itertools.product(pair, repeat=4)
        if FULL * budget <= milliseconds(layout) <= budget * (1 + 1e-9)
    }
    found = baselines.two_blocks()
    assert tuple(found) in layouts
    assert summed(found) == pytest.approx(min(map(summed, layouts)))


def test_two_blocks_where_a_layer_does_not_offer_one(make, scores):
    only = [s for s in scores if s.layer_idx != 2 or s.block == "kv4+w256"]
    found = make(11.0, scores=only).two_blocks()
    assert found[2] == Block(4, 256)
    assert len(set(found)) == 2


def test_greedy_takes_what_costs_least_per_millisecond_and_lands_at_the_budget(make, space):
    # every exchange of layer 1 loses the least: it goes first, then layer 2
    assert make(PARENT_MS).greedy() == [space.parent] * 4
    layout = make(16.0).greedy()
    assert [b == space.parent for b in layout] == [True, False, True, True]
    layout = make(11.0).greedy()
    assert [b == space.parent for b in layout] == [True, False, False, True]
    assert milliseconds(make(12.0).greedy()) == pytest.approx(12.0)


def test_random_is_seeded(make):
    assert make(12.0, seed=3).random(5) == make(12.0, seed=3).random(5)
    assert make(12.0, seed=3).random(5) != make(12.0, seed=4).random(5)


def test_budgets_below_everything_give_none(make):
    assert set(layouts_of(make(0.5)).values()) == {None}


def test_unscored_blocks_are_never_used(make, scores):
    without = [s for s in scores if not (s.layer_idx == 1 and "linear" in s.block)]
    for budget in (16.0, 8.0):
        for layout in layouts_of(make(budget, scores=without)).values():
            assert "linear" not in layout[1].id


@pytest.mark.parametrize("search", [evolve, project])
def test_searches_on_the_true_loss_come_near_the_best_and_keep_to_their_tokens(menu, space, search):
    best = min(
        (b for b in itertools.product(*(layer.blocks for layer in space.layers)) if milliseconds(b) <= 11.0),
        key=distance,
    )
    judge, tokens = Judge(), 40_000
    parts = []
    judge.on = lambda part: parts.append(Judge(judge.metric.rows[part])) or parts[-1]
    found = search(judge, menu(11.0), tokens)
    assert milliseconds(found) <= 11.0 * (1 + 1e-8)
    assert distance(found) <= 1.05 * distance(best)
    spent = judge.forward_tokens + sum(part.forward_tokens for part in parts)
    assert 0.5 * tokens < spent <= tokens


@pytest.mark.parametrize("seed", range(4))
def test_evolution_is_never_worse_than_its_start(menu, seed):
    start = menu(11.0).draw(random.Random(seed))
    few, many = (evolve(Judge(), menu(11.0), tokens, start, seed) for tokens in (1_000, 8_000))
    assert distance(many) <= distance(few) <= distance(start)
    assert milliseconds(many) <= 11.0 * (1 + 1e-8)


def test_searches_end_where_there_is_nothing_left_to_judge(menu):
    only = Menu([[Choice("kv4+w768", 0.0, {"total_ms": 5.0})]] * 4, [Limit("budget", "total_ms", 20.0)])
    assert evolve(Judge(), only, 1e9) == project(Judge(), only, 1e9) == (Block(4, 768),) * 4


def test_menus_keep_several_limits(menu, space):
    layers = [
        [Choice(b.id, 0.0, {"ms": milliseconds([b]), "heads": float(b.attention == 4)}) for b in layer.blocks]
        for layer in space.layers
    ]
    both = Menu(layers, [Limit("a", "ms", 14.0), Limit("b", "heads", 2.0)])
    for seed in range(20):
        layout = both.draw(random.Random(seed))
        assert sum(milliseconds([b]) for b in layout) <= 14.0 * (1 + 1e-9)
        assert sum(b.attention == 4 for b in layout) <= 2
        assert both.used(layout) > 0.95


def test_describe_folds_runs():
    blocks = [Block(4, 768), Block(4, 768), Block("none", 256), Block(4, 768)]
    assert describe(blocks) == "kv4+w768 x2 none+w256 kv4+w768"


def test_names_are_checked():
    check_names(list(NAMES))
    with pytest.raises(RecipeError, match="unknown 'gredy'; did you mean 'greedy'"):
        check_names(["gredy"])
