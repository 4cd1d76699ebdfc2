"""Questions that share words with the data and are not about it, in a world whose columns have everybody's words."""

import sqlite3

import pytest

from hf_puzzle.mrkl.evaluate import factory


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    folder = tmp_path_factory.mktemp("office")
    with sqlite3.connect(folder / "shop.sqlite") as connection:
        connection.executescript(
            """
            CREATE TABLE staff(id INTEGER PRIMARY KEY, name TEXT, country TEXT, language TEXT, city TEXT, age INTEGER,
                wage INTEGER, joined TEXT);
            CREATE TABLE products(id INTEGER PRIMARY KEY, name TEXT, category TEXT, price REAL, stock INTEGER, weight_kg REAL);
            CREATE TABLE orders(id INTEGER PRIMARY KEY, customer TEXT, product_id INTEGER REFERENCES products(id),
                quantity INTEGER, ordered TEXT);
            INSERT INTO staff VALUES (1, 'Ines Falk', 'Norr', 'Norric', 'Vik', 31, 2900, '2020-02-03'),
                (2, 'Otto Lind', 'Sarn', 'Sarnish', 'Lunde', 58, 4100, '2021-06-01'),
                (3, 'Pia Roth', 'Norr', 'Norric', 'Vik', 44, 3300, '2020-09-14');
            INSERT INTO products VALUES (1, 'Oak Chair', 'seats', 89.5, 12, 7.5), (2, 'Pine Shelf', 'storage', 45, 30, 11);
            INSERT INTO orders VALUES (1, 'Berg Hotel', 1, 4, '2021-03-02'), (2, 'Berg Hotel', 2, 1, '2021-04-11');
            """
        )
    return factory(folder, "2022-05-02")


# general knowledge in the words of columns, weather, calendar, units and money
LOOKALIKES = """
What's the minimum wage?
What was the minimum wage in 2020?
What is the minimum wage for people under 20?
What is the minimum age to vote?
What is the maximum age for a pilot?
What's the average age?
What is the average age of people in Japan?
What is the average income?
What was the average income in 2021?
What's the average wage of a nurse?
What is the legal drinking age?
What is the retirement age?
What is the average weight?
What is the average weight of an elephant?
What's the maximum weight of a parcel?
How many people are there?
How many people are there on Earth?
How many countries are there?
How many countries are there in Africa?
How many cities are there?
How many languages are there?
How many languages exist?
How many categories of hurricanes are there?
What's the most common name?
What is the most common language in the world?
Which country has the most people?
What is the largest city in the world?
What's the cheapest country to live in?
Which city is the most expensive?
What is the highest paid job?
Who gets paid the most in football?
Who was the oldest president?
Who joined NATO in 2020?
What's the price of gold?
What is the highest price ever paid for a painting?
What's the average price of a house?
How much is a stamp?
How expensive is a wedding?
What's the total cost of ownership?
What is the total revenue?
What were the total sales of Apple in 2021?
What's the stock market?
Which stock is the best to buy?
How many stocks are there?
What is the largest order of magnitude?
How many orders of mammals are there?
What is the first law of thermodynamics?
average rainfall in London
average rainfall in the Amazon in March
What is the average temperature in Rome?
What's the highest temperature ever recorded?
maximum speed of a cheetah
What is the maximum speed on a motorway?
What's the speed of light?
How far is the moon?
What's the average distance to the sun?
What is the longest river?
How tall is the tallest building?
What's the deepest lake on earth?
total eclipse date
When is the next total eclipse?
What is the date of the next full moon?
When was the first order of nuns founded?
What year did the war start?
How many days should I fast?
What is the difference between salary and wage?
What is the difference between a product and a brand?
What does it mean to be joined at the hip?
How do I raise my wage?
What is the sum of the angles of a triangle?
What's the exchange rate of a barter economy?
What is a quarter past three in Spanish?
How much tax do I pay?
How much should I tip?
What's a good interest rate?
"""


@pytest.mark.parametrize("query", LOOKALIKES.strip().splitlines())
def test_general_knowledge_is_left_to_the_model(ask, query):
    reply = ask(query)
    assert (reply["status"], reply["trace"]) == ("abstain", []), reply


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("What is the lowest wage of the staff?", "2900"),
        ("What is the minimum pay of our staff?", "2900"),
        ("What is the average age of the employees?", 133 / 3),
        ("What is the average wage of employees in Vik?", "3100"),
        ("What is the second highest wage?", "3300"),
        ("How many people do we have?", "3"),
        ("How many countries are in the database?", "2"),
        ("How many categories are there?", "2"),
        ("What's the highest price?", "89.5"),
        ("What is the average quantity of orders in 2021?", "2.5"),
    ],
)
def test_an_anchor_in_the_data_makes_it_a_question_to_them(ask, query, answer):
    reply = ask(query)
    assert reply["status"] == "ok", reply
    assert float(reply["answer"].split()[0]) == pytest.approx(float(answer))
