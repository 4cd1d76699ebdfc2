"""A question to its readings and the one plan they agree on (MRKL, arXiv 2205.00445).

    question -> tokens and lexical edges (`lexicon_mrkl`)
             -> chart of typed rules (`grammar_mrkl`, `chart_mrkl`; meanings in values, calendar, tables, lookups)
             -> readings that explain every word -> plans of calls (`plan_mrkl`)
             -> the judge: one plan, or plans that are worth the same; otherwise none

A word that no rule, name or closed list explains leaves no reading, and then the language model answers.
"""

import contextlib
import datetime
import functools
import re
from collections.abc import Callable, Mapping

from .calendar_mrkl import DAYS  # noqa: F401  (importing it registers its meanings)
from .chart_mrkl import Chart, Grammar, TooComplex
from .grammar_mrkl import BLOCKS
from .known_mrkl import Known
from .lexicon_mrkl import MAX_TOKENS, Lexicon
from .lists_mrkl import median  # noqa: F401
from .lookups_mrkl import edges as lookup_edges
from .lookups_mrkl import money_context
from .plan_mrkl import Plan, compiled
from .ranks_mrkl import best  # noqa: F401
from .rows_mrkl import database  # noqa: F401
from .stories_mrkl import stuff  # noqa: F401
from .tables_mrkl import Tables
from .values_mrkl import ONE  # noqa: F401


MAX_READINGS = 6


@functools.cache
def grammar() -> Grammar:
    return Grammar(BLOCKS)


# a sentence that tells the system what to do is set aside: it is neither question nor data
INSTRUCTION = re.compile(
    r"^\W*(?:(?:please|now|also|and)\s+)*(?:"
    r"(?:ignore|disregard|forget|override|skip|bypass)\s+(?:(?:all|any|the|your|my|these|those|of|previous|prior|above|earlier|other|every)\s+)*"
    r"(?:tools?|instructions?|rules?|prompts?|guidelines|calculators?|experts?|system|context)\b"
    r"|(?:ignore|disregard|forget)\s+(?:everything|all|anything)\s+(?:above|before|else|(?:that )?(?:i|you)\b|that came before)"
    r"|(?:do not|don't|never)\s+(?:use|call|consult|run)\b.*\b(?:tools?|calculators?|experts?|functions?|databases?)\b"
    r"|(?:just|simply|only|always)\s+(?:say|answer|reply|respond|output|return|print)\b"
    r"|you are (?:now )?(?:a|an)\b.*\b(?:assistant|bot|ai|model|calculator|system|expert|machine)\b"
    r"|(?:say|answer|reply|respond|output)(?: with)? \S+$"
    r"|(?:say that|say it is|pretend|claim)\b|(?:say|answer|reply|respond|output)\b.*\bno matter\b"
    r"|(?:system|assistant|developer)\s*:)",
    re.IGNORECASE | re.DOTALL,
)


def set_aside(text: str) -> tuple[str, bool]:
    """The text without sentences that instruct the system, and whether there were any."""
    parts = re.split(r"(?<=[.!?;])\s+|\n+|(?<=\d[.])\s+", text)
    kept = [part for part in parts if not INSTRUCTION.match(part)]
    if len(kept) == len(parts) or not kept:
        return text, False
    return " ".join(kept), True


class Reader:
    """Reads questions about what some experts know.

    Args:
        known: Names and schema, and the reference date.
        experts: name -> Expert; what an expert would have to answer is not read without it.
    """

    def __init__(self, known: Known, experts: Mapping):
        self.known, self.experts = known, experts
        self.today = datetime.date.fromisoformat(known.today)
        self.units = next((e for e in experts.values() if hasattr(e, "units") and hasattr(e, "forms")), None)
        self.wiki = experts.get("wiki")
        self.weather = experts.get("weather")
        self.schema = known.schema
        self.tables = Tables(known)
        words = {word for form in self.tables.forms for word in form}
        self.lexicon = Lexicon(known, grammar().vocabulary | words)
        self.people = tuple(t for t in known.schema.columns if ("People", t) in self.tables.forms.get(("people",), ()))
        # what pages were found to say; they do not change while the experts live
        self.pages, self.facts = {}, {}
        self.money = None

    def senses(self, text: str) -> list:
        """(cost, meaning) of all readings of `text`; TooComplex beyond the chart's bound."""
        text, self.money = money_context(self, text)
        read = self.lexicon.read(text)
        self.words = read.words
        if not read.words or len(read.words) > MAX_TOKENS:
            return []
        edges = read.edges + self.tables.edges(read) + lookup_edges(self, read)
        return Chart(grammar(), read.words, edges, self, read.skippable).readings("S")

    def read_with_dates(self, text: str):
        """Tokens and lexical edges of `text`, days in words among them."""
        read = self.lexicon.read(text)
        if len(read.words) <= MAX_TOKENS:
            with contextlib.suppress(TooComplex):
                chart = Chart(grammar(), read.words, read.edges, self, read.skippable)
                for start, edges in enumerate(chart.edges):
                    for end, senses in edges.get("DateX", {}).items():
                        read.edges += [("Date", start, end, sense) for sense in senses if isinstance(sense[1], str)]
        return read

    def spelling(self, unit: str) -> str:
        """`unit` as the question spells it."""
        for form, names in self.lexicon.unit_forms.items():
            if unit in names and any(tuple(self.words[i : i + len(form)]) == form for i in range(len(self.words))):
                return " ".join(form)
        return unit.lstrip("$Δ").replace("_", " ")

    def plans(self, text: str) -> list:
        """The plans of all readings that cost least, without those an expert is missing for."""
        try:
            senses = self.senses(text)
        except TooComplex:
            return []
        found, least = [], None
        for cost, sense in senses:
            plan = compiled(sense)
            if plan is None or not all(step.expert in self.experts for step in plan.steps):
                continue
            if least is not None and cost > least:
                break
            least = cost
            plan.cost = float(cost)
            if all((plan.steps, plan.answer) != (other.steps, other.answer) for other in found):
                found.append(plan)
        return found


def agreed(plans: list, worth: Callable[[Plan], object]) -> Plan | None:
    """The one plan, or the shortest of several that are worth the same; None where they differ."""
    if not plans or len(plans) > MAX_READINGS:
        return None
    if len(plans) == 1:
        return plans[0]
    values = [worth(plan) for plan in plans]
    if any(value is None or value != values[0] for value in values):
        return None
    return min(plans, key=lambda plan: len(plan.steps))
