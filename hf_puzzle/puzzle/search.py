"""The search: constraints become limits of the MIP; the judge says how good its layouts are, the bench how fast.

Target -> solve -> rescore -> time in fresh processes -> recalibrate, until the *lower confidence bound* of a speed-up
clears the target. Nothing is timed in this process: its heap is not that of a user's.
"""

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from ..artifacts import ArtifactError
from ..blocks import Block, kv_heads, plain
from ..costs import Timing, student_quantile
from ..formats import DECILM
from ..progress import bar
from ..recipe import ConstraintsConfig, CostConfig, RecipeError, SolveConfig
from ..stages import Estimate
from .bench import Bench, jsonable, memory_of_confirmation, rounds_per_session, seconds_of_confirmation
from .block_costs import (
    BYTES,
    CostTable,
    in_gguf,
    kv_bytes_per_token,
    kv_tokens,
    non_block_bytes,
    non_block_parameters,
    num_parameters,
    state_bytes,
    weight_bytes,
)
from .estimates import Pieces, largest
from .judge import Judge, scored_blocks, seconds_of_distance
from .scoring import Score, forward_tokens, score_blocks, whole_score, with_sums
from .search_space import SearchSpace
from .solver import Choice, InfeasibleError, Limit, Solution, solve
from .true_loss import Menu, evolve


logger = logging.getLogger(__name__)

SLACK = 1.03  # a bound so far above the target is quality thrown away: `RELAXATIONS` more rounds
RELAXATIONS = 2
SHORTFALL = 0.99  # a bound / its value on a quiet machine
CLEARLY = 1.005  # what a round aims at: bounds vary
PATIENCE = 3  # times `solve.sessions`, where the machine's noise alone hides how fast a child is


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
    constraints: ConstraintsConfig,
    costs: CostTable,
    batch_size: int,
    parent_tokens_per_ms: float,
    margin: float = 1.0,
    memory_overhead: float = 0.0,
) -> list[Limit]:
    """The constraints at one batch size, as upper limits on sums over the layers.

    Args:
        parent_tokens_per_ms: the best measured throughput of the parents, for `speedup`.
        margin: > 1 asks for more speed than the constraint says, to make up for a prediction that was too good.
        memory_overhead: bytes that a measured child held besides weights and cache.
    """
    fixed = costs.non_block_costs(batch_size)
    tokens = costs.tokens(batch_size)
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
    for name, quantity in (("latency_ms", "total_ms"), ("prefill_ms", "prefill_ms")):
        if (most := getattr(constraints, name)) is None:
            continue
        if not costs.lengths:
            at_most(name, quantity, most / margin, lambda ms: ms * margin)
        for length in costs.lengths:  # each prompt must meet it
            at_most(f"{name} behind {length} tokens", f"{length}_{quantity}", most / margin, lambda ms: ms * margin)
    if constraints.memory_gb is not None:
        budget = constraints.memory_gb * 1e9 - memory_overhead
        at_most("memory_gb", "memory_bytes", budget, lambda total: (total + memory_overhead) / 1e9)
    if constraints.num_parameters is not None:
        at_most("num_parameters", "num_parameters", constraints.num_parameters, lambda total: total)
    return limits


def check_constraints(constraints: ConstraintsConfig, cost: CostConfig) -> None:
    """Raises RecipeError for values no child could ever satisfy."""
    if len(set(cost.lengths)) < max(1, len(cost.lengths)):
        raise RecipeError(f"cost.prefill_tokens: {cost.prefill_tokens}: give one length, or a list of different ones")
    for name, value in vars(constraints).items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise RecipeError(f"constraints.{name}: {value} is impossible; give a positive number")
    if constraints.max_batch_size is not None and min(cost.batch_sizes) > constraints.max_batch_size:
        raise RecipeError(
            f"constraints.max_batch_size {constraints.max_batch_size} is below every cost.batch_sizes {cost.batch_sizes}"
        )


def check_sizes(
    config,
    space: SearchSpace,
    constraints: ConstraintsConfig,
    cost: CostConfig,
    fmt: str = DECILM,
    cache_type: str | None = None,
) -> None:
    """Refuse size constraints that no child of the space meets, from shapes alone.

    Raises:
        InfeasibleError: with the smallest feasible value.
    """
    batch_size, length = min(cost.batch_sizes), max(cost.lengths) + cost.decode_tokens
    variants = [(kind, v) for kind, variants in space.offered.items() for v in variants]
    parameters = {each: num_parameters(config, *each, fmt) for each in variants}
    fixed, width, gguf = non_block_parameters(config), BYTES[cost.dtype], in_gguf(space)
    held = {each: count * width for each, count in parameters.items()}
    if space.weight_types:
        held = {each: weight_bytes(config, *each, cost.dtype, fmt, gguf) for each in variants}
    sizes = [
        [
            (
                parameters["attention", block.attention] + parameters["ffn", block.ffn],
                held["attention", block.attention]
                + held["ffn", block.ffn]
                + batch_size
                * (
                    kv_tokens(block.attention, length)
                    * kv_bytes_per_token(config, block.attention, cost.dtype, cache_type)
                    + state_bytes(config, plain(block.attention), cost.dtype)
                ),
            )
            for block in layer.blocks
        ]
        for layer in space.layers
    ]
    ends = non_block_bytes(config, cost.dtype, gguf) if space.weight_types else fixed * width
    smallest = {
        "num_parameters": fixed + sum(min(p for p, _ in layer) for layer in sizes),
        "memory_gb": (ends + sum(min(size for _, size in layer) for layer in sizes)) / 1e9,
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
    """The best measured throughput of the stock parent and of its blocks in the child's code."""
    return max(_best_rate(costs, constraints, row) for row in (0, 1))


def _rate(costs: CostTable, batch_size: int, row: int) -> float:
    """Tokens per millisecond of a measured model: 0 is the stock parent, 1 its blocks in the child's code."""
    child = costs.children[batch_size][row]
    return costs.tokens(batch_size) / (child["prefill_ms"] + child["decode_ms"])


def _best_rate(costs: CostTable, constraints: ConstraintsConfig, row: int) -> float:
    """Over the batch sizes that the application has."""
    return max(_rate(costs, b, row) for b in costs.children if b <= (constraints.max_batch_size or b))


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
    memory_overhead: float = 0.0,
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
        limits = limits_for(constraints, costs, batch_size, rate, margin, memory_overhead)
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


TIMED = ("speedup", "throughput_tokens_per_s", "latency_ms", "prefill_ms")


class Search:
    """One search over stored scores and costs; `rounds` records every step for `solutions.json`."""

    def __init__(
        self,
        judge: Judge,
        bench: Bench,
        scores: list[Score],
        costs: CostTable,
        constraints: ConstraintsConfig,
        config: SolveConfig,
        one_kv_count: bool = False,
    ):
        self.judge, self.bench, self.space = judge, bench, judge.space
        self.scores, self.costs, self.constraints = scores, costs, constraints
        self._spent_before = judge.forward_tokens - forward_tokens(scores, judge.space)
        self.config, self.one_kv_count = config, one_kv_count
        self.rounds: list[dict] = []
        self.rescored: dict[tuple[str, ...], list[Score]] = {}
        self.timed = any(getattr(constraints, name) is not None for name in TIMED)
        self.shortfall, self.memory_overhead = self._expected_shortfall() if self.timed else 1.0, 0.0

    @property
    def forward_tokens(self) -> float:
        """What the search has cost so far, the scores that it began with included, as of `Judge.forward_tokens`."""
        return self.judge.forward_tokens - self._spent_before

    def judged(self) -> list[dict]:
        """The distance of every layout that was judged, beside the sum of its blocks' scores that stood for it."""
        known = {(s.layer_idx, s.block): s.value for s in self.scores}
        return [
            {
                "blocks": [b.id for b in layout],
                "summed": sum(known[i, b.id] for i, b in enumerate(layout)),
                "distance": value,
                "distance_stderr": error,
            }
            for layout, (value, error) in self.judge.judged.items()
            if all((i, b.id) in known for i, b in enumerate(layout))
        ]

    def run(self) -> tuple[Candidate, dict | None]:
        """The best child whose confirmed speed clears the target, and the measurement (None if nothing measured was asked).

        Raises:
            InfeasibleError: the constraints cannot be met, or were not met within `solve.max_rounds` rounds.
        """
        with self.bench.standing_by():
            candidate, measured = self._winner()
            return (candidate, measured) if self.config.refine == "none" else self._polished(candidate, measured)

    def propose(self) -> Candidate:
        """The best child by predicted cost: nothing is timed."""
        return self._best_candidate(1.0)

    def _polished(self, candidate: Candidate, measured: dict | None) -> tuple[Candidate, dict | None]:
        """`candidate` after exchanges on the true loss, at the forward tokens that it took; itself if that is too slow."""
        layers = choices(self.scores, self.costs, candidate.batch_size)
        if self.one_kv_count:
            heads = {kv_heads(block.attention) for block in candidate.blocks}
            layers = [
                [c for c in layer if kv_heads(Block.parse(c.block).attention) in {*heads, None}] for layer in layers
            ]
        rate = parent_tokens_per_ms(self.costs, self.constraints)
        limits = [
            # as slow as the candidate, whose speed is measured
            dataclasses.replace(limit, maximum=candidate.solution.costs[limit.quantity] * (1 + 1e-9))
            if limit.quantity.endswith("_ms")
            else limit
            for limit in limits_for(
                self.constraints, self.costs, candidate.batch_size, rate, memory_overhead=self.memory_overhead
            )
        ]
        menu = Menu(layers, limits)
        blocks = evolve(self.judge, menu, self.forward_tokens, start=candidate.blocks)
        if blocks == tuple(candidate.blocks):
            return candidate, measured
        picked = [menu.layers[i][block] for i, block in enumerate(blocks)]
        score, lowest = sum(c.score for c in picked), sum(min(c.score for c in layer) for layer in layers)
        solution = dataclasses.replace(
            candidate.solution,
            blocks=tuple(c.block for c in picked),
            score=score,
            costs={name: math.fsum(c.costs[name] for c in picked) for name in candidate.solution.costs},
            bound=lowest,
            gap=float(score > lowest),
            status="FEASIBLE",
            solver="SWAP",
        )
        predicted = self.costs.predict(list(blocks), candidate.batch_size)
        polished = self._judged(dataclasses.replace(candidate, solution=solution, predicted=predicted))
        logger.info("refine: %s %.4f -> %.4f", self.judge.metric.config.metric, candidate.distance, polished.distance)
        if measured is None:
            return polished, None
        speed = self._confirm(polished)
        last = {"round": self.rounds[-1]["round"] + 1, "margin": self.rounds[-1]["margin"]}
        self.rounds.append({**last, **polished.to_dict(), **jsonable(speed)})
        return (polished, speed) if speed["bound_over_target"] >= 1 else (candidate, measured)

    def _winner(self) -> tuple[Candidate, dict | None]:
        """As of `run`, without polish."""
        if not self.timed and self.constraints.memory_gb is None:
            return self._best_candidate(1.0), None
        margin, best, relaxed = CLEARLY / self.shortfall, None, 0
        for round_idx in bar(range(self.config.max_rounds), desc="solve: rounds"):
            candidate = self._best_candidate(margin)
            if best is not None and candidate.distance >= best[0].distance:
                break
            speed = self._confirm(candidate)
            value, bound = speed["value_over_target"], speed["bound_over_target"]
            self.rounds.append({"round": round_idx, "margin": margin, **candidate.to_dict(), **jsonable(speed)})
            logger.info(
                "round %d: measured / target %.3f, at least %.3f, %s %.4f", round_idx, value, bound,
                self.judge.metric.config.metric, candidate.distance,
            )  # fmt: skip
            if bound >= 1:
                best, enough = (candidate, speed), margin
            if best is not None and (not self.timed or 1 <= bound <= SLACK or relaxed == RELAXATIONS):
                break
            relaxed += best is not None
            if self.timed and speed["total"].sessions >= self.config.sessions:
                # a step at a time: one disturbed session must not cost quality for good
                self.shortfall = min(1.0, max(0.95 * self.shortfall, bound / value))
            if best is not None and bound < 1:  # between this and what was enough
                margin = math.sqrt(margin * enough)
            elif self.timed:
                margin *= max(CLEARLY / (value * self.shortfall), 1.005 if bound < 1 else 0.0)
        if best is None:
            raise InfeasibleError(
                f"no child was confirmed to meet the constraints in {self.config.max_rounds} rounds (see the log for each); "
                "raise solve.max_rounds, offer cheaper blocks in search_space, or lower the target",
                {},
            )
        return best

    def _expected_shortfall(self) -> float:
        """How far a bound will be below its value, from how far the rounds of the cost table were apart."""
        spread = statistics.median(row.get("spread", 0.0) for rows in self.costs.children.values() for row in rows)
        error = spread * math.sqrt(2 / self._rounds_per_session)
        return max(0.9, min(SHORTFALL, math.exp(-self._width(self._most_sessions) * error)))

    @property
    def _rounds_per_session(self) -> int:
        return rounds_per_session(self.config.measure_rounds, self.config.sessions)

    def _confirm(self, candidate: Candidate) -> dict:
        """Speed by fresh processes and measured memory; `bound_over_target`, and the same of values."""
        batch_size, speed = candidate.batch_size, {}
        if self.timed:
            (speed,) = self.bench.confirm(
                [candidate.blocks], batch_size, self.config.sessions, self._rounds_per_session,
                lambda speeds: speeds[0]["total"].sessions > 1  # one may have been disturbed
                and self._over_target(speeds[0], batch_size, bounds=False) < 1,
                lambda speeds: self._noise_hides(speeds[0], batch_size),
            )  # fmt: skip
        value, reached = (self._over_target(speed, batch_size, bounds) for bounds in (False, True))
        if self.constraints.memory_gb is not None and reached >= 1:
            speed["peak_bytes"] = peak = self.bench.peak_bytes(candidate.blocks, batch_size)
            if peak is not None:
                reached = min(reached, self.constraints.memory_gb * 1e9 / peak)
                held = self.costs.non_block_costs(batch_size)["memory_bytes"]
                held += sum(self.costs.block_costs(b, batch_size)["memory_bytes"] for b in candidate.blocks)
                self.memory_overhead = max(self.memory_overhead, peak - held)
        return speed | {"value_over_target": value, "bound_over_target": reached}

    def _noise_hides(self, speed: dict, batch_size: int) -> bool:
        """Whether `PATIENCE` times the sessions, spread as they are, would say that the target is met, or that there is
        slack, where these do not: measuring longer costs minutes, a child that is too fast costs quality."""
        value, bound = (self._over_target(speed, batch_size, bounds) for bounds in (False, True))
        have, most = speed["total"].sessions, self._most_sessions
        if have < 2 or have >= most:
            return False
        narrower = self._width(most) / self._width(have)
        return any(bound < edge <= value * (bound / value) ** narrower for edge in (1.0, SLACK))

    @property
    def _most_sessions(self) -> int:
        return PATIENCE * self.config.sessions

    def _width(self, sessions: int) -> float:
        """Of a bound over so many sessions, in their standard deviations."""
        return student_quantile(self.config.confidence, max(1, sessions - 1)) / math.sqrt(sessions)

    def _over_target(self, speed: dict, batch_size: int, bounds: bool = True) -> float:
        """What was measured / the constraint on it, the tightest: by its bounds, or by its values; 1 just meets it."""
        constraints, reached = self.constraints, []
        if constraints.speedup is not None:  # against both parents: the smaller gain counts
            for row, key in enumerate(("total", "same_code")):
                ratio = speed[key].lower_bound if bounds else speed[key].value
                rates = _rate(self.costs, batch_size, row) / _best_rate(self.costs, constraints, row)
                reached.append(ratio * rates / constraints.speedup)
        if constraints.throughput_tokens_per_s is not None:
            rate = speed["tokens_per_s_at_least" if bounds else "tokens_per_s"]
            reached.append(rate / constraints.throughput_tokens_per_s)
        for name, key in (("latency_ms", "child_ms"), ("prefill_ms", "child_prefill_ms")):
            if getattr(constraints, name) is not None:
                slowest = max(each[f"{key}_at_most" if bounds else key] for each in speed.get("by_length", [speed]))
                reached.append(getattr(constraints, name) / slowest)
        return min(reached, default=1.0)

    def _best_candidate(self, margin: float) -> Candidate:
        """MIP, true distance of its diverse solutions, then rescoring around the best one."""
        found = solve_all(
            self.scores, self.costs, self.constraints, self.config, margin, self.one_kv_count, self.memory_overhead
        )
        best = min((self._judged(c) for c in bar(found, desc="candidates")), key=lambda c: c.distance)
        for _ in range(self.config.rescore_rounds):
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
                    self.memory_overhead,
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
        offered = [self._worth_rescoring(i, own) for i, own in enumerate(incumbent.blocks)]
        around = score_blocks(self.judge, incumbent.blocks, offered)
        self.rescored[blocks] = with_sums(around, self.space, incumbent.blocks)
        return blocks, self.rescored[blocks]

    def _worth_rescoring(self, layer_idx: int, own: Block) -> list[Block]:
        """`own` and one exchange of a sub-block each, as `score.blocks: sub_blocks`; blocks that such do not add up to."""
        offered = self.space.layers[layer_idx].blocks

        def adds_up(block: Block) -> bool:
            return Block(block.attention, own.ffn) in offered and Block(own.attention, block.ffn) in offered

        return [
            own,
            *(b for b in offered if b != own and (own.attention == b.attention or own.ffn == b.ffn or not adds_up(b))),
        ]


# -- what a search takes


def _is_timed(p: Pieces) -> bool:
    asked = p.recipe.constraints
    return any((asked.speedup, asked.throughput_tokens_per_s, asked.latency_ms, asked.prefill_ms))


def _solves(p: Pieces) -> int:
    """Layouts that a round gets from the solver, and judges."""
    config = p.recipe.solve
    return config.num_solutions * len(p.recipe.cost.batch_sizes) + 2 * config.rescore_rounds


def _seconds_of_judging(p: Pieces) -> float:
    """Distances of the search's children, and scores around the best ones."""
    config = p.run.score_config
    halves = dataclasses.replace(config, blocks="sub_blocks")
    some, scored = (sum(map(len, scored_blocks(p.space, c))) for c in (halves, config))
    # layers above the exchanged one are the child's
    around = some / scored * (0.5 + 0.5 * p.share) * (whole_score(p).seconds - p.open())
    return _solves(p) * seconds_of_distance(p) + p.recipe.solve.rescore_rounds * around


def seconds_of_rival(p: Pieces) -> float:
    """A search on the true loss, at the forward tokens of scores and distances."""
    return whole_score(p).seconds - p.open() + _seconds_of_judging(p)


def estimate_solve(p: Pieces) -> Estimate:
    """Two rounds where time is asked for: often one is enough, sometimes it takes three. As `score` with the child that is
    scored around; or a confirmation."""
    config, timed = p.recipe.solve, _is_timed(p)
    binaries = sum(len(layer.blocks) for layer in p.space.layers)
    a_round = _solves(p) * (0.2 + 2e-4 * binaries) + _seconds_of_judging(p)  # a process each
    seconds = p.open() + (2 if timed else 1) * a_round
    if config.refine == "swap":
        seconds += seconds_of_rival(p) + (seconds_of_confirmation(p, config.measure_rounds) if timed else 0.0)
    scored = whole_score(p).memory
    moments = [scored | {"blocks": scored["blocks"] + p.share * p.blocks * p.width}]
    if timed:
        seconds += 2 * seconds_of_confirmation(p, config.measure_rounds)
        if p.on_gpu:
            moments.append(memory_of_confirmation(p, scored["targets"]))
    help = "lower score.batch_size or score.num_tokens, or cost.batch_sizes, or use parent.device_map"
    return Estimate(seconds, largest(*moments), help)
