"""Trains and calibrates the router that is shipped beside `router_mrkl.py` (MRKL, arXiv 2205.00445).

    python -m hf_puzzle.mrkl.train

draws wordings of the train pool about several invented worlds, trains the linear router on them, fits its temperature
and the calibration of chosen plans on the dev pool, and writes `router_mrkl.safetensors` and `router_mrkl.json`.
Minutes on one CPU core; every draw is seeded.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch

from ..remote.experts_mrkl import Experts
from ..remote.known_mrkl import Known
from ..remote.planner_mrkl import Planner
from ..remote.router_mrkl import CLASSES, LinearRouter, fit_confidence, fit_temperature
from ..remote.slots_mrkl import read
from .data import Generator, make_world


SHIPPED = Path(__file__).parents[1] / "remote" / "router_mrkl"
# a false call costs more than a missed one: chat is drawn more often than it is asked
SHARES = {
    "arithmetic": 5,
    "currency": 3,
    "units": 3,
    "dates": 4,
    "weather": 3,
    "wiki": 3,
    "database": 6,
    "multi": 7,
    "none": 6,
}


def labelled(pool: str, count: int, worlds: int, seed: int, directory) -> list:
    """[(known, Example)]: `count` examples of `pool` for each of `worlds` worlds."""
    found = []
    for number in range(worlds):
        folder = Path(directory) / f"{pool}-{seed}-{number}"
        world = make_world(folder, pool, seed + number)
        known = Known.from_fixtures(folder, world.today)
        found += [(known, folder, world, each) for each in Generator(world, pool, seed + number).draw(count, SHARES)]
    return found


def plan_features(decision, probabilities: dict) -> dict:
    """FEATURES of a decision and the router's probabilities for its question."""
    route = decision.plan.route if decision.plan else "none"
    return {
        "found": float(decision.plan is not None),
        "cost": decision.plan.cost if decision.plan else 0.0,
        "logp": math.log(max(probabilities.get(route, 0.0), 1e-4)) if decision.plan else 0.0,
        "none": math.log(max(probabilities["none"], 1e-4)),
        "calls": float(decision.plan is not None and len(decision.plan.steps) > 1),
        "margin": 2.0,
    }


def calibrate(router: LinearRouter, rows: list, precision: float = 0.95) -> LinearRouter:
    """Fit temperature and confidence of `router` on rows of `labelled`; returns it.

    The temperature fits the router's own probabilities; the confidence fits whether the plan that is chosen, without
    any threshold, has the gold route.
    """
    readings = [read(example.query, known) for known, _, _, example in rows]
    labels = torch.tensor([router.classes.index(example.route) for _, _, _, example in rows])
    router.calibration.temperature = fit_temperature(torch.stack([router.logits(r) for r in readings]), labels)
    router.calibration.threshold = -1.0
    planners, values, right = {}, [], []
    for known, folder, world, example in rows:
        if folder not in planners:
            planners[folder] = Planner(Experts.from_fixtures(folder, world.today), known, router)
        decision = planners[folder].decide(example.query)
        values.append(plan_features(decision, router.probabilities(read(example.query, known))))
        if decision.plan:
            right.append(
                sorted(step.expert for step in decision.plan.steps) == sorted(c["expert"] for c in example.calls)
            )
        else:
            # nothing readable: what is fitted is whether a call was needed all the same
            right.append(bool(example.calls))
    temperature = router.calibration.temperature
    router.calibration = fit_confidence(values, right, precision)
    router.calibration.temperature = temperature
    return router


def train(
    count: int = 1500, worlds: int = 6, dev: int = 500, seed: int = 0, precision: float = 0.95, epochs: int = 10
):
    """(router, facts): a trained and calibrated LinearRouter, and how long it took and how right it is on dev."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        rows = labelled("train", count, worlds, seed, directory)
        router = LinearRouter(CLASSES)
        readings = [read(example.query, known) for known, _, _, example in rows]
        drawn = time.process_time()
        router.fit(readings, [example.route for _, _, _, example in rows], epochs=epochs, seed=seed)
        fitted = time.process_time()
        held = labelled("dev", dev, 2, seed + 1000, directory)
        # half of the chat of the calibration set is unseen, as the wordings are; the rest keeps it from being too small
        calibrate(router, held + labelled("train", dev // 2, 2, seed + 2000, directory), precision)
        right = 0
        for known, _, _, example in held:
            found = router.probabilities(read(example.query, known))
            right += max(found, key=found.get) == example.route
    facts = {
        "examples": len(rows),
        "generate_cpu_s": round(drawn - start, 1),
        "fit_cpu_s": round(fitted - drawn, 1),
        "total_cpu_s": round(time.process_time() - start, 1),
        "dev_router_accuracy": round(right / len(held), 4),
        "calibration": vars(router.calibration),
    }
    return router, facts


def main(argv=None) -> dict:
    """Command line: trains and writes the router; returns the facts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(SHIPPED), help="path without ending")
    parser.add_argument("--count", type=int, default=1500, help="examples per world")
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", type=float, default=0.95)
    arguments = parser.parse_args(argv)
    router, facts = train(arguments.count, arguments.worlds, seed=arguments.seed, precision=arguments.precision)
    router.save(arguments.out)
    return facts


if __name__ == "__main__":
    main()
