"""Questions in the words of public threads, over two small worlds: right, left to the model, or wrong silently (MRKL).

    python benchmarks/mrkl_wordings.py

Writes mrkl_wordings.json beside this file. The questions were written before any of their failures had been read; the
figures of that first contact stand under `first` and are not overwritten, those of the reader of expressions before
this grammar under `before`. "later" are questions about the library that were written when the others had been read. "abstain" as the expected answer means that no expert holds it: an answer with status "ok"
is then wrong silently.
"""

import collections
import datetime
import json
import random
import re
import sqlite3
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import mrkl_worlds

from hf_puzzle.mrkl.evaluate import factory


HERE = Path(__file__)
TODAY = "2022-05-01"
FIRST = {
    "library": {"n": 184, "right": 0.8641, "abstained": 0.125, "wrong silently": 0.0054, "crashed": 0.0054},
    "hospital": {"n": 133, "right": 0.8797, "abstained": 0.1203, "wrong silently": 0.0},
    "later": {"n": 80, "right": 0.9375, "abstained": 0.05, "wrong silently": 0.0125},
}
BEFORE = {
    "library": {"n": 184, "right": 0.7446, "abstained": 0.1793, "wrong silently": 0.0761},
    "hospital": {"n": 133, "right": 0.7519, "abstained": 0.1353, "wrong silently": 0.1128},
    "later": {"n": 80, "right": 0.6875, "abstained": 0.2, "wrong silently": 0.1125},
}
# 253 questions over two other worlds, written before the rules for them; what was wrong silently at first contact is an
# ambiguous root and product, a temperature below absolute zero, a half of a sum, "next Friday", "1,5" and cups. Two
# gold answers of ours were wrong and are corrected here; the figure of the first contact is as it was counted then
SECOND_FIRST = {"n": 253, "right": 0.6957, "abstained": 0.2806, "wrong silently": 0.0237}
# later ones about a museum, written before any failure over it had been read; "fourth": 126 chosen to be ambiguous, such as
# weekdays without a date, cups, and half of a sum. Counted with the expected answers of then, of which five were wrong
THIRD_FIRST = {"n": 254, "right": 0.8819, "abstained": 0.0984, "wrong silently": 0.0197}
FOURTH_FIRST = {"n": 126, "right": 0.8413, "abstained": 0.1032, "wrong silently": 0.0556}
# 107 questions about the databases of all five, written in one sitting and asked once; the one wrong gave a year for an age
FIFTH_FIRST = {"n": 107, "right": 0.8037, "abstained": 0.1869, "wrong silently": 0.0093}
LATER = ("second", "third", "fourth", "fifth")
MUSEUM_TODAY = "2024-03-11"
UNITS = {
    "meter": ("len", "1", ["metres"]), "kilometer": ("len", "1000", ["km"]), "mile": ("len", "1609.344", ["miles"]),
    "kilogram": ("mass", "1", ["kg"]), "liter": ("vol", "1", ["litres"]), "second": ("time", "1", ["seconds"]),
    "degC": ("temp", None, ["degrees Celsius"]), "degF": ("temp", None, ["degrees Fahrenheit"]),
}  # fmt: skip


# -- worlds


def library(folder: Path) -> None:
    """Books, authors and loans; lakes and companies; three towns' weather."""
    rng = random.Random(5)
    with sqlite3.connect(folder / "shop.sqlite") as c:
        c.executescript(
            "create table authors(author_id integer primary key, full_name text, country text, birth_year integer);"
            "create table books(book_id integer primary key, title text, author_id integer references authors(author_id),"
            " genre text, pages integer, price real, published text);"
            "create table loans(loan_id integer primary key, book_id integer references books(book_id), member text,"
            " loaned_on text, fee real, state text);"
        )
        names = [
            "Ada Thorne",
            "Boris Quill",
            "Carla Mendes",
            "Dmitri Vale",
            "Elin Strand",
            "Farid Noor",
            "Greta Osei",
            "Hugo Lind",
        ]
        lands = ["Norway", "Brazil", "Norway", "Kenya", "Sweden", "Kenya", "Brazil", "Norway"]
        for i, (name, land) in enumerate(zip(names, lands, strict=True), 1):
            c.execute("insert into authors values(?,?,?,?)", (i, name, land, 1920 + 7 * i))
        titles = [
            "The Salt Road",
            "Winter Harbor",
            "A Quiet Engine",
            "Nine Lanterns",
            "Paper Rivers",
            "The Copper Gate",
            "Moth Season",
            "Small Hours",
            "Tin Soldiers Home",
            "Far Meadow",
            "Stone Letters",
            "Blue Inventory",
            "The Last Ferry",
            "Glass Orchard",
            "Loose Threads",
            "Night Ledger",
        ]
        genres = ["mystery", "poetry", "history", "science"]
        for i, title in enumerate(titles, 1):
            row = (
                i,
                title,
                rng.randint(1, 8),
                genres[rng.randint(0, 3)],
                rng.randint(90, 700),
                rng.randint(500, 4000) / 100,
            )
            c.execute("insert into books values(?,?,?,?,?,?,?)", (*row, _day(rng, 2000, 8000)))
        members = ["Olga Petrov", "Sam Reyes", "Tariq Amin", "Uma Patel", "Vera Koch"]
        for i in range(1, 61):
            row = (i, rng.randint(1, 16), rng.choice(members), _day(rng, 2021, 480), rng.randint(0, 500) / 100)
            c.execute("insert into loans values(?,?,?,?,?,?)", (*row, rng.choice(["returned", "overdue", "open"])))
    rates = {
        "2022-03-01": {"USD": "1.12", "GBP": "0.83", "JPY": "128.5", "CHF": "1.03"},
        "2022-04-28": {"USD": "1.05", "GBP": "0.84", "JPY": "136.8", "CHF": "1.02"},
    }
    pages = [
        ("Lake Orsa", "Lake Orsa is a lake in the Dunholm district. It has an area of 84 square kilometres and a maximum depth of 61 metres. Its outflow is the river Tamm."),
        ("Lake Veld", "Lake Veld is a lake in the Brimley district. It has an area of 35 square kilometres and a maximum depth of 112 metres. Its outflow is the river Iss."),
        ("Hartwell Motors", "Hartwell Motors is a manufacturer of lorries based in Brimley. It was founded in 1911 by Edith Hartwell and employs 2300 people."),
        ("Nordlys Foods", "Nordlys Foods is a maker of canned fish based in Castor Bay. It was founded in 1948 by Jens Dahl and employs 640 people."),
        ("St Alban Tower", "St Alban Tower is a tower in Castor Bay, completed in 1974. It is 143 metres high and was designed by Rosa Klee."),
    ]  # fmt: skip
    _files(folder, rates, pages, _weather(rng, ["Brimley", "Castor Bay", "Dunholm"], datetime.date(2022, 3, 25), 40))


def hospital(folder: Path) -> None:
    """Doctors, patients and visits; cathedrals, a novel and a ferry company."""
    rng = random.Random(11)
    with sqlite3.connect(folder / "shop.sqlite") as c:
        c.executescript(
            "create table doctors(id integer primary key, name text, specialty text, hospital text, hourly_rate integer,"
            " joined_on text);"
            "create table patients(id integer primary key, name text, gender text, birth_date text, city text, weight_kg real);"
            "create table visits(id integer primary key, patient_id integer references patients(id), doctor_id integer"
            " references doctors(id), visit_date text, cost integer, outcome text);"
        )
        doctors = [
            "Amara Boyle",
            "Bento Cruz",
            "Chiara Dahl",
            "Dov Egan",
            "Edith Fry",
            "Finn Gallo",
            "Gwen Hale",
            "Hari Iyer",
            "Ines Jorn",
            "Jude Kane",
            "Kofi Lamb",
            "Lena Moss",
        ]
        for i, name in enumerate(doctors, 1):
            row = (
                i, name, rng.choice(["Cardiology", "Surgery", "Pediatrics", "Neurology"]),
                rng.choice(["Northgate", "St Vera", "Hillside"]), rng.choice([80, 95, 110, 125, 140, 150, 165]),
            )  # fmt: skip
            c.execute("insert into doctors values(?,?,?,?,?,?)", (*row, _day(rng, 2008, 5000)))
        patients = [
            "Abe Nolan",
            "Bea Ortiz",
            "Cal Pryor",
            "Dee Quinn",
            "Eli Rossi",
            "Fay Stone",
            "Gus Tran",
            "Hal Usher",
            "Ida Voss",
            "Jan West",
            "Kit Young",
            "Lia Zorn",
            "Max Abbey",
            "Nia Bloom",
            "Oz Carey",
            "Pia Doyle",
        ]
        towns = ["Elmford", "Barrow Point", "Tyne Hollow"]
        for i, name in enumerate(patients, 1):
            row = (i, name, rng.choice(["male", "female"]), _day(rng, 1940, 25000), rng.choice(towns))
            c.execute("insert into patients values(?,?,?,?,?,?)", (*row, rng.randint(480, 1100) / 10))
        for i in range(1, 91):
            row = (i, rng.randint(1, 16), rng.randint(1, 12), _day(rng, 2021, 480), rng.randint(20, 400))
            c.execute(
                "insert into visits values(?,?,?,?,?,?)", (*row, rng.choice(["recovered", "referred", "admitted"]))
            )
    rates = {
        "2022-02-28": {"USD": "1.11", "GBP": "0.835", "SEK": "10.6", "PLN": "4.7"},
        "2022-04-29": {"USD": "1.06", "GBP": "0.84", "SEK": "10.3", "PLN": "4.68"},
    }
    pages = [
        ("Karst Cathedral", "Karst Cathedral is a Gothic church in Elmford. Construction began in 1312 and it was consecrated in 1388. Its spire is 118 metres high and its nave is 74 metres long."),
        ("Orlen Cathedral", "Orlen Cathedral is a Romanesque church in Barrow Point. It was consecrated in 1190. Its spire is 96 metres high and its nave is 81 metres long."),
        ("The Glass Heron", "The Glass Heron is a novel by Tomas Veer, published in 1974. It has 412 pages and was translated by Lucy Mott."),
        ("Silverline Ferry", "Silverline Ferry is a shipping company based in Tyne Hollow. It was established in 1956 by Henrik Aas, operates 14 ships and employs 870 people."),
    ]  # fmt: skip
    _files(folder, rates, pages, _weather(rng, towns, datetime.date(2022, 3, 20), 45))


def _day(rng, year, most) -> str:
    return str(datetime.date(year, 1, 1) + datetime.timedelta(rng.randint(0, most)))


def _weather(rng, towns, first, days) -> dict:
    return {
        f"{town}|{first + datetime.timedelta(day)}": {
            "tmax": rng.randint(50, 250) / 10,
            "tmin": rng.randint(-50, 45) / 10,
            "rain": rng.choice([0, 0, 0, rng.randint(1, 300) / 10]),
            "wind": rng.randint(2, 90),
        }
        for town in towns
        for day in range(days)
    }


def _files(folder, rates, pages, weather) -> None:
    units = {name: {"dimension": d, "factor": f, "forms": forms} for name, (d, f, forms) in UNITS.items()}
    for name, value in (("rates", {"base": "EUR", "rates": rates}), ("units", units), ("weather", weather)):
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    lines = (json.dumps({"id": f"p{i}", "title": title, "text": text}) for i, (title, text) in enumerate(pages))
    (folder / "wiki.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- judging


def verdict(expected, reply: dict) -> str:
    """ "right", "abstained" or "wrong silently"; numbers to 2e-5, texts and dates where the answer holds them."""
    if reply["status"] != "ok":
        return "right" if expected == "abstain" else "abstained"
    if expected == "abstain":
        return "wrong silently"
    said = str(reply["answer"])
    if all(isinstance(each, int | float) for each in expected):
        found = [float(Fraction(m.replace(",", ""))) for m in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", said)]
        hit = any(abs(v - each) <= 2e-5 * max(1, abs(each)) for v in (found[:1] + found[-1:]) for each in expected)
    elif all(re.fullmatch(r"\d{4}-\d\d-\d\d", each) for each in expected) or any(
        re.fullmatch(r"\d{4}-\d\d-\d\d", x) for x in expected
    ):
        hit = any(each in said for each in expected)
    else:
        hit = all(each.lower() in said.lower() for each in expected)
    return "right" if hit else "wrong silently"


def main() -> dict:
    """Ask all questions; the figures by world and by kind."""
    rows = [json.loads(line) for line in HERE.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    worlds, kinds, times = (
        collections.defaultdict(collections.Counter),
        collections.defaultdict(collections.Counter),
        [],
    )
    with tempfile.TemporaryDirectory() as directory:
        systems = {}
        for name, make in (("library", library), ("hospital", hospital)):
            folder = Path(directory) / name
            folder.mkdir()
            make(folder)
            systems[name] = factory(folder, TODAY)
        for name in ("airline", "farm", "museum"):
            folder = Path(directory) / name
            folder.mkdir()
            getattr(mrkl_worlds, name)(folder)
            systems[name] = factory(folder, MUSEUM_TODAY if name == "museum" else mrkl_worlds.TODAY)
        for row in rows:
            start = time.process_time()
            reply = systems[row["world"]](row["query"])
            times.append((time.process_time() - start) * 1e3)
            found = verdict(row["expected"], reply)
            part = row.get("part", row["world"])
            worlds[part][found] += 1
            kinds[f"{part} {row['kind']}" if part in LATER else row["kind"]][found] += 1
    shares = {
        name: {"n": sum(c.values())}
        | {k: round(c[k] / sum(c.values()), 4) for k in ("right", "abstained", "wrong silently")}
        for name, c in {**worlds, **kinds}.items()
    }
    found = {
        "before": BEFORE,
        "first": FIRST,
        "now": {name: shares[name] for name in worlds if name not in LATER},
        "second_first": SECOND_FIRST,
        "second_now": shares["second"],
        "third_first": THIRD_FIRST,
        "third_now": shares["third"],
        "fourth_first": FOURTH_FIRST,
        "fourth_now": shares["fourth"],
        "fifth_first": FIFTH_FIRST,
        "fifth_now": shares["fifth"],
        "kinds": {name: shares[name] for name in kinds},
        "cpu_ms": {"p50": round(sorted(times)[len(times) // 2], 1), "max": round(max(times), 1)},
    }
    HERE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))  # noqa: T201
