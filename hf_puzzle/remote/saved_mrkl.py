"""Experts and their data beside a saved model (MRKL, arXiv 2205.00445): what `mrkl.json` says of each, and back."""

import hashlib
import json
import shutil
from pathlib import Path

from .calls_mrkl import MRKLError, exact_text, parse_number
from .dates_mrkl import Dates
from .exact_mrkl import Calculator, Currency, Units
from .sources_mrkl import Database, OpenMeteo, Weather
from .wiki_mrkl import Wiki


def sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(data: Path, name: str, text: str) -> str:
    data.mkdir(parents=True, exist_ok=True)
    (data / name).write_text(text, encoding="utf-8")
    return f"{data.name}/{name}"


def _copy(data: Path, path: Path, name: str) -> str:
    data.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, data / name)
    return f"{data.name}/{name}"


def _iso(date) -> str | None:
    return None if date is None else date.isoformat()


def _save_units(expert, data):
    table = {
        name: {**entry, "factor": None if entry["factor"] is None else exact_text(parse_number(entry["factor"]))}
        for name, entry in expert.given.items()
    }
    text = json.dumps(table, ensure_ascii=False, indent=0)
    return {"pint": expert._pint, "table": _write(data, f"{expert.name}.json", text)}


def _load_units(options, files, today):
    return Units("pint" if options["pint"] else files[options["table"]])


def _save_currency(expert, data):
    options = {"today": _iso(expert.today), "max_gap_days": expert.limits["max_gap_days"]}
    if expert.source == "ecb":
        return {**options, "rates": "ecb"}
    base, days, rates = expert.load()
    table = {day.isoformat(): {code: exact_text(rate) for code, rate in rates[day].items()} for day in days}
    return {**options, "rates": _write(data, f"{expert.name}.json", json.dumps({"base": base, "rates": table}))}


def _load_currency(options, files, today):
    rates = "ecb" if options["rates"] == "ecb" else files[options["rates"]]
    return Currency(rates, options["today"], options["max_gap_days"])


def _save_weather(expert, data):
    options = {"today": _iso(expert.today)}
    if isinstance(expert.provider, OpenMeteo):
        return {**options, "table": None}
    provider = expert.provider
    if not hasattr(provider, "rows"):
        raise MRKLError(f"expert {expert.name!r}: its provider {type(provider).__name__} cannot be saved; use a table")
    table = {
        f"{provider.names[place]}|{date.isoformat()}": {
            field: None if value is None else exact_text(parse_number(value)) for field, value in row.items()
        }
        for place, rows in provider.rows.items()
        for date, row in rows.items()
    }
    return {**options, "table": _write(data, f"{expert.name}.json", json.dumps(table, ensure_ascii=False))}


def _load_weather(options, files, today):
    return Weather("open-meteo" if options["table"] is None else files[options["table"]], options["today"])


def _save_wiki(expert, data):
    lines = (json.dumps(page, ensure_ascii=False) for page in expert.pages.values())
    return {"docs": _write(data, f"{expert.name}.jsonl", "".join(f"{line}\n" for line in lines))}


def _save_database(expert, data):
    suffix = "duckdb" if expert.backend == "duckdb" else "sqlite"
    return {
        "file": _copy(data, expert.path, f"{expert.name}.{suffix}"),
        "tables": None if expert.allowed is None else sorted(expert.allowed),
        "allow_schema": expert.allow_schema,
        "backend": expert.backend,
        "today": _iso(expert.today),
        "seconds": expert.limits["seconds"],
        "rows": expert.limits["rows"],
    }


def _load_database(options, files, today):
    return Database(files[options["file"]], **{name: value for name, value in options.items() if name != "file"})


# kind in mrkl.json -> class, (options, files, today) -> expert, (expert, data folder) -> options
BUILDERS = {
    "calculator": (Calculator, lambda options, files, today: Calculator(), lambda expert, data: {}),
    "units": (Units, _load_units, _save_units),
    "dates": (
        Dates,
        lambda options, files, today: Dates(**options),
        lambda expert, data: {"today": _iso(expert.today), "free_text": expert.free_text},
    ),
    "currency": (Currency, _load_currency, _save_currency),
    "weather": (Weather, _load_weather, _save_weather),
    "wiki": (Wiki, lambda options, files, today: Wiki(files[options["docs"]]), _save_wiki),
    "database": (Database, _load_database, _save_database),
}
