"""Slots of a query: what MRKL (arXiv 2205.00445) lifts out of the text before a language model reads it.

What the lexicon and the rules of days find is replaced by `<n0>` (number), `<d0>` (date), `<m0>` (month), `<c0>` (currency),
`<u0>` (unit), `<t0>` (time word), `<e0>` (entity: place, page title, value of a text column), `<x0>` (unknown name). A model
sees the masked text, so that neither the length of a number nor the spelling of a name reaches it. Relative dates are
resolved against a reference date; the clock of the machine is never read.
"""

import datetime
import functools
import re
import types
from dataclasses import dataclass

from .chart_mrkl import Chart, Grammar, TooComplex
from .grammar_dates_mrkl import DAYS
from .known_mrkl import Known
from .lexicon_mrkl import Lexicon, Read, prepared
from .words_mrkl import BEFORE_SIGN, BESIDE_ONE, GRADES, SHY_UNITS


# longer texts are not queries
MAX_CHARS = 2000
# a day and a month of their own, as questions that a model reads have them
SAID = """
DateX <- (Day|Ordinal) [of] Month : ymd
DateX <- Month (Day|Ordinal) : ymd/102
MonthYear <- Month [of|,] Year : month_of
"""
# the categories of each kind; of equally long ones the first is taken
KINDS = {
    "d": ("DateX",), "m": ("MonthYear",), "e": ("Value", "Place", "Title"), "n": ("Number",), "t": ("CalUnit",),
    "c": ("Cur", "Sign"), "u": ("Unit",), "x": ("Unknown",),
}  # fmt: skip
BEFORE_UNIT = frozenset(str.split("to in into as of from many much per by with than"))


@dataclass(frozen=True)
class Slot:
    """One slot: characters [start, end) of the query read as `kind` with normalised `value`.

    `value`: Fraction for numbers, ISO date or year-month, currency code, unit name, "day" .. "century", or for entities
    a tuple of references ("place", name), ("title", name), ("value", table, column, value).
    """

    kind: str
    start: int
    end: int
    value: object
    text: str


@dataclass(frozen=True)
class Reading:
    """A query with its slots in order. `ids`: placeholder name of each slot, `n0`, `d0`, ..."""

    text: str
    slots: tuple

    @property
    def ids(self) -> tuple:
        counts: dict = {}
        names = []
        for slot in self.slots:
            counts[slot.kind] = counts.get(slot.kind, -1) + 1
            names.append(f"{slot.kind}{counts[slot.kind]}")
        return tuple(names)

    @property
    def masked(self) -> str:
        """The query, lower case, with `<id>` in place of each slot and one space between words."""
        parts, at = [], 0
        for name, slot in zip(self.ids, self.slots, strict=True):
            parts += [_plain(self.text[at : slot.start]).lower(), f" <{name}> "]
            at = slot.end
        parts.append(_plain(self.text[at:]).lower())
        return re.sub(r"\s+", " ", "".join(parts)).strip()

    def of(self, kind: str) -> list:
        """Slots of one kind, in order."""
        return [slot for slot in self.slots if slot.kind == kind]


def _plain(text: str) -> str:
    # angle brackets are ours in masked text
    return text.replace("<=", " at most ").replace(">=", " at least ").replace("<", " under ").replace(">", " over ")


@functools.cache
def _grammar() -> Grammar:
    return Grammar((DAYS, SAID))


def read(text: str, known: Known) -> Reading:
    """Find the slots of `text`.

    Args: `text` of at most MAX_CHARS characters (ValueError otherwise); `known` names and the reference date.
    Returns: a Reading; slots do not overlap and are ordered by position, the longest that begins at a word is taken. A
    day without a year is in the reference year.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"a query has at most {MAX_CHARS} characters, this one has {len(text)}")
    plain = prepared(text)
    lexicon = vars(known).get("slots")
    if lexicon is None:
        lexicon = vars(known)["slots"] = Lexicon(known, _grammar().vocabulary)
    found = lexicon.read(plain)
    chosen = _chosen(found, _candidates(found, datetime.date.fromisoformat(known.today)))
    slots = []
    for kind, start, end, value in chosen:
        first, last = found.tokens[start].start, found.tokens[end - 1].end
        if kind == "n" and (sign := _sign(found, start)) is not None:
            first, value = found.tokens[sign].start, -value
        slots.append(Slot(kind, first, last, value, plain[first:last]))
    return Reading(plain, tuple(slots))


def _candidates(read: Read, today) -> dict:
    """{first word: {(words, kind): values}}."""
    edges = [(category, start, end, sense) for category, start, end, sense, *cost in read.edges if not any(cost)]
    try:
        chart = Chart(_grammar(), read.words, read.edges, types.SimpleNamespace(today=today), read.skippable)
        for start, here in enumerate(chart.edges):
            for category in ("DateX", "MonthYear"):
                for end, senses in here.get(category, {}).items():
                    edges += [(category, start, end, sense) for sense in senses]
    except TooComplex:
        pass
    kinds = {category: kind for kind, categories in KINDS.items() for category in categories}
    found: dict = {}
    for category, start, end, sense in edges:
        value = _value(category, sense)
        if category in kinds and value is not None:
            values = found.setdefault(start, {}).setdefault((end - start, kinds[category]), [])
            if value not in values:
                values.append(value)
    return found


def _value(category, sense):
    """A meaning as the value of a slot; None for what has to be computed first, or is no number."""
    if category == "DateX":
        return sense[1] if isinstance(sense[1], str) else None
    if category == "MonthYear":
        return sense[1].isoformat()[:7]
    if category == "Number":
        return sense[1] if sense[0] == "n" else None
    if category in ("Place", "Title"):
        return ((category.lower(), sense),)
    if category == "Value":
        return tuple(("value", *each) for each in sense[1])
    return sense.lstrip("$") if category in ("Cur", "Sign") else sense


def _chosen(read: Read, candidates) -> list:
    """(kind, start, end, value) from left to right, the longest each."""
    weighed = any({"u"} == {kind for _, kind in here if kind in "uc"} for here in candidates.values())
    paid = any({"c"} == {kind for _, kind in here if kind in "uc"} for here in candidates.values())
    order, found, at = list(KINDS), [], 0
    while at < len(read.words):
        here = candidates.get(at, {})
        if weighed and not paid and any(kind == "u" for _, kind in here):
            # pounds: money among money and when alone, mass among measures
            here = {key: values for key, values in here.items() if key[1] != "c"}
        for length, kind in sorted(here, key=lambda key: (-key[0], order.index(key[1]))):
            if _meant(read, kind, at, at + length, found):
                values = here[length, kind]
                value = sum(values, ()) if kind == "e" else values[0]
                found.append((kind, at, at + length, value))
                at += length
                break
        else:
            at += 1
    return found


def _meant(read: Read, kind, start, end, found) -> bool:
    """Whether everyday words are a number, a unit or a name at their place."""
    word, before = read.words[start], read.words[start - 1] if start else ""
    after = read.words[end] if end < len(read.words) else ""
    if kind == "e":
        return before not in GRADES
    if kind == "n" and after in ("st", "nd", "rd", "th") and read.tokens[end].glued:
        return False
    if end - start > 1 or read.tokens[start].kind != "word":
        return True
    if kind == "n" and word in ("one", "half", "quarter", "third"):
        measure = any(edge[1] == end and edge[0] in ("Unit", "Cur", "CalUnit") for edge in read.edges)
        return measure or before in BESIDE_ONE or after in BESIDE_ONE or word != "one" and after in ("of", "the", "as")
    if kind in "cu" and (word in SHY_UNITS or len(word) < 3):
        counted = bool(found) and found[-1][0] in "nc" and found[-1][2] == start
        return counted and after in BEFORE_UNIT | {""} if word == "in" else counted or before in BEFORE_UNIT
    return True


def _sign(read: Read, start) -> int | None:
    """Where the sign before a number stands; None where that is an operator, or there is none."""
    if not start or read.words[start - 1] not in ("-", "minus", "negative"):
        return None
    before = read.tokens[start - 2] if start > 1 else None
    free = before is None or before.word in BEFORE_SIGN or before.kind == "sign" and before.word not in ")%"
    return start - 1 if free else None
