"""Meanings of rules about lists of numbers, and about whole numbers (MRKL, arXiv 2205.00445)."""

import math
from fractions import Fraction

from .calls_mrkl import exact_text
from .chart_mrkl import meaning
from .values_mrkl import ONE, arithmetic, call, constant, fold, is_number, n, op, yesno


@meaning("average")
def average(c, items):
    if len(items[1]) < 2:
        return None
    return arithmetic(c, fold(c, items, "+"), n(len(items[1])), "/")


@meaning("extreme")
def extreme(c, items, which):
    values = [constant(item) if is_number(item) else None for item in items[1]]
    if None in values:
        return None
    best = (max if which == "max" else min)(range(len(values)), key=values.__getitem__)
    return call("calculator", expression=exact_text(values[best]))


@meaning("median")
def median(c, items):
    """The middle value, or the mean of the two in the middle."""
    values = [constant(item) if is_number(item) else None for item in items[1]]
    if None in values or len(values) < 3:
        return None
    ranked = [n(value) for value in sorted(values)]
    low, high = ranked[(len(values) - 1) // 2], ranked[len(values) // 2]
    return op("/", op("+", low, high), n(2))


@meaning("choose")
def choose(c, tree, chosen):
    """The binomial coefficient."""
    values = _whole(("list", (tree, chosen)))
    if values is None or not values[1] <= values[0] <= 25:
        return None
    parts = [factorial(c, n(each)) if each else n(1) for each in (*values, values[0] - values[1])]
    return op("/", parts[0], op("*", parts[1], parts[2]))


@meaning("log_base")
def log_base(c, base, value):
    """Whole ones only: the calculator is exact."""
    values = _whole(("list", (base, value)))
    if values is None or values[0] < 2:
        return None
    power, reached = 0, 1
    while reached < values[1]:
        power, reached = power + 1, reached * values[0]
    return op("-", n(power), n(0)) if reached == values[1] else None


@meaning("prime")
def prime(c, tree):
    """Whether a number's least divisor above 1 is itself."""
    value = constant(tree) if is_number(tree) else None
    if value is None or value.denominator != 1 or not 2 <= value <= 10**6:
        return None
    least = next((d for d in range(2, math.isqrt(int(value)) + 1) if value % d == 0), int(value))
    return yesno(c, n(least), tree, "=")


@meaning("geometric_mean")
def geometric_mean(c, items):
    return op("**", fold(c, items, "*"), op("/", ONE, n(len(items[1])))) if is_number(items[1][0]) else None


@meaning("harmonic_mean")
def harmonic_mean(c, items):
    if not is_number(items[1][0]):
        return None
    return op("/", n(len(items[1])), fold(c, ("list", tuple(op("/", ONE, item) for item in items[1])), "+"))


def _whole(items):
    values = [constant(item) if is_number(item) else None for item in items[1]]
    return [int(v) for v in values] if all(v is not None and v.denominator == 1 and v > 0 for v in values) else None


@meaning("common")
def common(c, items, which):
    """The least common multiple or greatest common divisor, as a product of what the numbers are made of."""

    values = _whole(items)
    if not values:
        return None
    found = (math.lcm if which == "lcm" else math.gcd)(*values)
    return op("*", n(values[0]), n(Fraction(found, values[0])))


@meaning("factorial")
def factorial(c, tree):
    value = constant(tree) if is_number(tree) else None
    if value is None or value.denominator != 1 or not 0 <= value <= 25:
        return None
    found = n(1)
    for factor in range(2, int(value) + 1):
        found = op("*", found, n(factor))
    return op("*", found, n(1)) if value < 2 else found
