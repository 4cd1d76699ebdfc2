"""Meanings of rules about things that are told: what one has, pays, earns and travels (MRKL, arXiv 2205.00445)."""

from fractions import Fraction

from .calendar_mrkl import DAYS, MONTHS
from .chart_mrkl import meaning
from .values_mrkl import (
    HUNDRED,
    ONE,
    arithmetic,
    constant,
    dimension,
    in_unit,
    is_number,
    is_quantity,
    n,
    op,
    pct_change,
    pct_of,
    quantity,
    total,
)


# -- what one has


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


@meaning("owned_left")
def owned_left(c, owned, noun=""):
    return owned[1] if not noun or not owned[2] or noun == owned[2] else None


# -- speeds, packs, and what one of several costs


@meaning("priced")
def priced(c, value, noun):
    """`a $50 shirt`: a price, whatever it is the price of."""
    return value if value[1][0][1].startswith("$") else None


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


@meaning("each_at")
def each_at(c, count, *rest):
    """`6 tickets at 14.75 each`: what they are does not matter."""
    return arithmetic(c, count, rest[-1], "*")


@meaning("at_rate")
def at_rate(c, count, unit, *rest):
    """`5 kilos of apples at 2.40 a kilo`: so much per unit, so many units."""
    *_, price, per = rest
    amount = total(c, quantity(c, count, unit), per)
    return None if amount is None else arithmetic(c, amount, price, "*")


@meaning("travelled")
def travelled(c, way, unit=None):
    """How far that is, in a unit that may be asked for."""
    return way if unit is None else in_unit(c, way, unit)


@meaning("pace")
def pace(c, *senses):
    """So far in so long: ("pace", length, time); a noun before them says who moves."""
    kinds = [dimension(c, each[1][0][1]) if is_quantity(each) else "" for each in senses[-2:]]
    return ("pace", *senses[-2:]) if kinds == ["len", "time"] else None


@meaning("speed_in")
def speed_in(c, paced, unit):
    named = _speed(c, quantity(c, ONE, unit))
    if named is None:
        return None
    return quantity(c, op("/", total(c, paced[1], named[1]), total(c, paced[2], named[2])), unit)


# -- taxes, discounts, interest, pay


@meaning("charges")
def charges(c, first, second):
    """Two percentages of one amount."""
    return ("pct", op("+", first[1], second[1]))


@meaning("whole")
def whole(c, value, share, sign):
    """What was raised ("+") or lowered ("-") by a percentage, and became `value`."""
    return arithmetic(c, value, pct_change(c, ONE, share, sign), "/")


@meaning("simple_interest")
def simple_interest(c, value, share, count, unit):
    """The interest of each year is that of the first."""
    months = {"year": 12, "month": 1}.get(unit)
    years = count if months == 12 else op("/", count, n(12))
    return None if months is None else arithmetic(c, pct_of(c, share, value), years, "*")


@meaning("compounded")
def compounded(c, value, count, unit, share):
    """What a value grows to when interest is added every year."""
    years = constant(count)
    if unit != "year" or years is None or years.denominator != 1 or not 1 <= years <= 100:
        return None
    return arithmetic(c, value, op("**", pct_change(c, ONE, share, "+"), count), "*")


@meaning("earning")
def earning(c, *parts):
    """So much per unit of time, or so many units of time and perhaps per period."""
    return ("earning", *parts)


@meaning("pay")
def pay(c, rate, work, *asked):
    """What is earned by the hour: in a period as long as the work is told for, or so many of them."""
    period = work[3] if len(work) > 3 else ()
    *times, unit = asked or ((),)
    length = total(c, quantity(c, *work[1:3]), rate[2])
    if length is None or unit != period:
        return None
    found = arithmetic(c, rate[1], length, "*")
    return arithmetic(c, found, times[0], "*") if times else found


@meaning("by_how_much")
def by_how_much(c, which):
    """Which of two, and by how much."""
    return ("apart", *which[1:]) if which[0] == "which" and len(which[3]) == 2 else None


@meaning("rated_at")
def rated_at(c, *senses):
    """`petrol is 1.85 per litre`: what it is does not matter."""
    return ("earning", *senses[-2:])


@meaning("at_period")
def at_period(c, rate, *asked):
    """So much per unit, for so many of another unit that is always as long: what months and days are not."""
    *number, unit = [each for each in asked if is_number(each)][:1] + [
        each for each in asked if isinstance(each, str)
    ][:1]
    table = next((sizes for sizes in (DAYS, MONTHS) if {unit, rate[2]} <= set(sizes)), None)
    count = number[0] if number else ONE
    if unit == rate[2]:
        return arithmetic(c, rate[1], count, "*")
    if table is None:
        length = (
            total(c, quantity(c, count, unit), rate[2]) if c.units and {unit, rate[2]} <= set(c.units.units) else None
        )
        return None if length is None else arithmetic(c, rate[1], length, "*")
    size = n(Fraction(table[unit], table[rate[2]]))
    return arithmetic(c, arithmetic(c, rate[1], count, "*"), size, "*")


@meaning("then_now")
def then_now(c, *senses):
    """`a laptop was 900 and is now 765`."""
    return ("then now", *senses[-2:])


@meaning("changed")
def changed(c, told, sign):
    """By how many percent a price rose ("+") or fell; what did the other is not answered."""
    before, after = told[1:]
    share = arithmetic(c, after, before, "/")
    if share is None or not is_number(share):
        return None
    values = [constant(each[1][0][0] if is_quantity(each) else each) for each in (before, after)]
    if None in values or (values[1] > values[0]) != (sign == "+"):
        return None
    return op("*", op("-", share, ONE) if sign == "+" else op("-", ONE, share), HUNDRED)


@meaning("price_per")
def price_per(c, paid, count, noun, *rest):
    return arithmetic(c, paid, count, "/") if rest[-1] in (noun, *rest[:-1]) else None


@meaning("each_of")
def each_of(c, count, *rest):
    """`28 pupils, each needs 3 notebooks`: notebooks are asked for, and nothing else."""
    per = next(each for each in rest if is_number(each))
    thing, asked = rest[-2:]
    return op("*", count, per) if thing == asked else None


@meaning("days_for")
def days_for(c, per, thing, unit, asked, whole, *things):
    """`35 pages a day, how many days for a 420 page book`."""
    return op("/", whole, per) if unit == asked and thing in things else None


@meaning("scaled_up")
def scaled_up(c, dish, few, amount, unit, thing, asked, many):
    """A recipe for so many people, for more of them: of the same thing."""
    value = arithmetic(c, op("/", amount, few), many, "*")
    return quantity(c, value, unit) if thing == asked else None


@meaning("ages")
def ages(c, *told):
    """Somebody's age, and how much older ("+") or younger a relative is: ("ages", the relative's age, the relative)."""
    *told, sign = told
    first, second = [each for each in told if is_number(each)]
    return ("ages", op(sign, first, second), next(each for each in told if isinstance(each, str)))


@meaning("aged")
def aged(c, told, asked):
    return told[1] if told[2] == asked else None


@meaning("first")
def first_of(c, value, *rest):
    return value
