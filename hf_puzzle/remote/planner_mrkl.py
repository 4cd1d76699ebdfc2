"""From a query to a small DAG of typed calls, and from the DAG to an answer (MRKL, arXiv 2205.00445).

A grammar over masked text (`slots_mrkl`) reads arithmetic in words, conversions, dates, and questions to the weather
table, the documents and the database; every phrase may stand where a number or date may stand, so questions compose.
Each reading has a price, the words it leaves unexplained; the router's probabilities and the prices together choose one
reading per query, or none. Calls refer to earlier results as `$n`. What an expert answers is data: nothing in it is
ever parsed for a further call, and a plan is fixed before its first call runs.
"""

import datetime
import functools
import math
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction

from .calls_mrkl import Expert, MRKLError, Result, exact_text, number_text, run_with_deadline
from .questions_mrkl import Reader
from .slots_mrkl import MAX_CHARS, ORDINALS, RELATIVE, Known, read, singular


BUILT_IN = ("calculator", "currency", "units", "dates", "database", "weather", "wiki")
MAX_DEPTH = 12
# readings tried per query; beyond it the best one so far is taken
MAX_READINGS = 4000
# the same in CPU time of the thread, which a loaded machine does not shorten: repetitive text has costly readings
MAX_READING_SECONDS = 1.0
# a reading that leaves a name, a date or a number of the query unexplained is none
MAX_COST = 2.9
WEATHER_UNITS = {"tmax": "degC", "tmin": "degC", "rain": "millimeter", "wind": "kilometer_per_hour"}


# -- readings


@dataclass(frozen=True)
class Literal:
    """A value that stands in the query. `kind`: "number", "date" or "text"; `unit`/`currency` when one is said."""

    value: object
    kind: str
    unit: str = ""
    currency: str = ""


@dataclass(frozen=True)
class Call:
    """A call of `expert`; argument values are texts, None, or other nodes. `kind` of its result as for Literal.

    `unit`: unit of the result where the expert fixes it. `unknown`: a name in it that no expert knows.
    """

    expert: str
    arguments: tuple
    kind: str
    unit: str = ""
    currency: str = ""
    unknown: bool = False


@dataclass(frozen=True)
class Operation:
    """Arithmetic over nodes; `template` has `{0}`, `{1}` for them. Nested operations become one calculator call."""

    template: str
    nodes: tuple
    kind: str = "number"
    unit: str = ""
    currency: str = ""


@dataclass(frozen=True)
class UnitOf:
    """Stands for the unit in which the result of `node` came, else `default`."""

    node: Call
    default: str


@dataclass
class Reading:
    """A node and its price."""

    node: object
    cost: float


@dataclass
class Step:
    """One call of a plan; argument values may hold `$n`, the result of step n (from 1)."""

    expert: str
    arguments: dict
    needs: tuple = ()
    unknown: bool = False


@dataclass
class Plan:
    """Steps in an order in which they can run; the answer is the last one's."""

    steps: list
    cost: float
    node: object = None

    @property
    def route(self) -> str:
        """The router's class for this plan: an expert's name, "many", or "none"."""
        return "none" if not self.steps else self.steps[0].expert if len(self.steps) == 1 else "many"


# -- the grammar


@functools.lru_cache(8192)
def _compiled(pattern):
    return re.compile(pattern)


class _Patterns:
    """`re`, with a cache that holds the whole grammar: its own holds 512 patterns and is then emptied."""

    def __getattr__(self, name):
        def call(pattern, *arguments, **options):
            pattern = _compiled(pattern) if isinstance(pattern, str) else pattern
            return getattr(pattern, name)(*arguments, **options)

        setattr(self, name, call)
        return call


_RE = _Patterns()

FILLER = re.compile(
    r"^(?:(?:[,.:;!?-]|please|kindly|hey|hi|hello|so|ok|okay|well|now|and|quick question|question|(?:can|could|would|will) you(?: please)?(?: (?:tell|help|give))?(?: me)?|"
    r"(?:just )?(?:tell|give|show|get|find|fetch|state|report|write|name|provide|return)(?: me| us| out)?(?=\s)|i(?:'d| would) (?:like|love) to know|i (?:need|want|wish)(?: to (?:know|find out|see|have|get))?|"
    r"do you know|let me know|let's|calculate|compute|work out|workout|figure out|find out|determine|evaluate|solve|simplify|reckon(?: up)?|estimate|carry out|perform|"
    r"what(?:'s| is| are| was| were| will be| would be| would| will| did| does| do)?(?: the (?:value|result|outcome|answer|total value|numerical value|amount)(?: of| to| when| if| for)?)?(?: (?:you|we|i|one) (?:get|obtain|have|find)(?: (?:if|when|by|from))?(?: (?:you|we|i|one|someone))?)?|"
    r"how (?:much|many|large|big) (?:is|are|does|do|was|would be|will be)?|the (?:value|result|outcome|answer|amount)(?: of| to| when| if)?|when (?:you|we|i|one)|if (?:you|we|i|one)|by|a|an|the|it(?: is)?|exactly|of|simply|is|are|figure|number)(?![\w'])\s*(?=[<(\w+-]|$))",
)  # fmt: skip
TAIL = re.compile(
    r"\s*(?:[?.!,;:=]|, what (?:do|would|will|did|does) (?:you|we|i|one|that|it) (?:get|have|end up with|arrive at|obtain|find|reach|make|give)(?: left)?|,? and (?:tell|give|show|let) (?:me|us)(?: know)?(?: the| what the)?(?: result| answer| outcome| number| it)?(?: is)?|please|thanks|thank you|cheers|for me|exactly|precisely|right now|equals?|equal to|(?:equal|come|amount|work out) to|make|makes|give|gives|come out (?:at|to|as)|"
    r"is (?:what|how much)|be|(?:is|are|was|does it|do they|do you get|do i get|is that|is it)|(?:as )?(?:a )?(?:decimal|number|integer)|(?:, )?give (?:the|a|an)[\w ]*|what|what number|exact answer|to me|then|would be|will be|yield|yields|leave|leaves|produce|produces|the (?:answer|result) is|result in)$"
)  # fmt: skip
N = r"<[nz]\d+>"
PERCENT = r"(?P<p><[nz]\d+>)\s*(?:%|percent|per cent|pct|percents|per-cent|percentage points?)"
MEASURE = r"<[cut]\d+>"
DURATION = r"(?:(?:<[nz]\d+>|an?|one|the)\s+)?(?:whole |full |calendar |further |more |extra )?<t\d+>(?:(?:,? and|,|,? plus)\s+(?:(?:<n\d+>|an?|one)\s+)?<t\d+>)*"
AFTER = r"(?:after|from|past|following|later than|since|on from|beyond|forward from|ahead from|counting from|starting from|on top of|post)"
BEFORE = (
    r"(?:before|prior to|earlier than|ahead of|preceding|back from|previous to|backwards? from|leading up to|short of)"
)
NEGATIVE = re.compile(
    r"\b(?:less|fewer|lower|colder|cooler|shorter|cheaper|smaller|younger|earlier|lighter|slower|chillier|drier|calmer|below|behind|short)\b"
)
COMPARATIVE = re.compile(
    r"\b(?:more|less|fewer|higher|lower|warmer|hotter|colder|cooler|milder|chillier|wetter|drier|windier|calmer|taller|shorter|longer|bigger|larger|smaller|greater|older|younger|earlier|later|heavier|lighter|cheaper|dearer|pricier|faster|slower|rainier|breezier|deeper|wider|exceeds?|outearns?)\b"
)
# "half of 90 plus a third of 60": the plus is outside of the half
OUTER = re.compile(r"(?<!,) (?:plus|minus|\+|-) ")
BASE_FORMS = {
    "longer": "long", "shorter": "long", "taller": "tall", "higher": "high", "lower": "high", "deeper": "deep", "shallower": "deep",
    "wider": "wide", "narrower": "wide", "heavier": "heavy", "lighter": "heavy", "larger": "large", "bigger": "big", "smaller": "big",
}  # fmt: skip
DIFFERENCE = re.compile(
    r"\b(?:difference|gap|differ|differs|separates?|by how (?:much|many)|discrepancy|margin|spread|how (?:much|many|far)[^?]*?\bthan)\b"
)
TOGETHER = re.compile(
    r"\b(?:combined|together|jointly|sum of|sum|in total|total|altogether|put together|taken together|added up|in combination|overall|collectively|between them|joint)\b"
)
RATIO = re.compile(r"\b(?:ratio|how many times|quotient)\b")
MEAN = re.compile(r"\b(?:average|mean|midpoint|halfway between)\b")
SEQUENCE = re.compile(
    r"^(?P<first>.+?)(?:\s*[,;.]\s*(?:and\s+)?|\s+and\s+)(?:(?P<then>then|after that|afterwards|finally|next|subsequently)\b\s*,?\s*)?(?P<rest>(?:(?:you |we |i )?(?:multiply|divide|add|subtract|double|halve|triple|square|cube|convert|express|increase|decrease|reduce|raise|take|deduct|split|turn|change|treble|quadruple)\b|all (?:of (?:it|that|this) )?(?:multiplied|divided|times|doubled|squared)|the (?:whole|lot|result|sum|total)\b.* (?:multiplied|divided|times)|(?:multiplied|divided) by|times|minus|plus|what).*)$"
)
RESULT = r"(?:the (?:result|answer|outcome|sum|total|product|difference|quotient|whole|lot|whole thing|number|figure|amount|value)|it|that|this|them|everything|all (?:of )?(?:it|that|this)|what you get|what you have|the result of that|all)"


class Grammar:
    """Reads one query. `known` says which names exist; `reader` reads database phrases."""

    def __init__(self, known: Known, reader: Reader, text: str):
        self.known, self.reader = known, reader
        self.source = read(text, known)
        self.slots = {
            name: (slot.kind, slot.value) for name, slot in zip(self.source.ids, self.source.slots, strict=True)
        }
        self.split_of = {
            name: slot.pieces for name, slot in zip(self.source.ids, self.source.slots, strict=True) if slot.pieces
        }
        self.nodes = {}
        self.currency = ""
        self.memo = {}
        self.tried = 0
        self.ticks, self.over = 0, False
        self.until = time.thread_time() + MAX_READING_SECONDS
        self.today = datetime.date.fromisoformat(known.today)

    # -- entry

    def readings(self) -> list:
        """Readings of the whole query, cheapest first, at most one per route."""
        text = self.stated(self.source.masked)
        text = _RE.sub(r"(<[nz]\d+>)((?: [a-z]+){0,2} (?:by|times|with|to|plus)) itself\b", r"\1\2 \1", text)
        found = []
        for variant in self.variants(text):
            # what a shorter variant leaves out it leaves unexplained
            lost = len(_RE.findall(r"<[ndexm]\d+>", text)) - len(_RE.findall(r"<[ndexm]\d+>", variant))
            found += [Reading(r.node, r.cost + 1.5 * max(0, lost)) for r in self.every(variant, 0)]
        best = {}
        for reading in sorted(found, key=lambda r: r.cost):
            best.setdefault(_signature(reading.node), reading)
        return [r for r in sorted(best.values(), key=lambda r: r.cost) if not isinstance(r.node, Literal)]

    def variants(self, text):
        """The text, its last sentences when earlier ones only set the scene, and numbers in words read as two."""
        yield text
        parts = _RE.split(r"(?<=[.?!;:])\s+", text)
        for i in range(1, min(len(parts), 4)):
            rest = " ".join(parts[i:])
            if len(rest) > 3:
                yield rest
        if len(parts) > 1:
            yield parts[0]
        for first, rest in zip(parts, parts[1:], strict=False):
            # "I have 500 francs. How much is that in yen?"
            thing = _RE.search(rf"{N}\s*-?\s*{MEASURE}|<c\d+>\s*<n\d+>|<d\d+>", first)
            said = _RE.search(r"\b(?:that|it|this|these|those|they|them)\b(?! (?:is|was) what\b)", rest)
            if thing and said:
                yield f"{rest[: said.start()]}{thing[0]}{rest[said.end() :]}"
            # "Mount Eccles: how many feet tall is it?"
            names = _RE.findall(r"<e\d+>", first)
            said = _RE.search(r"\b(?:it|its|he|she|they|his|her|their)\b", rest)
            if len(names) == 1 and said and not _RE.search(r"<[en]\d+>", rest):
                own = " 's" if said[0] in ("its", "his", "her", "their") else ""
                yield f"{rest[: said.start()]}{names[0]}{own}{rest[said.end() :]}"
        for name, pieces in self.split_of.items():
            if len(pieces) and len(self.source.of("n")) <= 2:
                for k, (left, right) in enumerate(pieces):
                    a, b = f"n{900 + 2 * k}", f"n{901 + 2 * k}"
                    self.slots[a], self.slots[b] = ("n", left), ("n", right)
                    yield text.replace(f"<{name}>", f"<{a}> and <{b}>")

    def stated(self, text):
        """Sets the currency of the database's amounts where the query states it, and drops the statement."""
        form = r"(?!(?:\W|and|so|then|but)*(?:how|what|which|who|when|convert|give|express|turn|tell|change)\b)\b[^.?!;<>]*\b(?:are|is|being|were|stored|quoted|given|listed|kept|recorded|paid|expressed|denominated)\b[^.?!;<>]*?\bin <c(?P<c>\d+)>"
        for m in (
            _RE.match(rf"^\(?{form}\)?\s*[.;,:!)-]\s*(?P<rest>.+)$", text),
            _RE.search(rf"\s*[(.,;?!]\s*(?P<drop>\(?{form}\)?)\s*(?:, please|please)?\s*[.)!?]*$", text),
            _RE.search(
                rf"\s*,?\s+(?:if|given(?: that)?|assuming(?: that)?|considering(?: that)?|seeing(?: that)?|knowing(?: that)?|since|where|when|as)\s+{form}\s*[.)!?]*$",
                text,
            ),
        ):
            others = len(_RE.findall(r"<c\d+>", text)) > 1
            if m and others:
                self.currency = self.slots[f"c{m['c']}"][1]
                return m["rest"] if "rest" in m.groupdict() else text[: m.start()] + "?"
        return text

    def value(self, text, depth) -> Reading | None:
        """The cheapest reading of a phrase."""
        found = self.every(text, depth + 1)
        return min(found, key=lambda r: r.cost) if found else None

    def every(self, text, depth) -> list:
        if depth > MAX_DEPTH or self.exhausted():
            return []
        whole, text = text, self.strip(text)
        if not text:
            return []
        if text in self.memo:
            return self.memo[text]
        self.memo[text] = []
        found = {}
        for rule in (
            self.literals, self.symbols, self.sequences, self.dates, self.conversions, self.percentages, self.verbs, self.comparisons,
            self.infix, self.prefix, self.purchases, lambda text, _: self.shares(text), self.leaves, lambda _, depth: self.leaves(whole, depth) if whole != text else (), self.cues,
        ):  # fmt: skip
            self.tried += 1
            if self.exhausted():
                break
            for reading in rule(text, depth):
                if self.exhausted():
                    break
                if reading.node not in found or reading.cost < found[reading.node].cost:
                    found[reading.node] = reading
            if rule in (self.literals, self.symbols) and found:
                break
        # the grammar's own order breaks ties
        self.memo[text] = sorted(found.values(), key=lambda r: r.cost)[:6]
        return self.memo[text]

    def exhausted(self) -> bool:
        """Whether the budget of readings is used up; what was found so far stands."""
        self.ticks += 1
        if not self.over:  # the clock is dear: a system call
            self.over = self.tried > MAX_READINGS or (self.ticks % 64 == 0 and time.thread_time() > self.until)
        return self.over

    def strip(self, text):
        text = text.strip()
        while True:
            before = text
            m = FILLER.match(text)
            if m and m.end() and not self.keep(text):
                text = text[m.end() :].strip()
            m = TAIL.search(text)
            if m and m.start() > 0 and m.group():
                text = text[: m.start()].strip()
            if text.startswith("(") and text.endswith(")") and _balanced(text[1:-1]):
                text = text[1:-1].strip()
            if text == before:
                return text

    def keep(self, text):
        """Whether the first words ask something by themselves and are no filler."""
        return bool(
            _RE.match(
                r"(?:how many|how much (?:more|less|warmer|colder|hotter|cooler|higher|lower|taller|longer|rain|did|do|does|has|have|stock|time|bigger|larger|older|is left)|how (?:large|big) is|"
                r"what (?:percent|fraction|share|proportion|day|date|weekday|year|month)|which|number of|is the|what (?:does|do|did) <e|how much (?:is|are|was|were) (?:the |a |an |one |our )?(?:<[ex]|[a-z]+ (?:of|for|in) |salary|price|rent|pay|stock)|what (?:is|was|are|were) (?:the )?<[ex])", text,
            )
            and not _RE.match(r"how many (?:is|are) <n", text)
        )  # fmt: skip

    def slot(self, token):
        return self.slots[token.strip("<>")]

    def number(self, token):
        kind, value = self.slot(token)
        return value if kind == "z" else Literal(value, "number")

    # -- literals

    def literals(self, text, depth):
        m = _RE.fullmatch(r"<([nzd]\d+)>", text)
        if m:
            kind, value = self.slots[m[1]]
            if kind == "z" or not isinstance(value, str | Fraction):
                yield Reading(value, 0.0)
            else:
                yield Reading(Literal(value, "date" if kind == "d" else "number"), 0.0)
        m = _RE.fullmatch(r"<([nz]\d+)>\s*-?\s*<([cut]\d+)>", text) or _RE.fullmatch(r"()<(c\d+)>\s*<([n]\d+)>", text)
        if m:
            amount, measure = (m[1], m[2]) if m[1] else (m[3], m[2])
            node = self.number(amount)
            kind, value = self.slots[measure]
            node = replace(node, **({"currency": value} if kind == "c" else {"unit": value}))
            yield Reading(node, 0.0)

    def symbols(self, text, depth):
        """An expression in symbols goes to the calculator as written, powers as `**`."""
        parts = _RE.findall(rf"{N}|\*\*|//|[-+*/%^()x]|\S+", text)
        if len(parts) < 3 or not all(_RE.fullmatch(rf"{N}|\*\*|//|[-+*/%^()x]", p) for p in parts):
            return
        nodes, out = [], []
        for part in parts:
            if part.startswith("<"):
                out.append(f"{{{len(nodes)}}}")
                nodes.append(self.number(part))
            else:
                out.append({"^": "**", "x": "*"}.get(part, part))
        if len(nodes) < 2:
            return
        yield Reading(Operation("".join(out), tuple(nodes)), 0.0)

    # -- several steps in one sentence

    def sequences(self, text, depth):
        """First this, then that with the result."""
        for m in _splits(SEQUENCE, text):
            rest = m["rest"].strip(" .?!")
            if rest.startswith("what") and not _RE.search(rf"\b{RESULT}\b", rest):
                continue
            first = self.value(
                _RE.sub(
                    r"^(?:first|start (?:with|from|by)|begin (?:with|by)|take(?= the | <\w+> (?:and|then))|take(?!.*\b(?:from|away|off)\b)|adding|if)\b,?\s*",
                    lambda m: "add " if m[0].startswith("adding") else "",
                    m["first"],
                ),
                depth,
            )
            if not first or (
                isinstance(first.node, Literal) and not m["first"].startswith(("start", "take", "begin"))
            ):
                continue
            name = f"z{len(self.slots)}"
            self.slots[name] = ("z", first.node)
            token = f"<{name}>"
            replaced = _RE.sub(rf"\b{RESULT}\b", token, rest, count=1)
            if replaced == rest:
                replaced = _RE.sub(
                    r"^((?:you |we )?(?:multiply|divide|increase|decrease|reduce|raise|double|halve|triple|square|cube|convert|express|split|turn|change|treble|quadruple))\b",
                    rf"\1 {token}",
                    rest,
                )
                replaced = _RE.sub(r"^(add)\s+(.*)$", rf"\1 \2 to {token}", replaced)
                replaced = _RE.sub(
                    r"^(subtract|take|deduct)\s+(?:away )?(.*?)(?: away)?$", rf"\1 \2 from {token}", replaced
                )
                replaced = _RE.sub(
                    r"^(?:all )?((?:multiplied|divided) by|times|minus|plus)\b", rf"{token} \1", replaced
                )
            second = self.value(replaced, depth)
            if second and token in replaced and not isinstance(second.node, Literal):
                yield Reading(second.node, first.cost + second.cost + (0.02 if m["then"] else 0.04))

    # -- dates

    def dates(self, text, depth):
        yield from self.near_day(text)
        yield from self.weekdays(text, depth)
        yield from self.days_between(text, depth)
        yield from self.years_between(text, depth)
        node = self.shift(text, depth, main=depth == 0)
        if node:
            yield node

    def date(self, text, depth) -> Reading | None:
        """A phrase that is a date: a literal, a shifted date, today, or a column or page that holds one."""
        text = _RE.sub(
            r"^(?:the (?:date|day|morning|time)(?: of| on which| when| that)?|when|the|on|date of|day)\s+",
            "",
            text.strip(" ,.?!"),
        ).strip()
        m = _RE.fullmatch(r"<(d\d+)>", text)
        if m:
            value = self.slots[m[1]][1]
            return Reading(value if not isinstance(value, str) else Literal(value, "date"), 0.0)
        if _RE.fullmatch(r"(?:now|right now|today|this day|the present(?: day)?|the current date|present)", text):
            return Reading(Literal(self.known.today, "date"), 0.0)
        if depth > MAX_DEPTH or not text:
            return None
        shifted = self.shift(text, depth + 1)
        if shifted:
            return shifted
        if _RE.search(r"<[ex]\d+>", text) or _RE.search(r"\bfirst|last|latest|newest|earliest|recent|oldest\b", text):
            found = [
                r
                for form in (text, f"when {text}", f"on which date {text}")
                for r in self.database(form)
                if r.node.kind == "date"
            ]
            best = min(found, key=lambda r: r.cost, default=None)
            if best and best.cost < 1.5:
                return best
        return None

    def duration(self, text):
        """{"days"|"months"|"years": count} of "3 weeks and 2 days"; weeks and fortnights are days. None if it is none."""
        total = {}
        pieces = _RE.findall(
            r"(?:(<[nz]\d+>|\b(?:an?|one|the))\s+)?(?:(?:whole|full|calendar|further|more|extra) )?<(t\d+)>", text
        )
        for amount, word in pieces:
            if amount.startswith("<"):
                value = self.slot(amount)[1]
                if not isinstance(value, Fraction):
                    return None
            else:
                value = Fraction(1)
            unit = self.slots[word][1]
            factor = {"day": 1, "week": 7, "fortnight": 14, "month": 1, "year": 1, "decade": 10}[unit]
            key = {"month": "months", "year": "years", "decade": "years"}.get(unit, "days")
            total[key] = total.get(key, 0) + value * factor
        return dict(total.items()) if total and all(v.denominator == 1 for v in total.values()) else None

    def shift(self, text, depth, main=False) -> Reading | None:
        """A date so many days before or after another."""
        if main:
            bare = rf"(?<!<)(?:{N}|\ban?|\bone)\s+(?:\w+ )?$"
            text = _RE.sub(
                r"<(t\d+)>",
                lambda m: "day" if self.slots[m[1]][1] == "day" and not _RE.search(bare, text[: m.start()]) else m[0],
                text,
            )
        plain = (
            _RE.sub(
                r"^(?:(?:what|which|tell|give|find|name|show|me|the|is|was|will|would|be|it|date|day|calendar|falls?|fell|comes?|came|lands?|do|does|we|you|i|get|have|of|that|when|lies|lie|on|calculate|compute|work|out|be|exact|exactly|if|had|reach|if|there|resulting|fall|land|'s|,|please|determine|someone|go|going|count|counting|to|can|could|need|know|like|d'|d|by|at|by)\b[\s,]*)+",
                "",
                text,
            )
            if main
            else text
        )
        suffix = r"(?:\s*,?\s*(?:be|is|was|fall(?: on)?|come|land(?: on)?|what (?:date|day) (?:is|was|will) (?:it|that)(?: be)?|(?:what|which) (?:date|day)(?: is it| was it)?|give|date|the date|what is the date|on the calendar|do (?:we|you|i) (?:get|reach|land on|arrive at)|as a date|will it be|was it|is it|(?:is|was|will be|would be|gives|makes|lands on|falls on|fell on|are|were)?\s*(?:on )?(?:what|which) (?:calendar |exact )?(?:date|day)(?: (?:is it|was it|is that|was that))?))?[?.!]*"
        today = Reading(Literal(self.known.today, "date"), 0.0)
        for form, sign in ((AFTER, 1), (BEFORE, -1)):
            m = _RE.fullmatch(
                rf"(?P<dur>{DURATION})\s+(?:{'later, ' if sign > 0 else ''})?(?:on )?{form}\s+(?P<x>.+?){suffix}",
                plain,
            )
            if m:
                base = self.date(m["x"], depth)
                if base:
                    return self.shifted(base, m["dur"], sign)
        m = _RE.fullmatch(
            rf"(?P<dur>{DURATION})\s+(?:ago|back|earlier|in the past|before now|before today){suffix}", plain
        )
        if m:
            return self.shifted(today, m["dur"], -1)
        m = _RE.fullmatch(
            rf"(?:it )?(?:in|within)?\s*(?P<dur>{DURATION})\s*(?:from now|from today|hence|time|'s? time|' time|in the future|later|ahead|on|from this day|after today)?{suffix}",
            plain,
        )
        if (
            m
            and (
                _RE.search(r"\b(?:in|hence|now|today|time|future|later|ahead|on)\b", plain)
                or main
                and _RE.search(r"\bdate\b", text)
            )
            and not _RE.search(r"how (?:many|much|long)", text)
        ):
            return self.shifted(today, m["dur"], 1)
        m = _RE.fullmatch(
            rf"(?:add|adding|put|adds?|move|going|go|shift|jump|count|step|advance|skip)\s+(?:forward\s+)?(?P<dur>{DURATION})\s+(?:to|onto|forward from|ahead from|on from|ahead of|after|from|on to|past)\s+(?P<x>.+?){suffix}",
            plain,
        )
        sign = 1
        if not m:
            m, sign = (
                _RE.fullmatch(
                    rf"(?:subtract|take|remove|deduct|taking|subtracting|go back|going back|step back|count back|move back|counting back|back)\s+(?P<dur>{DURATION})\s+(?:away )?(?:from|off|before)\s+(?P<x>.+?){suffix}",
                    plain,
                ),
                -1,
            )
        if not m:
            m = _RE.fullmatch(
                rf"(?P<x>.+?)\s*,?\s*(?P<s>plus|\+|minus|-|and then|increased by|moved? (?:forward|back) by|shifted? (?:forward|back)(?: by)?|pushed? (?:forward|back)(?: by)?|and (?:go|count|add|subtract)(?: (?:forward|back|ahead))?|(?:go|count|add|advance|subtract|step)(?: (?:forward|back|ahead|on))?(?: by)?)\s+(?P<dur>{DURATION}){suffix}",
                plain,
            )
            sign = -1 if m and _RE.search(r"minus|-|back|subtract", m["s"]) else 1
        if not m:
            m = _RE.fullmatch(
                rf"(?:from|starting (?:from|on|at|with)|counting from|beginning (?:on|from)|start(?:ing)? (?:on|at|from)|take|of)?\s*(?P<x>.+?)\s*,?\s*(?:(?:what|which) (?:date|day) (?:is|was|comes|falls|will be|lies))?\s*(?:it is |is )?(?P<dur>{DURATION})\s+(?P<s>later|earlier|on|ahead|back|before|after|afterwards|beforehand|forward|prior|further on|onwards?|in advance|previously|hence){suffix}",
                plain,
            )
            sign = (
                -1
                if m and m["s"] in ("earlier", "back", "before", "beforehand", "prior", "previously", "in advance")
                else 1
            )
        if m:
            base = self.date(m["x"], depth)
            if base:
                return self.shifted(base, m["dur"], sign)
        return None

    def near_day(self, text):
        """Today, tomorrow, ... asked for as a date."""
        m = _RE.search(r"<(d\d+)>", text)
        plain = _RE.sub(r"<(t\d+)>", lambda m: str(self.slots[m[1]][1]), text)
        asked = _RE.fullmatch(
            r"(?:(?:what|which|tell|give|show|me|the|is|was|will|be|it|of|on|calendar|exact|please|what's|'s|do we have|falls?)\s+)*(?:<d\d+>\s*'s date|date\s+(?:is it |was it |will it be |will |is |was |of |for |it is |do we have |we have |have |)*<d\d+>(?: be)?)",
            plain.strip(" ?.!"),
        )
        if m and asked:
            said = self.source.slots[self.source.ids.index(m[1])] if m[1] in self.source.ids else None
            if said and RELATIVE.fullmatch(said.text):
                days = (datetime.date.fromisoformat(said.value) - self.today).days
                yield Reading(
                    _call("dates", "date", op="shift", date=Literal(self.known.today, "date"), days=str(days)), 0.0
                )

    def shifted(self, base, duration, sign):
        amounts = self.duration(duration)
        if not amounts:
            return None
        arguments = {"op": "shift", "date": base.node} | {k: exact_text(sign * v) for k, v in sorted(amounts.items())}
        return Reading(_call("dates", "date", **arguments), base.cost)

    def weekdays(self, text, depth):
        forms = (
            r"(?:on )?(?:which|what)(?: was| is)?(?: the)? (?:day of (?:the|a) week|weekday|week day|day name|day)(?: (?:is|was|were|came|comes|follows|followed|will|would|does|did|do|fell|falls|lands|landed|happened|the name|it is|it was|that|be))*\s*(?:on\s+)?(?P<x>.+?)(?:\s*(?:fall|falls|fell|land|lands|landed|be|come|occur|happen|is|was|take place)(?: on)?)?",
            r"(?:the )?(?:name of the )?(?:day of the week|weekday|week day|day name|day)(?: (?:of|for|on|is|was|that|falls|name of|it is|it was|corresponding to|matching|when))+\s+(?P<x>.+?)(?:\s*(?:fall|falls|fell|land|lands|be|is|was|falls on|fell on)(?: on)?)?",
            r"(?P<x>.+?)\s*(?:,|-|:)?\s*(?:is|was|fell|falls|will be|lands|landed|will fall|would be|happened)?\s*(?:on )?(?:a )?(?:which|what) (?:day of the week|weekday|day)(?: (?:is|was|will|would) (?:that|it)(?: be)?)?",
            r"(?:name|find|determine|give|tell)?\s*(?:me )?(?:the )?(?:weekday|day of the week)\s*[:,-]?\s*(?P<x><d\d+>)",
            r"(?P<x><d\d+>)\s*[:,-]?\s*(?:which |what )?(?:day of the week|weekday)",
            r"(?:on )?(?:which|what) (?:day of the week|weekday|day) (?:was|is|were|did|does|will) (?P<x><[ex]\d+> .+)",
        )  # fmt: skip
        if not _RE.search(r"\b(?:weekday|week day|day|days)\b", text) and not _RE.search(r"<t\d+>", text):
            return
        # "day" and "week" were lifted out as time words
        spoken = _RE.sub(
            r"<(t\d+)>",
            lambda m: (
                self.slots[m[1]][1]
                if self.slots[m[1]][1] in ("day", "week")
                and not _RE.search(rf"(?:<[nz]\d+>|\ba|\bone)\s+<{m[1]}>", text)
                else m[0]
            ),
            text,
        )
        for form in forms:
            m = _RE.fullmatch(form, spoken.strip(" ?.!"))
            if m:
                x = m["x"].strip()
                base = self.date(x, depth) or self.date(
                    _RE.sub(r"^(?:was|is|were|did|does|will|would|it|the|on)\s+", "", x), depth
                )
                if base:
                    yield Reading(_call("dates", "text", op="weekday", date=base.node), base.cost)
                    return

    def days_between(self, text, depth):
        spoken = _RE.sub(
            r"<(t\d+)>",
            lambda m: (
                {"day": "days", "week": "weeks"}.get(self.slots[m[1]][1], m[0])
                if not _RE.search(rf"<[nz]\d+>\s+<{m[1]}>", text)
                else m[0]
            ),
            text,
        )
        if not _RE.search(r"\b(?:days|weeks)\b", spoken):
            return
        weeks = "weeks" in spoken and "days" not in spoken
        what = r"(?:(?:the )?(?:how many|number of|count(?: of)?(?: the)?|total(?: number)? of|amount of|difference in|gap in|distance in|interval in|time in|span in|length in|how long in|how long,? in|how far apart in)?\s*(?:the )?(?:whole |full |calendar |complete )?(?:days|weeks))"
        join = r"(?:\s*(?:are there|is there|are|is it|is|was it|do we have|lie|lies|pass|passed|passes|elapse|elapsed|went by|go by|were there|did (?:it take|pass)|does it take|have|has|there are|there were|there|separate|separates|that|counting|can (?:we|you|i) count|i have|we have|you have|to go|apart are|stretch|fall|will pass|between them|there is|will it take|lay|it is|come|of|the span|in the (?:period|interval|stretch|span|time)))*"
        forms = (
            (rf"{what}{join}\s*(?:between|from|separate|separates|separating|starting|dividing|that separate|apart from)\s+(?P<a>.+?)\s+(?:and|to|until|till|through|up to|from|-)\s+(?P<b>.+?)", 1),
            (rf"{what}{join}\s*(?:after|since|following|past)\s+(?P<a>.+?)\s+(?:is|was|will|did|does|comes?|came|were|falls?|fell)\s+(?P<b>.+?)(?: (?:come|fall|occur|be))?", 1),
            (rf"{what}{join}\s*(?:before|prior to|ahead of|until|till|to)\s+(?P<b>.+?)\s+(?:is|was|will|did|does|comes?|came|were|falls?|fell)\s+(?P<a>.+?)(?: (?:come|fall|occur|be))?", 1),
            (rf"{what}{join}\s*(?:until|till|to|before|left until|remain until|remaining until|are left until|left before|remain before|up to)\s+(?P<b>.+?)(?:,? (?:counting|starting|seen)?\s*from (?P<a>.+?))?", 1),
            (rf"{what}{join}\s*(?:since|after|from)\s+(?P<a>.+?)(?:\s+(?:until|to|till|up to|and)\s+(?P<b>.+?))?", 1),
            (rf"{what}\s+ago\s+(?:is|was|were|did)\s+(?P<a>.+?)", 1),
            (rf"{what}\s+apart\s+(?:are|is|were|lie)\s+(?P<a>.+?)\s+and\s+(?P<b>.+?)", 1),
            (r"(?:count|counting|tally) (?:the )?(?:number of )?days (?:between|from)\s+(?P<a>.+?)\s+(?:and|to|until)\s+(?P<b>.+?)", 1),
            (r"(?:from|between)\s+(?P<a>.+?)\s+(?:to|until|and|till)\s+(?P<b>.+?)\s*,?\s*(?:how many|is how many|it is how many|there are how many|what is the number of|how long in|the number of)\s+(?:days|weeks)(?: (?:are there|is it|is that|pass|passed|elapsed?|went by|in total))*", 1),
            (r"(?:how (?:long|far apart|much time)|what is the (?:gap|difference|distance|interval|span)|(?:gap|difference|distance|interval|span|time|stretch))(?: is it| are| is| was it| lies| passes| passed| in days)*\s*(?:,?\s*(?:counted |measured |expressed )?in (?:days|weeks),?\s*)?(?:between|from|are|separates?)?\s+(?P<a>.+?)\s+(?:and|to|until|from)\s+(?P<b>.+?)(?:\s*,?\s*(?:counted |measured |expressed )?in (?:days|weeks))?", 1),
        )  # fmt: skip
        clean = spoken.strip(" ?.!")
        clean = _RE.sub(
            r"\s+(?:apart|in total|altogether|go by|have passed|passed|elapsed?|have elapsed|away|went by|are there|is it|pass|lie|in all|inclusive)$",
            "",
            clean,
        )
        found = []
        for form, _ in forms:
            for m in _splits(_compiled(f"^(?:{form})$"), clean):
                groups = m.groupdict()
                a = (
                    self.date(groups["a"], depth)
                    if groups.get("a")
                    else Reading(Literal(self.known.today, "date"), 0.0)
                )
                b = (
                    self.date(groups["b"], depth)
                    if groups.get("b")
                    else Reading(Literal(self.known.today, "date"), 0.0)
                )
                if a and b:
                    node = _call("dates", "number", op="days_between", start=a.node, end=b.node)
                    found.append(Reading(Operation("({0})/7", (node,)) if weeks else node, a.cost + b.cost))
            if found:
                yield min(found, key=lambda r: r.cost)
                return

    def years_between(self, text, depth):
        spoken = _RE.sub(
            r"<(t\d+)>",
            lambda m: (
                {"year": "years"}.get(self.slots[m[1]][1], m[0])
                if not _RE.search(rf"<[nz]\d+>\s+<{m[1]}>", text)
                else m[0]
            ),
            text,
        )
        clean = spoken.strip(" ?.!")
        full = r"(?:full |complete |whole |completed |entire |finished |calendar )*"
        what = rf"(?:how many {full}years|(?:the )?number of {full}years|how long in {full}years|{full}years|count (?:the )?{full}years|how many {full}years' (?:time|difference))"
        verbs = r"(?:\s*(?:are there|is there|are|is it|is|lie|pass|passed|have passed|has it been|have gone by|have elapsed|went by|elapsed?|elapse|there are|did|do|separate|were there|was it|had passed|does|it is|go by|gone by|that have passed|we have|counting|of|fit|fall|that passed|that elapsed|went|by|lay))*"
        person = r"(?:someone|somebody|a person|a man|a woman|a child|anyone|one|people|a baby|a kid|an employee|i|my \w+|she|he|a girl|a boy|the person|something|a building|a company|a firm|a house|a thing)?"
        forms = (
            rf"{what}{verbs}\s*(?:between|from)\s+(?P<a>.+?)\s+(?:and|to|until|till|up to)\s+(?P<b>.+?)",
            rf"{what}{verbs}\s*(?:since|after|from)\s+(?P<a>.+?)(?:\s*,?\s+(?:until|till|up to|to|by|as of)\s+(?P<b>.+?))?",
            rf"{what}\s+ago\s+(?:is|was|were|did)\s+(?P<a>.+?)",
            rf"{what}\s*(?:has|have|had)\s+(?P<a><[ex]\d+> .*?)",
            rf"(?:how old|what age|what is the age|the age|age(?: in {full}years)?|how many {full}years old|in {full}years how old|how aged)(?: (?:is|was|would|will|be|are|of|has|turn|in years))*\s*{person}\s*(?:be|is|was|who|that|turn|,)*\s*(?:born|whose birthday is|whose (?:date of birth|birth date|birthdate) is|with (?:a )?(?:birthday|birth date|date of birth)|birthdate|with birthday)\s*(?:was|of|is|:)?\s*(?:on|in)?\s*(?P<a><d\d+>)(?:\s*,?\s*(?:be|is|are|turn)?\s*(?:on|by|as of|at|in|be on|today|when it is)\s+(?P<b>.+?))?(?: (?:today|now|be today|be now|at present|be|have|turn))?",
            rf"(?:if|when|suppose|given|for|assuming)?\s*{person}\s*(?:was|were|is|am|who is|who was|'s)?\s*born (?:on )?(?P<a><d\d+>)\s*,?\s*(?:and |then )?(?:how old|what age|what is (?:their|his|her|my) age|how many {full}years old|their age|how many birthdays|(?:is|are) how many {full}years old)(?: (?:are|is|was|would|will|be|they|he|she|i|we|it|that|person|now|today|have))*(?:\s*(?:on|by|as of)\s+(?P<b><d\d+>))?",
            rf"(?:born|birthday|date of birth|born on|birthdate):?\s*(?:on )?(?P<a><d\d+>)[,.;:]?\s*(?:current age|age|how old|what age)(?: (?:in years|now|today|in {full}years))*",
            rf"(?P<a><d\d+>) (?:is|was) (?:how many|what number of) {full}years ago",
        )  # fmt: skip
        if not _RE.search(r"\byears\b|\bold\b|\bage\b|\baged\b|birthday", clean):
            return
        clean = _RE.sub(
            r"\s+(?:gone by|have passed|passed|have elapsed|elapsed|apart|altogether|in total|went by|go by)$",
            "",
            clean,
        )
        for form in forms:
            for m in _splits(_compiled(f"^(?:{form})$"), clean):
                groups = m.groupdict()
                a = self.date(groups["a"], depth)
                b = (
                    self.date(groups["b"], depth)
                    if groups.get("b")
                    else Reading(Literal(self.known.today, "date"), 0.0)
                )
                if a and b:
                    yield Reading(
                        _call("dates", "number", op="years_between", start=a.node, end=b.node), a.cost + b.cost
                    )
                    return
        # years from years: pages say 1895, not a date
        m = (
            _RE.fullmatch(r"(?:how many|number of) years ago (?P<x>(?:was|were|did|is)\s.+)", clean)
            or _RE.fullmatch(
                r"(?:how many|number of) years (?:has it been|have (?:passed|gone by|elapsed)|(?:has|have) it been|is it|are there)?\s*since (?P<x>.+)",
                clean,
            )
            or _RE.fullmatch(r"how (?P<old>old) (?:is|was) (?P<x>.+?)(?: (?:now|today|this year|currently))?", clean)
            or _RE.fullmatch(
                r"how (?P<old>old) (?:would|will|might) (?P<x>.+?) (?:be|have been|turn)(?: now| today| (?:by )?this years?| currently| in the current years?)?",
                clean,
            )
            or _RE.fullmatch(r"(?:what is )?(?:the )?(?P<old>age) (?:of|in years of) (?P<x>.+)", clean)
            or _RE.fullmatch(r"(?P<x><[ex]\d+> .+) (?:how many|what number of) years ago", clean)
            or _RE.fullmatch(
                r"how (?:long|much time) ago\s*,?\s*(?:in years\s*,?\s*)?(?P<x>(?:was|were|did|is)\s.+?)(?:\s*,?\s*in years)?",
                clean,
            )
            or _RE.fullmatch(r"how many years (?:ago )?(?:have|has) (?:passed|gone by|elapsed) since (?P<x>.+)", clean)
        )
        if m:
            old = m.groupdict().get("old")
            found = [
                r
                for r in self.wiki(f"when was {m['x']} built" if old else f"when {m['x']}")
                + self.database(f"in which year {m['x']}" if not old else f"{m['x']} year")
                if r.node.kind == "number"
            ]
            if found:
                best = min(found, key=lambda r: r.cost)
                yield Reading(
                    Operation("{0}-({1})", (Literal(Fraction(self.today.year), "number"), best.node)), best.cost + 0.05
                )
        m = _RE.fullmatch(
            r"(?:how many|(?:the )?number of) years (?P<s>after|before|earlier|later|between|separate|passed between|lie between|are there between|elapsed between|apart)(?: than)?\s+(?P<a>.*?<[ex]\d+>.*?)(?: (?:and|was|were|did|is|are)\b )+(?P<b>.*?<[ex]\d+>.*?)",
            clean,
        )
        if m and "<e" in m["a"] and "<e" in m["b"]:
            tail = _RE.sub(r".*<[ex]\d+>", "", m["a"]).strip() or _RE.sub(r".*<[ex]\d+>", "", m["b"]).strip()
            a, b = (
                self.wiki(
                    f"when was {_RE.search(r'<[ex][0-9]+>', part)[0]} {_RE.sub(r'.*<[ex][0-9]+>', '', part).strip() or tail}"
                )
                for part in (m["a"], m["b"])
            )
            if a and b:
                first, second = (a[0], b[0]) if m["s"] == "before" else (b[0], a[0])
                yield Reading(Operation("({0})-({1})", (first.node, second.node)), a[0].cost + b[0].cost + 0.1)

    # -- conversions

    def conversions(self, text, depth):
        if not _RE.search(MEASURE, text):
            yield from self.unknown_conversion(text)
            return
        clean = text.strip(" ?.!,")
        date = None
        rate = _RE.search(
            r"\s*,?\s*(?:\b(?:on|at|as of|for|dated|from|using|with|per|by|under|going by|given|based on|valid on|applying|of|if we use|according to|back on|as at|quoted on|when)\b\s*)?(?:the |its |that day's |our )*(?:(?:exchange|conversion|official|closing|ecb|fx|currency|historical|reference|published) )*(?:rates?|quote|quotation|fixing|table|course)?\s*(?:of|from|for|on|dated|valid on|published on|as of|at|in force on|that applied on|quoted on)?\s*(?:the )?<(d\d+)>(?:'s|s')?\s*(?:(?:exchange |conversion )?(?:rates?|quote|fixing|values?))?\s*,?",
            clean,
        )
        shifted = None
        if rate and "<c" in clean:
            date = self.slots[rate[1]][1]
            shifted = _RE.sub(r"\s+", " ", (clean[: rate.start()] + " " + clean[rate.end() :])).strip(" ,?.!")
        prepositions = r"(?:in|into|to|as|for|expressed in|measured in|given in|stated in|converted to|converted into|in terms of|when converted to|when (?:expressed|measured|given|stated|shown|written|converted) (?:in|into|to|as)|worth in|onto|->|=>|=|towards|against|if paid in|if expressed in|using|denominated in|reported in|and give it in|and express it in|shown in|quoted in|,)"
        targets = r"(?P<t><[cut]\d+>)"
        verb = r"(?:convert|change|express|turn|exchange|switch|translate|transform|put|give|show|state|write|render|swap|report|rewrite|restate|recast|present|return|trade|say|quote|what is|how much is|how much are|make)"
        get = r"(?:are|is|were|was|does|do|did|would|will|could|can|equal|equals|make(?: up)?|makes|in|there|correspond|corresponds|to|i|you|we|one|get|gets|buy|buys|for|from|be|out|of|contained|with|that|if|exchange|exchanging|have|amount|amounts|obtain|obtained|receive|it|fit|go|into|worth|your|my|hold|holds|represent|find|give|when|converting|convert|contain|come|comes|by|ran|run|cover|against|people|a|an|the)"
        forms = (
            rf"(?:{verb}\s+)?(?P<x>.+?)\s*{prepositions}\s+(?:a |an |the |its |their |units? of |whole |value in |terms of |equivalent |amount in |currency )*{targets}(?:\s*(?:please|then|instead|value|equivalent|amount|terms|,|as well|worth|exactly|be|at (?:the )?(?:latest|current|most recent|newest|present|today's) (?:exchange )?rates?|right now|currently|today|is that|units?|is it|would that be|make|does that make))*",
            rf"(?:how many|how much|what amount of|what number of|the number of|number of|what(?: is| are)? the (?:amount|number|equivalent|value) (?:of|in)|how much in|what amount in|how many units of)\s+(?:whole )?{targets}(?:\s+{get})*\s+(?P<x>.+?)(?:\s+(?:make|makes|equals?|correspond to|be|worth|amount to|come to|buy|get me|is|are|contain|hold|fetch|cost|give|convert to|cover|last|get you|represent|translate to|yield|weigh|measure|have|in all|bring|go for|be worth))*",
            rf"how (?:many|much) {targets} (?P<x>(?:does|do|is|are|did|was|would|will) .+?)",
            rf"(?:in|expressed in|as|using|measured in)\s+{targets}\s*,?\s*(?P<x>.+?)",
            rf"(?:the )?{targets}\s*(?:equivalent|value|worth|amount|price|counterpart|conversion|figure|equivalents|count)\s*(?:of|for|to|from)\s+(?P<x>.+?)",
            rf"(?P<x>.+?)\s*,?\s*(?:is|are|equals?|makes?|was|would be|amounts? to|corresponds? to|comes? to|=|in|to|-|:|gives?|buys?|gets? (?:me|you)|contains?|will get me|will buy|would buy)?\s*(?:how many|how much|what|what amount|how much in|what in|what number of|\?|in how many|to how many)\s*(?:in\s+)?{targets}(?: (?:is that|is it|does that make|would that be|are there|is this|do i get|are in that|does it make|exactly|does this make|in total))?",
            rf"{targets}\s+(?:in|from|per|for|to|out of)\s+(?P<x>.+?)",
            rf"(?:value|worth|price|cost|equivalent|amount)\s+in\s+{targets}\s+(?:of|for|to)\s+(?P<x>.+?)",
            rf"(?:if|when|suppose|say|given|for|with)?\s*(?:i|you|we|one|someone)?\s*(?:have|has|had|exchange|change|swap|convert|bring|own|trade|hand over|got|travel|walk|drive|weigh|buy|sell)?\s*(?P<x>.+?)\s*,\s*(?:then )?(?:how many|how much|what|what amount)(?: is that| is it| would that be| does that make)?\s*(?:in\s+)?(?:of )?{targets}(?:\s+{get})*",
        )  # fmt: skip
        seen = set()
        for source, with_date in ((shifted, True), (clean, False)):
            if source is None:
                continue
            for index, form in enumerate(forms):
                for m in _splits(_compiled(f"^(?:{form})$"), source, every=index in (0,)):
                    key = (m["x"], m["t"], with_date)
                    if key in seen:
                        continue
                    seen.add(key)
                    yield from self.converted(
                        m["x"], m["t"], date if with_date else None, depth, 0.0 if index < 5 else 0.05
                    )
        yield from self.unknown_conversion(clean)

    def converted(self, inner, target, date, depth, cost):
        kind, goal = self.slot(target)
        family = "c" if kind == "c" else "ut"
        inner = inner.strip(" ,")
        m = kind == "u" and _RE.fullmatch(
            r"(?:does|do|did|is|was) (?:the )?(?P<e><[ex]\d+>) (?P<how>[a-z]+)(?: (?:in (?:length|height|all|total)|to|up(?: to)?|above (?:the )?sea(?: level)?))*",
            inner,
        )
        if m:
            # "how many yards does Eccles Bridge measure"
            ways = (
                ("long", "measure span stretch run extend"), ("high", "rise stand reach tower soar climb"), ("heavy", "weigh"),
            )  # fmt: skip
            inner = next((f"how {word} is {m['e']}" for word, verbs in ways if m["how"] in verbs.split()), inner)
        m = kind == "c" and _RE.fullmatch(
            r"(?:(?:a|an|one|the|single|our|is|are|does|do)\s+)*(?P<e><e\d+>)(?:\s+(?:cost|worth|go for|sell for|be))?",
            inner,
        )
        if m:
            # "how many pounds is one oak stool"
            inner = f"price of {m['e']}"
        # a duration beside a date shifts it and measures nothing
        family = "u" if family == "ut" and _RE.search(r"<[dex]\d+>", inner) else family
        measures = [(m[0], m[1]) for m in _RE.finditer(rf"<([{family}]\d+)>", inner)]
        values = {self.slots[name][1] for _, name in measures}
        expert = "currency" if kind == "c" else "units"
        if kind == "t" and goal not in ("day", "week") or (kind == "t" and _RE.search(r"<d\d+>", inner)):
            return

        def call(node, source):
            if expert == "currency":
                when = date if date is None or isinstance(date, str) else date
                return _call(
                    "currency", "number", currency=goal, amount=node, **{"from": source, "to": goal, "date": when}
                )
            return _call("units", "number", unit=goal, value=node, **{"from": source, "to": goal})

        if len(values) == 1:
            # "the sum of 362 and 777 kronor", "twice 5 miles": one measure for all of it
            bare = _RE.sub(r"\s+", " ", _RE.sub(rf"<[{family}]\d+>", " ", inner))
            bare = _RE.sub(r"\s+(?:of|worth|each|in)$", "", bare.strip())
            if (
                not _RE.search(rf"{N}", bare)
                and not _RE.search(r"<[ex]\d+>", bare)
                and _RE.fullmatch(r"(?:a|an|one|the|single|1|\s)*", bare)
            ):
                node = Reading(Literal(Fraction(1), "number"), 0.1)
            else:
                node = self.value(bare, depth)
            converted = node and isinstance(node.node, Call) and node.node.expert in ("units", "currency")
            plain = node and node.node.kind == "number" and not getattr(node.node, "unit", "")
            if plain and not converted and not _measured(node.node):
                yield Reading(call(node.node, next(iter(values))), node.cost + cost)
            return
        if values and kind != "t":
            # quantities in several measures: each is converted, then combined
            return
        reading = self.value(inner, depth)
        if not reading or reading.node.kind != "number":
            return
        node = reading.node
        if kind == "c":
            source = getattr(node, "currency", "") or _leaf_currency(node) or self.currency or self.base_currency()
            if isinstance(node, Literal) and not node.currency:
                return
            if source == goal or not (_from_database(node) or getattr(node, "currency", "")):
                return
            yield Reading(call(node, source), reading.cost + cost + 0.02)
        else:
            source = getattr(node, "unit", "") or _leaf_unit(node)
            if isinstance(node, Literal) and not node.unit:
                return
            leaf = next(iter(_leaves(node, "wiki")), None)
            if not source and leaf:
                source = UnitOf(leaf, "meter")
            if not source and _from_database(node):
                source = {
                    "kg": "kilogram",
                    "g": "gram",
                    "m": "meter",
                    "km": "kilometer",
                    "cm": "centimeter",
                    "mm": "millimeter",
                    "l": "liter",
                    "ml": "milliliter",
                    "kmh": "kilometer_per_hour",
                    "h": "hour",
                    "hours": "hour",
                    "minute": "minute",
                    "day": "day",
                }.get(_database_unit(node), "")
            if source and source != goal:
                yield Reading(call(node, source), reading.cost + cost + 0.02)

    def base_currency(self):
        return "EUR" if "EUR" in self.known.currencies or not self.known.currencies else self.known.currencies[0]

    def unknown_conversion(self, text):
        """A conversion from or to something that no unit or currency is called: the expert will say so."""
        clean = text.strip(" ?.!,")
        word = r"(?P<w>(?:<x\d+>|[a-z][a-z'-]+)(?:\s+(?:<x\d+>|[a-z][a-z'-]+))?)"
        date = _RE.search(r"\s*,?\s*(?:on|at the rate of|as of)\s+<d\d+>$", clean)
        clean = clean[: date.start()] if date else clean
        verb = r"(?:convert|change|express|turn|exchange|what is|how much is|how much are|translate|put|transform|switch|swap|how much would)?\s*"
        for form, known_source in (
            (rf"{verb}(?P<a>{N})\s*(?P<k><[cu]\d+>)\s*(?:in|into|to|as|be in|worth in)\s+(?:the )?{word}", True),
            (rf"{verb}(?P<k><c\d+>)\s*(?P<a>{N})\s*(?:in|into|to|as|be in|worth in)\s+(?:the )?{word}", True),
            (rf"{verb}(?P<a>{N})\s*{word}\s*(?:in|into|to|as|be in|worth in)\s+(?:the )?(?P<k><[cu]\d+>)", False),
            (
                rf"how many (?P<k><[cu]\d+>) (?:are|is|in|make|do|does|can i get for|equal|would|are in|are there in|make up) (?P<a>{N})\s*{word}(?: (?:make|equal))?",
                False,
            ),
            (
                rf"how many {word} (?:are|is|in|make|do i get for|can i get for|are in|are there in|make up) (?P<a>{N})\s*(?P<k><[cu]\d+>)",
                True,
            ),
        ):
            m = _RE.fullmatch(form, clean)
            if not m:
                continue
            kind, value = self.slot(m["k"])
            other = m["w"].strip()
            name = (
                self.slots[other.strip("<>")][1]
                if other.startswith("<x") and " " not in other
                else _RE.sub(r"<x\d+>", lambda s: str(self.slots[s[0].strip("<>")][1]), other)
            )
            if _RE.match(
                r"(?:a|the|an|this|that|how|what|words?|figures|digits|total|all|french|german|spanish|person|time|of|and|plus|minus|times)\b",
                name,
            ):
                continue
            source, goal = (value, name) if known_source else (name, value)
            node = self.number(m["a"])
            if kind == "c":
                source, goal = (n.upper() if len(n) == 3 else n for n in (source, goal))
                yield Reading(
                    _call(
                        "currency",
                        "number",
                        unknown=True,
                        amount=node,
                        **{"from": source, "to": goal, "date": None},
                    ),
                    0.5,
                )
            else:
                yield Reading(_call("units", "number", unknown=True, value=node, **{"from": source, "to": goal}), 0.5)
            return

    # -- arithmetic

    def percentages(self, text, depth):
        clean = text.strip(" ?.!,")
        if not _RE.search(r"%|percent|per cent|pct|percentage|fraction|proportion", clean):
            return
        up = r"(?:plus|increased by|raised by|grown by|with an? (?:additional|extra)|augmented by|marked up by|topped up by|after (?:adding|a raise of|an? increase of|a rise of)|goes up by|go up by|rises by|grows by|with a markup of|with|boosted by|inflated by|\+|up by|up)"
        down = r"(?:minus|decreased by|reduced by|lowered by|cut by|discounted by|less|after (?:a discount of|taking off|an? (?:reduction|cut|decrease|drop) of|removing|deducting)|goes down by|falls by|drops by|shrinks by|marked down by|with a discount of|shrunk by|diminished by|down by|down|-|with)"
        forms = (
            (rf"{PERCENT}\s*(?:share |part |portion |cut |slice )?(?:of|from|out of|on)\s+(?P<x>.+)", "({0})*{1}/100"),
            (rf"{PERCENT}\s*(?:discount|reduction|off|less|rebate|lower|cut|decrease|markdown|below|fewer|smaller|price cut|drop)\s*(?:on|of|from|to|than|in|applied to|for)?\s+(?P<x>.+)", "({0})*(1-{1}/100)"),
            (rf"{PERCENT}\s*(?:more|increase|added|on top|higher|above|extra|greater|markup|surcharge|raise|rise|larger|bigger|additional|over)\s*(?:than|on|of|to|from|over|in|added to)?\s+(?P<x>.+)", "({0})*(1+{1}/100)"),
            (rf"(?:increase|raise|grow|bump(?: up)?|boost|mark up|inflate|lift|up|hike|scale up|add to|bring up|push up|enlarge|expand|augment)\s+(?P<x>.+?)\s+(?:by|up by|upwards by)\s+{PERCENT}", "({0})*(1+{1}/100)"),
            (rf"(?:decrease|reduce|lower|cut|discount|shrink|mark down|drop|diminish|slash|trim|bring down|scale down|lessen|deflate)\s+(?P<x>.+?)\s+(?:by|down by)\s+{PERCENT}", "({0})*(1-{1}/100)"),
            (rf"(?:add|put|tack|apply|include)\s+(?:an? (?:markup|tax|surcharge|increase|tip) of\s+)?(?:an? (?:extra|additional)\s+)?{PERCENT}\s*(?:tax |tip |markup |surcharge |interest |vat |to |more )*(?:to|on|onto|on top of|to the top of)\s+(?P<x>.+)", "({0})*(1+{1}/100)"),
            (rf"(?:take|subtract|deduct|knock|remove|shave|strip|cut)\s+(?:an? (?:discount|cut) of\s+)?{PERCENT}\s*(?:away |off )*(?:from|off|of|off of)?\s*(?P<x>.+)", "({0})*(1-{1}/100)"),
            (rf"(?:apply|give|grant)\s+(?:a )?(?:discount of )?{PERCENT}\s*(?:discount|reduction|off|rebate)?\s*(?:to|on)\s+(?P<x>.+)", "({0})*(1-{1}/100)"),
            (rf"(?P<x>.+?)\s+(?:with|at|after|less|minus)\s+(?:a )?(?:discount of )?{PERCENT}\s*(?:discount|off|reduction|rebate|taken off|knocked off|removed|deducted|subtracted|cut)(?: applied)?", "({0})*(1-{1}/100)"),
            (rf"(?P<x>.+?)\s+(?:with|after|plus)\s+(?:an? )?(?:extra |additional |further )?{PERCENT}\s*(?:added|increase|more|on top|extra|markup|tax|surcharge|raise|rise|interest)(?: (?:added|on top|applied|to it))*", "({0})*(1+{1}/100)"),
            (rf"(?P<x>.+?)\s*{up}\s+{PERCENT}", "({0})*(1+{1}/100)"),
            (rf"(?P<x>.+?)\s*{down}\s+{PERCENT}", "({0})*(1-{1}/100)"),
        )  # fmt: skip
        for form, template in forms:
            m = _RE.fullmatch(form, clean)
            if m:
                inner = self.value(m["x"], depth)
                if inner and inner.node.kind == "number":
                    yield self.operation(template, [inner, Reading(self.number(m["p"]), 0.0)])
        word = r"(?:percent(?:age)?|per cent|%)"
        for form, _flip, template in (
            (
                rf"(?:what|which) {word}(?: share)?(?: of)? (?P<b>.+?) (?:is|are|does|equals?|makes? up|do|would be|correspond to) (?P<a>.+?)(?: (?:represent|make up|account for|form|make|constitute))?",
                0,
                "({0})/({1})*100",
            ),
            (
                rf"(?P<a>.+?) (?:is|are|makes?|equals?|represents?|was|constitutes?|amounts? to) (?:what|which|how many|how much in) {word}(?: share)? of (?P<b>.+)",
                0,
                "({0})/({1})*100",
            ),
            (
                rf"(?P<a>.+?),? (?:as|expressed as|in|written as|given as) (?:a |an )?{word} of (?P<b>.+)",
                0,
                "({0})/({1})*100",
            ),
            (rf"(?:the )?{word} that (?P<a>.+?) (?:is|makes up|represents|forms) of (?P<b>.+)", 0, "({0})/({1})*100"),
            (
                rf"(?P<a>.+?) out of (?P<b>.+?),? (?:as|in|is what|expressed as|gives what|makes what|is) (?:a |an )?{word}",
                0,
                "({0})/({1})*100",
            ),
            (r"what (?:fraction|proportion) of (?P<b>.+?) is (?P<a>.+)", 0, "({0})/({1})"),
            (
                rf"(?:what|which) (?:is the )?{word} (?:increase|change|rise|growth|difference) (?:is it )?(?:from|between) (?P<b>.+?) (?:to|and) (?P<a>.+)",
                0,
                "(({0})-({1}))/({1})*100",
            ),
        ):
            m = _RE.fullmatch(form, clean)
            if m:
                a, b = self.value(m["a"], depth), self.value(m["b"], depth)
                if a and b and a.node.kind == b.node.kind == "number":
                    yield self.operation(template, [a, b])

    def shares(self, text):
        """What part of the rows of a table fits a condition: "what percentage of orders were returned"."""
        m = _RE.fullmatch(
            r"(?:what|which)(?: is the)? (?P<w>percent(?:age)?|per cent|%|share|fraction|proportion) of (?:all |the |our |all the )*(?P<b>[a-z]+) (?P<c>(?:is|are|was|were|have|has|had|work|works|live|lives|belong|belongs|earn|earns|cost|costs|come|comes|joined|in|from|got|that)\b.+)",
            text.strip(" ?.!,"),
        )
        if not m:
            return
        part, whole = self.database(f"how many {m['b']} {m['c']}"), self.database(f"how many {m['b']}")
        if part and whole and "WHERE" in dict(part[0].node.arguments)["sql"] and part[0].node != whole[0].node:
            template = "({0})/({1})" if m["w"] in ("fraction", "proportion") else "({0})/({1})*100"
            if "COUNT(" in dict(whole[0].node.arguments)["sql"]:
                yield self.operation(template, [part[0], whole[0]], 0.05)

    def operation(self, template, readings, cost=0.0):
        nodes = tuple(r.node for r in readings)
        units = {getattr(n, "unit", "") for n in nodes} - {""}
        money = {getattr(n, "currency", "") for n in nodes} - {""}
        measure = {"unit": units.pop() if len(units) == 1 else "", "currency": money.pop() if len(money) == 1 else ""}
        return Reading(Operation(template, nodes, **measure), sum(r.cost for r in readings) + cost)

    def pair(self, a, b, depth):
        """Readings of two number phrases, or None."""
        first = self.value(a, depth)
        if not first or first.node.kind != "number":
            return None
        second = self.value(b, depth)
        if not second or second.node.kind != "number":
            return None
        return [first, second]

    def several(self, text, depth):
        """Readings of a list "A, B and C" of at least two number phrases, or None."""
        text = _RE.sub(
            r"^(?:all of |these numbers:?|the numbers|the following(?: numbers)?:?|numbers|both|the two numbers|:)\s*",
            "",
            text.strip(" :"),
        )
        parts = _RE.split(r"\s*,\s*(?:and\s+)?|\s+(?:and|&|with)\s+|\s*\+\s*|\s*;\s*", text)
        if len(parts) < 2:
            return None
        if len(parts) == 2 or all(_RE.fullmatch(rf"{N}(?:\s*{MEASURE})?", p.strip()) for p in parts):
            readings = [self.value(p, depth) for p in parts]
            if all(r and r.node.kind == "number" for r in readings):
                return readings
        # nested lists: split at each "and" in turn
        best = None
        for m in _RE.finditer(r"\s*,?\s+(?:and|&|with)\s+|\s*,\s*", text):
            found = self.pair(text[: m.start()], text[m.end() :], depth)
            if found and (best is None or found[0].cost + found[1].cost < best[0].cost + best[1].cost):
                best = found
        return best

    def verbs(self, text, depth):
        """Commands and nouns with two operands whose order the words fix."""
        clean = text.strip(" ?.!,")
        both = (
            (r"(?:add|adding|put|append|tack|include|join)\s+(?P<a>.+?)\s+(?:to|onto|on top of|on to)\s+(?P<b>.+)", "({1})+({0})"),
            (r"(?:subtract|subtracting|deduct|deducting|remove|removing|withdraw|knock)\s+(?P<a>.+?)\s+(?:away )?(?:from|off|out of)\s+(?P<b>.+)", "({1})-({0})"),
            (r"(?:take|taking)\s+(?:away )?(?P<a>.+?)\s+(?:away )?(?:from|off|out of)\s+(?P<b>.+)", "({1})-({0})"),
            (r"(?:multiply|multiplying|scale|times)\s+(?P<a>.+?)\s+(?:by|with|times|and)\s+(?P<b>.+)", "({0})*({1})"),
            (r"(?:divide|dividing|split|splitting|share|distribute|cut|break|partition|splits?|spread|portion)\s+(?:up )?(?P<a>.+?)\s+(?:evenly |equally |fairly |out |up )*(?:by|into|among|amongst|between|over|across|in)\s+(?P<b>.+?)(?:\s+(?:equal |even |same-sized |identical )?(?:parts|shares|groups|pieces|people|portions|ways|lots|children|friends|piles|sets|persons|bits|teams))?(?: (?:evenly|equally))?", "({0})/({1})"),
            (r"(?:increase|raise|bump(?: up)?|grow|boost|up)\s+(?P<a>.+?)\s+by\s+(?P<b>.+)", "({0})+({1})"),
            (r"(?:decrease|reduce|lower|cut|diminish|shrink|drop|lessen)\s+(?P<a>.+?)\s+by\s+(?P<b>.+)", "({0})-({1})"),
            (r"(?:raise|raising|take|bring)\s+(?P<a>.+?)\s+to\s+(?:the )?(?:power(?: of)?|exponent)\s+(?P<b>.+)", "({0})**({1})"),
            (r"(?:start(?:ing)? (?:with|from|at)|begin(?:ning)? (?:with|from|at)|from|take)\s+(?P<a>.+?)\s*,?\s*(?:and |then |you |we )*(?:take away|take off|take|subtract|remove|deduct|knock off|taking away|taking off|subtracting|removing|lose|losing)\s+(?P<b>.+)", "({0})-({1})"),
            (r"(?:multiply|multiplying|scale) by (?P<b><[nz]\d+>) (?P<a>.+)", "({0})*({1})"),
            (r"(?:divide|dividing|split) by (?P<b><[nz]\d+>) (?P<a>.+)", "({0})/({1})"),
            (r"(?:start(?:ing)? (?:with|from|at)|begin(?:ning)? (?:with|from|at)|take)\s+(?P<a>.+?)\s*,?\s*(?:and |then |you |we )*(?:add|adding)\s+(?P<b>.+)", "({0})+({1})"),
            (r"(?:(?:is |are |gets? )?left(?: over)?|leftover|remains?|remaining|the remainder|remainder)(?: over)?\s+(?:when|after|if|once|on|from)\s+(?:you |we |i |one )?(?P<a>.+?)\s+(?:is |are |gets )?(?:divided|split) (?:by|into)\s+(?P<b>.+)", "({0})%({1})"),
            (r"(?:(?:is |are |gets? )?left(?: over)?|leftover|remains?|remaining|the remainder|remainder)(?: over)?\s+(?:when|after|if|once|on|from)\s+(?:you |we |i |one )?divid(?:e|es|ing)\s+(?P<a>.+?)\s+by\s+(?P<b>.+)", "({0})%({1})"),
            (r"(?:must|do|should|would|can|shall|need) (?:i|you|we|one) (?:need to |have to )?multiply (?P<a>.+?) by to (?:get|reach|make|obtain|arrive at|end up with)\s+(?P<b>.+)", "({1})/({0})"),
            (r"(?:must|do|should|would|can|shall|need) (?:i|you|we|one) (?:need to |have to )?(?:subtract|take(?: away)?|remove|deduct) from (?P<a>.+?) to (?:get|reach|make|obtain|arrive at|end up with)\s+(?P<b>.+)", "({0})-({1})"),
            (r"(?P<a>.+?) (?:multiplied by|times) (?:what|which number|what number) (?:is|gives|makes|equals|yields)\s+(?P<b>.+)", "({1})/({0})"),
            (r"(?:compare)\s+(?P<a>.+?)\s+(?:and|with|to)\s+(?P<b>.+)", "({0})-({1})"),
            (r"(?:how many times|how often) (?:does|do|will|can|would|is|are)\s+(?P<a>.+?)\s+(?:go|fit|divide|be contained|contained|included|found|goes|fits)\s*(?:in|into|inside)?\s+(?P<b>.+)", "({1})/({0})"),
            (r"how many (?P<a><n\d+>)\s?(?:'s|s)?\s+(?:are there |are |go |fit |make |make up )?(?:in|into)?\s*(?P<b><n\d+>)", "({1})/({0})"),
            (r"how (?:much|many) (?:is |are )?(?:left|remains?|remaining|remain|do (?:i|we|you) have left)(?: over)?\s+(?:when|if|after|once|of)\s+(?:you |we |i )?(?:take|taking|subtract|subtracting|remove|removing|taking away)?\s*(?:away )?(?P<a>.+?)\s+(?:is |are |gets? )?(?:taken |removed |subtracted )?(?:away )?from\s+(?P<b>.+)", "({1})-({0})"),
            (r"(?:is |remains? |is left )?(?:left|remains?|remaining) (?:over )?(?:when|if|after|once)\s+(?:you |we |i )?(?:take|taking|subtract|subtracting|remove|removing)?\s*(?:away )?(?P<a>.+?)\s+(?:is |are |gets? )?(?:taken |removed |subtracted )?(?:away )?from\s+(?P<b>.+)", "({1})-({0})"),
            (r"(?:by )?how (?:much|far|many) (?:(?:does|do|is|are)\s+)?(?P<a>.+?)\s+(?:exceeds?|surpass(?:es)?|(?:is |are )?(?:more|greater|larger|bigger|higher) than|above|beat|beats|outstrip|outstrips|tops?|over)\s+(?P<b>.+)", "({0})-({1})"),
            (r"how (?:much|many) (?:more|bigger|larger|greater|higher) (?:is|are)\s+(?P<a>.+?)\s+than\s+(?P<b>.+)", "({0})-({1})"),
            (r"how (?:much|many) (?:less|smaller|lower|fewer) (?:is|are)\s+(?P<a>.+?)\s+than\s+(?P<b>.+)", "({1})-({0})"),
            (r"(?:by )?how (?:much|far|many) (?:does|do|is|are)\s+(?P<a>.+?)\s+(?:fall(?:s)? short of|(?:less|smaller|lower|fewer) than|below|trail)\s+(?P<b>.+)", "({1})-({0})"),
            (r"how many times (?:as (?:large|big|much|many|great) as|larger than|bigger than|greater than)\s+(?P<b>.+?)\s+is\s+(?P<a>.+)", "({0})/({1})"),
            (r"how many times (?:as )?(?:large|big|larger|bigger|greater|great|more)?\s*(?:is|are)\s+(?P<a>.+?)\s+(?:than|as|compared (?:to|with))\s+(?P<b>.+)", "({0})/({1})"),
            (r"(?:what |which number )?(?:must|do|should|needs? to|has to) (?:i|you|we|one|be)?\s*(?:add|added)(?: to)?\s+(?P<a>.+?)\s+to (?:get|reach|make|obtain)\s+(?P<b>.+)", "({1})-({0})"),
        )  # fmt: skip
        for form, template in both:
            for m in _splits(_compiled(f"^(?:{form})$"), clean, every=True):
                found = self.pair(m["a"], m["b"], depth)
                if found:
                    yield self.operation(template, found)
        one = (
            (r"(?:double|doubling|twice|two times|the double of|double of|2x)\s+(?P<a>.+)", "2*({0})"),
            (r"(?:triple|tripling|thrice|treble|three times)\s+(?P<a>.+)", "3*({0})"),
            (r"(?:quadruple|quadrupling|four times)\s+(?P<a>.+)", "4*({0})"),
            (r"(?:halve|halving|half(?: of)?|one half of|half the|a half of)\s+(?P<a>.+)", "({0})/2"),
            (r"(?:square|squaring|the square of|square of)\s+(?P<a>.+)", "({0})**2"),
            (r"(?:cube|cubing|the cube of|cube of)\s+(?P<a>.+)", "({0})**3"),
            (r"(?P<a>.+?)\s+squared", "({0})**2"),
            (r"(?P<a>.+?)\s+cubed", "({0})**3"),
            (r"(?:the )?(?:positive |principal )?(?:square root|sqrt)(?: of)?\s+(?P<a>.+)", "({0})**(1/2)"),
            (r"(?:the )?cube root(?: of)?\s+(?P<a>.+)", "({0})**(1/3)"),
            (r"(?P<a>.+?),?\s+(?:doubled|times two|all doubled)", "2*({0})"),
            (r"(?P<a>.+?),?\s+tripled", "3*({0})"),
            (r"(?P<a>.+?),?\s+(?:halved|split in half|cut in half|divided in half|split in two)", "({0})/2"),
            (r"(?:split|cut|divide)\s+(?P<a>.+?)\s+in (?:half|two)", "({0})/2"),
            (r"(?:a third|one third|a third part)(?: of)?\s+(?P<a>.+)", "({0})/3"),
            (r"(?:a quarter|one quarter|a fourth)(?: of)?\s+(?P<a>.+)", "({0})/4"),
            (r"(?:negate|minus|negative|the opposite of)\s+(?P<a><[ez]\d+>.*|the .+)", "-({0})"),
        )  # fmt: skip
        m = _RE.fullmatch(
            rf"(?:the )?factorial (?:of )?(?P<a>{N})|(?P<b>{N})\s*(?:'s )?factorial|(?P<c>{N})\s*!", text.strip(" ?.,")
        )
        if m:
            value = self.slot(m["a"] or m["b"] or m["c"])[1]
            if isinstance(value, Fraction) and value.denominator == 1 and value >= 0:
                # beyond what one expression holds the calculator refuses the sign
                product = "*".join(map(str, range(1, min(60, int(value)) + 1))) or "1"
                yield Reading(Operation(product if value <= 60 else f"{value}!", ()), 0.0)
        m = _RE.fullmatch(
            rf"(?:raise|raising|take|bring)?\s*(?P<a>.+?) (?:raised )?to the (?P<p>{'|'.join(map(re.escape, ORDINALS))}|\d+(?:st|nd|rd|th)) power",
            clean,
        )
        if m:
            inner = self.value(m["a"], depth)
            power = int(m["p"][:-2]) if m["p"][0].isdigit() else ORDINALS[m["p"]]
            if inner and inner.node.kind == "number":
                yield self.operation(f"({{0}})**{power}", [inner])
        m = _RE.fullmatch(rf"(?P<n>{N})\s*/\s*(?P<d>{N})\s+(?:of|the)\s+(?P<a>.+)", clean)
        if m:
            inner = self.value(m["a"], depth)
            if inner and inner.node.kind == "number":
                parts = [Reading(self.number(m[k]), 0.0) for k in "nd"]
                yield self.operation("({0})/({1})*({2})", [*parts, inner])
        m = _RE.fullmatch(rf"(?:how )?far apart (?:are|is|lie) (?P<a>{N}) (?:and|from) (?P<b>{N})", clean)
        if m:
            found = sorted((self.number(m[k]) for k in "ab"), key=lambda n: -getattr(n, "value", 0))
            yield self.operation("({0})-({1})", [Reading(n, 0.0) for n in found])
        if depth <= 1 and _RE.search(
            r"\bwhat (?:do|does|did|would|will) .*\b(?:come to|makes?|amount to|add up to)\W*$", self.source.masked
        ):
            items = self.several(clean, depth)
            if items:
                yield self.operation("+".join(f"({{{i}}})" for i in range(len(items))), items)
        m = _RE.fullmatch(rf"(?P<p>{N})\s+(?:of|the)\s+(?P<a>.+)", clean)
        if m and isinstance(self.slot(m["p"])[1], Fraction) and self.slot(m["p"])[1].denominator != 1:
            inner = self.value(m["a"], depth)
            if inner and inner.node.kind == "number":
                loose = 0.03 * bool(OUTER.search(m["a"]))
                yield self.operation("({0})*({1})", [Reading(self.number(m["p"]), 0.0), inner], loose)
        for form, template in one:
            m = _RE.fullmatch(form, clean)
            if m and not (m["a"].startswith("of ") and _RE.match("(?:of )+$", m["a"])):
                inner = self.value(_RE.sub(r"^of ", "", m["a"]), depth)
                if inner and inner.node.kind == "number":
                    loose = 0.03 * bool(OUTER.search(m["a"]) and m.start("a") > 0)
                    yield self.operation(template, [inner], loose)

    def infix(self, text, depth):
        """Operators between two phrases, the loosest first; equal ones group to the left."""
        clean = text.strip(" ?.!,")
        levels = (
            ((r"plus|added to|\+|increased by|together with|more than|on top of|summed with|combined with|joined with|raised by|in addition to|augmented by|and another", "({0})+({1})"),
             (r"minus|-|less|take away|takeaway|decreased by|reduced by|diminished by|lessened by|without|lowered by", "({0})-({1})"),
             (r"less than|fewer than|subtracted from|taken (?:away )?from|deducted from|removed from|below|under", "({1})-({0})")),
            ((r"times|multiplied by|\*|x|multiplied with|lots of|groups of|sets of|multiplied|times over|bags of|batches of|by", "({0})*({1})"),
             (r"divided by|/|over|split (?:evenly )?(?:into|by|among|between)|shared (?:equally )?(?:among|between|by)|per|divided among|divided into|divided between", "({0})/({1})"),
             (r"divided into|into|goes into|go into", "({1})/({0})"),
             (r"modulo|mod|remainder(?: when| after)? divided by", "({0})%({1})")),
            ((r"(?:raised )?to the (?:power(?: of)?)|to the power|\*\*|\^|raised to|to the", "({0})**({1})"),),
        )  # fmt: skip
        for level in levels:
            places = []
            for words, template in level:
                for m in _RE.finditer(rf"(?<=\s)(?:,\s*)?(?:all |is |are )?(?:{words})(?=\s)", f" {clean} "):
                    left, right = f" {clean} "[: m.start()], f" {clean} "[m.end() :]
                    if _balanced(left) and _balanced(right) and left.strip() and right.strip():
                        places.append((m.start(), left, right, template, words))
            places.sort(key=lambda p: -p[0])
            for _, left, right, template, words in places:
                if self.over:
                    return
                if words.startswith("times") and _RE.fullmatch(rf"{MEASURE}", right.strip()):
                    continue
                right = _RE.sub(
                    r"(?:\s+(?:power|(?:equal )?(?:parts|shares|people|ways|groups)))$", "", right.rstrip()
                )
                found = self.pair(left.rstrip(" ,"), right, depth)
                if found and _RE.search(r"than\b", words) and _from_database(found[0].node):
                    # "how many earn more than 60000": a condition, not a sum
                    continue
                if found:
                    yield self.operation(template, found)
                    break

    def prefix(self, text, depth):
        """The sum of, the difference between, the product of, ..."""
        clean = text.strip(" ?.!,")
        m = _RE.fullmatch(
            r"(?:together\s*,?|altogether\s*,?|combined\s*,?|sum|total|addition|sum total|grand total|combined total|combination|aggregate|tally|sum up|total up|combine|add(?: up| together)?|adding(?: up| together)?|summing|tot up|combining|totalling|pool|put together|put|join|take)(?: of| for| up| together| from| the numbers)*\s*(?P<x>.+?)(?:\s+(?:together|up|in total|combined|altogether|(?:in)?to (?:a|one|a single) (?:total|sum|number|figure)))*",
            clean,
        ) or _RE.fullmatch(
            r"(?:both |all of )?(?P<x>.+?)\s*,?\s*(?:(?:all )?added together|(?:all )?together|combined|altogether|in total|summed(?: up)?|put together|added up|added|in all|all told|make together|taken together|totalled|sum to|add up to)",
            clean,
        )
        if m:
            items = self.several(m["x"], depth)
            if items:
                yield self.operation("+".join(f"({{{i}}})" for i in range(len(items))), items)
        for words, template in (
            (
                r"(?:positive )?(?:difference|gap|distance|numerical difference|margin|spread)(?: (?:in value|that exists|there is))?",
                "({0})-({1})",
            ),
            (r"(?:product|multiplication|multiple|multiply(?: together)?|multiplying(?: together)?)", "*"),
            (r"(?:quotient|ratio|division|divide|fraction|proportion)(?: when dividing)?", "({0})/({1})"),
            (r"(?:average|mean|arithmetic mean|midpoint|middle)", "mean"),
            (
                r"(?:remainder|modulus|rest)(?: (?:when|after|of|from|left|over|on|if|you get))*(?: (?:dividing|division of|you divide|we divide))?",
                "({0})%({1})",
            ),
            (r"(?:integer (?:quotient|division)|whole-number quotient|floor division)(?: of)?", "({0})//({1})"),
        ):
            m = _RE.fullmatch(
                rf"{words}\s+(?:of|between|for|from|resulting from|obtained by|you get from|when|by|that|after|if|in)?\s*(?P<x>.+?)(?:\s+(?:together))?",
                clean,
            )
            if not m:
                continue
            pieces = _RE.sub(r"^(?:subtracting|dividing|multiplying)\s+", "", m["x"])
            if template in ("*", "mean"):
                items = self.several(pieces, depth)
                if not items:
                    by = [
                        self.pair(k["a"], k["b"], depth)
                        for k in _splits(
                            _compiled(r"^(?P<a>.+?)\s+(?:by|with|times)\s+(?P<b>.+)$"), pieces, every=True
                        )
                    ]
                    items = next((p for p in by if p), None)
                if items:
                    joined = ("*" if template == "*" else "+").join(f"({{{i}}})" for i in range(len(items)))
                    yield self.operation(joined if template == "*" else f"({joined})/{len(items)}", items)
                continue
            for k in _splits(
                _compiled(
                    r"^(?P<a>.+?)\s+(?:and|to|by|from|&|is divided by|divided by|over|versus|vs|with)\s+(?P<b>.+)$"
                ),
                pieces,
                every=True,
            ):
                found = self.pair(k["a"], k["b"], depth)
                if found:
                    yield self.operation(template, found)
                    break
            else:
                # "a to b ratio" and "difference of a, b"
                items = self.several(pieces, depth)
                if items and len(items) == 2:
                    yield self.operation(template, items)
        m = _RE.fullmatch(r"(?P<x>.+?)\s+(?:average|mean|ratio|product|sum|quotient|difference)", clean)
        if m:
            items = self.several(m["x"], depth)
            if items and len(items) == 2:
                template = {
                    "average": "(({0})+({1}))/2",
                    "mean": "(({0})+({1}))/2",
                    "ratio": "({0})/({1})",
                    "product": "({0})*({1})",
                    "sum": "({0})+({1})",
                    "quotient": "({0})/({1})",
                    "difference": "({0})-({1})",
                }[clean.rsplit(" ", 1)[1]]
                yield self.operation(template, items)

    # -- the same question about two things

    def comparisons(self, text, depth):
        """One leaf question asked twice, of two names or two days, and the results subtracted, added or divided."""
        clean = text.strip(" ?.!,")
        if not _RE.search(r"<[edx]\d+>.*<[edx]\d+>", clean):
            yield from self.day_range(clean)
            return
        yield from self.day_range(clean)
        if (
            MEAN.search(clean)
            and not DIFFERENCE.search(clean)
            and not COMPARATIVE.search(clean)
            and _RE.search(r"(?:average|mean) of (?:the )?", clean)
        ):
            mode = "mean"
        elif RATIO.search(clean):
            mode = "ratio"
        elif DIFFERENCE.search(clean) or COMPARATIVE.search(clean):
            mode = "difference"
        elif TOGETHER.search(clean):
            mode = "sum"
        else:
            return
        connector = r"(?:,\s*)?(?:exceeds?|exceed|surpass(?:es)?|above|beats?|outstrips?|tops?|and|than|compared (?:to|with)|versus|vs\.?|minus|over|against|to|&|rather than|relative to|as opposed to|as|plus|from|as against|with)"
        ids = _RE.findall(r"<([edx]\d+)>", clean)
        for i, first in enumerate(ids):
            for second in ids[i + 1 :]:
                if first[0] != second[0] or first == second or not self.alike(first, second):
                    continue
                between = clean[clean.index(f"<{first}>") : clean.index(f"<{second}>")]
                joints = list(_RE.finditer(rf"(?:^|\s|'s\s){connector}\s", between + " "))
                if not joints:
                    continue
                a, b = f"<{first}>", f"<{second}>"
                at = clean.index(a) + joints[-1].start()
                one = clean[:at] + " " + clean[clean.index(b) + len(b) :]
                two = clean[: clean.index(a)] + b + clean[clean.index(b) + len(b) :]
                # "the stock of A and the stock of B": what stands between belongs to B
                middle = between[len(a) : joints[-1].start()] if first[0] != "d" else ""
                if (
                    middle.strip(" '")
                    and middle.strip() not in ("s", "'s")
                    and "<" not in middle
                    and "'s" not in middle
                ):
                    two = clean[: clean.index(a)] + b + " " + middle + " " + clean[clean.index(b) + len(b) :]
                rest = clean[clean.index(b) + len(b) :]
                if (
                    _RE.match(r"\s*'s\b", middle)
                    and middle.strip() != "'s"
                    and _RE.match(r"\s*'s\b(?!\s+[a-z]+\s+(?:was|is))", rest)
                ):
                    # "A's maximum exceed B's": B's maximum
                    rest = _RE.sub(r"^\s*'s", "", rest)
                    one, two = clean[:at] + rest, clean[: clean.index(a)] + b + middle + rest
                swap = mode == "difference" and NEGATIVE.search(clean) is not None
                readings = []
                for part in (one, two):
                    found = []
                    for form in self.asked_once(part, mode):
                        found += self.leaves(form, depth)
                    found = [r for r in found if r.node.kind == "number"]
                    readings.append(found)
                for left in readings[0]:
                    right = next((r for r in readings[1] if r.node.expert == left.node.expert), None)
                    if right is None or right.node == left.node:
                        continue
                    template = {
                        "difference": "({1})-({0})" if swap else "({0})-({1})",
                        "sum": "({0})+({1})",
                        "ratio": "({0})/({1})",
                        "mean": "(({0})+({1}))/2",
                    }[mode]
                    yield self.operation(
                        template, [Reading(left.node, left.cost / 2), Reading(right.node, right.cost / 2)], 0.03
                    )
                    break

    def alike(self, first, second):
        (kind, a), (_, b) = self.slots[first], self.slots[second]
        if kind != "e":
            return True

        def sort(r):
            return r[:1] if r[0] != "value" else r[:3]

        return bool({sort(r) for r in a} & {sort(r) for r in b})

    def asked_once(self, text, mode):
        """The question about one thing that a comparison of two contains."""
        text = _RE.sub(r"\s+", " ", text)
        drop = {
            "difference": r"\b(?:the )?(?:signed |absolute )?(?:difference|gap|margin|spread|discrepancy)(?: in| between| of)?(?: the)?\b|\bdiffers?\b",
            "sum": r"\b(?:the )?(?:combined|together|jointly|sum of|in total|total of|altogether|put together|taken together|added up|overall|collectively|between them|joint|sum)\b",
            "ratio": r"\b(?:the )?(?:ratio (?:of|between)|quotient of)(?: the)?\b|\bhow many times (?:as|more)?\b",
            "mean": r"\b(?:the )?(?:average|mean)(?: of)?(?: the)?\b",
        }[mode]
        bare = _RE.sub(r"\s+", " ", _RE.sub(drop, " ", text)).strip()
        bare = _RE.sub(
            r"\b(?:by )?how (?:much|many|far)(?: (?:degrees|metres|meters|<[utc]\d+>|points|euros|units|people|years|millimetres|millimeters))*\s*(?=(?:more|less|fewer|higher|lower|\w+er)\b)",
            "how much ",
            bare,
        )
        bare = _RE.sub(
            r"^(?:by )how (?:much|many|far)(?: (?:degrees|metres|meters|<[utc]\d+>|points|euros|units|people|years))*\b",
            "how much",
            bare,
        )
        m = _RE.search(r"\bhow much (?P<how>" + "|".join(BASE_FORMS) + r")\b", bare)
        if m:
            # "how much longer is A": what each is asked is how long it is
            yield f"{bare[: m.start()]}how {BASE_FORMS[m['how']]}{bare[m.end() :]}"
        plain = _RE.sub(r"\b(?:more|less|fewer|extra|additional)\b", "", bare)
        yield _RE.sub(r"\s+", " ", plain).strip()
        if plain != bare:
            # "how many more orders": a count
            yield _RE.sub(r"\s+", " ", _RE.sub(r"how much\b", "how many", plain)).strip()
        if mode == "sum" and "total" in bare:
            yield _RE.sub(r"\s+", " ", _RE.sub(r"\b(?:grand )?total\b", "", bare)).strip()

    def day_range(self, text):
        """The highest minus the lowest temperature of one day."""
        m = (
            _RE.search(
                r"\b(?P<hi>highest|maximum|max|high|daily high|top|warmest)(?: temperature)?s? (?:and|to|minus|from) (?:the )?(?P<lo>lowest|minimum|min|low|daily low|bottom|coldest)\b",
                text,
            )
            or _RE.search(
                r"\b(?P<lo>lowest|minimum|min|low|daily low)(?: temperature)?s? (?:and|to|from) (?:the )?(?P<hi>highest|maximum|max|high|daily high)\b",
                text,
            )
            or _RE.search(
                r"\b(?P<range>temperature range|diurnal range|temperature (?:difference|spread|swing))\b", text
            )
        )
        if not m:
            return
        base = text[: m.start()] + " {} temperature " + text[m.end() :]
        base = _RE.sub(
            r"\b(?:difference|gap|spread|range|distance|degrees? (?:separate|between)|between|how many degrees)\b",
            " ",
            base,
        )
        high, low = self.weather(base.format("highest")), self.weather(base.format("lowest"))
        if high and low:
            yield self.operation(
                "({0})-({1})", [Reading(high[0].node, high[0].cost / 2), Reading(low[0].node, low[0].cost / 2)], 0.05
            )

    # -- leaves

    def leaves(self, text, depth):
        return self.weather(text) + self.database(text) + self.wiki(text)

    WEATHER = (
        ("tmin", r"lowest temperature|minimum temperature|min temperature|temperature minimum|lowest|minimum|coldest|overnight low|nightly low|daily low|night-time low|the low\b|low temperature|low of|\blows?\b|how cold|how chilly|how cool|bottom temperature|cold(?:est)? did it|colder|cooler|chillier|\bcoldness|frost(?:iest)?|dip to|drop to|go down to|fall to|get down|\btmin\b|\bmin\b|least temperature|smallest temperature|cold was"),
        ("tmax", r"highest temperature|maximum temperature|max temperature|temperature maximum|top temperature|peak temperature|highest|maximum|warmest|hottest|daytime high|daily high|afternoon high|the high\b|high temperature|high of|\bhighs?\b|how hot|how warm|hot did it|warm did it|warmer|hotter|milder|peak|heat|how mild|climb to|rise to|reach|get up to|\btmax\b|\bmax\b|greatest temperature|largest temperature|top out|temperature top|warm was|hot was|biggest temperature"),
        ("rain", r"rainfall|rain\b|rained|raining|rainy|precipitation|\bwet\b|wetter|drier|how wet|downpour|showers|drizzle|millimet(?:er|re)s? of|pour(?:ed)?|rain's|\brains\b|wetness|rainier|water fell|fell from the sky"),
        ("wind", r"wind\b|winds\b|windy|windier|gusts?|gusty|breeze|breezy|breezier|blow|blew|blowing|wind speed|windspeed|how stormy|calmer|air speed|gale|wind strength|wind's"),
    )  # fmt: skip
    WEATHER_WORDS = frozenset(
        str.split(
            "weather temperature temperatures temp thermometer reading readings degrees degree celsius did do "
            "does it its get got getting was were is are be been the a an in at on of for to how much many what "
            "which when that day there by around about show showed shown according forecast recorded measured "
            "registered record records reach reached climb climbed rise fell fall drop dropped dip dipped go went "
            "down up hit high low level levels amount total speed strong strength hard fast force rate value "
            "figure people saw see seen town city place local outside air daily day's during over millimetres "
            "millimeters mm come came has have had tell give me us please report state find look you can could "
            "would will and as far s ' 's , . ? ! : ; - daytime overnight night afternoon morning expected expect "
            "observed logged log felt feel like peak maximum minimum top any i want need know so hot cold warm "
            "cool with from out on's their average said conditions measure data table books history back then "
            "whole entire throughout sky tops"
        )
    )

    def weather(self, text) -> list:
        text, env = self.with_shifts(text)
        places = []
        for m in _RE.finditer(r"<([ex]\d+)>", text):
            kind, value = self.slots[m[1]]
            if kind == "e":
                places += [(m[0], r[1], False) for r in value if r[0] == "place"][:1]
            elif kind == "x":
                places.append((m[0], value, True))
        if len(places) != 1:
            return []
        token, place, unknown = places[0]
        fields = []
        for name, form in self.WEATHER:
            for m in _RE.finditer(form, text):
                explicit = "temperature" in m[0] or name in ("rain", "wind")
                fields.append((0 if explicit else 1, m.start(), name, m))
        # rain and wind name their field; "highest wind speed" is wind
        special = [f for f in fields if f[2] in ("rain", "wind")]
        temperature = _RE.search(
            r"temperature|temp\b|degrees|hot|warm|cold|cool|chill|mild|heat|celsius|thermometer|freez|frost|mercury|fahrenheit|maximum|minimum|\b(?:daily |overnight |daytime |afternoon )?(?:high|low)s?\b",
            text,
        )
        if special and not (
            temperature
            and not _RE.search(r"wind|rain|precip|gust|breez|blow|blew|wet|show|drizz|drier|pour|fell", text)
        ):
            field_name = special[0][2]
        elif fields and temperature:
            field_name = min(fields)[2]
        else:
            return []
        dates = [m[1] for m in _RE.finditer(r"<(d\d+)>", text)]
        if len(dates) > 1:
            return []
        if (
            unknown
            and not _RE.search(rf"(?:in|at|for|over|around|near|of|\bhit|reach)\s+{re.escape(token)}", text)
            and "weather" not in text
            and not _RE.match(re.escape(token), text)
        ):
            return []
        cost = 0.0 if dates else 0.6
        day = env.get(dates[0]) if dates else None
        if day is None:
            day = Literal(self.slots[dates[0]][1], "date") if dates else Literal(self.known.today, "date")
        used = {token, *(f"<{d}>" for d in dates)}
        spans = [m.span() for _, _, _, m in fields]
        for m in _RE.finditer(r"<\w+>|[a-z]+(?:'s)?", text):
            if m[0] in used or any(a <= m.start() < b for a, b in spans) or m[0] in self.WEATHER_WORDS:
                continue
            cost += {"c": 2.0, "u": 0.3, "t": 0.3}.get(m[0][1], 3.0) if m[0].startswith("<") else 0.5
        return [
            Reading(
                _call(
                    "weather",
                    "number",
                    unit=WEATHER_UNITS[field_name],
                    unknown=unknown,
                    place=place,
                    date=day,
                    field=field_name,
                ),
                cost + 0.4 * unknown,
            )
        ]

    def with_shifts(self, text):
        """`text` with "three days after <d0>" as one date, and the nodes of such dates."""
        env = {}
        for form in (
            rf"{DURATION}\s+(?:{AFTER}|{BEFORE})\s+(?:the )?<d\d+>",
            rf"{DURATION}\s+(?:ago|earlier|before today)",
            rf"\bin {DURATION}(?: time| from now)",
            rf"<d\d+> (?:plus|minus) {DURATION}",
        ):
            m = _RE.search(form, text)
            if m and "<t" in m[0]:
                reading = self.shift(_RE.sub(r"^(?:on|in)\s+", "in ", m[0]).strip(), 1)
                if reading:
                    name = f"d{len(self.slots) + 100}"
                    self.slots[name] = ("d", reading.node)
                    env[name] = reading.node
                    text = f"{text[: m.start()]} <{name}> {text[m.end() :]}"
        for m in _RE.finditer(r"<(d\d+)>", text):
            if not isinstance(self.slots[m[1]][1], str):
                env[m[1]] = self.slots[m[1]][1]
        return _RE.sub(r"\s+", " ", text).strip(), env

    def purchases(self, text, depth):
        """So many pieces of one thing at its price: "what do 3 oak stools cost"."""
        m = _RE.search(
            rf"(?P<n>{N})\s+(?:units? of |pieces? of |copies of |of )?(?:(?:our|the|these|those|new) )?(?P<e><e\d+>)",
            text,
        )
        if not m or not _RE.search(r"\b(?:cost|costs|price|priced|pay|charged?|owe|bill|worth|spend|total)\b", text):
            return
        if len(_RE.findall(r"<[edxm]\d+>", text)) != 1 or len(_RE.findall(N, text)) != 1:
            return
        named = [r for r in self.slots[m["e"].strip("<>")][1] if r[0] == "value"]
        cents = " in cents" if _RE.search(r"\bcents\b", text) else ""
        for reading in self.database(f"what is the price of {m['e']}{cents}") if named else ():
            if reading.cost < 0.5 and "price" in dict(reading.node.arguments)["sql"]:
                count = self.number(m["n"])
                if isinstance(count, Literal) and count.value == 1:
                    yield Reading(reading.node, reading.cost + 0.05)
                else:
                    yield self.operation("({0})*({1})", [Reading(count, 0.0), reading], 0.1)

    def database(self, text) -> list:
        slots = {name: value for name, value in self.slots.items() if value[0] != "z"}
        select = self.reader.read(text.strip(" ?.!"), slots)
        if select is None:
            return []
        unknown = bool(_RE.search(r"<x\d+>", text))
        currency = select.unit.upper() if select.unit.upper() in self.known.currencies else ""
        node = _call(
            "database", select.kind, currency=currency if select.money else "", unknown=unknown, sql=select.sql
        )
        return [Reading(node, select.cost + 0.1)]

    def wiki(self, text) -> list:
        titles = []
        for m in _RE.finditer(r"<([ex]\d+)>", text):
            kind, value = self.slots[m[1]]
            if kind == "e":
                titles += [(m[1], r[1], False) for r in value if r[0] == "title"][:1]
            elif kind == "x" and value[:1].isupper():
                titles.append((m[1], value, True))
        named = [t for t in titles if not t[2]]
        if len(named) > 1 or not titles:
            return []
        name, title, unknown = (named or titles)[0]
        words = _RE.findall(r"[a-z]+|<\w+>", text)
        extra = [w for w in words if w.startswith("<") and w != f"<{name}>"]
        cost = (
            0.3
            + 0.9 * len([w for w in extra if w[1] in "nxd"])
            + 0.9 * len([w for w in extra if w[1] in "ceum"])
            + 0.04 * len(words)
        )
        if _RE.search(r"\b(?:double|twice|half|halve|triple|thrice|quadruple|percent)\b(?: of)? (?:the|<)", text):
            # an operation that no page performs
            return []
        if _RE.search(r"\b(?:how many|how much|number of|in) <t\d+>|<t\d+> ago|\bhow old\b|\bage of\b", text):
            cost += 0.6
        query = _RE.sub(r"<(\w+)>", lambda m: self.said(m[1]), text)
        number = _RE.search(
            r"\b(?:when|year|how (?:long|high|tall|many|much|old|big|large|deep|wide|far|heavy|fast)|length|height|elevation|number of|population|altitude|metres|long|tall|high|age|date|span|size|area|depth|width|weight|capacity)\b",
            text,
        ) or _RE.search(r"\w+er\b.* than|how much", text)
        if not _RE.search(rf"<{name}>", text):
            return []
        return [
            Reading(
                _call(
                    "wiki",
                    "number" if number else "text",
                    unknown=unknown,
                    query=_RE.sub(r"\s+", " ", query).strip(),
                    title=title,
                ),
                cost + (0.9 if unknown else 0.0),
            )
        ]

    def said(self, name):
        ids = self.source.ids
        if name in ids:
            return self.source.slots[ids.index(name)].text
        value = self.slots[name][1]
        return exact_text(value) if isinstance(value, Fraction) else str(value) if isinstance(value, str) else ""

    # -- cues: no grammar for the wording, but slots and words that leave one reading

    def cues(self, text, depth):
        """One call from slots of the right types and words that name the operation, whatever stands between them.

        Dearer than any grammatical reading; the router's probability and the calibrated threshold decide over it.
        """
        if depth > 0:
            return
        slots = _RE.findall(r"<(\w)\d+>", text)
        kinds = "".join(sorted(slots))
        words = _RE.findall(r"[a-z]+(?:'[a-z]+)?", text)
        cost = 0.5 + 0.05 * len(words)
        found = [m[0] for m in _RE.finditer(r"<\w+>", text)]
        numbers = [t for t in found if t[1] == "n"]
        if set(kinds) <= set("dnt") and "d" in kinds or set(kinds) == {"n", "t"}:
            yield from self.date_cues(text, kinds, found, cost)
        if kinds == "nn" and "%" not in text and "percent" not in text and "per cent" not in text:
            yield from self.arithmetic_cues(text, numbers, cost)
        if kinds == "nn":
            m = _RE.search(PERCENT, text)
            if m:
                whole = next(t for t in numbers if t != m["p"])
                down = _RE.search(
                    r"\b(?:off|discount\w*|less|reduc\w+|decreas\w+|cut\w*|lower\w*|drop\w*|fall\w*|fell|shrink\w*|minus|remov\w+|deduct\w*|cheaper|markdown|lost?|loses|sink\w*|tak\w+ (?:away|off)|down)\b",
                    text,
                )
                up = _RE.search(
                    r"\b(?:more|increas\w+|ris\w+|rose|raise\w*|add\w*|extra|grow\w*|grew|higher|markup|plus|on top|up|gain\w*|climb\w*|tax|tip|interest|surcharge)\b",
                    text,
                )
                template = "({0})*(1-{1}/100)" if down else "({0})*(1+{1}/100)" if up else "({0})*{1}/100"
                yield self.operation(template, [Reading(self.number(whole), cost), Reading(self.number(m["p"]), 0.0)])
        yield from self.speeds(text, numbers, cost)
        measures = [t for t in found if t[1] in "cu"]
        each = _RE.search(rf"({N})\s*-?\s*(<[cu]\d+>)", text)
        if (
            len(numbers) == 2
            and len(measures) == 2
            and each
            and measures[0][1] == measures[1][1]
            and set(kinds) <= set("ncu")
        ):
            # "16 stretches of 71 miles": so many times a quantity
            goal = next((t for t in measures if t != each[2]), None)
            count = next((t for t in numbers if t != each[1]), None)
            if (
                goal
                and count
                and _RE.search(rf"{count}\s+(?:[a-z]+\s+){{1,3}}of\s+{each[1]}|\b(?:each|apiece|every|times)\b", text)
            ):
                product = Operation("({0})*({1})", (self.number(count), self.number(each[1])))
                (kind, first), (_, second) = self.slot(each[2]), self.slot(goal)
                names = {"from": first, "to": second}
                node = (
                    _call("currency", "number", amount=product, **names, date=None)
                    if kind == "c"
                    else _call("units", "number", unit=second, value=product, **names)
                )
                yield Reading(node, cost)
        if (
            len(numbers) == 1
            and len(measures) == 2
            and measures[0][1] == measures[1][1]
            and set(kinds) <= set("ncud")
            and kinds.count("d") < 2
        ):
            near = _RE.search(rf"{numbers[0]}\s*-?\s*(<[cu]\d+>)", text) or _RE.search(
                rf"(<[cu]\d+>)\s*{numbers[0]}", text
            )
            if near:
                source, goal = near[1], next((t for t in measures if t != near[1]), None)
                node, (kind, first), (_, second) = self.number(numbers[0]), self.slot(source), self.slot(goal)
                if first != second and kind == "c":
                    date = next((self.slot(t)[1] for t in found if t[1] == "d"), None)
                    if date is None or isinstance(date, str):
                        yield Reading(
                            _call("currency", "number", amount=node, **{"from": first, "to": second, "date": date}),
                            cost - 0.1,
                        )
                elif first != second and "d" not in kinds:
                    yield Reading(
                        _call("units", "number", unit=second, value=node, **{"from": first, "to": second}), cost - 0.1
                    )

    def speeds(self, text, numbers, cost):
        """A distance from a speed and a time, or a time from a distance and a speed, all in the speed's own units."""
        pairs = [(m[1], self.slots[m[2]][1]) for m in _RE.finditer(rf"({N})\s*-?\s*<(u\d+)>", text)]
        rate = next((p for p in pairs if "_per_" in str(p[1])), None)
        other = next((p for p in pairs if p is not rate), None)
        if len(pairs) != 2 or len(numbers) != 2 or not rate or not other:
            return
        length, time_unit = rate[1].split("_per_", 1)
        goals = {self.slots[u][1] for u in _RE.findall(r"\b(?:how many|in) <(u\d+)>", text)}
        a, b = Reading(self.number(rate[0]), cost), Reading(self.number(other[0]), 0.0)
        far = _RE.search(r"\bhow far\b|\bdistance\b", text)
        if other[1] == time_unit and (goals == {length} or far and not goals):
            yield self.operation("({0})*({1})", [a, b])
        elif other[1] == length and (goals == {time_unit} or not goals and _RE.search(r"\bhow long\b", text)):
            yield self.operation("({1})/({0})", [a, b])

    def date_cues(self, text, kinds, found, cost):
        days = [t for t in found if t[1] == "d"]
        dates = [Literal(self.slot(t)[1], "date") for t in days if isinstance(self.slot(t)[1], str)]
        if len(dates) != len(days):
            return
        today = Literal(self.known.today, "date")
        spans = {self.slot(t)[1] for t in found if t[1] == "t"}
        weekday = (
            _RE.search(r"\bweekday|week day|name of the day\b", text)
            or {"day", "week"} <= spans
            and "n" not in kinds
            or (
                _RE.search(r"\b(?:what|which) <t\d+>", text)
                and "day" in spans
                and "n" not in kinds
                and len(dates) == 1
                and not _RE.search(r"\bhow (?:many|long)\b", text)
            )
            or _RE.search(r"\b(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)\b", text)
        )
        m = _RE.search(r"<n\d+>\s+(?:\w+ )?<t\d+>|\b(?:a|one)\s+<t\d+>", text)
        if m and kinds.count("n") <= 1 and len(dates) <= 1:
            back = _RE.search(
                r"\b(?:before|prior|earlier|ago|back|backwards?|preced\w+|minus|subtract\w*|previous\w*|ahead of|in advance|past was)\b",
                text,
            )
            forth = _RE.search(
                r"\b(?:after|later|from|past|forward|plus|add\w*|follow\w*|hence|on|in|beyond|since|elapse\w*|pass\w*|ahead|future|time|next)\b",
                text,
            )
            if back or forth:
                base = Reading(dates[0] if dates else today, cost + (0.0 if dates else 0.3))
                shifted = self.shifted(base, m[0], -1 if back else 1)
                if shifted and weekday:
                    yield Reading(_call("dates", "text", op="weekday", date=shifted.node), shifted.cost)
                elif shifted and _RE.search(
                    r"\b(?:date|day|when)\b|<t|^(?:move|go|count|add|take|shift|step|jump|advance|subtract)\b",
                    text.replace(m[0], " "),
                ):
                    yield shifted
            return
        if "n" in kinds or not dates:
            return
        years = "year" in spans or _RE.search(r"\b(?:old|age|aged|born|birthday|birthdays)\b", text)
        until = _RE.search(r"\b(?:until|till|to go|left|ahead|away)\b", text)
        if len(dates) == 1 and weekday:
            yield Reading(_call("dates", "text", op="weekday", date=dates[0]), cost)
        elif len(dates) in (1, 2) and (years or spans & {"day", "week"}):
            pair = dates if len(dates) == 2 else [today, dates[0]] if until else [dates[0], today]
            if years and _RE.search(r"\b(?:age|aged|born)\b", text):
                # "age today of a woman born ...": the birth comes first
                pair = sorted(pair, key=lambda date: date.value)
            if years:
                yield Reading(_call("dates", "number", op="years_between", start=pair[0], end=pair[1]), cost)
            elif "how" in text or "number" in text or "count" in text or len(dates) == 2:
                node = _call("dates", "number", op="days_between", start=pair[0], end=pair[1])
                yield Reading(Operation("({0})/7", (node,)) if spans == {"week"} else node, cost)

    def arithmetic_cues(self, text, numbers, cost):
        if _RE.search(
            r"\b(?:power|powers|exponent|root|factorial|squared?|cubed?|log\w*|sine?|cosine?|mod\w*|remainder)\b", text
        ):
            # an operation that the cues below do not name must not be taken for one that they do
            return
        a, b = (Reading(self.number(t), 0.0) for t in numbers)
        first, second = numbers
        reverse = _RE.search(
            rf"{first}.*\b(?:from|less than|fewer than|out of|off)\b.*{second}|\b(?:remov\w+|tak\w+|subtract\w*|deduct\w*|los\w+|withdraw\w*)\b[^<]*{first}[^<]*\b(?:from|off|out of)\b",
            text,
        )
        tests = (
            (
                r"\b(?:minus|subtract\w*|less|difference|remain\w*|left|exceed\w*|tak\w+ (?:away|off|out)|takes? away|remov\w+|deduct\w*|fewer|bigger|larger|greater|smaller|reduc\w+|decreas\w+|gap|surplus|short of|lose|loses|lost|spent|spend|gave away|give away|drop\w*|lower\w*|withdraw\w*|taken)\b",
                "-",
            ),
            (
                r"\b(?:times|multipl\w+|product|groups?|lots|each|apiece|rows|batches|bags|boxes|packs|sets|twofold|fold|meets)\b",
                "*",
            ),
            (
                r"\b(?:divid\w+|split\w*|shar\w+|ratio|quotient|distribut\w+|evenly|equally|fits?|goes into|go into|contained|per|average|portion\w*|equal)\b",
                "/",
            ),
            (
                r"\b(?:sum|total\w*|add\w*|plus|together|combin\w+|altogether|in all|more|another|increas\w+|gain\w*|extra|join\w*|additional|further|grow\w*|got)\b",
                "+",
            ),
        )
        taken = _RE.search(r"\btaken\b[^<]*<n\d+>\s*times\b", text)
        hits = [(m.start(), sign) for form, sign in tests for m in [_RE.search(form, text)] if m]
        m = _RE.search(
            rf"\b(?:a|an|each|every|one|per) (?P<a>[a-z]+)\b[^<]*{N}.*{N} (?P<b>[a-z]+)", self.source.masked
        )
        if (
            m
            and singular(m["a"]) == singular(m["b"])
            and _RE.search(r"\b(?:how (?:many|much)|total|altogether)\b", text)
        ):
            # "a crate holds 24 jars, how many are in 17 crates"
            taken = m
        if taken:
            hits = [(0, "*")]
        # several operations named and two numbers: the first one named, at a price
        if not hits:
            return
        signs = {sign for _, sign in hits}
        sign = (
            "*"
            if taken
            else "-"
            if "-" in signs and signs <= {"-", "+"} and not _RE.search(r"\bmore\b", text)
            else "/"
            if "/" in signs and "*" not in signs
            else min(hits)[1]
        )
        extra = 0.25 * (len(signs) - 1)
        if (
            sign == "-"
            and reverse
            or sign == "/"
            and _RE.search(
                rf"{first}[^<]*\b(?:shar|split|divid|distribut|portion)\w*(?:(?!\b(?:by|among\w*|between|into|over|across|with|in)\b)[^<])*{second}",
                text,
            )
            or sign == "/"
            and _RE.search(
                r"\b(?:into|how (?:often|many times))\b.*\b(?:fit|go|goes|fits|contained)\b|\b(?:go|goes|fits?) into\b",
                text,
            )
        ):
            a, b = b, a
        template = {"+": "({0})+({1})", "-": "({0})-({1})", "*": "({0})*({1})", "/": "({0})/({1})"}[sign]
        yield self.operation(template, [a, b], cost + extra)


# -- helpers of the grammar


def _call(expert, kind, unit="", currency="", unknown=False, **arguments):
    return Call(expert, tuple(arguments.items()), kind, unit, currency, unknown)


def _balanced(text) -> bool:
    depth = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return depth == 0


def _splits(pattern, text, every=False):
    """Matches of `pattern` on `text`; with `every`, also with its first lazy group longer and longer."""
    m = pattern.match(text)
    if not m:
        return
    yield m
    if not every and "first" not in pattern.groupindex and not {"a", "b"} <= set(pattern.groupindex):
        return
    group = "first" if "first" in pattern.groupindex else "a" if "a" in pattern.groupindex else "x"
    if m.start(group) < 0:
        return
    source = _RE.sub(r"\.\+\?\)", ".{%d,}?)", pattern.pattern)
    marker = f"(?P<{group}>.{{%d,}}?)"
    if marker not in source:
        return
    seen, low = {m.span(group)}, 0
    for _ in range(8):
        low = m.end(group) - m.start(group) + 1
        longer = source.replace(marker, marker % low).replace(".{%d,}?)", ".+?)")
        m = _RE.match(longer, text)
        if not m or m.span(group) in seen:
            return
        seen.add(m.span(group))
        yield m


def _leaves(node, expert=None):
    if isinstance(node, Call):
        if expert in (None, node.expert):
            yield node
        for _, value in node.arguments:
            if isinstance(value, Call | Operation):
                yield from _leaves(value, expert)
    elif isinstance(node, Operation):
        for inner in node.nodes:
            yield from _leaves(inner, expert)


def _measured(node) -> bool:
    return any(leaf.expert in ("units", "currency") for leaf in _leaves(node))


def _from_database(node) -> bool:
    return any(leaf.expert == "database" for leaf in _leaves(node))


def _leaf_currency(node) -> str:
    return next((leaf.currency for leaf in _leaves(node) if leaf.currency), "")


def _leaf_unit(node) -> str:
    return next((leaf.unit for leaf in _leaves(node) if leaf.unit), "")


def _database_unit(node) -> str:
    sql = next((dict(leaf.arguments)["sql"] for leaf in _leaves(node, "database")), "")
    m = _RE.search(r"_([a-zA-Z]+)\)?(?: |$|/)", sql.split(" FROM ")[0] + " ")
    return m[1].lower() if m else ""


def _signature(node) -> tuple:
    calls = tuple(sorted(leaf.expert for leaf in _leaves(node)))
    return calls + (("calculator",) if _has_operation(node) else ())


def _has_operation(node) -> bool:
    if isinstance(node, Operation):
        return True
    return isinstance(node, Call) and any(
        _has_operation(v) for _, v in node.arguments if isinstance(v, Call | Operation)
    )


def compile_plan(node, cost=0.0) -> Plan:
    """The steps of `node`: equal calls once, nested arithmetic in one expression, references as `$n`."""
    steps, index = [], {}

    def add(expert, arguments, needs, unknown):
        key = (expert, tuple(sorted((k, v) for k, v in arguments.items())))
        if key not in index:
            steps.append(Step(expert, arguments, tuple(sorted(set(needs))), unknown))
            index[key] = len(steps)
        return index[key]

    def reference(node, needs):
        """The argument text of a node; calls are placed first."""
        if isinstance(node, Literal):
            return exact_text(node.value) if isinstance(node.value, Fraction | int) else node.value
        number = place(node)
        needs.append(number)
        return f"${number}"

    def expression(node, needs):
        if isinstance(node, Operation):
            parts = []
            for inner in node.nodes:
                text = expression(inner, needs)
                parts.append(text)
            return _tidy(node.template.format(*parts))
        text = reference(node, needs)
        return f"({text})" if text.startswith("-") or "/" in text else text

    def place(node):
        needs = []
        if isinstance(node, Operation):
            text = expression(node, needs)
            return add("calculator", {"expression": text}, needs, False)
        arguments = {}
        for name, value in node.arguments:
            if isinstance(value, Literal | Call | Operation):
                arguments[name] = reference(value, needs)
            elif isinstance(value, UnitOf):
                arguments[name] = f"unit:${place(value.node)}:{value.default}"
            else:
                arguments[name] = value
        return add(node.expert, arguments, needs, node.unknown)

    place(node)
    return Plan(steps, cost, node)


def _tidy(expression) -> str:
    """Brackets around one literal or reference are dropped; they change nothing."""
    return _RE.sub(r"\((\$\d+|\d+(?:\.\d+)?)\)", r"\1", expression)


# -- what must not be asked

CODE = re.compile(
    r"__\w+|\b(?:import|exec|eval|compile|subprocess|os\.\w+|sys\.\w+|globals|locals|getattr|builtins)\s*\(|\bimport\s+(?:os|sys|subprocess|shutil|socket)\b|\bos\.(?:system|popen|remove|environ)|\bopen\s*\(\s*['\"]|"
    r"\blambda\b[^?]*:|<\s*script\b|\brm\s+-rf?\b|\b(?:curl|wget)\s+http|\bsudo\b|/etc/\w+|\.\./|\bC:\\|file://|\$\(|`[^`]+`|\{\{.*\}\}|\bsite-packages\b|\bprintenv\b|~/\.\w+|/proc/|/root\b|/home/\w+|\bid_rsa\b|\.env\b|\bpickle\b|\bctypes\b",
    re.I,
)  # fmt: skip
SQL = re.compile(
    r"\b(?:drop|truncate|alter|create)\s+(?:\w+\s+)?(?:table|database|index|view|trigger|schema)\b|\binsert\s+into\b|\bdelete\s+from\b|\bupdate\s+\w+\s+set\b|\battach\s+(?:database\b|['\"])|\bpragma\s+\w+|\bunion\s+(?:all\s+)?select\b|"
    r"\bload_extension\b|\bsqlite_master\b|\bsqlite_schema\b|\binformation_schema\b|;\s*(?:drop|delete|insert|update|select|attach|pragma|vacuum)\b|'\s*or\s*'?1'?\s*=\s*'?1|\breadfile\s*\(|\bwritefile\s*\(|\bvacuum\s+into\b|\bwith\s+recursive\b|--\s*$|\brandomblob\b|\bzeroblob\b|\binto\s+outfile\b|\breplace\s+into\b|\bgrant\s+\w+\s+(?:on|to)\b|\bdetach\b",
    re.I,
)  # fmt: skip
INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|skip)\b[^.?!]{0,40}\b(?:previous|prior|above|earlier|all|your|the|any|these)\b[^.?!]{0,30}\b(?:instructions?|rules?|prompts?|guidelines?|directions?|restrictions?|limits?|safety|safeguards?|checks?)\b|\bsystem prompt\b|\byou are now\b|\bdeveloper mode\b|\bjailbreak\b|\bpretend (?:that )?you\b[^.?!]*\bno (?:rules|limits|restrictions)|\bact as (?:root|admin|an? (?:admin|unrestricted))|\breveal\b[^.?!]*\b(?:prompt|instructions|password|secret|credentials|keys?)\b|"
    r"\b(?:print|show|read|dump|leak|list|display|output|cat|open|give)\b[^.?!]{0,30}\b(?:environment variables?|env vars?|passwords?|credentials|api keys?|secret keys?|ssh keys?|source code|config(?:uration)? files?|system files?|file ?system|contents? of (?:the )?(?:file|directory|folder|disk))|<\|?(?:im_start|im_end|system|assistant|tool_call|endoftext)\|?>|\[/?INST\]|</?tool_call>|\btool_call\b|\bfunction_call\b",
    re.I,
)  # fmt: skip
WRITE_VERBS = r"(?:delete|erase|wipe|drop|purge|truncate|destroy|remove|eliminate|insert|update|overwrite|rename|edit|modify|alter|change|set|reset|raise|lower|increase|decrease|double|halve|cut|fire|dismiss|sack|promote|give|grant|add|create|append|cancel|clear|empty|replace|move|transfer|assign|hire|register|enter|mark|write|store|save|put|adjust|correct|swap|reassign|bump|scrap|discard|get rid of|throw (?:out|away))"
IMPERATIVE = re.compile(
    rf"^(?:\W|please|kindly|now|quickly|first|hey|ok|okay|and|then|also|just|go ahead and|(?:can|could|would|will) you(?: please)?|i (?:want|need|would like|'d like) you to|you must|you should|make sure to|let's|feel free to|for me|help me|i want to|i need to|i'd like to|to)*\s*(?P<verb>{WRITE_VERBS})\b(?P<rest>.*)$",
    re.I,
)  # fmt: skip
GIANT = re.compile(r"(?:\*\*|\^)\s*\d[\d,]*\s*(?:\*\*|\^)\s*\d|\d(?:\*\*|\^)\s*\d{6,}|factorial|\d!(?!=)", re.I)


def refusal(text: str, known: Known) -> str | None:
    """Why `text` asks for what no expert may do (run code, write to the data, read other files), or None."""
    if CODE.search(text):
        return "no expert runs code or reads files"
    if SQL.search(text):
        return "the database is read through one SELECT that the planner writes; it takes no SQL and changes nothing"
    if INJECTION.search(text):
        return "instructions in a query do not change what experts may do"
    for sentence in re.split(
        r"(?<=[.?!;])\s+|\s+and (?:then |also )?(?=(?:delete|drop|erase|wipe|remove|truncate)\b)", text
    ):
        m = IMPERATIVE.match(sentence.strip())
        if m and _touches_data(m["verb"].lower(), m["rest"], known):
            return "the experts read data and never change it"
    return None


def _touches_data(verb, rest, known) -> bool:
    """Whether an imperative is about rows, tables, or values of the database, the documents or the other data."""
    low = rest.lower()
    hard = verb in (
        "delete",
        "erase",
        "wipe",
        "drop",
        "purge",
        "truncate",
        "destroy",
        "insert",
        "overwrite",
        "fire",
        "dismiss",
        "sack",
        "promote",
        "cancel",
        "hire",
    )
    words = {form for w in re.findall(r"[a-z]+", low) for form in (w, singular(w))}
    if words & {
        "database",
        "table",
        "tables",
        "row",
        "rows",
        "record",
        "records",
        "column",
        "columns",
        "wiki",
        "page",
        "pages",
    } and (hard or verb not in ("give", "write", "put", "save", "enter")):
        return True
    tables = {w for t, columns in known.schema.columns.items() for w in _noun_forms(t)}
    columns = {
        w for cs in known.schema.columns.values() for c in cs.values() for w in _noun_forms(c.name) if len(w) > 2
    }
    entity = any(slot.kind == "e" for slot in read(rest[:MAX_CHARS], known).slots)
    people = words & {
        "everyone",
        "everybody",
        "employee",
        "employees",
        "staff",
        "customer",
        "customers",
        "worker",
        "workers",
        "team",
        "nobody",
        "all",
    }
    computed = re.match(
        r"\s+(?:up\s+)?(?:the (?:sum|product|difference|quotient|result|total|number|numbers)\b|[\d\W]*\d|(?:a|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|minus|half)\b)",
        low,
    )
    if hard and (
        words & tables or entity or (words & columns and people) or words & {"everything", "them", "those", "it"}
    ):
        return True
    if (
        re.search(r"\b(?:new|another)\s+\w+", low)
        and words & tables
        and verb in ("add", "create", "register", "enter", "append", "store", "save", "put")
    ):
        return True
    if computed:
        return bool(re.search(r"\bto (?:the |our )?(?:\w+ )?(?:table|database|employees|records)\b", low)) and bool(
            words & (tables | {"table", "database", "records"})
        )
    if (
        verb in ("give", "grant")
        and re.search(r"\b(?:raise|bonus|promotion|discount|increase)\b", low)
        and (entity or people or words & tables)
    ):
        return True
    if verb in (
        "remove",
        "eliminate",
        "clear",
        "empty",
        "scrap",
        "discard",
        "get rid of",
        "throw out",
        "throw away",
    ) and (words & tables or entity):
        return True
    if verb in (
        "update",
        "change",
        "set",
        "reset",
        "modify",
        "alter",
        "edit",
        "rename",
        "adjust",
        "correct",
        "reassign",
        "transfer",
        "move",
        "mark",
        "replace",
        "swap",
        "assign",
        "bump",
        "raise",
        "lower",
        "increase",
        "decrease",
        "double",
        "halve",
        "cut",
    ):
        names = [slot for slot in read(rest[:MAX_CHARS], known).slots if slot.kind == "e"]
        paged = verb in ("double", "halve") and all(r[0] == "title" for slot in names for r in slot.value)
        # "double the height of Mount Aldous" is a sum about a page
        about = words & columns or words & tables or (entity and not paged)
        asks = re.search(
            r"\b(?:into|in) (?:us |swiss |british )?(?:dollars|euros|pounds|yen|francs|[a-z]+s)\b\s*[?.]?$", low
        ) and verb in ("change", "swap", "double", "halve")
        return (
            bool(about)
            and not asks
            and bool(re.search(r"\b(?:to|by|as|of|from|for|all|every|every single|everyone's|with|'s)\b", low))
            and not re.search(r"\bhow (?:much|many)\b|\bwhat\b", low)
        )
    return False


def _noun_forms(name) -> set:
    words = re.findall(r"[a-z]+", name.lower())
    return {form for w in words for form in (w, w.rstrip("s"), w.rstrip("s") + "s") if w not in ("id", "name", "date")}


# -- answering


@dataclass
class Limits:
    """Bounds of one query: calls, seconds per call, seconds in all."""

    calls: int = 8
    call_seconds: float = 2.0
    total_seconds: float = 6.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
                raise MRKLError(f"limits: {name} is {value!r:.80}: expected a number below 1e6")


@dataclass
class Decision:
    """What the planner chose: the plan (None: abstain), its confidence, and the features the calibrator saw."""

    plan: Plan | None
    confidence: float
    features: dict = field(default_factory=dict)
    status: str = "ok"
    message: str = ""


class Planner:
    """Answers queries with experts.

    Args:
        experts: name -> Expert; plans that need an absent one are dropped.
        known: names that queries may mention, and the reference date.
        router: anything with `probabilities(text, reading) -> {class: p}` and `confidence(features) -> p`
            (`router_mrkl`), or None for the grammar alone.
        limits: Limits of one query.
    """

    def __init__(self, experts: Mapping[str, Expert], known: Known, router=None, limits: Limits | None = None):
        self.experts = dict(experts)
        self.known, self.router = known, router
        self.limits = limits or Limits()
        self.reader = Reader(known.schema)

    # -- choosing

    def decide(self, query: str) -> Decision:
        """The plan for `query`, or why there is none; runs nothing.

        Raises: TypeError when `query` is no text.
        """
        if not isinstance(query, str):
            raise TypeError(f"a query is a str, not {type(query).__name__}")
        if not query.strip():
            return Decision(None, 1.0, status="abstain", message="empty query")
        if len(query) > MAX_CHARS:
            return Decision(None, 1.0, status="refused", message=f"a query has at most {MAX_CHARS} characters")
        reason = refusal(query, self.known)
        if reason:
            return Decision(None, 0.99, status="refused", message=reason)
        grammar = Grammar(self.known, self.reader, query)
        plans = self.plans(grammar)
        probabilities = self.router.probabilities(grammar.source) if self.router else {}
        if self.router:
            plans += self.generic(grammar, probabilities, plans)
        return self.choose(plans, probabilities)

    def plans(self, grammar) -> list:
        """Plans of all readings that the experts and the budget allow, cheapest first."""
        found = []
        for reading in grammar.readings():
            plan = compile_plan(reading.node, reading.cost)
            if len(plan.steps) <= self.limits.calls and all(step.expert in self.experts for step in plan.steps):
                found.append(plan)
        return found

    def choose(self, plans, probabilities) -> Decision:
        """The plan whose price and route the router likes best; abstains when even that one is unlikely."""

        def logp(name):
            return math.log(max(probabilities.get(name, 0.0), 1e-4)) if probabilities else 0.0

        none = logp("none")
        if not plans:
            features = {"found": 0.0, "cost": 0.0, "logp": 0.0, "none": none, "calls": 0.0, "margin": 0.0}
            p = self.router.confidence(features) if self.router else 0.0
            return Decision(None, 1.0 - p, features, "abstain", "no expert fits")
        plans = [plan for plan in plans if plan.cost < MAX_COST] or plans[:1]
        ranked = sorted(plans, key=lambda plan: plan.cost + 0.1 * len(plan.steps) - 0.25 * logp(plan.route))
        best = ranked[0]
        gap = min(2.0, ranked[1].cost - best.cost) if len(ranked) > 1 else 2.0
        features = {
            "found": 1.0,
            "cost": min(best.cost, 6.0),
            "logp": logp(best.route),
            "none": none,
            "calls": float(len(best.steps) > 1),
            "margin": gap,
        }
        p = self.router.confidence(features) if self.router else float(best.cost < 1.5)
        threshold = self.router.threshold if self.router else 0.5
        if p < threshold or best.cost >= MAX_COST:
            return Decision(None, 1.0 - min(p, threshold), features, "abstain", "no expert fits well enough")
        return Decision(best, p, features)

    def generic(self, grammar, probabilities, plans) -> list:
        """Calls of experts the grammar does not know, their arguments filled from slots by type."""
        found = []
        for name, expert in self.experts.items():
            if name in BUILT_IN or probabilities.get(name, 0.0) < 0.3:
                continue
            arguments = fill_arguments(expert.parameters, grammar.source)
            if arguments is not None:
                found.append(Plan([Step(name, arguments)], 0.0))
        return found

    # -- running

    def ask(self, query: str) -> dict:
        """{"answer", "status", "trace", "confidence"} as the practice interface has them, and "message"."""
        decision = self.decide(query)
        if decision.plan is None:
            return {
                "answer": None,
                "status": decision.status,
                "trace": [],
                "confidence": round(decision.confidence, 4),
                "message": decision.message,
            }
        return self.run(decision.plan) | {"confidence": round(decision.confidence, 4)}

    def run(self, plan: Plan) -> dict:
        """Run a plan's steps, independent ones at the same time; stops at the first that gives no answer.

        Returns: {"answer", "status", "trace", "message"}. The trace holds every call that was made, in step order.
        """
        results, trace = {}, {}
        end = time.monotonic() + self.limits.total_seconds
        pending = dict(enumerate(plan.steps, 1))
        failed = None
        while pending and not failed:
            ready = [n for n, step in pending.items() if set(step.needs) <= set(results)]
            seconds = min(self.limits.call_seconds, end - time.monotonic())
            if seconds <= 0:
                failed = Result("error", message=f"no answer within {self.limits.total_seconds:g} s")
                break
            calls = {n: self.bind(pending.pop(n), results) for n in ready}
            for n in [n for n, (name, arguments) in calls.items() if self.idle(plan.steps[n - 1], arguments)]:
                # the page already speaks in the unit that was asked for
                results[n] = results[plan.steps[n - 1].needs[-1]]
                del calls[n]
            if not calls:
                continue
            if len(calls) == 1:
                done = {n: self.call(*call, seconds) for n, call in calls.items()}
            else:
                with ThreadPoolExecutor(len(calls)) as pool:
                    futures = {n: pool.submit(self.call, *call, seconds) for n, call in calls.items()}
                    done = {n: future.result() for n, future in futures.items()}
            for n, result in done.items():
                step = plan.steps[n - 1]
                result = _single(result, step)
                results[n] = result
                shown = {
                    k: v if not str(v).startswith("unit:") else calls[n][1][k]
                    for k, v in step.arguments.items()
                    if k != "title"
                }
                entry = {
                    "expert": step.expert,
                    "arguments": shown,
                    "result": result.exact if result.status == "ok" else result.status,
                }
                if step.expert == "wiki" and (result.data.get("doc") or result.data.get("id")):
                    entry["doc"] = result.data.get("doc") or result.data.get("id")
                dated = result.data.get("date") or result.data.get("rate_date")
                if dated:
                    entry["data_date"] = str(dated)
                trace[n] = entry
                if result.status != "ok" and failed is None:
                    failed = result
        ordered = [trace[n] for n in sorted(trace)]
        if failed:
            return {"answer": None, "status": failed.status, "trace": ordered, "message": failed.message}
        last = results[len(plan.steps)]
        return {"answer": self.phrase(plan, last), "status": "ok", "trace": ordered, "message": ""}

    def bind(self, step, results):
        """The arguments of `step` with references resolved."""
        arguments = {}
        for name, value in step.arguments.items():
            if name == "title":
                continue
            if isinstance(value, str) and value.startswith("unit:$"):
                _, number, default = value.split(":")
                unit = results[int(number[1:])].data.get("unit") if int(number[1:]) in results else None
                value = unit or default
            elif isinstance(value, str) and re.fullmatch(r"\$\d+", value):
                value = results[int(value[1:])].exact
            elif isinstance(value, str) and step.expert == "calculator":
                value = re.sub(r"\$(\d+)", lambda m: f"({results[int(m[1])].exact})", value)
            arguments[name] = value
        return step.expert, arguments

    def idle(self, step, arguments) -> bool:
        """Whether a conversion whose source unit was only now learnt converts to that same unit."""
        if step.expert != "units" or not str(step.arguments.get("from", "")).startswith("unit:"):
            return False
        return self.known.unit(arguments["from"]) == self.known.unit(arguments["to"])

    def call(self, name, arguments, seconds) -> Result:
        return run_with_deadline(self.experts[name], arguments, seconds)

    def phrase(self, plan, result) -> str:
        """The short answer: the value, with its unit or currency where the last call has one."""
        step = plan.steps[-1]
        text = result.text
        if step.expert == "units" and "to" in step.arguments and re.fullmatch(r"-?[\d.,/Ee+-]+", text):
            return f"{text} {step.arguments['to'].replace('_', ' ')}"
        if step.expert == "currency" and re.fullmatch(r"-?[\d.,/Ee+-]+", text):
            return f"{text} {step.arguments['to']}"
        return text


def _single(result: Result, step: Step) -> Result:
    """A database result as one value where it is one cell; nothing found, or nothing known by that name, is no_data."""
    if result.status != "ok" or step.expert != "database":
        return result
    rows = result.value
    if not isinstance(rows, list | tuple):
        cell = rows
    elif not rows:
        return Result("no_data", message="no row fits", data=result.data)
    else:
        first = rows[0]
        cell = first[0] if isinstance(first, list | tuple) and len(first) == 1 else first
        if len(rows) > 1:
            return result
    if cell is None or (step.unknown and cell == 0):
        return Result("no_data", message="no row fits", data=result.data)
    if isinstance(cell, float):
        cell = Fraction(repr(cell)) if math.isfinite(cell) else cell
    text = number_text(cell) if isinstance(cell, int | Fraction) and not isinstance(cell, bool) else str(cell)
    return Result("ok", cell, text, result.data)


def fill_arguments(parameters: Mapping, source) -> dict | None:
    """Arguments of a JSON schema from the slots of a query, by type and name; None when a required one has no slot.

    Numbers take number slots in order, names with "date"/"day" take dates, enums the value that the text says, units
    and currencies their slots, other strings an entity, an unknown name, or the text after the verb.
    """
    numbers = [s.value for s in source.slots if s.kind == "n"]
    dates = [s.value for s in source.slots if s.kind == "d"]
    measures = [s.value for s in source.slots if s.kind in "cu"]
    names = [s.text for s in source.slots if s.kind in "ex"]
    required = parameters.get("required", list(parameters.get("properties", {})))
    low = source.text.lower()
    arguments = {}
    for name, schema in parameters.get("properties", {}).items():
        kinds = schema.get("type", "string")
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        value = None
        if "enum" in schema:
            value = next((v for v in schema["enum"] if re.search(rf"\b{re.escape(str(v).lower())}\b", low)), None)
        elif kinds & {"number", "integer"}:
            value = exact_text(numbers.pop(0)) if numbers else None
        elif "boolean" in kinds:
            value = not re.search(r"\b(?:not|no|without)\b", low)
        elif re.search(r"date|day|start|end|when", name) and dates:
            value = dates.pop(0)
        elif re.search(r"unit|currency|^from$|^to$", name) and measures:
            value = measures.pop(0)
        elif names:
            value = names.pop(0)
        elif name in required and "string" in kinds:
            value = source.text.strip(" ?.!")
        if value is not None:
            arguments[name] = value
        elif name in required:
            return None
    return arguments
