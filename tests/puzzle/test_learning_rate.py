import math

import pytest

from hf_puzzle.puzzle.learning_rate import RateSearch, climb, guess, lowest, reach


@pytest.mark.parametrize("best", [1e-4, 3e-4, 1e-3, 3e-3])
def test_climb_finds_the_best_rate_within_reach(best):
    tried = []

    def loss(rate):
        tried.append(rate)
        return math.inf if rate > 4e-3 else abs(math.log(rate / best))

    assert lowest(climb(loss, 1e-3)) == pytest.approx(best, rel=0.2)
    assert len(tried) == len(set(tried)) <= 4


@pytest.mark.parametrize("best", [6e-4, 1e-3, 1.5e-3])
def test_a_parabola_between_rates_is_found_exactly(best):
    values = {rate: math.log(rate / best) ** 2 for rate in (1e-3 / 3, 1e-3, 3e-3)}
    assert lowest(values) == pytest.approx(best)


@pytest.mark.parametrize(
    "values", [{1.0: 2.0, 3.0: 1.0}, {1.0: 1.0, 3.0: 2.0}, {1.0: 2.0, 3.0: 1.0, 9.0: math.inf}, {1.0: 1.0}], ids=str
)
def test_a_rate_at_the_edge_stays(values):
    assert lowest(values) == min(values, key=values.get)


def test_equal_values_keep_a_rate_that_was_tried():
    assert lowest({1.0: 0.5, 3.0: 0.5, 9.0: 0.5}) in (1.0, 3.0, 9.0)


def test_rates_grow_with_the_root_of_the_steps_and_not_for_ever():
    assert reach(400) == pytest.approx(2 * reach(100))
    assert reach(100_000) == reach(1_000) == 1
    assert guess(0.2, 100, False, 1_000) == 3e-3
    assert guess(0.2, 100, True, 10) == 3e-3


def search(folder, steps: int = 200, kl: float = 1.0) -> RateSearch:
    return RateSearch(kl, 64, False, steps, folder)


def test_the_rate_of_all_steps_is_that_of_the_tries_scaled(tmp_path):
    asked = []

    def tried(rate, steps):
        asked.append(rate)
        return 0.5 + math.log(rate / asked[0]) ** 2

    found = search(tmp_path).rate(tried)
    assert found == pytest.approx(asked[0] * math.sqrt(200 / 6), rel=1e-2)
    assert len(asked) == 3
    assert search(tmp_path).rate(None) == found  # kept: nothing is tried again
    assert search(tmp_path, steps=300).rates == {}  # of another training


def test_few_steps_take_the_guess(tmp_path):
    asked = search(tmp_path, steps=20)
    assert asked.rate(None) == guess(1.0, 64, False, 20)
    assert not asked.falls_back(1.0)
    assert not list(tmp_path.iterdir())


def test_where_a_try_was_better_its_rate_is_next_once(tmp_path):
    asked = search(tmp_path)
    high = asked.rate(lambda rate, steps: 0.5 + math.log(rate / 1e-4) ** 2)
    best = min(asked.rates.values())
    (tmp_path / "checkpoint-3").mkdir()
    assert not asked.falls_back(best - 0.01)
    assert not asked.falls_back(best + 0.01, error=0.02)
    assert asked.falls_back(best + 0.01)
    assert not (tmp_path / "checkpoint-3").exists()
    assert search(tmp_path).rate(None) == float(min(asked.rates, key=asked.rates.get)) < high
    assert not search(tmp_path).falls_back(1.0)


def test_tries_that_were_no_better_are_not_trained_with(tmp_path):
    asked = search(tmp_path, kl=1.0)
    asked.rate(lambda rate, steps: 2.0 + rate)
    assert not asked.falls_back(1.0)
