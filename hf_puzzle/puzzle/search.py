"""The search: constraints become limits of the MIP, its solutions are judged on real text and timed on the machine.

Target -> solve -> rescore -> measure -> recalibrate, until the *lower confidence bound* of the measured speed-up clears
the target.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..costs import Ratio, Timing, cpu_threads, in_dtype, measure_interleaved, median_timing, speed_ratio
from ..recipe import ConstraintsConfig, CostConfig, RecipeError, ScoreConfig, SolveConfig
from .block_costs import CostTable
from .child import empty_child
from .library import BlockLibrary
from .scoring import Metric, Score, distance, score_blocks
from .search_space import Block, SearchSpace
from .solver import Choice, InfeasibleError, Limit, Solution, solve


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A child the search considers: a verified solution at one batch size, and what is known of it."""

    batch_size: int
    solution: Solution
    predicted: Timing
    distance: float | None = None  # the metric of the whole child, measured
    distance_stderr: float | None = None

    @property
    def blocks(self) -> list[Block]:
        return [Block.parse(text) for text in self.solution.blocks]

    def to_dict(self) -> dict:
        return {
            "batch_size": self.batch_size,
            "blocks": list(self.solution.blocks),
            "solution": self.solution.to_dict(),
            "predicted_prefill_ms": self.predicted.prefill_ms,
            "predicted_decode_ms": self.predicted.decode_ms,
            "distance": self.distance,
            "distance_stderr": self.distance_stderr,
        }


def limits_for(
    constraints: ConstraintsConfig, costs: CostTable, batch_size: int, parent_tokens_per_ms: float, margin: float = 1.0
) -> list[Limit]:
    """The constraints at one batch size, as upper limits on sums over the layers.

    Args:
        parent_tokens_per_ms: the parent's best measured throughput, for `speedup`.
        margin: > 1 asks for more speed than the constraint says, to make up for a prediction that was too good.
    """
    fixed = costs.non_block_costs(batch_size)
    tokens = costs.workload_of(batch_size).tokens
    limits = []

    def at_most(name: str, quantity: str, maximum: float, to_user: Callable[[float], float]) -> None:
        base = fixed[quantity]
        limits.append(Limit(name, quantity, maximum - base, lambda total: to_user(total + base)))

    if constraints.speedup is not None:
        rate = parent_tokens_per_ms
        budget = tokens / (rate * constraints.speedup * margin)
        at_most("speedup", "total_ms", budget, lambda ms: tokens / (rate * margin * ms))
    if constraints.throughput_tokens_per_s is not None:
        budget = tokens / (constraints.throughput_tokens_per_s * margin / 1e3)
        at_most("throughput_tokens_per_s", "total_ms", budget, lambda ms: tokens / ms * 1e3 / margin)
    if constraints.latency_ms is not None:
        at_most("latency_ms", "total_ms", constraints.latency_ms / margin, lambda ms: ms * margin)
    if constraints.prefill_ms is not None:
        at_most("prefill_ms", "prefill_ms", constraints.prefill_ms / margin, lambda ms: ms * margin)
    if constraints.memory_gb is not None:
        at_most("memory_gb", "memory_bytes", constraints.memory_gb * 1e9, lambda total: total / 1e9)
    if constraints.num_parameters is not None:
        at_most("num_parameters", "num_parameters", constraints.num_parameters, lambda total: total)
    return limits


def check_constraints(constraints: ConstraintsConfig, cost: CostConfig) -> None:
    """Raises RecipeError for values no child could ever satisfy."""
    for name, value in vars(constraints).items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise RecipeError(f"constraints.{name}: {value} is impossible; give a positive number")
    if constraints.max_batch_size is not None and min(cost.batch_sizes) > constraints.max_batch_size:
        raise RecipeError(
            f"constraints.max_batch_size {constraints.max_batch_size} is below every cost.batch_sizes {cost.batch_sizes}"
        )


def parent_tokens_per_ms(costs: CostTable, constraints: ConstraintsConfig) -> float:
    """The parent's best measured throughput over the batch sizes that the application has."""
    return max(
        costs.workload_of(b).tokens / (rows[0]["prefill_ms"] + rows[0]["decode_ms"])
        for b, rows in costs.children.items()
        if b <= (constraints.max_batch_size or b)
    )


def choices(scores: list[Score], costs: CostTable, batch_size: int) -> list[list[Choice]]:
    """The solver's rows: every scored block of every layer with its costs at a batch size."""
    layers: dict[int, list[Choice]] = {}
    for score in scores:
        block = Block.parse(score.block)
        # sampling noise may put a block below the parent's 0; the solver sees the order, reports show the value
        layers.setdefault(score.layer_idx, []).append(
            Choice(score.block, score.value, costs.block_costs(block, batch_size))
        )
    return [layers[i] for i in sorted(layers)]


def solve_all(
    scores: list[Score],
    costs: CostTable,
    constraints: ConstraintsConfig,
    config: SolveConfig,
    margin: float = 1.0,
    one_kv_count: bool = False,
    **kwargs,
) -> list[Candidate]:
    """Solutions over all batch sizes, best predicted score first.

    Args:
        one_kv_count: all live attentions of a child must have the same number of KV heads (SGLang).

    Raises:
        InfeasibleError: no batch size satisfies the constraints; the message names the constraint and what is feasible.
    """
    rate = parent_tokens_per_ms(costs, constraints)
    candidates, failures = [], []
    batch_sizes = [b for b in sorted(costs.times) if b <= (constraints.max_batch_size or b)]
    for batch_size in batch_sizes:
        limits = limits_for(constraints, costs, batch_size, rate, margin)
        layers = choices(scores, costs, batch_size)
        for offered in _same_kv_count(layers) if one_kv_count else [layers]:
            try:
                solutions = solve(
                    offered,
                    limits,
                    num_solutions=config.num_solutions,
                    min_distance=config.min_distance,
                    time_limit_s=config.time_limit_s,
                    relative_gap=config.relative_gap,
                    solver=config.solver,
                    **kwargs,
                )
            except InfeasibleError as error:
                failures.append((batch_size, error))
                continue
            for solution in solutions:
                blocks = [Block.parse(text) for text in solution.blocks]
                candidates.append(Candidate(batch_size, solution, costs.predict(blocks, batch_size)))
    if not candidates:
        batch_size, error = failures[-1]
        raise InfeasibleError(f"batch size {batch_size}: {error}", error.nearest)
    return sorted(candidates, key=lambda c: c.solution.score)


def _same_kv_count(layers: list[list[Choice]]) -> list[list[list[Choice]]]:
    """One copy of the tables per KV-head count, without the blocks of other counts; counts that leave a layer bare go."""
    attention = {choice.block: Block.parse(choice.block).attention for layer in layers for choice in layer}
    copies = []
    for count in sorted({a for a in attention.values() if isinstance(a, int)}, reverse=True):
        kept = [
            [c for c in layer if attention[c.block] == count or isinstance(attention[c.block], str)]
            for layer in layers
        ]
        if all(kept):
            copies.append(kept)
    return copies


class Search:
    """One search over stored scores and costs; `rounds` records every step for `solutions.json`."""

    def __init__(
        self,
        parent: PreTrainedModel,
        space: SearchSpace,
        library: BlockLibrary,
        scores: list[Score],
        costs: CostTable,
        metric: Metric,
        constraints: ConstraintsConfig,
        config: SolveConfig,
        score_config: ScoreConfig,
        one_kv_count: bool = False,
    ):
        self.parent, self.space, self.library, self.metric = parent, space, library, metric
        self.scores, self.costs, self.constraints = scores, costs, constraints
        self.config, self.score_config, self.one_kv_count = config, score_config, one_kv_count
        self.rounds: list[dict] = []
        self.rescored: dict[tuple[str, ...], list[Score]] = {}

    def run(self) -> tuple[Candidate, dict[str, Ratio] | None]:
        """The best child whose measured speed clears the target, and the measurement (None if no time was asked for).

        Raises:
            InfeasibleError: the constraints cannot be met, or were not met within `solve.max_rounds` rounds.
        """
        margin, best = 1.0, None
        timed = ("speedup", "throughput_tokens_per_s", "latency_ms", "prefill_ms")
        wants_time = any(getattr(self.constraints, name) is not None for name in timed)
        for round_idx in range(self.config.max_rounds):
            candidate = self._best_candidate(margin)
            if not wants_time:
                return candidate, None
            measured = self.measure(candidate)
            reached = measured["bound_over_target"]
            self.rounds.append({"round": round_idx, "margin": margin, **candidate.to_dict(), **jsonable(measured)})
            logger.info(
                "round %d: %.3fx measured (at least %.3fx), target reached by %.3f, %s %.4f",
                round_idx, measured["total"].value, measured["total"].lower_bound, reached,
                self.score_config.metric, candidate.distance,
            )  # fmt: skip
            if reached >= 1 and (best is None or candidate.distance < best[0].distance):
                best = (candidate, measured)
            # a little slack is cheaper than another round; much slack is quality thrown away
            if 1 <= reached <= 1.03:
                break
            new_margin = margin / reached * 1.003
            if best is not None and reached < 1:
                break
            margin = new_margin
        if best is None:
            raise InfeasibleError(
                f"no child measured fast enough in {self.config.max_rounds} rounds (see solutions.json for each); "
                "raise solve.max_rounds, offer cheaper blocks in search_space, or lower the target",
                {},
            )
        return best

    def _best_candidate(self, margin: float) -> Candidate:
        """MIP, true distance of its diverse solutions, then rescoring around the best one."""
        candidates = [
            self._judged(c)
            for c in solve_all(
                self.scores, self.costs, self.constraints, self.config, margin, one_kv_count=self.one_kv_count
            )
        ]
        best = min(candidates, key=lambda c: c.distance)
        for _ in range(self.config.rescore_rounds):
            better = self._rescored(best, margin)
            if better is None:
                break
            best = better
        return best

    def _judged(self, candidate: Candidate) -> Candidate:
        value, error = distance(
            self.parent, self.space, self.library, self.metric, self.score_config.batch_size, candidate.blocks
        )
        return Candidate(candidate.batch_size, candidate.solution, candidate.predicted, value, error)

    def _rescored(self, incumbent: Candidate, margin: float) -> Candidate | None:
        """A better child near `incumbent`, by scores taken around it; None if there is none."""
        key = incumbent.solution.blocks
        if key not in self.rescored:
            offered = [self._worth_rescoring(i, block) for i, block in enumerate(incumbent.blocks)]
            self.rescored[key] = score_blocks(
                self.parent,
                self.space,
                self.library,
                self.metric,
                self.score_config,
                incumbent.blocks,
                offered,
            )
        scores = self.rescored[key]
        radius = max(1, round(self.config.rescore_distance * len(self.space.layers)))
        found = None
        # the linear model holds near the incumbent only: try the wide step first, then smaller ones
        while radius >= 1 and found is None:
            nearby = solve_all(
                scores,
                self.costs,
                self.constraints,
                dataclasses.replace(self.config, num_solutions=1),
                margin,
                self.one_kv_count,
                fixed_distance=(incumbent.solution.blocks, radius),
            )
            judged = [self._judged(c) for c in nearby if c.solution.blocks != incumbent.solution.blocks]
            found = min((c for c in judged if c.distance < incumbent.distance), key=lambda c: c.distance, default=None)
            radius //= 2
        return found

    def _worth_rescoring(self, layer_idx: int, own: Block) -> list[Block]:
        """The layer's own block, and those that no other block beats in both score and time."""
        rows = sorted(
            (costs["total_ms"], score.value, score.block)
            for score in self.scores
            if score.layer_idx == layer_idx
            for costs in [self.costs.block_costs(Block.parse(score.block), min(self.costs.times))]
        )
        kept, best = [own], float("inf")
        for _, value, block in rows:
            if value < best:
                best = value
                kept.append(Block.parse(block))
        return list(dict.fromkeys(kept))

    def measure(self, candidate: Candidate) -> dict:
        """Measured speed of a candidate, and how far its lower bound clears the constraints."""
        dtype = getattr(torch, self.costs.dtype)
        child = empty_child(self.parent.config, candidate.blocks, dtype, self.parent.device)
        measured = measure_speed(
            self.parent, child, candidate.batch_size, self.space, self.costs, self.config, self.config.measure_rounds
        )
        measured["bound_over_target"] = self._reached(measured, candidate.batch_size)
        return measured

    def _reached(self, measured: dict, batch_size: int) -> float:
        """Lower bound of the measured speed / the constraint; 1 just meets it."""
        bound, reached = measured["total"].lower_bound, []
        if self.constraints.speedup is not None:
            own = self.costs.children[batch_size][0]
            own_rate = self.costs.workload_of(batch_size).tokens / (own["prefill_ms"] + own["decode_ms"])
            best_rate = parent_tokens_per_ms(self.costs, self.constraints)
            reached.append(bound * own_rate / best_rate / self.constraints.speedup)
        if self.constraints.throughput_tokens_per_s is not None:
            slack = bound / measured["total"].value
            reached.append(measured["tokens_per_s"] * slack / self.constraints.throughput_tokens_per_s)
        if self.constraints.latency_ms is not None:
            reached.append(self.constraints.latency_ms / measured["child_ms"])
        if self.constraints.prefill_ms is not None:
            reached.append(self.constraints.prefill_ms / measured["child_prefill_ms"])
        return min(reached)


def measure_speed(
    parent: PreTrainedModel,
    child: PreTrainedModel,
    batch_size: int,
    space: SearchSpace,
    costs: CostTable,
    config: SolveConfig,
    rounds: int,
) -> dict:
    """Speed of a child against its parent, generated in turn: `total`, `prefill`, `decode` and `same_code` ratios.

    `total` compares with the parent as its user runs it; `same_code` with the parent's architecture run by the child's
    modelling code, which is the architecture's own gain.
    """
    workload = costs.workload_of(batch_size)
    same_code = empty_child(parent.config, [space.parent] * len(space.layers), child.dtype, parent.device)
    models = {"parent": in_dtype(parent, child.dtype), "same_code": same_code, "child": child}
    with cpu_threads(costs.workload["threads"]):
        timings = measure_interleaved(models, workload, rounds, costs.workload["clock"], "measure")
    slow, fast = timings["parent"], timings["child"]
    parts = {"total": "total_ms", "prefill": "prefill_ms", "decode": "decode_ms"}
    result = {name: speed_ratio(slow, fast, config.confidence, part) for name, part in parts.items()}
    result["same_code"] = speed_ratio(timings["same_code"], fast, config.confidence)
    child_timing, parent_timing = median_timing(fast), median_timing(slow)
    return result | {
        "child_ms": child_timing.total_ms,
        "child_prefill_ms": child_timing.prefill_ms,
        "parent_ms": parent_timing.total_ms,
        "tokens_per_s": workload.tokens / child_timing.total_ms * 1e3,
        "parent_tokens_per_s": workload.tokens / parent_timing.total_ms * 1e3,
    }


def jsonable(measured: dict) -> dict:
    """Ratios as dicts."""
    return {k: v.to_dict() if isinstance(v, Ratio) else v for k, v in measured.items()}
