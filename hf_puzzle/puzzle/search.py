"""The search: constraints become limits of the MIP, its solutions are judged on real text and timed on the machine.

Target -> solve -> rescore -> measure -> recalibrate, until the *lower confidence bound* of the measured speed-up clears
the target.
"""

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..artifacts import ArtifactError
from ..blocks import Block, kv_heads
from ..costs import Ratio, Timing, cpu_threads, in_dtype, median_timing, speed_ratio
from ..engines.measuring import measure_models
from ..formats import DECILM
from ..progress import bar
from ..recipe import ConstraintsConfig, CostConfig, RecipeError, SolveConfig
from .block_costs import BYTES, CostTable, kv_bytes_per_token, kv_tokens, non_block_parameters, num_parameters
from .child import empty_child
from .judge import Judge
from .scoring import Score, score_blocks, with_sums
from .search_space import SearchSpace
from .solver import Choice, InfeasibleError, Limit, Solution, solve


logger = logging.getLogger(__name__)

# candidates timed together in a round: asking for a little less and a little more brackets what predictions miss
MARGINS = (0.985, 1.0, 1.02)


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


def check_sizes(
    config, space: SearchSpace, constraints: ConstraintsConfig, cost: CostConfig, fmt: str = DECILM
) -> None:
    """Refuse size constraints that no child of the space meets, from shapes alone.

    Raises:
        InfeasibleError: with the smallest feasible value.
    """
    batch_size, length = min(cost.batch_sizes), cost.prefill_tokens + cost.decode_tokens
    parameters = {
        (kind, v): num_parameters(config, kind, v, fmt) for kind, variants in space.variants.items() for v in variants
    }
    sizes = [
        [
            (
                parameters["attention", block.attention] + parameters["ffn", block.ffn],
                batch_size
                * kv_tokens(block.attention, length)
                * kv_bytes_per_token(config, block.attention, cost.dtype),
            )
            for block in layer.blocks
        ]
        for layer in space.layers
    ]
    fixed, width = non_block_parameters(config), BYTES[cost.dtype]
    smallest = {
        "num_parameters": fixed + sum(min(p for p, _ in layer) for layer in sizes),
        "memory_gb": (fixed * width + sum(min(p * width + kv for p, kv in layer) for layer in sizes)) / 1e9,
    }
    for name, least in smallest.items():
        asked = getattr(constraints, name)
        if asked is not None and asked < least:
            raise InfeasibleError(
                f"constraints.{name} {asked} is impossible: the smallest child of this search space has {least:.6g}; "
                "raise it, or offer smaller blocks in search_space",
                {name: least},
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
    if missing := set(range(max(layers, default=0) + 1)) - set(layers):
        raise ArtifactError(f"scores.jsonl has no score of layer {min(missing)}: run the stage `score` again")
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
    if not batch_sizes:
        raise RecipeError(
            f"constraints.max_batch_size {constraints.max_batch_size} is below every batch size of costs.json "
            f"({', '.join(map(str, sorted(costs.times)))})"
        )
    for batch_size in bar(batch_sizes, desc="MIP"):
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
    for count in sorted({heads for a in attention.values() if (heads := kv_heads(a))}, reverse=True):
        kept = [[c for c in layer if kv_heads(attention[c.block]) in (count, None)] for layer in layers]
        if all(kept):
            copies.append(kept)
    return copies


class Search:
    """One search over stored scores and costs; `rounds` records every step for `solutions.json`."""

    def __init__(
        self,
        judge: Judge,
        scores: list[Score],
        costs: CostTable,
        constraints: ConstraintsConfig,
        config: SolveConfig,
        one_kv_count: bool = False,
        fmt: str = DECILM,
    ):
        self.judge, self.parent, self.space = judge, judge.parent, judge.space
        self.scores, self.costs, self.constraints = with_sums(scores, judge.space), costs, constraints
        self.config, self.one_kv_count, self.fmt = config, one_kv_count, fmt
        self.rounds: list[dict] = []
        self.rescored: dict[tuple[str, ...], list[Score]] = {}

    def run(self) -> tuple[Candidate, dict[str, Ratio] | None]:
        """The best child whose measured speed clears the target, and the measurement (None if no time was asked for).

        Raises:
            InfeasibleError: the constraints cannot be met, or were not met within `solve.max_rounds` rounds.
        """
        timed = ("speedup", "throughput_tokens_per_s", "latency_ms", "prefill_ms")
        if all(getattr(self.constraints, name) is None for name in timed):
            return self._best_candidate(1.0, self.config.rescore_rounds), None
        margin, reached = 1.0, []
        for round_idx in bar(range(self.config.max_rounds), desc="solve: rounds"):
            # the first round only corrects the predictions; rescoring and full measurements would be wasted on it
            corrects = round_idx == 0 and self.config.max_rounds > 1
            candidates = [self._best_candidate(margin, 0)] if corrects else self._candidates_around(margin)
            measured = self.measure(candidates, self.config.measure_rounds // (2 if corrects else 1))
            for candidate, result in zip(candidates, measured, strict=True):
                self.rounds.append({"round": round_idx, "margin": margin, **candidate.to_dict(), **jsonable(result)})
                logger.info(
                    "round %d: %.3fx measured (at least %.3fx), bound / target %.3f, %s %.4f",
                    round_idx, result["total"].value, result["total"].lower_bound, result["bound_over_target"],
                    self.judge.metric.config.metric, candidate.distance,
                )  # fmt: skip
            bounds = [result["bound_over_target"] for result in measured]
            if not corrects:
                reached += [
                    pair for pair, b in zip(zip(candidates, measured, strict=True), bounds, strict=True) if b >= 1
                ]
                if reached and min(bounds) <= 1.03:  # much slack everywhere is quality thrown away: another round
                    break
            margin = margin / statistics.median(bounds) * 1.004
        if not reached:
            raise InfeasibleError(
                f"no child measured fast enough in {self.config.max_rounds} rounds (see the log for each); raise "
                "solve.max_rounds, offer cheaper blocks in search_space, or lower the target",
                {},
            )
        return min(reached, key=lambda pair: pair[0].distance)

    def _candidates_around(self, margin: float) -> list[Candidate]:
        """Distinct best children for a few margins; margins that nothing satisfies are left out, unless none is."""
        found: dict[tuple[str, ...], Candidate] = {}
        for factor in MARGINS:
            try:
                candidate = self._best_candidate(margin * factor, self.config.rescore_rounds)
            except InfeasibleError:
                if not found:
                    raise
                break
            found.setdefault(candidate.solution.blocks, candidate)
        return list(found.values())

    def _best_candidate(self, margin: float, rescore_rounds: int) -> Candidate:
        """MIP, true distance of its diverse solutions, then rescoring around the best one."""
        one_kv_count = self.one_kv_count
        found = solve_all(self.scores, self.costs, self.constraints, self.config, margin, one_kv_count)
        best = min((self._judged(c) for c in bar(found, desc="candidates")), key=lambda c: c.distance)
        for _ in range(rescore_rounds):
            better = self._rescored(best, margin)
            if better is None:
                break
            best = better
        return best

    def _judged(self, candidate: Candidate) -> Candidate:
        value, error = self.judge.distance(candidate.blocks)
        return dataclasses.replace(candidate, distance=value, distance_stderr=error)

    def _rescored(self, incumbent: Candidate, margin: float) -> Candidate | None:
        """A better child near `incumbent`, by scores taken around it or around a close earlier one; None if none is."""
        radius = max(1, round(self.config.rescore_distance * len(self.space.layers)))
        anchor, scores = self._anchor(incumbent, radius // 2)
        config = dataclasses.replace(self.config, num_solutions=1)
        # the linear model holds near the anchor only: try the wide step first, then smaller ones
        while radius >= 1:
            try:
                nearby = solve_all(
                    scores,
                    self.costs,
                    self.constraints,
                    config,
                    margin,
                    self.one_kv_count,
                    fixed_distance=(anchor, radius),
                )
            except InfeasibleError:  # nothing so close to an anchor of another margin
                return None
            judged = [self._judged(c) for c in nearby if c.solution.blocks != incumbent.solution.blocks]
            better = [c for c in judged if c.distance < incumbent.distance]
            if better:
                return min(better, key=lambda c: c.distance)
            radius //= 2
        return None

    def _anchor(self, incumbent: Candidate, close: int) -> tuple[tuple[str, ...], list[Score]]:
        """A child that blocks were scored around, at most `close` layers from `incumbent`; scored now if there is none."""
        blocks = incumbent.solution.blocks
        for anchor, scores in self.rescored.items():
            if sum(a != b for a, b in zip(anchor, blocks, strict=True)) <= close:
                return anchor, scores
        offered = [self._worth_rescoring(i, block) for i, block in enumerate(incumbent.blocks)]
        self.rescored[blocks] = score_blocks(self.judge, incumbent.blocks, offered)
        return blocks, self.rescored[blocks]

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

    def measure(self, candidates: list[Candidate], rounds: int) -> list[dict]:
        """Measured speed of candidates, all in turn, and how far the lower bounds clear the constraints."""
        results = []
        by_batch = {c.batch_size: [x for x in candidates if x.batch_size == c.batch_size] for c in candidates}
        for batch_size, group in by_batch.items():
            dtype = getattr(torch, self.costs.dtype)
            children = [empty_child(self.parent.config, c.blocks, dtype, self.parent.device, self.fmt) for c in group]
            confidence = self.config.confidence
            measured = measure_speeds(self.parent, children, batch_size, self.costs, confidence, max(4, rounds))
            for candidate, result in zip(group, measured, strict=True):
                result["bound_over_target"] = self._reached(result, batch_size)
                results.append((candidates.index(candidate), result))
        return [result for _, result in sorted(results, key=lambda pair: pair[0])]

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


def measure_speeds(
    parent: PreTrainedModel,
    children: list[PreTrainedModel],
    batch_size: int,
    costs: CostTable,
    confidence: float,
    rounds: int,
) -> list[dict]:
    """Speed of children against their parent as the parent's user runs it, all generated in turn.

    Returns:
        For each child: `total`, `prefill` and `decode` ratios with bounds; `same_code`, the ratio against the parent's
        architecture run by the child's modelling code, which is the architecture's own gain (by the two times of the
        cost table); medians.
    """
    workload = costs.workload_of(batch_size)
    models = {"parent": in_dtype(parent, children[0].dtype)}
    models |= {str(i): child for i, child in enumerate(children)}
    with cpu_threads(costs.workload["threads"]):
        engine, threads = costs.workload.get("engine", "transformers"), costs.workload["threads"]
        timings = measure_models(models, workload, rounds, costs.workload["clock"], "measure", engine, threads)
    slow = timings["parent"]
    stock, own = (row["prefill_ms"] + row["decode_ms"] for row in costs.children[batch_size][:2])
    parent_ms = median_timing(slow).total_ms
    results = []
    for i in range(len(children)):
        fast = timings[str(i)]
        parts = {"total": "total_ms", "prefill": "prefill_ms", "decode": "decode_ms"}
        result: dict = {name: speed_ratio(slow, fast, confidence, part) for name, part in parts.items()}
        median = median_timing(fast)
        result |= {
            "same_code": result["total"].value * own / stock,
            "child_ms": median.total_ms,
            "child_prefill_ms": median.prefill_ms,
            "parent_ms": parent_ms,
            "tokens_per_s": workload.tokens / median.total_ms * 1e3,
            "parent_tokens_per_s": workload.tokens / parent_ms * 1e3,
        }
        results.append(result)
    return results


def jsonable(measured: dict) -> dict:
    """Ratios as dicts."""
    return {k: v.to_dict() if isinstance(v, Ratio) else v for k, v in measured.items()}
