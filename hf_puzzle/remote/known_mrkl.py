"""What queries may mention (MRKL, arXiv 2205.00445): the names and the schema in the experts' own data."""

import datetime
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .calls_mrkl import MRKLError
from .words_mrkl import STOP_ENTITIES, WORD, singular


# distinct values of one text column that are kept as entities
MAX_VALUES = 20000
MAX_SCHEMA_STEPS = 200  # millions of SQLite's instructions


@dataclass
class Column:
    """A column: `kind` is "id", "number", "date" or "text"; `values` are the distinct texts of a text column; `key`: whether it is the primary key."""

    table: str
    name: str
    kind: str
    values: tuple = ()
    key: bool = False

    @property
    def words(self) -> tuple:
        """Lower-case singular words of the name; camel case is split."""
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).lower()
        return tuple(singular(w) for w in re.findall(r"[a-z]+", spaced))


@dataclass
class Schema:
    """Tables of a database and the columns that join them.

    `columns`: table -> column name -> Column. `joins`: (table, column, other table, other column), declared foreign
    keys first, then `<thing>_id` against the table of things.
    """

    columns: dict = field(default_factory=dict)
    joins: list = field(default_factory=list)

    @classmethod
    def from_sqlite(cls, path) -> "Schema":
        """Read the schema of the SQLite file at `path`, opened read-only.

        Raises: ValueError when it is not a SQLite database.
        """
        connection = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
        # a view of a stranger's file may never end
        steps = iter(range(MAX_SCHEMA_STEPS))
        connection.set_progress_handler(lambda: next(steps, None) is None, 1_000_000)
        try:
            return cls.from_connection(connection)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is not a SQLite database: {error}") from error
        finally:
            connection.close()

    @classmethod
    def from_connection(cls, connection) -> "Schema":
        """Read the schema through an open SQLite connection."""

        def quoted(name):
            return '"' + name.replace('"', '""') + '"'

        names = [
            row[0]
            for row in connection.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name"
            )
        ]
        schema = cls()
        for table in names:
            columns = {}
            for _, name, kind, _, _, key in connection.execute(f"PRAGMA table_info({quoted(table)})"):
                columns[name] = cls._column(connection, table, name, kind.upper(), key, quoted)
            schema.columns[table] = columns
        for table in names:
            for row in connection.execute(f"PRAGMA foreign_key_list({quoted(table)})"):
                if row[2] in schema.columns:
                    target = row[4] or next(iter(schema.columns[row[2]]))
                    schema.joins.append((table, row[3], row[2], target))
        schema._guess_joins()
        return schema

    @staticmethod
    def _column(connection, table, name, kind, key, quoted) -> Column:
        sample = [
            row[0]
            for row in connection.execute(
                f"SELECT {quoted(name)} FROM {quoted(table)} WHERE {quoted(name)} IS NOT NULL LIMIT 50"
            )
        ]
        if name.lower() == "id" or name.lower().endswith("_id") or (key and "INT" in kind):
            return Column(table, name, "id")
        if sample and all(isinstance(v, str) and re.match(r"\d{4}-\d\d-\d\d", v) for v in sample):
            return Column(table, name, "date")
        if sample and all(isinstance(v, int | float) for v in sample):
            return Column(table, name, "number")
        if any(word in kind for word in ("INT", "REAL", "NUM", "FLOA", "DOUB", "DEC")):
            return Column(table, name, "number")
        rows = connection.execute(
            f"SELECT DISTINCT {quoted(name)} FROM {quoted(table)} WHERE typeof({quoted(name)})='text' LIMIT {MAX_VALUES}"
        )
        return Column(table, name, "text", tuple(row[0] for row in rows), bool(key))

    def of(self, tables) -> "Schema":
        """The schema of some tables, in lower case; of all for None."""
        columns = {t: c for t, c in self.columns.items() if tables is None or t.casefold() in tables}
        return Schema(columns, [join for join in self.joins if join[0] in columns and join[2] in columns])

    def _guess_joins(self):
        seen = {(a, b) for a, b, _, _ in self.joins}
        for table, columns in self.columns.items():
            for name in columns:
                stem = name.lower().removesuffix("_id")
                if not name.lower().endswith("_id") or (table, name) in seen:
                    continue
                for other, theirs in self.columns.items():
                    key = next((k for k in theirs if k.lower() in ("id", name.lower())), None)
                    if other != table and key and singular(other.lower()) in (stem, stem.rsplit("_", 1)[-1]):
                        self.joins.append((table, name, other, key))
                        break
        linked = {frozenset((a, c)) for a, _, c, _ in self.joins}
        for table, columns in self.columns.items():
            for name, column in columns.items():
                for other, theirs in self.columns.items():
                    # orders.customer holds customers.name
                    names = [c for c in theirs.values() if c.kind == "text" and c.words[-1] in ("name", "title")]
                    if (
                        column.kind == "text" and other != table and names
                        and singular(name.lower()) == singular(other.lower())
                        and set(column.values) <= set(names[0].values) and column.values
                        and frozenset((table, other)) not in linked
                    ):  # fmt: skip
                        self.joins.append((table, name, other, names[0].name))


@dataclass
class Known:
    """What queries may mention: data of the experts, and the reference date.

    `today` ISO date; `places`, `titles` names; `currencies` codes with rates; `units` unit names of the units expert
    with their spellings, {name: [spelling, ...]}; `schema` of the database.
    """

    today: str
    places: tuple = ()
    titles: tuple = ()
    currencies: tuple = ()
    units: dict = field(default_factory=dict)
    schema: Schema = field(default_factory=Schema)

    def __post_init__(self):
        try:
            datetime.date.fromisoformat(self.today)
        except (TypeError, ValueError) as error:
            raise MRKLError(f"today: {error}; give an ISO date such as 2022-05-02") from None
        self.entities: dict = {}
        for kind, names in (("place", self.places), ("title", self.titles)):
            for name in names:
                self._add(name, (kind, name))
        for table, columns in self.schema.columns.items():
            for column in columns.values():
                for value in column.values:
                    if len(value) <= 80 and not re.fullmatch(r"[\d\W]+", value):
                        self._add(value, ("value", table, column.name, value))
        for found in self.entities.values():
            found.sort(key=lambda item: -len(item[0]))

    @classmethod
    def of(cls, experts: Mapping, today: str) -> "Known":
        """What the data of experts hold; a name added later is found by a new one."""
        names: dict = {}
        for expert in experts.values():
            if hasattr(expert, "places"):
                names["places"] = tuple(expert.places)
            if hasattr(expert, "pages"):
                names["titles"] = tuple(page["title"] for page in expert.pages.values())
            if hasattr(expert, "currencies"):
                names["currencies"] = tuple(expert.currencies)
            if hasattr(expert, "forms"):
                names["units"] = expert.forms()
            if getattr(expert, "backend", None) == "sqlite":
                names["schema"] = Schema.from_sqlite(expert.path).of(expert.allowed)
        return cls(today, **names)

    def _add(self, name, reference):
        tokens = tuple(re.findall(rf"{WORD.pattern}|&", name.lower()))
        if "&" in tokens:
            self._add(name.replace("&", " and "), reference)
        if tokens and not (len(tokens) == 1 and (tokens[0] in STOP_ENTITIES or len(tokens[0]) < 2)):
            self.entities.setdefault(tokens[0], []).append((tokens, reference))

    def entities_at(self, tokens: list, i: int):
        """(number of tokens, references) of the longest known name at `tokens[i]`, or None."""
        first = tokens[i]
        best, found = 0, []
        for form in dict.fromkeys((first, singular(first))):
            for name, reference in self.entities.get(form, ()):
                size = len(name)
                if size < best:
                    break
                heard = tokens[i : i + size]
                if len(heard) < size or heard[1:-1] != list(name[1:-1]):
                    continue
                if heard[-1] != name[-1] and singular(heard[-1]) != name[-1]:
                    continue
                if form != first and size > 1:
                    continue
                if size > best:
                    best, found = size, []
                if reference not in found:
                    found.append(reference)
        return (best, found) if best else None
