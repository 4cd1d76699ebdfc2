"""Seconds and proven gap of the solver at the size of the paper's search: 80 layers x 54 blocks.

Synthetic tables: parent score 0, the score of a block grows faster the more of the parent it drops, layers differ in
how much they matter; a memory and a runtime limit, both active at the optimum. `python benchmarks/solver.py`.
"""

import argparse
import dataclasses
import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from hf_puzzle.puzzle.solver import Choice, Limit, lagrangian_bound, solve


NUM_LAYERS, NUM_BLOCKS = 80, 54
SOLVERS = ("HIGHS", "CBC")
ATTENTION = (1.0, 0.5, 0.25, 0.125, 0.06, 0.0)  # kept fraction, 0 is the no-op
FFN = (1.0, 0.87, 0.75, 0.5, 0.25, 0.2, 0.1, 0.05, 0.0)
SCORE_FACTORS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e2, 1e4, 1e6)
GATE_GAP, GATE_S = 1e-4, 3.0


def make_instance(seed: int, memory_fraction: float, runtime_fraction: float):
    """Layers and limits; the fractions are of the parent's totals."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(NUM_LAYERS):
        attention_weight, ffn_weight = rng.lognormal(-3.5, 0.8), rng.lognormal(-2.5, 0.8)
        layer = []
        for attention in ATTENTION:
            for ffn in FFN:
                drop = attention_weight * (1 - attention) ** 2.5 + ffn_weight * (1 - ffn) ** 2.0
                noise = rng.lognormal(0.0, 0.15)
                costs = {
                    "memory_bytes": 1.5e8 + 4e8 * attention + 1.4e9 * ffn,
                    # kernels do not speed up in proportion to what they drop
                    "time_ms": (0.05 + 0.5 * attention**0.7 + 0.8 * ffn**0.9) * rng.lognormal(0.0, 0.03),
                }
                score = 0.0 if attention == ffn == 1.0 else float(drop * noise)
                layer.append(Choice(f"a{attention:g}+f{ffn:g}", score, costs))
        layers.append(layer)
    parent = {key: sum(layer[0].costs[key] for layer in layers) for key in ("memory_bytes", "time_ms")}
    return layers, [
        Limit("memory_gb", "memory_bytes", memory_fraction * parent["memory_bytes"], lambda total: total / 1e9),
        Limit("latency_ms", "time_ms", runtime_fraction * parent["time_ms"]),
    ]


def rescaled(layers, factor: float):
    return [[dataclasses.replace(choice, score=choice.score * factor) for choice in layer] for layer in layers]


def measure(layers, limits, solver: str, reference: float | None = None, **options) -> dict:
    start = time.perf_counter()
    (solution,) = solve(layers, limits, solver=solver, **options)
    row = {
        "solver": solver,
        "answered_by": solution.solver,
        "seconds": round(time.perf_counter() - start, 3),
        "gap": solution.gap,
        "score": solution.score,
        "status": solution.status,
        "limits_used": {limit.constraint: solution.costs[limit.quantity] / limit.maximum for limit in limits},
    }
    return row if reference is None else {**row, "excess": solution.score / reference - 1}


def run_instances() -> list[dict]:
    rows = []
    for seed in range(3):
        for memory, runtime in ((0.75, 0.765), (0.5, 0.51), (0.3, 0.305)):
            layers, limits = make_instance(seed, memory, runtime)
            start = time.perf_counter()
            bound = lagrangian_bound(layers, limits)
            lagrangian_s = round(time.perf_counter() - start, 3)
            for solver in SOLVERS:
                row = {"seed": seed, "memory": memory, "runtime": runtime, **measure(layers, limits, solver)}
                row |= {"lagrangian_gap": 1 - bound / row["score"], "lagrangian_seconds": lagrangian_s}
                rows.append(row)
                used = ", ".join(f"{key} {value:.5f}" for key, value in row["limits_used"].items())
                print(
                    f"seed {seed} memory {memory} runtime {runtime} {solver:5} {row['seconds']:6.2f} s "
                    f"gap {row['gap']:.1e} score {row['score']:.6f} used {used} "
                    f"| Lagrangian {lagrangian_s:.2f} s gap {row['lagrangian_gap']:.1e}"
                )
    return rows


def run_scale_sweep() -> list[dict]:
    layers, limits = make_instance(0, 0.3, 0.305)
    reference = solve(layers, limits, solver="HIGHS", relative_gap=1e-9)[0].score
    rows = []
    for solver in SOLVERS:
        for factor in SCORE_FACTORS:
            row = measure(rescaled(layers, factor), limits, solver, reference * factor)
            rows.append({"factor": factor, **row})
            print(f"scores x {factor:.0e} {solver:5} {row['seconds']:6.2f} s excess {row['excess']:.1e}")
    return rows


def run_diversity() -> list[dict]:
    layers, limits = make_instance(0, 0.3, 0.305)
    rows = []
    for solver in SOLVERS:
        solutions = solve(layers, limits, num_solutions=4, min_distance=0.2, solver=solver)
        row = {
            "solver": solver,
            "seconds": [round(solution.seconds, 3) for solution in solutions],
            "excess": [solution.score / solutions[0].score - 1 for solution in solutions],
            "gap": [solution.gap for solution in solutions],
        }
        rows.append(row)
        print(f"4 diverse {solver:5} seconds {row['seconds']} excess {[f'{x:.1e}' for x in row['excess']]}")
    return rows


def describe_machine() -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": models[0] if models else platform.processor(), "cores": len(models), "system": platform.platform()}


def describe_versions() -> dict:
    versions = {"python": platform.python_version()}
    for package in ("mip", "cbcbox", "highsbox", "highspy", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    out = parser.parse_args().out
    instances = run_instances()
    highs = [row for row in instances if row["solver"] == "HIGHS"]
    worst_gap, worst_s = max(row["gap"] for row in highs), max(row["seconds"] for row in highs)
    report = {
        "what": f"{NUM_LAYERS} layers x {NUM_BLOCKS} blocks, memory and runtime limits, relative_gap 1e-6, one thread",
        "machine": describe_machine(),
        "versions": describe_versions(),
        "seeds": sorted({row["seed"] for row in instances}),
        "gate": {
            "rule": f"HiGHS gap <= {GATE_GAP} in <= {GATE_S} s",
            "worst_gap": worst_gap,
            "worst_seconds": worst_s,
            "passed": worst_gap <= GATE_GAP and worst_s <= GATE_S,
        },
        "instances": instances,
        "score_scale": run_scale_sweep(),
        "diversity": run_diversity(),
    }
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(out)
    print(f"gate {report['gate']}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
