"""Generated (query, calls) pairs for MRKL's router and extractors, and the invented worlds they are about.

Following the paper (arXiv 2205.00445, A.4 of the research note) a structured call comes first and is then put into
words. Wordings come in three pools, `train`, `dev` and `held`, written apart; worlds of the held pool also have other
tables, columns, kinds of pages, towns and currencies. Nothing here was taken from the practice set.
"""

import datetime
import json
import random
import re
import sqlite3
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ..remote.calls_mrkl import exact_text


POOLS = ("train", "dev", "held")
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ONES = str.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

# -- numbers and dates in words


def in_words(number: int, british: bool = False, hyphen: bool = False) -> str:
    """`number`, 0..10**12 - 1, spelled; `british` says "and" before tens and ones, `hyphen` writes forty-two."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tail = number % 10
        return TENS[number // 10] + (("-" if hyphen else " ") + ONES[tail] if tail else "")
    if number < 1000:
        head, tail = ONES[number // 100] + " hundred", number % 100
        return head + ((" and " if british else " ") + in_words(tail, british, hyphen) if tail else "")
    for scale, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= scale:
            head, tail = in_words(number // scale, british, hyphen) + " " + word, number % scale
            joint = " and " if british and 0 < tail < 100 else " "
            return head + (joint + in_words(tail, british, hyphen) if tail else "")
    raise AssertionError(number)


def date_forms(iso: str, rng: random.Random) -> str:
    """One of the usual spellings of a date."""
    day = datetime.date.fromisoformat(iso)
    month = day.strftime("%B")
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10 if day.day // 10 != 1 else 0, "th")
    return rng.choice(
        [iso, iso, f"{day.day} {month} {day.year}", f"{month} {day.day}, {day.year}", f"the {day.day}{ending} of {month} {day.year}",
         f"{day.day} {month[:3]} {day.year}", f"{month} {day.day}{ending}, {day.year}", f"{day.day}{ending} {month} {day.year}"]
    )  # fmt: skip


# -- worlds

SYLLABLES = {
    "train": (
        ["Bel", "Cor", "Dun", "Fal", "Gar", "Hol", "Kes", "Lor", "Mun", "Nor", "Pel", "Rud", "Sul", "Tor", "Ves"],
        ["ham", "wick", "by", "ton", "mere", "ford", "stead", "combe"],
    ),
    "dev": (
        ["Ald", "Brin", "Cas", "Dor", "Esk", "Fen", "Gil", "Har", "Ing", "Jor", "Kel"],
        ["holt", "bury", "gate", "moor", "worth", "dale"],
    ),
    "held": (
        ["Zan", "Quil", "Ymir", "Oster", "Ulv", "Xar", "Wend", "Thra", "Pry", "Vod", "Skel"],
        ["heim", "stad", "fell", "ness", "burgh", "vik", "lund"],
    ),
}
FIRST = {
    "train": str.split("Abel Britta Cyril Dagny Edda Fergus Greta Hamish Ines Jonas Katrin Linus Mabel Nils Orla"),
    "dev": ["Piers", "Ragna", "Sven", "Thora", "Ursel", "Viggo", "Wanda", "Yorick", "Zelda", "Anders"],
    "held": str.split(
        "Basil Celeste Dmitri Eulalia Florian Gudrun Hector Isolde Jasper Keziah Leopold Minerva Nestor Ottilie"
    ),
}
LAST = {
    "train": ["Arkwright", "Bellweather", "Copperfield", "Dunstan", "Eastlake", "Fothergill", "Grantham", "Hollis", "Inkpen"],
    "dev": ["Jessop", "Kingsley", "Langford", "Merriman", "Norwood", "Oakes"],
    "held": ["Pemberton", "Quillfeather", "Ravenscroft", "Sandringham", "Thistlewood", "Umberland", "Vanterpool", "Wetherby", "Yarborough"],
}  # fmt: skip
CODES = {
    "train": ["USD", "GBP", "CHF", "JPY", "SEK", "CAD"],
    "dev": ["USD", "GBP", "NOK", "PLN", "AUD"],
    "held": ["USD", "GBP", "DKK", "INR", "CZK", "NZD", "ZAR"],
}
MONEY = {
    "EUR": ["EUR", "euros"], "USD": ["USD", "US dollars", "dollars"], "GBP": ["GBP", "British pounds", "pounds sterling"], "CHF": ["CHF", "Swiss francs", "francs"],
    "JPY": ["JPY", "yen", "Japanese yen"], "SEK": ["SEK", "Swedish kronor"], "CAD": ["CAD", "Canadian dollars"], "NOK": ["NOK", "Norwegian kroner"],
    "PLN": ["PLN", "zloty"], "AUD": ["AUD", "Australian dollars"], "DKK": ["DKK", "Danish kroner"], "INR": ["INR", "rupees", "Indian rupees"],
    "CZK": ["CZK", "Czech koruna"], "NZD": ["NZD", "New Zealand dollars"], "ZAR": ["ZAR", "South African rand"],
}  # fmt: skip
UNITS = {
    "centimeter": ("len", "0.01", ["centimetres", "cm"]), "meter": ("len", "1", ["metres"]), "kilometer": ("len", "1000", ["kilometres", "km"]),
    "mile": ("len", "1609.344", ["miles"]), "foot": ("len", "0.3048", ["feet"]), "yard": ("len", "0.9144", ["yards"]), "inch": ("len", "0.0254", ["inches"]),
    "kilogram": ("mass", "1", ["kilograms", "kg"]), "gram": ("mass", "0.001", ["grams"]), "pound": ("mass", "0.45359237", ["pounds of mass", "lb"]), "ounce": ("mass", "0.028349523125", ["ounces"]),
    "liter": ("vol", "1", ["litres"]), "milliliter": ("vol", "0.001", ["millilitres", "ml"]), "gallon": ("vol", "3.785411784", ["US gallons"]),
    "minute": ("time", "60", ["minutes"]), "hour": ("time", "3600", ["hours"]), "second": ("time", "1", ["seconds"]), "degC": ("temp", None, ["degrees Celsius"]), "degF": ("temp", None, ["degrees Fahrenheit"]),
    "kilometer_per_hour": ("speed", "5/18", ["km/h"]), "mile_per_hour": ("speed", "0.44704", ["mph", "miles per hour"]), "meter_per_second": ("speed", "1", ["metres per second"]),
}  # fmt: skip
# tables of people, things and events; the lexicon says how one speaks of their columns
SCHEMAS = {
    "train": [
        {"person": "keepers", "group": "station", "home": "village", "pay": "wage", "since": "joined", "thing": "tools", "sort": "family", "price": "cost_cents", "stock": "in_stock", "event": "purchases", "who": "buyer", "ref": "tool_id", "amount": "quantity", "when": "bought_on", "state": "state",
             "people": "keepers", "persons": "keeper", "groups": ["Beacon", "Harbour", "Ridge", "Cellar"], "pays": ["wage", "pay"], "earn": "earn", "joined": "join", "things": "tools", "kinds": ["cutting", "lifting", "measuring"], "events": "purchases", "did": "made", "done": "bought", "states": ["paid", "open", "void"], "thing_names": ["Iron Saw", "Brass Level", "Steel Chisel", "Long Plane", "Hand Drill", "Bench Vice", "Slate Hammer"]},
        {"person": "nurses", "group": "ward", "home": "town", "pay": "salary", "since": "started", "thing": "medicines", "sort": "kind", "price": "price", "stock": "stock", "event": "requests", "who": "client", "ref": "medicine_id", "amount": "amount", "when": "request_date", "state": "status",
             "people": "nurses", "persons": "nurse", "groups": ["Maternity", "Cardiology", "Oncology", "Casualty"], "pays": ["salary", "pay"], "earn": "earn", "joined": "start", "things": "medicines", "kinds": ["syrup", "tablet", "ointment"], "events": "requests", "did": "made", "done": "requested", "states": ["filled", "waiting", "denied"], "thing_names": ["Blue Tonic", "Cough Syrup", "Green Balm", "Sleep Drops", "Heart Pills", "Winter Salve"]},
        {"person": "staff", "group": "team", "home": "city", "pay": "salary", "since": "hired", "thing": "articles", "sort": "category", "price": "price_cents", "stock": "stock", "event": "orders", "who": "customer", "ref": "article_id", "amount": "quantity", "when": "order_date", "state": "status",
             "people": "staff members", "persons": "staff member", "groups": ["Sales", "Legal", "Kitchen", "Transport"], "pays": ["salary", "pay", "income"], "earn": "earn", "joined": "join", "things": "articles", "kinds": ["garden", "toys", "stationery"], "events": "orders", "did": "placed", "done": "ordered", "states": ["sent", "queued", "refunded"], "thing_names": ["Garden Fork", "Paper Kite", "Wooden Train", "Fountain Pen", "Water Can", "Letter Box"]},
    ],
    "dev": [
        {"person": "guides", "group": "section", "home": "residence", "pay": "pay", "since": "recruited", "thing": "tents", "sort": "class", "price": "fee_cents", "stock": "available", "event": "bookings", "who": "guest", "ref": "tent_id", "amount": "units", "when": "booking_date", "state": "status",
             "people": "guides", "persons": "guide", "groups": ["Alpine", "Coastal", "Forest"], "pays": ["pay", "salary"], "earn": "earn", "joined": "start", "things": "tents", "kinds": ["family", "solo", "dome"], "events": "bookings", "did": "made", "done": "booked", "states": ["confirmed", "cancelled", "held"], "thing_names": ["Sky Dome", "River Shelter", "Pine Cabin", "Dune Tent", "Snow Lodge"]},
    ],
    "held": [
        {"person": "pilots", "group": "squadron", "home": "home_town", "pay": "salary", "since": "enlisted", "thing": "parts", "sort": "family", "price": "price_cents", "stock": "stock", "event": "shipments", "who": "receiver", "ref": "part_id", "amount": "pieces", "when": "sent_on", "state": "status",
             "people": "pilots", "persons": "pilot", "groups": ["Falcon", "Heron", "Osprey", "Kestrel"], "pays": ["salary", "pay"], "earn": "make", "joined": "enlist", "things": "parts", "kinds": ["engine", "cabin", "wing"], "events": "shipments", "did": "receive", "done": "sent out", "states": ["delivered", "delayed", "lost"], "thing_names": ["Fuel Valve", "Landing Strut", "Cabin Seal", "Rotor Blade", "Wing Bolt", "Turbine Cap", "Oil Gauge"]},
        {"person": "teachers", "group": "faculty", "home": "city", "pay": "income", "since": "appointed", "thing": "books", "sort": "genre", "price": "cost", "stock": "copies", "event": "loans", "who": "member", "ref": "book_id", "amount": "quantity", "when": "loan_date", "state": "condition",
             "people": "teachers", "persons": "teacher", "groups": ["History", "Physics", "Music", "Botany"], "pays": ["income", "salary", "pay"], "earn": "earn", "joined": "appointed", "things": "books", "kinds": ["poetry", "mystery", "travel"], "events": "loans", "did": "take out", "done": "lent", "states": ["returned", "overdue", "renewed"], "thing_names": ["Silver Harvest", "Night Orchard", "Paper Lanterns", "Salt Roads", "Quiet Engines", "Hollow Crown"]},
    ],
}  # fmt: skip
PAGES = {
    "train": [
        ("{n} Lighthouse", "{n} Lighthouse stands {a} metres tall on the coast near {town}. It was first lit in {y} and is looked after by the {x} family.", [("height", ["How tall is {t}", "What is the height of {t}"], "a"), ("lit", ["When was {t} first lit", "In which year was {t} first lit"], "y")]),
        ("Lake {n}", "Lake {n} lies north of {town}. It is {a} metres deep, was surveyed in {y} and is fed by the river {x}.", [("depth", ["How deep is {t}", "What depth does {t} have"], "a"), ("river", ["Which river feeds {t}", "What river flows into {t}"], "x")]),
    ],
    "dev": [("{n} Museum", "{n} Museum is an art gallery in {town}. It was founded in {y} by the painter {x} and holds {a} pictures.", [("count", ["How many pictures does {t} hold", "What number of pictures can be found in {t}"], "a"), ("year", ["What year saw the founding of {t}", "When did someone found {t}"], "y")])],
    "held": [
        ("{n} Tower", "{n} Tower is a brick tower in {town}. It was completed in {y}, has a height of {a} metres and is named after the mayor {x}.", [("height", ["What height does {t} reach", "Give the height of {t}", "How high is {t}"], "a"), ("year", ["What year was {t} completed", "When was the completion of {t}"], "y")]),
        ("{n} Tunnel", "{n} Tunnel is a railway tunnel close to {town}. It runs under the river {x}, was opened in {y} and has a length of {a} metres.", [("length", ["What length does {t} have", "How long is {t}"], "a"), ("year", ["Since which year has {t} been open", "What was the opening year of {t}"], "y"), ("river", ["Under which river does {t} run", "What river does {t} pass beneath"], "x")]),
    ],
}  # fmt: skip


@dataclass
class World:
    """Invented fixtures on disk and what queries about them can mention."""

    pool: str
    today: str
    schema: dict
    towns: list
    days: list
    rate_days: list
    codes: list
    people: list = field(default_factory=list)
    customers: list = field(default_factory=list)
    things: list = field(default_factory=list)
    pages: list = field(default_factory=list)


def make_world(directory, pool: str, seed: int) -> World:
    """Write rates.json, units.json, weather.json, wiki.jsonl and shop.sqlite of an invented world; every call the same.

    Raises: ValueError for an unknown pool.
    """
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r} is none of {', '.join(POOLS)}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{pool} {seed}")
    today = datetime.date(2023, rng.randint(2, 11), rng.randint(1, 28))
    starts, ends = SYLLABLES[pool]
    names = [a + b for a in starts for b in ends]
    rng.shuffle(names)
    towns, rest = names[:10], names[10:]
    days = [(today - datetime.timedelta(days=n)).isoformat() for n in range(1, 41)]
    rate_days = [(today - datetime.timedelta(days=n)).isoformat() for n in (3, 34, 65, 125, 390)]
    schema = SCHEMAS[pool][seed % len(SCHEMAS[pool])]
    world = World(pool, today.isoformat(), schema, towns, days, rate_days, ["EUR", *CODES[pool]])
    base = {code: rng.uniform(0.5, 30) for code in CODES[pool]}
    rates = {day: {c: f"{r * rng.uniform(0.9, 1.1):.4f}" for c, r in base.items()} for day in rate_days}
    _write(directory / "rates.json", {"base": "EUR", "rates": rates})
    _write(
        directory / "units.json",
        {n: {"dimension": d, "factor": f, "forms": forms} for n, (d, f, forms) in UNITS.items()},
    )
    weather = {
        f"{town}|{day}": {"rain": rng.choice([0, 0, rng.randint(1, 40)]), "tmax": round(rng.uniform(5, 30), 1), "tmin": round(rng.uniform(-9, 5), 1), "wind": rng.randint(0, 90)}
        for town in towns
        for day in days
    }  # fmt: skip
    _write(directory / "weather.json", weather)
    lines = []
    for i in range(16):
        title, text, questions = PAGES[pool][i % len(PAGES[pool])]
        facts = {
            "n": rest[i],
            "town": rng.choice(towns),
            "y": str(rng.randint(1790, 1985)),
            "a": str(rng.randint(20, 2400)),
            "x": rest[30 + i],
        }
        page = {"id": f"page-{i}", "title": title.format(**facts), "text": text.format(**facts)}
        lines.append(json.dumps(page))
        world.pages.append((page, questions, facts))
    (directory / "wiki.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _database(directory / "shop.sqlite", world, rng)
    return world


def _write(path, value):
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _database(path, world, rng):
    s = world.schema
    path.unlink(missing_ok=True)
    names = [f"{a} {b}" for a in FIRST[world.pool] for b in LAST[world.pool]]
    rng.shuffle(names)
    world.people, world.customers = names[:30], names[30:45]
    today = datetime.date.fromisoformat(world.today)

    def day(most):
        return (today - datetime.timedelta(days=rng.randint(20, most))).isoformat()

    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            f"CREATE TABLE {s['person']}(id INTEGER PRIMARY KEY, name TEXT, {s['group']} TEXT, {s['home']} TEXT, {s['pay']} INTEGER, {s['since']} TEXT)"
        )
        connection.execute(
            f"CREATE TABLE {s['thing']}(id INTEGER PRIMARY KEY, name TEXT, {s['sort']} TEXT, {s['price']} INTEGER, {s['stock']} INTEGER)"
        )
        connection.execute(
            f"CREATE TABLE {s['event']}(id INTEGER PRIMARY KEY, {s['who']} TEXT, {s['ref']} INTEGER, {s['amount']} INTEGER, {s['when']} TEXT, {s['state']} TEXT)"
        )
        pays = rng.sample(range(200, 990), len(world.people))
        for i, name in enumerate(world.people):
            connection.execute(
                f"INSERT INTO {s['person']} VALUES (?,?,?,?,?,?)",
                (i + 1, name, s["groups"][i % len(s["groups"])], rng.choice(world.towns), pays[i] * 100, day(5000)),
            )
        prices, stocks = rng.sample(range(300, 30000), 20), rng.sample(range(5, 200), 20)
        for i, name in enumerate(s["thing_names"]):
            connection.execute(
                f"INSERT INTO {s['thing']} VALUES (?,?,?,?,?)",
                (i + 1, name, s["kinds"][i % len(s["kinds"])], prices[i], stocks[i]),
            )
            world.things.append(name)
        for i in range(120):
            connection.execute(
                f"INSERT INTO {s['event']} VALUES (?,?,?,?,?,?)",
                (
                    i + 1,
                    rng.choice(world.customers),
                    rng.randint(1, len(world.things)),
                    rng.randint(1, 9),
                    day(600),
                    rng.choice(s["states"]),
                ),
            )
    connection.close()


# -- wordings: [[a|b]] is a choice, {x} is filled; three pools per task

W = {
    "add": {
        "train": ["{a} + {b}", "[[What is|Work out|Calculate|Tell me]] {a} plus {b}", "Add {a} [[and|to]] {b}", "[[Find|What is|Determine]] the sum of {a} and {b}", "{a} [[added to|increased by]] {b}", "[[Sum|Total]] {a} and {b}"],
        "dev": ["What do {a} and {b} add up to", "Put {a} and {b} together", "{a} and {b} added together make what", "If you add {b} to {a}, what do you get", "What total do {a} and {b} give together", "Combine {a} with {b}", "How much is {a} and {b} in all", "What is {b} more than {a}", "Could you sum {a} and {b} for me", "What do you get when {b} is added to {a}", "Find the combined total of {a} and {b}"],
        "held": ["What's {a} and {b} summed", "{b} on top of {a} makes what", "Please total up {a} and {b}", "How much do {a} and {b} come to when added", "I had {a} and got {b} more, how many now"],
    },
    "sub": {
        "train": ["{a} - {b}", "[[What is|Work out|Calculate]] {a} minus {b}", "[[Subtract|Deduct]] {b} from {a}", "[[Find|What is]] the difference [[between|of]] {a} and {b}", "{a} [[less|decreased by|take away]] {b}"],
        "dev": ["What remains when {b} is taken away from {a}", "By how much does {a} exceed {b}", "What is {a} reduced by {b}", "Take {b} from {a}", "How much is left if you remove {b} from {a}", "What is {b} less than {a}", "How much bigger is {a} than {b}", "Take {b} away from {a} and tell me the result", "{a} with {b} subtracted", "Start with {a} and take away {b}", "What do I have left after subtracting {b} from {a}"],
        "held": ["What's left when {b} is deducted from {a}", "{a} take away {b}", "By what amount is {a} larger than {b}", "Remove {b} from {a}", "How much more is {a} than {b}", "What must be added to {b} to get {a}"],
    },
    "mul": {
        "train": ["{a} * {b}", "[[What is|Work out|Calculate]] {a} times {b}", "Multiply {a} [[by|with]] {b}", "[[Find|What is]] the product of {a} and {b}", "{a} multiplied by {b}", "{a} x {b}"],
        "dev": ["What does {a} multiplied by {b} come to", "Multiply {a} and {b} together", "What are {a} lots of {b}", "How much is {a} taken {b} times", "If I multiply {a} by {b}, what comes out", "What is {a} by {b}", "Give the result of multiplying {a} with {b}", "{a} groups of {b} make how many", "The product when {a} meets {b}"],
        "held": ["What's {a} times {b}", "Work out {b} lots of {a}", "{a} multiplied with {b} gives what", "Could you multiply {a} by {b}", "Find {a} times {b} for me"],
    },
    "div": {
        "train": ["{a} / {b}", "[[What is|Work out|Calculate]] {a} divided by {b}", "Divide {a} by {b}", "[[Find|What is]] the quotient of {a} and {b}", "{a} over {b}", "[[What is|Give]] the ratio of {a} to {b}"],
        "dev": ["Split {a} into {b} equal parts", "How many times does {b} go into {a}", "Share {a} equally among {b} people", "What do you get if {a} is split evenly between {b}", "How often does {b} fit into {a}", "Distribute {a} over {b} groups", "What is one share when {a} is shared by {b}", "{a} divided into {b} equal shares", "Find the ratio between {a} and {b}"],
        "held": ["What's {a} over {b}", "If {a} is divided by {b}, what is the outcome", "How often is {b} contained in {a}", "{a} shared out among {b} people is how much each", "Work out {a} divided by {b}"],
    },
    "addmul": {
        "train": ["Multiply the sum of {a} and {b} by {c}", "({a} + {b}) * {c}", "[[What is|Compute]] {c} times the sum of {a} and {b}", "Add {a} and {b}, then multiply the result by {c}"],
        "dev": ["Take the sum of {a} and {b} and multiply it by {c}", "{a} plus {b}, all multiplied by {c}", "First add {a} to {b}, after that multiply by {c}", "What is the product of {c} and the sum of {a} and {b}", "The total of {a} and {b}, times {c}", "Sum {a} and {b} and then times that by {c}"],
        "held": ["Add up {a} and {b} and multiply what you get by {c}", "What is {a} plus {b}, the whole multiplied by {c}", "{c} times the total of {a} and {b}"],
    },
    "submul": {
        "train": ["Multiply the difference between {a} and {b} by {c}", "({a} - {b}) * {c}", "{c} times the difference between {a} and {b}"],
        "dev": ["Subtract {b} from {a} and multiply the answer by {c}", "The difference of {a} and {b} multiplied by {c}", "Take {b} away from {a}, then multiply by {c}", "How much is {c} times the difference of {a} and {b}"],
        "held": ["Deduct {b} from {a}, then multiply the answer by {c}", "What do you get by multiplying the difference between {a} and {b} by {c}"],
    },
    "divadd": {
        "train": ["{a} divided by {b}, plus {c}", "{a} / {b} + {c}", "Add {c} to the quotient of {a} and {b}"],
        "dev": ["Divide {a} by {b} and add {c}", "Add {c} to {a} divided by {b}", "What is the ratio of {a} to {b}, increased by {c}", "Divide {a} by {b}, then add {c} to the result"],
        "held": ["Take {a} divided by {b} and then add {c}", "{c} added to the quotient of {a} and {b}"],
    },
    "mulsub": {
        "train": ["Subtract {c} from the product of {a} and {b}", "{a} * {b} - {c}", "[[What is|Compute]] {a} times {b} minus {c}"],
        "dev": ["Multiply {a} by {b}, then subtract {c}", "The product of {a} and {b}, less {c}", "Take {c} away from {a} times {b}", "What remains when {c} is taken from the product of {a} and {b}"],
        "held": ["From the product of {a} and {b}, subtract {c}", "Multiply {a} and {b}; then deduct {c}"],
    },
    "pct_of": {
        "train": ["[[What is|Compute|Find]] {p}% of {a}", "{p} percent of {a}", "How much is {p} per cent of {a}"],
        "dev": ["What does {p}% of {a} come to", "Give me {p} percent of {a}", "I need {p}% out of {a}", "How large is a {p}% share of {a}"],
        "held": ["What is {p} percent out of {a}", "Find {p}% of {a}", "How many is {p}% of {a}"],
    },
    "pct_up": {
        "train": ["Increase {a} by {p}%", "[[What is|Compute]] {a} plus {p}%", "Add {p} percent to {a}"],
        "dev": ["Raise {a} by {p} percent", "{a} goes up by {p}%: what is it now", "What is {a} after a rise of {p} percent", "What is {p}% more than {a}", "Grow {a} by {p} per cent"],
        "held": ["Add {p}% on top of {a}", "What do you get when {a} is increased by {p}%", "{a} with {p}% added"],
    },
    "pct_down": {
        "train": ["Decrease {a} by {p}%", "[[What is|Compute]] {a} minus {p}%", "Reduce {a} by {p} percent", "Take {p}% off {a}"],
        "dev": ["Lower {a} by {p} percent", "What is {a} with a {p}% discount", "{p}% off {a}", "Knock {p} percent off {a}", "What is {a} after a reduction of {p}%"],
        "held": ["What is left of {a} after taking off {p}%", "Reduce {a} by {p} per cent", "{a} minus a {p}% discount"],
    },
    "currency": {
        "train": ["Convert {n} {f} to {t}", "How much is {n} {f} in {t}", "What is {n} {f} in {t}", "[[Change|Exchange]] {n} {f} into {t}", "{n} {f} to {t}", "How many {t} do I get for {n} {f}"],
        "dev": ["What is {n} {f} worth in {t}", "Express {n} {f} in {t}", "If I exchange {n} {f}, how many {t} will I receive", "I have {n} {f}; how much is that in {t}", "Turn {n} {f} into {t}", "What would {n} {f} be in {t}", "How many {t} can I buy with {n} {f}", "Give the {t} value of {n} {f}", "{n} {f} equals how many {t}", "In {t}, how much is {n} {f}"],
        "held": ["How much {t} is {n} {f}", "What's {n} {f} in {t}", "Swap {n} {f} for {t}", "Please change {n} {f} to {t}", "What do {n} {f} come to in {t}", "{n} {f} - how many {t} is that"],
    },
    "currency_dated": {
        "train": ["Convert {n} {f} to {t} at the rate of {d}", "How much was {n} {f} in {t} on {d}", "What was {n} {f} worth in {t} on {d}", "Using the rate of {d}, convert {n} {f} to {t}"],
        "dev": ["On {d}, how many {t} would {n} {f} get me", "Exchange {n} {f} into {t} with the rate from {d}", "With the {d} exchange rate, what is {n} {f} in {t}", "Back on {d}, how much was {n} {f} in {t}", "What were {n} {f} worth in {t} as of {d}", "Turn {n} {f} into {t} going by the rate on {d}", "How many {t} did {n} {f} buy on {d}"],
        "held": ["What was the value of {n} {f} in {t} on {d}", "Convert {n} {f} to {t}, rate of {d}", "At the exchange rate on {d}, how many {t} are {n} {f}", "How much did {n} {f} fetch in {t} on {d}"],
    },
    "units": {
        "train": ["Convert {n} {f} to {t}", "What is {n} {f} in {t}", "How many {t} are in {n} {f}", "{n} {f} in {t}", "Express {n} {f} in {t}", "Change {n} {f} into {t}"],
        "dev": ["How many {t} make up {n} {f}", "{n} {f} equals how many {t}", "Turn {n} {f} into {t}", "What does {n} {f} come to in {t}", "I measured {n} {f}; what is that in {t}", "How much is {n} {f} when expressed in {t}", "Give {n} {f} as {t}", "How many {t} is {n} {f}", "{n} {f} corresponds to how many {t}", "Rewrite {n} {f} in {t}"],
        "held": ["What's {n} {f} in {t}", "How many {t} do {n} {f} make", "{n} {f} is the same as how many {t}", "Switch {n} {f} over to {t}", "Can you express {n} {f} using {t}"],
    },
    "days_between": {
        "train": ["How many days are there between {d} and {e}", "[[Count|Give]] the number of days from {d} to {e}", "Days between {d} and {e}", "How many days lie between {d} and {e}"],
        "dev": ["How many days passed from {d} until {e}", "What is the number of days separating {d} and {e}", "How many days apart are {d} and {e}", "From {d} to {e} is how many days", "How long is it in days from {d} to {e}", "How many days after {d} is {e}", "What is the gap in days between {d} and {e}", "How many days elapse from {d} to {e}"],
        "held": ["Work out the days from {d} to {e}", "What number of days lies between {d} and {e}", "Between {d} and {e}, how many days pass", "How many days does it take to get from {d} to {e}", "Tell me the difference in days between {d} and {e}"],
    },
    "weekday": {
        "train": ["What day of the week [[is|was]] {d}", "Which weekday is {d}", "On which day of the week does {d} fall", "What weekday was {d}"],
        "dev": ["Tell me the weekday of {d}", "{d} is which day of the week", "Name the day of the week for {d}", "On what weekday did {d} land", "Is {d} a Monday, or which weekday is it", "Which day of the week was it on {d}", "{d} fell on which weekday"],
        "held": ["What was the weekday on {d}", "{d}: which day of the week", "Find out what day of the week {d} was", "Which day was {d}", "Did {d} fall on a Tuesday, or what weekday was it"],
    },
    "shift_after": {
        "train": ["What date is {k} {span} after {d}", "Which date comes {k} {span} after {d}", "What is the date {k} {span} from {d}", "Add {k} {span} to {d}"],
        "dev": ["{d} plus {k} {span} is what date", "Go {k} {span} forward from {d}", "What day of the calendar is {k} {span} later than {d}", "If {k} {span} pass after {d}, what is the date", "Count {k} {span} on from {d}", "Starting from {d}, what date is it {k} {span} later", "Give me the date {k} {span} past {d}"],
        "held": ["Which date do you get {k} {span} after {d}", "What's the date {k} {span} following {d}", "Move {k} {span} ahead from {d}", "When is it {k} {span} after {d}"],
    },
    "shift_before": {
        "train": ["What date is {k} {span} before {d}", "Which date comes {k} {span} before {d}", "Subtract {k} {span} from {d}"],
        "dev": ["{k} {span} earlier than {d} is what date", "What was the date {k} {span} prior to {d}", "Go back {k} {span} from {d}", "Which date precedes {d} by {k} {span}", "Starting at {d}, what date was it {k} {span} earlier"],
        "held": ["Which date was {k} {span} before {d}", "What's the date if you go {k} {span} back from {d}", "When was it {k} {span} before {d}", "Take {k} {span} off {d}"],
    },
    "ago": {
        "train": ["What date was {k} {span} ago", "Which date was it {k} {span} ago"],
        "dev": ["{k} {span} ago was what date", "What was the date {k} {span} back from today", "Tell me the date of {k} {span} ago"],
        "held": ["What day was it {k} {span} ago", "Which calendar date lies {k} {span} in the past"],
    },
    "ahead": {
        "train": ["What date will it be in {k} {span}", "What is the date {k} {span} from now"],
        "dev": ["What will the date be {k} {span} from today", "In {k} {span}, what date is it", "What date do we reach {k} {span} from today", "Which date comes {k} {span} from now"],
        "held": ["What's the date {k} {span} ahead", "Which date is {k} {span} in the future", "What will be the date in {k} {span}"],
    },
    "age": {
        "train": ["How many full years have passed since {d}", "How old is someone born on {d}", "How many full years are there between {d} and today"],
        "dev": ["What is the age of a person born on {d}", "How many complete years since {d}", "Somebody was born on {d}. How old are they now", "If I was born on {d}, how old am I", "How many whole years have gone by since {d}", "Give the age in years of someone born {d}", "How many complete years lie between {d} and today"],
        "held": ["A child born on {d} is how many years old today", "How many full years old is someone with the birthday {d}", "Count the full years since {d}", "What age is a person whose date of birth is {d}"],
    },
    "tmax": {
        "train": ["What was the highest temperature in {w} on {d}", "How hot did it get in {w} on {d}", "Maximum temperature in {w} on {d}"],
        "dev": ["What was the daytime high in {w} on {d}", "How warm was it in {w} on {d}", "What was the peak temperature recorded at {w} on {d}", "On {d}, how warm did {w} get", "Tell me the top temperature for {w} on {d}", "How hot was {w} on {d}", "What maximum did the thermometer reach in {w} on {d}"],
        "held": ["What was the warmest it got in {w} on {d}", "How high did the temperature climb in {w} on {d}", "{w}, {d}: maximum temperature", "What was the high in {w} on {d}"],
    },
    "tmin": {
        "train": ["What was the lowest temperature in {w} on {d}", "How cold did it get in {w} on {d}", "Minimum temperature in {w} on {d}"],
        "dev": ["What was the overnight low in {w} on {d}", "How cold was {w} on {d}", "On {d}, what was the coldest it got in {w}", "Give the minimum temperature at {w} for {d}", "What low did {w} drop to on {d}"],
        "held": ["What was the coldest temperature in {w} on {d}", "How low did the temperature fall in {w} on {d}", "{w}, {d}: lowest temperature", "What was the low in {w} on {d}"],
    },
    "rain": {
        "train": ["How much rain fell in {w} on {d}", "What was the rainfall in {w} on {d}", "How much did it rain in {w} on {d}"],
        "dev": ["What precipitation was recorded in {w} on {d}", "How wet was it in {w} on {d}", "How many millimetres of rain did {w} have on {d}", "On {d}, how much precipitation did {w} see", "Rain total for {w} on {d}"],
        "held": ["Did it rain in {w} on {d}, and how much", "How many mm of rain came down in {w} on {d}", "Amount of precipitation for {w} on {d}", "What rainfall did {w} record on {d}"],
    },
    "wind": {
        "train": ["What was the wind speed in {w} on {d}", "How windy was it in {w} on {d}", "Wind in {w} on {d}"],
        "dev": ["How strong was the wind in {w} on {d}", "How fast did the wind blow in {w} on {d}", "How hard was it blowing in {w} on {d}", "What wind did {w} have on {d}", "How strong were the gusts at {w} on {d}"],
        "held": ["What was the speed of the wind in {w} on {d}", "Wind speed for {w} on {d}", "How strong a wind blew in {w} on {d}"],
    },
    "wiki": {
        "train": ["{q}"],
        "dev": ["{q}", "Tell me: {q}", "Do you know: {q}"],
        "held": ["{q}", "I wonder: {q}", "Could you look up: {q}"],
    },
    "pay_of": {
        "train": ["What is the {pay} of {person}", "How much does {person} earn", "What {pay} does {person} get"],
        "dev": ["What does {person} {earn}", "{person}'s {pay}", "How much is {person} paid", "Tell me what {person} earns", "Look up {person}'s {pay}", "How big is the {pay} of {person}"],
        "held": ["What does {person} get paid", "State the {pay} of {person}", "What is {person}'s {pay}", "How much money does {person} make"],
    },
    "group_of": {
        "train": ["Which {group} does {person} work in", "What {group} is {person} in"],
        "dev": ["In which {group} is {person}", "To which {group} does {person} belong", "Name the {group} of {person}", "What is {person}'s {group}"],
        "held": ["Where does {person} work, which {group}", "{person} is in which {group}", "Which {group} is {person} part of"],
    },
    "since_of": {
        "train": ["When did {person} {join}", "When was {person} hired"],
        "dev": ["On what date did {person} start", "On which date was {person} taken on", "Since when has {person} worked here", "What is the date on which {person} started"],
        "held": ["When did {person} begin working here", "Tell me the start date of {person}", "On what day did {person} join"],
    },
    "count_group": {
        "train": ["How many {people} work in {g}", "How many {people} are in {g}"],
        "dev": ["What is the number of {people} in {g}", "Count the {people} in {g}", "How many {people} does {g} have", "How many {people} belong to {g}", "Give the headcount of {g}", "How large is the {g} {group}"],
        "held": ["What's the number of {people} working in {g}", "How many {people} are there in {g}", "How many people work for {g}"],
    },
    "avg_group": {
        "train": ["What is the average {pay} in {g}", "What is the mean {pay} of {people} in {g}"],
        "dev": ["How much do {people} in {g} earn on average", "On average, what {pay} do {people} in {g} get", "Average {pay} for {g}", "What does a typical {g} {persons} {earn}"],
        "held": ["What is the average {pay} across {g}", "Mean {pay} in {g}", "How much does someone in {g} earn on average"],
    },
    "top_group": {
        "train": ["Who is the best paid {persons} in {g}", "Which {persons} in {g} has the highest {pay}"],
        "dev": ["Who has the largest {pay} in {g}", "Who earns the most in {g}", "Name the top earner in {g}", "Who is the highest-paid {persons} of {g}", "Which {persons} earns most in {g}"],
        "held": ["Which of the {people} in {g} is paid the most", "Who gets the highest {pay} in {g}", "Best earning {persons} in {g}"],
    },
    "max_home": {
        "train": ["What is the highest {pay} in {w}", "What is the highest {pay} among {people} from {w}"],
        "dev": ["What is the top {pay} in {w}", "What is the maximum {pay} of {people} living in {w}", "How much does the best paid {persons} in {w} earn", "The biggest {pay} in {w} is how much"],
        "held": ["Among {people} in {w}, what is the top {pay}", "What's the largest {pay} anyone in {w} gets"],
    },
    "since_after": {
        "train": ["How many {people} were hired after {d}", "How many {people} joined after {d}"],
        "dev": ["How many {people} started later than {d}", "Count the {people} who started after {d}", "How many {people} came on board after {d}", "After {d}, how many {people} were taken on"],
        "held": ["How many of our {people} joined later than {d}", "What number of {people} was hired since {d}", "How many {people} have started since {d}"],
    },
    "stock_of": {
        "train": ["How many {thing} are in stock", "How many units of {thing} are in stock"],
        "dev": ["How many {thing} are left", "What is the stock of {thing}", "How many units of {thing} do we still have", "How many of the {thing} are available", "Current stock level for {thing}"],
        "held": ["How many {thing} do we have in stock", "What quantity of {thing} is left in stock", "Do we have {thing} in stock, and how many"],
    },
    "price_of": {
        "train": ["What is the price of {thing}", "How much does {thing} cost"],
        "dev": ["What does {thing} cost", "How much do we charge for {thing}", "Tell me the price of the {thing}", "How expensive is {thing}"],
        "held": ["What's the price of one {thing}", "How much for a {thing}", "What would a {thing} cost me"],
    },
    "count_kind": {
        "train": ["How many {things} are in the {kind} {sort}", "How many {kind} {things} are there"],
        "dev": ["Number of {things} of the {kind} {sort}", "How many {things} belong to the {kind} {sort}", "How many {things} count as {kind}", "Count the {kind} {things}"],
        "held": ["How many {things} fall under {kind}", "What's the count of {kind} {things}"],
    },
    "cheapest": {
        "train": ["What is the cheapest {one}", "Which {one} is the cheapest"],
        "dev": ["Which {one} costs the least", "Name the least expensive {one}", "Which {one} has the lowest price"],
        "held": ["Which of the {things} is cheapest", "What {one} has the smallest price"],
    },
    "events_of": {
        "train": ["How many {events} did {customer} make", "How many {events} are there for {customer}"],
        "dev": ["What is the number of {events} by {customer}", "How many {events} did {customer} have", "Count the {events} of {customer}", "How many {events} are under the name {customer}"],
        "held": ["How many {events} has {customer} got", "What number of {events} belongs to {customer}", "How often does {customer} show up in the {events}"],
    },
    "events_state": {
        "train": ["How many {events} are {state}", "How many {state} {events} are there"],
        "dev": ["Number of {events} that are {state}", "Count the {events} marked {state}", "How many of the {events} are {state}", "How many {events} have the status {state}"],
        "held": ["How many {events} are currently {state}", "What's the number of {state} {events}"],
    },
    "events_month": {
        "train": ["How many {events} were there in {month}", "How many {events} happened in {month}"],
        "dev": ["Number of {events} in {month}", "Count the {events} from {month}", "How many {events} date from {month}", "In {month}, how many {events} were there"],
        "held": ["How many {events} were recorded during {month}", "What's the number of {events} in {month}"],
    },
    "sold_of": {
        "train": ["How many units of {thing} were ordered in total", "How many {thing} were ordered altogether"],
        "dev": ["How many pieces of {thing} were {done}", "In total, how many units of {thing} were sold", "How many units of {thing} have been ordered overall", "What is the total number of {thing} units ordered"],
        "held": ["How many units of {thing} were ordered altogether", "Total units of {thing} sold", "What quantity of {thing} has been ordered in all"],
    },
    "multi_price_money": {
        "train": ["What is the price of {thing} in {t}", "Prices are in euros. How much is {thing} in {t}", "Convert the price of {thing} to {t}"],
        "dev": ["Our prices are in euros. What does {thing} cost in {t}", "All our prices are in euros; how much would {thing} be in {t}", "How many {t} does one {thing} cost, given that prices are in euros", "Express the price of {thing} in {t}"],
        "held": ["Prices being in euros, what is the cost of {thing} in {t}", "What does one {thing} cost in {t}", "How much is a {thing} if I pay in {t}"],
    },
    "multi_pay_money": {
        "train": ["What is the total {pay} of {g} in {t}", "Convert the {pay} of {person} to {t}"],
        "dev": ["Our {pay} figures are in euros. What is the total {pay} in {g} in {t}", "How much is {person}'s {pay} in {t}", "Salaries are paid in euros. What is the {pay} of {person} in {t}"],
        "held": ["Express the {pay} of {person} in {t}", "What does {person} earn in {t}", "Sum of all {pay} in {g}, in {t}"],
    },
    "multi_hired_weekday": {
        "train": ["Which weekday was {k} days after {person} was hired", "On which weekday was {person} hired"],
        "dev": ["What day of the week was it when {person} was hired", "On which day of the week did {person} start", "What weekday was it {k} days after {person} joined"],
        "held": ["{person} was hired on which weekday", "What day of the week was it {k} days after {person} was hired"],
    },
    "multi_height_unit": {
        "train": ["{q} in {u}"],
        "dev": ["{q}, in {u}", "{q}, expressed in {u}", "{q} in {u}"],
        "held": ["{q} when measured in {u}", "In {u}, {q}"],
    },
    "multi_years_ago": {
        "train": ["How old is {t}", "What is the age of {t} in years", "How many years ago was {t} {verb}"],
        "dev": ["How many years have passed since {t} was {verb}", "How many years is it since {t} was {verb}", "It is how many years since {t} was {verb}"],
        "held": ["{t} was {verb} how many years ago", "How long ago, in years, was {t} {verb}"],
    },
    "multi_times_unit": {
        "train": ["What is {a} times {b} {f} in {t}", "Convert {a} times {b} {f} to {t}"],
        "dev": ["How many {t} are {a} times {b} {f}", "Multiply {b} {f} by {a} and give it in {t}", "What is the product of {a} and {b} {f}, in {t}"],
        "held": ["{a} times {b} {f} is how much in {t}", "Take {b} {f}, multiply by {a}, and express it in {t}"],
    },
    "multi_sum_money": {
        "train": ["Convert the sum of {a} and {b} {f} to {t}", "What is {a} plus {b} {f} in {t}"],
        "dev": ["How many {t} are {a} plus {b} {f}", "Add {a} and {b} {f} and convert that to {t}", "How much in {t} is the sum of {a} and {b} {f}"],
        "held": ["What do {a} and {b} {f} together make in {t}", "Turn the sum of {a} and {b} {f} into {t}"],
    },
    "multi_fahrenheit": {
        "train": ["What was the highest temperature in {w} on {d}, in degrees Fahrenheit", "How hot did it get in {w} on {d} in Fahrenheit"],
        "dev": ["In degrees Fahrenheit, what was the highest temperature in {w} on {d}", "What was the maximum in {w} on {d} when expressed in Fahrenheit", "How warm was {w} on {d} in degrees Fahrenheit", "Give the high for {w} on {d} in °F"],
        "held": ["How hot was it in {w} on {d}, in Fahrenheit please", "Tell me the highest temperature for {w} on {d} converted to Fahrenheit"],
    },
    "multi_warmer": {
        "train": ["How many degrees warmer was the highest temperature in {w} than in {v} on {d}", "What is the difference between the highest temperature in {w} and in {v} on {d}"],
        "dev": ["By how many degrees did the highest temperature in {w} exceed that in {v} on {d}", "How much warmer was it in {w} than in {v} on {d}", "On {d}, how many degrees hotter was {w} than {v}", "What was the gap between the highest temperatures of {w} and {v} on {d}"],
        "held": ["By how much was {w} warmer than {v} on {d}", "How many degrees separate the highest temperatures of {w} and {v} on {d}"],
    },
    "multi_headcount": {
        "train": ["What is {a} times the combined headcount of {g} and {h}", "What is the combined number of {people} in {g} and {h}"],
        "dev": ["How many {people} work in {g} and {h} together", "How many {people} do {g} and {h} have together", "Multiply the combined number of {people} of {g} and {h} by {a}"],
        "held": ["What is the total headcount of {g} and {h} together", "{a} times the number of {people} in {g} and {h} combined"],
    },
    "multi_pct_days": {
        "train": ["What is {p}% of the number of days between {d} and {e}"],
        "dev": ["Compute {p} percent of the days between {d} and {e}", "How much is {p}% of the number of days from {d} to {e}", "Take the number of days from {d} to {e} and multiply it by {a}"],
        "held": ["Find {p} percent of the number of days separating {d} and {e}", "{a} times the number of days between {d} and {e}"],
    },
    "multi_more_pay": {
        "train": ["How much more does {person} earn than {other}", "What is the difference between the {pay} of {person} and {other}"],
        "dev": ["By how much does the {pay} of {person} exceed that of {other}", "How much higher is the {pay} of {person} than that of {other}", "What is the gap between {person}'s and {other}'s {pay}"],
        "held": ["How much more is {person} paid than {other}", "By how much is the {pay} of {person} above the {pay} of {other}"],
    },
}  # fmt: skip

CHAT = {
    "train": ["Hello", "Good morning!", "Thank you so much", "Tell me a joke", "Write a poem about the sea", "What is the meaning of life?", "Who are you?", "Explain what an adjective is", "Suggest a name for my cat", "How are you today?", "Give me some advice on studying", "What should I cook tonight?", "Write a birthday message for a friend", "Is it better to be early or late?", "Describe a perfect holiday", "Compose a limerick", "What makes a story sad?", "Recommend a hobby", "Why is the sky blue?", "How do I learn to swim?", "Summarise the plot of a fairy tale", "Translate good evening into French", "Who wrote the play about the Danish prince?", "Give me three tips for sleeping well", "Write two lines about winter", "I feel a little sad today", "Can you keep a secret?", "What rhymes with orange?", "Explain irony to a child", "How do plants grow?", "Please proofread my letter", "Tell me a story with 3 characters", "List 5 adjectives for a happy person", "Name 2 famous paintings", "I have 12 cousins and they all talk at once", "She is one in a million", "Give me 10 reasons to smile", "What does the phrase once in a blue moon mean?", "He ran like the wind", "It rained on my parade", "My heart feels cold", "What is a warm welcome?", "Why do people say time is money?", "What does to be paid in kind mean?", "How does one become a nurse?", "What makes a good employee?", "Write a slogan for a bakery", "Order matters in life, doesn't it?", "Who is your favourite author?", "Is Monday really that bad?", "What happens on a first date?", "Tell me about love at first sight", "Why are weekends so short?", "Give 110 percent, they say. Do you agree?", "What is the difference between love and friendship?", "Sum up the moral of that tale", "How long is forever?", "How deep is your love?", "Is the pen mightier than the sword?", "Why did the chicken cross the road?", "Write a short note to my landlord", "What is the best way to say sorry?", "Talk like a pirate", "What does the idiom worth its weight in gold mean?", "Invent a title for a film about {n} friends", "Write a haiku in {n} lines", "Name a song with the number {n} in it", "I love {n} things about spring", "Give me {n} ideas for a party", "My lucky number is {n}", "We are {n} people at the table, what a crowd", "Tell me a riddle about a mile", "Describe the colour of money", "Compare apples and oranges in a funny way", "Why do they call it a stone's throw?", "What is a foot in the door?", "An inch is as good as a mile, what does that mean?", "How would you describe the wind to someone?", "Write a diary entry for a rainy afternoon", "Make up a superhero who controls the temperature", "Is it rude to ask about someone's salary?", "What does a manager do all day?", "Give me an example of a metaphor", "What is your opinion on remote work?", "How do I write a good product description?", "Should I change my job?", "What's a good response to criticism?", "Explain the word department to a child", "Why do we celebrate birthdays?"],
    "dev": ["Hi, nice to meet you", "Sing me a lullaby", "What makes bread rise?", "Draft an apology to my neighbour", "Tell me something interesting", "Who would win, a bear or a shark?", "Think of a {n}-word story", "I bought {n} balloons for the party", "What is meant by a mile-high dream?", "Does money buy happiness?", "Is rain romantic?", "How do I tell my boss I am ill?", "Give a synonym of cheap", "Why do people collect stamps?", "Name {n} things that make you laugh", "What is a cold reception?", "Describe the weather in your dreams", "How do customers feel about queues?", "Why is Friday everyone's favourite?", "Explain why minus times minus feels odd to pupils", "Hey, what's up?", "Could you cheer me up a little?", "Please write a thank-you card for my aunt.", "What do you think about modern art?", "Think up a nickname for a slow turtle.", "Which is better, tea or coffee?", "Rephrase this politely: go away.", "What is the moral of the tortoise and the hare?", "Give me a tongue twister.", "How can I make new friends?", "I walked {n} dogs yesterday and it was wonderful.", "Come up with {n} names for a boat.", "What does it mean to go the extra mile?", "Explain the saying a penny for your thoughts.", "Why do people fear the number {n}?", "Is Sunday a good day to start a diet?", "Do you prefer summer or winter?", "Write a dramatic line about a storm.", "What does it feel like to be the tallest in class?", "My teacher always says practice makes perfect.", "How should a pilot dress for a wedding?", "Describe the smell of old books.", "Invent a proverb about dates, the fruit.", "What is a plus one at a party?", "Make a pun with the word pound.", "What are the pros and cons of being famous?", "Let us talk about feelings.", "Help me plan a surprise for my partner.", "How do you spell accommodate?", "Tell me why cats purr.", "What is the secret of a long marriage?", "Write one sentence in the style of an old sailor.", "Is it polite to divide a cake unevenly?", "Add some drama to this sentence: the door closed.", "Give me a metaphor for rising prices.", "Was the wind on your side today?", "Two heads are better than one, right?", "Convert me into a believer with a short speech.", "How much wood would a woodchuck chuck?", "Which month is the most poetic?"],
    "held": ["Hey there, friend!", "Can you write me a limerick about cheese?", "What's your favourite film?", "I am bored, entertain me.", "Please write a cover letter for a gardener.", "Explain sarcasm to me.", "What are good manners?", "Think of a rhyme for silver.", "Tell me {n} facts about kindness.", "My {n} cats ignore me.", "What would you do with a million wishes?", "Is patience a virtue?", "Give me a pep talk.", "Describe a quiet street at night.", "How do I apologise to a customer nicely?", "What does under the weather mean?", "Write a toast for a wedding.", "Why are {n} and luck connected?", "Which animal would make the best boss?", "What does the phrase add fuel to the fire mean?", "Who should pay on a date?", "What should I name my new sailing boat?", "How would you price happiness?", "Why do books smell so good?", "Explain photosynthesis in simple words.", "What is the plural of mouse?", "Draft a friendly reminder to my flatmate.", "Do you believe in ghosts?", "How hot is too hot for a romance?", "Divide and conquer: is that good advice?", "Are we there yet?", "What is a good icebreaker for a team?", "How can I sleep better?", "Is there life on other planets?", "Write a product review for an invisible umbrella.", "Who is the fairest of them all?", "Let's play a word game.", "How long should a love letter be?"],
}  # fmt: skip
OPENINGS = {
    "train": ["", "", "", "", "Please: ", "Can you tell me: ", "Quick question: "],
    "dev": ["", "", "", "I need to know: "],
    "held": ["", "", "", "Hi! ", "I'd like to know: ", "One more thing: "],
}
CLOSINGS = {"train": ["?", "?", ".", ""], "dev": ["?", ".", ", please"], "held": ["?", "?", ".", ", please?", ""]}


@dataclass
class Example:
    """One query with its gold: category, sub, `calls` as in a trace without results, `kind` of the answer."""

    query: str
    category: str
    sub: str
    calls: list
    kind: str
    meta: dict = field(default_factory=dict)

    @property
    def route(self) -> str:
        """The router's class."""
        return "none" if not self.calls else self.calls[0]["expert"] if len(self.calls) == 1 else "many"


class Generator:
    """Draws Examples about `world` in the wordings of `pool`."""

    def __init__(self, world: World, pool: str, seed: int = 0):
        self.world, self.pool, self.rng = world, pool, random.Random(f"{pool} {seed} wordings")
        self.schema = world.schema

    # -- pieces

    def say(self, task, **fills):
        text = self.rng.choice(W[task][self.pool])
        text = re.sub(r"\[\[(.*?)\]\]", lambda m: self.rng.choice(m[1].split("|")), text)
        for name, value in fills.items():
            text = text.replace("{" + name + "}", str(value))
        return text

    def sentence(self, text):
        opening = self.rng.choice(OPENINGS[self.pool])
        if opening and text[:1].isupper() and not re.match(r"[A-Z][a-z]+ [A-Z]|I ", text):
            text = text[0].lower() + text[1:]
        text = opening + (text if opening else text[:1].upper() + text[1:])
        return text + ("" if text[-1] in "?." else self.rng.choice(CLOSINGS[self.pool]))

    def number(self, digits, style):
        value = self.rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)
        return value, self.spell(value, style)

    def spell(self, value, style):
        if style == "words":
            return in_words(value, self.rng.random() < 0.4 and self.pool != "held", self.rng.random() < 0.5)
        return f"{value:,}" if style == "comma" else str(value)

    def day(self, low=1950, high=2022):
        start = datetime.date(low, 1, 1).toordinal()
        iso = datetime.date.fromordinal(start + self.rng.randrange((high - low) * 365)).isoformat()
        return iso, date_forms(iso, self.rng)

    def money(self, code):
        return self.rng.choice(MONEY[code])

    def amount(self):
        return self.rng.choice(
            [str(self.rng.randint(2, 9000)), f"{self.rng.uniform(1, 900):.2f}", f"{self.rng.uniform(1, 90):.1f}"]
        )

    # -- examples

    def arithmetic(self, digits=None, style=None):
        sub = self.rng.choice(
            str.split("add sub mul div add sub mul div addmul submul divadd mulsub pct_of pct_up pct_down")
        )
        digits = digits or self.rng.randint(1, 9)
        style = style or self.rng.choice(["digits", "words", "comma"])
        (a, sa), (b, sb), (c, sc) = (self.number(digits, style) for _ in range(3))
        if sub in ("div", "divadd") and b == 0:
            b, sb = 7, self.spell(7, style)
        if sub in ("sub", "submul") and a < b and sub != "div":
            a, sa, b, sb = b, sb, a, sa
        p = self.rng.choice([5, 10, 12, 15, 20, 25, 40, 110])
        forms = {
            "add": f"{a}+{b}", "sub": f"{a}-{b}", "mul": f"{a}*{b}", "div": f"{a}/{b}", "addmul": f"({a}+{b})*{c}", "submul": f"({a}-{b})*{c}",
            "divadd": f"{a}/{b}+{c}", "mulsub": f"{a}*{b}-{c}", "pct_of": f"{a}*{p}/100", "pct_up": f"{a}*(1+{p}/100)", "pct_down": f"{a}*(1-{p}/100)",
        }  # fmt: skip
        text = self.say(sub, a=sa, b=sb, c=sc, p=p)
        text = text if style == "words" and "%" not in text else text
        meta = {"digits": digits, "style": style}
        return Example(
            self.sentence(text), "arithmetic", sub, [_step("calculator", expression=forms[sub])], "number", meta
        )

    def currency(self):
        f, t = self.rng.sample(self.world.codes, 2)
        n, dated = self.amount(), self.rng.random() < 0.4
        iso = self.rng.choice(self.world.rate_days) if dated else None
        fills = {"n": n, "f": self.money(f), "t": self.money(t), "d": date_forms(iso, self.rng) if iso else ""}
        call = _step("currency", amount=n, date=iso, **{"from": f, "to": t})
        return Example(
            self.sentence(self.say("currency_dated" if dated else "currency", **fills)),
            "currency",
            "dated" if dated else "latest",
            [call],
            "number",
        )

    def unit_pair(self):
        dimension = self.rng.choice(["len", "len", "mass", "vol", "time", "speed", "temp"])
        f, t = self.rng.sample([name for name, (d, _, _) in UNITS.items() if d == dimension], 2)
        return f, t, self.rng.choice(UNITS[f][2]), self.rng.choice(UNITS[t][2])

    def units(self):
        f, t, sf, st = self.unit_pair()
        n = self.amount()
        return Example(
            self.sentence(self.say("units", n=n, f=sf, t=st)),
            "units",
            UNITS[f][0],
            [_step("units", value=n, **{"from": f, "to": t})],
            "number",
        )

    def dates(self):
        sub = self.rng.choice(["days_between", "weekday", "shift_after", "shift_before", "ago", "ahead", "age"])
        (d, sd), (e, se) = sorted([self.day(1990), self.day(1990)])
        k, span = self.rng.randint(2, 400), self.rng.choice(["days", "days", "weeks"])
        days = k * (7 if span == "weeks" else 1)
        text = self.say(sub, d=sd, e=se, k=k, span=span)
        today = self.world.today
        call = {
            "days_between": {"op": "days_between", "start": d, "end": e}, "weekday": {"op": "weekday", "date": d}, "shift_after": {"op": "shift", "date": d, "days": days},
            "shift_before": {"op": "shift", "date": d, "days": -days}, "ago": {"op": "shift", "date": today, "days": -days}, "ahead": {"op": "shift", "date": today, "days": days},
            "age": {"op": "years_between", "start": d, "end": today},
        }[sub]  # fmt: skip
        kind = {"weekday": "weekday", "days_between": "number", "age": "number"}.get(sub, "date")
        return Example(self.sentence(text), "dates", sub, [_step("dates", **call)], kind)

    def weather(self):
        sub, w, d = (
            self.rng.choice(["tmax", "tmin", "rain", "wind"]),
            self.rng.choice(self.world.towns),
            self.rng.choice(self.world.days),
        )
        text = self.say(sub, w=w, d=date_forms(d, self.rng))
        return Example(self.sentence(text), "weather", sub, [_step("weather", place=w, date=d, field=sub)], "number")

    def page(self, wanted=None):
        for _ in range(50):
            page, questions, facts = self.rng.choice(self.world.pages)
            sub, forms, key = self.rng.choice(questions)
            if wanted is None or key in wanted:
                return page, sub, self.rng.choice(forms).format(t=page["title"]), key, facts
        raise AssertionError("no such page")

    def wiki(self):
        page, sub, question, key, facts = self.page()
        step = {**_step("wiki", query=question), "doc": page["id"], "result": facts[key]}
        return Example(
            self.sentence(self.say("wiki", q=question)), "wiki", sub, [step], "text" if key == "x" else "number"
        )

    def fills(self):
        s, rng = self.schema, self.rng
        groups = rng.sample(s["groups"], 2)
        month = datetime.date.fromisoformat(self.world.today) - datetime.timedelta(days=rng.randint(60, 400))
        people = rng.sample(self.world.people, 2)
        return {
            "pay": rng.choice(s["pays"]), "earn": s["earn"], "join": s["joined"] if s["joined"] != "appointed" else "start", "group": s["group"], "people": s["people"], "persons": s["persons"],
            "person": people[0], "other": people[1], "g": groups[0], "h": groups[1], "w": rng.choice(self.world.towns), "thing": rng.choice(self.world.things), "things": s["things"], "one": s["things"].removesuffix("s"),
            "kind": rng.choice(s["kinds"]), "sort": s["sort"], "events": s["events"], "done": s["done"], "customer": rng.choice(self.world.customers), "state": rng.choice(s["states"]), "month": month.strftime("%B %Y"), "ym": month.strftime("%Y-%m"),
        }  # fmt: skip

    def database(self):
        s, f = self.schema, self.fills()
        d, sd = self.day(2012)
        person, thing, event, price = (
            s["person"],
            s["thing"],
            s["event"],
            s["price"] + ("/100.0" if s["price"].endswith("cents") else ""),
        )
        # (SQL, kind of answer)
        tasks = {
            "pay_of": (f"SELECT {s['pay']} FROM {person} WHERE name='{f['person']}'", "number"),
            "group_of": (f"SELECT {s['group']} FROM {person} WHERE name='{f['person']}'", "text"),
            "since_of": (f"SELECT {s['since']} FROM {person} WHERE name='{f['person']}'", "date"),
            "count_group": (f"SELECT COUNT(*) FROM {person} WHERE {s['group']}='{f['g']}'", "number"),
            "avg_group": (f"SELECT AVG({s['pay']}) FROM {person} WHERE {s['group']}='{f['g']}'", "number"),
            "top_group": (
                f"SELECT name FROM {person} WHERE {s['group']}='{f['g']}' ORDER BY {s['pay']} DESC LIMIT 1",
                "text",
            ),
            "max_home": (f"SELECT MAX({s['pay']}) FROM {person} WHERE {s['home']}='{f['w']}'", "number"),
            "since_after": (f"SELECT COUNT(*) FROM {person} WHERE {s['since']}>'{d}'", "number"),
            "stock_of": (f"SELECT {s['stock']} FROM {thing} WHERE name='{f['thing']}'", "number"),
            "price_of": (f"SELECT {price} FROM {thing} WHERE name='{f['thing']}'", "number"),
            "count_kind": (f"SELECT COUNT(*) FROM {thing} WHERE {s['sort']}='{f['kind']}'", "number"),
            "cheapest": (f"SELECT name FROM {thing} ORDER BY {s['price']} LIMIT 1", "text"),
            "events_of": (f"SELECT COUNT(*) FROM {event} WHERE {s['who']}='{f['customer']}'", "number"),
            "events_state": (f"SELECT COUNT(*) FROM {event} WHERE {s['state']}='{f['state']}'", "number"),
            "events_month": (f"SELECT COUNT(*) FROM {event} WHERE substr({s['when']},1,7)='{f['ym']}'", "number"),
            "sold_of": (
                f"SELECT SUM(e.{s['amount']}) FROM {event} e JOIN {thing} t ON t.id=e.{s['ref']} WHERE t.name='{f['thing']}'",
                "number",
            ),
        }
        sub = self.rng.choice(list(tasks))
        sql, kind = tasks[sub]
        text = self.say(sub, d=date_forms(d, self.rng), **f)
        return Example(self.sentence(text), "database", sub, [_step("database", sql=sql)], kind)

    def multi(self):
        s, f, rng = self.schema, self.fills(), self.rng
        sub = rng.choice([name for name in W if name.startswith("multi_")])
        price = s["price"] + ("/100.0" if s["price"].endswith("cents") else "")
        code = rng.choice(self.world.codes[1:])
        money = {"amount": "$1", "from": "EUR", "to": code, "date": None}
        pay = f"SELECT {s['pay']} FROM {s['person']} WHERE name="
        a, b, p, k = rng.randint(2, 90), rng.randint(2, 900), rng.choice([10, 20, 25, 50]), rng.randint(5, 300)
        (d, sd), (e, se) = sorted([self.day(2005), self.day(2005)])
        kind, fills = "number", f | {"a": a, "b": b, "p": p, "k": k, "t": self.money(code)}

        def count(g):
            return f"SELECT COUNT(*) FROM {s['person']} WHERE {s['group']}='{g}'"

        text = None
        if sub == "multi_price_money":
            calls = [_look(f"SELECT {price} FROM {s['thing']} WHERE name='{f['thing']}'"), _step("currency", **money)]
        elif sub == "multi_pay_money":
            text = self.say(sub, **fills)
            sql = (
                f"{pay}'{f['person']}'"
                if f["person"] in text
                else f"SELECT SUM({s['pay']}) FROM {s['person']} WHERE {s['group']}='{f['g']}'"
            )
            calls = [_look(sql), _step("currency", **money)]
        elif sub == "multi_hired_weekday":
            text, kind = self.say(sub, **fills), "weekday"
            hired = _look(f"SELECT {s['since']} FROM {s['person']} WHERE name='{f['person']}'")
            shift = [_step("dates", op="shift", date="$1", days=k)] if f"{k} days" in text else []
            calls = [hired, *shift, _step("dates", op="weekday", date=f"${1 + len(shift)}")]
        elif sub in ("multi_height_unit", "multi_years_ago"):
            years = sub == "multi_years_ago"
            page, _, question, key, facts = self.page("y" if years else "a")
            while not years and "pictures" in question:
                question = f"How many metres is {page['title']}"
            found = {**_step("wiki", query=question), "doc": page["id"], "result": facts[key]}
            if years:
                verb = next(w for w in ("lit", "surveyed", "founded", "completed", "opened") if w in page["text"])
                text, calls = (
                    self.say(sub, t=page["title"], verb=("first " if verb == "lit" else "") + verb),
                    [found, _calc(f"{self.world.today[:4]}-$1")],
                )
            elif "metres" not in page["text"]:
                return self.multi()
            else:
                unit = rng.choice(["foot", "yard", "kilometer"])
                text, calls = (
                    self.say(sub, q=question, u=rng.choice(UNITS[unit][2])),
                    [found, _step("units", value="$1", **{"from": "meter", "to": unit})],
                )
        elif sub == "multi_times_unit":
            x, y, sx, sy = self.unit_pair()
            while UNITS[x][0] == "temp":
                x, y, sx, sy = self.unit_pair()
            text, calls = (
                self.say(sub, a=a, b=b, f=sx, t=sy),
                [_calc(f"{a}*{b}"), _step("units", value="$1", **{"from": x, "to": y})],
            )
        elif sub == "multi_sum_money":
            x, y = rng.sample(self.world.codes, 2)
            text, calls = (
                self.say(sub, a=a, b=b, f=self.money(x), t=self.money(y)),
                [_calc(f"{a}+{b}"), _step("currency", amount="$1", date=None, **{"from": x, "to": y})],
            )
        elif sub in ("multi_fahrenheit", "multi_warmer"):
            w, v = rng.sample(self.world.towns, 2)
            day = rng.choice(self.world.days)
            text = self.say(sub, w=w, v=v, d=date_forms(day, rng))
            calls = [
                _step("weather", place=w, date=day, field="tmax"),
                _step("units", value="$1", **{"from": "degC", "to": "degF"}),
            ]
            if sub == "multi_warmer":
                calls = [calls[0], _step("weather", place=v, date=day, field="tmax"), _calc("$1-$2")]
        elif sub == "multi_headcount":
            text = self.say(sub, **fills)
            calls = [_look(count(f["g"])), _look(count(f["h"])), _calc(f"{a}*($1+$2)" if str(a) in text else "$1+$2")]
        elif sub == "multi_pct_days":
            text = self.say(sub, d=sd, e=se, p=p, a=a)
            calls = [
                _step("dates", op="days_between", start=d, end=e),
                _calc(f"$1*{p}/100" if f"{p}%" in text or "percent" in text else f"$1*{a}"),
            ]
        else:
            calls = [_look(f"{pay}'{f['person']}'"), _look(f"{pay}'{f['other']}'"), _calc("$1-$2")]
        return Example(self.sentence(text or self.say(sub, **fills)), "multi", sub.removeprefix("multi_"), calls, kind)

    def none(self):
        text = self.rng.choice(CHAT[self.pool]).replace("{n}", str(self.rng.randint(2, 40)))
        return Example(text, "none", "chat", [], "abstain")

    def draw(self, count: int, shares: dict | None = None) -> list:
        """`count` Examples; `shares` weighs the categories."""
        shares = shares or {
            "arithmetic": 5,
            "currency": 2,
            "units": 2,
            "dates": 3,
            "weather": 2,
            "wiki": 2,
            "database": 5,
            "multi": 5,
            "none": 4,
        }
        names = self.rng.choices(list(shares), list(shares.values()), k=count)
        return [getattr(self, name)() for name in names]


def _step(expert, **arguments) -> dict:
    return {"expert": expert, "arguments": arguments}


def _look(sql) -> dict:
    return _step("database", sql=sql)


def _calc(expression) -> dict:
    return _step("calculator", expression=expression)


def solve(calls: list, experts) -> tuple:
    """Run gold calls: (results as exact texts, status of the last). A step that carries its `result` is not run."""
    results = []
    for step in calls:
        if "result" in step:
            results.append(str(step["result"]))
            continue
        arguments = {}
        for name, value in step["arguments"].items():
            if isinstance(value, str) and step["expert"] == "calculator":
                value = re.sub(r"\$(\d+)", lambda m: f"({results[int(m[1]) - 1]})", value)
            elif isinstance(value, str) and re.fullmatch(r"\$\d+", value):
                value = results[int(value[1:]) - 1]
            arguments[name] = value
        result = experts[step["expert"]](**arguments)
        if result.status != "ok":
            return results, result.status
        value = result.value
        if isinstance(value, list):
            value = value[0][0]
        results.append(exact_text(Fraction(repr(value)) if isinstance(value, float) else value))
    return results, "ok"
