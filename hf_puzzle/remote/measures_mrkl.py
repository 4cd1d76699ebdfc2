"""Meanings of rules about rates, comparisons of quantities, and stories about things (MRKL, arXiv 2205.00445)."""

from fractions import Fraction

from .calls_mrkl import exact_text
from .chart_mrkl import meaning
from .values_mrkl import (
    ONE,
    arithmetic,
    below_zero,
    call,
    constant,
    converted,
    difference,
    dimension,
    in_unit,
    is_number,
    is_quantity,
    list_of,
    measure,
    n,
    op,
    quantity,
    total,
)


# -- quantities of several parts, rates, comparisons


@meaning("negative_measure")
def negative_measure(c, tree, unit):
    return measure(c, ("neg", tree), unit)


@meaning("one_half")
def one_half(c, unit):
    return quantity(c, n(Fraction(3, 2)), unit)


@meaning("below_measure")
def below_measure(c, tree, unit, *zero):
    if zero and (constant(zero[0]) != 0 or unit != zero[1]):
        return None
    return below_zero(c, tree, unit)


@meaning("below_number")
def below_number(c, tree, zero, unit):
    return below_zero(c, tree, unit) if constant(zero) == 0 else None


@meaning("sign_cur")
def sign_cur(c, sign, tree, code):
    return (
        measure(c, tree, code)
        if sign == code or (sign == "$USD" and code in ("$USD", "$AUD", "$CAD", "$NZD", "$HKD", "$SGD"))
        else None
    )


@meaning("difference_of")
def difference_of(c, left, right):
    return difference(c, list_of(c, left, right)) if is_number(left) == is_number(right) else None


@meaning("reciprocal")
def reciprocal(c, value):
    return op("/", ONE, value) if is_number(value) else None


@meaning("in_unit_on")
def in_unit_on(c, value, unit, date):
    return in_unit(c, value, unit, date) if date[0] == "d" else None


@meaning("rate")
def rate(c, start, end, date=None):
    return in_unit(c, quantity(c, ONE, start), end, date) if start != end else None


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
    return None if first is None else ("which", mode, (said(c, left), said(c, right)), first[2:])


def said(c, value) -> str:
    """A value as a label: units in the question's own spelling."""
    if is_number(value):
        known = constant(value)
        return "" if known is None else exact_text(known)
    return " ".join(f"{said(c, tree)} {c.spelling(unit)}" for tree, unit in value[1])


@meaning("divisible")
def divisible(c, left, right):
    return ("yesno", "=", op("%", left, right), n(0)) if constant(right) else None


@meaning("per")
def per(c, upper, lower):
    return ("rate", upper, lower, Fraction(1))


@meaning("per_many")
def per_many(c, upper, count, lower):
    value = constant(count)
    return ("rate", upper, lower, value) if value and value > 0 else None


@meaning("per_named")
def per_named(c, upper, lower):
    if c.units is None or not {upper, lower} <= set(c.units.units):
        return None
    return ("rate", upper, lower, Fraction(1))


@meaning("rate_value")
def rate_value(c, tree, rate):
    return ("rated", tree, rate)


@meaning("sign_rate")
def sign_rate(c, sign, tree, lower):
    return ("rated", tree, per(c, sign, lower))


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


# -- stories


@meaning("stuff")
def stuff(c, value, noun=""):
    """So many of a thing: ("stuff", value, noun)."""
    return ("stuff", value, noun)


@meaning("owned")
def owned(c, before, change, sign):
    """More or fewer of the same thing; of another thing there is no sum."""
    value = arithmetic(c, before[1], change[1], sign)
    nouns = {noun for noun in (before[2], change[2]) if noun}
    return None if value is None or len(nouns) > 1 else ("stuff", value, next(iter(nouns), ""))


@meaning("packs")
def packs(c, count, pack, size, noun):
    return ("stuff", op("*", count, size), noun)


@meaning("owned_left")
def owned_left(c, owned, noun=""):
    return owned[1] if not noun or not owned[2] or noun == owned[2] else None


@meaning("owned_unit")
def owned_unit(c, owned, unit):
    return in_unit(c, owned[1], unit)


@meaning("apart")
def apart(c, left, right):
    return difference_of(c, left, right)


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


@meaning("priced")
def priced(c, value, noun):
    """`a $50 shirt`: a price, whatever it is the price of."""
    return value if value[1][0][1].startswith("$") else None


@meaning("as_percent")
def as_percent(c, value):
    return op("*", value, n(100)) if is_number(value) else None


# -- speeds, packs, and what one of several costs


def _speed(c, value):
    """(number, length, time) of a speed that is a length per time, such as 60 mph."""
    if not is_quantity(value) or len(value[1]) != 1:
        return None
    tree, unit = value[1][0]
    length, _, time = unit.partition("_per_")
    return (tree, length, time) if {length, time} <= set(c.units.units if c.units is not None else ()) else None


@meaning("distance")
def distance(c, *senses):
    """How far at that speed in that time; a noun before them says who moves."""
    speed, time = senses[-2:]
    found = _speed(c, speed)
    hours = total(c, time, found[2]) if found and is_quantity(time) else None
    return None if hours is None else quantity(c, op("*", found[0], hours), found[1])


@meaning("duration")
def duration(c, length, speed):
    found = _speed(c, speed)
    far = total(c, length, found[1]) if found and is_quantity(length) else None
    return None if far is None else quantity(c, op("/", far, found[0]), found[2])


@meaning("proportion")
def proportion(c, count, noun, price, *rest):
    """`3 apples cost 2.40, what do 5 cost`: as many times the price of one."""
    wanted = [each for each in rest if is_number(each)] or [ONE]
    if any(each != noun for each in rest if isinstance(each, str)):
        return None
    return arithmetic(c, arithmetic(c, price, count, "/"), wanted[0], "*") if constant(count) else None


@meaning("packed")
def packed(c, box, count, thing, asked, boxes, box_again):
    """`a box holds 24 eggs, how many eggs in 15 boxes`."""
    return op("*", count, boxes) if (box, thing) == (box_again, asked) else None


@meaning("root_op")
def root_op(c, left, right, sign):
    """`the square root of 2 times 8` may be the root of 16 too."""
    return op("**", op(sign, left, right), op("/", ONE, n(2)))


@meaning("part_of_op")
def part_of_op(c, share, left, right, sign):
    """`half of 7 plus 3` may be half of 10 too."""
    part = constant(share)
    return None if part is None or part.denominator == 1 else op("*", share, op(sign, left, right))


@meaning("in_unit_share")
def in_unit_share(c, value, unit, share):
    found = in_unit(c, value, unit)
    return found and arithmetic(c, op("/", share[1], n(100)), found, "*")
