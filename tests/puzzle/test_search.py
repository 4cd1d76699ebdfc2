"""Constraints, limits and solutions, recomputed by hand from the tables."""

import dataclasses

import pytest

from hf_puzzle.blocks import Block, variant_id
from hf_puzzle.costs import Timing
from hf_puzzle.puzzle import search as search_module
from hf_puzzle.puzzle.block_costs import CostTable, Fit, kv_bytes_per_token, non_block_parameters, num_parameters
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.scoring import Score, score_blocks
from hf_puzzle.puzzle.search import (
    Search,
    check_constraints,
    check_sizes,
    choices,
    limits_for,
    parent_tokens_per_ms,
    solve_all,
)
from hf_puzzle.puzzle.solver import InfeasibleError, Solution
from hf_puzzle.recipe import ConstraintsConfig, CostConfig, RecipeError, ScoreConfig, SolveConfig


PREFILL, DECODE = 32, 16
MILLISECONDS = {"kv4": 2.0, "kv2": 1.5, "kv1": 1.2, "linear": 0.4, "none": 0.0, "w768": 3.0, "w512": 2.0, "w256": 1.1}
SOLVE = SolveConfig(num_solutions=2, min_distance=0.3, time_limit_s=20)


@pytest.fixture(scope="module")
def costs(llama, space):
    """A made-up machine: batch 4 takes 1.5 times as long as batch 1; whole models take 5 % more and 2 ms."""
    config, keys = llama.config, {}
    for kind, variants in space.variants.items():
        keys |= {f"{kind}:{variant_id(kind, v)}": (kind, v) for v in variants}
    times, fits, children = {}, {}, {}
    for batch_size, factor in ((1, 1.0), (4, 1.5)):
        times[batch_size] = {
            key: {
                "prefill_ms": factor * MILLISECONDS[key.partition(":")[2]],
                "decode_ms": 4 * factor * MILLISECONDS[key.partition(":")[2]],
            }
            for key in keys
        }
        fits[batch_size] = {phase: Fit(2.0, 1.05, 0.0, 0.0) for phase in ("prefill_ms", "decode_ms")}
        parent = {"blocks": ["kv4+w768"] * 4, "spread": 0.0, "prefill_ms": 24 * factor, "decode_ms": 90 * factor}
        ours = parent | {"prefill_ms": 23 * factor, "decode_ms": 85 * factor}  # the parent's blocks, run by our code
        children[batch_size] = [parent | {"name": "parent"}, ours | {"name": "0"}]
    return CostTable(
        {"prefill_tokens": PREFILL, "decode_tokens": DECODE, "clock": "cpu", "threads": 1, "rounds": 1},
        {key: num_parameters(config, *variant) for key, variant in keys.items()},
        {k: kv_bytes_per_token(config, v[1], "bfloat16") for k, v in keys.items() if v[0] == "attention"},
        non_block_parameters(config),
        "bfloat16",
        times,
        fits,
        children,
    )


@pytest.fixture(scope="module")
def judge(llama, space, library, tokens, sequence_length):
    config = ScoreConfig(num_tokens=64, blocks="all")
    return Judge(llama, space, library, Metric.of(config, tokens["validation"], sequence_length, 0))


@pytest.fixture(scope="module")
def scores(judge):
    return score_blocks(judge)


def total_ms(blocks, batch_size):
    factor = {1: 1.0, 4: 1.5}[batch_size]
    return sum(
        2.0 + 1.05 * share * factor * sum(MILLISECONDS[t] for b in blocks for t in b.id.split("+")) for share in (1, 4)
    )


def prefill_ms(blocks, batch_size):
    return 2.0 + 1.05 * {1: 1.0, 4: 1.5}[batch_size] * sum(MILLISECONDS[t] for b in blocks for t in b.id.split("+"))


def memory_bytes(blocks, batch_size, config):
    parameters = non_block_parameters(config)
    parameters += sum(
        num_parameters(config, "attention", b.attention) + num_parameters(config, "ffn", b.ffn) for b in blocks
    )
    heads = sum(b.attention for b in blocks if isinstance(b.attention, int))
    return 2 * parameters + batch_size * (PREFILL + DECODE) * heads * 2 * 16 * 2


def parameters(blocks, config):
    return non_block_parameters(config) + sum(
        num_parameters(config, kind, v) for b in blocks for kind, v in zip(("attention", "ffn"), b, strict=True)
    )


# how each constraint is read off a child, and whether larger is better for the user
READ = {
    "speedup": (lambda b, n, c: n * 48 / total_ms(b, n) / (4 * 48 / (1.5 * 114)), True),
    "throughput_tokens_per_s": (lambda b, n, c: n * 48 / total_ms(b, n) * 1e3, True),
    "latency_ms": (lambda b, n, c: total_ms(b, n), False),
    "prefill_ms": (lambda b, n, c: prefill_ms(b, n), False),
    "memory_gb": (lambda b, n, c: memory_bytes(b, n, c) / 1e9, False),
    "num_parameters": (lambda b, n, c: parameters(b, c), False),
}
VALUES = {
    "speedup": 1.6,
    "throughput_tokens_per_s": 1500.0,
    "latency_ms": 60.0,
    "prefill_ms": 14.0,
    "memory_gb": 6e-4,
    "num_parameters": 300_000,
}


def test_the_parents_best_throughput(costs):
    assert parent_tokens_per_ms(costs, ConstraintsConfig()) == pytest.approx(4 * 48 / (1.5 * 114))
    assert parent_tokens_per_ms(costs, ConstraintsConfig(max_batch_size=3)) == pytest.approx(48 / 114)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_limit_is_the_constraint_less_what_blocks_do_not_cost(costs, llama, name, batch_size):
    rate = parent_tokens_per_ms(costs, ConstraintsConfig())
    (limit,) = limits_for(ConstraintsConfig(**{name: VALUES[name]}), costs, batch_size, rate)
    read, _ = READ[name]
    assert limit.constraint == name
    assert limit.to_user(limit.maximum) == pytest.approx(VALUES[name])
    for blocks in ([Block(4, 768)] * 4, [Block(2, 256), Block("none", 512), Block(1, "none"), Block(4, 768)]):
        total = sum(costs.block_costs(block, batch_size)[limit.quantity] for block in blocks)
        assert limit.to_user(total) == pytest.approx(read(blocks, batch_size, llama.config))


def test_the_margin_asks_for_more_speed_and_reports_without_it(costs):
    rate = parent_tokens_per_ms(costs, ConstraintsConfig())
    for name in ("speedup", "throughput_tokens_per_s", "latency_ms", "prefill_ms"):
        constraint = ConstraintsConfig(**{name: VALUES[name]})
        (plain,), (more,) = (limits_for(constraint, costs, 1, rate, margin) for margin in (1.0, 1.25))
        fixed = costs.non_block_costs(1)[plain.quantity]
        assert more.maximum + fixed == pytest.approx((plain.maximum + fixed) / 1.25)
        assert more.to_user(more.maximum) == pytest.approx(VALUES[name])
    for name in ("memory_gb", "num_parameters"):
        (plain,), (more,) = (
            limits_for(ConstraintsConfig(**{name: VALUES[name]}), costs, 1, rate, m) for m in (1.0, 1.25)
        )
        assert plain.maximum == more.maximum


@pytest.mark.parametrize("name", READ)
def test_solutions_respect_their_constraint(costs, scores, llama, name):
    read, larger = READ[name]
    constraints = ConstraintsConfig(**{name: VALUES[name]})
    candidates = solve_all(scores, costs, constraints, SOLVE)
    table = {(s.layer_idx, s.block): s.value for s in scores}
    assert candidates == sorted(candidates, key=lambda c: c.solution.score)
    for candidate in candidates:
        value = read(candidate.blocks, candidate.batch_size, llama.config)
        assert value >= VALUES[name] * (1 - 1e-6) if larger else value <= VALUES[name] * (1 + 1e-6)
        expected = sum(table[i, block.id] for i, block in enumerate(candidate.blocks))
        assert candidate.solution.score == pytest.approx(expected)
        assert candidate.predicted.total_ms == pytest.approx(total_ms(candidate.blocks, candidate.batch_size))
        assert candidate.solution.verified


def test_all_constraints_at_once_and_the_batch_sweep(costs, scores, llama):
    constraints = ConstraintsConfig(throughput_tokens_per_s=1200.0, memory_gb=7e-4, num_parameters=400_000)
    candidates = solve_all(scores, costs, constraints, SOLVE)
    assert 4 in {c.batch_size for c in candidates}
    for c in candidates:
        assert READ["throughput_tokens_per_s"][0](c.blocks, c.batch_size, llama.config) >= 1200 * (1 - 1e-6)
        assert memory_bytes(c.blocks, c.batch_size, llama.config) <= 7e5 * (1 + 1e-6)
        assert parameters(c.blocks, llama.config) <= 400_000
    loose = solve_all(scores, costs, ConstraintsConfig(), SOLVE)
    assert {c.batch_size for c in loose} == {1, 4}
    assert {c.batch_size for c in solve_all(scores, costs, ConstraintsConfig(max_batch_size=2), SOLVE)} == {1}
    assert loose[0].blocks == [Block(4, 768)] * 4  # no constraint: the parent
    assert loose[0].solution.score == 0


@pytest.mark.parametrize(
    "name, value", [("speedup", 1000.0), ("throughput_tokens_per_s", 1e9), ("latency_ms", 0.1), ("prefill_ms", 0.1), ("memory_gb", 1e-9), ("num_parameters", 10)]
)  # fmt: skip
def test_infeasible_constraints_say_the_nearest_value_in_their_own_unit(costs, scores, llama, space, name, value):
    read, larger = READ[name]
    with pytest.raises(InfeasibleError, match=rf"batch size \d: .*{name}") as caught:
        solve_all(scores, costs, ConstraintsConfig(**{name: value}), SOLVE)
    nearest = caught.value.nearest[name]
    reachable = [read([block] * 4, 4, llama.config) for block in space.layers[0].blocks]
    assert nearest == pytest.approx(max(reachable) if larger else min(reachable), rel=1e-3)
    # and a child exists there
    slack = 0.99 if larger else 1.01
    nearly = nearest * slack
    solve_all(scores, costs, ConstraintsConfig(**{name: int(nearly) if name == "num_parameters" else nearly}), SOLVE)


@pytest.mark.parametrize("value", [0, -1.0, float("inf")])
@pytest.mark.parametrize("name", list(READ))
def test_impossible_values_are_refused(name, value):
    with pytest.raises(RecipeError, match=rf"constraints\.{name}: .* is impossible"):
        check_constraints(ConstraintsConfig(**{name: value}), CostConfig())


def test_batches_the_application_does_not_have_are_refused():
    with pytest.raises(RecipeError, match=r"max_batch_size 2 is below every cost\.batch_sizes \[4, 8\]"):
        check_constraints(ConstraintsConfig(max_batch_size=2), CostConfig(batch_sizes=[4, 8]))
    check_constraints(ConstraintsConfig(max_batch_size=4, speedup=2.0), CostConfig(batch_sizes=[4, 8]))


@pytest.mark.parametrize("name, unit", [("num_parameters", 1), ("memory_gb", 1e-9)])
def test_sizes_that_no_child_has_are_refused_from_shapes_alone(llama, space, name, unit):
    cost = CostConfig(batch_sizes=[4, 2], prefill_tokens=8, decode_tokens=8)
    everything_gone = [Block("none", "none")] * 4
    least = {"num_parameters": parameters(everything_gone, llama.config)}
    least["memory_gb"] = 2 * least["num_parameters"]  # bfloat16, and no attention: no cache
    check_sizes(llama.config, space, ConstraintsConfig(**{name: least[name] * unit}), cost)
    with pytest.raises(InfeasibleError, match=rf"constraints\.{name} .* is impossible") as caught:
        check_sizes(llama.config, space, ConstraintsConfig(**{name: (least[name] - 1) * unit}), cost)
    assert caught.value.nearest == {name: pytest.approx(least[name] * unit)}


def test_one_kv_count_is_the_best_of_the_uniform_ones(costs, scores, llama):
    constraints = ConstraintsConfig(num_parameters=300_000, max_batch_size=1)
    config = dataclasses.replace(SOLVE, num_solutions=1)
    together = solve_all(scores, costs, constraints, config, one_kv_count=True)
    for candidate in together:
        assert len({b.attention for b in candidate.blocks if isinstance(b.attention, int)}) <= 1
        assert parameters(candidate.blocks, llama.config) <= 300_000
    apart = []
    for count in (4, 2, 1):
        offered = [s for s in scores if Block.parse(s.block).attention in (count, "linear", "none")]
        apart += solve_all(offered, costs, constraints, config)
    assert together[0].solution.score == pytest.approx(min(c.solution.score for c in apart))
    assert together[0].solution.score >= solve_all(scores, costs, constraints, config)[0].solution.score


def test_choices_are_the_scored_blocks(costs, scores, space):
    rows = choices(scores, costs, 4)
    assert [[c.block for c in row] for row in rows] == [[b.id for b in layer.blocks] for layer in space.layers]
    assert rows[0][0].costs == costs.block_costs(space.parent, 4)
    some = [s for s in scores if s.block != "none+none" or s.layer_idx != 2]
    assert "none+none" not in [c.block for c in choices(some, costs, 4)[2]]


# -- the rounds of the search, on a machine that is slower than predicted


@pytest.fixture
def searching(judge, scores, costs, monkeypatch):
    """A function that makes a Search whose children take `slower` times the predicted time."""

    def make(slower, constraints, **changes):
        config = dataclasses.replace(SOLVE, measure_rounds=6, rescore_rounds=0, **changes)

        def measured(models, workload, rounds, *settings):
            timings = {}
            for name, model in models.items():
                blocks = None if name == "parent" else layout(model)
                total = 171.0 if blocks is None else slower * total_ms(blocks, workload.batch_size)
                timings[name] = [Timing(0.2 * total, 0.8 * total)] * rounds
            return timings

        monkeypatch.setattr(search_module, "measure_models", measured)
        return Search(judge, scores, costs, constraints, config)

    def layout(model):
        return [
            Block(
                "none"
                if b.attention.no_op
                else "linear"
                if b.attention.replace_with_linear
                else 4 // b.attention.n_heads_in_group,
                "none" if b.ffn.no_op else "linear" if b.ffn.replace_with_linear else round(b.ffn.ffn_mult * 64 / 1.5),
            )
            for b in model.config.block_configs
        ]

    return make


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.2])
def test_the_search_recalibrates_until_the_bound_clears_the_target(searching, slower, llama):
    search = searching(slower, ConstraintsConfig(speedup=1.4, max_batch_size=4))
    chosen, measured = search.run()
    assert chosen.batch_size == 4
    assert measured["total"].lower_bound >= 1.4
    assert measured["total"].value == pytest.approx(171 / (slower * total_ms(chosen.blocks, 4)))
    assert measured["bound_over_target"] >= 1
    # the first round only corrects the predictions
    reached = [r for r in search.rounds[1:] if r["bound_over_target"] >= 1]
    assert chosen.distance == min(r["distance"] for r in reached)
    assert search.rounds[0]["margin"] == 1.0
    last = max(r["round"] for r in search.rounds)
    assert min(r["bound_over_target"] for r in search.rounds if r["round"] == last) <= 1.03 or last == 5
    assert measured["same_code"] == pytest.approx(measured["total"].value * 108 / 114)


def test_a_machine_that_never_gets_there_is_an_error(searching):
    with pytest.raises(InfeasibleError):
        searching(50.0, ConstraintsConfig(speedup=1.4)).run()


def test_no_time_constraint_measures_nothing(searching, llama):
    search = searching(1.0, ConstraintsConfig(num_parameters=300_000))
    chosen, measured = search.run()
    assert measured is None
    assert search.rounds == []
    assert parameters(chosen.blocks, llama.config) <= 300_000


def test_rescoring_never_worsens_the_true_distance(searching, judge, llama):
    constraints = ConstraintsConfig(num_parameters=250_000)
    plain = searching(1.0, constraints)
    first, _ = plain.run()
    again = searching(1.0, constraints)
    again.config = dataclasses.replace(again.config, rescore_rounds=2)
    second, _ = again.run()
    assert second.distance <= first.distance
    assert second.distance == judge.distance(second.blocks)[0]
    assert parameters(second.blocks, llama.config) <= 250_000


def test_candidates_as_json(costs, scores):
    candidate = solve_all(scores, costs, ConstraintsConfig(num_parameters=300_000), SOLVE)[0]
    row = candidate.to_dict()
    assert [Block.parse(text) for text in row["blocks"]] == candidate.blocks
    assert Solution.from_dict(row["solution"]) == candidate.solution


def test_scores_that_no_table_knows_are_never_made_up(costs):
    alone = [Score(0, "kv4+w768", 0.0, 0.0, 1, "kl")]
    assert [c.blocks for c in solve_all(alone, costs, ConstraintsConfig(max_batch_size=1), SOLVE)] == [[Block(4, 768)]]
