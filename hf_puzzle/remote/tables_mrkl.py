"""What questions about a database mean, from its schema alone (MRKL, arXiv 2205.00445).

Names of tables, columns and stored values come from the schema; `words_mrkl.COLUMN_WORDS` adds what English says of
kinds of columns (a salary is earned, a price is cheap). Rows are ("rows", table, conditions). A condition is ("is",
candidates, negated), ("than", columns, sign, SQL value), ("when", columns, first day, last day), ("or"/"and",
conditions) or ("not", condition); which table and column it is about is settled when rows meet it, and what does not
fit has no reading.
"""

import datetime
import re
from fractions import Fraction

from .calls_mrkl import exact_text
from .known_mrkl import Known
from .words_mrkl import ACTS, COLUMN_WORDS, DATE_VERBS, MAKERS, NAME_COLUMNS, TABLE_WORDS, plural, singular, stem


PERSONAL = frozenset(str.split("salary wage pay income hired birth age gender email surname phone"))
DAY = datetime.timedelta(days=1)


class Tables:
    """Lexical edges of a schema.

    Categories: Table; Col, a column by its name or (with "kind" last) by a noun for its kind; Earn, a verb that takes a number of it; Best
    and Worst, its superlatives; More and Less, its comparatives; Dated, a verb with a date, and Dating, its noun.
    """

    def __init__(self, known: Known):
        self.schema = known.schema
        self.forms: dict[tuple, list] = {}
        for table, columns in self.schema.columns.items():
            self._table(table)
            for column in columns.values():
                self._column(table, column)
        self._acts()
        self.longest = max((len(form) for form in self.forms), default=0)

    def _add(self, form, category, sense):
        words = tuple(form.split()) if isinstance(form, str) else tuple(form)
        if words and (category, sense) not in self.forms.setdefault(words, []):
            self.forms[words].append((category, sense))

    def _table(self, table):
        words = [singular(word) for word in re.findall(r"[a-z]+", table.lower())]
        names = {" ".join(words)} | next((set(group) for group in TABLE_WORDS if words[-1] in group), set())
        if any(set(column.words) & PERSONAL for column in self.schema.columns[table].values()):
            names.add("person")
        own = {singular(other.lower()) for other in self.schema.columns if other != table}
        columns = {" ".join(c.words) for cs in self.schema.columns.values() for c in cs.values() if c.kind == "text"}
        for name in names:
            if name == " ".join(words) or name not in own | columns:
                for form in (name, plural(name)):
                    self._add(form, "People" if name == "person" and name != " ".join(words) else "Table", table)
                if name == "person":
                    self._add("people", "People", table)
                if name in ("staff", "personnel"):
                    self._add(name, "Table", table)

    def _acts(self):
        """Verbs for what the rows of a table are, if they refer to others: a flight is flown."""
        for table in {join[0] for join in self.schema.joins}:
            noun = singular(re.findall(r"[a-z]+", table.lower())[-1])
            stems = noun.removesuffix("e")
            for verb in ACTS.get(noun, f"{noun}|{stems}ed").split("|"):
                self._add(verb, "Acts", table)
        for table in {join[2] for join in self.schema.joins}:
            for verb in MAKERS.get(singular(table.lower()), "").split("|"):
                self._add(verb, "Made", table)

    def _column(self, table, column):
        words, reference = column.words, (table, column.name)
        if column.kind == "id":
            return
        names = [words]
        unit = (
            words[-1]
            if words[-1]
            in ("cent", "percent", "kg", "km", "m", "cm", "year", "minute", "hour", "day", "usd", "eur", "gbp")
            else ""
        )
        if len(words) > 1 and unit:
            names.append(words[:-1])
        scale = 100 if unit == "cent" and column.kind == "number" else 1
        if column.kind == "date":
            names += [(*words, "date")] if words[-1] != "date" else [words[:-1]] if len(words) > 2 else []
        if words[-1] == "name" or words[-1] == "title":
            names.append(words[-1:])
        for name in names:
            whole = name == words and scale == 100
            sense = (*reference, 1 if whole else scale)
            self._noun(name, sense)
            if whole:
                self._add((*words[:-1], "in", "cents"), "Col", sense)
        for kind in COLUMN_WORDS:
            if "rate" in words and "salary" in kind["of"] and not {"hourly", "daily", "pay"} & set(words):
                continue
            if set(words) & set(kind["of"]) and (column.kind in kind.get("kinds", ("number",))):
                self._kind(kind, (*reference, scale))
        if column.kind == "date" or (column.kind == "number" and "year" in words):
            self._dated(words, reference)

    def _noun(self, words, sense):
        if words and words[-1]:
            self._add(words, "Col", sense)
            self._add((*words[:-1], plural(words[-1])), "Col", sense)

    def _kind(self, kind, sense):
        own = self.schema.columns[sense[0]][sense[1]].words
        # a word that names one column means no other of its kind
        taken = {w for columns in self.schema.columns.values() for c in columns.values() for w in c.words} - set(own)
        text = self.schema.columns[sense[0]][sense[1]].kind == "text"
        for noun in kind.get("nouns", ()):
            if not set(noun.split()) & taken or set(noun.split()) & set(own):
                self._noun(tuple(noun.split()), sense if set(noun.split()) <= set(own) else (*sense, "kind"))
        for verb in kind.get("verbs", ()):
            self._add(verb, "Has" if text else "Earn", sense)
        for state in kind.get("states", ()):
            self._add(state, "State", sense)
        high, low = kind.get("high", ()), kind.get("low", ())
        turned = kind.get("turned", False)
        for adjectives, up in ((high, True), (low, False)):
            for adjective in adjectives:
                more, most = degrees(adjective)
                if "date" not in kind.get("kinds", ()):  # `how old` asks for no date
                    self._add(adjective, "How", sense)
                self._add(most, "Best" if up != turned else "Worst", sense)
                self._add(more, "More" if up != turned else "Less", sense)

    def _dated(self, words, reference):
        verbs = {word for word in words if word not in ("date", "year", "on", "at")}
        stems = {stem(word) for word in verbs}
        for group in (verbs_alike.split("|") for verbs_alike in DATE_VERBS):
            if stems & {stem(word) for word in group}:
                verbs |= set(group)
        if len(date_columns(self.schema, reference[0])) <= 1 and (
            "date" in words or key_column(self.schema, reference[0]) is None
        ):
            verbs |= set(DATE_VERBS[0].split("|")) | {singular(reference[0].lower()) + "ed"}
        for verb in verbs:
            for form in {verb, verb + "ed" if not verb.endswith(("ed", "rn", "ade")) else verb}:
                self._add(form, "Dated", reference)
            self._add(stem(verb) + "ing", "Dating", reference)

    def edges(self, read) -> list:
        found = []
        for i in range(len(read.words)):
            for length in range(1, self.longest + 1):
                words = tuple(read.words[i : i + length])
                if len(words) == length:
                    found += [(category, i, i + length, sense) for category, sense in self.forms.get(words, ())]
        return found


def degrees(adjective: str) -> tuple[str, str]:
    """Comparative and superlative."""
    irregular = {
        "good earning": ("better earning", "best earning"),
        "high earning": ("higher earning", "highest earning"),
        "low earning": ("lower earning", "lowest earning"),
        "good": ("better", "best"),
        "bad": ("worse", "worst"),
        "well paid": ("better paid", "best paid"),
        "badly paid": ("worse paid", "worst paid"),
        "high paid": ("higher paid", "highest paid"),
        "low paid": ("lower paid", "lowest paid"),
        "far": ("farther", "farthest"),
    }
    if adjective in irregular:
        return irregular[adjective]
    if len(adjective) > 6 or adjective in ("recent", "costly", "costlier"):
        return f"more {adjective}", f"most {adjective}"
    if adjective.endswith("e"):
        return adjective + "r", adjective + "st"
    if adjective.endswith("y"):
        return adjective[:-1] + "ier", adjective[:-1] + "iest"
    if re.fullmatch(r".*[^aeiou][aeiou][bdgmnpt]", adjective):
        return adjective + adjective[-1] + "er", adjective + adjective[-1] + "est"
    return adjective + "er", adjective + "est"


# -- SQL


def name(word: str) -> str:
    return (
        word
        if re.fullmatch(r"[A-Za-z_]\w*", word) and word.lower() not in RESERVED
        else '"' + word.replace('"', '""') + '"'
    )


RESERVED = frozenset(
    str.split(
        "order group select from where table index values limit default check references to in on by and or not null is as case when then else end join all any"
    )
)


def text(value: str) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def key_column(schema, table) -> str | None:
    """The column that names a table's rows."""
    columns = schema.columns[table]
    texts = [c for c in columns.values() if c.kind == "text"]
    for column in texts:
        if column.words[-1] in NAME_COLUMNS or column.name.lower() in NAME_COLUMNS:
            return column.name
    # a key in letters, such as a number plate, names its row
    return next((column.name for column in texts if column.key), None)


def date_columns(schema, table) -> list:
    return [column for column in schema.columns[table].values() if column.kind == "date"]


def label_column(schema, table) -> str | None:
    """The column that tells a table's rows apart in a question: its name, or the only text, such as a company's."""
    texts = [c.name for c in schema.columns[table].values() if c.kind == "text"]
    return key_column(schema, table) or (texts[0] if len(texts) == 1 else None)


class Query:
    """A SELECT over one table, and those that conditions and columns join to it."""

    def __init__(self, schema, table):
        self.schema, self.table, self.joins = schema, table, {}

    def column(self, reference) -> str:
        table, column = reference[0], reference[1]
        if table != self.table:
            self.joins[table] = join_between(self.schema, self.table, table)
        return f"{name(table)}.{name(column)}"

    def measure(self, reference, function="") -> str:
        """A column as a number in its unit, or an aggregate of it."""
        inner = self.column(reference)
        found = f"{function}({inner})" if function else inner
        return f"{found}/{reference[2]}.0" if len(reference) > 2 and reference[2] != 1 else found

    def condition(self, cond) -> str:
        kind = cond[0]
        if kind == "is":
            _, reference, value, negated = cond
            return (
                f"{self.column(reference)} IS NOT {text(value)}"
                if negated
                else f"{self.column(reference)} = {text(value)}"
            )
        if kind == "than":
            reference, sign, bound = cond[1:]
            if len(reference) > 2 and reference[2] != 1 and re.fullmatch(r"-?[\d.]+", bound):
                # the bound in the column's own unit: whole numbers are compared exactly
                return f"{self.column(reference)} {sign} {exact_text(Fraction(bound) * reference[2])}"
            return f"{self.measure(reference)} {sign} {bound}"
        if kind == "when":
            _, reference, first, last = cond
            column = self.column(reference)
            if self.schema.columns[reference[0]][reference[1]].kind == "number":
                parts = ([f"{column} >= {first.year}"] if first else []) + (
                    [f"{column} <= {last.year}"] if last else []
                )
            else:
                after = [f"{column} < '{last + DAY}'"] if last and last < datetime.date.max else []
                parts = ([f"{column} >= '{first}'"] if first else []) + after
            return "(" + " AND ".join(parts) + ")" if len(parts) > 1 else parts[0]
        if kind == "not":
            return f"({self.condition(cond[1])}) IS NOT 1"
        if kind == "within":
            return f"{self.column(cond[1])} {'NOT IN' if cond[3] else 'IN'} ({cond[2]})"
        if kind == "named":
            column, word = self.column(cond[1]), cond[2].replace("'", "''").replace("%", "").replace("_", "")
            return f"' ' || {column} || ' ' LIKE '% {word} %'"
        return "(" + f" {kind.upper()} ".join(self.condition(each) for each in cond[1]) + ")"

    def where(self, conditions, extra=()) -> str:
        parts = [self.condition(cond) for cond in conditions if cond != ("people",)] + list(extra)
        return " WHERE " + " AND ".join(parts) if parts else ""

    def source(self) -> str:
        joins = "".join(
            f" JOIN {name(table)} ON {name(a)}.{name(b)} = {name(c)}.{name(d)}"
            for table, (a, b, c, d) in self.joins.items()
        )
        return f" FROM {name(self.table)}{joins}"

    def select(self, what, conditions, tail="", extra=()) -> str:
        where = self.where(conditions, extra)
        sql = f"SELECT {what}{self.source()}{where}{tail}"
        # one table needs no prefixes
        return sql if self.joins else sql.replace(f"{name(self.table)}.", "")


def join_between(schema, table, other):
    """(table, column, table, column) of the one join of two tables, None where there is none or several."""
    found = [j for j in schema.joins if {j[0], j[2]} == {table, other}]
    return found[0] if len(found) == 1 else None


def reachable(schema, table, other) -> bool:
    """Whether rows of `table` have at most one row of `other` each."""
    return (
        table == other
        or any(j[0] == table and j[2] == other for j in schema.joins if {j[0], j[2]} == {table, other})
        and join_between(schema, table, other) is not None
    )


def number_sql(tree) -> str | None:
    from .values_mrkl import constant, is_number

    value = constant(tree) if is_number(tree) else None
    return None if value is None or "/" in exact_text(value) else exact_text(value)


def in_columns_unit(c, column, sql, unit):
    """A bound in the unit that a column's name says its numbers have; None where it says none, or another kind."""
    own = column_unit(c, column)
    if own is None or c.units is None or unit not in c.units.units or own not in c.units.units:
        return None
    (kind, size, offset), (other, their_size, their_offset) = c.units.units[own], c.units.units[unit]
    if own == unit:
        return sql
    if kind != other or offset or their_offset:
        return None
    found = exact_text(Fraction(sql) * their_size / size)
    return None if "/" in found else found


def column_unit(c, column):
    """The unit in a column's name: delay_minutes, weight_kg, hectares."""
    return c.units.find(c.schema.columns[column[0]][column[1]].words[-1]) if c.units is not None else None
