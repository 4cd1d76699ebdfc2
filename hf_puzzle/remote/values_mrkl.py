"""What numbers and quantities of a question mean: trees of operations and calls (MRKL, arXiv 2205.00445).

A number is a tree: ("n", Fraction), ("op", sign, left, right), ("neg", tree) or ("call", expert, arguments), where
arguments are (name, text or tree) pairs. A quantity is ("q", ((tree, unit), ...)): a sum whose terms keep their units
until one is asked for. A unit is a name of the units expert, "$USD" for money, or with "Δ" in front a difference of
temperatures, which has no offset. Nothing is computed here: what a tree is worth, the experts say.
"""

from fractions import Fraction

from .calls_mrkl import exact_text
from .chart_mrkl import meaning


NUMBERS = frozenset(("n", "op", "neg", "call"))
ONE, HUNDRED = ("n", Fraction(1)), ("n", Fraction(100))
TEMPERATURES = ("degC", "degF", "kelvin", "degR")


def is_number(sense) -> bool:
    return isinstance(sense, tuple) and bool(sense) and sense[0] in NUMBERS


def is_quantity(sense) -> bool:
    return isinstance(sense, tuple) and bool(sense) and sense[0] == "q"


def n(value) -> tuple:
    return ("n", Fraction(value))


def call(expert: str, **arguments) -> tuple:
    return ("call", expert, tuple((name.rstrip("_"), value) for name, value in arguments.items()))


def op(sign, left, right) -> tuple:
    return ("op", sign, left, right)


def constant(sense) -> Fraction | None:
    """The number that a tree without calls or roots is plainly written as."""
    if sense[0] == "n":
        return sense[1]
    if sense[0] == "neg":
        inner = constant(sense[1])
        return None if inner is None else -inner
    return None


# -- quantities


def dimension(c, unit: str) -> str:
    """What a unit measures; "money" for currencies, "Δtemp" for differences of temperatures."""
    if unit.startswith("$"):
        return "money"
    if unit.startswith("Δ"):
        return "Δtemp"
    return c.units.units[unit][0] if c.units is not None and unit in c.units.units else unit


def quantity(c, tree, unit) -> tuple:
    return ("q", ((tree, unit),))


def converted(c, tree, start, end, date=None):
    """`tree` in another unit of one dimension, None where there is none."""
    if start == end:
        return tree
    if start.startswith("$") and end.startswith("$"):
        return call("currency", amount=tree, from_=start[1:], to=end[1:], date=date)
    if start.startswith("Δ") and end.startswith("Δ"):
        size = c.units.units[start[1:]][1] / c.units.units[end[1:]][1]
        return op("*", tree, ("n", size))
    if dimension(c, start) != dimension(c, end) or "$" in start + end or "Δ" in start + end:
        return None
    return call("units", value=tree, from_=start, to=end)


def total(c, sense, unit, date=None):
    """A quantity as one number of `unit`, None where a term has another dimension."""
    trees = []
    for tree, own in sense[1]:
        if own.startswith("Δ") and not unit.startswith("Δ"):
            unit = "Δ" + unit
        tree = converted(c, tree, own, unit, date)
        if tree is None:
            return None
        trees.append(tree)
    found = trees[0]
    for tree in trees[1:]:
        found = op("-", found, tree[1]) if tree[0] == "neg" else op("+", found, tree)
    return found


@meaning("measure")
def measure(c, tree, unit):
    """`3` and `miles`; a quantity of a quantity is none."""
    return quantity(c, tree, unit) if is_number(tree) else None


@meaning("compound")
def compound(c, left, right):
    """`5 feet 11 inches`: the second unit is smaller than the first, and its number too small to reach it."""
    if not (is_quantity(left) and is_quantity(right)) or len(right[1]) != 1:
        return None
    (tree, unit), (other, smaller) = left[1][-1], right[1][0]
    if unit == smaller or dimension(c, unit) != dimension(c, smaller) or unit in TEMPERATURES or "$" in unit + smaller:
        return None
    sizes = [c.units.units[name][1] for name in (unit, smaller)]
    value = constant(other)
    if (
        sizes[0] <= sizes[1]
        or value is None
        or value < 0
        or value * sizes[1] >= sizes[0]
        or constant(tree) is None
        or constant(tree).denominator != 1
    ):
        return None
    return ("q", left[1] + right[1])


@meaning("bare_compound")
def bare_compound(c, left, tree):
    """`6 foot 2`, `11 stone 4`: the unit that follows by custom."""
    below = {"foot": "inch", "stone": "pound", "hour": "minute", "pound": "ounce"}
    value, unit = constant(tree), left[1][-1][1] if is_quantity(left) and len(left[1]) == 1 else None
    if (
        value is None
        or value.denominator != 1
        or unit not in below
        or unit == "pound"
        or below[unit] not in c.units.units
    ):
        return None
    return compound(c, left, quantity(c, tree, below[unit]))


@meaning("asked")
def asked(c, value):
    """A value as an answer: a sum of several units in the first."""
    if not is_quantity(value) or len(value[1]) == 1:
        return value
    unit = value[1][0][1]
    tree = total(c, value, unit)
    return None if tree is None else quantity(c, tree, unit)


@meaning("in_unit")
def in_unit(c, value, unit, date=None):
    """`value` said in `unit`; a number without a unit cannot be."""
    if not is_quantity(value):
        return None
    tree = total(c, value, unit, date)
    if tree is None:
        return None
    if any(own.startswith("Δ") for _, own in value[1]):
        unit = "Δ" + unit.removeprefix("Δ")
    return quantity(c, tree, unit)


@meaning("no_unit")
def no_unit(c, tree, noun, unit):
    """`3 apples to litres`: the expert is asked, and says that it has no such unit."""
    known = c.units is None or c.units.find(noun) or noun in c.lexicon.vocabulary
    return None if known else quantity(c, call("units", value=tree, from_=noun, to=unit), unit)


@meaning("in_units")
def in_units(c, value, larger, smaller):
    """`173 cm in feet and inches`."""
    if (
        not is_quantity(value)
        or dimension(c, larger) != dimension(c, smaller)
        or larger in TEMPERATURES
        or "$" in larger + smaller
    ):
        return None
    tree = total(c, value, smaller)
    sizes = [c.units.units[name][1] for name in (larger, smaller)]
    if tree is None or sizes[0] <= sizes[1] or (sizes[0] / sizes[1]).denominator != 1:
        return None
    return ("split", tree, sizes[0] / sizes[1], larger, smaller)


@meaning("delta")
def delta(c, value):
    """A change of so many degrees."""
    if not is_quantity(value) or len(value[1]) != 1:
        return None
    (tree, unit) = value[1][0]
    return quantity(c, tree, "Δ" + unit) if unit in TEMPERATURES else value


@meaning("below_zero")
def below_zero(c, tree, unit, zero=None, of=None):
    """`5 degrees below zero`, also where the zero is a number with the same unit."""
    if zero is not None and constant(zero) != 0 or of not in (None, unit):
        return None
    return quantity(c, ("neg", tree), unit) if unit in TEMPERATURES and is_number(tree) else None


@meaning("money_cents")
def money_cents(c, tree, *whose):
    """`99 cents` of the currencies that have them: several meanings, unless something else tells which."""
    if not is_number(tree):
        return None
    codes = whose or [f"${code}" for code in ("USD", "EUR", "AUD", "CAD", "NZD") if code in c.known.currencies]
    return [quantity(c, op("/", tree, HUNDRED), code) for code in codes] or None


@meaning("how_many_cents")
def how_many_cents(c, value):
    if not is_quantity(value) or len(value[1]) != 1 or value[1][0][1] not in ("$USD", "$EUR", "$AUD", "$CAD", "$NZD"):
        return None
    return op("*", value[1][0][0], HUNDRED)


@meaning("and_cents")
def and_cents(c, value, tree):
    if not is_quantity(value) or len(value[1]) != 1 or not value[1][0][1].startswith("$") or not is_number(tree):
        return None
    whole, unit = value[1][0]
    cents = constant(tree)
    if cents is None or not 0 <= cents < 100 or unit not in ("$USD", "$EUR", "$AUD", "$CAD", "$NZD", "$GBP"):
        return None
    return quantity(c, op("+", whole, op("/", tree, HUNDRED)), unit)


# -- arithmetic


@meaning("op")
def arithmetic(c, left, right, sign):
    """`left sign right` on numbers and quantities, None where the types do not go together."""
    if is_number(left) and is_number(right):
        return op(sign, left, right)
    if is_quantity(left) and is_quantity(right):
        return _quantities(c, left, right, sign)
    if sign in "*/" and is_quantity(left) and is_number(right):
        return _scaled(c, left, lambda tree: op(sign, tree, right))
    if sign == "*" and is_number(left) and is_quantity(right):
        return _scaled(c, right, lambda tree: op("*", left, tree))
    return None


def _scaled(c, value, change):
    if any(unit in TEMPERATURES for _, unit in value[1]):
        return None
    return ("q", tuple((change(tree), unit) for tree, unit in value[1]))


def _quantities(c, left, right, sign):
    (first, unit), (second, other) = left[1][0], right[1][0]
    if sign in "+-":
        if dimension(c, unit) != dimension(c, other):
            return None
        if unit in TEMPERATURES:
            moved = converted(c, second, other, unit)
            return (
                quantity(c, op("-", first, moved), "Δ" + unit)
                if sign == "-" and len(left[1]) == len(right[1]) == 1
                else None
            )
        terms = tuple(
            (tree if sign == "+" else tree[1] if tree[0] == "neg" else ("neg", tree), own) for tree, own in right[1]
        )
        return ("q", left[1] + terms)
    if sign == "/" and dimension(c, unit) == dimension(c, other) and unit not in TEMPERATURES:
        return op("/", total(c, left, unit), total(c, right, unit))
    if len(left[1]) > 1 or len(right[1]) > 1:
        return None
    if sign == "*" and unit == other and f"square_{unit}" in c.units.units:
        return quantity(c, op("*", first, second), f"square_{unit}")
    if sign == "/" and f"{unit}_per_{other}" in c.units.units:
        return quantity(c, op("/", first, second), f"{unit}_per_{other}")
    return None


@meaning("by_amount")
def by_amount(c, value, amount, sign):
    """Raised or lowered by an amount; `by a third` may mean a third of it, so that it means neither."""
    share = constant(amount) if is_number(amount) else None
    return None if share is not None and 0 < abs(share) < 1 else arithmetic(c, value, amount, sign)


@meaning("split")
def split(c, *values):
    """`split 120 sweets between 8 people`: things and people do not matter."""
    numbers = [value for value in values if not isinstance(value, str)]
    return arithmetic(c, *numbers, "/") if len(numbers) == 2 else None


@meaning("negative")
def negative(c, value):
    if is_number(value):
        return ("neg", value)
    if is_quantity(value) and len(value[1]) == 1:
        tree, unit = value[1][0]
        return quantity(c, ("neg", tree), unit)
    return None


@meaning("number")
def number(c, sense):
    """What is a number, without a unit."""
    return sense if is_number(sense) else None


@meaning("n")
def ordinal(c, value):
    """An ordinal as a number."""
    return n(value)


@meaning("root")
def root(c, value, degree):
    """The `degree`-th root; the first is none."""
    degree = degree if isinstance(degree, tuple) else n(degree)
    return op("**", value, op("/", ONE, degree)) if is_number(value) and degree != ONE else None


@meaning("fraction_of")
def fraction_of(c, tree, value):
    """`half of`, `two thirds of`: only a fraction is taken of something."""
    share = constant(tree)
    if share is None or share.denominator == 1:
        return None
    if is_number(value):
        return op("*", tree, value)
    return arithmetic(c, tree, value, "*")


@meaning("percent")
def percent(c, tree):
    return ("pct", tree) if is_number(tree) else None


@meaning("pct_of")
def pct_of(c, share, value):
    if is_number(value):
        return op("/", op("*", value, share[1]), HUNDRED)
    return arithmetic(c, op("/", share[1], HUNDRED), value, "*")


@meaning("over_pct")
def over_pct(c, value, share):
    return arithmetic(c, value, op("/", share[1], HUNDRED), "/")


@meaning("pct_change")
def pct_change(c, value, share, sign):
    """A value raised ("+") or lowered ("-") by a percentage."""
    factor = op("/", op(sign, HUNDRED, share[1]), HUNDRED)
    return op("*", value, factor) if is_number(value) else arithmetic(c, factor, value, "*")


# -- lists


@meaning("list")
def list_of(c, *items):
    found = []
    for item in items:
        found += item[1] if isinstance(item, tuple) and item and item[0] == "list" else (item,)
    kinds = {is_number(item) for item in found}
    return ("list", tuple(found)) if len(kinds) == 1 else None


@meaning("fold")
def fold(c, items, sign):
    """A list added, multiplied, ... from the left."""
    found = items[1][0]
    if sign in ("-", "/") and len(items[1]) != 2:
        return None
    for item in items[1][1:]:
        found = arithmetic(c, found, item, sign)
        if found is None:
            return None
    return found


@meaning("difference")
def difference(c, items):
    """The difference between two values has no sign: the larger less the smaller."""
    if len(items[1]) != 2:
        return None
    left, right = items[1]
    if all(is_quantity(each) and each[1][0][0] == ONE for each in items[1]):
        # what sets a mile and a nautical mile apart is no number
        return None
    values = [constant(each) if is_number(each) else None for each in (left, right)]
    if None in values:
        # of what is looked up the first less the second, in the order of the question
        return arithmetic(c, left, right, "-")
    return op("-", *((left, right) if values[0] >= values[1] else (right, left)))


@meaning("remains")
def remains(c, value):
    """What remains after something was taken away; of a division the remainder does."""
    return None if is_number(value) and value[0] == "op" and value[1] == "/" else value


@meaning("rounded")
def rounded(c, value, places="0"):
    """Rounded half away from zero, by the calculator: floor(x * 10**k + 1/2) / 10**k for what is not negative."""
    places = constant(places) if isinstance(places, tuple) else int(places)
    if not is_number(value) or places is None or places != int(places) or not 0 <= places <= 12:
        return None
    scale = n(10 ** int(places))
    tree = op("//", op("+", op("*", value, scale), n(Fraction(1, 2))), ONE)
    known = constant(value)
    if known is not None and known < 0:
        return None
    return op("/", tree, scale) if places else tree


# -- several statements


@meaning("step")
def step(c, operand, sign):
    """An operation on what came before: the operand may be a percentage, by which that is raised or lowered."""
    return ("then", sign, operand)


@meaning("then")
def then(c, value, step):
    """`value`, and an operation on it."""
    _, sign, operand = step
    return pct_change(c, value, operand, sign) if operand[0] == "pct" else arithmetic(c, value, operand, sign)


# -- rates and comparisons


@meaning("sign_cur")
def sign_cur(c, sign, tree, code):
    return (
        measure(c, tree, code)
        if sign == code or (sign == "$USD" and code in ("$USD", "$AUD", "$CAD", "$NZD", "$HKD", "$SGD"))
        else None
    )


@meaning("yesno")
def yesno(c, left, right, sign):
    """Whether `left` is more, less or the same as `right`."""
    if is_quantity(left) and is_quantity(right):
        unit = right[1][0][1]
        left, right = total(c, left, unit), total(c, right, unit)
        if left is None or right is None:
            return None
    return ("yesno", sign, left, right) if is_number(left) and is_number(right) else None


@meaning("which")
def which(c, left, right, mode):
    """The greater or smaller of two, as it was said."""
    first = yesno(c, left, right, ">")
    labels = said(c, left), said(c, right)
    return None if first is None or "" in labels else ("which", mode, labels, first[2:])


def said(c, value) -> str:
    """A value as a label: units in the question's own spelling."""
    if is_number(value):
        known = constant(value)
        return "" if known is None else exact_text(known)
    return " ".join(f"{said(c, tree)} {c.spelling(unit)}" for tree, unit in value[1])


@meaning("per_named")
def per_named(c, upper, lower):
    if c.units is None or not {upper, lower} <= set(c.units.units):
        return None
    return ("rate", upper, lower, Fraction(1))


@meaning("per")
def per(c, upper, lower, count=ONE):
    """The unit of a rate: so much of `upper` per `count` of `lower`."""
    value = constant(count)
    return ("rate", upper, lower, value) if value and value > 0 else None


@meaning("rated")
def rated(c, tree, rate):
    return ("rated", tree, rate)


@meaning("rate_in")
def rate_in(c, value, rate):
    """A rate in another: units above and below are converted apart; the inverse where they have changed places."""
    _, tree, (_, upper, lower, count) = value
    _, to_upper, to_lower, to_count = rate
    above, below = (dimension(c, upper), dimension(c, lower)), (dimension(c, to_upper), dimension(c, to_lower))
    if (
        {"temp", "Δtemp"} & {*above, *below}
        or above[0] == above[1]
        or (upper, lower, count) == (to_upper, to_lower, to_count)
    ):
        return None
    if above == below:
        found = op("*", tree, op("*", converted(c, ONE, upper, to_upper), converted(c, ONE, to_lower, lower)))
        return op("*", found, n(to_count / count))
    if above == below[::-1]:
        factors = op("*", converted(c, ONE, lower, to_upper), converted(c, ONE, to_lower, upper))
        return op("*", op("/", n(count * to_count), tree), factors)
    return None


# -- rates of a day


@meaning("redate")
def redate(c, value, date):
    """A conversion of money without a day, at the rates of that day."""
    if not is_quantity(value) or len(value[1]) != 1 or date[0] != "d":
        return None
    tree, unit = value[1][0]
    if tree[0] != "call" or tree[1] != "currency" or dict(tree[2])["date"] is not None:
        return None
    return quantity(c, call("currency", **{**{_name(k): v for k, v in tree[2]}, "date": date}), unit)


def _name(argument):
    return argument + "_" if argument == "from" else argument


@meaning("part_of_op")
def part_of_op(c, share, left, right, sign):
    """`half of 7 plus 3` may be half of 10 too."""
    part = constant(share)
    return None if part is None or part.denominator == 1 else op("*", share, op(sign, left, right))
