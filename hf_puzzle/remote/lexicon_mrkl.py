"""Tokens of a question and what each may mean alone: the lexicon of MRKL's grammar (arXiv 2205.00445).

A text becomes words, and every stretch of them that is a number, a date, a unit, a currency or a name in the experts'
data becomes an edge of the chart, with all its meanings: types and the judge choose, not the order of expressions.
"""

import contextlib
import re
from fractions import Fraction

from .calendar_mrkl import DateError, numeric_day
from .known_mrkl import Known
from .words_mrkl import (
    CALENDAR_UNITS,
    CURRENCY_NAMES,
    CURRENCY_SIGNS,
    DELETED,
    FUNCTION_WORDS,
    GROUPS,
    HOLIDAYS,
    MONTH_FORMS,
    ONES,
    ORDINALS,
    PARTS,
    SCALES,
    SEVERAL_UNITS,
    SHARED_CURRENCIES,
    SPELLING,
    TENS,
    WEEKDAY_FORMS,
    WORD,
    plural,
    singular,
)


MAX_TOKENS = 80
TRANSLATION = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "″": '"', "′": "'", "−": "-", "–": "-", "—": "-", "\u00a0": " ",
     "\u202f": " ", "\u2009": " ", "×": "*", "·": "*", "⋅": "*", "÷": "/", "√": " square root of ", "²": "^2 ", "³": "^3 "}
)  # fmt: skip
VULGAR = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
}
VULGAR_SIGN = re.compile(f"(\\d?)([{''.join(VULGAR)}])")
TOKEN = re.compile(
    r"(?P<date>\d{4}-\d{1,2}-\d{1,2}(?!\d)|\d{1,2}([/.-])\d{1,2}\2\d{4}(?!\d))"
    r"|(?P<time>\d{1,2}:\d\d(?!\d))"
    r"|(?P<number>(?:\d+(?:[.,]\d+)*|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w.]))?)"
    r"|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)"
    r"|(?P<sign>\*\*|//|[A-Z]{1,2}\$|<=|>=|\S)"
)
NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d+,\d{1,2}")
CONTRACTIONS = {
    "can't": "can not",
    "won't": "will not",
    "whats": "what is",
    "hows": "how is",
    "wheres": "where is",
    "let's": "let us",
}
IS = {"what", "how", "who", "where", "when", "that", "it", "there", "which", "here"}


class Token:
    __slots__ = ("end", "glued", "kind", "raw", "start", "word")

    def __init__(self, kind, raw, word, start, end, glued):
        self.kind, self.raw, self.word, self.start, self.end, self.glued = kind, raw, word, start, end, glued


def prepared(text: str) -> str:
    """`text` as tokens are found in it: one spelling of each sign, and a space for a hyphen that parts words."""
    text = VULGAR_SIGN.sub(lambda m: f"{m[1]} {VULGAR[m[2]]}" if m[1] else VULGAR[m[2]], text)
    return re.sub(r"(?<=[^\W\d_])-(?=[^\W_])|(?<=\d)-(?=[^\W\d_])", " ", text.translate(TRANSLATION))


def tokens_of(text: str) -> list[Token]:
    """Words, numbers and signs of `text`, with their places in it as `prepared`; contractions are taken apart."""
    found = []
    for m in TOKEN.finditer(prepared(text)):
        kind = next(name for name in ("date", "time", "number", "word", "sign") if m[name] is not None)
        raw, glued = m[0], bool(found) and found[-1].end == m.start()
        if kind != "word":
            found.append(Token(kind, raw, raw.lower(), m.start(), m.end(), glued))
            continue
        head, *tail = _parts(raw.lower())
        cut = m.start() + len(head) if tail else m.end()
        found.append(Token(kind, raw[: len(head)] if tail else raw, head, m.start(), cut, glued))
        found += [Token(kind, part, part, cut, m.end(), False) for part in tail]
    return found


def _parts(word):
    if word in CONTRACTIONS:
        return CONTRACTIONS[word].split()
    if word.endswith("n't"):
        return [word[:-3], "not"]
    head, apostrophe, tail = word.rpartition("'")
    endings = {"s": "is" if head in IS else "'s", "re": "are", "m": "am", "ll": "will", "ve": "have", "d": "would"}
    return [head, endings[tail]] if apostrophe and tail in endings else [word]


def number_of(text: str) -> list[Fraction]:
    """Values that a token of digits may have: 1,234.5 or 1.234,50; none where it is no number."""
    body, _, exponent = text.lower().partition("e")
    power = Fraction(10) ** int(exponent) if exponent else 1
    if NUMBER.fullmatch(body):
        return [Fraction(body.replace(",", "")) * power]
    if EUROPEAN.fullmatch(body):
        return [Fraction(body.replace(".", "").replace(",", ".")) * power]
    return []


# -- spelled numbers


def _tens(words, i):
    """(end, value) of a number below one hundred at `i`, or None."""
    word = words[i] if i < len(words) else ""
    if word in TENS:
        ones = ONES.get(words[i + 1], 0) if i + 1 < len(words) else 0
        return (i + 2, TENS[word] + ones) if 1 <= ones <= 9 else (i + 1, TENS[word])
    return (i + 1, ONES[word]) if word in ONES else None


def cardinals(words: list, i: int) -> list[tuple]:
    """(end, value, whether it is the whole run) of the cardinals that begin at `i`: "two hundred and six" has two."""
    total, group, at, found, last = 0, None, i, [], 10**30
    if words[i] in ("a", "an") and i + 1 < len(words) and (words[i + 1] == "hundred" or words[i + 1] in SCALES):
        group, at = 1, i + 1
    while at < len(words):
        word = words[at]
        small = _tens(words, at)
        if small and (group is None or group % 100 == 0 and group):
            group, at = (group or 0) + small[1], small[0]
        elif (
            small
            and total == 0
            and 0 < group < 100
            and small[1] > 9
            and at == i + (2 if group > 20 and group % 10 else 1)
        ):
            group, at = group * 100 + small[1], small[0]  # one fifty, nineteen eighty four
        elif word == "hundred" and group is not None and 0 < group < 100:
            group, at = group * 100, at + 1
        elif word in SCALES and group and SCALES[word] < last:
            last = SCALES[word]
            total, group, at = total + group * last, None, at + 1
        elif word == "and" and at > i and words[at - 1] in ("hundred", *SCALES) and _tens(words, at + 1):
            small = _tens(words, at + 1)
            after = words[small[0]] if small[0] < len(words) else ""
            if not small[1] or after == "hundred" or SCALES.get(after, 0) >= last:
                break
            found.append((at, Fraction(total + (group or 0)), False))
            group, at = (group or 0) + small[1], small[0]
        else:
            break
    if at > i and (total or group is not None):
        found.append((at, Fraction(total + (group or 0)), True))
    return found


def spoken(words: list, i: int) -> list[tuple]:
    """(end, value, cost) of all spelled numbers at `i`, with decimals, fractions, scales and groups."""
    found = []
    for end, value, whole in cardinals(words, i):
        cost = int(not whole)
        for stop, more in _extended(words, end, value, end - i):
            found.append((stop, more, cost))
    if words[i] in ("half", "quarter") or (words[i] == "a" and i + 1 < len(words) and words[i + 1] in PARTS):
        at = i + (words[i] == "a")
        value, at = Fraction(1, PARTS[words[at]]), at + 1
        found.append((at, value, 0))
        if (
            words[at : at + 1] == ["a"]
            and at + 1 < len(words)
            and (words[at + 1] in GROUPS or words[at + 1] in SCALES)
        ):
            found.append((at + 2, value * {**GROUPS, **SCALES}[words[at + 1]], 0))
        elif words[at - 1] == "half" and words[at : at + 1] and words[at] in GROUPS:
            found.append((at + 1, value * GROUPS[words[at]], 0))
    elif words[i] == "a" and i + 1 < len(words) and words[i + 1] in GROUPS:
        found.append((i + 2, Fraction(GROUPS[words[i + 1]]), 0))
    elif words[i] == "point":
        found += [(end, value, 0) for end, value in _decimals(words, i, Fraction(0))]
    return found


def _decimals(words, i, value):
    at, digits = i + 1, ""
    while at < len(words) and ONES.get(words[at], 10) < 10:
        digits += str(ONES[words[at]])
        at += 1
    if not digits:
        return []
    value += Fraction(int(digits), 10 ** len(digits))
    more = [(at + 1, value * SCALES[words[at]])] if at < len(words) and words[at] in SCALES else []
    return more or [(at, value)]


def _extended(words, end, value, size):
    """The number that ends at `end`, and longer ones with its decimals, fraction, scale or group."""
    rest = words[end : end + 4]
    word = rest[0] if rest else ""
    if word == "point" and _decimals(words, end, value):
        return _decimals(words, end, value)
    if word in SCALES and value.denominator != 1 or word in SCALES and size == 1 and value < 1:
        return [(end + 1, value * SCALES[word])]
    part = PARTS.get(singular(word)) if word not in ("second", "seconds") else None
    found = []
    if part and value and (word != singular(word) and value != 1 or value == 1 and word == singular(word)):
        if size == 1:
            found.append((end + 1, value / part))
        elif words[end - 2] == "and" and ONES.get(words[end - 1], 0) and ONES[words[end - 1]] < part:
            above = value - ONES[words[end - 1]]
            found.append((end + 1, above + Fraction(ONES[words[end - 1]], part)))
    if rest[:1] == ["and"] and len(rest) > 2:
        if rest[1] in ("a", "one") and rest[2] in PARTS:
            found += _scaled(words, end + 3, value + Fraction(1, PARTS[rest[2]]))
        elif ONES.get(rest[1], 0) and rest[2] != singular(rest[2]) and singular(rest[2]) in PARTS:
            upper = Fraction(ONES[rest[1]], PARTS[singular(rest[2])])
            if upper < 1:
                found += _scaled(words, end + 3, value + upper)
    if word and singular(word) in GROUPS and word not in ("grosses",):
        found.append((end + 1, value * GROUPS[singular(word)]))
    return [*found, (end, value)]


def _scaled(words, end, value):
    if end < len(words) and words[end] in SCALES:
        return [(end + 1, value * SCALES[words[end]])]
    return [(end, value)]


# -- the lexicon


class Lexicon:
    """What words mean, from the word lists and from the experts' data.

    Args:
        known: Names and schema that questions may mention, and the reference date.
        vocabulary: Words of the rules and of the schema.
    """

    def __init__(self, known: Known, vocabulary=()):
        self.known = known
        self.unit_forms = _unit_forms(known.units)
        self.currency_forms = _currency_forms(known.currencies)
        self.holidays: dict = {}
        for name, day in HOLIDAYS.items():
            form = [t.word for t in tokens_of(name)]
            self.holidays.setdefault(form[0], []).append((form, day))
        self.names = known.entities
        self.vocabulary = {word for form in (*self.unit_forms, *self.currency_forms) for word in form}
        self.vocabulary |= {*vocabulary, *MONTH_FORMS, *WEEKDAY_FORMS, *FUNCTION_WORDS, *DELETED}
        self.vocabulary |= {*ONES, *TENS, *SCALES, *ORDINALS, "hundred", *PARTS, *GROUPS}
        self.entity_words = {w for entries in self.names.values() for tokens, _ in entries for w in tokens}

    def read(self, text: str) -> "Read":
        """Tokens of `text` and the edges of all its lexical meanings."""
        # a longer text is no question: what follows would not be read anyway
        tokens = tokens_of(text)[: 2 * MAX_TOKENS]
        while tokens and tokens[-1].word in "?!.,":
            tokens.pop()
        while len(tokens) > 2 and tokens[0].word in DELETED and tokens[1].word == ",":
            tokens = tokens[2:]
        return Read(self, [t for i, t in enumerate(tokens) if not self._noise(tokens, i)])

    @staticmethod
    def _noise(tokens, i):
        token = tokens[i]
        return (
            token.word in '?!"'
            and token.kind == "sign"
            and not (token.word == '"' and i and tokens[i - 1].kind == "number")
        )

    def spelled(self, token) -> str:
        """`token`'s word, corrected where it is one slip away from exactly one known word."""
        word = token.word
        if (
            token.kind != "word"
            or word in self.vocabulary
            or word in self.entity_words
            or singular(word) in self.vocabulary
        ):
            return word
        if word in SPELLING:
            return SPELLING[word]
        if len(word) < 5 or token.raw[0].isupper():
            return word
        near = {each for each in slips(word) if each in self.vocabulary}
        return near.pop() if len(near) == 1 else word

    def entity(self, words, raws, i):
        """(end, references) of the longest known name at `i`; the last word of a longer name may have one slip."""
        found = self.known.entities_at(words, i)
        if found:
            return i + found[0], tuple(found[1])
        if not raws[i][:1].isupper():
            return None
        for entries in (
            self.names.get(words[i], ()),
            *(self.names.get(w, ()) for w in sorted(slips(words[i]) | substitutions(words[i])) if len(words[i]) > 5),
        ):
            for tokens, reference in entries:
                heard = words[i : i + len(tokens)]
                close = [h for h, t in zip(heard, tokens, strict=False) if h != t]
                if len(heard) == len(tokens) and len(close) == 1 and len(close[0]) > 4:
                    wanted = tokens[heard.index(close[0])]
                    if wanted in slips(close[0]) | substitutions(close[0]):
                        return i + len(tokens), (reference,)
        return None


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def slips(word: str) -> set:
    """Words that `word` becomes when two neighbours are exchanged, or a letter is doubled, dropped or added inside."""
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1)}
    shorter = {word[:i] + word[i + 1 :] for i in range(1, len(word)) if word[i] == word[i - 1]}
    longer = {word[:i] + word[i - 1] + word[i:] for i in range(1, len(word) + 1)}
    return (swapped | shorter | longer) - {word}


def substitutions(word: str) -> set:
    return {word[:i] + letter + word[i + 1 :] for i in range(1, len(word)) for letter in LETTERS} - {word}


def _unit_forms(units) -> dict:
    """{tuple of words: names of units}; several where a spelling has several meanings."""
    known = {form: name for name, forms in units.items() for form in forms}
    table: dict = {}

    def add(form, name):
        words = tuple(t.word for t in tokens_of(form))
        if words and name is not None and name not in table.setdefault(words, []):
            table[words].append(name)

    for form, name in known.items():
        add(form, name)
    for word, names in SEVERAL_UNITS.items():
        for name in names.split(", "):
            for form in {word, plural(word)} if len(word) > 2 else {word}:
                add(form, known.get(name.replace("_", " ").casefold()))
    return table


def _currency_forms(codes) -> dict:
    """{tuple of words: codes that have a rate}; a noun that several currencies share means the first that has one."""
    table = {}
    for code, names in CURRENCY_NAMES.items():
        for name in names.split("|"):
            for form in (name, plural(name)):
                table.setdefault(tuple(WORD.findall(form)), code)
    for noun, shared in SHARED_CURRENCIES.items():
        present = [code for code in shared if code in codes] or shared
        if present:
            table[(noun,)] = table[(plural(noun),)] = present[0]
    table |= {(code.lower(),): code for code in codes if code not in ("ALL", "TRY")}
    # beside a weight the types tell which pound is meant
    table[("pound",)] = table[("pounds",)] = "GBP"
    table |= {tuple(t.word for t in tokens_of(sign)): code for sign, code in CURRENCY_SIGNS.items()}
    return {form: [code] for form, code in table.items() if code in codes}


class Read:
    """A question's tokens without words that say nothing, and the lexical edges over them."""

    def __init__(self, lexicon: Lexicon, tokens: list):
        self.lexicon, self.edges = lexicon, []
        raws = [t.raw for t in tokens]
        words = [lexicon.spelled(t) for t in tokens]
        kept = [i for i, word in enumerate(words) if word not in DELETED]
        self.place, count = [], 0
        for word in words:
            self.place.append(count)
            count += word not in DELETED
        self.place.append(count)
        self.words = [words[i] for i in kept]
        self.raws = [raws[i] for i in kept]
        self.tokens = [tokens[i] for i in kept]
        self._glued()
        self.names = {}
        self._entities(words, raws)
        for i, token in enumerate(self.tokens):
            self._at(i, token)
        self._unknown()
        self.skippable = frozenset(i for i, word in enumerate(self.words) if word in (",", ":", ";"))

    def add(self, category, start, end, sense, cost=0):
        self.edges.append((category, start, end, sense) if not cost else (category, start, end, sense, cost))

    def _glued(self):
        """A hyphen between digits is a minus only among signs: beside a word it may be a range; `5%` is no remainder."""
        for i, word in enumerate(self.words):
            if word == "%" and i and self.tokens[i].glued and self.tokens[i - 1].kind == "number":
                self.words[i] = "percent"
        for i, word in enumerate(self.words):
            if word == "x" and i and self.words[i - 1] == "0" and self.tokens[i].glued:
                self.words[i] = "hexadecimal"  # 0x10 is no product
            if word in ("and", "or", ",") and self._fraction(i + 1):
                self.words[i + 2] = "fraction bar"  # of `1/2 and 1/3` nothing is divided by the last number alone
        signs = set("+-*/^()=%") | {"**", "//"}
        for i, word in enumerate(self.words):
            if word == "-" and self.tokens[i].glued and 0 < i < len(self.words) - 1 and self.tokens[i + 1].glued:
                low, high = i - 1, i + 1
                while low > 0 and (self.words[low - 1] in signs or self.tokens[low - 1].kind == "number"):
                    low -= 1
                while high < len(self.words) - 1 and (
                    self.words[high + 1] in signs or self.tokens[high + 1].kind == "number"
                ):
                    high += 1
                after = self.words[high + 1] if high < len(self.words) - 1 else "="
                if after not in ("=", "is", "equals", "equal", ",", "and", ".") or self.words[high] in (
                    "%",
                    "percent",
                ):
                    self.words[i] = "range"

    def _entities(self, words, raws):
        covered = 0
        for i in range(len(words)):
            found = self.lexicon.entity(words, raws, i)
            if not found or self.place[i] == self.place[found[0]]:
                continue
            start, end, inside = self.place[i], self.place[found[0]], i < covered
            covered = max(covered, found[0])
            for kind, category in (("place", "Place"), ("title", "Title")):
                for reference in found[1]:
                    if reference[0] == kind and not inside:
                        self.add(category, start, end, reference[1])
            values = tuple(sorted({r[1:] for r in found[1] if r[0] == "value"}))
            if values and not inside:
                self.add("Value", start, end, ("value", values))
                self.names[start] = end

    def _at(self, i, token):
        words, lexicon = self.words, self.lexicon
        if token.kind == "number":
            self._number(i, token)
        elif token.kind == "date":
            self._date(i, i + 1, token.raw)
        elif token.kind == "time":
            hour, minute = map(int, token.raw.split(":"))
            if hour < 24 and minute < 60:
                self.add("Clock", i, i + 1, ("clock", hour * 60 + minute))
        elif token.kind == "word":
            for end, value, cost in spoken(words, i):
                if (
                    i
                    and words[i - 1] in ("hundred", "thousand", "point")
                    or (i and words[i - 1] in TENS and value < 10)
                ):
                    continue
                self.add("Number", i, end, ("n", value), cost)
                if value.denominator == 1:
                    self.add("Integer", i, end, ("n", value), cost)
                if value.denominator == 1 and 1000 <= value < 3000 and end - i > 1:
                    self.add("Year", i, end, int(value))
        word = words[i]
        if word in MONTH_FORMS and not (word == "may" and token.raw == "may"):
            self.add("Month", i, i + 1, MONTH_FORMS[word])
        if word in WEEKDAY_FORMS:
            self.add("Weekday", i, i + 1, WEEKDAY_FORMS[word])
        if word in ORDINALS and token.kind == "word":
            self.add("Ordinal", i, i + 1, ORDINALS[word])
        if word in TENS and i + 1 < len(words) and f"{word}-{words[i + 1]}" in ORDINALS:
            self.add("Ordinal", i, i + 2, ORDINALS[f"{word}-{words[i + 1]}"])
        for form, day in lexicon.holidays.get(word, ()):
            if words[i : i + len(form)] == form:
                self.add("Holiday", i, i + len(form), day)
        for length in range(1, 6):
            form = tuple(words[i : i + length])
            if len(form) == length:
                # G is no gram, but C, F, K, L and M are written for their units
                small = length == 1 and len(word) == 1 and token.raw.isupper() and token.raw not in "CFKLMWJN"
                for name in () if small else lexicon.unit_forms.get(form, ()):
                    self.add("Unit", i, i + length, name)
                for code in lexicon.currency_forms.get(form, ()):
                    self.add("Cur" if token.kind == "word" else "Sign", i, i + length, "$" + code)
                if length == 1 and form[0] in CALENDAR_UNITS:
                    self.add("CalUnit", i, i + 1, CALENDAR_UNITS[form[0]])
        if token.kind == "word" and word not in FUNCTION_WORDS and word not in ONES and word not in TENS:
            self.add("Noun", i, i + 1, singular(word))
            if token.raw[0].isupper():
                self.add("Name", i, i + 1, self.raws[i])

    def _number(self, i, token):
        words, tokens = self.words, self.tokens
        if re.fullmatch(r"\d+(?:,\d{1,2})+", token.raw):
            # `1,5 and 2` may be three numbers
            parts = tuple(("n", Fraction(part)) for part in token.raw.split(","))
            self.add("Pair", i, i + 1, ("list", parts))
        for value in number_of(token.raw):
            whole = value.denominator == 1
            self.add("Number", i, i + 1, ("n", value))
            if whole:
                self.add("Integer", i, i + 1, ("n", value))
            if whole and 1000 <= value < 3000 and token.raw.isdigit():
                self.add("Year", i, i + 1, int(value))
            after = words[i + 1] if i + 1 < len(words) else ""
            if whole and after in ("st", "nd", "rd", "th"):
                self.add("Ordinal", i, i + 2, int(value))
            if whole and 1 <= value <= 31:
                self.add("Day", i, i + 1, int(value))
            at = i + 1
            if self._fraction(at) and tokens[i].raw.isdigit() and not (i and tokens[i - 1].kind == "number"):
                self._whole("Number", i, i + 4, value + self._fraction(at))
            if words[at : at + 2] == ["and", "a"] and at + 2 < len(words) and words[at + 2] in PARTS:
                self._whole("Number", i, at + 3, value + Fraction(1, PARTS[words[at + 2]]))
            scale = {**SCALES, "k": 1000, "bn": 10**9}.get(after, GROUPS.get(singular(after)))
            if scale and (after != "k" or tokens[at].glued):
                self._whole("Number", i, at + 1, value * scale)
        if self._fraction(i):
            self._whole("Number", i, i + 3, self._fraction(i))
        run = i + 1
        while run < len(words) and re.fullmatch(r"\d{3}", tokens[run].raw) and not tokens[run].glued:
            run += 1
        if run > i + 1 and re.fullmatch(r"\d{1,3}", token.raw) and not (i and tokens[i - 1].kind == "number"):
            self._whole("Number", i, run, Fraction("".join(t.raw for t in tokens[i:run])))

    def _whole(self, category, start, end, value):
        self.add(category, start, end, ("n", value))
        after = self.words[end] if end < len(self.words) else ""
        if value.denominator != 1 and singular(after) in GROUPS:
            self.add(category, start, end + 1, ("op", "*", ("n", value), ("n", Fraction(GROUPS[singular(after)]))))

    def _fraction(self, i):
        """The value of `1/2`, written without spaces, at `i`; 0 where there is none."""
        words, tokens = self.words, self.tokens
        if (
            i + 2 < len(words)
            and tokens[i].raw.isdigit()
            and tokens[i + 1].word == "/"
            and tokens[i + 2].raw.isdigit()
        ):
            upper, lower = int(tokens[i].raw), int(tokens[i + 2].raw)
            after = tokens[i + 3] if i + 3 < len(words) else None
            if (
                tokens[i + 1].glued
                and tokens[i + 2].glued
                and upper < lower
                and not (after and after.glued and after.word == "/")
            ):
                return Fraction(upper, lower)
        return 0

    def _date(self, start, end, text):
        with contextlib.suppress(DateError):
            self.add("Date", start, end, ("d", numeric_day(text).isoformat()))

    def _unknown(self):
        """Runs of capitalised words that nothing knows: a name that an expert may say it does not have."""
        known = {place for start, end in self.names.items() for place in range(start, end)}
        i = 0
        while i < len(self.words):
            j = i
            while j < len(self.words) and self._is_name(j) and j not in known:
                j += 1
            if j > i and (i or j - i > 1):
                self.add("Unknown", i, j, " ".join(self.raws[i:j]))
            i = max(j, i + 1)

    def _is_name(self, i):
        raw, word = self.raws[i], self.words[i]
        return (
            raw[:1].isupper()
            and not raw.isupper()
            and self.tokens[i].kind == "word"
            and word not in FUNCTION_WORDS
            and word not in self.lexicon.vocabulary
        )
