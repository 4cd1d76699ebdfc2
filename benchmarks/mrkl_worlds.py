"""Two more worlds of `mrkl_wordings`: an airline, and a farm."""

import datetime
import json
import random
import sqlite3


TODAY = "2023-09-14"
UNITS = {
    "meter": ("len", "1", ["metres"]),
    "kilometer": ("len", "1000", ["km"]),
    "mile": ("len", "1609.344", ["miles"]),
    "foot": ("len", "0.3048", ["feet"]),
    "inch": ("len", "0.0254", ["inches"]),
    "centimeter": ("len", "0.01", ["cm"]),
    "kilogram": ("mass", "1", ["kg"]),
    "gram": ("mass", "0.001", ["grams"]),
    "pound": ("mass", "0.45359237", ["lb", "pounds"]),
    "ounce": ("mass", "0.028349523125", ["ounces", "oz"]),
    "liter": ("vol", "1", ["litres"]),
    "milliliter": ("vol", "0.001", ["ml"]),
    "gallon": ("vol", "3.785411784", ["US gallons"]),
    "second": ("time", "1", ["seconds"]),
    "minute": ("time", "60", ["minutes"]),
    "hour": ("time", "3600", ["hours"]),
    "day": ("time", "86400", ["days"]),
    "kilometer_per_hour": ("speed", "5/18", ["km/h"]),
    "mile_per_hour": ("speed", "0.44704", ["mph"]),
    "meter_per_second": ("speed", "1", ["m/s"]),
    "degC": ("temp", None, ["degrees Celsius"]),
    "degF": ("temp", None, ["degrees Fahrenheit"]),
}


def _files(folder, rates, pages, weather):
    (folder / "rates.json").write_text(json.dumps({"base": "EUR", "rates": rates}))
    (folder / "units.json").write_text(
        json.dumps({k: {"dimension": d, "factor": f, "forms": n} for k, (d, f, n) in UNITS.items()})
    )
    (folder / "weather.json").write_text(json.dumps(weather))
    (folder / "wiki.jsonl").write_text(
        "".join(json.dumps({"id": f"p{i}", "title": t, "text": x}) + "\n" for i, (t, x) in enumerate(pages))
    )


def _weather(rng, places, first, days):
    out = {}
    for p in places:
        for n in range(days):
            lo = rng.randint(-40, 150) / 10
            out[f"{p}|{first + datetime.timedelta(n)}"] = {
                "tmax": round(lo + rng.randint(20, 120) / 10, 1),
                "tmin": lo,
                "rain": rng.choice([0, 0, 0, 1.2, 4.5, 11.8]),
                "wind": rng.randint(3, 90),
            }
    return out


def airline(folder):
    rng = random.Random(77)
    with sqlite3.connect(folder / "shop.sqlite") as c:
        c.executescript(
            "create table aircraft(tail text primary key, model text, seats integer, built integer);"
            "create table pilots(pilot_id integer primary key, name text, base text, flight_hours integer, hired_on text);"
            "create table flights(flight_id integer primary key, tail text references aircraft(tail), pilot_id integer references pilots(pilot_id), origin text, destination text, departure_date text, passengers integer, delay_minutes integer, fare real);"
        )
        for i, (m, s) in enumerate(
            [
                ("Kestrel 200", 48),
                ("Kestrel 200", 48),
                ("Albatross", 180),
                ("Albatross", 186),
                ("Heron 5", 19),
                ("Heron 5", 19),
                ("Albatross", 180),
            ]
        ):
            c.execute("insert into aircraft values(?,?,?,?)", (f"VX-{101 + i}", m, s, rng.randint(1994, 2021)))
        names = [
            "Marit Solberg",
            "Oskar Venn",
            "Leila Haddad",
            "Tomas Brandt",
            "Priya Nair",
            "Jonas Weil",
            "Ingrid Aas",
            "Mateo Ruiz",
            "Hana Kimura",
            "Dario Conti",
            "Sofie Lund",
            "Yusuf Demir",
        ]
        for i, n in enumerate(names, 1):
            c.execute(
                "insert into pilots values(?,?,?,?,?)",
                (
                    i,
                    n,
                    ["Torvik", "Sandhavn", "Mirador"][rng.randint(0, 2)],
                    rng.randint(900, 14000),
                    f"{rng.randint(2001, 2022)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
                ),
            )
        towns = ["Torvik", "Sandhavn", "Mirador", "Oldbury", "Pellan"]
        for i in range(1, 181):
            a, b = rng.sample(towns, 2)
            t = rng.randint(1, 7)
            cap = [48, 48, 180, 186, 19, 19, 180][t - 1]
            d = datetime.date(2023, 6, 1) + datetime.timedelta(rng.randint(0, 104))
            c.execute(
                "insert into flights values(?,?,?,?,?,?,?,?,?)",
                (
                    i,
                    f"VX-{100 + t}",
                    rng.randint(1, 12),
                    a,
                    b,
                    str(d),
                    rng.randint(3, cap),
                    rng.choice([0, 0, 0, 5, 12, 25, 40, 95]),
                    rng.randint(3900, 28900) / 100,
                ),
            )
    rates = {
        "2023-08-31": {"USD": "1.0868", "GBP": "0.8573", "NOK": "11.5645", "JPY": "158.51"},
        "2023-09-13": {"USD": "1.0733", "GBP": "0.8597", "NOK": "11.4510", "JPY": "158.22"},
    }
    pages = [
        (
            "Mount Harrow",
            "Mount Harrow is a mountain in the Selby range. It is 3412 metres high and was first climbed in 1887 by Otto Rein. The nearest town is Oldbury.",
        ),
        (
            "Mount Tessel",
            "Mount Tessel is a mountain in the Selby range. It is 2988 metres high and was first climbed in 1902 by Clara Voss. The nearest town is Pellan.",
        ),
        (
            "Skarv Island",
            "Skarv Island is an island in the Gulf of Mirador. It has an area of 51 square kilometres and a population of 1240. Its capital is Port Elm.",
        ),
        (
            "Brokk Island",
            "Brokk Island is an island in the Gulf of Mirador. It has an area of 117 square kilometres and a population of 860. Its capital is Hollin.",
        ),
        (
            "Elena Marsh",
            "Elena Marsh is a composer born in Sandhavn on 3 May 1931. She wrote the opera The Tin Harbour, first performed in 1964.",
        ),
        (
            "Aldous Finch",
            "Aldous Finch is a composer born in Pellan on 19 November 1948. He wrote the opera Nine Wells, first performed in 1979.",
        ),
    ]
    _files(folder, rates, pages, _weather(rng, ["Torvik", "Sandhavn", "Port Elm"], datetime.date(2023, 8, 20), 30))


def farm(folder):
    rng = random.Random(78)
    with sqlite3.connect(folder / "shop.sqlite") as c:
        c.executescript(
            "create table fields(field_id integer primary key, name text, crop text, hectares real, planted_on text);"
            "create table workers(id integer primary key, name text, role text, village text, hourly_wage real, started text);"
            "create table harvests(id integer primary key, field_id integer references fields(field_id), worker_id integer references workers(id), harvest_date text, tonnes real, grade text);"
        )
        for i, (n, k) in enumerate(
            [
                ("Long Acre", "barley"),
                ("Mill Piece", "wheat"),
                ("Fox Corner", "oats"),
                ("Upper Ley", "wheat"),
                ("Chapel Field", "potatoes"),
                ("Ten Acre", "barley"),
                ("Brook Side", "clover"),
                ("Stony Bit", "oats"),
                ("East Pasture", "clover"),
            ],
            1,
        ):
            c.execute(
                "insert into fields values(?,?,?,?,?)",
                (i, n, k, rng.randint(12, 190) / 10, f"2023-0{rng.randint(3, 5)}-{rng.randint(1, 28):02d}"),
            )
        for i, (n, r) in enumerate(
            zip(
                [
                    "Agnes Pike",
                    "Bram Otter",
                    "Celia Dunn",
                    "Denis Hart",
                    "Edda Moor",
                    "Frank Tully",
                    "Gilda Reed",
                    "Hugo Marl",
                    "Iris Coombe",
                    "Jasper Low",
                ],
                [
                    "driver",
                    "picker",
                    "picker",
                    "manager",
                    "driver",
                    "picker",
                    "mechanic",
                    "picker",
                    "driver",
                    "picker",
                ],
                strict=False,
            ),
            1,
        ):
            c.execute(
                "insert into workers values(?,?,?,?,?,?)",
                (
                    i,
                    n,
                    r,
                    rng.choice(["Nether Stow", "Ambley", "Ford End"]),
                    rng.randint(1150, 2600) / 100,
                    f"20{rng.randint(8, 23):02d}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
                ),
            )
        for i in range(1, 91):
            d = datetime.date(2023, 7, 1) + datetime.timedelta(rng.randint(0, 74))
            c.execute(
                "insert into harvests values(?,?,?,?,?,?)",
                (
                    i,
                    rng.randint(1, 9),
                    rng.randint(1, 10),
                    str(d),
                    rng.randint(5, 140) / 10,
                    rng.choice(["A", "B", "C"]),
                ),
            )
    rates = {
        "2023-08-31": {"USD": "1.0868", "GBP": "0.8573", "SEK": "11.8425"},
        "2023-09-13": {"USD": "1.0733", "GBP": "0.8597", "SEK": "11.9230"},
    }
    pages = [
        (
            "River Lode",
            "River Lode is a river in Ambley county. It is 93 kilometres long and flows into the North Mere. Its source is on Tarrow Hill.",
        ),
        (
            "River Asp",
            "River Asp is a river in Ambley county. It is 141 kilometres long and flows into Lake Dun. Its source is on Gorse Hill.",
        ),
        (
            "Ford End Windmill",
            "Ford End Windmill is a windmill in Ford End. It was built in 1794 by Josiah Crane and has four sails. It is 17 metres high.",
        ),
        (
            "Ambley Cider",
            "Ambley Cider is a cider maker based in Ambley. It was founded in 1926 by Winifred Sole and employs 85 people.",
        ),
    ]
    _files(folder, rates, pages, _weather(rng, ["Ambley", "Ford End", "Nether Stow"], datetime.date(2023, 8, 20), 30))


def museum(folder):
    """Exhibits, artists and tickets; a lighthouse, a viaduct and a bindery. Its questions' today is 2024-03-11."""
    rng = random.Random(31)
    with sqlite3.connect(folder / "shop.sqlite") as c:
        c.executescript(
            "create table artists(artist_id integer primary key, name text, country text, born integer);"
            "create table exhibits(exhibit_id integer primary key, title text, artist_id integer references artists(artist_id), wing text, year_made integer, insured_value integer);"
            "create table tickets(ticket_id integer primary key, category text, price real, sold_on text);"
        )
        artists = ["Ottilie Brandt", "Emil Fauve", "Rosalind Pike", "Janko Horvat", "Celeste Moreau", "Bram de Wit"]
        lands = ["Lorraine", "Lorraine", "Wales", "Istria", "Lorraine", "Zeeland"]
        for i, (name, land) in enumerate(zip(artists, lands, strict=True), 1):
            c.execute("insert into artists values(?,?,?,?)", (i, name, land, 1702 + 41 * i))
        titles = [
            "Dawn Over Salt", "The Lame Heron", "Market at Noon", "Woman with a Key", "Three Bells", "Cold Kitchen",
            "The Ferryman", "Orchard in Fog", "Blue Ladder", "Portrait of a Clerk", "Storm at Pell", "The Long Table",
            "Empty Nest", "Harvest Debt", "Iron Bridge", "Two Sisters Reading", "Last Snow", "The Glass Cutter",
        ]  # fmt: skip
        values = rng.sample(range(3000, 140000, 500), len(titles))
        years = rng.sample(range(1735, 1985), len(titles))
        for i, (title, value, year) in enumerate(zip(titles, values, years, strict=True), 1):
            row = (i, title, rng.randint(1, 6), rng.choice(["East", "North", "West"]), year, value)
            c.execute("insert into exhibits values(?,?,?,?,?,?)", row)
        prices = {"adult": 14.5, "student": 8, "senior": 10, "child": 4.5}
        for i in range(1, 141):
            kind = rng.choice(list(prices))
            day = datetime.date(2024, 1, 1) + datetime.timedelta(rng.randint(0, 69))
            c.execute("insert into tickets values(?,?,?,?)", (i, kind, prices[kind], str(day)))
    rates = {
        "2024-01-05": {"USD": "1.09", "GBP": "0.861", "JPY": "158.2", "CHF": "0.932"},
        "2024-03-08": {"USD": "1.094", "GBP": "0.853", "JPY": "160.9", "CHF": "0.959"},
    }
    pages = [
        ("Pell Lighthouse", "Pell Lighthouse is a lighthouse near Carrow. It was built in 1867, is 41 metres high and was designed by Gregor Mann."),
        ("Sarn Viaduct", "Sarn Viaduct is a railway bridge near Ember Bay. It was opened in 1893, is 612 metres long and has 17 arches."),
        ("Quill & Byre", "Quill & Byre is a bindery based in Ember Bay. It was founded in 1921 by Hester Byre and employs 230 people."),
    ]  # fmt: skip
    _files(folder, rates, pages, _weather(rng, ["Carrow", "Ember Bay"], datetime.date(2024, 2, 20), 25))
