"""Questions about what was done with rows, where they come from, and columns with a unit: each as a SELECT by hand."""

import json
import sqlite3

import pytest

from hf_puzzle.mrkl.evaluate import factory


TODAY = "2023-09-14"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ferries")
    with sqlite3.connect(folder / "shop.sqlite") as connection:
        connection.executescript(
            """
            CREATE TABLE boats(hull TEXT PRIMARY KEY, maker TEXT, seats INTEGER, built INTEGER);
            CREATE TABLE captains(captain_id INTEGER PRIMARY KEY, name TEXT, role TEXT, port TEXT, hourly_wage REAL);
            CREATE TABLE trips(trip_id INTEGER PRIMARY KEY, hull TEXT REFERENCES boats(hull), captain_id INTEGER
                REFERENCES captains(captain_id), origin TEXT, destination TEXT, sailed_on TEXT, delay_minutes INTEGER, tonnes REAL);
            INSERT INTO boats VALUES ('FX-10', 'Orme', 80, 1999), ('FX-11', 'Orme', 120, 2010), ('FX-12', 'Tveit', 45, 2004);
            INSERT INTO captains VALUES (1, 'Ada Rook', 'master', 'Lunde', 30.5), (2, 'Bo Finch', 'mate', 'Sund', 21),
                (3, 'Cato Wren', 'mate', 'Lunde', 19.25);
            """
        )
        towns = ("Lunde", "Sund", "Vik")
        for i in range(1, 31):
            row = (f"FX-{10 + i % 3}", 1 + i % 2, towns[i % 3], towns[(i + 1 + i % 2) % 3], f"2023-0{6 + i % 3}-{i:02d}",
                   (0, 10, 30, 90)[i % 4], i / 2)  # fmt: skip
            connection.execute("INSERT INTO trips VALUES (?,?,?,?,?,?,?,?)", (i, *row))
    pages = [
        ("Mount Alder", "Mount Alder is a mountain in Norr. It is 1210 metres high and was first climbed in 1880 by Ida Holt. The nearest town is Vik."),
        ("Mount Beech", "Mount Beech is a mountain in Norr. It is 900 metres high and was first climbed in 1895 by Per Lie."),
        ("Ran Island", "Ran Island is an island in the Sound. It has an area of 12 square kilometres and a population of 1340. Its mill has three wheels."),
        ("Ulla Dahl", "Ulla Dahl is a composer born in Sund on 3 May 1931. She wrote the opera Nine Bells, first performed in 1964."),
    ]  # fmt: skip
    lines = [json.dumps({"id": f"p{i}", "title": title, "text": text}) for i, (title, text) in enumerate(pages)]
    (folder / "wiki.jsonl").write_text("\n".join(lines))
    (folder / "weather.json").write_text(
        json.dumps({"Vik|2023-09-01": {"tmax": 18.5, "tmin": 7, "rain": 0, "wind": 12},
                    "Vik|2023-09-02": {"tmax": 21, "tmin": 9.5, "rain": 3.5, "wind": 30}})
    )  # fmt: skip
    units = {"meter": ("len", "1"), "kilometer": ("len", "1000"), "mile": ("len", "1609.344"), "kilogram": ("mass", "1"),
             "minute": ("time", "60"), "hour": ("time", "3600"), "mile_per_hour": ("speed", "0.44704"),
             "kilometer_per_hour": ("speed", "5/18"), "degC": ("temp", None), "degF": ("temp", None)}  # fmt: skip
    table = {name: {"dimension": kind, "factor": factor, "forms": []} for name, (kind, factor) in units.items()}
    (folder / "units.json").write_text(json.dumps(table))
    return folder


@pytest.fixture(scope="module")
def ask(folder):
    return factory(folder, TODAY)


@pytest.mark.parametrize(
    ("query", "sql"),
    [
        ("How many trips from Lunde to Sund were there?", "SELECT COUNT(*) FROM trips WHERE origin='Lunde' AND destination='Sund'"),
        ("How many trips did Ada Rook make in July 2023?", "SELECT COUNT(*) FROM trips WHERE captain_id=1 AND sailed_on LIKE '2023-07%'"),
        ("Which captains have never made trips to Vik?", "SELECT name FROM captains WHERE captain_id NOT IN (SELECT captain_id FROM trips WHERE destination='Vik')"),
        ("How many trips had no delay?", "SELECT COUNT(*) FROM trips WHERE delay_minutes=0"),
        ("How many trips were delayed by at least half an hour?", "SELECT COUNT(*) FROM trips WHERE delay_minutes>=30"),
        ("How many trips were late in August 2023?", "SELECT COUNT(*) FROM trips WHERE delay_minutes>0 AND sailed_on LIKE '2023-08%'"),
        ("What is the longest delay of trips from Sund?", "SELECT MAX(delay_minutes) FROM trips WHERE origin='Sund'"),
        ("How many seats does FX-12 have?", "SELECT 45"),
        ("What is the oldest boat?", "SELECT 'FX-10'"),
        ("How many mates are there?", "SELECT 2"),
        ("Who lives in Lunde?", "SELECT name FROM captains WHERE port='Lunde'"),
        ("Does FX-10 have more seats than FX-11?", "SELECT 'no'"),
        ("How much does Bo Finch earn per hour?", "SELECT 21"),
        ("What does Bo Finch earn for 38 hours?", "SELECT 21*38"),
        ("What percentage of trips were delayed?", "SELECT 100.0*SUM(delay_minutes>0)/COUNT(*) FROM trips"),
        ("Which maker is the most common?", "SELECT 'Orme'"),
    ],
)  # fmt: skip
def test_the_answer_is_that_of_the_select(ask, folder, query, sql):
    with sqlite3.connect(folder / "shop.sqlite") as connection:
        rows = [row[0] for row in connection.execute(sql)]
    reply = ask(query)
    if not rows:
        assert reply["status"] == "no_data", (query, reply)
        return
    assert reply["status"] == "ok", (query, reply)
    said = [float(each) if not isinstance(rows[0], str) else each for each in reply["answer"].split(" ")[:1]]
    assert reply["answer"] == "; ".join(rows) if isinstance(rows[0], str) else said == pytest.approx(rows), query


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("What is the population of Ran Island?", "1340"),
        ("How many people live on Ran Island?", "1340"),
        ("Which town is nearest to Mount Alder?", "Vik"),
        ("When was Ulla Dahl born?", "3 May 1931"),
        ("In which year was Ulla Dahl born?", "1931"),
        ("Who wrote Nine Bells?", "Ulla Dahl"),
        ("How many years after Mount Alder was Mount Beech first climbed?", "15"),
        ("How much warmer was it in Vik on 2 September 2023 than on 1 September 2023?", "2.5 degC"),
        (
            "What was the difference between the highest and lowest temperature in Vik on 1 September 2023?",
            "11.5 degC",
        ),
        ("How many days ago was Ulla Dahl born?", "33737"),
    ],
)
def test_documents_and_weather(ask, query, answer):
    assert ask(query)["answer"] == answer


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("three times as much as 4.5", "13.5"),
        ("A box holds 24 eggs. How many eggs in 15 boxes?", "360"),
        ("3 apples cost 2.40, what do 5 apples cost?", "4"),
        ("A lamp costs 80, there is 20% off, then 5% tax. What is the total?", "67.2"),
        ("My bill was 48.60 and I'd like to leave 15%. How much is the tip?", "7.29"),
        ("A car does 60 mph. How far does it go in 90 minutes?", "90 mile"),
        ("How long does 150 km take at 60 km/h?", "2.5 hour"),
        ("It got 10 degrees C warmer; how much is that in Fahrenheit degrees?", "18 degF"),
        ("the Monday after next Monday", "2023-09-25"),
        ("What day of the week is Christmas this year?", "Monday"),
        ("On what date will I be 40 if I was born on 8 June 1990?", "2030-06-08"),
        ("What is the 1st of next month?", "2023-10-01"),
    ],
)
def test_other_wordings(ask, query, answer):
    assert ask(query)["answer"] == answer


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("square root of 2 times 8", "abstain"),
        ("What is half of 7 plus 3?", "abstain"),
        # whole months from the first to the first, or both of them counted
        ("How many months from January 2022 to September 2023?", "abstain"),
        ("A box holds 24 eggs. How many apples in 15 boxes?", "abstain"),
        ("Who does not live in Lunde?", "abstain"),
        ("Who wrote Ten Bells?", "abstain"),
        ("How many trips were delayed by 3 kg?", "abstain"),
        ("What does Bo Finch earn for 38 kilometres?", "abstain"),
        ("Convert -500 C to F", "error"),
    ],
)
def test_what_has_no_one_reading_is_not_answered(ask, query, status):
    assert ask(query)["status"] == status
