"""Generated (query, calls) pairs for MRKL's readers, and the invented worlds they are about.

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
from .wordings import CHAT, CLOSINGS, OPENINGS, W


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
        """The expert of one call, "many" or "none"."""
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
