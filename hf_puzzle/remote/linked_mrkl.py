"""Meanings of rules about what is done with rows, where they come from, and columns with a unit (MRKL, arXiv 2205.00445).

A table whose rows refer to others holds what was done: flights are flown, harvests are brought in. `words_mrkl.ACTS` says
which verbs; "who have never flown to Pellan" is then a question about the rows that refer to a person, or do not.
"""

from .calendar_mrkl import between
from .chart_mrkl import meaning
from .ranks_mrkl import best_group_count, names
from .rows_mrkl import _select, aggregate, cell, count, hired_of, restrict, rows, value
from .tables_mrkl import join_between, name
from .values_mrkl import call, is_number, is_quantity, n, op, total
from .words_mrkl import DESTINATIONS, ORIGINS, PERIODIC, ROLES


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


# -- what was done


def linked(c, table, act, conds, negated=False):
    """The condition that some row of `act` refers to a row of `table`, and meets `conds`."""
    join = join_between(c.schema, act, table)
    if join is None or join[0] != act:
        return []
    found = restrict(c, ("rows", act, ()), *conds) if conds else [("rows", act, ())]
    inner = [_select(c, r, f"{name(act)}.{name(join[1])}") for r in found or ()]
    return [("within", (table, join[3]), sql, negated) for sql in inner]


@meaning("act")
def act(c, table, *conds):
    """`have flown to Pellan`: rows that meet it, or rows that refer to others which do."""
    return ("acted", table, tuple(conds), False)


@meaning("act_never")
def act_never(c, table, *conds):
    return ("acted", table, tuple(conds), True)


@meaning("act_value")
def act_value(c, table, cond, *conds):
    """`ordered a Clay Bowl`: what was ordered is a row that the order leads to."""
    return act(c, table, cond, *conds)


@meaning("act_noun")
def act_noun(c, table, said, *conds):
    """`made trips to Vik`: the rows are named as well."""
    return act(c, table, *conds) if table == said else None


@meaning("act_noun_never")
def act_noun_never(c, table, said, *conds):
    return act_never(c, table, *conds) if table == said else None


@meaning("settled_acts")
def settled_acts(c, table, cond) -> list:
    """Choices for an "acted" condition on rows of `table`, for `rows_mrkl.settled`."""
    _, done, conds, negated = cond
    if table == done:
        if negated:
            return []
        found = restrict(c, ("rows", table, ()), *conds) if conds else [("rows", table, ())]
        return [("and", r[2]) if len(r[2]) > 1 else r[2][0] for r in found or () if r[2]]
    return linked(c, table, done, conds, negated)


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


# -- conditions of columns that words other than their names speak of


@meaning("positive")
def positive(c, column):
    return ("than", (column,), ">", "0")


@meaning("not_positive")
def not_positive(c, column):
    return ("than", (column,), "=", "0")


@meaning("role_rows")
def role_rows(c, sense):
    """`pickers`: the rows that have that role."""
    found = []
    for table, column, _ in sense[1]:
        if set(c.schema.columns[table][column].words) & ROLES:
            found += restrict(c, rows(c, table), value(c, sense)) or ()
    return found or None


def with_people(c, *conds):
    """`who lives in Ford End`: rows of the tables whose rows are persons."""
    found = []
    for table in c.people:
        found += restrict(c, rows(c, table), *conds) or ()
    return found or None


@meaning("with_people_names")
def with_people_names(c, *conds):
    """`who lives in Ford End`; who does not may be anybody, so that this is left alone."""
    if any(_negative(cond) for cond in conds):
        return None
    return [names(c, which) for which in with_people(c, *conds) or ()] or None


def _negative(cond) -> bool:
    if cond[0] in ("or", "and"):
        return any(_negative(each) for each in cond[1])
    return cond[0] == "not" or cond[0] in ("is", "acted") and bool(cond[-1])


@meaning("share_rows")
def share_rows(c, which, cond):
    """What percentage of rows meet a condition."""
    some, whole = count(c, which, cond), count(c, which)
    return [op("*", op("/", each, whole[0]), n(100)) for each in some or ()] or None


@meaning("superlative")
def superlative(c, best, column, *rest):
    """`the cheapest fare`: the extreme of the column itself."""
    return aggregate(c, column, *rest) if best[:2] == column[:2] else None


@meaning("rows_extreme")
def rows_extreme(c, which, column, how):
    """`the largest harvest in tonnes`."""
    return aggregate(c, column, which, how) if which[1] == column[0] else None


@meaning("most_common")
def most_common(c, column, how):
    return best_group_count(c, column, rows(c, column[0]), how)


# -- columns that are so much per hour, and other cells


def period_of_column(c, column) -> str | None:
    """The unit of time that a column's numbers are for, such as the hour of an hourly wage."""
    words = c.schema.columns[column[0]][column[1]].words
    return next((PERIODIC[word] for word in words if word in PERIODIC), None)


@meaning("cell_per")
def cell_per(c, sense, column, unit):
    """`how much does X earn per hour`: only of a column that says so."""
    return cell(c, column, sense) if period_of_column(c, column) == unit else None


@meaning("earned_for")
def earned_for(c, sense, column, time):
    """`what does X earn for 38 hours`: so much per hour, so many times."""
    period, rate = period_of_column(c, column), cell(c, column, sense)
    if period is None or rate is None or not is_quantity(time) or c.units is None or period not in c.units.units:
        return None
    length = total(c, time, period)
    return None if length is None or not is_number(rate) else op("*", rate, length)


@meaning("cells_sum")
def cells_sum(c, column, first, second):
    """`the hectares of Long Acre plus those of Ten Acre`."""
    cells = [cell(c, column, sense) for sense in (first, second)]
    return op("+", *cells) if all(each and is_number(each) for each in cells) else None


@meaning("row_age")
def row_age(c, sense):
    """How old a named row is, by its one column of birth."""
    births = [
        (table, col.name)
        for table in {each[0] for each in sense[1]}
        for col in c.schema.columns[table].values()
        if col.kind == "date" and set(col.words) & {"birth", "born", "birthday", "birthdate", "dob"}
    ]
    found = [cell(c, column, sense) for column in births]
    found = [each for each in found if each]
    return call("dates", op="years_between", start=found[0], end=("d", c.known.today)) if len(found) == 1 else None


@meaning("tenure")
def tenure(c, unit, sense):
    """Since when somebody has been there, in years or days."""
    since = hired_of(c, sense)
    return between(c, unit, since, ("d", c.known.today)) if since and since[0] == "d" else None
