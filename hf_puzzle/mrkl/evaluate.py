"""Evaluation of MRKL: a system behind one callable, our own held-back queries, and their scores (arXiv 2205.00445).

`factory(fixtures_dir, today)` is the system under test, made of public parts only. `heldback` writes queries in
wordings that training never had, about worlds with other tables and towns; `score` says
how many were routed, traced and answered rightly, how often a call was false or missed, and how far confidences can be
trusted.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

from ..remote.experts_mrkl import Experts
from ..remote.known_mrkl import Known
from ..remote.planner_mrkl import Limits, Planner
from .confidence import calibration_error, coverage, reliability
from .data import Example, Generator, make_world, solve


HELDBACK = Path(__file__).parents[2] / "recipes" / "mrkl" / "heldback.jsonl"


def factory(fixtures_dir, today: str):
    """A callable query -> {"answer", "status", "trace", "confidence", "message"} over a folder of fixtures.

    Raises: what the experts and `Known` raise for missing folders or a date that is none.
    """
    experts = Experts.from_fixtures(fixtures_dir, today)
    return Planner(experts, Known.of(experts, today), Limits()).ask


# -- held-back queries


def heldback(path=HELDBACK, seed: int = 11, count: int = 420, worlds: int = 2) -> list:
    """Write held-back queries with gold to `path`, arithmetic of 1..9 digits in digits and words included; the rows.

    A row: {"id", "world", "query", "category", "sub", "calls", "results", "kind", "meta"}. Worlds are named by pool
    and seed and made again by `data.make_world`.
    """
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(worlds):
            folder = Path(directory) / str(number)
            world = make_world(folder, "held", seed + number)
            experts = Experts.from_fixtures(folder, world.today)
            generator = Generator(world, "held", seed + number)
            examples = generator.draw(count // worlds)
            for digits in range(1, 10):
                examples += [generator.arithmetic(digits, style) for style in ("digits", "words") for _ in range(4)]
            seen = set()
            for example in examples:
                results, status = solve(example.calls, experts) if example.calls else ([], "ok")
                if status == "ok" and example.query not in seen:
                    seen.add(example.query)
                    rows.append(
                        {"id": f"held-{len(rows):04d}", "world": f"held-{seed + number}", "query": example.query}
                        | {"category": example.category, "sub": example.sub, "calls": example.calls}
                        | {"results": results, "kind": example.kind, "meta": example.meta}
                    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def ask_all(rows: list, make=factory) -> list:
    """Answers of `make(fixtures, today)` to `rows`, each with its latency in ms; worlds are made again."""
    systems, found = {}, []
    with tempfile.TemporaryDirectory() as directory:
        for row in rows:
            if row["world"] not in systems:
                pool, seed = row["world"].rsplit("-", 1)
                folder = Path(directory) / row["world"]
                world = make_world(folder, pool, int(seed))
                systems[row["world"]] = make(folder, world.today)
            start = time.perf_counter()
            answer = systems[row["world"]](row["query"])
            found.append({**answer, "latency_ms": (time.perf_counter() - start) * 1e3})
    return found


# -- scores


def route_right(row: dict, answer: dict) -> bool:
    """Whether the same experts were called, whatever the order."""
    return sorted(step["expert"] for step in answer["trace"]) == sorted(step["expert"] for step in row["calls"])


def answer_right(row: dict, answer: dict) -> bool:
    """Whether the answer is gold's: numbers exactly or to 1e-6, dates and texts as written; chat calls nothing."""
    if row["kind"] == "abstain":
        return not answer["trace"]
    if answer["status"] != "ok" or not answer["trace"]:
        return False
    gold, said = row["results"][-1], answer["trace"][-1]["result"]
    if row["kind"] != "number":
        return gold.lower() in str(answer["answer"]).lower()
    try:
        gold, said = Fraction(gold), Fraction(said.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return False
    return abs(gold - said) <= Fraction(1, 10**6) * max(1, abs(gold))


def score(rows: list, answers: list) -> dict:
    """All numbers of the research note's protocol (D.7) for `answers` to `rows`.

    Raises: ValueError when their lengths differ.
    """
    if len(rows) != len(answers):
        raise ValueError(f"{len(rows)} rows and {len(answers)} answers")
    tables = defaultdict(lambda: defaultdict(list))
    for row, answer in zip(rows, answers, strict=True):
        keys = ["all", f"category {row['category']}"]
        if row["category"] == "arithmetic" and row["meta"]["style"] != "comma":
            keys += [f"digits {row['meta']['style']} {row['meta']['digits']}", f"style {row['meta']['style']}"]
        for key in keys:
            tables[key]["route"].append(route_right(row, answer))
            tables[key]["answer"].append(answer_right(row, answer))
    chat = [answer for row, answer in zip(rows, answers, strict=True) if not row["calls"]]
    called = [answer for row, answer in zip(rows, answers, strict=True) if row["calls"]]
    confidences, right = [answer["confidence"] for answer in answers], tables["all"]["route"]
    times = sorted(answer["latency_ms"] for answer in answers)
    accepted = [
        (a["confidence"], answer_right(r, a)) for r, a in zip(rows, answers, strict=True) if a["status"] == "ok"
    ]
    return {
        "rows": len(rows),
        "tables": {
            key: {name: round(sum(v) / len(v), 4) for name, v in table.items()} | {"n": len(table["route"])}
            for key, table in sorted(tables.items())
        },
        "false_call_rate": round(sum(bool(a["trace"]) for a in chat) / max(1, len(chat)), 4),
        "missed_call_rate": round(sum(not a["trace"] for a in called) / max(1, len(called)), 4),
        "self_computed": sum(a["answer"] is not None and not a["trace"] for a in called),
        "ece": round(calibration_error(confidences, right), 4),
        "coverage_at_95_precision": round(coverage(confidences, right), 4),
        "answers": reliability([c for c, _ in accepted], [r for _, r in accepted]),
        "latency_ms": {"p50": round(times[len(times) // 2], 2), "p95": round(times[int(len(times) * 0.95)], 2), "max": round(times[-1], 2)},
    }  # fmt: skip


def answers_at(count: int, seed: int, folder) -> dict:
    """`reliability` of what is answered of `count` generated questions in wordings and worlds kept apart."""
    found = []
    for number in range(2):
        path = Path(folder) / str(number)
        world = make_world(path, "held", seed + number)
        ask, experts = factory(path, world.today), Experts.from_fixtures(path, world.today)
        for example in Generator(world, "held", seed + number).draw(count // 2):
            reply = ask(example.query)
            results, status = solve(example.calls, experts) if example.calls else ([], "ok")
            if reply["status"] == "ok" and status == "ok":
                row = {"kind": example.kind if example.calls else "abstain", "results": results}
                found.append((reply["confidence"], answer_right(row, reply)))
    return {"asked": count // 2 * 2, **reliability([c for c, _ in found], [r for _, r in found])}


def main(argv=None) -> dict:
    """Command line: score the shipped system on the held-back queries; `--write` draws them anew first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heldback", default=str(HELDBACK))
    parser.add_argument("--write", action="store_true", help="draw the held-back queries anew")
    arguments = parser.parse_args(argv)
    if arguments.write:
        heldback(arguments.heldback)
    rows = [json.loads(line) for line in Path(arguments.heldback).read_text(encoding="utf-8").splitlines()]
    return score(rows, ask_all(rows))


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))  # noqa: T201


__all__ = ["Example", "ask_all", "factory", "heldback", "score"]
