"""Meanings of rules about the most and the least, groups, shares, and named rows against each other (MRKL, arXiv 2205.00445)."""

from .calendar_mrkl import between
from .chart_mrkl import meaning
from .rows_mrkl import (
    AGGREGATES,
    _named,
    _select,
    aggregate,
    cell,
    columns_of,
    count,
    database,
    money,
    of_place,
    period_of_column,
    restrict,
    rows,
    settled,
    value,
)
from .tables_mrkl import Query, column_unit, join_between, key_column, name, number_sql, reachable
from .values_mrkl import is_number, is_quantity, n, op, root, total
from .words_mrkl import MAKERS, singular


# -- the row with the most of something


@meaning("superlative_of")
def superlative_of(c, column, how):
    """A column, and whether the most ("max") or the least of it is meant."""
    return ("most", column, how)


def _extreme(c, which, superlative):
    """Rows of `which` whose column is the greatest or smallest; all of them where several are."""
    table, (_, column, how) = which[1], superlative
    if c.schema.columns[column[0]][column[1]].kind not in ("number", "date") or not reachable(
        c.schema, table, column[0]
    ):
        return None
    inner = Query(c.schema, table)
    best = inner.select(f"{how.upper()}({inner.column(column)})", which[2])
    return ("rows", table, (*which[2], ("than", (column[0], column[1]), "=", f"({best})")))


@meaning("best")
def best(c, superlative, which):
    return _extreme(c, which, superlative) if superlative[1][0] == which[1] else None


@meaning("best_of_all")
def best_of_all(c, superlative, *conds):
    """`who earns the most in Finance`: rows of the column's table, where they are persons."""
    table = superlative[1][0]
    if table not in c.people and singular(table.lower()) not in MAKERS:
        return None
    which = ("rows", table, ())
    found = restrict(c, which, *conds) if conds else [which]
    return [_extreme(c, r, superlative) for r in found or ()]


@meaning("nth_row")
def nth_row(c, ordinal, superlative, *conds):
    """`who has the second highest salary`: rows with the n-th of the different values, from above or below."""
    _, column, how = superlative
    which = ("rows", column[0], ())
    if conds and conds[0][0] == "rows":
        which, conds = conds[0], conds[1:]
    if which[1] != column[0] or c.schema.columns[column[0]][column[1]].kind != "number" or not 2 <= ordinal <= 50:
        return None
    found = []
    for r in (restrict(c, which, *conds) or ()) if conds else [which]:
        inner = Query(c.schema, column[0])
        tail = f" ORDER BY 1 {'DESC' if how == 'max' else 'ASC'} NULLS LAST LIMIT 1 OFFSET {ordinal - 1}"
        value = inner.select(f"DISTINCT {inner.column(column)}", r[2], tail)
        found.append(("rows", column[0], (*r[2], ("than", (column[0], column[1]), "=", f"({value})"))))
    return found or None


@meaning("names")
def names(c, which):
    """The names of rows, as an answer."""
    key = key_column(c.schema, which[1])
    if key is None:
        return None
    return ("text", database(_select(c, which, f"{name(which[1])}.{name(key)}")))


@meaning("cells")
def cells(c, column, which):
    """A column of chosen rows, such as the title of the cheapest book."""
    if column[0] != which[1] or not which[2]:
        return None
    query = Query(c.schema, which[1])
    tree = database(query.select(query.measure(column), which[2]))
    kind = c.schema.columns[column[0]][column[1]].kind
    return money(c, tree, column) if kind == "number" else ("d", tree) if kind == "date" else ("text", tree)


@meaning("top_rows")
def top_rows(c, tree, superlative, which):
    """`the three highest paid employees`."""
    _, column, how = superlative
    count_sql, key = number_sql(tree), key_column(c.schema, which[1])
    if count_sql is None or not count_sql.isdigit() or column[0] != which[1] or key is None:
        return None
    query = Query(c.schema, which[1])
    tail = f" ORDER BY {query.column(column)} {'DESC' if how == 'max' else 'ASC'} LIMIT {count_sql}"
    return ("text", database(query.select(query.column((which[1], key)), which[2], tail)))


# -- groups


def _groups(c, which, column) -> bool:
    """Whether a column of words parts the rows; the people of a country are not those of a table."""
    text = column[0] == which[1] and c.schema.columns[column[0]][column[1]].kind == "text"
    return text and not (("people",) in which[2] and of_place(c, column))


@meaning("group_count")
def group_count(c, which, column):
    if not _groups(c, which, column):
        return None
    query = Query(c.schema, which[1])
    group = query.column(column)
    return ("text", database(query.select(f"{group}, COUNT(*)", which[2], f" GROUP BY {group} ORDER BY {group}")))


@meaning("group_mean")
def group_mean(c, which, column):
    """`how many employees per department on average`: the mean size of a group."""
    if not _groups(c, which, column):
        return None
    query = Query(c.schema, which[1])
    sizes = query.select("COUNT(*) AS n", which[2], f" GROUP BY {query.column(column)}")
    return database(f"SELECT AVG(n) FROM ({sizes})")


@meaning("group_aggregate")
def group_aggregate(c, column, group_column, how):
    if (
        column[0] != group_column[0]
        or c.schema.columns[column[0]][column[1]].kind != "number"
        or c.schema.columns[group_column[0]][group_column[1]].kind != "text"
    ):
        return None
    query = Query(c.schema, column[0])
    group = query.column(group_column)
    what = f"{group}, {query.measure(column, AGGREGATES[how])}"
    return ("text", database(query.select(what, (), f" GROUP BY {group} ORDER BY {group}")))


def _best_group(c, table, group_column, conditions, inner, how):
    query = Query(c.schema, table)
    group = query.column(group_column)
    having = query.select(f"{inner(query)} AS n", conditions, f" GROUP BY {group}")
    tail = f" GROUP BY {group} HAVING {inner(query)} = (SELECT {how.upper()}(n) FROM ({having}))"
    return ("text", database(query.select(group, conditions, tail)))


@meaning("best_group_count")
def best_group_count(c, column, which, how):
    """`which city has the most employees`."""
    if not _groups(c, which, column):
        return None
    return _best_group(c, which[1], column, which[2], lambda query: "COUNT(*)", how)


@meaning("best_group_linked")
def best_group_linked(c, table, which, how):
    """`which author has the most books`: rows of one table by how many of another refer to them."""
    join, key = join_between(c.schema, which[1], table), key_column(c.schema, table)
    if join is None or join[0] != which[1] or key is None:
        return None
    return _best_group(c, which[1], (table, key), which[2], lambda query: "COUNT(*)", how)


@meaning("best_group_aggregate")
def best_group_aggregate(c, column, value_column, which, how):
    if (
        column[0] != value_column[0]
        or c.schema.columns[column[0]][column[1]].kind != "text"
        or c.schema.columns[value_column[0]][value_column[1]].kind != "number"
    ):
        return None
    return _best_group(c, column[0], column, (), lambda query: query.measure(value_column, AGGREGATES[which]), how)


# -- named rows against each other, and yes or no


@meaning("compared_rows")
def compared_rows(c, superlative, *senses):
    """`who earns more, A or B`: the one whose column has more."""
    _, column, mode = superlative
    trees, labels = [], []
    for sense in senses:
        found = cell(c, column, sense)
        if found is None or not (is_number(found) or is_quantity(found) or found[0] == "d"):
            return None
        trees.append(found[1][0][0] if is_quantity(found) else found)
        labels.append(next(each[2] for each in sense[1] if each[0] == column[0]))
    if len(set(trees)) < len(trees) or trees[0][0] == "d":
        return None
    return ("which", mode, tuple(labels), tuple(trees))


@meaning("row_difference")
def row_difference(c, column, first, second):
    """`how much more does A earn than B`."""
    left, right = cell(c, column, first), cell(c, column, second)
    return op("-", left, right) if left and right and is_number(left) and is_number(right) else None


@meaning("row_difference_in")
def row_difference_in(c, column, first, second, said):
    return row_difference(c, column, first, second) if column[:2] == said[:2] else None


@meaning("dates_apart")
def dates_apart(c, unit, column, first, second):
    """How far apart two rows' dates are, whichever is the earlier: the root of the square."""
    left, right = (cell(c, column, each) for each in (first, second))
    if not left or not right or left[0] != "d" or right[0] != "d":
        return None
    found = between(c, unit, left, right)
    return found and root(c, op("*", found, found), n(2))


@meaning("row_meets")
def row_meets(c, sense, cond):
    """`does X work in Design`: whether the row with that name meets the condition."""
    found = []
    for table in {each[0] for each in sense[1]}:
        named_row = _named(c, sense, table)
        if named_row is not None:
            found += [
                ("yesno", ">", database(_select(c, ("rows", table, (named_row, each)), "COUNT(*)")), n(0))
                for each in settled(c, table, cond)
            ]
    return found or None


@meaning("two_counts")
def two_counts(c, which, first, second):
    sides = [count(c, which, cond) for cond in (first, second)]
    return ("several", (sides[0][0], sides[1][0])) if all(side and len(side) == 1 for side in sides) else None


@meaning("top_earner")
def top_earner(c, *rest):
    """The one who earns most, where one table pays."""
    columns = columns_of(c, "pay")
    return best_of_all(c, superlative_of(c, columns[0], "max"), *rest) if len(columns) == 1 else None


@meaning("sum_in")
def sum_in(c, *senses):
    """`how many minutes do all courses last together`: the sum of a number in its column's own unit."""
    *unit, which, column = senses
    if unit and column_unit(c, column) != unit[0]:
        return None
    return aggregate(c, column, which, "sum")


@meaning("payroll")
def payroll(c, *conds):
    """What all rows are paid together, where one table pays."""
    columns = columns_of(c, "pay")
    if len(columns) != 1 or period_of_column(c, columns[0]):  # hours that nobody counted
        return None
    return aggregate(c, columns[0], *conds, "sum")


@meaning("list_names")
def list_names(c, which, *conds):
    found = restrict(c, which, *conds) if conds else [which]
    return [names(c, r) for r in found or () if r[2]] or None


@meaning("list_values")
def list_values(c, column):
    """`which departments are there`: the different values of a column of words."""
    if c.schema.columns[column[0]][column[1]].kind != "text" or column[1] == key_column(c.schema, column[0]):
        return None
    query = Query(c.schema, column[0])
    return ("text", database(query.select(f"DISTINCT {query.column(column)}", (), " ORDER BY 1")))


@meaning("more_rows")
def more_rows(c, first, second):
    """How many more rows of one kind there are than of another."""
    sides = [count(c, which) for which in (first, second)]
    return op("-", sides[0][0], sides[1][0]) if all(len(side) == 1 for side in sides) else None


# -- sums of products


def total_product(c):
    """(table, quantity column, price column) of rows that have a quantity and lead to a price, or None."""
    for amount in columns_of(c, "quantity"):
        for price in columns_of(c, "price"):
            if "price" in c.schema.columns[price[0]][price[1]].words and reachable(c.schema, amount[0], price[0]):
                return amount[0], amount, price
    return None


@meaning("revenue")
def revenue(c, *conds):
    """Revenue in the price's unit, or ("cents" last) in cents."""
    cents = conds[-1:] == ("cents",)
    conds = [each for each in conds if isinstance(each, tuple)]
    parts = total_product(c)
    if parts is None or cents and parts[2][2] == 1:
        return None
    table, amount, price = parts
    found = []
    for r in restrict(c, ("rows", table, ()), *conds) or ():
        query = Query(c.schema, table)
        what = f"SUM({query.column(amount)}*{query.column(price)})"
        found.append(database(query.select(what if cents or price[2] == 1 else f"{what}/100.0", r[2])))
    return [each if cents else money(c, each, price) for each in found] or None


@meaning("stock_value")
def stock_value(c, *rest):
    """Price times stock of all rows, or of those that a value names; in the price's unit, or ("cents" last) in cents."""
    cents = rest[-1:] == ("cents",)
    conds = [value(c, each) for each in rest if isinstance(each, tuple)]
    for table in c.schema.columns:
        prices, stocks = columns_of(c, "price", table), columns_of(c, "stock", table)
        if len(prices) == len(stocks) == 1:
            query = Query(c.schema, table)
            what = f"SUM({query.column(prices[0])}*{query.column(stocks[0])})"
            scale = "" if cents or prices[0][2] == 1 else "/100.0"
            return [
                database(query.select(what + scale, r[2])) for r in restrict(c, rows(c, table), *conds) or ()
            ] or None
    return None


# -- people, shares, superlatives


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
    return aggregate(c, column, *rest, best[2]) if best[1][:2] == column[:2] else None


@meaning("rows_extreme")
def rows_extreme(c, which, how, column):
    """`the largest harvest in tonnes`."""
    return aggregate(c, column, which, how) if which[1] == column[0] else None


@meaning("most_common")
def most_common(c, column, how):
    """The value that most rows have; a name is each row's own."""
    return (
        None if column[1] == key_column(c.schema, column[0]) else best_group_count(c, column, rows(c, column[0]), how)
    )


# -- columns that are so much per hour


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
