"""Slots of a query: what MRKL (arXiv 2205.00445) lifts out of the text before anything is routed or parsed.

Numbers, dates, currencies, units, time words and known entities (places, page titles, values of text columns) are
found symbolically, normalised exactly, and replaced by `<n0>`, `<d0>`, `<c0>`, `<u0>`, `<t0>`, `<e0>`, `<x0>`. The router and
the extractors see the masked text, so neither the length of a number nor the spelling of a name reaches them.
Relative dates are resolved against a reference date; the clock of the machine is never read.
"""

import datetime
import re
from dataclasses import dataclass, field
from fractions import Fraction

from .known_mrkl import Known, _unit_tokens
from .words_mrkl import (
    BEFORE_SIGN,
    BESIDE_ONE,
    CURRENCY_SIGNS,
    GRADES,
    GROUPS,
    HOLIDAYS,
    KNOWN_CODES,
    MONTH_FORMS,
    MONTHS,
    NOT_ALONE,
    ONES,
    ORDINALS,
    PARTS,
    SCALES,
    SHY_UNITS,
    TENS,
    TIME_WORDS,
    WEEKDAYS,
    WORD,
    singular,
)


# longer texts are not queries; every expression below is linear or nearly so up to here
MAX_CHARS = 2000
# decimal exponents read as numbers; the calculator's own bound is far below
MAX_EXPONENT = 2000
KINDS = {
    "n": "number",
    "d": "date",
    "m": "month",
    "c": "currency",
    "u": "unit",
    "t": "time word",
    "e": "entity",
    "x": "unknown name",
}

# -- slots


@dataclass(frozen=True)
class Slot:
    """One slot of a kind in `KINDS`: characters [start, end) of the query read as `kind` with normalised `value`.

    `value`: Fraction for numbers, ISO date or year-month, currency code, unit name, "day" .. "decade", or for entities
    a tuple of references ("place", name), ("title", name), ("value", table, column, value).
    `pieces`: the two numbers if words such as "four hundred and twenty" also read as two.
    """

    kind: str
    start: int
    end: int
    value: object
    text: str
    pieces: tuple = ()


@dataclass(frozen=True)
class Reading:
    """A query with its slots in order. `ids`: placeholder name of each slot, `n0`, `d0`, ...

    `mentions`: words of the text that name a table or a column, word -> "table" or "column".
    """

    text: str
    slots: tuple
    mentions: dict = field(default_factory=dict)

    @property
    def ids(self) -> tuple:
        counts = {}
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


TRANSLATION = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "−": "-", "–": "-", "—": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
     "×": "*", "·": "*", "÷": "/", "\t": " ", "\n": " ", "\r": " ", "\u200b": " "}
)  # fmt: skip
MONTH = r"(?P<month>january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec)\.?"
ORDINAL = "|".join(sorted((re.escape(o).replace(r"\-", "[- ]") for o in ORDINALS), key=len, reverse=True))
DAY = rf"(?P<day>\d{{1,2}}(?:\s?(?:st|nd|rd|th))?|{ORDINAL})"
YEAR = r"(?P<year>\d{4})(?![\d.,]*\d)"
DATE_FORMS = [
    re.compile(form, re.I)
    for form in (
        r"(?<![\d.,-])(?P<year>\d{4})(?P<sep>[-/.])(?P<month>\d{1,2})(?P=sep)(?P<day>\d{1,2})(?:T[\d:]+Z?)?(?![\d-])",
        r"(?<![\d.,/-])(?P<day>\d{1,2})(?P<sep>[-/.])(?P<month>\d{1,2})(?P=sep)(?P<year>\d{4})(?![\d/-])",
        rf"(?:\bthe\s+)?\b{DAY}(?:\s+day)?(?:\s+of)?[\s-]+{MONTH}\b[\s,-]*(?:of\s+)?(?:the\s+year\s+)?{YEAR}",
        rf"\b{MONTH}\s+(?:the\s+)?{DAY}\b\s*,?\s*(?:of\s+)?{YEAR}",
        rf"(?<![\d.,])\b{YEAR},?\s+{MONTH}\s+{DAY}\b",
    )
]
NO_YEAR = [
    re.compile(form, re.I)
    for form in (
        rf"(?:\bthe\s+)?\b{DAY}\s+(?:of\s+)?{MONTH}(?![\w])(?!\s+\d{{4}})",
        rf"\b{MONTH}\s+(?:the\s+)?(?P<day>\d{{1,2}}(?:st|nd|rd|th)?)\b(?![\d,.]*\d)",
    )
]
MONTH_OF_YEAR = [
    re.compile(rf"\b{MONTH}\s*,?\s*(?:of\s+)?(?:the\s+year\s+)?{YEAR}\b", re.I),
    re.compile(r"(?<![\d./-])(?P<year>[12]\d{3})-(?P<month>0[1-9]|1[0-2])(?![\d./-])"),
]
RELATIVE = re.compile(
    r"\b(?:(?P<far>the day (?:before yesterday|after tomorrow))|(?P<near>today|yesterday|tomorrow|tonight)"
    rf"|(?:on\s+)?(?P<which>last|next|this(?: coming| past)?|coming|past|previous)\s+(?P<weekday>{'|'.join(WEEKDAYS)}))\b",
    re.I,
)
HOLIDAY = re.compile(rf"\b(?P<name>{'|'.join(HOLIDAYS)})\b(?:,?\s+(?:of\s+|in\s+)?{YEAR})?", re.I)
NUMBER = re.compile(
    r"(?P<sign>[-+](?=[\d.]))?"
    r"(?P<body>\d{1,3}(?:[,'\u00a0 ]\d{3})+(?![\d])(?:\.\d+)?|\d{1,3}(?:,\d{2})*,\d{3}(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?P<exponent>[eE][+-]?\d{1,4}(?![\w.]))?"
    r"(?P<ordinal>(?:st|nd|rd|th)\b)?"
    r"(?P<scale>\s?(?:thousand|million|billion|trillion|dozen|hundred)\b|[kK](?![\w])|\s?(?:mn|bn)\b)?"
)


NAME = re.compile(r"\b[A-Z][\w'-]*[a-z][\w-]*(?:[ ](?:(?:of|de|la|von|van|the) )?[A-Z](?:['-]?\w+)*)*")
COMMON = {
    *MONTHS,
    *WEEKDAYS,
    "i",
    "i'm",
    "i'd",
    "english",
    "please",
    "sql",
    "ok",
    "what's",
    "who's",
    "how's",
    "mr",
    "mrs",
    "dr",
}
OPENERS = frozenset(
    str.split(
        "what who when where which how why is are was were do does did can could would will tell give show "
        "find convert compute calculate add subtract multiply divide list count on in at for if the a an name "
        "say please express change turn let take work sum has have had during between from of by with about "
        "describe write explain since as until our i hey hello hi good thanks report state check look search "
        "get fetch read according whose whom using given suppose"
    )
)


def read(text: str, known: Known) -> Reading:
    """Find the slots of `text`.

    Args: `text` of at most MAX_CHARS characters (ValueError otherwise); `known` names and the reference date.
    Returns: a Reading; slots do not overlap and are ordered by position. Day/month/year with figures only is read day
    first unless that is no date; a day without a year is in the reference year.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"a query has at most {MAX_CHARS} characters, this one has {len(text)}")
    plain = text.translate(TRANSLATION)
    finder = _Finder(plain, known)
    finder.entities(lambda size, heard: size > 1 and heard != heard.lower())
    finder.dates()
    finder.entities(lambda size, heard: size > 1 or heard[0].isupper())
    finder.units_with_figures()
    finder.numbers()
    finder.currencies_and_units()
    finder.entities(lambda size, heard: True, not_after=GRADES)
    finder.unknown_names()
    slots = sorted(finder.slots, key=lambda slot: slot.start)
    mentions = {
        w.lower(): known.names[singular(w.lower())] for w, _, _ in finder.words if singular(w.lower()) in known.names
    }
    return Reading(plain, tuple(slots), mentions)


class _Finder:
    def __init__(self, text, known):
        self.text, self.known, self.slots = text, known, []
        self.taken = bytearray(len(text))
        self.today = datetime.date.fromisoformat(known.today)
        self.words = [(m.group(), m.start(), m.end()) for m in WORD.finditer(text)]

    def add(self, kind, start, end, value, pieces=()):
        if not any(self.taken[start:end]):
            self.taken[start:end] = b"\1" * (end - start)
            self.slots.append(Slot(kind, start, end, value, self.text[start:end], pieces))

    def entities(self, accept, not_after=()):
        tokens = [word.lower() for word, _, _ in self.words]
        i = 0
        while i < len(tokens):
            hit = self.known.entities_at(tokens, i)
            if hit:
                start, end = self.words[i][1], self.words[i + hit[0] - 1][2]
                graded = i and tokens[i - 1] in not_after
                if not graded and accept(hit[0], self.text[start:end]) and not any(self.taken[start:end]):
                    self.add("e", start, end, tuple(hit[1]))
                    i += hit[0]
                    continue
            i += 1

    def dates(self):
        for i, form in enumerate(DATE_FORMS):
            for m in form.finditer(self.text):
                day, month = m["day"], m["month"]
                if i == 1 and int(month) > 12 >= int(day):
                    day, month = month, day
                self._date(m, m["year"], month, day)
        for form in MONTH_OF_YEAR:
            for m in form.finditer(self.text):
                self.add("m", m.start(), m.end(), f"{m['year']}-{_month(m['month']):02d}")
        for form in NO_YEAR:
            for m in form.finditer(self.text):
                if m["month"].lower() != "may" or m["month"][0].isupper():
                    self._date(m, str(self.today.year), m["month"], m["day"])
        for m in HOLIDAY.finditer(self.text):
            month, day = HOLIDAYS[m["name"].lower()]
            said = next(
                (
                    s
                    for s in self.slots
                    if s.kind == "d" and s.value[5:] == f"{month:02d}-{day:02d}" and 0 <= s.start - m.end() <= 3
                ),
                None,
            )
            if said and not m["year"]:
                # "Christmas Day, 25 December 2021" is one date
                self.slots.remove(said)
                self.taken[said.start : said.end] = bytes(said.end - said.start)
                self.add("d", m.start(), said.end, said.value)
                continue
            self._date(m, m["year"] or str(self.today.year), str(month), str(day))
        for m in RELATIVE.finditer(self.text):
            self.add("d", m.start(), m.end(), self._relative(m).isoformat())

    def _date(self, m, year, month, day):
        day = day.lower()
        number = int(re.match(r"\d+", day)[0]) if day[0].isdigit() else ORDINALS[day.replace(" ", "-")]
        month = _month(month)
        # the 45th of March is a date that does not exist, and the expert says so
        if 1 <= month <= 12 and 1 <= number <= (31 if day.isdigit() else 99):
            self.add("d", m.start(), m.end(), f"{int(year):04d}-{month:02d}-{number:02d}")

    def _relative(self, m):
        days = {"today": 0, "tonight": 0, "yesterday": -1, "tomorrow": 1}
        if m["near"]:
            return self.today + datetime.timedelta(days[m["near"].lower()])
        if m["far"]:
            return self.today + datetime.timedelta(-2 if "before" in m["far"].lower() else 2)
        gap = WEEKDAYS[m["weekday"].lower()] - self.today.weekday()
        which = m["which"].lower()
        if "last" in which or "past" in which or "previous" in which:
            return self.today + datetime.timedelta((gap % 7 or 7) - 7 if gap % 7 else -7)
        ahead = gap % 7
        return self.today + datetime.timedelta(ahead if which == "this" else ahead or 7)

    def unknown_names(self):
        """Capitalised or quoted words that no expert knows: they must not be dropped silently."""
        for m in re.finditer(r"(?<![\w])([\"'])(?P<name>[^\"']{2,60})\1(?![\w])", self.text):
            if not any(self.taken[m.start() : m.end()]):
                self.add("x", m.start(), m.end(), m["name"])
        starts = {m.end() for m in re.finditer(r"(?:^|[.?!:;\n])[\s\"'(]*", self.text)}
        for m in NAME.finditer(self.text):
            words = m.group().split()
            start = m.start()
            while words and (
                words[0].lower() in COMMON or (start in starts and len(words) > 1 and words[0].lower() in OPENERS)
            ):
                start += len(words[0]) + 1
                words = words[1:]
            while words and (words[-1].lower() in COMMON or words[-1].islower()):
                words = words[:-1]
            text = " ".join(words)
            if not words or (start in starts and len(words) == 1) or text.isupper() and len(text) < 4:
                continue
            if self.text.count(" ") and all(w[:1].isupper() for w in re.findall(r"[A-Za-z]+", self.text)):
                continue
            self.add("x", start, start + len(text), text)

    def units_with_figures(self):
        for words, name in self.known._units.items():
            if len(words) > 1 and any(word.isdigit() for word in words):
                for m in re.finditer(r"\b" + r"\W+".join(map(re.escape, words)) + r"\b", self.text, re.I):
                    self.add("u", m.start(), m.end(), name)

    def numbers(self):
        for m in NUMBER.finditer(self.text):
            start = m.start()
            before = self.text[:start].rstrip()
            if m["ordinal"]:
                continue
            sign = m["sign"] or ""
            if sign and re.search(r"[\w)%]$", before) and not re.search(r"[a-z]\s$", self.text[:start], re.I):
                start, sign = start + 1, ""
            elif start and (self.text[start - 1].isalnum() or self.text[start - 1] in "_."):
                continue
            end = m.end()
            plural_of_it = (
                m["scale"] is None and re.search(r"many $", self.text[:start]) and re.match(r"'?s\b", self.text[end:])
            )
            scale = (m["scale"] or "").strip().lower()
            if plural_of_it:
                end += plural_of_it.end()
            elif m["scale"] is None and re.match(r"[a-zA-Z_]", self.text[end : end + 1]) and not m["exponent"]:
                # 5km: the letters are a unit, if they are one; 3rd was handled above, 7b is a name
                letters = re.match(r"[a-zA-Z/]*", self.text[end:])[0].lower()
                if _unit_tokens(letters) not in self.known._units and letters.upper() not in KNOWN_CODES:
                    continue
            spoken = re.search(
                r"(?:^|(?P<word>[\w)%]+)[,:]?\s+|[(:]\s*)(?P<minus>minus|negative)\s+$", self.text[:start], re.I
            )
            if (
                spoken
                and not sign
                and (not spoken["word"] or spoken["word"].lower() in BEFORE_SIGN)
                and not re.match(r"\s*(?:%|per ?cent\b|pct\b)", self.text[end:])
            ):
                # "minus 40 degrees": a sign, as before a number in words
                start, sign = spoken.start("minus"), "-"
            factor = {"k": 1000, "mn": 10**6, "bn": 10**9, "hundred": 100, "dozen": 12, "": 1} | SCALES
            body = re.sub(r"[,'\u00a0 ]", "", m["body"])
            exponent = m["exponent"] or ""
            if exponent and abs(int(exponent[1:])) > MAX_EXPONENT:
                continue
            value = Fraction(body + exponent)
            value *= factor[scale]
            self.add("n", start, end, -value if sign == "-" else value)
        self._number_words()

    def _number_words(self):
        words = [(w.lower(), s, e) for w, s, e in self.words]
        i = 0
        while i < len(words):
            stop = self._run(words, i)
            # after a number, "minus" is the operator
            operator = words[i][0] == "minus" and i and words[i - 1][0] not in BEFORE_SIGN
            hit = None if operator or stop == i else _spoken([w for w, _, _ in words[i:stop]])
            if not hit:
                i += 1
                continue
            size, value, pieces = hit
            if self._is_number(words, i, size):
                self.add("n", words[i][1], words[i + size - 1][2], value, pieces)
            i += size

    def _run(self, words, i):
        """Where the words that can be one spelled number with `words[i]` end: taken text and punctuation end it."""
        if self.taken[words[i][1]]:
            return i
        j = i + 1
        while j < len(words) and j < i + 60:
            gap = self.text[words[j - 1][2] : words[j][1]]
            # a comma inside a number follows a scale word, or it separates two numbers
            if (
                self.taken[words[j][1]]
                or gap not in (" ", "-", ", ", "  ")
                or ("," in gap and words[j - 1][0] not in SCALES)
            ):
                break
            j += 1
        return j

    def _is_number(self, words, i, size):
        """Not the pronoun `one`, the verb `second`, or the article before a fraction that divides nothing."""
        if size > 1 or words[i][0] not in ("one", "half", "quarter", "third", "score", "gross", "zero"):
            return True
        before = words[i - 1][0] if i else ""
        after = words[i + 1][0] if i + 1 < len(words) else ""
        if words[i][0] == "one":
            measure = (after,) in self.known._units or (after,) in self.known._currencies or after in TIME_WORDS
            return measure or (before in BESIDE_ONE or after in BESIDE_ONE) and after not in ("of", "that", "another")
        if words[i][0] in ("half", "quarter", "third"):
            return (
                after in ("of", "the", "as")
                or words[i][0] == "half"
                and (after.isdigit() or after == "a" or after in ONES or after in TENS or after in TIME_WORDS)
            )
        return words[i][0] == "zero"

    def currencies_and_units(self):
        for sign in sorted(CURRENCY_SIGNS, key=len, reverse=True):
            for m in re.finditer(re.escape(sign) + ("(?!\\w)" if sign == "zł" else ""), self.text):
                self.add("c", m.start(), m.end(), CURRENCY_SIGNS[sign])
        tokens = [
            (m.group().lower(), m.start(), m.end()) for m in re.finditer(r"[^\W\d_]+\d?(?![\d])|[°/\"³²]", self.text)
        ]
        found = []
        i = 0
        while i < len(tokens):
            hit = self._measure(tokens, i)
            if hit:
                found.append(hit)
                i += hit[0]
            else:
                i += 1
        currencies = {
            code for _, _, _, options in found for kind, code in options if kind == "c" and len(options) == 1
        }
        currencies |= {slot.value for slot in self.slots if slot.kind == "c"}
        masses = any(len(options) == 1 and options[0][0] == "u" for _, _, _, options in found)
        for _, start, end, options in found:
            kinds = dict(options)
            if len(options) > 1:
                # pounds: money among money, mass among measures, money when alone
                kinds = {"u": kinds["u"]} if masses and not currencies else {"c": kinds["c"]}
            for kind, value in kinds.items():
                self.add(kind, start, end, value)

    def _measure(self, tokens, i):
        """(number of tokens, start, end, [(kind, value), ...]) of the unit, currency or time word at token i."""
        for size in range(min(5, len(tokens) - i), 0, -1):
            words = tuple(t for t, _, _ in tokens[i : i + size])
            start, end = tokens[i][1], tokens[i + size - 1][2]
            between = self.text[start:end]
            if any(self.taken[start:end]) or re.search(r"[,;:.?!]\s", between):
                continue
            options = []
            if words in self.known._currencies:
                options.append(("c", self.known._currencies[words]))
            unit = self.known._units.get(words)
            if unit is None and len(words) == 1 and words[0] in TIME_WORDS:
                return 1, start, end, [("t", TIME_WORDS[words[0]])]
            if unit is not None and size == 1 and words[0] in TIME_WORDS:
                return 1, start, end, [("t", TIME_WORDS[words[0]])]
            if words in (("pound",), ("pounds",)):
                return 1, start, end, [("c", "GBP"), ("u", unit or "pound")]
            if unit is not None:
                options.append(("u", unit))
            spelled = " ".join(words)
            if options and size == 1 and self._shy(spelled, start, end, options[0][0]):
                continue
            if options:
                if between.count("(") > between.count(")") and self.text[end : end + 1] == ")":
                    end += 1
                return size, start, end, options[:1]
        return None

    def _shy(self, word, start, end, kind):
        """Whether an everyday word should not be read as a unit or currency at this place."""
        raw = self.text[start:end]
        before, after = self.text[:start].rstrip(), self.text[end:].lstrip()
        beside_number = (
            bool(before) and bool(self.taken[len(before) - 1]) and re.search(r"[\d\w)]$", before) is not None
        )
        beside_number = beside_number or bool(re.search(r"\d\)?$", before))
        if kind == "c":
            if word in NOT_ALONE or (len(word) == 3 and word.upper() in KNOWN_CODES and raw != raw.upper()):
                return not (beside_number or re.search(r"\b(?:to|in|into|as|from|of)$", before, re.I))
            return False
        if word not in SHY_UNITS and len(word) > 2:
            return False
        if beside_number:
            # "5 in dollars": the preposition
            return word == "in" and not re.match(r"(?:to|in|into|as|=|are|is|equals?|,|$|\?)", after)
        if len(word) <= 2 or word == "min":
            at_end = not after or after[0] in "?.,!);" or re.match(r"(?:is|are|equals?|from|if|please)\b", after)
            return not (re.search(r"\b(?:to|in|into|as|many|using)$", before, re.I) and at_end and word != "in")
        if re.search(r"\b(?:a|the|last|first|one|every|that|this|per|an|each)$", before, re.I) and not re.search(
            r"\b(?:in|to|into|of|is) (?:a|an|one)$", before, re.I
        ):
            return word in (
                "second",
                "minute",
                "hour",
                "stone",
                "foot",
                "mile",
                "pound",
                "bar",
                "cup",
                "knot",
                "bit",
                "league",
                "score",
            )
        return not (
            re.search(
                r"\b(?:to|in|into|as|many|much|of|from|number|and|with|measured|using|by|half|than|the|are|is|(?:in|to|into|of|is) (?:a|an|one)|<\w+>)$",
                before,
                re.I,
            )
            or re.search(
                r"^(?:to|in|into|are|is|equals?|would|do|does|make|was|were|long|high|tall|as)\b", after, re.I
            )
        )


def _month(text) -> int:
    return int(text) if text.isdigit() else MONTH_FORMS[text.lower().rstrip(".")]


def _spoken(words: list):
    """The longest number at the start of `words`: (number of words, value, pieces), or None."""
    i, sign = 0, 1
    if words and words[0] in ("minus", "negative"):
        i, sign = 1, -1
    if i < len(words) and words[i] in ("a", "an") and i + 1 < len(words):
        if words[i + 1] in ("hundred", "dozen", "score", "gross", *SCALES):
            head = _spoken(["one", *words[i + 1 :]])
            return head and (head[0] + i, sign * head[1], head[2])
        if words[i + 1] in PARTS and words[i + 1] not in ("halves",) and i + 2 < len(words) and words[i + 2] == "of":
            return i + 2, sign * Fraction(1, PARTS[words[i + 1]]), ()
        return None
    hit = _cardinal(words[i:])
    if not hit:
        if i < len(words) and words[i] in ("half", "quarter", "third", "dozen", "score", "gross"):
            value = Fraction(1, PARTS[words[i]]) if words[i] in PARTS else Fraction(GROUPS[words[i]])
            return (i + 1, sign * value, ()) if words[i] not in ("score", "gross") else None
        return None
    size, value, pieces = hit
    i += size
    rest = words[i:]
    if rest and rest[0] == "point" and len(rest) > 1 and rest[1] in ONES and ONES[rest[1]] < 10:
        digits = ""
        i += 1
        while i < len(words) and words[i] in ONES and ONES[words[i]] < 10:
            digits += str(ONES[words[i]])
            i += 1
        value, pieces = value + Fraction(int(digits), 10 ** len(digits)), ()
        if i < len(words) and words[i] in SCALES:
            value *= SCALES[words[i]]
            i += 1
    elif rest and rest[0] == "dozen":
        value, pieces, i = value * 12, (), i + 1
    elif rest and rest[0] == "score":
        value, pieces, i = value * 20, (), i + 1
    elif rest and singular(rest[0]) in PARTS and rest[0] not in ("seconds",) and value.denominator == 1 and size == 1:
        if rest[0] in ("halves",) or rest[0] != singular(rest[0]) or value == 1:
            value, pieces, i = value / PARTS[singular(rest[0])] if rest[0] != "halves" else value / 2, (), i + 1
    elif rest[:3] == ["and", "a", "half"]:
        value, pieces, i = value + Fraction(1, 2), (), i + 3
    elif rest[:3] == ["and", "a", "quarter"]:
        value, pieces, i = value + Fraction(1, 4), (), i + 3
    if value.denominator != 1 and words[i - 1] in ("half", "quarter") and i < len(words) and words[i] in SCALES:
        # two and a half thousand
        value, i = value * SCALES[words[i]], i + 1
    if sign < 0:
        pieces = tuple((-a, b) for a, b in pieces)
    return i, sign * value, pieces


def _cardinal(words: list):
    """(number of words, value, pieces) of a spelled cardinal at the start of `words`, or None.

    "and" joins only what may follow it in British usage, a part below one hundred after hundred, thousand, ...; each
    such "and" is also kept as a pair in `pieces`, since "add four hundred and twenty" has two numbers.
    """
    total, group, i = 0, None, 0
    last_scale = 10**30
    joints = []
    while i < len(words):
        word = words[i]
        if word in TENS and (group is None or group % 100 == 0 and group):
            ones = ONES.get(words[i + 1], 0) if i + 1 < len(words) else 0
            ones = ones if 1 <= ones <= 9 else 0
            group = (group or 0) + TENS[word] + ones
            i += 2 if ones else 1
        elif word in ONES and (group is None or (group % 100 == 0 and group and ONES[word])):
            group = (group or 0) + ONES[word]
            i += 1
        elif word == "hundred" and group is not None and 0 < group < 100:
            group *= 100
            i += 1
        elif word in SCALES and group is not None and SCALES[word] < last_scale and group:
            last_scale = SCALES[word]
            total, group = total + group * last_scale, None
            i += 1
        elif word == "and" and i and words[i - 1] in ("hundred", *SCALES) and i + 1 < len(words):
            part = _below_hundred(words[i + 1 :])
            after = words[i + 1 + part] if i + 1 + part < len(words) else ""
            if not part or after == "hundred" or SCALES.get(after, 0) >= last_scale:
                break
            joints.append((i, total + (group or 0)))
            i += 1
        else:
            break
    if i == 0 or (total == 0 and group is None):
        return None
    value = total + (group or 0)
    pieces = []
    for at, left in joints:
        right = _cardinal(words[at + 1 : i])
        if right and right[0] == i - at - 1:
            pieces.append((Fraction(left), Fraction(right[1])))
    return i, Fraction(value), tuple(pieces)


def _below_hundred(words) -> int:
    if words[0] in TENS:
        return 2 if len(words) > 1 and 1 <= ONES.get(words[1], 0) <= 9 else 1
    return 1 if ONES.get(words[0], 0) else 0
