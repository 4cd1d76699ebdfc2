"""Calendar expert of MRKL (Karpas et al. 2022, arXiv 2205.00445) and the one way in which all experts read dates.

A text is one day or it is an error: nothing is guessed, and the machine's clock is never read. The calendar is the
proleptic Gregorian one, years 1 to 9999.
"""

import calendar
import datetime
import re

from .calls_mrkl import ArgumentsError, Expert, answered, failed, need, short


# the locale must not name the days
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = str.split("january february march april may june july august september october november december")
ORDINALS = {
    "first": 1,
    "1st": 1,
    "second": 2,
    "2nd": 2,
    "third": 3,
    "3rd": 3,
    "fourth": 4,
    "4th": 4,
    "fifth": 5,
    "5th": 5,
}
COUNTS = {
    word: number
    for number, word in enumerate(
        str.split(
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty"
        ),
        1,
    )
} | {"a": 1, "an": 1}
HOLIDAYS = {"christmas": (12, 25), "christmas day": (12, 25), "christmas eve": (12, 24), "boxing day": (12, 26)}
HOLIDAYS |= {"new year's day": (1, 1), "new year's eve": (12, 31)}
MAX_CHARACTERS = 60
# days in 9998 years: no shift can be longer
MAX_DAYS = 3_652_058


class DateError(ArgumentsError):
    """A text is not one day, or a shift leaves the years 1 to 9999."""


# -- reading dates


def day(text: str) -> datetime.date:
    """The day of an ISO date, `2022-05-01`.

    Raises:
        DateError: It is not one.
    """
    match = re.fullmatch(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})", str(text).strip())
    if not match:
        raise DateError(f"{short(text)} is not an ISO date, such as 2022-05-01")
    return _day(*map(int, match.groups()), text)


def _day(year, month, number, text):
    try:
        return datetime.date(year, month, number)
    except (ValueError, OverflowError) as error:
        raise DateError(f"{short(text)}: there is no such day") from error


def parse_today(today) -> datetime.date | None:
    """The reference date of an expert: a date, an ISO date or None.

    Raises:
        MRKLError: It is none of them.
    """
    if today is None or isinstance(today, datetime.date):
        return today.date() if isinstance(today, datetime.datetime) else today
    return day(today)


def parse_date(value, today: datetime.date | None = None) -> datetime.date:
    """The one day that `value` names.

    Read: dates, 2022-05-01, 1 May 2022, May 1st, 2022, Sunday, 1 May 2022, 31/12/2021 and 12/31/2021 (where only one
    reading is a date), Christmas 2021, first Monday of June 2022, last day of May 2022; and from `today`: today,
    tomorrow, yesterday, 3 days ago, in two weeks, two weeks from tomorrow, a fortnight before 2022-05-01, last Friday
    (the nearest before today), next Friday (the nearest after today), end of last month, start of next year.
    Errors, because they are no one day: 03/04/2021, 5pm, Q3 2021, June 2022, 1 May, a weekday that the date has not.

    Raises:
        DateError: `value` is not one day; the message says why.
    """
    if isinstance(value, datetime.date):
        return value.date() if isinstance(value, datetime.datetime) else value
    text = re.sub(r"\s+", " ", str(value)).strip().rstrip(".?!").casefold()
    if len(text) > MAX_CHARACTERS:
        raise DateError(f"a date of more than {MAX_CHARACTERS} characters")
    for read in (_absolute, _rule, _relative):
        found = read(text, today)
        if found is not None:
            return found
    if re.search(r"\bq ?[1-4]\b|quarter", text):
        raise DateError(f"{short(value)} is a quarter, not one day")
    if re.search(r"[0-9] ?[ap]\.?m\b|[0-9]:[0-9]", text):
        raise DateError(f"{short(value)} is a time of day, not one day")
    if re.fullmatch(r"([a-z]+ )?[0-9]{4}", text):
        raise DateError(f"{short(value)} is not one day; add the day")
    raise DateError(f"{short(value)} cannot be read as a date; write it as 2022-05-01")


def _month(word):
    close = [
        i
        for i, name in enumerate(MONTHS, 1)
        if len(word) >= 3 and (name.startswith(word) or word == "sept" and i == 9)
    ]
    return close[0] if close else None


def _absolute(text, today):
    if re.fullmatch(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}", text):
        return day(text)
    weekday = re.match(rf"({'|'.join(WEEKDAYS).casefold()}),? (?:the )?(?=.*[0-9])", text)
    if weekday:
        found = _absolute(text[weekday.end() :], today)
        if found and WEEKDAYS[found.weekday()].casefold() != weekday[1]:
            raise DateError(f"{found} is a {WEEKDAYS[found.weekday()]}, not a {weekday[1].capitalize()}")
        return found
    text = text.removeprefix("the ")
    match = re.fullmatch(r"([0-9]{1,2})(?:st|nd|rd|th)?(?: of)?[ -]([a-z]+)\.?,?[ -]([0-9]{4})", text)
    if match and _month(match[2]):
        return _day(int(match[3]), _month(match[2]), int(match[1]), text)
    match = re.fullmatch(r"([a-z]+)\.? (?:the )?([0-9]{1,2})(?:st|nd|rd|th)?,? ([0-9]{4})", text)
    if match and _month(match[1]):
        return _day(int(match[3]), _month(match[1]), int(match[2]), text)
    match = re.fullmatch(r"([0-9]{1,2})([./-])([0-9]{1,2})\2([0-9]{4})", text)
    if match:
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        readings = {(second, first), (first, second)} if match[2] != "." else {(second, first)}
        possible = [each for each in readings if 1 <= each[0] <= 12]
        if len(possible) > 1:
            raise DateError(
                f"{text!r} is {year}-{second:02d}-{first:02d} or {year}-{first:02d}-{second:02d}; write it as ISO"
            )
        return _day(year, *(possible or [(second, first)])[0], text)
    match = re.fullmatch(r"([0-9]{4})/([0-9]{1,2})/([0-9]{1,2})", text)
    if match:
        return _day(*map(int, match.groups()), text)
    match = re.fullmatch(r"(.+?),? ([0-9]{4})", text)
    if match and match[1].replace("\u2019", "'") in HOLIDAYS:
        return _day(int(match[2]), *HOLIDAYS[match[1].replace("\u2019", "'")], text)
    return None


def _rule(text, today):
    """`first Monday of June 2022`, `last day of May 2022`, `end of last month`."""
    match = re.fullmatch(
        r"(?:the )?(first day|last day|start|beginning|end|[a-z0-9]+ [a-z]+) (?:of|in) (?:the )?(.+)", text
    )
    span = _span(match[2], today) if match else None
    if not span:
        return None
    first, last = span
    which = match[1]
    if which in ("first day", "start", "beginning"):
        return first
    if which in ("last day", "end"):
        return last
    ordinal, _, name = which.partition(" ")
    names = [each.casefold() for each in WEEKDAYS]
    if name not in names or (ordinal not in ORDINALS and ordinal != "last"):
        return None
    if ordinal == "last":
        return last - datetime.timedelta(days=(last.weekday() - names.index(name)) % 7)
    ahead = (names.index(name) - first.weekday()) % 7 + 7 * (ORDINALS[ordinal] - 1)
    if ahead > (last - first).days:
        raise DateError(f"{text!r}: there is no such day")
    return first + datetime.timedelta(days=ahead)


def _span(text, today):
    """First and last day of `June 2022`, `2022`, `last month`, `next year`."""
    match = re.fullmatch(r"(?:([a-z]+) )?([0-9]{4})", text)
    if match and (match[1] is None or _month(match[1])):
        first = _day(int(match[2]), _month(match[1]) if match[1] else 1, 1, text)
        months = 1 if match[1] else 12
    else:
        match = re.fullmatch(r"(last|this|next) (month|year)", text)
        if not match:
            return None
        step = {"last": -1, "this": 0, "next": 1}[match[1]]
        months = 1 if match[2] == "month" else 12
        start = _needed(today, text).replace(day=1)
        first, _ = shift(start if months == 1 else start.replace(month=1), months=step * months)
    following, _ = shift(first, months=months - 1)
    return first, following.replace(day=calendar.monthrange(following.year, following.month)[1])


def _needed(today, text):
    if today is None:
        raise DateError(f"{text!r} needs a reference date, and none was given")
    return today


def _relative(text, today):
    near = {"today": 0, "tomorrow": 1, "yesterday": -1, "the day after tomorrow": 2, "day after tomorrow": 2}
    near |= {"the day before yesterday": -2, "day before yesterday": -2, "now": 0}
    if text in near:
        return shift(_needed(today, text), days=near[text])[0]
    match = re.fullmatch(rf"(?:on )?(last|past|next|coming) ({'|'.join(WEEKDAYS).casefold()})", text)
    if match:
        today, ahead = _needed(today, text), [each.casefold() for each in WEEKDAYS].index(match[2])
        if match[1] in ("last", "past"):
            return shift(today, days=-((today.weekday() - ahead - 1) % 7 + 1))[0]
        return shift(today, days=(ahead - today.weekday() - 1) % 7 + 1)[0]
    match = re.fullmatch(
        r"(in )?(?:exactly )?([a-z]+|[0-9]{1,7}) (day|week|fortnight|month|year)s?"
        r"(?: (ago|from|after|before|earlier than|later than)(?: (.+))?)?",
        text,
    )
    if not match or not (match[2].isdigit() or match[2] in COUNTS):
        return None
    ahead, count, unit, how, origin = match[1], match[2], match[3], match[4], match[5]
    if bool(ahead) == bool(how) or (how == "ago") != (origin is None and bool(how)):
        return None
    start = _needed(today, text) if origin in (None, "now") else parse_date(origin, today)
    count = (int(count) if count.isdigit() else COUNTS[count]) * (
        -1 if how in ("ago", "before", "earlier than") else 1
    )
    steps = {"days": count * 14} if unit == "fortnight" else {f"{unit}s": count}
    return shift(start, **steps)[0]


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


# -- the expert


class Dates(Expert):
    """Calendar arithmetic in the proleptic Gregorian calendar, years 1 to 9999, from a given reference date.

    Operations: days_between (end - start, negative when reversed), business_days_between (Monday to Friday, the first
    day not counted), months_between (full months), count_weekday (both days included), quarter, shift (date by days,
    weeks, months, years, business days; negative is back; a day that the month lacks becomes its last day, 31 January + 1 month = 28 or 29 February, and
    `data["notes"]` says so), weekday, years_between (full years; someone born on 29 February is a year older on
    1 March of other years). How a date may be written: `parse_date`.

    Args:
        today: ISO date that "today", "last Friday", "two weeks ago" refer to; never the machine's clock.
        free_text: Also try the package dateparser, English only, where the own grammar reads nothing.
    """

    name = "dates"
    description = (
        "Calendar questions: days or full years between two dates, a date shifted by days, weeks, months or years, "
        "the weekday of a date."
    )
    limits = {"max_characters": MAX_CHARACTERS, "years": "1..9999"}
    operations = {
        "days_between": ("start", "end"),
        "shift": ("date", "days"),
        "weekday": ("date",),
        "years_between": ("start", "end"),
        "months_between": ("start", "end"),
        "business_days_between": ("start", "end"),
        "count_weekday": ("start", "end", "weekday"),
        "quarter": ("date",),
    }
    steps = ("days", "weeks", "months", "years", "business_days")

    def __init__(self, today=None, free_text=False):
        self.today, self.free_text = parse_today(today), free_text
        date = {"type": "string", "nullable": True}
        count = {"type": "integer", "nullable": True}
        self.parameters = {
            "type": "object",
            "properties": {
                "op": {"type": "string", "enum": list(self.operations), "description": "Which question"},
                "start": {**date, "description": "days_between, years_between: the first date, ISO"},
                "end": {**date, "description": "days_between, years_between: the second date, ISO"},
                "date": {**date, "description": "shift, weekday: the date, ISO"},
                "days": {**count, "description": "shift: days to add, negative to go back"},
                "weeks": {**count, "description": "shift: weeks to add"},
                "months": {**count, "description": "shift: calendar months to add"},
                "years": {**count, "description": "shift: years to add"},
                "business_days": {
                    **count,
                    "description": "shift: days from Monday to Friday to add, after the others",
                },
                "weekday": {**date, "description": "count_weekday: which, such as Monday"},
            },
            "required": ["op"],
        }

    def check(self, arguments):
        found = {name: value for name, value in super().check(arguments).items() if value is not None}
        op = found["op"]
        steps = self.steps if op == "shift" else ()
        wanted = [name for name in self.operations[op] if name not in steps]
        missing = [name for name in wanted if name not in found]
        if missing or (steps and not set(steps) & set(found)):
            raise ArgumentsError(f"argument {(missing or ['days'])[0]!r} is missing for {op}")
        extra = set(found) - {"op", *wanted, *steps}
        if extra:
            raise ArgumentsError(f"argument {sorted(extra)[0]!r} does not belong to {op}")
        return found

    def run(self, arguments):
        op = arguments["op"]
        try:
            days = {name: self._read(arguments[name]) for name in ("start", "end", "date") if name in arguments}
            if op == "shift":
                steps = {name: arguments.get(name, 0) for name in ("years", "months", "weeks", "days")}
                found, clamped = shift(days["date"], **steps)
                found = shift_business(found, arguments.get("business_days", 0))
        except DateError as error:
            return failed("error", f"dates: {error}")
        read = {name: each.isoformat() for name, each in days.items()}
        if op == "days_between":
            return answered((days["end"] - days["start"]).days, **read)
        if op == "years_between":
            return answered(years_between(days["start"], days["end"]), **read)
        if op == "months_between":
            return answered(months_between(days["start"], days["end"]), **read)
        if op == "business_days_between":
            note = "days from Monday to Friday after the first day, up to the last; no holidays"
            return answered(business_days_between(days["start"], days["end"]), notes=[note], **read)
        if op == "count_weekday":
            name = arguments["weekday"].strip().capitalize()
            if name not in WEEKDAYS:
                return failed("error", f"dates: {short(name)} is none of {', '.join(WEEKDAYS)}")
            return answered(count_weekday(days["start"], days["end"], WEEKDAYS.index(name)), **read)
        if op == "quarter":
            return answered((days["date"].month + 2) // 3, **read)
        if op == "weekday":
            return answered(WEEKDAYS[days["date"].weekday()], **read)
        notes = {"notes": ["the month has no such day; its last day was taken"]} if clamped else {}
        return answered(found, **read, **notes)

    def _read(self, text):
        try:
            return parse_date(text, self.today)
        except DateError:
            found = free_date(text, self.today) if self.free_text else None
            if found is None:
                raise
            return found


def free_date(text: str, today: datetime.date | None) -> datetime.date | None:
    """What the package dateparser reads in `text`, in English, relative to `today`; None where it reads nothing.

    Quarters, times of day and texts without a whole date are not tried: dateparser answers them with a wrong day.
    """
    tricky = re.search(
        r"\bq\s?[1-4]\b|quarter|\b\d{1,2}(:\d\d)?\s?[ap]\.?m\b|:|\bnow\b|[0-9]/[0-9]", text, re.IGNORECASE
    )
    if tricky or today is None or len(text) > MAX_CHARACTERS:
        return None
    noon = datetime.datetime.combine(today, datetime.time(12))
    settings = {"RELATIVE_BASE": noon, "REQUIRE_PARTS": ["day", "month", "year"], "TIMEZONE": "UTC"}
    found = need("dateparser").parse(text, languages=["en"], settings=settings)
    return found.date() if found else None
