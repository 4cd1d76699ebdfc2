"""Baselines on a machine where the time of a layout is a sum that the test knows."""

import itertools

import pytest

from hf_puzzle.blocks import Block
from hf_puzzle.costs import Timing
from hf_puzzle.puzzle.baselines import NAMES, TOLERANCE, Baselines, check_names, describe
from hf_puzzle.puzzle.scoring import Score
from hf_puzzle.recipe import RecipeError


MILLISECONDS = {4: 2.0, 2: 1.5, 1: 1.2, "linear": 0.4, "none": 0.0, 768: 3.0, 512: 2.0, 256: 1.1}
PARENT_MS = 1.0 + 4 * 5.0


class Costs:
    """1 ms and the sum of the sub-blocks; half of a linear attention for a linear FFN."""

    def predict(self, blocks, batch_size):
        total = 1.0 + sum(
            MILLISECONDS[b.attention] + (0.2 if b.ffn == "linear" else MILLISECONDS[b.ffn]) for b in blocks
        )
        return Timing(0.0, total)


def missing_of(block):
    """A made-up score: the share of the parent's time that a block lacks."""
    return 1 - (Costs().predict([block], 1).total_ms - 1) / 5


def weight_of(layer_idx):
    return (3.0, 1.0, 2.5, 4.0)[layer_idx]


def distance(blocks):
    """Not additive: removing neighbours is worse than the sum says."""
    parts = [weight_of(i) * missing_of(b) for i, b in enumerate(blocks)]
    return sum(parts) + sum(a * b for a, b in itertools.pairwise(parts))


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
        return Baselines(space, scores, Costs(), 1, budget_ms, distance, seed)

    return baselines


@pytest.mark.parametrize("budget", [16.0, 15.0, 11.0, 8.0, 6.2])
def test_every_layout_fits_the_budget_and_the_space(make, space, budget):
    baselines = make(budget)
    layouts = [baselines.drop_layers(), baselines.uniform(), baselines.greedy(), baselines.random(3)]
    for layout in layouts:
        assert layout is not None
        assert len(layout) == 4
        assert Costs().predict(layout, 1).total_ms <= TOLERANCE * budget
        assert all(block in layer.blocks for block, layer in zip(layout, space.layers, strict=True))


@pytest.mark.parametrize("budget", [20.0, 15.0, 11.0, 7.0])
def test_drop_layers_is_the_best_subset(make, space, budget):
    gone = Block("none", "none")
    layouts = [
        [gone if i in subset else space.parent for i in range(4)]
        for count in range(5)
        for subset in itertools.combinations(range(4), count)
    ]
    fitting = [layout for layout in layouts if Costs().predict(layout, 1).total_ms <= TOLERANCE * budget]
    fewest = min(layout.count(gone) for layout in fitting)
    best = min((layout for layout in fitting if layout.count(gone) == fewest), key=distance)
    assert make(budget).drop_layers() == best


def test_drop_layers_one_by_one_where_subsets_are_many(make, space):
    layout = make(11.0).drop_layers(exhaustive_below=1)
    first = min(
        range(4), key=lambda i: distance([Block("none", "none") if j == i else space.parent for j in range(4)])
    )
    assert layout.count(Block("none", "none")) == 2
    assert layout[first] == Block("none", "none")
    second = min(
        (i for i in range(4) if i != first),
        key=lambda i: distance([Block("none", "none") if j in (first, i) else space.parent for j in range(4)]),
    )
    assert layout[second] == Block("none", "none")


@pytest.mark.parametrize("budget", [15.0, 11.0, 7.0, 4.0])
def test_uniform_is_uniform_and_the_best(make, space, budget):
    layout = make(budget).uniform()
    assert len(set(layout)) == 1
    fitting = [b for b in space.layers[0].blocks if Costs().predict([b] * 4, 1).total_ms <= TOLERANCE * budget]
    assert distance(layout) == pytest.approx(min(distance([b] * 4) for b in fitting))


def test_greedy_takes_what_costs_least_per_millisecond(make, space):
    # every exchange of layer 1 loses the least: it goes first, then layer 2
    assert make(PARENT_MS).greedy() == [space.parent] * 4
    layout = make(16.0).greedy()
    assert [b == space.parent for b in layout] == [True, False, True, True]
    layout = make(11.0).greedy()
    assert [b == space.parent for b in layout] == [True, False, False, True]


def test_random_is_seeded_and_its_median(make):
    assert make(12.0, seed=3).random(5) == make(12.0, seed=3).random(5)
    assert make(12.0, seed=3).random(5) != make(12.0, seed=4).random(5)
    one_by_one = make(12.0, seed=3)
    found = [one_by_one.random(1) for _ in range(5)]
    assert make(12.0, seed=3).random(5) == sorted(found, key=distance)[2]
    for layout in found:
        assert 0.9 * 12.0 <= Costs().predict(layout, 1).total_ms <= 12.0


def test_budgets_below_everything_give_none(make):
    baselines = make(0.5)
    assert [baselines.drop_layers(), baselines.uniform(), baselines.greedy(), baselines.random(2, tries=50)] == [
        None
    ] * 4


def test_unscored_blocks_are_never_used(make, scores):
    without = [s for s in scores if not (s.layer_idx == 1 and "linear" in s.block)]
    for budget in (16.0, 8.0):
        baselines = make(budget, scores=without)
        for layout in (baselines.uniform(), baselines.greedy(), baselines.random(3)):
            assert "linear" not in layout[1].id


def test_describe_folds_runs():
    blocks = [Block(4, 768), Block(4, 768), Block("none", 256), Block(4, 768)]
    assert describe(blocks) == "kv4+w768 x2 none+w256 kv4+w768"


def test_names_are_checked():
    check_names(list(NAMES))
    with pytest.raises(RecipeError, match="unknown 'gredy'; did you mean 'greedy'"):
        check_names(["gredy"])
