"""Questions to a database of a schema that no rule names: each has the rows of a SELECT written by hand."""

import sqlite3

import pytest

from hf_puzzle.remote.exact_mrkl import Calculator, Currency
from hf_puzzle.remote.experts_mrkl import Experts
from hf_puzzle.remote.known_mrkl import Known, Schema
from hf_puzzle.remote.planner_mrkl import Planner
from hf_puzzle.remote.sources_mrkl import Database
from hf_puzzle.remote.tables_mrkl import degrees


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    path = tmp_path_factory.mktemp("garage") / "garage.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE mechanics(id INTEGER PRIMARY KEY, name TEXT, workshop TEXT, wage INTEGER, joined TEXT);
            CREATE TABLE cars(id INTEGER PRIMARY KEY, name TEXT, colour TEXT, price_cents INTEGER, length_cm INTEGER);
            CREATE TABLE repairs(id INTEGER PRIMARY KEY, mechanic_id INTEGER REFERENCES mechanics(id),
                car_id INTEGER REFERENCES cars(id), repair_date TEXT, cost INTEGER, state TEXT);
            """
        )
        for i, row in enumerate(
            [("Ann Bow", "North", 3000, "2015-03-01"), ("Cy Day", "South", 4100, "2018-07-09"),
             ("Eve Fox", "North", 5200, "2020-01-15"), ("Gil Hay", None, 2900, "2021-11-30")], 1,
        ):  # fmt: skip
            connection.execute("INSERT INTO mechanics VALUES (?,?,?,?,?)", (i, *row))
        for i, row in enumerate(
            [("Red Hare", "red", 120050, 410), ("Old Toad", "green", 95000, 388), ("Swift", "red", 310000, 455)], 1
        ):
            connection.execute("INSERT INTO cars VALUES (?,?,?,?,?)", (i, *row))
        for i in range(1, 25):
            day = f"2021-{1 + i % 12:02d}-{1 + i:02d}"
            row = (1 + i % 4, 1 + i % 3, day, 10 * i, ("open", "done", "billed")[i % 3])
            connection.execute("INSERT INTO repairs VALUES (?,?,?,?,?,?)", (i, *row))
    experts = Experts(
        [Calculator(), Currency({"base": "EUR", "rates": {"2022-04-29": {"USD": "1.05"}}}), Database(path)]
    )
    return Planner(experts, Known("2022-05-01", currencies=("EUR", "USD"), schema=Schema.from_sqlite(path)))


@pytest.mark.parametrize(
    ("query", "sql"),
    [
        ("How many mechanics are there?", "SELECT COUNT(*) FROM mechanics"),
        ("How many mechanics work anywhere but North?", "SELECT COUNT(*) FROM mechanics WHERE workshop IS NOT 'North'"),
        ("Apart from North, how many mechanics are there?", "SELECT COUNT(*) FROM mechanics WHERE workshop IS NOT 'North'"),
        ("How many repairs are neither open nor billed?", "SELECT COUNT(*) FROM repairs WHERE state NOT IN ('open','billed')"),
        ("Who has the second highest wage?", "SELECT 'Cy Day'"),
        ("What is the total payroll of North?", "SELECT 8200"),
        ("What is the lowest car price?", "SELECT 950"),
        ("Which workshops are there?", "SELECT DISTINCT workshop FROM mechanics ORDER BY 1"),
        ("How many car colours are there?", "SELECT COUNT(DISTINCT colour) FROM cars"),
        ("How many mechanics work in North?", "SELECT COUNT(*) FROM mechanics WHERE workshop='North'"),
        # a mechanic without a workshop does not work in North either
        ("How many mechanics do not work in North?", "SELECT COUNT(*) FROM mechanics WHERE workshop IS NOT 'North'"),
        ("How many red cars are there?", "SELECT COUNT(*) FROM cars WHERE colour='red'"),
        ("Number of repairs that are open or billed", "SELECT COUNT(*) FROM repairs WHERE state IN ('open','billed')"),
        ("How many repairs cost between 50 and 100?", "SELECT COUNT(*) FROM repairs WHERE cost BETWEEN 50 AND 100"),
        ("How many cars cost more than 1000?", "SELECT COUNT(*) FROM cars WHERE price_cents>100000"),
        ("What is the price of the Red Hare?", "SELECT 1200.5"),
        ("What is the wage of Cy Day?", "SELECT 4100"),
        ("When did Eve Fox join?", "SELECT '2020-01-15'"),
        ("Who joined first?", "SELECT 'Ann Bow'"),
        ("Who is the best paid mechanic?", "SELECT 'Eve Fox'"),
        ("Which car is the longest?", "SELECT 'Swift'"),
        ("Which car is the cheapest?", "SELECT 'Old Toad'"),
        ("What is the average wage in North?", "SELECT AVG(wage) FROM mechanics WHERE workshop='North'"),
        ("What is the second highest wage?", "SELECT 4100"),
        ("How many mechanics earn less than the average wage?", "SELECT COUNT(*) FROM mechanics WHERE wage<3800"),
        ("How many mechanics joined before 2018?", "SELECT 1"),
        ("How many mechanics joined on or after 9 July 2018?", "SELECT 3"),
        ("How many mechanics joined between 2018 and 2020?", "SELECT 2"),
        ("How many repairs were there in March 2021?", "SELECT COUNT(*) FROM repairs WHERE repair_date LIKE '2021-03%'"),
        ("How many repairs did Ann Bow make?", "SELECT COUNT(*) FROM repairs WHERE mechanic_id=1"),
        ("What is the total cost of repairs of the Swift?", "SELECT SUM(cost) FROM repairs WHERE car_id=3"),
        ("How many different colours are there?", "SELECT 2"),
        ("Which colour has the most cars?", "SELECT 'red'"),
        ("Which mechanics earn at least 4100?", "SELECT name FROM mechanics WHERE wage>=4100"),
    ],
)  # fmt: skip
def test_the_rows_are_those_of_the_select(planner, query, sql):
    plan = planner.decide(query).plan
    assert plan is not None, query
    assert len(plan.steps) == 1
    found, expected = planner.experts["database"](**plan.steps[0].arguments), planner.experts["database"](sql=sql)
    assert (found.status, found.exact) == ("ok", expected.exact), plan.steps[0].arguments


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("How many more mechanics work in North than in South?", "1"),
        ("How many fewer mechanics work in South than in North?", "1"),
        ("How much do Ann Bow and Cy Day earn together?", "7100"),
        ("How much do two Red Hares cost?", "2401"),
        ("How much higher is Cy Day's wage than Ann Bow's?", "1100"),
        ("What is the average of the wages of Ann Bow and Cy Day?", "3550"),
        ("What is half the number of mechanics in North?", "1"),
        ("How many more red cars are there than green cars?", "1"),
        ("Who has the third highest wage in North?", None),
    ],
)
def test_what_is_computed_of_several_cells(planner, query, answer):
    assert planner.ask(query)["answer"] == answer


@pytest.mark.parametrize(
    "query",
    [
        "How many blue cars are there?",
        "How many mechanics smoke?",
        "How many mechanics work in North on Mondays?",
        "What is the wage of Ann?",
        "Which repair was the most expensive?",
        "How many people live in North?",
        "How many customers are there?",
        "What is the average wage in Paris?",
        "How many repairs cost less than 20 or more than 200?",
        "What is the price of the Swift in dollars?",
    ],
)
def test_what_the_schema_does_not_hold_is_left_to_the_model(planner, query):
    assert planner.ask(query)["status"] == "abstain"


def test_prices_are_converted_where_their_currency_is_said(planner):
    reply = planner.ask("Our prices are in euros. What is the price of the Swift in dollars?")
    assert [step["expert"] for step in reply["trace"]] == ["database", "currency"]
    assert reply["answer"] == "3255 USD"


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("Who wrote Low Tide?", "Ada Thorne"),
        ("Who painted Low Tide?", None),
        ("What is the second lowest price?", "9"),  # of those that are known
        ("How old is Low Tide?", None),  # neither its year nor its age is what a date column says of `old`
        ("What is the lowest price of books by Ada Thorne in poetry?", "4"),
    ],
)
def test_rows_that_refer_to_their_maker(tmp_path, query, answer):
    path = tmp_path / "library.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE authors(id INTEGER PRIMARY KEY, name TEXT, country TEXT);
            CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER REFERENCES authors(id), genre TEXT,
                price REAL, published INTEGER);
            INSERT INTO authors VALUES (1, 'Ada Thorne', 'Norway'), (2, 'Boris Quill', 'Brazil');
            INSERT INTO books VALUES (1, 'Low Tide', 1, 'poetry', 4, 1990), (2, 'Salt', 2, 'history', 9, 2001),
                (3, 'Reed', 2, 'history', NULL, 2003);
            """
        )
    experts = Experts([Calculator(), Database(path)])
    planner = Planner(experts, Known("2022-05-01", schema=Schema.from_sqlite(path)))
    assert planner.ask(query)["answer"] == answer


@pytest.mark.parametrize(
    ("adjective", "forms"),
    [
        ("big", ("bigger", "biggest")),
        ("heavy", ("heavier", "heaviest")),
        ("expensive", ("more expensive", "most expensive")),
    ],
)
def test_degrees(adjective, forms):
    assert degrees(adjective) == forms
