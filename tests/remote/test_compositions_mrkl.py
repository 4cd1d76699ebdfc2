"""Compositions: the Jurassic-X question over its data, fresh facts, limits, and mistakes in writing one down."""

import json
import runpy
import shutil
import sqlite3
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from hf_puzzle.remote.calls_mrkl import MRKLError
from hf_puzzle.remote.compositions_mrkl import Composition, readable
from hf_puzzle.remote.experts_mrkl import Calculator, Experts
from hf_puzzle.remote.known_mrkl import Known
from hf_puzzle.remote.pipeline_mrkl import tool_messages
from hf_puzzle.remote.planner_mrkl import Limits, Planner
from hf_puzzle.remote.slots_mrkl import read


RECIPE = Path(__file__).parents[2] / "recipes" / "mrkl" / "jurassic_x.yaml"
WRITTEN = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["compositions"][0]
TODAY = "2022-05-02"


@pytest.fixture
def data(tmp_path):
    return shutil.copytree(RECIPE.with_suffix(""), tmp_path / "data")


def planner(folder, written=WRITTEN, **limits):
    experts = Experts.from_fixtures(folder, TODAY)
    each = Composition(**written)
    return Planner(experts, Known.of(experts, TODAY), Limits(**limits), compositions=[each])


@pytest.mark.parametrize(
    "question, answer",
    [
        ("Which of the green-energy companies rose most last month?", "Tidemark Energy: 15 %"),
        ("Which green energy company gained the most in April 2022?", "Tidemark Energy: 15 %"),
        ("Among the green energy companies, which one's shares fell most last month?", "Heliora Grid: -5 %"),
        ("which of the Shipping companies lost the most value last month", "Norvik Freight: -5 %"),
        ("Which of the dairy companies climbed most in April 2022?", "Amberfield Dairies: 2.5 %"),
    ],
)
def test_the_papers_question(data, question, answer):
    reply = planner(data).ask(question)
    assert (reply["answer"], reply["status"]) == (answer, "ok")
    used = [step["expert"] for step in reply["trace"]]
    assert [name for name in ("dates", "wiki", "database", "calculator") if name in used] == list(dict.fromkeys(used))
    assert ("dates" in used) == ("last month" in question)


def test_the_trace_can_be_computed_again(data):
    reply = planner(data).ask("Which of the green-energy companies rose most last month?")
    best = {}
    with sqlite3.connect(data / "shop.sqlite") as connection:
        for name in ("Solvane Power", "Tidemark Energy", "Windmere Turbines", "Heliora Grid"):
            rows = connection.execute(
                "SELECT price FROM shares WHERE company = ? AND day LIKE '2022-04%' ORDER BY day", (name,)
            ).fetchall()
            first, last = (Fraction(repr(row[0])) for row in (rows[0], rows[-1]))
            best[name] = (last - first) / first * 100
    connection.close()
    assert max(best, key=best.get) == "Tidemark Energy"
    rises = [Fraction(step["result"]) for step in reply["trace"] if step["expert"] == "calculator"]
    assert sorted(rises) == sorted(best.values())
    assert [step.get("needs", []) for step in reply["trace"]] == [[], [], [1, 2], [3], [3], [3], [3]]
    assert [len(m.get("tool_calls", ())) for m in tool_messages(reply["trace"])] == [2, 0, 0, 1, 0, 4, 0, 0, 0, 0]
    lines = readable(reply).splitlines()
    assert lines[0] == "1. dates(op=shift, date=2022-05-02, months=-1) = 2022-04-02"
    assert lines[1].endswith("[page s1]")
    assert len(lines) == len(reply["trace"])


def test_the_data_is_what_its_script_writes(data):
    made = runpy.run_path(str(data / "make_data.py"))
    pages = [json.loads(line) for line in (data / "wiki.jsonl").read_text().splitlines()]
    assert pages == list(made["pages"]())
    with sqlite3.connect(data / "shop.sqlite") as connection:
        rows = connection.execute("SELECT company, day, price FROM shares").fetchall()
    connection.close()
    assert sorted(rows) == sorted((name, day, float(price)) for name, day, price in made["prices"]())


def test_a_changed_row_changes_the_answer(data):
    asked = planner(data)
    question = "Which of the green-energy companies rose most last month?"
    assert asked.ask(question)["answer"] == "Tidemark Energy: 15 %"
    with sqlite3.connect(data / "shop.sqlite") as connection:
        connection.execute("UPDATE shares SET price = 54 WHERE company = 'Solvane Power' AND day = '2022-04-29'")
    connection.close()
    assert asked.ask(question)["answer"] == "Solvane Power: 35 %"


def test_other_questions_go_where_they_went(data):
    asked = planner(data)
    assert asked.ask("When was Tidemark Energy founded?")["answer"] == "2009"
    assert asked.ask("What is 12.5 % of 3,480?")["answer"] == "435"
    assert asked.ask("Write a poem about companies that rose.")["status"] == "abstain"
    reply = asked.ask("Which of the green-energy companies is the most beautiful last month?")
    assert "calculator" not in {step["expert"] for step in reply["trace"]}


def test_a_step_without_an_answer_ends_it(data):
    reply = planner(data).ask("Which of the green-energy companies rose most in April 1999?")
    assert (reply["status"], reply["answer"]) == ("no_data", None)
    assert reply["trace"][-1]["result"] == "no_data"


def test_what_a_page_says_is_quoted_in_sql(data):
    page = (
        (data / "wiki.jsonl")
        .read_text()
        .replace("Solvane Power, ", "O'Brien'; DROP TABLE shares; --, Solvane Power, ", 1)
    )
    (data / "wiki.jsonl").write_text(page)
    reply = planner(data).ask("Which of the green-energy companies rose most last month?")
    assert reply["status"] == "ok"
    assert "''; DROP" in reply["trace"][2]["arguments"]["sql"]
    with sqlite3.connect(data / "shop.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM shares").fetchone()[0] > 300
    connection.close()


def test_the_total_deadline_holds(data):
    reply = planner(data, total_seconds=-1.0).ask("Which of the green-energy companies rose most last month?")
    assert (reply["status"], reply["trace"]) == ("error", [])
    assert "no answer within" in reply["message"]


def test_arguments_come_from_slots(data):
    known = Known.of(Experts.from_fixtures(data, TODAY), TODAY)
    composition = Composition(**WRITTEN)
    assert composition.fill(read("which company rose most last month?", known)) is None
    assert composition.fill(read("which green energy company rose most?", known)) is None
    found = composition.fill(read("which green energy company sank most in March 2022?", known))
    assert found == {"sector": "Green energy", "month": "2022-03", "order": "min"}
    ago = composition.fill(read("which green energy company rose most 2 months ago?", known))
    assert ago["month"].arguments["months"] == "-2"
    assert Composition(**composition.settings()) == composition


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "none"}, "cannot name"),
        ({"arguments": {"sector": "titel"}}, "none of title"),
        ({"examples": []}, "examples and steps"),
        ({"steps": [{"id": "a", "expert": "wiki", "arguments": {"query": "{sectr}"}}]}, "did you mean 'sector'"),
        ({"steps": [{"id": "a", "pick": "b"}]}, "nothing is called 'b'"),
        ({"steps": [{"id": "a", "expert": "wiki", "argument": {}}]}, "needs id"),
        ({"answer": "{loser}"}, "names 'loser'"),
    ],
)
def test_mistakes_are_said(change, message):
    with pytest.raises(MRKLError, match=message):
        Composition(**{**WRITTEN, **change})


def test_its_experts_must_be_there(data):
    known = Known.of(Experts.from_fixtures(data, TODAY), TODAY)
    with pytest.raises(MRKLError, match="needs an expert 'wiki'"):
        Planner(Experts([Calculator()]), known, compositions=[Composition(**WRITTEN)])
