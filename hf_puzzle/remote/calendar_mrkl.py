"""The calendar: exact arithmetic on days, and what dates, spans and periods of a question mean (MRKL, arXiv 2205.00445).

The calendar is the proleptic Gregorian one, years 1 to 9999; no clock is read. In a reading a date is ("d", ISO text or
call); a span ("span", ((number, unit), ...)) in calendar units, which no factor turns into seconds; a period ("period",
first day, last day). Anchors such as "last Friday" are days at once, counted from the reference date; everything else
is a call of the calendar expert.
"""

import calendar
import datetime
import re
from fractions import Fraction

from .calls_mrkl import ArgumentsError, short
from .chart_mrkl import meaning
from .values_mrkl import call, constant, is_number, n, op


# the locale must not name the days
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAYS = {"day": 1, "week": 7, "fortnight": 14}
MONTHS = {"month": 1, "quarter": 3, "year": 12, "decade": 120, "century": 1200}
# days in 9998 years: no shift can be longer
MAX_DAYS = 3_652_058


class DateError(ArgumentsError):
    """A text is not one day, or a shift leaves the years 1 to 9999."""


# -- days in figures


def numeric_day(text: str) -> datetime.date | None:
    """The day of 2022-05-01, 2022/5/1, 1.5.2022, 31/12/2021, 12/31/2021; None for what is no such date.

    Raises:
        DateError: There is no such day, or day and month could be either.
    """
    match = re.fullmatch(r"([0-9]{4})([-/])([0-9]{1,2})\2([0-9]{1,2})", text)
    if match:
        return _day(int(match[1]), int(match[3]), int(match[4]), text)
    match = re.fullmatch(r"([0-9]{1,2})([./-])([0-9]{1,2})\2([0-9]{4})", text)
    if not match:
        return None
    first, second, year = int(match[1]), int(match[3]), int(match[4])
    readings = {(second, first), (first, second)} if match[2] != "." else {(second, first)}
    possible = [each for each in readings if 1 <= each[0] <= 12]
    if len(possible) > 1:
        raise DateError(
            f"{text!r} is {year}-{second:02d}-{first:02d} or {year}-{first:02d}-{second:02d}; write it as ISO"
        )
    return _day(year, *(possible or [(second, first)])[0], text)


def _day(year, month, number, text):
    try:
        return datetime.date(year, month, number)
    except (ValueError, OverflowError) as error:
        raise DateError(f"{short(text)}: there is no such day") from error


# -- arithmetic


def shift(start: datetime.date, years=0, months=0, weeks=0, days=0) -> tuple[datetime.date, bool]:
    """`start` moved by whole years and months first, then weeks and days.

    Returns: the day, and whether a day that the month lacks was replaced by its last one.
    Raises:
        DateError: The day is outside the years 1 to 9999.
    """
    if max(abs(years), abs(months), abs(weeks), abs(days)) > MAX_DAYS:
        raise DateError("a shift beyond the years 1 to 9999")
    year, month = divmod(start.year * 12 + start.month - 1 + 12 * years + months, 12)
    if not 1 <= year <= 9999:
        raise DateError("a shift beyond the years 1 to 9999")
    last = calendar.monthrange(year, month + 1)[1]
    try:
        moved = datetime.date(year, month + 1, min(start.day, last)) + datetime.timedelta(days=7 * weeks + days)
    except OverflowError as error:
        raise DateError("a shift beyond the years 1 to 9999") from error
    return moved, start.day > last


def years_between(start: datetime.date, end: datetime.date) -> int:
    """Full years from `start` to `end`; negative when `end` is earlier."""
    if end < start:
        return -years_between(end, start)
    return end.year - start.year - ((end.month, end.day) < (start.month, start.day))


def months_between(start: datetime.date, end: datetime.date) -> int:
    """Full months from `start` to `end`; negative when `end` is earlier."""
    if end < start:
        return -months_between(end, start)
    return 12 * (end.year - start.year) + end.month - start.month - (end.day < start.day)


def business_days_between(start: datetime.date, end: datetime.date) -> int:
    """Days from Monday to Friday in (start, end]; negative when `end` is earlier."""
    if end < start:
        return -business_days_between(end, start)
    weeks, rest = divmod((end - start).days, 7)
    return 5 * weeks + sum((start.weekday() + ahead) % 7 < 5 for ahead in range(1, rest + 1))


def shift_business(start: datetime.date, count: int) -> datetime.date:
    """`start` moved by `count` days from Monday to Friday; holidays are not known.

    Raises:
        DateError: The day is outside the years 1 to 9999.
    """
    weeks, rest = divmod(abs(count), 5)
    sign = 1 if count >= 0 else -1
    moved, _ = shift(start, days=7 * weeks * sign)
    if weeks and not rest and moved.weekday() > 4:
        # whole weeks from a weekend end on the business day before or after it
        moved, rest = shift(moved, days=-7 * sign)[0], 5
    while rest:
        moved, _ = shift(moved, days=sign)
        rest -= moved.weekday() < 5
    return moved


def count_weekday(start: datetime.date, end: datetime.date, weekday: int) -> int:
    """How often `weekday` (Monday is 0) comes in [start, end]."""
    return max(0, ((end - start).days - (weekday - start.weekday()) % 7) // 7 + 1)


# -- meanings


def day_of(sense) -> datetime.date | None:
    """The day of a date that needs no call."""
    return datetime.date.fromisoformat(sense[1]) if isinstance(sense[1], str) else None


def date(day) -> tuple:
    return ("d", day.isoformat())


def moved(day, **steps):
    try:
        return shift(day, **steps)[0]
    except DateError:
        return None


# -- days


@meaning("ymd")
def ymd(c, day, month, year=None):
    try:
        return date(datetime.date(year or c.today.year, month, day))
    except ValueError:
        return None


@meaning("checked_weekday")
def checked_weekday(c, weekday, sense):
    """`Friday 6 May 2022`, None where that day is no Friday."""
    day = day_of(sense)
    return sense if day and day.weekday() == weekday else None


@meaning("holiday")
def holiday(c, monthday, year=None):
    return ymd(c, monthday[1], monthday[0], year)


@meaning("holiday_near")
def holiday_near(c, monthday, period):
    """`Christmas this year`."""
    whole = (period[2] - period[1]).days > 300
    return holiday(c, monthday, period[1].year) if whole else None


@meaning("near")
def near(c, days):
    """Today, tomorrow, yesterday."""
    return date(moved(c.today, days=int(days)))


@meaning("weekday_beside")
def weekday_beside(c, weekday, sense, side):
    """The first such weekday after a day, or the last one before it; the day itself is neither."""
    day = day_of(sense)
    if day is None:
        return None
    ahead = (weekday - day.weekday() - 1) % 7 + 1
    return date(moved(day, days=ahead if side == "1" else ahead - 7 if ahead < 7 else -7))


@meaning("weekday_coming")
def weekday_coming(c, weekday):
    """`next Friday`: the nearest one and that of the next week, which are not always the same."""
    nearest = weekday_beside(c, weekday, date(c.today), "1")
    following = date(moved(c.today, days=7 - c.today.weekday() + weekday))
    return nearest if nearest == following else [nearest, following]


@meaning("nth_weekday")
def nth_weekday(c, ordinal, weekday, period):
    """`third Monday of`, ("last") `last Monday of` a period."""
    first, last = period[1:]
    if ordinal == "last":
        return date(last - datetime.timedelta(days=(last.weekday() - weekday) % 7))
    day = first + datetime.timedelta(days=(weekday - first.weekday()) % 7 + 7 * (ordinal - 1))
    return date(day) if 1 <= ordinal <= 5 and day <= last else None


@meaning("nth_day")
def nth_day(c, ordinal, period):
    ordinal = ordinal if isinstance(ordinal, int) else int(constant(ordinal))
    day = moved(period[1], days=ordinal - 1)
    return date(day) if day and day <= period[2] else None


@meaning("edge_of")
def edge_of(c, period, which):
    return date(period[1] if which == "first" else period[2])


# -- periods


def period_of(first, months=0, days=0) -> tuple:
    following = moved(first, months=months, days=days)
    return None if following is None else ("period", first, following - datetime.timedelta(days=1))


@meaning("month_of")
def month_of(c, month, year=None):
    return period_of(datetime.date(year or c.today.year, month, 1), months=1)


@meaning("year_of")
def year_of(c, year):
    return period_of(datetime.date(year, 1, 1), months=12)


@meaning("quarter_of")
def quarter_of(c, ordinal, year=None):
    if isinstance(ordinal, tuple):
        ordinal = int(constant(ordinal))
    return period_of(datetime.date(year or c.today.year, 3 * ordinal - 2, 1), months=3) if 1 <= ordinal <= 4 else None


@meaning("decade_of")
def decade_of(c, year):
    return period_of(datetime.date(year, 1, 1), months=120) if year % 10 == 0 else None


@meaning("near_period")
def near_period(c, unit, steps):
    """`last month`, `this quarter`, `next year`; weeks begin on Monday."""
    steps = int(steps)
    if unit == "week":
        monday = c.today - datetime.timedelta(days=c.today.weekday())
        return period_of(moved(monday, weeks=steps), days=7)
    if unit not in ("month", "quarter", "year"):
        return None
    size = MONTHS[unit]
    month = (c.today.month - 1) // size * size + 1
    return period_of(moved(c.today.replace(month=month, day=1), months=size * steps), months=size)


@meaning("month_near")
def month_near(c, month, steps):
    """`last March`: the nearest whole one before this month, or after it."""
    first = c.today.replace(month=month, day=1)
    if steps == "-1" and first >= c.today.replace(day=1):
        first = moved(first, years=-1)
    if steps == "1" and first <= c.today.replace(day=1):
        first = moved(first, years=1)
    return period_of(first, months=1)


@meaning("from_to")
def from_to(c, start, end):
    """A period from the first day of one period to the last of another."""
    return ("period", start[1], end[2]) if start[1] <= end[2] else None


@meaning("days_of")
def days_of(c, number, end):
    """`from 3 to 9 May`: both in the month of the second."""
    last = day_of(end)
    return None if last is None or number > last.day else ("period", last.replace(day=number), last)


@meaning("date_range")
def date_range(c, start, end):
    first, last = day_of(start), day_of(end)
    return ("period", first, last) if first and last and first <= last else None


# -- spans


@meaning("span")
def span(c, tree, unit):
    value = constant(tree) if is_number(tree) else None
    if value is None:
        return ("span", ((tree, unit),)) if is_number(tree) and unit in DAYS else None
    if value < 0:
        return None
    if value.denominator != 1:
        # half a year is six months, a day and a half is no day
        smaller = ("month", MONTHS[unit]) if unit in MONTHS else ("day", DAYS.get(unit, 1))
        if (value * smaller[1]).denominator != 1:
            return None
        value, unit = value * smaller[1], smaller[0]
    return ("span", ((n(value), unit),))


@meaning("business_span")
def business_span(c, tree):
    value = constant(tree)
    return ("span", ((tree, "business"),)) if value is not None and value.denominator == 1 and value >= 0 else None


@meaning("spans")
def spans(c, left, right):
    units = [unit for _, unit in left[1]]
    return (
        ("span", left[1] + right[1])
        if all(unit not in units for _, unit in right[1]) and "business" not in units
        else None
    )


@meaning("shifted")
def shifted(c, length, start, sign):
    """`start` moved by a span, forwards for "+"."""
    if start[0] != "d":
        return None
    steps = {"days": None, "months": 0, "years": 0, "business_days": 0}
    for tree, unit in length[1]:
        value = constant(tree)
        if unit in DAYS:
            tree = (
                tree
                if DAYS[unit] == 1
                else n(value * DAYS[unit])
                if value is not None
                else op("*", tree, n(DAYS[unit]))
            )
            steps["days"] = tree if steps["days"] is None else op("+", steps["days"], tree)
        elif unit == "business":
            steps["business_days"] += int(value)
        elif unit in ("month", "quarter"):
            steps["months"] += int(value) * MONTHS[unit]
        elif value is not None and unit in MONTHS:
            steps["years"] += int(value) * MONTHS[unit] // 12
        else:
            return None
    given = {}
    if steps["days"] is not None:
        days = steps["days"]
        known = constant(days)
        if days[0] == "op" and all(constant(each) is not None for each in days[2:]):
            known = sum(constant(each) for each in days[2:])
        given["days"] = (
            str(int(known) if sign == "+" else -int(known))
            if known is not None
            else days
            if sign == "+"
            else ("neg", days)
        )
    for name in ("months", "years", "business_days"):
        if steps[name]:
            given[name] = str(steps[name] if sign == "+" else -steps[name])
    if not given:
        given["days"] = "0"
    return ("d", call("dates", op="shift", date=start, **given))


# -- what is asked


@meaning("weekday_of")
def weekday_of(c, sense):
    return ("text", call("dates", op="weekday", date=sense))


@meaning("day_asked")
def day_asked(c, sense):
    """`what day is`: the weekday of a day that was said; of one that has to be counted it may be the date as well."""
    return weekday_of(c, sense) if isinstance(sense[1], str) else [weekday_of(c, sense), date_asked(c, sense)]


@meaning("date_asked")
def date_asked(c, sense):
    """A date as an answer: the calendar says it, even where nothing has to be counted."""
    if isinstance(sense[1], str):
        return ("date", call("dates", op="shift", date=sense, days="0"))
    return ("date", sense[1])


@meaning("until")
def until(c, unit, sense):
    """Of a day that is past there is no until."""
    day = day_of(sense)
    if day is not None and day < c.today:
        return None
    return between(c, unit, date(c.today), sense)


@meaning("since")
def since(c, unit, sense):
    day = day_of(sense)
    if day is not None and day > c.today:
        return None
    return between(c, unit, sense, date(c.today))


@meaning("between")
def between(c, unit, start, end, whole=""):
    """Days, weeks, months, ... from one day to another; full ones where "full" is said or the unit has no fixed length."""
    if start[0] != "d" or end[0] != "d":
        return None
    if unit in MONTHS:
        op_name = "years_between" if unit in ("year", "decade", "century") else "months_between"
        found = call("dates", op=op_name, start=start, end=end)
        size = {"decade": 10, "century": 100, "quarter": 3}.get(unit)
        return found if size is None else op("//", found, n(size))
    days = call("dates", op="days_between", start=start, end=end)
    if unit in DAYS:
        return days if DAYS[unit] == 1 else op("//" if whole else "/", days, n(DAYS[unit]))
    hours = {"hour": 24, "minute": 1440, "second": 86400}.get(unit)
    return op("*", days, n(hours)) if hours else None


@meaning("between_period")
def between_period(c, unit, period):
    """`How many days are there in 2024`: from its first day to the day after its last."""
    start, end = period[1], moved(period[2], days=1)
    if end is None or (unit in MONTHS and (period[2] - start).days < 27):
        return None
    return between(c, unit, date(start), date(end))


@meaning("left_in")
def left_in(c, unit, period):
    """Whole days after today until the end of the period."""
    if not period[1] <= c.today <= period[2] or unit not in (*DAYS, "month"):
        return None
    return between(c, unit, date(c.today), date(period[2]))


@meaning("business_between")
def business_between(c, start, end, inclusive=""):
    found = call("dates", op="business_days_between", start=start, end=end)
    first = day_of(start)
    if inclusive:
        return None if first is None else op("+", found, n(1)) if first.weekday() < 5 else found
    return found


@meaning("business_in")
def business_in(c, period):
    return call("dates", op="business_days_between", start=date(moved(period[1], days=-1)), end=date(period[2]))


@meaning("count_weekday")
def weekdays_counted(c, weekday, start, end):
    return call("dates", op="count_weekday", start=start, end=end, weekday=WEEKDAYS[weekday])


@meaning("quarter_number")
def quarter_number(c, sense):
    return call("dates", op="quarter", date=sense)


@meaning("day_number")
def day_number(c, sense, *period):
    day = day_of(sense)
    return (
        None
        if day is None
        else op("+", call("dates", op="days_between", start=date(day.replace(month=1, day=1)), end=sense), n(1))
    )


@meaning("leap")
def leap(c, year):
    days = call(
        "dates", op="days_between", start=date(datetime.date(year, 1, 1)), end=date(datetime.date(year + 1, 1, 1))
    )
    return ("yesno", ">", days, n(365)) if year < 9999 else None


@meaning("month_after")
def month_after(c, period, sign):
    day = moved(period[1], months=int(sign))
    if day is None or period[2].month != period[1].month:
        return None
    return ("month", call("dates", op="shift", date=date(period[1]), months=str(int(sign))))


@meaning("date_and_weekday")
def date_and_weekday(c, sense):
    return ("both", date_asked(c, sense), weekday_of(c, sense))


# -- times of day


@meaning("clock")
def clock(c, hour, half):
    """9 am, 5:30 pm as minutes after midnight."""
    minutes = hour[1] if hour[0] == "clock" else constant(hour) * 60
    if minutes is None or minutes.denominator != 1 or not 60 <= minutes < 780:
        return None
    return ("clock", int(minutes) % 720 + (720 if half == "pm" else 0))


@meaning("clock_between")
def clock_between(c, unit, start, end):
    size = {"hour": 60, "minute": 1}.get(unit)
    if size is None or end[1] <= start[1]:
        return None
    return op("/", op("-", n(end[1]), n(start[1])), n(size)) if size > 1 else op("-", n(end[1]), n(start[1]))


@meaning("span_value")
def span_value(c, length, unit):
    """Weeks in days and years in months: calendar spans that have a fixed length in another."""
    total = Fraction(0)
    for tree, own in length[1]:
        value, table = constant(tree), DAYS if unit in DAYS else MONTHS
        if value is None or own not in table or unit not in table:
            return None
        total += value * table[own]
    size = (DAYS if unit in DAYS else MONTHS)[unit]
    return op("/", n(total), n(size)) if total else None
