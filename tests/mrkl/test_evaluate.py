"""Scores by hand, and the shipped system on part of the held-back queries."""

import json

import pytest

from hf_puzzle.mrkl.evaluate import HELDBACK, answer_right, ask_all, calibration_error, coverage, route_right, score


ROW = {"id": "a", "world": "w", "query": "q", "category": "arithmetic", "sub": "add", "kind": "number"} | {
    "calls": [{"expert": "calculator", "arguments": {"expression": "1+1"}}],
    "results": ["1/3"],
    "meta": {"digits": 1, "style": "digits"},
}
CHAT = ROW | {"category": "none", "kind": "abstain", "calls": [], "results": [], "meta": {}}


def said(result, expert="calculator", **more):
    trace = [{"expert": expert, "arguments": {}, "result": result}] if result is not None else []
    return {"answer": result, "status": "ok", "trace": trace, "confidence": 0.9, "latency_ms": 2.0} | more


@pytest.mark.parametrize(
    "answer, right",
    [(said("1/3"), True), (said("0.33333333"), True), (said("0.333"), False), (said("x"), False), (said(None), False)],
)
def test_numbers(answer, right):
    assert answer_right(ROW, answer) is right


def test_texts_routes_and_chat():
    text = ROW | {"kind": "text", "results": ["Iron Saw"]}
    assert answer_right(text, said("iron saw"))
    assert not answer_right(text, said("iron saw", status="error"))
    assert route_right(ROW, said("1"))
    assert not route_right(ROW, said("1", expert="units"))
    assert answer_right(CHAT, said(None))
    assert not answer_right(CHAT, said("1"))


def test_calibration_and_coverage():
    assert calibration_error([0.95] * 20, [True] * 19 + [False]) == pytest.approx(0)
    assert calibration_error([0.9, 0.9], [False, False]) == pytest.approx(0.9)
    assert coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, True]) == 0.5
    assert coverage([0.5], [False]) == 0.0


def test_score():
    out = score([ROW, CHAT, ROW], [said("1/3"), said("5"), said(None, answer="0.33")])
    assert out["tables"]["all"] == {"route": 0.3333, "answer": 0.3333, "n": 3}
    assert (out["false_call_rate"], out["missed_call_rate"], out["self_computed"]) == (1.0, 0.5, 1)
    assert out["tables"]["digits digits 1"]["n"] == 2
    with pytest.raises(ValueError, match="1 rows and 0 answers"):
        score([ROW], [])


def test_shipped_system_on_part_of_the_held_back_queries():
    rows = [json.loads(line) for line in HELDBACK.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 300
    rows = rows[::3]
    out = score(rows, ask_all(rows))
    assert out["tables"]["all"]["route"] >= 0.93
    assert out["tables"]["all"]["answer"] >= 0.93
    assert out["tables"]["category multi"]["answer"] >= 0.6
    assert out["tables"]["category arithmetic"]["answer"] >= 0.97
    assert out["false_call_rate"] <= 0.08
    assert out["self_computed"] == 0
    assert out["coverage_at_95_precision"] >= 0.9
