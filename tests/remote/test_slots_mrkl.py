"""Slots: numbers, dates, money, measures and names, with their normalised values."""

import sqlite3

import pytest

from hf_puzzle.remote.exact_mrkl import Units
from hf_puzzle.remote.known_mrkl import Known, Schema
from hf_puzzle.remote.slots_mrkl import MAX_CHARS, read
from hf_puzzle.remote.words_mrkl import plural, singular


UNITS = {
    "pound": {"dimension": "mass", "factor": "0.45359237", "forms": ["pounds of mass", "lb"]},
    "ounce": {"dimension": "mass", "factor": "0.028349523125", "forms": ["ounces (weight)"]},
    "day": {"dimension": "time", "factor": "86400", "forms": ["days of 24 hours"]},
    "degC": {"dimension": "temp", "factor": None},
    "degF": {"dimension": "temp", "factor": None},
}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("slots") / "shop.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE bakers(id INTEGER PRIMARY KEY, name TEXT, oven TEXT, wage INTEGER, joined TEXT);"
        "CREATE TABLE loaves(id INTEGER PRIMARY KEY, title TEXT, price_cents INTEGER);"
        "CREATE TABLE sales(id INTEGER PRIMARY KEY, loaf_id INTEGER, pieces INTEGER, sold_on TEXT);"
        "INSERT INTO bakers VALUES (1, 'Ada Rye', 'North', 300, '2020-01-02');"
        "INSERT INTO loaves VALUES (1, 'Three Oaks', 250);"
        "INSERT INTO sales VALUES (1, 1, 3, '2021-02-03');"
    )
    connection.close()
    return Known(
        "2023-06-14",
        places=("Port Stone", "Reading"),
        titles=("May Tower",),
        currencies=("EUR", "USD", "GBP", "SEK"),
        units=Units(UNITS).forms(),
        schema=Schema.from_sqlite(path),
    )


@pytest.mark.parametrize(
    "text, values",
    [
        ("5 and 1,234.5", ["5", "2469/2"]),
        ("5-3", ["5", "3"]),
        ("8 - -3", ["8", "-3"]),
        ("minus seven", ["-7"]),
        ("seven minus two", ["7", "2"]),
        ("three hundred and five", ["305"]),
        ("one hundred and twenty-three thousand four hundred and fifty-six", ["123456"]),
        ("nine hundred three and two hundred twenty two", ["903", "222"]),
        ("seventy one thousand five hundred and twenty nine thousand", ["71500", "29000"]),
        ("ninety thousand / four hundred", ["90000", "400"]),
        ("six hundred and five hundred", ["600", "500"]),
        ("a dozen eggs", ["12"]),
        ("two thirds of 9", ["2/3", "9"]),
        ("half of 30", ["1/2", "30"]),
        ("three point one four", ["157/50"]),
        ("2.5 million", ["2500000"]),
        ("which one is it, every one?", []),
        ("one plus one", ["1", "1"]),
        ("3rd", []),
        ("1e3", ["1000"]),
    ],
)
def test_numbers(known, text, values):
    assert [str(slot.value) for slot in read(text, known).of("n")] == values


@pytest.mark.parametrize(
    "text, iso",
    [
        ("2021-03-05", "2021-03-05"),
        ("5 March 2021", "2021-03-05"),
        ("March 5, 2021", "2021-03-05"),
        ("the 5th of March 2021", "2021-03-05"),
        ("the fifth of March, 2021", "2021-03-05"),
        ("5.3.2021", "2021-03-05"),
        ("3/15/2021", "2021-03-15"),
        ("Mar 5 2021", "2021-03-05"),
        ("today", "2023-06-14"),
        ("yesterday", "2023-06-13"),
        ("the day after tomorrow", "2023-06-16"),
        ("last Friday", "2023-06-09"),
        ("next Wednesday", "2023-06-21"),
        ("last Wednesday", "2023-06-07"),
        ("Christmas 2021", "2021-12-25"),
        ("5 March", "2023-03-05"),
    ],
)
def test_dates(known, text, iso):
    assert [slot.value for slot in read(text, known).of("d")] == [iso]


def test_months_and_words_that_only_look_like_dates(known):
    assert [s.value for s in read("orders in March 2021", known).of("m")] == ["2021-03"]
    assert read("you may march on", known).slots == ()


@pytest.mark.parametrize(
    "text, masked",
    [
        ("$3,000 in euros", "<c0> <n0> in <c1>"),
        ("5 pounds in dollars", "<n0> <c0> in <c1>"),
        ("5 kg in pounds", "<n0> <u0> in <u1>"),
        ("62 days of 24 hours in seconds", "<n0> <u0> in <u1>"),
        ("5 ounces (weight) to pounds of mass", "<n0> <u0> to <u1>"),
        ("5 in to cm", "<n0> <u0> to <u1>"),
        ("100 f to c", "<n0> <u0> to <u1>"),
        ("three weeks after 2021-01-01", "<n0> <t0> after <d0>"),
        ("in dollars", "in <c0>"),
        ("I won a real second", "i won a real second"),
        ("Port Stone and Three Oaks", "<e0> and <e1>"),
        ("Ada Rye's wage", "<e0> 's wage"),
        ("wage < 500", "wage under <n0>"),
        ("How tall is Nobody Tower?", "how tall is <x0> ?"),
    ],
)
def test_masked(known, text, masked):
    assert read(text, known).masked == masked


def test_entities_say_where_they_come_from(known):
    assert read("Ada Rye", known).slots[0].value == (("value", "bakers", "name", "Ada Rye"),)
    assert read("may tower", known).slots[0].value == (("title", "May Tower"),)


def test_schema_kinds_and_guessed_joins(known):
    kinds = {name: column.kind for name, column in known.schema.columns["bakers"].items()}
    assert kinds == {"id": "id", "name": "text", "oven": "text", "wage": "number", "joined": "date"}
    assert known.schema.joins == [("sales", "loaf_id", "loaves", "id")]


def test_spans_are_the_text_and_do_not_overlap(known):
    text = "Convert 5 kg, then $20 of Three Oaks, on 5 March 2021 to Port Stone in twenty two days"
    slots = read(text, known).slots
    assert all(slot.text == text[slot.start : slot.end] for slot in slots)
    assert all(a.end <= b.start for a, b in zip(slots, slots[1:], strict=False))


def test_limits(known, tmp_path):
    with pytest.raises(ValueError, match="at most"):
        read("1" * (MAX_CHARS + 1), known)
    with pytest.raises(ValueError, match="Invalid isoformat"):
        Known("yesterday")
    (tmp_path / "no.sqlite").write_text("not a database at all, only text" * 50)
    with pytest.raises(ValueError, match="not a SQLite database"):
        Schema.from_sqlite(tmp_path / "no.sqlite")


@pytest.mark.parametrize("word", ["box", "city", "dish", "order", "day"])
def test_plural_and_back(word):
    assert singular(plural(word)) == word
