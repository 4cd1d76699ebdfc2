"""Meanings of the grammar's rules about rows, columns and groups of a database (MRKL, arXiv 2205.00445)."""

import datetime

from .chart_mrkl import MEANINGS, meaning
from .tables_mrkl import Query, in_columns_unit, join_between, key_column, label_column, name, number_sql, reachable
from .values_mrkl import call, in_unit, is_number, is_quantity, op, quantity


def database(sql) -> tuple:
    return call("database", sql=sql)


def money(c, tree, reference):
    """A number of the database, in the currency that the question says its prices are in."""
    words = set(c.schema.columns[reference[0]][reference[1]].words)
    if c.money and words & {
        "salary",
        "price",
        "cost",
        "fee",
        "wage",
        "pay",
        "income",
        "fare",
        "rent",
        "amount",
        "total",
    }:
        return quantity(c, tree, c.money)
    return tree


# -- rows and conditions


def settled(c, table, cond) -> list:
    """`cond` about one column each that rows of `table` have, or that they lead to; all choices."""
    kind = cond[0]
    if kind in ("or", "and"):
        choices = [()]
        for each in cond[1]:
            choices = [chosen + (one,) for chosen in choices for one in settled(c, table, each)]
        if kind == "or":
            # "A or B" are values of one column
            choices = [chosen for chosen in choices if len({_column(one) for one in chosen}) == 1]
        return [(kind, chosen) for chosen in choices]
    if kind == "not":
        return [("not", each) for each in settled(c, table, cond[1])]
    if kind == "acted":
        # a meaning of `linked_mrkl`, which stands on this module
        return MEANINGS["settled_acts"](c, table, cond)
    if kind == "named":
        key = key_column(c.schema, table)
        return [("named", (table, key), cond[1])] if key else []
    candidates = cond[1]
    own = [each for each in candidates if each[0] == table]
    if kind in ("is", "of"):
        own = own or [each for each in candidates if reachable(c.schema, table, each[0])]
    if kind == "is":
        return [("is", each[:2], each[2], cond[2]) for each in own]
    if kind == "of":
        return [("is", each[:2], each[2], False) for each in own if each[:2] in cond[2]]
    return [(kind, each, *cond[2:]) for each in own]


def _column(cond):
    return (
        cond[1][:2]
        if cond[0] in ("is", "than", "when")
        else _column(cond[1][0] if cond[0] in ("or", "and") else cond[1])
    )


@meaning("rows")
def rows(c, table):
    return ("rows", table, ())


CONDITIONS = frozenset(("is", "or", "and", "not", "than", "when", "of", "named", "acted"))
PLACES = frozenset(
    str.split("city town village country home residence region state place location address county port base station")
)


@meaning("people")
def people(c, table):
    """Rows that were called people only: those of a place are its inhabitants, of whom the database knows nothing."""
    return ("rows", table, (("people",),))


@meaning("count_workers")
def count_workers(c, table, cond):
    return count(c, ("rows", table, ()), cond)


@meaning("restrict")
def restrict(c, which, *conds):
    """Rows that meet a condition more."""
    found = [which]
    for cond in conds:
        found = [("rows", r[1], (*r[2], each)) for r in found for each in settled(c, r[1], cond) if each not in r[2]]
    found = [r for r in found if ("people",) not in r[2] or not any(_of_place(c, each) for each in r[2])]
    return [r for r in found if not _contradicts(r[2])] or None


def _contradicts(conds) -> bool:
    """Whether a column would have to be two things at once: such words belong somewhere else."""
    values: dict = {}
    open_ = list(conds)
    while open_:
        cond = open_.pop()
        if cond[0] == "and":
            open_ += cond[1]
        elif cond[0] == "is" and not cond[3] and values.setdefault(cond[1], cond[2]) != cond[2]:
            return True
    return False


def _of_place(c, cond) -> bool:
    if cond[0] in ("or", "and"):
        return any(_of_place(c, each) for each in cond[1])
    return cond[0] == "is" and bool(set(c.schema.columns[cond[1][0]][cond[1][1]].words) & PLACES)


@meaning("valued_rows")
def valued_rows(c, values, which):
    return restrict(c, which, values)


@meaning("value")
def value(c, sense):
    return ("is", sense[1], False)


def either(c, *conds):
    parts = ()
    for cond in conds:
        parts += cond[1] if cond[0] == "or" else (cond,)
    return ("or", parts)


@meaning("of_column")
def of_column(c, sense, column):
    """`the home category`: a value of that very column."""
    fits = tuple(each for each in sense[1] if each[:2] == column[:2])
    return ("is", fits, False) if fits else None


@meaning("negated")
def negated(c, cond):
    if cond[0] == "is":
        return ("is", cond[1], not cond[2])
    return ("not", cond)


def neither(c, left, right):
    return ("and", (negated(c, left), negated(c, right)))


@meaning("both")
def both(c, left, right):
    return ("and", (left, right))


@meaning("no_column")
def no_column(c, column):
    """`have no stock`: a number that is zero."""
    kind = c.schema.columns[column[0]][column[1]].kind
    return ("than", (column,), "=", "0") if kind == "number" else None


@meaning("named")
def named(c, word):
    """`named Lotte`: rows whose name is that, or has it as a word."""
    return ("named", word)


# -- numbers and dates in conditions


@meaning("than")
def than(c, tree, sign):
    """A number to be compared with: ("bound", ((sign, SQL), ...))."""
    unit = ()
    if is_quantity(tree):
        if len(tree[1]) != 1:
            return None
        tree, name_of_unit = tree[1][0]
        unit = () if name_of_unit.startswith("$") else (name_of_unit,)
    sql = number_sql(tree)
    return None if sql is None else ("bound", ((sign, sql, *unit),))


@meaning("bounds")
def bounds(c, low, high):
    return ("bound", low[1] + high[1])


@meaning("range_bound")
def range_bound(c, low, high):
    first, last = than(c, low, ">="), than(c, high, "<=")
    return bounds(c, first, last) if first and last else None


def than_average(c, sign, *conds):
    return ("bound", ((sign, ("average", conds)),))


@meaning("measured")
def measured(c, column, bound):
    """`earns more than 500`: the bound on that column, whichever column of the kind the rows have."""
    if c.schema.columns[column[0]][column[1]].kind != "number":
        return None
    parts = []
    for sign, sql, *unit in bound[1]:
        if unit:
            sql = in_columns_unit(c, column, sql, unit[0])
            if sql is None:
                return None
        if isinstance(sql, tuple):
            averaged = restrict(c, ("rows", column[0], ()), *sql[1])
            if not averaged or len(averaged) != 1:
                return None
            query = Query(c.schema, column[0])
            what = query.measure(column, "AVG")
            sql = f"({query.select(what, averaged[0][2])})"
        parts.append(("than", (column,), sign, sql))
    return parts[0] if len(parts) == 1 else ("and", tuple(parts))


@meaning("compared")
def compared(c, column, tree, sign):
    """`longer than 300 pages`, `older than 40`."""
    bound = than(c, tree, sign)
    return None if bound is None else measured(c, column, bound)


@meaning("compared_of")
def compared_of(c, column, tree, unit_column, sign):
    return compared(c, column, tree, sign) if column[:2] == unit_column[:2] else None


@meaning("on_day")
def on_day(c, sense, where):
    """Days from, until, before, after or on a day that needs no call."""
    if not isinstance(sense[1], str):
        return None
    day = datetime.date.fromisoformat(sense[1])
    one = datetime.timedelta(days=1)
    spans = {
        "on": (day, day),
        "from": (day, None),
        "to": (None, day),
        "before": (None, day - one),
        "after": (day + one, None),
    }
    return ("days", *spans[where])


@meaning("on_period")
def on_period(c, period, where):
    one = datetime.timedelta(days=1)
    first, last = period[1:]
    spans = {
        "on": (first, last),
        "from": (first, None),
        "to": (None, last),
        "before": (None, first - one),
        "after": (last + one, None),
    }
    return ("days", *spans[where])


@meaning("after_row")
def after_row(c, sense, sign):
    return ("beside", sense[1], sign)


@meaning("dated")
def dated(c, column, days):
    """A date column within days, or before or after that of a named row."""
    if days[0] == "beside":
        parts = [each for each in days[1] if each[0] == column[0] and each[1] == key_column(c.schema, column[0])]
        if not parts or len(parts) > 1:
            return None
        query = Query(c.schema, column[0])
        inner = query.select(query.column(column), (("is", parts[0][:2], parts[0][2], False),))
        return ("than", (column,), days[2], f"({inner})")
    return ("when", (column,), days[1], days[2])


# -- counts, totals, extremes


@meaning("count")
def count(c, which, *conds):
    found = restrict(c, which, *conds) if conds else [which]
    return [database(_select(c, r, "COUNT(*)")) for r in found or ()] or None


@meaning("count_distinct")
def count_distinct(c, column, *conds):
    """How many different values a column has."""
    found = restrict(c, ("rows", column[0], ()), *conds) if conds else [("rows", column[0], ())]
    return [
        database(_select(c, r, f"COUNT(DISTINCT {name(column[0])}.{name(column[1])})")) for r in found or ()
    ] or None


@meaning("count_distinct_of")
def count_distinct_of(c, column, which):
    if which[1] != column[0]:
        return None
    return database(_select(c, which, f"COUNT(DISTINCT {name(column[0])}.{name(column[1])})"))


@meaning("count_linked")
def count_linked(c, table, verb, days=None):
    """`how many different products were ordered`: rows of one table that another refers to."""
    join = join_between(c.schema, verb[0], table)
    if join is None or join[0] != verb[0]:
        return None
    which = ("rows", verb[0], ())
    which = which if days is None else (restrict(c, which, dated(c, verb, days)) or [None])[0]
    return database(_select(c, which, f"COUNT(DISTINCT {name(join[0])}.{name(join[1])})"))


@meaning("count_dated")
def count_dated(c, column, verb, cond):
    """`how many customers ordered a Clay Bowl`."""
    return count_distinct(c, column, cond) if column[0] == verb[0] else None


@meaning("any_date")
def any_date(c, days):
    """`orders in March 2021`: whatever date the rows have."""
    columns = [(t, col.name) for t, cols in c.schema.columns.items() for col in cols.values() if col.kind == "date"]
    return ("when", tuple(columns), days[1], days[2]) if days[0] == "days" and columns else None


@meaning("sum_quantity")
def sum_quantity(c, cond, *days):
    """Units ordered: the sum of the one column of quantities."""
    columns = [
        (t, col.name) for t, cols in c.schema.columns.items() for col in cols.values()
        if col.kind == "number" and set(col.words) & {"quantity", "amount", "count", "piece", "unit"}
    ]  # fmt: skip
    if len(columns) != 1:
        return None
    return aggregate(c, columns[0], cond, *(any_date(c, each) for each in days), "sum")


@meaning("spread")
def spread(c, column, *conds):
    high, low = aggregate(c, column, *conds, "max"), aggregate(c, column, *conds, "min")
    if not high or not low or len(high) != 1 or len(low) != 1 or not is_number(high[0]):
        return None
    return op("-", high[0], low[0])


@meaning("as_number")
def as_number(c, sense):
    return sense if is_number(sense) or is_quantity(sense) else None


@meaning("as_date")
def as_date(c, sense):
    return sense if sense[0] == "d" else None


@meaning("as_answer")
def as_answer(c, sense):
    return ("date", sense[1]) if sense[0] == "d" else sense


def _select(c, which, what, tail="") -> str:
    return Query(c.schema, which[1]).select(what, which[2], tail)


AGGREGATES = {"avg": "AVG", "sum": "SUM", "max": "MAX", "min": "MIN"}


@meaning("aggregate")
def aggregate(c, column, *rest):
    """`average salary` of all rows, of given rows, or of those that meet conditions."""
    *given, how = rest
    if c.schema.columns[column[0]][column[1]].kind != "number" and not (
        how in ("max", "min") and c.schema.columns[column[0]][column[1]].kind == "date"
    ):
        return None
    found = [("rows", column[0], ())]
    for each in given:
        if each[0] == "rows":
            if each[1] != column[0] and not reachable(c.schema, each[1], column[0]):
                return None
            found = [("rows", each[1], each[2] + found[0][2])]
        else:
            found = [one for r in found for one in restrict(c, r, each) or ()]
    return [_aggregated(c, column, r, how) for r in found] or None


def _aggregated(c, column, which, how):
    query = Query(c.schema, which[1])
    what = query.measure(column, AGGREGATES[how])
    tree = database(query.select(what, which[2]))
    if c.schema.columns[column[0]][column[1]].kind == "date":
        return ("d", tree)
    return money(c, tree, column)


@meaning("nth_highest")
def nth_highest(c, ordinal, column, *conds):
    """The n-th of the different values, from above."""
    if c.schema.columns[column[0]][column[1]].kind != "number" or not 1 <= ordinal <= 50:
        return None
    *conds, how = conds
    found = []
    for r in restrict(c, ("rows", column[0], ()), *conds) or ():
        query = Query(c.schema, column[0])
        what = query.measure(column)
        tail = f" ORDER BY 1 {'DESC' if how == 'max' else 'ASC'} LIMIT 1 OFFSET {ordinal - 1}"
        found.append(money(c, database(query.select(f"DISTINCT {what}", r[2], tail)), column))
    return found or None


# -- cells of named rows


def _named(c, sense, table) -> tuple | None:
    """The condition that a row of `table` has that name."""
    key = label_column(c.schema, table)
    fits = [each for each in sense[1] if each[0] == table and each[1] == key]
    return ("is", fits[0][:2], fits[0][2], False) if len(fits) == 1 else None


@meaning("cell")
def cell(c, column, sense):
    """The value of a column in the row with that name."""
    cond = _named(c, sense, column[0])
    if cond is None:
        return None
    query = Query(c.schema, column[0])
    kind = c.schema.columns[column[0]][column[1]].kind
    tree = database(query.select(query.measure(column), (cond,)))
    if kind == "number":
        return money(c, tree, column)
    return ("d", tree) if kind == "date" else ("text", tree)


@meaning("cell_when")
def cell_when(c, column, sense, days):
    """The value of a column in the row with that name and day."""
    cond = _named(c, sense, column[0])
    dates = [col for col in c.schema.columns[column[0]].values() if col.kind == "date"]
    if cond is None or len(dates) != 1 or days[0] != "days" or c.schema.columns[column[0]][column[1]].kind != "number":
        return None
    when = ("when", (column[0], dates[0].name), days[1], days[2])
    query = Query(c.schema, column[0])
    return money(c, database(query.select(query.measure(column), (cond, when))), column)


@meaning("cell_in_table")
def cell_in_table(c, column, table, sense):
    return cell(c, column, sense) if column[0] == table else None


@meaning("place_of")
def place_of(c, sense):
    """`where does X live`: the one column of places."""
    found = []
    for table, column, _ in sense[1]:
        places = [
            col
            for col in c.schema.columns[table].values()
            if set(col.words) & {"city", "town", "location", "place", "country", "address"} and col.kind == "text"
        ]
        if column == key_column(c.schema, table) and len(places) == 1:
            found.append(cell(c, (table, places[0].name), sense))
    return found[0] if len(found) == 1 else None


@meaning("missing")
def missing(c, column, unknown):
    """A named row that the table has not: the expert is asked, and says so."""
    key = key_column(c.schema, column[0])
    if key is None:
        return None
    query = Query(c.schema, column[0])
    return ("text", database(query.select(query.column(column), (("is", (column[0], key), unknown, False),))))


# -- the same in other orders of words


@meaning("either_value")
def either_value(c, cond, sense):
    return either(c, cond, value(c, sense))


@meaning("either_values")
def either_values(c, left, right):
    return either(c, value(c, left), value(c, right))


@meaning("lives")
def lives(c, cond):
    """`live in`: of a column of places only."""
    if cond[0] == "or":
        parts = tuple(lives(c, each) for each in cond[1])
        return ("or", parts) if all(parts) else None
    fits = tuple(each for each in cond[1] if set(c.schema.columns[each[0]][each[1]].words) & PLACES)
    return ("is", fits, cond[2]) if fits else None


@meaning("lives_not")
def lives_not(c, cond):
    found = lives(c, cond)
    return None if found is None else negated(c, found)


@meaning("neither_value")
def neither_value(c, left, right):
    return neither(c, value(c, left), value(c, right))


@meaning("not_dated")
def not_dated(c, column, days):
    found = dated(c, column, days)
    return None if found is None else negated(c, found)


@meaning("not_measured")
def not_measured(c, column, bound):
    found = measured(c, column, bound)
    return None if found is None else negated(c, found)


@meaning("whose_value")
def whose_value(c, column, cond):
    return ("of", cond[1], (column[:2],)) if cond[0] == "is" else None


@meaning("whose_not")
def whose_not(c, column, cond):
    found = whose_value(c, column, cond)
    return None if found is None else ("not", found)


@meaning("than_average_of")
def than_average_of(c, *rest):
    return than_average(
        c, rest[-1], *(each for each in rest[:-1] if isinstance(each[0], str) and each[0] in CONDITIONS)
    )


@meaning("count_when")
def count_when(c, which, cond, days):
    return count(c, which, cond, any_date(c, days)) if days[0] == "days" else None


@meaning("count_not")
def count_not(c, which, cond):
    return count(c, which, negated(c, cond))


@meaning("units_in")
def units_in(c, sense, column):
    return cell(c, column, sense) if c.schema.columns[column[0]][column[1]].kind == "number" else None


@meaning("aggregate_all")
def aggregate_all(c, column, which, how):
    return aggregate(c, column, which, how) if which[2] else None


@meaning("price_of")
def price_of(c, sense):
    found = []
    for table in {each[0] for each in sense[1]}:
        prices = [
            col
            for col in c.schema.columns[table].values()
            if {"price", "cost", "fee", "fare"} & set(col.words) and col.kind == "number"
        ]
        if len(prices) == 1:
            found.append(cell(c, (table, prices[0].name, 100 if "cent" in prices[0].words else 1), sense))
    return found[0] if len(found) == 1 else None


@meaning("year_cell")
def year_cell(c, sense, column):
    found = cell(c, column, sense)
    return found if found and is_number(found) else None


@meaning("count_period")
def count_period(c, which, period):
    return count(c, which, any_date(c, ("days", *period[1:])))


@meaning("often")
def often(c, sense, which):
    """How often a name stands in rows."""
    return count(c, which, value(c, sense))


@meaning("headcount_of")
def headcount_of(c, sense, column):
    cond = of_column(c, sense, column)
    return None if cond is None else headcount(c, cond)


@meaning("units_left")
def units_left(c, sense):
    """How many are left of a thing: the one column of stocks in its row."""
    found = []
    for table in {each[0] for each in sense[1]}:
        stocks = [
            col
            for col in c.schema.columns[table].values()
            if col.kind == "number" and set(col.words) & {"stock", "inventory", "available", "copy"}
        ]
        if len(stocks) == 1:
            found.append(cell(c, (table, stocks[0].name), sense))
    return found[0] if len(found) == 1 else None


def _column_of_kind(c, words, kind):
    return [
        (t, col.name) for t, cols in c.schema.columns.items() for col in cols.values()
        if col.kind == kind and set(col.words) & words
    ]  # fmt: skip


@meaning("hired_of")
def hired_of(c, sense):
    words = {"hired", "hire", "joined", "started", "start", "appointed", "enlisted", "recruited", "employed"}
    found = [cell(c, column, sense) for column in _column_of_kind(c, words, "date")]
    found = [each for each in found if each]
    return found[0] if len(found) == 1 else None


@meaning("headcount")
def headcount(c, *conds):
    """The people in a group: rows of the table whose rows are persons and have that value."""
    found = []
    conds = [one for cond in conds for one in (cond[1] if cond[0] == "or" else (cond,))]
    for cond in conds:
        tables = sorted({each[0] for each in cond[1]} & set(c.people))
        counted = [one for table in tables for one in count(c, ("rows", table, ()), cond) or ()]
        if len(counted) != 1:
            return None
        found.append(counted[0])
    tree = found[0]
    for other in found[1:]:
        tree = op("+", tree, other)
    return tree


@meaning("count_days")
def count_days(c, which, days):
    return count(c, which, any_date(c, days)) if days[0] == "days" else None


@meaning("cells_between")
def cells_between(c, unit, first, second, column):
    """Days from one row's date to another's."""
    dates = [cell(c, column, sense) for sense in (first, second)]
    if not all(dates) or dates[0][0] != "d" or unit != "day":
        return None
    return call("dates", op="days_between", start=dates[0], end=dates[1])


@meaning("cell_weekday")
def cell_weekday(c, sense, column):
    found = cell(c, column, sense)
    return ("text", call("dates", op="weekday", date=found)) if found and found[0] == "d" else None


@meaning("cell_in")
def cell_in(c, currency, sense, column):
    """A price in another currency, where the question says which one prices are in."""
    found = cell(c, column, sense)
    return in_unit(c, found, currency) if found and is_quantity(found) else None
