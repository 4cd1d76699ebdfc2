"""The solver against brute force, against itself under changes that must not matter, and against bad input."""

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_puzzle.puzzle import mip_process
from hf_puzzle.puzzle import solver as solver_module
from hf_puzzle.puzzle.solver import (
    Choice,
    InfeasibleError,
    Limit,
    Solution,
    SolverFailedError,
    SolverUnusableError,
    VerificationError,
    lagrangian_bound,
    pick_solver,
    solve,
    solver_state,
    verify,
)


SOLVERS = ("HIGHS", "CBC")
QUANTITIES = ("weight_bytes", "time_ms", "kv_bytes")


@pytest.fixture
def in_process(monkeypatch):
    """Programs are solved here, not in a process each: a tenth of the time, where there are dozens to a test."""
    monkeypatch.setenv("PMIP_HIGHS_LIBRARY", solver_state("HIGHS").library)

    def ask(solver, program, time_limit_s, relative_gap):
        options = {"solver": solver, "time_limit_s": time_limit_s, "relative_gap": relative_gap}
        return mip_process.solve(json.loads(json.dumps(program | options)))

    monkeypatch.setattr(solver_module, "_ask", ask)


def random_layers(seed, num_layers=4, num_choices=4, scale=1.0):
    """Layers whose first choice is the parent (score 0, largest costs)."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(num_layers):
        parent = {"weight_bytes": 1e6, "time_ms": 1.0, "kv_bytes": 4e4}
        layer = [Choice("parent", 0.0, parent)]
        for block in range(1, num_choices):
            shrink = rng.uniform(0.05, 1.0, len(QUANTITIES))
            costs = {key: parent[key] * factor for key, factor in zip(QUANTITIES, shrink, strict=True)}
            layer.append(Choice(f"b{block}", float(rng.gamma(1.0) * (1.2 - shrink.mean()) * scale), costs))
        layers.append(layer)
    return layers


def limits_at(layers, fraction, quantities=QUANTITIES):
    """Each limit at `fraction` of the way from the smallest to the largest attainable total."""
    limits = []
    for quantity in quantities:
        low = sum(min(c.costs[quantity] for c in layer) for layer in layers)
        high = sum(max(c.costs[quantity] for c in layer) for layer in layers)
        limits.append(Limit(quantity + "_limit", quantity, low + fraction * (high - low)))
    return limits


def distance(first, second):
    return sum(a != b for a, b in zip(first, second, strict=True))


def brute_force(layers, limits, earlier=(), min_different=0, fixed_distance=None):
    """Best score over all selections, None if none is feasible."""
    best = None
    for chosen in itertools.product(*layers):
        if any(sum(c.costs[limit.quantity] for c in chosen) > limit.maximum * (1 + 1e-9) for limit in limits):
            continue
        blocks = [c.block for c in chosen]
        if any(distance(blocks, other) < min_different for other in earlier):
            continue
        if fixed_distance and distance(blocks, fixed_distance[0]) > fixed_distance[1]:
            continue
        score = sum(c.score for c in chosen)
        best = score if best is None else min(best, score)
    return best


def scaled(layers, factor):
    return [[dataclasses.replace(c, score=c.score * factor) for c in layer] for layer in layers]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("seed", range(25))
def test_equals_brute_force(name, seed, in_process):
    layers = random_layers(seed, num_layers=3 + seed % 3, num_choices=3 + seed // 3 % 3)
    limits = limits_at(layers, fraction=0.25 + 0.02 * seed, quantities=QUANTITIES[: seed % 4])
    expected = brute_force(layers, limits)
    if expected is None:
        with pytest.raises(InfeasibleError):
            solve(layers, limits, solver=name)
        return
    (solution,) = solve(layers, limits, solver=name)
    assert solution.score == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert solution.verified
    assert solution.status == "OPTIMAL"
    assert solution.gap <= 3e-6
    assert solution.bound <= expected * (1 + 1e-9) + 1e-12
    assert lagrangian_bound(layers, limits) <= expected * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("seed", range(6))
def test_diverse_solutions_equal_brute_force(name, seed, in_process):
    layers = random_layers(seed, num_layers=5, num_choices=3)
    limits = limits_at(layers, 0.5)
    solutions = solve(layers, limits, num_solutions=4, min_distance=0.4, solver=name)
    earlier = []
    for solution in solutions:
        expected = brute_force(layers, limits, earlier, min_different=2)
        assert solution.score == pytest.approx(expected, rel=2e-6)
        earlier.append(solution.blocks)
    assert all(distance(a, b) >= 2 for a, b in itertools.combinations(earlier, 2))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("max_different", range(5))
def test_trust_region_equals_brute_force(name, max_different, in_process):
    for seed in range(4):
        layers = random_layers(seed, num_layers=4, num_choices=4)
        limits = limits_at(layers, 0.5, QUANTITIES[:2])
        region = (["b1"] * 4, max_different)
        expected = brute_force(layers, limits, fixed_distance=region)
        if expected is None:
            with pytest.raises(InfeasibleError, match=f"within {max_different} layers"):
                solve(layers, limits, fixed_distance=region, solver=name)
        else:
            (solution,) = solve(layers, limits, fixed_distance=region, solver=name)
            assert solution.score == pytest.approx(expected, rel=1e-6)
            assert distance(solution.blocks, region[0]) <= max_different


def test_trust_region_and_diversity_together():
    layers = random_layers(3, num_layers=5, num_choices=3)
    limits = limits_at(layers, 0.6)
    region = (["b1"] * 5, 3)
    first, second = solve(layers, limits, num_solutions=2, min_distance=0.2, fixed_distance=region)
    assert first.score == pytest.approx(brute_force(layers, limits, fixed_distance=region), rel=1e-6)
    expected = brute_force(layers, limits, [first.blocks], 1, region)
    assert second.score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_scale_of_scores_and_costs_does_not_matter(name, in_process):
    layers = random_layers(7, num_layers=12, num_choices=8)
    limits = limits_at(layers, 0.4)
    (reference,) = solve(layers, limits, solver="HIGHS")
    for factor in (1e-7, 1e-5, 1e-3, 1e-1, 1e1, 1e3, 1e6):
        (solution,) = solve(scaled(layers, factor), limits, solver=name)
        assert solution.score / factor == pytest.approx(reference.score, rel=2e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_constant_in_all_scores_does_not_matter(name, in_process):
    for seed in range(5):
        layers = random_layers(seed, num_layers=12, num_choices=8)
        limits = limits_at(layers, 0.4)
        (reference,) = solve(layers, limits, solver=name)
        shifted = [[dataclasses.replace(c, score=c.score + 1e6) for c in layer] for layer in layers]
        (solution,) = solve(shifted, limits, solver=name)
        assert solution.blocks == reference.blocks
        assert solution.score - 12e6 == pytest.approx(reference.score, abs=1e-6)
        assert solution.gap == pytest.approx(reference.gap, abs=1e-6)
        assert solution.bound - 12e6 == pytest.approx(reference.bound, abs=1e-6)
        assert lagrangian_bound(shifted, limits) - 12e6 == pytest.approx(lagrangian_bound(layers, limits), abs=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_hopeless_block_does_not_drown_the_others(name):
    layers = random_layers(11, num_layers=5, num_choices=4, scale=1e-4)
    limits = limits_at(layers, 0.4)
    # cheapest in everything, hence not dominated, and eleven orders of magnitude worse than the rest
    hopeless = Choice("none", 1e7, {"weight_bytes": 0.0, "time_ms": 0.0, "kv_bytes": 0.0})
    (solution,) = solve([[*layer, hopeless] for layer in layers], limits, solver=name)
    assert solution.score == pytest.approx(brute_force(layers, limits), rel=1e-6)


def greedy(layers, limits):
    """Shrink the layer with the least score per relative saving until every limit holds; None if stuck."""
    chosen = [layer[0] for layer in layers]

    def violation(selection):
        totals = [sum(c.costs[limit.quantity] for c in selection) / limit.maximum for limit in limits]
        return sum(max(0.0, total - 1.0) for total in totals)

    while violation(chosen) > 0:
        moves = []
        for idx, layer in enumerate(layers):
            for choice in layer:
                gain = violation(chosen) - violation(chosen[:idx] + [choice] + chosen[idx + 1 :])
                if gain > 0:
                    moves.append(((choice.score - chosen[idx].score) / gain, idx, choice))
        if not moves:
            return None
        _, idx, choice = min(moves, key=lambda move: move[:2])
        chosen[idx] = choice
    return sum(c.score for c in chosen)


def test_greedy_is_never_better(in_process):
    compared = 0
    for seed in range(15):
        layers = random_layers(seed, num_layers=10, num_choices=6)
        limits = limits_at(layers, 0.45)
        heuristic = greedy(layers, limits)
        if heuristic is not None:
            compared += 1
            assert solve(layers, limits)[0].score <= heuristic * (1 + 1e-6)
    assert compared >= 10


@pytest.mark.parametrize("seed", range(5))
def test_pruning_changes_nothing(seed, monkeypatch, in_process):
    layers = random_layers(seed, num_layers=5, num_choices=5)
    limits = limits_at(layers, 0.45)
    options = {"num_solutions": 3, "min_distance": 0.4, "fixed_distance": (["b2"] * 5, 4)}
    pruned = [solution.score for solution in solve(layers, limits, **options)]
    monkeypatch.setattr(solver_module, "drop_dominated", lambda problem: problem)
    monkeypatch.setattr(solver_module, "drop_hopeless", lambda problem, multipliers, upper: problem)
    assert [solution.score for solution in solve(layers, limits, **options)] == pytest.approx(pruned, rel=2e-6)


def test_dominated_choices_and_ties_are_dropped():
    small, large = {"time_ms": 1.0}, {"time_ms": 2.0}
    layer = [Choice("a", 0.0, large), Choice("tie", 0.0, large), Choice("b", 1.0, small), Choice("bad", 1.5, large)]
    problem = solver_module._build_problem([layer], [Limit("latency_ms", "time_ms", 3.0)])
    kept = np.isfinite(solver_module.drop_dominated(problem).scores)
    assert kept.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("name", SOLVERS)
def test_zero_scores(name):
    layers = [[Choice("a", 0.0, {"time_ms": 2.0}), Choice("b", 0.0, {"time_ms": 1.0})]] * 4
    (solution,) = solve(layers, [Limit("latency_ms", "time_ms", 5.0)], solver=name)
    assert (solution.score, solution.bound, solution.gap, solution.status) == (0.0, 0.0, 0.0, "OPTIMAL")
    assert solution.costs["time_ms"] <= 5.0


@pytest.mark.parametrize("name", SOLVERS)
def test_without_limits_the_parent_wins(name):
    layers = random_layers(0)
    assert solve(layers, solver=name)[0].blocks == ("parent",) * 4
    assert solve(layers, [Limit("memory_gb", "weight_bytes", math.inf)], solver=name)[0].score == 0.0


@pytest.mark.parametrize("name", SOLVERS)
def test_limit_equal_to_the_smallest_total(name):
    layers = [[Choice("a", 0.0, {"time_ms": 0.3}), Choice("b", 1.0, {"time_ms": 0.1})]] * 7
    # 7 x 0.1 summed naively is not 0.7
    assert solve(layers, [Limit("latency_ms", "time_ms", 0.7)], solver=name)[0].score == pytest.approx(7.0)


def test_negative_scores():
    layers = random_layers(5)
    layers = [[dataclasses.replace(c, score=c.score - 0.5) for c in layer] for layer in layers]
    limits = limits_at(layers, 0.4)
    (solution,) = solve(layers, limits)
    assert solution.score == pytest.approx(brute_force(layers, limits), rel=1e-6)
    assert solution.bound <= solution.score


def test_one_infeasible_limit_is_named_with_its_nearest_value():
    layers = random_layers(1, num_choices=3)
    smallest = sum(min(c.costs["weight_bytes"] for c in layer) for layer in layers)
    limits = [
        Limit("memory_gb", "weight_bytes", smallest * 0.5, to_user=lambda total: total / 1e9 + 1.0),
        Limit("latency_ms", "time_ms", 100.0),
    ]
    with pytest.raises(InfeasibleError, match=f"memory_gb={smallest * 0.5 / 1e9 + 1:g}") as error:
        solve(layers, limits)
    assert error.value.nearest == {"memory_gb": pytest.approx(smallest / 1e9 + 1.0)}
    assert "latency_ms" not in str(error.value)


@pytest.mark.parametrize("name", SOLVERS)
def test_jointly_infeasible_limits_report_what_each_would_need(name):
    fast, small = {"time_ms": 1.0, "weight_bytes": 4e9}, {"time_ms": 4.0, "weight_bytes": 1e9}
    layers = [[Choice("fast", 0.0, fast), Choice("small", 0.5, small)]] * 4
    memory = Limit("memory_gb", "weight_bytes", 7e9, to_user=lambda total: total / 1e9)
    throughput = Limit("tokens_per_second", "time_ms", 7.0, to_user=lambda total: 1000 / total)
    with pytest.raises(InfeasibleError) as error:
        solve(layers, [memory, throughput], solver=name)
    # memory <= 7e9 needs 3 small layers, so 13 ms; 7 ms needs 3 fast layers, so 13 GB
    assert error.value.nearest == {"memory_gb": pytest.approx(13.0), "tokens_per_second": pytest.approx(1000 / 13)}
    assert "memory_gb=7 " in str(error.value)
    assert "13" in str(error.value)
    assert "76.923" in str(error.value)
    for repaired in ([dataclasses.replace(memory, maximum=13e9), throughput],
                     [memory, dataclasses.replace(throughput, maximum=13.0)]):  # fmt: skip
        assert solve(layers, repaired, solver=name)[0].verified


@pytest.mark.parametrize("name", SOLVERS)
def test_tiny_infeasible_model_that_cbc_calls_optimal(name):
    # with its preprocessing on, CBC 2.935 answers OPTIMAL here and breaks all three limits
    layers = random_layers(469539873, num_layers=2, num_choices=5, scale=1e-7)
    limits = limits_at(layers, 0.31003616)
    assert brute_force(layers, limits) is None
    with pytest.raises(InfeasibleError, match="cannot hold together"):
        solve(layers, limits, solver=name)


def test_printed_nearest_value_is_feasible_when_typed_in():
    assert solver_module._round_away(1.2345678, asked=1.0) == pytest.approx(1.2346)
    assert solver_module._round_away(1.2345678, asked=2.0) == pytest.approx(1.2345)
    assert solver_module._round_away(13.0, asked=7.0) == 13.0


@pytest.mark.parametrize(
    "change",
    [
        {"score": 0.0},
        {"costs": {"time_ms": 0.0}},
        {"blocks": ("parent",) * 4},
        {"blocks": ("b1",)},
        {"blocks": ("nonsense",) * 4},
        {"bound": 1e9},
    ],
)
def test_verification_catches_a_tampered_solution(change):
    layers = random_layers(2)
    limits = limits_at(layers, 0.4)
    (solution,) = solve(layers, limits)
    verify(solution, layers, limits)
    with pytest.raises(VerificationError):
        verify(dataclasses.replace(solution, **change), layers, limits)


def test_verification_catches_a_broken_limit():
    layers = random_layers(2)
    (solution,) = solve(layers)
    with pytest.raises(VerificationError, match="weight_bytes_limit"):
        verify(solution, layers, limits_at(layers, 0.4))


def test_a_lying_solver_is_caught(monkeypatch):
    layers = random_layers(2)
    limits = limits_at(layers, 0.4)
    answer = solver_module._Answer("OPTIMAL", np.zeros(4, dtype=int), 0.0)
    monkeypatch.setattr(solver_module, "_run_mip", lambda *args: answer)
    with pytest.raises(VerificationError, match="broke row"):
        solve(layers, limits)


def test_round_trip_through_json():
    (solution,) = solve(random_layers(0), limits_at(random_layers(0), 0.5))
    assert Solution.from_dict(json.loads(json.dumps(solution.to_dict()))) == solution


@pytest.mark.parametrize("name", SOLVERS)
def test_deterministic_and_silent(name, capfd):
    layers = random_layers(9, num_layers=10, num_choices=6)
    limits = limits_at(layers, 0.4)
    runs = [solve(layers, limits, num_solutions=2, solver=name) for _ in range(2)]
    assert [s.blocks for s in runs[0]] == [s.blocks for s in runs[1]]
    assert capfd.readouterr() == ("", "")


def test_fewer_solutions_than_asked_warns(caplog):
    layers = [[Choice("a", 0.0, {"time_ms": 1.0}), Choice("b", 1.0, {"time_ms": 1.0})]] * 2
    solutions = solve(layers, num_solutions=9, min_distance=1.0)
    assert [s.score for s in solutions] == [0.0, 2.0]
    assert "found 2 of num_solutions=9" in caplog.text


def test_time_limit_without_incumbent(monkeypatch):
    layers = random_layers(2)
    monkeypatch.setattr(solver_module, "_run_mip", lambda *args: solver_module._Answer("NO_SOLUTION_FOUND"))
    dual = solver_module.lagrangian
    monkeypatch.setattr(
        solver_module, "lagrangian", lambda problem: dataclasses.replace(dual(problem), picks=None, upper=math.inf)
    )
    with pytest.raises(RuntimeError, match="time_limit_s=0.5"):
        solve(layers, limits_at(layers, 0.4), time_limit_s=0.5)


def test_time_limit_with_incumbent_returns_it_with_its_gap(monkeypatch, caplog):
    layers = random_layers(4, num_layers=20, num_choices=8)
    limits = limits_at(layers, 0.45)
    (best,) = solve(layers, limits)
    monkeypatch.setattr(solver_module, "_run_mip", lambda *args: solver_module._Answer("NO_SOLUTION_FOUND"))
    (solution,) = solve(layers, limits, time_limit_s=0.5)
    assert (solution.status, solution.solver) == ("FEASIBLE", "LAGRANGIAN")
    assert solution.bound <= best.score <= solution.score
    assert solution.gap > 1e-6
    assert "time_limit_s=0.5" in caplog.text


def with_choice(layers, choice):
    return [layers[0], [*layers[1], choice], *layers[2:]]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("x", math.nan, dict.fromkeys(QUANTITIES, 1.0)), "layer 1, block 'x': score is nan"),
        (Choice("x", math.inf, dict.fromkeys(QUANTITIES, 1.0)), "layer 1, block 'x': score is inf"),
        (Choice("x", 0.0, {**dict.fromkeys(QUANTITIES, 1.0), "time_ms": math.nan}), "'x': time_ms is nan"),
        (Choice("x", 0.0, {"weight_bytes": 1.0, "kv_bytes": 1.0}), "layer 1, block 'x': no cost 'time_ms'"),
        (Choice("b1", 0.0, dict.fromkeys(QUANTITIES, 1.0)), "layer 1, block 'b1': listed twice"),
    ],
)
def test_bad_choices_are_named(choice, message):
    layers = random_layers(0)
    with pytest.raises(ValueError, match=message):
        solve(with_choice(layers, choice), limits_at(layers, 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "gurobi"}, "expected one of auto, HIGHS, CBC"),
        ({"num_solutions": 0}, "num_solutions is 0"),
        ({"min_distance": 1.5}, "min_distance is 1.5"),
        ({"time_limit_s": 0}, "time_limit_s is 0"),
        ({"relative_gap": -1}, "relative_gap is -1"),
        ({"fixed_distance": (["parent"], 1)}, "1 blocks, expected one for each of 4 layers"),
        ({"fixed_distance": (["parent"] * 4, -1)}, "-1 different layers"),
        ({"fixed_distance": (["parent", "zzz", "parent", "parent"], 1)}, "layer 1 does not offer 'zzz'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        solve(random_layers(0), **options)


def test_empty_input_and_nan_limits():
    with pytest.raises(ValueError, match="layers is empty"):
        solve([])
    with pytest.raises(ValueError, match="layer 1 has no choices"):
        solve([random_layers(0)[0], []])
    with pytest.raises(ValueError, match="memory_gb: maximum is nan"):
        solve(random_layers(0), [Limit("memory_gb", "weight_bytes", math.nan)])


# ---- the solver's process ----


LAYERS = """
from hf_puzzle.puzzle.solver import Choice, Limit, solve

layers = [[Choice("a", 0.0, {"ms": 3.0}), Choice("b", i + 1.0, {"ms": 1.0}), Choice("c", i + 0.4, {"ms": 2.0})] for i in range(6)]
limit = Limit("latency_ms", "ms", 12.0)
"""
SOLVED = "print([solve(layers, [limit], solver=name)[0].score for name in ('HIGHS', 'CBC')])"
# each leaves this process so that a solve in it raises or crashes
OTHERS = {
    "mip": """
import mip

other = mip.Model(solver_name="HIGHS")
other.threads = 2
x = [other.add_var(var_type="B", obj=-(i % 3)) for i in range(9)]
other += mip.xsum(x) <= 4
assert other.optimize().name == "OPTIMAL"
""",
    "highspy": """
import highspy

other = highspy.Highs()
other.setOptionValue("threads", 4)
x = [other.addBinary(obj=-(i % 3)) for i in range(9)]
other.addConstr(sum(x) <= 4)
other.run()
""",
    "ortools": """
from ortools.linear_solver import pywraplp

other = pywraplp.Solver.CreateSolver("SCIP")
x = [other.IntVar(0, 1, "") for i in range(9)]
other.Add(sum(x) <= 4)
other.Maximize(sum(i % 3 * v for i, v in enumerate(x)))
assert other.Solve() == other.OPTIMAL
""",
}


def said_by(script, **environ):
    environ = os.environ | {"PMIP_HIGHS_LIBRARY": solver_state("HIGHS").library} | environ
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environ, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("package", OTHERS)
def test_other_users_of_solvers_in_this_process_are_no_matter(package, tmp_path):
    pytest.importorskip(package)
    script = tmp_path / "script.py"
    script.write_text(OTHERS[package] + LAYERS + SOLVED)
    # a script without a __main__ guard, too
    assert said_by(script) == "[6.0, 6.0]"


def test_files_beside_the_script_or_the_solver_stand_for_no_packages(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(LAYERS + SOLVED)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "mip.py").write_text("raise SystemExit('this is not mip')")
    monkeypatch.chdir(tmp_path / "cwd")
    assert said_by(script, PYTHONWARNINGS="error::SyntaxWarning") == "[6.0, 6.0]"


def a_process_that(monkeypatch, tmp_path, what, solver=""):
    """Put `what` before the solver's process, for one solver only if named; it may use `request`."""
    path = tmp_path / "process.py"
    path.write_text(
        "import io, json, os, runpy, signal, sys, time\n"
        "request = json.load(sys.stdin)\n"
        f"if {solver!r} in request['solver'] and len(request['objective']) > 1:\n    {what}\n"
        "sys.stdin = io.StringIO(json.dumps(request))\n"
        f"runpy.run_path({str(Path(mip_process.__file__))!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(solver_module, "_PROCESS", path)


@pytest.mark.parametrize(
    "what, message",
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "HIGHS ended with SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "HIGHS ended with SIGSEGV"),
        ("sys.exit('no memory')", "HIGHS ended with exit code 1: no memory"),
        ("print('hello'); sys.exit()", "answers 'hello"),
        ("request['groups'] = [[99]]", "HIGHS failed: IndexError"),
    ],
)
def test_a_process_that_dies_is_named_or_replaced(monkeypatch, tmp_path, caplog, what, message):
    layers = random_layers(3, num_layers=5, num_choices=4)
    limits = limits_at(layers, 0.45)
    (best,) = solve(layers, limits, solver="CBC")
    a_process_that(monkeypatch, tmp_path, what, "HIGHS")
    with pytest.raises(SolverFailedError, match=message):
        solve(layers, limits, solver="HIGHS")
    (solution,) = solve(layers, limits)
    assert (solution.blocks, solution.solver) == (best.blocks, "CBC")
    assert "CBC takes its place" in caplog.text


def test_where_both_die_the_error_is_named(monkeypatch, tmp_path):
    layers = random_layers(3, num_layers=5, num_choices=4)
    a_process_that(monkeypatch, tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SolverFailedError, match="CBC ended with SIGKILL"):
        solve(layers, limits_at(layers, 0.45))


def test_a_process_that_hangs_is_a_time_limit(monkeypatch, tmp_path, caplog):
    layers = random_layers(3, num_layers=5, num_choices=4)
    limits = limits_at(layers, 0.45)
    (best,) = solve(layers, limits)
    a_process_that(monkeypatch, tmp_path, "time.sleep(600)")
    monkeypatch.setattr(solver_module, "_GRACE_S", 0.5)
    (solution,) = solve(layers, limits, time_limit_s=0.5)
    assert (solution.status, solution.solver) == ("FEASIBLE", "LAGRANGIAN")
    assert solution.bound <= best.score <= solution.score
    assert "gave no answer within 1 s (time_limit_s=0.5)" in caplog.text


def test_a_process_whose_parent_is_gone_ends(tmp_path):
    # as left behind by a killed run: nobody waits for it, and its solver hangs
    (tmp_path / "mip.py").write_text("import time; time.sleep(600)")
    request = json.dumps({"path": [str(tmp_path)], "deadline_s": -4.0})
    done = subprocess.run([sys.executable, mip_process.__file__], input=request, text=True, timeout=300)
    assert done.returncode == -14  # SIGALRM


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """Hides a solver: its library is nothing, or a file that is no library."""

    def hide(name, exists=False):
        path = tmp_path / f"lib{name}.so"
        if exists:
            path.write_text("no library")
        monkeypatch.setenv(f"PMIP_{name}_LIBRARY", str(path))
        return path

    return hide


@pytest.mark.parametrize("exists", [False, True])
def test_auto_falls_back_and_says_so_once(hidden, exists, caplog):
    layers = random_layers(3, num_layers=5, num_choices=4)
    limits = limits_at(layers, 0.45)
    assert pick_solver("auto") == "HIGHS"
    (best,) = solve(layers, limits)
    path = hidden("HIGHS", exists)
    for _ in range(2):
        assert pick_solver("auto") == "CBC"
        assert solve(layers, limits)[0].blocks == best.blocks
    assert caplog.text.count("HiGHS cannot be used, CBC takes its place") == 1
    assert f"cannot load library '{path}'" in caplog.text
    with pytest.raises(SolverUnusableError, match=f"correct or unset PMIP_HIGHS_LIBRARY={path}, or use solver='auto'"):
        solve(layers, limits, solver="HIGHS")


def test_without_any_solver_the_error_names_both(hidden):
    hidden("HIGHS")
    hidden("CBC")
    with pytest.raises(SolverUnusableError, match="loading the HiGHS library.*loading the CBC library"):
        solve(random_layers(0))
    with pytest.raises(SolverUnusableError, match="solver is 'CBC'"):
        solve(random_layers(0), solver="CBC")


NO_HIGHSBOX = """
from importlib import util

find_spec = util.find_spec
util.find_spec = lambda name: None if name == "highsbox" else find_spec(name)
"""


def test_without_highsbox_an_older_highspy_does(monkeypatch, tmp_path):
    # a highspy that still exports the C API, as 1.15 does; its package imports numpy
    (tmp_path / "highspy").mkdir()
    (tmp_path / "highspy" / "__init__.py").write_text("import numpy")
    (tmp_path / "highspy" / "_core.py").write_text(f"__file__ = {solver_state('HIGHS').library!r}")
    (tmp_path / "sitecustomize.py").write_text(NO_HIGHSBOX)
    (tmp_path / "highsbox.py").write_text("raise ImportError")
    monkeypatch.delenv("PMIP_HIGHS_LIBRARY", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    solver_module._solver_state.cache_clear()
    assert solver_state("HIGHS").reason is None
    solver_module._solver_state.cache_clear()


def test_a_solver_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.delenv("PMIP_HIGHS_LIBRARY", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    solver_module._solver_state.cache_clear()
    with pytest.raises(SolverUnusableError, match="No module named 'mip'; pip install mip 'highsbox"):
        solve(random_layers(0), solver="HIGHS")
    solver_module._solver_state.cache_clear()
