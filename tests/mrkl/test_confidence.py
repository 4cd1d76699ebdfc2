"""Confidences that are shares: fitted, never falling, and judged."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_puzzle.mrkl.confidence import coverage, fit, isotonic, reliability, risk_coverage
from hf_puzzle.remote.confidence_mrkl import FEATURES, FITTED, features


ROWS = Path(__file__).parents[2] / "benchmarks" / "mrkl_first_contact.jsonl"


def steps(*texts):
    return [SimpleNamespace(expert="calculator", arguments={"expression": text}) for text in texts]


@pytest.mark.parametrize(
    "query, texts, taken",
    [
        ("8 + 2", ["8+2"], set()),
        ("next Friday", [], {"short", "weekday"}),
        ("What is the date on Friday, 5 May 2023?", [], set()),
        ("What is half of 7 plus 3?", ["(7/2)+3"], {"scope"}),
        ("What is 7 plus 3 minus 2?", ["7+3-2"], set()),
        ("How many cups are in 3 litres?", [], {"shared"}),
        ("What are 20 degrees Celsius in kelvin?", [], set()),
        ("What is 1,5 + 2?", ["1.5+2"], {"comma"}),
        ("What is 1,500 + 2?", ["1500+2"], set()),
        ("Reduce 240 by a third.", ["240-1/3"], {"scope"}),
        ("Convert -500 C to F now", [], {"negative"}),
        ("How many of them are left of 7?", ["1+1", "2+2"], {"steps"}),
    ],
)
def test_what_a_question_takes_for_granted(query, texts, taken):
    found = features(query, steps(*texts), 0.0)
    assert tuple(found) == FEATURES
    assert {name for name, value in found.items() if value} == taken


def test_shares_never_fall_and_only_precise_ones_are_sure():
    found = isotonic(
        [0.1] * 10 + [0.2] * 10 + [0.9] * 200, [True] * 8 + [False] * 2 + [True] * 5 + [False] * 5 + [True] * 200
    )
    assert found == [(0.1, pytest.approx(13.5 / 21, abs=1e-4)), (0.9, pytest.approx(200.5 / 201))]
    # 97 of 100: not at 99 %, hence below the sure ones
    assert isotonic([0.5] * 100, [True] * 97 + [False] * 3) == [(0.5, pytest.approx(0.94))]


def test_a_fit_finds_what_goes_wrong():
    rng = random.Random(0)
    rows, right = [], []
    for _ in range(2000):
        row = {name: float(rng.random() < 0.2) for name in FEATURES}
        rows.append(row)
        right.append(rng.random() > (0.5 if row["weekday"] else 0.001))
    confidence = fit(rows, right)
    plain = dict.fromkeys(FEATURES, 0.0)
    assert confidence(plain) > 0.99
    assert confidence(plain | {"weekday": 1.0}) == pytest.approx(0.5, abs=0.06)
    assert confidence.weights["weekday"] < -3
    with pytest.raises(ValueError, match="2 rows for 5 folds"):
        fit(rows[:2], right[:2])


def test_risk_and_coverage():
    confidences, right = [0.99, 0.99, 0.9, 0.5], [True, True, False, True]
    assert risk_coverage(confidences, right) == [(0.5, 0.0), (0.75, 0.3333), (1.0, 0.25)]
    assert coverage(confidences, right, 0.99) == 0.5
    found = reliability(confidences, right)
    assert found["sure"] == {"least": 0.95, "answers": 2, "right": 2}
    assert (found["answers"], found["right"], found["coverage_at_99_precision"]) == (4, 3, 0.5)
    assert reliability([], [])["ece"] == 0


def test_the_shipped_confidence_is_right_where_it_is_sure():
    """On all questions at first contact, those that it was fitted on among them; benchmarks/mrkl_confidence.json parts them."""
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    given = [
        FITTED(
            features(
                r["query"], [SimpleNamespace(expert=e, arguments={"expression": t}) for e, t in r["steps"]], r["cost"]
            )
        )
        for r in rows
    ]
    found = reliability(given, [row["right"] for row in rows])
    assert found["sure"]["right"] >= 0.99 * found["sure"]["answers"]
    assert found["sure"]["answers"] >= 0.8 * len(rows)
    assert found["ece"] <= 0.02
