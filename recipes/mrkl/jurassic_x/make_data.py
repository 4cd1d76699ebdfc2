"""Makes the invented data of the Jurassic-X demonstration: `python make_data.py` writes wiki.jsonl and shop.sqlite.

Every company, price and page is invented. Prices are in euros, for the trading days of March and April 2022;
the ends of both months are set so that rises can be checked by hand.
"""

import datetime
import json
import random
import sqlite3
from pathlib import Path


HERE = Path(__file__).parent
SECTORS = {
    "Green energy": ["Solvane Power", "Tidemark Energy", "Windmere Turbines", "Heliora Grid"],
    "Shipping": ["Calder Lines", "Norvik Freight", "Osprey Tankers"],
    "Dairy": ["Amberfield Dairies", "Pellow Creamery"],
}
FOUNDED = {
    "Solvane Power": (1998, "Kelby", 412), "Tidemark Energy": (2009, "Ostermoor", 158),
    "Windmere Turbines": (1987, "Vessing", 960),
    "Heliora Grid": (2014, "Tolm", 77), "Calder Lines": (1902, "Nordhaven", 2310),
    "Norvik Freight": (1956, "Nordhaven", 845),
    "Osprey Tankers": (1971, "Sandrick", 390), "Amberfield Dairies": (1931, "Wrayford", 520),
    "Pellow Creamery": (1964, "Kelby", 64),
}  # fmt: skip
# price on the last trading day of March, and on the first and last of April
ENDS = {
    "Solvane Power": ("39.80", "40.00", "43.00"), "Tidemark Energy": ("24.10", "24.00", "27.60"),
    "Windmere Turbines": ("88.20", "87.50", "91.00"), "Heliora Grid": ("12.00", "12.40", "11.78"),
    "Calder Lines": ("152.00", "150.00", "177.00"), "Norvik Freight": ("64.40", "64.00", "60.80"),
    "Osprey Tankers": ("31.10", "32.00", "33.60"), "Amberfield Dairies": ("18.00", "18.00", "18.45"),
    "Pellow Creamery": ("7.20", "7.50", "7.20"),
}  # fmt: skip


def trading_days(first, last):
    """Weekdays from `first` to `last`."""
    day = first
    while day <= last:
        if day.weekday() < 5:
            yield day
        day += datetime.timedelta(days=1)


def pages():
    for number, (sector, companies) in enumerate(SECTORS.items(), 1):
        names = f"{', '.join(companies[:-1])} and {companies[-1]}"
        text = f"{sector} companies on the Nordhaven exchange are {names}. Their shares are quoted in euros."
        yield {"id": f"s{number}", "title": sector, "text": text}
    for number, (name, (year, town, people)) in enumerate(FOUNDED.items(), 1):
        sector = next(s for s, companies in SECTORS.items() if name in companies).lower()
        text = f"{name} is a {sector} company in {town}. It was founded in {year} and has {people} employees."
        yield {"id": f"c{number}", "title": name, "text": text}


def prices():
    rng = random.Random(7)
    days = list(trading_days(datetime.date(2022, 3, 1), datetime.date(2022, 4, 29)))
    april = [day for day in days if day.month == 4]
    for name, (march, first, last) in ENDS.items():
        fixed = {datetime.date(2022, 3, 31): march, april[0]: first, april[-1]: last}
        for day in days:
            value = fixed.get(day) or f"{float(first) * rng.uniform(0.93, 1.07):.2f}"
            yield name, day.isoformat(), value


def main():
    with open(HERE / "wiki.jsonl", "w", encoding="utf-8") as file:
        for page in pages():
            file.write(json.dumps(page) + "\n")
    path = HERE / "shop.sqlite"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE shares (company TEXT, day TEXT, price REAL, PRIMARY KEY (company, day))")
        connection.executemany("INSERT INTO shares VALUES (?, ?, ?)", prices())
    connection.close()


if __name__ == "__main__":
    main()
