"""Choose one block per layer: a grouped knapsack solved as a mixed-integer program.

Minimise the sum of the scores under upper limits on sums of costs (Puzzle, arXiv 2411.19146, the MIP of the
architecture search). Nothing here knows about models: a layer is a list of `Choice`s. Every constraint, the diversity
cuts and the trust region included, is one more row of costs, so pruning and bounds treat all alike and stay exact.

Letters in shapes: L layers, J choices per layer (padded), R rows.
"""

import functools
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from .grouped_knapsack import (
    Dual,
    Problem,
    above_lowest,
    drop_dominated,
    drop_hopeless,
    lagrangian,
    largest_magnitude,
    totals_of,
    with_row,
)


logger = logging.getLogger(__name__)

SOLVERS = ("auto", "HIGHS", "CBC")

# CBC reports OPTIMAL for answers 40-290 % above the optimum when scores are tiny, so the largest becomes this
_TARGET_MAGNITUDE = 1e3
# slack on every limit, relative to the sum over layers of the largest cost: a limit may equal an attainable total
_SLACK = 1e-9
# what verification accepts: the slack plus the feasibility tolerance of the solvers
_LIMIT_TOLERANCE = 1e-8
# solvers work to 1e-6: CBC ends at points just off the integers, whose objective is that much below any true score
_GAP_TOLERANCE = 2e-6


class InfeasibleError(ValueError):
    """No selection satisfies the limits; `nearest` maps a constraint to its nearest feasible value, in user units."""

    def __init__(self, message: str, nearest: Mapping[str, float]):
        super().__init__(message)
        self.nearest = dict(nearest)


class VerificationError(AssertionError):
    """A solution does not match the tables it claims to come from: a bug here or in the solver, not in the input."""


class TimeLimitError(RuntimeError):
    """The time limit was reached before any feasible selection was found."""


class SolverUnusableError(ValueError):
    """The solver asked for does not work on this machine; the message says why, and what to install."""


class SolverFailedError(RuntimeError):
    """The solver's process crashed, was killed, or ended with an error."""


def _identity(total: float) -> float:
    return total


@dataclass(frozen=True)
class Choice:
    """One block offered to one layer.

    Args:
        block: identifier, unique within its layer, e.g. `"kv4+w512"`.
        score: distance from the parent; lower is better, the parent has exactly 0.
        costs: additive quantities with the unit in the key, e.g. `{"weight_bytes": 1.2e6, "time_ms": 0.8}`.
    """

    block: str
    score: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Limit:
    """The sum over layers of `costs[quantity]` stays at or below `maximum`.

    Args:
        constraint: what the user wrote, e.g. `"memory_gb"`; error messages speak of it.
        quantity: key of `Choice.costs`.
        maximum: in the unit of `quantity`, costs outside the blocks already subtracted; `inf` means no limit.
        to_user: maps a total of `quantity` to the unit of `constraint`, monotonic.
    """

    constraint: str
    quantity: str
    maximum: float
    to_user: Callable[[float], float] = _identity


@dataclass(frozen=True)
class Solution:
    """One block per layer, with the proof of how good it is.

    Args:
        blocks: chosen block of each layer.
        score: sum of the chosen scores, recomputed from the input.
        costs: total of every quantity that all chosen blocks have.
        bound: no selection under the same constraints scores lower.
        gap: `(score - bound) / (score - lowest)`, where `lowest` is the sum of each layer's smallest score, which no
            selection can beat; 0 if the score is `lowest`.
        status: `"OPTIMAL"` (gap as asked for, up to the solver tolerance of 2e-6) or `"FEASIBLE"`.
        solver: `"HIGHS"`, `"CBC"`, or `"LAGRANGIAN"` when the solver had nothing as good as the built-in heuristic.
        seconds: wall time.
        verified: score, costs and limits were recomputed from the input and agree.
    """

    blocks: tuple[str, ...]
    score: float
    costs: dict[str, float]
    bound: float
    gap: float
    status: str
    solver: str
    seconds: float
    verified: bool

    def to_dict(self) -> dict:
        return {**asdict(self), "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Solution":
        return cls(**{**data, "blocks": tuple(data["blocks"]), "costs": dict(data["costs"])})


def solve(
    layers: Sequence[Sequence[Choice]],
    limits: Sequence[Limit] = (),
    *,
    num_solutions: int = 1,
    min_distance: float = 0.2,
    fixed_distance: tuple[Sequence[str], int] | None = None,
    time_limit_s: float = 60.0,
    relative_gap: float = 1e-6,
    solver: str = "auto",
) -> list[Solution]:
    """Return the best selection, then further ones that differ enough from all before, best first.

    Args:
        layers: choices of each layer.
        limits: upper limits on totals.
        num_solutions: how many to return; fewer, with a warning, when there are no more.
        min_distance: fraction of layers in which a solution differs from every earlier one (1 - alpha in the paper);
            at least one layer.
        fixed_distance: blocks of an incumbent and the largest number of layers that may differ from it.
        time_limit_s: wall seconds per solution.
        relative_gap: stop when the gap, as in `Solution.gap`, is proven to be at most this.
        solver: `"auto"` (HiGHS where it works, else CBC, also where HiGHS crashes), `"HIGHS"` or `"CBC"`.

    Raises:
        InfeasibleError: no selection satisfies the limits; says what would.
        TimeLimitError: a `RuntimeError`, nothing feasible found within `time_limit_s`.
        SolverUnusableError: a `ValueError`, the solver asked for does not work here.
        SolverFailedError: a `RuntimeError`, the solver's process crashed or was killed.
        ValueError: malformed input.
    """
    _check_choices(layers, limits)
    _check_options(layers, num_solutions, min_distance, fixed_distance, time_limit_s, relative_gap)
    backend = pick_solver(solver)
    options = (num_solutions, min_distance, fixed_distance, time_limit_s, relative_gap)
    try:
        return _solve_with(backend, layers, limits, *options)
    except SolverFailedError as error:
        if solver != "auto" or backend == "CBC" or solver_state("CBC").reason is not None:
            raise
        logger.warning("%s; CBC takes its place", error)
        return _solve_with("CBC", layers, limits, *options)


def _solve_with(
    backend, layers, limits, num_solutions, min_distance, fixed_distance, time_limit_s, relative_gap
) -> list[Solution]:
    limits = [limit for limit in limits if limit.maximum < math.inf]
    _raise_if_one_limit_is_infeasible(layers, limits)
    problem = _build_problem(layers, limits)
    if fixed_distance is not None:
        incumbent, max_different = fixed_distance
        problem = with_row(problem, ~_is_block(layers, incumbent), max_different)
    max_shared = len(layers) - max(1, math.ceil(min_distance * len(layers) - 1e-9))

    solutions: list[Solution] = []
    while len(solutions) < num_solutions:
        try:
            solution = _solve_once(layers, limits, problem, backend, time_limit_s, relative_gap)
        except TimeLimitError:
            if not solutions:
                raise
            solution = None
        if solution is None and not solutions:
            _raise_jointly_infeasible(limits, problem, backend, time_limit_s, fixed_distance)
        if solution is None:
            logger.warning(
                "found %d of num_solutions=%d: none left that differs in >= %d of %d layers (or none found in %g s)",
                len(solutions), num_solutions, len(layers) - max_shared, len(layers), time_limit_s,
            )  # fmt: skip
            break
        solutions.append(solution)
        problem = with_row(problem, _is_block(layers, solution.blocks), max_shared)
    return sorted(solutions, key=lambda solution: solution.score)


def verify(solution: Solution, layers: Sequence[Sequence[Choice]], limits: Sequence[Limit] = ()) -> None:
    """Recompute score, costs and limits of `solution` from the tables; raise `VerificationError` if they differ."""
    if len(solution.blocks) != len(layers):
        raise VerificationError(f"{len(solution.blocks)} blocks for {len(layers)} layers")
    chosen = []
    for layer_idx, (block, choices) in enumerate(zip(solution.blocks, layers, strict=True)):
        match = [choice for choice in choices if choice.block == block]
        if len(match) != 1:
            raise VerificationError(f"layer {layer_idx} offers no unique block {block!r}")
        chosen += match
    score = math.fsum(choice.score for choice in chosen)
    magnitude = math.fsum(abs(choice.score) for choice in chosen)
    if not math.isclose(score, solution.score, rel_tol=1e-9, abs_tol=1e-12 * magnitude):
        raise VerificationError(f"score is {solution.score!r} but the tables give {score!r}")
    if not solution.bound <= solution.score:
        raise VerificationError(f"bound {solution.bound!r} is above the score {solution.score!r}")
    for quantity, claimed in solution.costs.items():
        total = math.fsum(choice.costs[quantity] for choice in chosen)
        magnitude = math.fsum(abs(choice.costs[quantity]) for choice in chosen)
        if not math.isclose(total, claimed, rel_tol=1e-9, abs_tol=1e-12 * magnitude):
            raise VerificationError(f"{quantity} is {claimed!r} but the tables give {total!r}")
    for limit in limits:
        total = math.fsum(choice.costs[limit.quantity] for choice in chosen)
        if total > limit.maximum + _LIMIT_TOLERANCE * _magnitude(layers, limit.quantity):
            raise VerificationError(f"{limit.constraint}: {limit.quantity} {total!r} exceeds {limit.maximum!r}")


def lagrangian_bound(layers: Sequence[Sequence[Choice]], limits: Sequence[Limit] = ()) -> float:
    """Lower bound on the best score, from relaxing `limits` with multipliers; independent of any MIP solver."""
    _check_choices(layers, limits)
    limits = [limit for limit in limits if limit.maximum < math.inf]
    problem, lowest = above_lowest(_build_problem(layers, limits))
    return lagrangian(problem).bound + lowest


# ---- input ----


def _check_choices(layers: Sequence[Sequence[Choice]], limits: Sequence[Limit]) -> None:
    if not layers:
        raise ValueError("layers is empty: pass the choices of at least one layer")
    for limit in limits:
        if math.isnan(limit.maximum) or limit.maximum == -math.inf:
            raise ValueError(f"{limit.constraint}: maximum is {limit.maximum}, expected a number")
    for layer_idx, choices in enumerate(layers):
        if not choices:
            raise ValueError(f"layer {layer_idx} has no choices: every layer needs at least its parent block")
        seen = set()
        for choice in choices:
            where = f"layer {layer_idx}, block {choice.block!r}"
            if choice.block in seen:
                raise ValueError(f"{where}: listed twice, block ids must be unique within a layer")
            seen.add(choice.block)
            if not math.isfinite(choice.score):
                raise ValueError(f"{where}: score is {choice.score}, expected a finite number; drop or rescore it")
            for quantity, cost in choice.costs.items():
                if not math.isfinite(cost):
                    raise ValueError(f"{where}: {quantity} is {cost}, expected a finite number; measure it again")
            for limit in limits:
                if limit.quantity not in choice.costs:
                    raise ValueError(
                        f"{where}: no cost {limit.quantity!r}, which {limit.constraint} limits; "
                        f"it has {sorted(choice.costs)}"
                    )


def _check_options(layers, num_solutions, min_distance, fixed_distance, time_limit_s, relative_gap) -> None:
    if num_solutions < 1:
        raise ValueError(f"num_solutions is {num_solutions}, expected >= 1")
    if not 0 <= min_distance <= 1:
        raise ValueError(f"min_distance is {min_distance}, expected a fraction of the layers between 0 and 1")
    if not time_limit_s > 0:
        raise ValueError(f"time_limit_s is {time_limit_s}, expected > 0 seconds")
    if not 0 <= relative_gap < 1:
        raise ValueError(f"relative_gap is {relative_gap}, expected 0 <= relative_gap < 1")
    if fixed_distance is None:
        return
    incumbent, max_different = fixed_distance
    if len(incumbent) != len(layers):
        raise ValueError(
            f"fixed_distance names {len(incumbent)} blocks, expected one for each of {len(layers)} layers"
        )
    if max_different < 0:
        raise ValueError(f"fixed_distance allows {max_different} different layers, expected >= 0")
    for layer_idx, (block, choices) in enumerate(zip(incumbent, layers, strict=True)):
        offered = [choice.block for choice in choices]
        if block not in offered:
            raise ValueError(f"fixed_distance: layer {layer_idx} does not offer {block!r}, only {offered}")


# ---- the solver's process ----

_PROCESS = Path(__file__).with_name("mip_process.py")
_GRACE_S = 60.0  # for a process to start on a slow disk, beyond the time limit
_REMEDIES = {
    "HIGHS": "pip install mip 'highsbox>=1.15.1,<1.16'",
    "CBC": "pip install mip",
}


@dataclass(frozen=True)
class SolverState:
    """Whether a solver works here: `reason` is None if it solved a small program; else why it did not."""

    reason: str | None = None
    library: str | None = None  # path of the shared library
    version: str | None = None  # where the library says so


def solver_state(name: str) -> SolverState:
    """Ask `"HIGHS"` or `"CBC"` to solve a program of one variable; the answer is remembered for this process."""
    return _solver_state(name, os.environ.get(f"PMIP_{name}_LIBRARY"))


@functools.cache
def _solver_state(name: str, library: str | None) -> SolverState:
    try:
        found = _ask(name, {"objective": [1.0], "groups": [[0]], "rows": []}, 10.0, 0.0)
    except (SolverFailedError, subprocess.TimeoutExpired) as error:
        remedy = _REMEDIES[name] if library is None else f"correct or unset PMIP_{name}_LIBRARY={library}"
        return SolverState(f"{error}; {remedy}")
    if found.get("values") != [1.0]:
        return SolverState(f"{name} answers {found} to the program `minimise x, x = 1`")
    return SolverState(None, found["library"], found["version"])


def pick_solver(solver: str) -> str:
    """The solver that `solver` means on this machine: `"HIGHS"` or `"CBC"`; `"auto"` prefers HiGHS.

    Raises:
        SolverUnusableError: none works.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}, expected one of {', '.join(SOLVERS)}")
    names = SOLVERS[1:] if solver == "auto" else (solver,)
    reasons = {}
    for name in names:
        reasons[name] = solver_state(name).reason
        if reasons[name] is None:
            if reasons.get("HIGHS") is not None:
                _warn_once(f"HiGHS cannot be used, CBC takes its place: {reasons['HIGHS']}")
            return name
    others = "" if solver == "auto" else ", or use solver='auto'"
    raise SolverUnusableError(f"solver is {solver!r}, but {'. '.join(reasons.values())}{others}")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _ask(solver: str, program: dict, time_limit_s: float, relative_gap: float) -> dict:
    """What `mip_process.solve` answers.

    Raises:
        SolverFailedError: the process ended without an answer, or its answer is an error.
        subprocess.TimeoutExpired: it still ran `_GRACE_S` after the time limit, and was killed.
    """
    deadline_s = min(time_limit_s, 1e7) + _GRACE_S  # some clocks overflow
    request = {
        "path": [os.path.abspath(entry) for entry in sys.path if entry],
        "deadline_s": deadline_s,
        "solver": solver,
        "time_limit_s": time_limit_s,
        "relative_gap": relative_gap,
        **program,
    }
    # -P: the files beside ours must not stand for packages of the same name
    command = [sys.executable or "python", "-P", "-W", "ignore", str(_PROCESS)]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, encoding="utf-8", errors="replace",
            timeout=deadline_s,
        )  # fmt: skip
    except OSError as error:
        raise SolverFailedError(f"the process of {solver} cannot be started: {error}") from None
    if done.returncode != 0:
        code = -done.returncode
        how = signal.Signals(code).name if code in set(signal.Signals) else f"exit code {done.returncode}"
        raise SolverFailedError(
            ": ".join([f"the process of {solver} ended with {how}", *done.stderr.splitlines()[-1:]])
        )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise SolverFailedError(f"{command[0]} answers {done.stdout[:80]!r}; is it a Python?") from None
    if "error" in found:
        raise SolverFailedError(f"{solver} failed: {found['error']}")
    return found


# ---- the problem as arrays ----


def _build_problem(layers: Sequence[Sequence[Choice]], limits: Sequence[Limit]) -> Problem:
    shape = (len(layers), max(len(choices) for choices in layers))
    scores = np.full(shape, np.inf)
    costs = np.zeros((len(limits), *shape))
    for layer_idx, choices in enumerate(layers):
        scores[layer_idx, : len(choices)] = [choice.score for choice in choices]
        for row, limit in enumerate(limits):
            costs[row, layer_idx, : len(choices)] = [choice.costs[limit.quantity] for choice in choices]
    maxima = [limit.maximum + _SLACK * _magnitude(layers, limit.quantity) for limit in limits]
    return Problem(scores, costs, np.array(maxima))


def _magnitude(layers: Sequence[Sequence[Choice]], quantity: str) -> float:
    return math.fsum(max(abs(choice.costs[quantity]) for choice in choices) for choices in layers)


def _is_block(layers: Sequence[Sequence[Choice]], blocks: Sequence[str]) -> np.ndarray:
    """True at the choices named in `blocks`, shape (L, J)."""
    mask = np.zeros((len(layers), max(len(choices) for choices in layers)), dtype=bool)
    for layer_idx, (block, choices) in enumerate(zip(blocks, layers, strict=True)):
        mask[layer_idx, [choice.block for choice in choices].index(block)] = True
    return mask


# ---- the MIP ----


@dataclass(frozen=True)
class _Answer:
    status: str  # mip.OptimizationStatus name
    picks: np.ndarray | None = None  # (L,)
    bound: float = -math.inf


def _run_mip(problem: Problem, backend: str, time_limit_s: float, relative_gap: float) -> _Answer:
    """Solve `problem` in a fresh process."""
    kept = np.isfinite(problem.scores)
    if (np.where(kept, problem.costs, np.inf).min(2).sum(1) > problem.maxima).any():
        # CBC can crash on tiny infeasible models (github.com/coin-or/Cbc/issues/693): spare it the obvious ones
        return _Answer("INFEASIBLE")
    score_scale = _TARGET_MAGNITUDE / largest_magnitude(problem.scores)
    numbers = np.cumsum(kept).reshape(kept.shape) - 1  # of the variables, where kept
    rows = []
    for row, maximum in zip(problem.costs, problem.maxima, strict=True):
        row_scale = _TARGET_MAGNITUDE / largest_magnitude(np.where(kept, row, 0.0))
        used = kept & (row != 0)
        rows.append((numbers[used].tolist(), (row[used] * row_scale).tolist(), float(maximum * row_scale)))
    request = {
        "objective": (problem.scores[kept] * score_scale).tolist(),
        "groups": [layer[layer_kept].tolist() for layer, layer_kept in zip(numbers, kept, strict=True)],
        "rows": rows,
    }
    try:
        found = _ask(backend, request, time_limit_s, relative_gap)
    except subprocess.TimeoutExpired as error:
        logger.warning("%s gave no answer within %g s (time_limit_s=%g)", backend, error.timeout, time_limit_s)
        return _Answer("NO_SOLUTION_FOUND")
    if "values" not in found:
        return _Answer(found["status"])
    weights = np.zeros(kept.shape)
    weights[kept] = found["values"]
    picks = weights.argmax(1)
    bound = _solver_bound(problem, found, picks, score_scale, backend, relative_gap)
    return _Answer(found["status"], picks, bound)


def _solver_bound(problem, found, picks, score_scale, backend, relative_gap) -> float:
    """The solver's lower bound in units of the scores, -inf if its own objective does not match the tables."""
    score, _ = totals_of(problem, picks)
    objective, bound = found["objective"], found["bound"]
    if not math.isclose(objective, score * score_scale, rel_tol=1e-5, abs_tol=1e-6):
        return -math.inf
    if backend == "CBC":
        # CBC sets the bound to the objective once within the gap, so only "within the gap" is proven
        bound = min(bound, objective - relative_gap * abs(objective))
    return bound / score_scale if math.isfinite(bound) else -math.inf


def _search(problem: Problem, backend: str, time_limit_s: float, relative_gap: float) -> tuple[_Answer, Dual]:
    """Prune, then run the MIP; once more if its answer shows that huge scores had squeezed the small ones to noise."""
    deadline = time.perf_counter() + time_limit_s
    problem = drop_dominated(problem)
    dual = lagrangian(problem)
    pruned = drop_hopeless(problem, dual.multipliers, dual.upper)
    answer = _run_mip(pruned, backend, time_limit_s, relative_gap)
    if answer.picks is not None:
        repruned = drop_hopeless(pruned, dual.multipliers, totals_of(problem, answer.picks)[0])
        seconds_left = deadline - time.perf_counter()
        if largest_magnitude(repruned.scores) < 1e-2 * largest_magnitude(pruned.scores) and seconds_left > 0:
            again = _run_mip(repruned, backend, seconds_left, relative_gap)
            answer = again if again.picks is not None else answer
    return answer, dual


def _solve_once(layers, limits, problem, backend, time_limit_s, relative_gap) -> Solution | None:
    """One verified solution, None if there is none."""
    start = time.perf_counter()
    problem, lowest = above_lowest(problem)
    answer, dual = _search(problem, backend, time_limit_s, relative_gap)
    picks, used = answer.picks, backend
    if picks is None or dual.upper < totals_of(problem, picks)[0]:
        picks, used = dual.picks, "LAGRANGIAN"
    if picks is None:
        if answer.status in ("INFEASIBLE", "INT_INFEASIBLE", "UNBOUNDED"):  # bounded: HiGHS says so when undecided
            return None
        if answer.status != "NO_SOLUTION_FOUND":
            raise SolverFailedError(f"{backend} failed with status {answer.status}; try another solver of {SOLVERS}")
        raise TimeLimitError(f"{backend} found no solution in time_limit_s={time_limit_s:g}; raise time_limit_s")
    above, totals = totals_of(problem, picks)
    excess = totals - problem.maxima - _LIMIT_TOLERANCE * np.abs(problem.costs).max(2).sum(1)
    if (excess > 0).any():
        rows = np.flatnonzero(excess > 0).tolist()
        raise VerificationError(f"{used} broke row(s) {rows} by {excess.max():g}; try another solver of {SOLVERS}")

    bound = min(above, max(answer.bound, dual.bound, 0.0))
    gap = (above - bound) / above if above else 0.0
    chosen = [choices[pick] for choices, pick in zip(layers, picks, strict=True)]
    quantities = sorted(set.intersection(*(set(choice.costs) for choice in chosen)))
    score = math.fsum(choice.score for choice in chosen)
    solution = Solution(
        blocks=tuple(choice.block for choice in chosen),
        score=score,
        costs={quantity: math.fsum(choice.costs[quantity] for choice in chosen) for quantity in quantities},
        bound=min(score, bound + lowest),
        gap=gap,
        status="OPTIMAL" if gap <= relative_gap + _GAP_TOLERANCE else "FEASIBLE",
        solver=used,
        seconds=time.perf_counter() - start,
        verified=False,
    )
    verify(solution, layers, limits)
    if solution.status != "OPTIMAL":
        logger.warning("%s stopped at a gap of %.2g (time_limit_s=%g)", used, gap, time_limit_s)
    return replace(solution, verified=True)


# ---- infeasible limits ----


def _raise_if_one_limit_is_infeasible(layers: Sequence[Sequence[Choice]], limits: Sequence[Limit]) -> None:
    smallest = {}
    for limit in limits:
        total = math.fsum(min(choice.costs[limit.quantity] for choice in choices) for choices in layers)
        if total > limit.maximum + _SLACK * _magnitude(layers, limit.quantity):
            smallest[limit] = total
    if smallest:
        nearest = {limit.constraint: limit.to_user(total) for limit, total in smallest.items()}
        text = "; ".join(_describe(limit, nearest[limit.constraint]) for limit in smallest)
        raise InfeasibleError(f"{text}. Relax it or offer smaller blocks.", nearest)


def _raise_jointly_infeasible(limits, problem, backend, time_limit_s, fixed_distance) -> None:
    """Report, for each limit, what it would have to be if all other constraints stay."""
    nearest, lines = {}, []
    for row, limit in enumerate(limits):
        others = np.arange(len(problem.maxima)) != row
        objective = np.where(np.isfinite(problem.scores), problem.costs[row], np.inf)
        cheapest = Problem(objective, problem.costs[others], problem.maxima[others])
        answer, dual = _search(above_lowest(cheapest)[0], backend, time_limit_s, 1e-6)
        picks = dual.picks if answer.picks is None else answer.picks
        if picks is not None:
            nearest[limit.constraint] = limit.to_user(totals_of(cheapest, picks)[0])
            lines.append(_describe(limit, nearest[limit.constraint]))
    near = "" if fixed_distance is None else f" within {fixed_distance[1]} layers of the given blocks"
    asked = ", ".join(f"{limit.constraint}={limit.to_user(limit.maximum):g}" for limit in limits)
    advice = f"Relax one of them: {'; '.join(lines)}" if lines else "Relax several of them, no single one is enough"
    raise InfeasibleError(f"{asked} cannot hold together{near}. {advice}.", nearest)


def _describe(limit: Limit, nearest: float) -> str:
    asked = limit.to_user(limit.maximum)
    return (
        f"{limit.constraint}={asked:g} is infeasible, the nearest feasible value is {_round_away(nearest, asked):.5g}"
    )


def _round_away(value: float, asked: float) -> float:
    """Round to 5 digits away from `asked`, so that the printed value is feasible when typed in."""
    if value == 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 4)
    return (math.ceil if value > asked else math.floor)(round(value / unit, 6)) * unit
