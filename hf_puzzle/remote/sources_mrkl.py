"""Experts of MRKL (Karpas et al. 2022, arXiv 2205.00445) that look things up: a database and the weather.

What is looked up is data and never starts a call. SQL runs read-only under SQLite's authorizer with limits on time,
rows and sizes. The network is used by `OpenMeteo` only, and only when it is asked for by name.
"""

import contextlib
import datetime
import functools
import http.client
import json
import re
import sqlite3
import threading
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from .calendar_mrkl import DateError
from .calls_mrkl import (
    Expert,
    MRKLError,
    answered,
    failed,
    nearest,
    need,
    number_text,
    parse_number,
    read_json,
    reading,
    short,
)
from .dates_mrkl import parse_date, parse_today


# -- database

# everything else is refused: no clock, no randomness, no file, no schema, and nothing whose one step may take seconds
FUNCTIONS = frozenset(
    str.split(
        "abs avg ceil ceiling char coalesce concat concat_ws count cume_dist date datetime dense_rank exp first_value "
        "floor format group_concat hex ifnull iif instr julianday lag last_value lead length like ln log log10 log2 "
        "lower ltrim max min mod nth_value ntile nullif percent_rank pow power printf quote rank replace round "
        "row_number rtrim sign sqrt strftime string_agg substr substring sum time total trim trunc typeof unicode "
        "unixepoch upper current_date current_time current_timestamp"
    )
)
CLOCKS = ("date", "time", "datetime", "julianday", "unixepoch", "strftime")
# DuckDB has no limit on a text's length: what makes long ones out of short ones in one step is left out
NOT_IN_DUCKDB = {*CLOCKS, "current_date", "current_time", "current_timestamp", "replace", "printf", "format"}
DUCKDB_FUNCTIONS = FUNCTIONS - NOT_IN_DUCKDB | frozenset(
    str.split(
        "count_star + - * / // % ** ^ || ~~ !~~ ~~* !~~* date_part date_trunc date_diff date_sub date_add year month "
        "day quarter week dayofweek to_days to_weeks to_months to_years to_hours to_minutes to_seconds median mode "
        "stddev strlen contains starts_with prefix suffix left right any_value"
    )
)
# names that DuckDB reads as functions where no column has them
DUCKDB_VALUES = frozenset(
    str.split(
        "current_date current_time current_timestamp localtime localtimestamp current_user session_user user "
        "current_role current_catalog current_schema"
    )
)
# what turns a float into a number that looks exact: cast(0.29*100 as integer) is 28, and 0.1+0.2=0.3 is 0
THROUGH_FLOATS = re.compile(
    r"\b(?:cast|round|printf|format|trunc|floor|ceil|ceiling|mod|sqrt|exp|ln|log\w*|pow|power|julianday)\s*\(|\d\.\d|\.\d|\d[eE][-+]?\d",
    re.IGNORECASE,
)
LIMITS = {
    "SQL_LENGTH": 10_000,
    "LENGTH": 100_000,
    "COLUMN": 200,
    "EXPR_DEPTH": 100,
    "COMPOUND_SELECT": 20,
    "VDBE_OP": 100_000,
    "FUNCTION_ARG": 32,
    "ATTACHED": 0,
    "LIKE_PATTERN_LENGTH": 200,
    "VARIABLE_NUMBER": 0,
    "TRIGGER_DEPTH": 0,
    "WORKER_THREADS": 0,
}


class Database(Expert):
    """One read-only SELECT over a SQLite or DuckDB file.

    SQLite: the file is opened read-only for each call, and a statement may only select, read the allowed tables and
    use the functions in `FUNCTIONS`; ATTACH, PRAGMA, writes, several statements, recursion, the table catalogue and
    load_extension are "refused". It stops after `seconds`; at most `rows` rows come back. `date('now')` and
    CURRENT_DATE mean `today` (an error without one). A SELECT without a row, or with a row of NULLs alone, is no_data.
    Numbers that SQLite computed in floating point (AVG, division by 100.0) are the shortest decimal of that float,
    `data["exact"]` is then False, and from 2**53 on they are errors. A view is readable when it and the tables behind
    it are allowed. A text of more than 100,000 characters is an error.
    DuckDB: the same rules, from DuckDB's own syntax tree, with its external access switched off and its configuration
    locked.

    Args:
        path: The file.
        tables: Names that may be read; None for every table and view of the file except the catalogue.
        allow_schema: Whether the catalogue (`sqlite_master`) may be read and messages may name tables and columns.
        backend: "sqlite" or "duckdb".
        today: ISO date that 'now' means.
        seconds, rows: Limits of one call.
    Raises:
        MRKLError: There is no such file, it is no database, or `tables` names one that it has not.
    """

    name = "database"
    description = "Looks up facts in the private database with one SQL SELECT."
    parameters = {
        "type": "object",
        "properties": {"sql": {"type": "string", "description": "One SELECT statement in the database's dialect"}},
        "required": ["sql"],
    }

    def __init__(self, path, tables=None, allow_schema=False, backend="sqlite", today=None, seconds=1.0, rows=200):
        if backend not in ("sqlite", "duckdb"):
            raise MRKLError(f"backend {backend!r} is none of sqlite, duckdb")
        self.path, self.backend, self.allow_schema = Path(path).resolve(), backend, allow_schema
        self.allowed = None
        self.today = parse_today(today)
        self.limits = {"seconds": seconds, "rows": rows, "max_characters": LIMITS["SQL_LENGTH"]}
        self.limits["max_cell_characters"] = LIMITS["LENGTH"]
        if not self.path.is_file():
            raise MRKLError(f"there is no database file {str(path)!r}")
        known = self.tables
        for name in tables or ():
            if name.casefold() not in {each.casefold() for each in known}:
                raise MRKLError(f"the database has no table {name!r}{nearest(name, known)}")
        self.allowed = None if tables is None else {name.casefold() for name in tables}

    @property
    def tables(self) -> dict[str, list[tuple[str, str]]]:
        """Readable tables and views with the names and types of their columns, for whoever writes the SQL."""
        try:
            if self.backend == "duckdb":
                return self._duckdb_tables()
            with contextlib.closing(self._open()) as connection:
                return {
                    name: [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({_quoted(name)})")]
                    for name in self._readable(connection)
                }
        except sqlite3.DatabaseError as error:
            raise MRKLError(f"{str(self.path)!r} is not a SQLite database: {error}") from error

    def run(self, arguments):
        sql = arguments["sql"].strip()
        if len(sql) > LIMITS["SQL_LENGTH"]:
            return failed("error", f"database: SQL of more than {LIMITS['SQL_LENGTH']} characters")
        if "\0" in sql:
            return failed("refused", "database: SQL with a NUL character")
        first = re.match(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*([a-z]*)", sql, re.IGNORECASE | re.DOTALL)[1].lower()
        if first not in ("select", "with"):
            return failed("refused", f"database: only one SELECT may run, not {short(first or sql)}")
        return self._duckdb(sql) if self.backend == "duckdb" else self._sqlite(sql)

    def answer(self, columns, rows, sql=""):
        """The Result of `rows`: a single cell as a value of its own, otherwise the list of rows.

        `data["exact"]` is False for floats, and for whatever the statement `sql` took through a float on its way.
        """
        if not rows or (len(rows) == 1 and all(cell is None for cell in rows[0])):
            return failed("no_data", "database: no row fits")
        limit = self.limits["rows"]
        data = {"rows": min(len(rows), limit), "columns": columns, "truncated": len(rows) > limit}
        floats = [cell for row in rows for cell in row if isinstance(cell, float)]
        spoken = re.sub(r"'(?:[^']|'')*'", "''", sql)
        if floats or THROUGH_FLOATS.search(spoken):
            data["exact"] = False
        if "/" in spoken and not floats:
            data["notes"] = ["the engine divides whole numbers without remainder"]
        if not all(abs(cell) < 2**53 for cell in floats):
            return failed("error", "database: a number too large to be exact")
        rows = [[_cell(cell) for cell in row] for row in rows[:limit]]
        return answered(rows[0][0] if len(rows) == len(rows[0]) == 1 else rows, **data)

    # SQLite

    def _open(self):
        connection = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=0.5, isolation_level=None)
        connection.execute("PRAGMA query_only=ON")
        return connection

    def _readable(self, connection):
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
        names = [name for (name,) in rows if not name.casefold().startswith("sqlite_")]
        return [name for name in names if self.allowed is None or name.casefold() in self.allowed]

    def _sqlite(self, sql):
        try:
            connection = self._open()
        except sqlite3.Error as error:
            return failed("error", f"database: the file cannot be opened: {error}")
        denied, hidden = [], []
        with contextlib.closing(connection):
            try:
                hidden += self._guard(connection, denied)
                cursor = connection.execute(sql)
                rows = cursor.fetchmany(self.limits["rows"] + 1)
                columns = [each[0] for each in cursor.description or ()]
            except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
                return self._failure(sql, str(error), denied, hidden)
        return self.answer(columns, rows, sql)

    def _guard(self, connection, denied):
        """Ties `connection` to what a statement may do; returns the tables it may not read, and collects denials."""
        present = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        readable = {name.casefold() for name in self._readable(connection)}
        if self.allow_schema:
            readable |= {"sqlite_master", "sqlite_schema"}
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "cache_size=-8000"):
            connection.execute(f"PRAGMA {pragma}")
        plain = _Plain(self.today)
        for name, count, function in (
            ("like", 2, _like),
            ("like", 3, _like),
            ("trim", -1, _trim(True, True)),
            ("ltrim", -1, _trim(True, False)),
            ("rtrim", -1, _trim(False, True)),
            ("printf", -1, plain.printf),
            ("format", -1, plain.printf),
            *((name, -1, plain.clock(name)) for name in CLOCKS),
            ("current_date", 0, plain.clock("date")),
            ("current_time", 0, plain.clock("time")),
            ("current_timestamp", 0, plain.clock("datetime")),
        ):
            connection.create_function(name, count, function)
        for name, limit in LIMITS.items():
            connection.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), limit)

        def authorize(action, first, second, *_):
            if action == sqlite3.SQLITE_SELECT:
                return sqlite3.SQLITE_OK
            if action == sqlite3.SQLITE_FUNCTION and second.casefold() in FUNCTIONS:
                return sqlite3.SQLITE_OK
            if action == sqlite3.SQLITE_READ and first.casefold() in readable:
                return sqlite3.SQLITE_OK
            what = {sqlite3.SQLITE_FUNCTION: f"the function {second}", sqlite3.SQLITE_READ: "that table"}
            denied.append(what.get(action, "that statement"))
            return sqlite3.SQLITE_DENY

        connection.set_authorizer(authorize)
        end = time.monotonic() + self.limits["seconds"]
        connection.set_progress_handler(lambda: time.monotonic() > end, 2000)
        return [name for name in present if name.casefold() not in readable]

    def _failure(self, sql, message, denied, hidden):
        # also where the statement failed earlier: whether a hidden table has some column is nobody's business
        if denied or any(name.casefold() in sql.casefold() for name in hidden):
            return failed(
                "refused",
                f"database: {(denied or ['that table'])[0]} is not allowed; one SELECT over the known tables is",
            )
        if "one statement" in message:
            return failed("refused", "database: only one statement may run")
        if "interrupted" in message:
            return failed("error", f"database: stopped after {self.limits['seconds']:g} s")
        if "no such table" in message and not self.allow_schema:
            return failed("refused", "database: that table is not allowed; one SELECT over the known tables is")
        return failed("error", f"database: {message[:200]}{self._hint(message)}{_lint(sql, self.backend)}")

    def _hint(self, message):
        missing = re.search(r"no such (table|column): (?:\w+\.)?(\w+)", message)
        if not missing or not self.allow_schema:
            return ""
        tables = self.tables
        names = tables if missing[1] == "table" else {column for columns in tables.values() for column, _ in columns}
        return nearest(missing[2], names)

    # DuckDB

    def _duckdb_open(self):
        config = {"enable_external_access": "false", "autoload_known_extensions": "false", "threads": "1"}
        config |= {"memory_limit": "256MB", "lock_configuration": "true"}
        return need("duckdb").connect(str(self.path), read_only=True, config=config)

    def _duckdb_tables(self):
        try:
            connection = self._duckdb_open()
        except need("duckdb").Error as error:
            raise MRKLError(f"{str(self.path)!r} is not a DuckDB database: {error}") from error
        query = (
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "ORDER BY table_name, ordinal_position"
        )
        found = {}
        with contextlib.closing(connection):
            for table, column, kind in connection.execute(query).fetchall():
                if self.allowed is None or table.casefold() in self.allowed:
                    found.setdefault(table, []).append((column, kind))
        return found

    def _duckdb(self, sql):
        duckdb = need("duckdb")
        try:
            connection = self._duckdb_open()
        except duckdb.Error as error:
            return failed("error", f"database: the file cannot be opened: {str(error)[:200]}")
        with contextlib.closing(connection):
            timer = threading.Timer(self.limits["seconds"], connection.interrupt)
            timer.daemon = True
            try:
                # parsed by the engine that runs it, so that both read the same statement
                tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()[0])
                if tree.get("error"):
                    status = "refused" if "Only SELECT" in tree["error_message"] else "error"
                    return failed(status, f"database: {tree['error_message'][:200]}{_lint(sql, self.backend)}")
                wrong = self._duckdb_denied(tree)
                if wrong:
                    return failed("refused", f"database: {wrong} is not allowed; one SELECT over the known tables is")
                timer.start()
                cursor = connection.execute(sql)
                rows = cursor.fetchmany(self.limits["rows"] + 1)
                columns = [each[0] for each in cursor.description or ()]
            except duckdb.InterruptException:
                return failed("error", f"database: stopped after {self.limits['seconds']:g} s")
            except duckdb.Error as error:
                return failed("error", f"database: {str(error).splitlines()[0][:200]}{_lint(sql, self.backend)}")
            finally:
                timer.cancel()
        return self.answer(columns, rows, sql)

    def _duckdb_denied(self, tree):
        """What in a syntax tree is not allowed; None when everything is."""
        if len(tree["statements"]) != 1:
            return "more than one statement"
        readable = {name.casefold() for name in self._duckdb_tables()}
        if self.allow_schema:
            readable |= {"sqlite_master", "duckdb_tables", "duckdb_columns"}
        nodes, common = [tree["statements"]], set()
        for each in _walk(nodes):
            if isinstance(each.get("cte_map"), Mapping):
                common |= {entry["key"].casefold() for entry in each["cte_map"].get("map", [])}
        if common & {"sqlite_master"} or common & readable:
            return "a WITH name that hides a table"
        for each in _walk(nodes):
            kind = each.get("type")
            if kind == "BASE_TABLE":
                path = each.get("qualified_name", {}).get("path") or [each.get("table_name", "")]
                if each.get("schema_name") not in ("", "main", None) or len(path) > 1 and path[-2] != "main":
                    return "that table"
                if str(path[-1]).casefold() not in readable | common:
                    return "that table"
            elif kind in ("TABLE_FUNCTION", "RECURSIVE_CTE_NODE", "SHOW_REF", "LAMBDA"):
                return {"TABLE_FUNCTION": "a table function"}.get(kind, "that statement")
            column = each.get("column_names") or [""]
            if kind == "COLUMN_REF" and str(column[-1]).casefold() in DUCKDB_VALUES:
                return column[-1]
            name = each.get("function_name")
            if name and name.casefold() not in DUCKDB_FUNCTIONS:
                return f"the function {name}"
        return None


def _walk(node):
    """Every object inside nested lists and objects."""
    stack = [node]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            yield each
            stack += each.values()
        elif isinstance(each, list):
            stack += each


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'


def _cell(cell):
    if isinstance(cell, bytes | memoryview):
        return f"({len(cell)} bytes)"
    if isinstance(cell, str | bool | datetime.date | None):
        return cell
    try:
        value = parse_number(cell)
    except ValueError:
        return str(cell)
    return int(value) if value.denominator == 1 else value


@functools.lru_cache(maxsize=256)
def _like_pieces(pattern, escape):
    """The parts of a LIKE pattern between its `%`, each a regex of fixed width, and the width of the last one."""
    if len(pattern) > LIMITS["LIKE_PATTERN_LENGTH"]:
        raise ValueError("a LIKE pattern that is too long")
    pieces, literal = [[]], False
    for character in pattern:
        if literal or character not in ("%", "_", escape):
            pieces[-1].append(re.escape(character))
            literal = False
        elif character == escape:
            literal = True
        elif character == "%":
            pieces.append([])
        else:
            pieces[-1].append(".")
    flags = re.IGNORECASE | re.ASCII | re.DOTALL
    return [re.compile("".join(piece), flags) for piece in pieces], len(pieces[-1])


def _like(pattern, text, escape=None):
    """SQLite's LIKE in linear time: its own needs time exponential in the number of `%`, in one step nothing stops."""
    if pattern is None or text is None:
        return None
    pieces, width = _like_pieces(str(pattern), escape)
    text = str(text)
    if len(pieces) == 1:
        return pieces[0].fullmatch(text) is not None
    at = 0
    for number, piece in enumerate(pieces[:-1]):
        found = piece.search(text, at) if number else piece.match(text)
        if not found:
            return False
        at = found.end()
    return len(text) - width >= at and pieces[-1].fullmatch(text, len(text) - width) is not None


def _trim(left, right):
    """SQLite's trim functions in linear time; its own compares every character with every one to be cut."""

    def call(text, characters=" "):
        if text is None or characters is None:
            return None
        text, cut, start, end = _text(text), set(_text(characters)), 0, len(_text(text))
        while left and start < end and text[start] in cut:
            start += 1
        while right and end > start and text[end - 1] in cut:
            end -= 1
        return text[start:end]

    return call


def _text(value):
    return (
        value if isinstance(value, str) else value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    )


class _Plain:
    """SQLite's own date and printf functions, on a connection without guards, behind checks of their arguments.

    'now' stands for a given day, and a format may have no width that fills the memory.
    """

    def __init__(self, today):
        self.today, self.connection = today, None

    def call(self, name, arguments):
        if self.connection is None:
            self.connection = sqlite3.connect(":memory:")
        return self.connection.execute(f"SELECT {name}({', '.join('?' * len(arguments))})", arguments).fetchone()[0]

    def clock(self, name):
        def call(*arguments):
            place = 1 if name == "strftime" else 0
            given = list(arguments) if len(arguments) > place else [*arguments, "now"]
            if isinstance(given[place], str) and given[place].strip().casefold() == "now":
                if self.today is None:
                    raise ValueError("no reference date")
                given[place] = self.today.isoformat()
            if any(isinstance(each, str) and each.strip().casefold() in ("now", "localtime", "utc") for each in given):
                raise ValueError("the clock is not read")
            return self.call(name, given)

        return call

    def printf(self, form, *arguments):
        if "*" in str(form) or re.search(r"[0-9]{4}", str(form)):
            raise ValueError("a printf width beyond 999")
        return self.call("printf", (form, *arguments))


def _lint(sql, dialect):
    """What sqlglot says about a statement that did not run; nothing without sqlglot."""
    try:
        sqlglot = need("sqlglot")
    except ImportError:
        return ""
    if len(sql) > 1000 or sql.count("(") > 30:
        return ""
    try:
        sqlglot.parse(sql, read=dialect)
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        reasons = getattr(error, "errors", None) or [{}]
        reason = reasons[0].get("description")
        return f" ({reason} at line {reasons[0].get('line')}, column {reasons[0].get('col')})" if reason else ""
    return ""


# -- weather

FIELDS = {"tmax": "degC", "tmin": "degC", "rain": "mm", "wind": "km/h"}


class Weather(Expert):
    """Weather of one place on one day: tmax, tmin (degrees Celsius), rain (mm), wind (km/h).

    Args:
        provider: A table {"Ashgate|2022-03-05": {"tmax": 13.9, ...}, ...}, the path of such a JSON file, "open-meteo"
            or an `OpenMeteo`; the last two use the network, and only for calls of this expert.
        today: Reference date (ISO) for dates such as "yesterday"; never the machine's clock.
    """

    name = "weather"
    description = "Weather of a place on a day: highest and lowest temperature, rain, wind."
    limits = {"max_characters": 100}
    parameters = {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "Name of the town"},
            "date": {"type": "string", "description": "ISO date"},
            "field": {
                "type": "string",
                "enum": list(FIELDS),
                "description": "Highest or lowest temperature, rain or wind",
            },
        },
        "required": ["place", "date", "field"],
    }

    def __init__(self, provider, today=None):
        self.today = parse_today(today)
        if provider == "open-meteo":
            provider = OpenMeteo(self.today)
        if isinstance(provider, str | Path):
            provider = read_json(provider, parse_float=Fraction)
        with reading("the table of weather"):
            self.provider = provider if hasattr(provider, "look_up") else WeatherTable(provider)

    @property
    def local(self) -> bool:
        """Whether a call stays on this machine."""
        return isinstance(self.provider, WeatherTable)

    @property
    def places(self) -> list[str]:
        """Names the provider can list; none for a service."""
        return getattr(self.provider, "places", [])

    def run(self, arguments):
        place, field = arguments["place"].strip(), arguments["field"]
        if not place or len(place) > self.limits["max_characters"]:
            return failed("error", f"weather: {short(place)} is not the name of a place")
        try:
            date = parse_date(arguments["date"], self.today)
        except DateError as error:
            return failed("error", f"weather: {error}")
        try:
            value, data = self.provider.look_up(place, date, field)
        except LookupError as error:
            return failed("no_data", f"weather: {error.args[0]}")
        except OSError as error:
            return failed("error", f"weather: the service cannot be reached: {str(error)[:200]}")
        return answered(value, number_text(value), date=date.isoformat(), unit=FIELDS[field], field=field, **data)


class WeatherTable:
    """Recorded weather: rows by "place|date"."""

    def __init__(self, table: Mapping):
        self.rows, self.names = {}, {}
        for key, row in table.items():
            place, _, date = key.rpartition("|")
            if not place or not isinstance(row, Mapping):
                raise MRKLError(f"weather table: {short(key)} must be 'place|date' with a row of fields")
            self.names[_folded(place)] = place
            self.rows.setdefault(_folded(place), {})[parse_date(date)] = row
        self.places = sorted(self.names.values())

    def look_up(self, place, date, field):
        """(value, provenance); LookupError with what is known where there is none."""
        rows = self.rows.get(_folded(place))
        if rows is None:
            raise LookupError(f"no place {short(place)}{nearest(place, self.places)}")
        if date not in rows:
            raise LookupError(f"nothing for {place} on {date}; days reach from {min(rows)} to {max(rows)}")
        if rows[date].get(field) is None:
            raise LookupError(f"{field} of {place} on {date} was not recorded")
        return parse_number(rows[date][field]), {"place": self.names[_folded(place)], "source": "table"}


class OpenMeteo:
    """Client of the keyless forecast service open-meteo.com.

    Args:
        today: Days before `today` - 90 come from the archive; None: always the forecast.
        forecast, archive, geocoding: Addresses, for another server of the same kind.
        seconds: Limit of one request.
        retries: Further tries after a connection error, a timeout or a status 429 or 5xx, after 0.2, 0.4, ... s.
        max_bytes: Size limit of one answer.
    """

    def __init__(
        self,
        today=None,
        forecast="https://api.open-meteo.com/v1/forecast",
        archive="https://archive-api.open-meteo.com/v1/archive",
        geocoding="https://geocoding-api.open-meteo.com/v1/search",
        seconds=5.0,
        retries=2,
        max_bytes=1_000_000,
    ):
        self.today, self.forecast, self.archive, self.geocoding = parse_today(today), forecast, archive, geocoding
        self.seconds, self.retries, self.max_bytes = seconds, retries, max_bytes
        self.known: dict[str, dict] = {}
        for address in (forecast, archive, geocoding):
            if not address.startswith(("https://", "http://")):
                raise MRKLError(f"{address!r} is not an http address")

    VARIABLES = {
        "tmax": "temperature_2m_max",
        "tmin": "temperature_2m_min",
        "rain": "precipitation_sum",
        "wind": "wind_speed_10m_max",
    }

    def look_up(self, place, date, field):
        """(value, provenance); LookupError where the service knows no such place or day, OSError where it fails."""
        spot = self.known.get(_folded(place))
        if spot is None:
            found = self._get(self.geocoding, name=place, count=1, language="en", format="json").get("results") or []
            if not found:
                raise LookupError(f"no place {short(place)} in the gazetteer")
            spot = self.known[_folded(place)] = found[0]
        old = self.today is not None and (self.today - date).days > 90
        variable = self.VARIABLES[field]
        answer = self._get(
            self.archive if old else self.forecast,
            latitude=spot["latitude"],
            longitude=spot["longitude"],
            daily=variable,
            timezone="auto",
            start_date=date,
            end_date=date,
        )
        days = answer.get("daily", {})
        values = dict(zip(days.get("time", []), days.get(variable, []), strict=False))
        if values.get(date.isoformat()) is None:
            raise LookupError(f"nothing for {place} on {date}")
        name = ", ".join(str(spot[key]) for key in ("name", "country") if spot.get(key))
        return parse_number(values[date.isoformat()]), {
            "place": name,
            "source": self.archive if old else self.forecast,
        }

    def _get(self, address, **query):
        url = f"{address}?{urllib.parse.urlencode({key: str(value) for key, value in query.items()})}"
        request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "hf_puzzle"})
        for attempt in range(self.retries + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.seconds) as response:
                    text = response.read(self.max_bytes + 1)
                if len(text) > self.max_bytes:
                    raise OSError(f"an answer of more than {self.max_bytes} bytes")
                # decimals stay text, so that 13.9 is 139/10
                found = json.loads(text, parse_float=str)
                if not isinstance(found, dict):
                    raise OSError("an answer that is no JSON object")
                return found
            except urllib.error.HTTPError as error:
                if error.code == 400:
                    raise LookupError(
                        f"the service has no such day or place: {error.read(300).decode(errors='replace')}"
                    ) from error
                if attempt == self.retries or error.code != 429 and error.code < 500:
                    raise
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                if attempt == self.retries:
                    raise OSError(str(error)) from error
            except ValueError as error:
                raise OSError(f"an answer that is no JSON: {error}") from error
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


def _folded(text):
    """`text` without case, accents and repeated spaces."""
    plain = unicodedata.normalize("NFKD", text)
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).casefold().split())
