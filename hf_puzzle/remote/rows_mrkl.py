"""Meanings of the grammar's rules about rows and columns of a database (MRKL, arXiv 2205.00445)."""

import datetime

from .chart_mrkl import meaning
from .tables_mrkl import (
    Query,
    date_columns,
    in_columns_unit,
    join_between,
    key_column,
    label_column,
    name,
    number_sql,
    reachable,
)
from .values_mrkl import call, is_number, is_quantity, op, quantity
from .words_mrkl import DESTINATIONS, GENERAL, ORIGINS, PERIODIC, ROLES


MONEY_WORDS = frozenset(str.split("salary price cost fee wage pay income fare rent amount total"))


def database(sql) -> tuple:
    return call("database", sql=sql)


def money(c, tree, reference):
    """A number of the database, in the currency that the question says its prices are in."""
    words = set(c.schema.columns[reference[0]][reference[1]].words)
    if c.money and words & MONEY_WORDS:
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
        return settled_acts(c, table, cond)
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


@meaning("everyone")
def everyone(c):
    """All rows of the one table of people."""
    return people(c, c.people[0]) if len(c.people) == 1 else None


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


def of_place(c, column) -> bool:
    return bool(set(c.schema.columns[column[0]][column[1]].words) & PLACES)


def _of_place(c, cond) -> bool:
    if cond[0] in ("or", "and"):
        return any(_of_place(c, each) for each in cond[1])
    return cond[0] == "is" and of_place(c, cond[1])


@meaning("role_rows")
def role_rows(c, sense):
    """`pickers`: the rows that have that role."""
    found = []
    for table, column, _ in sense[1]:
        if set(c.schema.columns[table][column].words) & ROLES:
            found += restrict(c, rows(c, table), value(c, sense)) or ()
    return found or None


@meaning("sided")
def sided(c, cond, side):
    """`from` and `to` a value: of the column that says where things come from or go to, where there is one."""
    if cond[0] in ("or", "and"):
        parts = tuple(sided(c, each, side) for each in cond[1])
        return (cond[0], parts) if all(parts) else None
    if cond[0] != "is":
        return cond
    names = {"from": ORIGINS, "to": DESTINATIONS}
    said = {each: set(c.schema.columns[each[0]][each[1]].words) for each in cond[1]}
    tables = {each[0] for each in said if said[each] & (ORIGINS | DESTINATIONS)}
    fits = tuple(each for each in cond[1] if said[each] & names[side] or each[0] not in tables)
    return ("is", fits, *cond[2:]) if fits else None


@meaning("valued_rows")
def valued_rows(c, values, which):
    return restrict(c, which, values)


@meaning("value")
def value(c, sense):
    return ("is", sense[1], False)


@meaning("either")
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


@meaning("both")
def both(c, left, right):
    return ("and", (left, right))


@meaning("zero")
def zero(c, column, sign):
    """`have no stock` ("="), `delayed` (">"): a number that is zero, or more."""
    kind = c.schema.columns[column[0]][column[1]].kind
    return ("than", (column,), sign, "0") if kind == "number" else None


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


@meaning("than_average")
def than_average(c, *rest):
    """More or less than the average of rows that meet conditions; that it is one of that column is said as well."""
    *said, sign = rest
    return ("bound", ((sign, ("average", tuple(each for each in said if each[0] in CONDITIONS))),))


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


def period_of_column(c, column) -> str | None:
    """The unit of time that a column's numbers are for, such as the hour of an hourly wage."""
    words = c.schema.columns[column[0]][column[1]].words
    return next((PERIODIC[word] for word in words if word in PERIODIC), None)


@meaning("measured_per")
def measured_per(c, column, bound, unit):
    """`earns more than 30 an hour`: only a column that is for an hour."""
    return measured(c, column, bound) if period_of_column(c, column) == unit else None


@meaning("compared")
def compared(c, column, tree, *rest):
    """`longer than 300`, or `longer than 300 pages`, where the column is named as well."""
    *said, sign = rest
    bound = than(c, tree, sign)
    return measured(c, column, bound) if bound and all(each[:2] == column[:2] for each in said) else None


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


# -- what was done: a table whose rows refer to others holds acts, and `words_mrkl.ACTS` says which verbs


def linked(c, table, act, conds, negated=False):
    """The condition that some row of `act` refers to a row of `table`, and meets `conds`."""
    join = join_between(c.schema, act, table)
    if join is None or join[0] != act:
        return []
    found = restrict(c, ("rows", act, ()), *conds) if conds else [("rows", act, ())]
    inner = [_select(c, r, f"{name(act)}.{name(join[1])}") for r in found or ()]
    return [("within", (table, join[3]), sql, negated) for sql in inner]


def settled_acts(c, table, cond) -> list:
    """Choices for an "acted" condition on rows of `table`."""
    _, done, conds, negated = cond
    if table == done:
        if negated:
            return []
        found = restrict(c, ("rows", table, ()), *conds) if conds else [("rows", table, ())]
        return [("and", r[2]) if len(r[2]) > 1 else r[2][0] for r in found or () if r[2]]
    return linked(c, table, done, conds, negated)


@meaning("act")
def act(c, table, *conds):
    """`have flown to Pellan`, or ("never" last) have not: rows that meet it, or rows that refer to others which do."""
    never = conds[-1:] == ("never",)
    return ("acted", table, conds[:-1] if never else conds, never)


@meaning("act_noun")
def act_noun(c, table, said, *conds):
    """`made trips to Vik`, `booked a course`: the rows are named as well, or those that each of them refers to."""
    join = join_between(c.schema, table, said) if table != said else None
    return act(c, table, *conds) if table == said or join and join[0] == table and len(conds) <= 1 else None


@meaning("count_acts")
def count_acts(c, which, cond, table, *conds):
    """`how many flights did Priya Nair fly in July`."""
    return count(c, which, cond, *conds) if which[1] == table else None


@meaning("sum_acts")
def sum_acts(c, column, *rest):
    """`how many tonnes did Agnes Pike bring in`: the sum of a number that the rows of what was done have."""
    tables = [each for each in rest if isinstance(each, str)]
    conds = [each for each in rest if not isinstance(each, str)]
    if column[0] not in tables or c.schema.columns[column[0]][column[1]].kind != "number":
        return None
    return aggregate(c, column, *conds, "sum")


# -- counts, totals, extremes


@meaning("count")
def count(c, which, *conds):
    found = restrict(c, which, *conds) if conds else [which]
    return [database(_select(c, r, "COUNT(*)")) for r in found or ()] or None


@meaning("count_distinct")
def count_distinct(c, column, *given):
    """How many different values a column has, of given rows or of those that meet conditions."""
    which, conds = ("rows", column[0], ()), given
    if given and given[0][0] == "rows":
        which, conds = given[0], given[1:]
    found = (restrict(c, which, *conds) if conds else [which]) if which[1] == column[0] else None
    return [database(_select(c, r, f"COUNT(DISTINCT {name(column[0])}.{name(column[1])})")) for r in found or ()]


@meaning("count_values")
def count_values(c, column):
    """`how many departments are there`: of a column of words, and none of which the world has more than the data."""
    text = c.schema.columns[column[0]][column[1]].kind == "text"
    return count_distinct(c, column) if text and anchored(c, column) else None


@meaning("count_all")
def count_all(c, which):
    """`how many employees are there`; how many people there are, nobody's data say."""
    return None if which[2] == (("people",),) else count(c, which)


@meaning("count_distinct_of")
def count_distinct_of(c, table, column):
    """`product categories`: a column after the name of its table."""
    return count_distinct(c, column) if column[0] == table else None


@meaning("count_distinct_act")
def count_distinct_act(c, column, verb):
    """`how many customers have ordered`: of the table whose rows are what was done."""
    return count_distinct(c, column) if column[0] == verb else None


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
    """`orders in March 2021`: whatever date rows have that are no things or persons, which last."""
    happenings = {join[0] for join in c.schema.joins} | {t for t in c.schema.columns if not key_column(c.schema, t)}
    columns = [(t, col.name) for t in c.schema.columns if t in happenings for col in date_columns(c.schema, t)]
    return ("when", tuple(columns), days[1], days[2]) if days[0] == "days" and columns else None


@meaning("sum_quantity")
def sum_quantity(c, cond, *days):
    """Units ordered: the sum of the one column of quantities."""
    columns = columns_of(c, "quantity")
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


def anchored(c, column, given=()) -> bool:
    """Whether a question about a column is one about this data: it says the column's own name, or names rows or
    values. "The minimum wage", "the average income of people in 2020" are anybody's."""
    own = len(column) < 4 and not set(c.schema.columns[column[0]][column[1]].words) & GENERAL
    return own or any(each[0] != "when" and each[2:] != ((("people",),),) for each in given)


@meaning("aggregate")
def aggregate(c, column, *rest):
    """`average salary` of all rows, of given rows, or of those that meet conditions."""
    *given, how = rest
    if not anchored(c, column, given):
        return None
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
    if len(column) > 3 and not conds:  # `the second highest pay` says nothing of the data
        return None
    found = []
    for r in restrict(c, ("rows", column[0], ()), *conds) or ():
        query = Query(c.schema, column[0])
        what = query.measure(column)
        tail = f" ORDER BY 1 {'DESC' if how == 'max' else 'ASC'} NULLS LAST LIMIT 1 OFFSET {ordinal - 1}"
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


# what one column of a table is about: its kind, and words of its name
ABOUT = {
    "place": ("text", "city town location place country address"),
    "price": ("number", "price cost fee fare"),
    "stock": ("number", "stock inventory available copy"),
    "hired": ("date", "hired hire joined started start appointed enlisted recruited employed"),
    "birth": ("date", "birth born birthday birthdate dob"),
    "pay": ("number", "salary wage pay income"),
    "quantity": ("number", "quantity amount count piece unit"),
}


def columns_of(c, about, table=None) -> list:
    """The columns of the schema, or of one table, that are about something of `ABOUT`."""
    kind, words = ABOUT[about]
    found = []
    for each in c.schema.columns if table is None else (table,):
        for col in c.schema.columns[each].values():
            if col.kind == kind and set(col.words) & set(words.split()):
                found.append((each, col.name, 100 if kind == "number" and "cent" in col.words else 1))
    return found


@meaning("cell_about")
def cell_about(c, sense, about):
    """`where does X live`, `how much is X`: the one column of its row that is about that."""
    found = []
    for table in {each[0] for each in sense[1]}:
        columns = columns_of(c, about, table)
        if len(columns) == 1:
            found.append(cell(c, columns[0], sense))
    found = [each for each in found if each]
    return found[0] if len(found) == 1 else None


@meaning("maker")
def maker(c, makers, sense):
    """`who wrote Ulysses`: the name in the table of authors that its row refers to."""
    key, found = key_column(c.schema, makers), []
    for table in {each[0] for each in sense[1]} - {makers} if key else ():
        cond = _named(c, sense, table)
        if cond is not None and reachable(c.schema, table, makers):
            query = Query(c.schema, table)
            found.append(("text", database(query.select(query.column((makers, key)), (cond,)))))
    return found[0] if len(found) == 1 else None


@meaning("cell_when")
def cell_when(c, column, sense, days):
    """The value of a column in the row with that name and day."""
    cond = _named(c, sense, column[0])
    dates = date_columns(c.schema, column[0])
    if cond is None or len(dates) != 1 or days[0] != "days" or c.schema.columns[column[0]][column[1]].kind != "number":
        return None
    when = ("when", (column[0], dates[0].name), days[1], days[2])
    query = Query(c.schema, column[0])
    return money(c, database(query.select(query.measure(column), (cond, when))), column)


@meaning("cell_in_table")
def cell_in_table(c, column, table, sense):
    return cell(c, column, sense) if column[0] == table else None


@meaning("missing")
def missing(c, column, unknown):
    """A named row that the table has not: the expert is asked, and says so."""
    key = key_column(c.schema, column[0])
    if key is None:
        return None
    query = Query(c.schema, column[0])
    return ("text", database(query.select(query.column(column), (("is", (column[0], key), unknown, False),))))


@meaning("lives")
def lives(c, cond):
    """`live in`: of a column of places only."""
    if cond[0] == "or":
        parts = tuple(lives(c, each) for each in cond[1])
        return ("or", parts) if all(parts) else None
    fits = tuple(each for each in cond[1] if of_place(c, each))
    return ("is", fits, cond[2]) if fits else None


@meaning("whose_value")
def whose_value(c, column, cond):
    return ("of", cond[1], (column[:2],)) if cond[0] == "is" else None


@meaning("aggregate_all")
def aggregate_all(c, column, which, how):
    return aggregate(c, column, which, how) if which[2] else None


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
