"""Reading dates, and the calendar expert of MRKL (Karpas et al. 2022, arXiv 2205.00445).

The one way in which all experts read dates: by the grammar's own rules of days (`grammar_dates_mrkl.DAYS`). A text is one
day or it is an error: nothing is guessed, and the machine's clock is never read.
"""

import datetime
import functools
import re
import types

from .calendar_mrkl import (
    WEEKDAYS,
    DateError,
    business_days_between,
    count_weekday,
    day_of,
    months_between,
    numeric_day,
    shift,
    shift_business,
    years_between,
)
from .calls_mrkl import ArgumentsError, Expert, answered, failed, need, short
from .chart_mrkl import Chart, Grammar, TooComplex
from .grammar_dates_mrkl import DAYS
from .known_mrkl import Known
from .lexicon_mrkl import MAX_TOKENS, Lexicon


MAX_CHARACTERS = 60
# what no reference date changes is the same on both
ANY_DAYS = (datetime.date(2000, 1, 3), datetime.date(2013, 8, 14))


# -- reading dates


@functools.cache
def days() -> tuple[Grammar, Lexicon]:
    """The rules of days, and the words that they need."""
    grammar = Grammar((DAYS,))
    return grammar, Lexicon(Known(ANY_DAYS[0].isoformat()), grammar.vocabulary)


def parse_date(value, today: datetime.date | None = None) -> datetime.date:
    """The one day that `value` names.

    Read: dates, 2022-05-01, 31/12/2021 and 12/31/2021 (where only one reading is a date), and what
    `grammar_dates_mrkl.DAYS` reads: 1 May 2022, Christmas 2021, first Monday of June 2022, and from `today` tomorrow,
    3 days ago, two weeks from tomorrow, last Friday, end of last month.
    Errors, because they are no one day: 03/04/2021, 5pm, Q3 2021, June 2022, 1 May, a weekday that the date has not,
    next Friday where that may be this week's or the next one's.

    Raises:
        DateError: `value` is not one day; the message says why.
    """
    if isinstance(value, datetime.date):
        return value.date() if isinstance(value, datetime.datetime) else value
    text = re.sub(r"\s+", " ", str(value)).strip().rstrip(".?!")
    if len(text) > MAX_CHARACTERS:
        raise DateError(f"a date of more than {MAX_CHARACTERS} characters")
    found = numeric_day(text)
    if found is not None:
        return found
    read = [_read(text, each) for each in ([today] if today else ANY_DAYS)]
    if read[0] != read[-1]:
        raise DateError(f"{short(value)} needs a reference date, and none was given")
    if len(read[0]) > 1:
        raise DateError(f"{short(value)} may be {' or '.join(map(str, sorted(read[0])))}; write it as ISO")
    if re.search(r"[0-9] ?[ap]\.?m\b|[0-9]:[0-9]", text.casefold()):
        raise DateError(f"{short(value)} is a time of day, not one day")
    if not read[0]:
        raise DateError(f"{short(value)} cannot be read as one day; write it as 2022-05-01")
    return read[0].pop()


def _read(text, today) -> set:
    grammar, lexicon = days()
    read = lexicon.read(text)
    if not read.words or len(read.words) > MAX_TOKENS:
        return set()
    try:
        chart = Chart(grammar, read.words, read.edges, types.SimpleNamespace(today=today), read.skippable)
    except TooComplex:
        return set()
    return {_computed(sense) for _, sense in chart.readings("DateX")}


def _computed(sense) -> datetime.date:
    """The day of a date that may be a call of the calendar."""
    if isinstance(sense[1], str):
        return day_of(sense)
    steps = dict(sense[1][2])
    moved = {name: int(steps[name]) for name in ("years", "months", "days") if name in steps}
    found, _ = shift(_computed(steps["date"]), **moved)
    return shift_business(found, int(steps.get("business_days", 0)))


def parse_today(today) -> datetime.date | None:
    """The reference date of an expert: a date, an ISO date or None.

    Raises:
        DateError: It is none of them.
    """
    return None if today is None else parse_date(today)


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
        free_text: Also try the package dateparser, English only, where the grammar reads nothing.
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
            read = {name: each.isoformat() for name, each in days.items()}
            if op == "shift":
                steps = {name: arguments.get(name, 0) for name in ("years", "months", "weeks", "days")}
                found, clamped = shift(days["date"], **steps)
                notes = {"notes": ["the month has no such day; its last day was taken"]} if clamped else {}
                return answered(shift_business(found, arguments.get("business_days", 0)), **read, **notes)
        except DateError as error:
            return failed("error", f"dates: {error}")
        if op == "count_weekday":
            name = arguments["weekday"].strip().capitalize()
            if name not in WEEKDAYS:
                return failed("error", f"dates: {short(name)} is none of {', '.join(WEEKDAYS)}")
            return answered(count_weekday(*days.values(), WEEKDAYS.index(name)), **read)
        notes = {"notes": [BUSINESS]} if op == "business_days_between" else {}
        return answered(COMPUTED[op](*days.values()), **read, **notes)

    def _read(self, text):
        try:
            return parse_date(text, self.today)
        except DateError:
            found = free_date(text, self.today) if self.free_text else None
            if found is None:
                raise
            return found


BUSINESS = "days from Monday to Friday after the first day, up to the last; no holidays"
# operation -> its result from one day, or from the first and the last
COMPUTED = {
    "days_between": lambda start, end: (end - start).days,
    "years_between": years_between,
    "months_between": months_between,
    "business_days_between": business_days_between,
    "quarter": lambda day: (day.month + 2) // 3,
    "weekday": lambda day: WEEKDAYS[day.weekday()],
}


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
