"""A grouped knapsack as arrays: exact pruning, and the Lagrangian bound.

One choice of each layer, sums of rows under maxima. Letters in shapes: L layers, J choices per layer (padded), R rows.
"""

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Minimise `scores` under `costs <= maxima`; a choice that is absent or was pruned has the score inf."""

    scores: np.ndarray  # (L, J)
    costs: np.ndarray  # (R, L, J), 0 where absent
    maxima: np.ndarray  # (R,), slack included


def above_lowest(problem: Problem) -> tuple[Problem, float]:
    """Scores minus the smallest of their layer, and the sum of what was taken away.

    Exact, as one choice of each layer is taken. Solvers stop at a gap relative to the objective: a constant in all
    scores would let them stop far from the optimum.
    """
    smallest = problem.scores.min(1, keepdims=True)
    return replace(problem, scores=problem.scores - smallest), math.fsum(smallest.ravel())


def with_row(problem: Problem, row: np.ndarray, maximum: int) -> Problem:
    """Add a constraint that counts layers; `row` is 0/1 of shape (L, J)."""
    return replace(
        problem,
        costs=np.concatenate([problem.costs, row[None].astype(float)]),
        maxima=np.append(problem.maxima, maximum + 1e-6),
    )


def totals_of(problem: Problem, picks: np.ndarray) -> tuple[float, np.ndarray]:
    """Score and row totals, shape (R,), of one choice index per layer."""
    rows = np.arange(len(picks))
    return math.fsum(problem.scores[rows, picks]), problem.costs[:, rows, picks].sum(1)


def largest_magnitude(values: np.ndarray) -> float:
    """Largest magnitude among the finite values, 1 if all are 0."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0


# ---- pruning, all exact ----


def drop_dominated(problem: Problem) -> Problem:
    """Drop choices no better than another of their layer in the score and in every row; of equals keep the first."""
    scores = problem.scores.copy()
    for layer_idx in range(len(scores)):
        kept = np.flatnonzero(np.isfinite(scores[layer_idx]))
        points = np.vstack([scores[layer_idx, kept], problem.costs[:, layer_idx, kept]])  # (1 + R, kept)
        no_worse = (points[:, :, None] <= points[:, None, :]).all(0)
        equal_and_later = no_worse & no_worse.T & (np.arange(len(kept))[:, None] >= np.arange(len(kept)))
        dominated = (no_worse & ~equal_and_later).any(0)
        scores[layer_idx, kept[dominated]] = np.inf
    return replace(problem, scores=scores)


def drop_hopeless(problem: Problem, multipliers: np.ndarray, upper: float) -> Problem:
    """Drop choices that no selection scoring `upper` or less can contain (reduced-cost fixing)."""
    reduced = problem.scores + np.tensordot(multipliers, problem.costs, 1)
    best = reduced.min(1, keepdims=True)
    bound_if_chosen = best.sum() - multipliers @ problem.maxima + (reduced - best)
    # the rounding error of the line above is relative to its largest terms
    terms = abs(upper) + np.abs(best).sum() + np.abs(multipliers * problem.maxima).sum()
    return replace(problem, scores=np.where(bound_if_chosen > upper + 1e-9 * terms, np.inf, problem.scores))


# ---- Lagrangian relaxation ----


@dataclass(frozen=True)
class Dual:
    bound: float
    multipliers: np.ndarray  # (R,)
    picks: np.ndarray | None  # best feasible selection met on the way, (L,)
    upper: float  # its score, inf without one


def lagrangian(problem: Problem, max_iterations: int = 200) -> Dual:
    """Maximise the dual function over the multipliers of all rows by subgradient steps (Polyak step length)."""
    score_scale = largest_magnitude(problem.scores)
    row_scales = np.array([largest_magnitude(row) for row in problem.costs])
    scores = problem.scores / score_scale
    costs = problem.costs / row_scales[:, None, None]
    maxima = problem.maxima / row_scales
    layer_ids = np.arange(len(scores))
    ceiling = np.where(np.isfinite(scores), scores, -np.inf).max(1).sum()
    multipliers = best_multipliers = np.zeros(len(maxima))
    bound, upper, picks, step, stalled = -np.inf, np.inf, None, 1.0, 0
    for _ in range(max_iterations):
        reduced = scores + np.tensordot(multipliers, costs, 1)
        candidate = reduced.argmin(1)
        value = reduced[layer_ids, candidate].sum() - multipliers @ maxima
        excess = costs[:, layer_ids, candidate].sum(1) - maxima
        repaired = _repair(scores, costs, maxima, candidate) if value > bound or (excess <= 0).all() else None
        if repaired is not None and scores[layer_ids, repaired].sum() < upper:
            upper, picks = scores[layer_ids, repaired].sum(), repaired
        if value > bound:
            bound, best_multipliers, stalled = value, multipliers, 0
        else:
            stalled += 1
        if stalled == 8:
            multipliers, step, stalled = best_multipliers, step / 2, 0
            continue
        slope = np.where((multipliers == 0) & (excess < 0), 0.0, excess)
        if not slope.any() or (picks is not None and upper - bound <= 1e-12 * abs(upper)):
            break
        ascent = max(min(upper, ceiling) - value, 1e-6)
        multipliers = np.maximum(0.0, multipliers + step * ascent / (slope @ slope) * slope)
    return Dual(
        bound=float(bound * score_scale),
        multipliers=best_multipliers * score_scale / row_scales,
        picks=picks,
        upper=math.inf if picks is None else totals_of(problem, picks)[0],
    )


def _repair(scores: np.ndarray, costs: np.ndarray, maxima: np.ndarray, picks: np.ndarray) -> np.ndarray | None:
    """Swap single choices, the least score per excess removed first, until `picks` is feasible; None if stuck."""
    layer_ids = np.arange(len(picks))
    for _ in range(2 * len(picks)):
        chosen = costs[:, layer_ids, picks]
        excess = chosen.sum(1) - maxima
        if (excess <= 0).all():
            return picks
        swapped = np.maximum(excess[:, None, None] + costs - chosen[:, :, None], 0.0).sum(0)  # (L, J)
        removed = np.maximum(excess, 0.0).sum() - swapped
        price = np.full(scores.shape, np.inf)
        np.divide(scores - scores[layer_ids, picks][:, None], removed, out=price, where=removed > 0)
        layer_idx, choice_idx = np.unravel_index(price.argmin(), price.shape)
        if not np.isfinite(price[layer_idx, choice_idx]):
            return None
        picks = picks.copy()
        picks[layer_idx] = choice_idx
    return None
