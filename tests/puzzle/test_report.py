"""Numbers that the report computes itself."""

import pytest
import torch

from hf_puzzle.puzzle.report import additivity, ranks


def rows(*pairs):
    return [{"summed": summed, "distance": distance} for summed, distance in pairs]


def test_equal_values_share_a_rank():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_additivity_by_hand():
    # ranks 0 1 2 3 against 1 0 2 3: 1 - 6 * 2 / (4 * 15)
    found = additivity(rows((1.0, 2.0), (2.0, 1.0), (3.0, 6.0), (4.0, 10.0)))
    assert found == {"rank_correlation": pytest.approx(0.8), "mean_ratio": pytest.approx((2 + 0.5 + 2 + 2.5) / 4)}
    assert additivity(rows((1.0, 5.0), (2.0, 4.0)))["rank_correlation"] == pytest.approx(-1)


def test_additivity_where_there_is_nothing_to_rank():
    assert additivity([]) == {"rank_correlation": None, "mean_ratio": None}
    assert additivity(rows((0.0, 0.0))) == {"rank_correlation": None, "mean_ratio": None}
    assert additivity(rows((1.0, 2.0), (1.0, 3.0))) == {"rank_correlation": None, "mean_ratio": 2.5}
