"""Wiki expert of MRKL (Karpas et al. 2022, arXiv 2205.00445): pages by full-text search, and short facts from them.

A page's text is data and a query's words are quoted. The words of a question choose a span of the page, by the kind of
answer asked for (year, measure, count, place, person, name) and by closeness to words of the question or to words that
mean the same. No model is involved; where no kind can be told, the answer is a sentence.
"""

import contextlib
import datetime
import re
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .calls_mrkl import Expert, MRKLError, answered, failed, nearest, parse_number, read_lines, short, short_text
from .words_mrkl import MONTH_NAMES, ONES, stem


TOKEN = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*|[,;:.()]")
NAME = re.compile(r"\b[A-Z][^\W\d_]*(?:[-'\u2019][^\W\d_]+)*")
STOPWORDS = frozenset(
    str.split(
        "a about all also an and any are as at be been but by can could did do does for from give had has have he her "
        "his how i in into is it its many me much of on or our please say she so tell than that the their them there "
        "they this to up us was we were what when where which who whom whose why will with would you your know find "
        "out name whats"
    )
)
COUNTS = {word: str(number) for word, number in ONES.items() if 0 < number < 13}
PREPOSITIONS = frozenset(str.split("for from over in at near by of with on under after"))
UNIT_WORDS = frozenset(
    str.split(
        "metre metres meter meters m km kilometre kilometres kilometer kilometers cm centimetre centimetres mile "
        "miles foot feet ft yard yards inch inches kg kilogram kilograms kilogrammes gram grams tonne tonnes ton tons "
        "pound pounds lb stone hectare hectares acre acres litre litres liter liters percent degrees hour hours "
        "minute minutes second seconds day days week weeks month months euro euros dollar dollars knots"
    )
)
# words of one line mean the same to a question; most are in several forms because stems are short
SAME = [
    "long length span stretch extend extent",
    "high height tall rise elevation altitude above tower loom",
    "wide width breadth",
    "deep depth",
    "heavy weigh weight mass",
    "big large size area cover surface",
    "born bear birth birthday",
    "die died death dead",
    "close closing closure demolish demolition destroy destruction collapse abandon end",
    "open opening inaugurate inauguration",
    "found foundation establish establishment",
    "build built construct construction complete completion finish erect",
    "climb ascent ascend summit scale conquer reach top",
    "river water stream flow waterway",
    "cross carry bridge span over traverse",
    "town city village place locate location near situate lie stand country hometown home come base",
    "instrument play write wrote written compose composition music piece work novel book poem author",
    "begin began begun start commence source",
    "cost price worth",
    "run pass go lead",
    "under beneath below underneath",
    "live inhabitant population resident people",
    "employ employee employment work staff workforce",
    "lead leader head manage chair run direct",
    "make produce manufacture sell product",
]
# a question about one of these is not answered by a number that belongs to another
STRICT = set(range(9)) - {5}
PLACE = next(i for i, line in enumerate(SAME) if line.startswith("town"))
MEASURES = {stem_word for line in SAME[:6] for stem_word in line.split()} | {"far", "distance"}


# a page without full stops would cost time quadratic in its length
MAX_PAGE_CHARACTERS, MAX_SENTENCE_TOKENS, MAX_SENTENCE_CHARACTERS = 50_000, 200, 1000


@dataclass(frozen=True)
class Fact:
    """A span of a page: its text, whether that is a number, the unit word after it, and its sentence.

    matched: whether its sentence has a word of the question, or one that means the same, besides the title.
    """

    text: str
    number: bool
    unit: str | None
    sentence: str
    matched: bool


def words(text: str) -> list[str]:
    """Lower-case words and numbers of `text`; hyphens and apostrophes split."""
    return re.findall(r"[^\W_]+", text.casefold().replace("'s ", " ").replace("\u2019s ", " "))


# text that tells its reader what to do is no fact; after a header the rest of the paragraph belongs to it
HEADER = re.compile(
    r"\b(?:notes?|messages?|instructions?|attention|notice|reminder|memo|important)\b[^.:]{0,20}\b(?:to|for)\b[^.:]{0,20}\b(?:assistants?|ais?|models?|bots?|chatbots?|agents?|llms?|systems?|machines?)\b|"
    r"^\W*(?:system|assistant|developer|instructions?|prompt)\s*:|<\|?\w+\|?>|\[/?INST\]",
    re.I,
)
ADDRESSED = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.]{0,40}\b(?:previous|prior|above|earlier|all|your|question|instructions?|rules?|prompts?|query|user)\b|"
    r"\b(?:assistants?|ai (?:models?|systems?|agents?)|language models?|chatbots?|bots|llms?)\b[^.]{0,30}\b(?:must|should|shall|have to|need to|are to|reply|respond|answer|call|say|are (?:asked|instructed|required|told))\b|"
    r"\byou (?:must|should|shall|are to|have to)\b[^.]{0,30}\b(?:say|reply|answer|respond|call|output|tell|run|print)\b|"
    r"\b(?:call|use|invoke|run)\b (?:the )?(?:calculator|database|tool|function|wiki|expert|currency|sql)\b|\btool_call\b",
    re.I,
)
CONCEPTS: dict[str, set[int]] = {}
for _number, _line in enumerate(SAME):
    for _word in _line.split():
        CONCEPTS.setdefault(stem(_word), set()).add(_number)


def means(word: str) -> set:
    """A word's stem and the numbers of the lines of like words that it is in."""
    base = stem(word)
    return {base} | CONCEPTS.get(base, set())


def sentences(text: str) -> list[str]:
    """`text` in sentences; a full stop ends one before a capital letter or the end."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])|\n+", text) if part.strip()]


def facts_only(text: str) -> str:
    """`text` without the sentences that address whoever answers."""
    kept = []
    for paragraph in text.split("\n"):
        lines = []
        for sentence in sentences(paragraph):
            if HEADER.search(sentence):
                break
            if not ADDRESSED.search(sentence):
                lines.append(sentence)
        kept += [" ".join(lines)] if lines else []
    return "\n".join(kept)


def find_fact(query: str, title: str, text: str) -> Fact | None:
    """The span of `text` that answers `query` about the page `title`; None where no kind of answer can be told.

    Raises:
        LookupError: A number of a certain kind is asked for and the page has none.
    """
    named = set(words(title))
    asked = words(query)
    rest = [word for word in asked if word not in named]
    cues = {stem(word) for word in rest if word not in STOPWORDS}
    kind, head = _kind(rest, query)
    if kind is None:
        return None
    given = set(asked) | named
    prepositions = {word for word in (rest[:1] + rest[-1:]) if word in PREPOSITIONS}
    meanings = set().union(*(CONCEPTS.get(cue, set()) for cue in cues))
    best, count = None, 0
    for sentence in sentences(text[:MAX_PAGE_CHARACTERS]):
        tokens = [match[0] for match in TOKEN.finditer(sentence)][:MAX_SENTENCE_TOKENS]
        near = [stem(token.casefold()) for token in tokens]
        if kind in ("name", "count") and _head_of(sentence, cues, meanings):
            return _head_of(sentence, cues, meanings)
        strict = meanings & STRICT if kind in ("year", "measure") else set()
        if strict and not any(CONCEPTS.get(each, set()) & strict for each in near):
            continue
        hits = [
            (i, 1.0 if stem(token.casefold()) in cues else 0.7)
            for i, token in enumerate(tokens)
            if token.casefold() not in named
            and (stem(token.casefold()) in cues or CONCEPTS.get(stem(token.casefold()), set()) & meanings)
        ]
        for start, end, unit, bonus in _candidates(tokens, kind, head, given):
            count += 1
            if unit and {"square", "cubic"} & (set(rest) | set(unit.split())):
                # metres do not answer for square metres
                # and an area is measured in them
                bonus += 1.0 if set(unit.split()) <= set(rest) or {"area", "surface"} & set(rest) else -1.0
            score = bonus + sum(weight / (1 + _distance(tokens, i, start, end)) for i, weight in hits)
            before = next((t for t in reversed(tokens[:start]) if t not in ("the", "a", "an")), "")
            score += 0.5 * (before in prepositions)
            if best is None or score > best[0] + 1e-9:
                value = " ".join(tokens[start:end])
                value = COUNTS.get(value, value) if kind == "count" else value
                best = (score, Fact(value, value[0].isdigit(), unit, sentence[:MAX_SENTENCE_CHARACTERS], bool(hits)))
    if best and (best[1].matched or count == 1):
        return _dated(best[1], asked) if kind == "year" else best[1]
    if kind in ("year", "measure", "count"):
        raise LookupError(kind)
    held = {stem(word) for word in words(text)} | {stem(word) for word in named}
    told = set().union(*(CONCEPTS.get(each, set()) for each in held))
    if kind == "person" and cues and not any(cue in held or CONCEPTS.get(cue, set()) & told for cue in cues):
        raise LookupError("person")
    return None


def _dated(fact: Fact, asked) -> Fact:
    """A year as the whole date that the sentence says, where a year is not all that is asked."""
    months = "|".join(MONTH_NAMES)
    day = re.search(
        rf"\b(\d{{1,2}} (?:{months}) {fact.text})\b|\b({months}) (\d{{1,2}}), {fact.text}\b", fact.sentence
    )
    if not day or "year" in asked or not {"when", "date"} & set(asked):
        return fact
    return Fact(day[1] or f"{day[3]} {day[2]} {fact.text}", False, None, fact.sentence, fact.matched)


def _head_of(sentence: str, cues: set, meanings: set) -> Fact | None:
    """`a population of 1240`: the number that a noun of the question has with "of"."""
    for noun, number, unit in re.findall(r"\b([^\W\d_]+) of (\d[\d,]*(?:\.\d+)?)(?: ([^\W\d_]+))?", sentence):
        base = stem(noun.casefold())
        if base in cues or CONCEPTS.get(base, set()) & meanings - STRICT:
            unit = unit if unit.casefold() in UNIT_WORDS else None
            if unit is None and not re.fullmatch(r"(summer|autumn|winter|spring|year|end|start)", noun):
                return Fact(number, True, None, sentence[:MAX_SENTENCE_CHARACTERS], True)
    return None


def _kind(rest, query):
    """(kind of answer, head noun of which/what).

    Kinds: year, measure, count, place, person, name, beside (a name next to the head noun) or None.
    """
    text = " ".join(rest)
    stems = {stem(word) for word in rest}
    if {"when", "year", "date", "century"} & set(rest) or re.search(r"\byears? ago\b|\bhow old\b|\bage\b", text):
        return "year", None
    if re.search(r"\b(how many|number of|count of)\b", text) and not UNIT_WORDS & set(rest):
        return "count", next(
            (word for word in rest[rest.index("many") + 1 :] if word not in STOPWORDS), None
        ) if "many" in rest else None
    if "where" in rest:
        return "place", None
    which = re.search(
        r"\b(?:which|what)(?:'s| is| was| are| were)? (?:the )?(?:name of (?:the )?)?([^\W\d_]+)", query.casefold()
    )
    head = which[1] if which and which[1] in rest and which[1] not in STOPWORDS else None
    measured = {stem(word) for word in MEASURES}
    if UNIT_WORDS & set(rest) or ("how" in rest and measured & stems) or (head and stem(head) in measured):
        return "measure", None
    if {"who", "whom", "whose"} & set(rest):
        return "person", None
    if PLACE in CONCEPTS.get(stem(head or ""), ()):
        return "place", head
    if which or "what" in rest or "which" in rest:
        return "name", head
    kinds = {
        "measure": measured,
        "year": {stem(word) for word in ("born", "birth", "opened", "built", "founded", "died")},
    }
    other = next((word for word in rest if word not in STOPWORDS), None)
    return next(
        ((kind, None) for kind, cues in kinds.items() if cues & stems), ("beside", other) if other else (None, None)
    )


def _candidates(tokens, kind, head, given):
    """(start, end, unit, bonus) of the spans of `tokens` that have the kind."""
    yield from _figures(tokens, kind, head)
    if kind not in ("year", "measure", "count"):
        yield from _named(tokens, kind, head, given)
    if kind == "name":
        for i, token in enumerate(tokens):
            led = i and tokens[i - 1] in ("the", "a", "an", "of")
            if _plain(token) and led and token not in given and not CONCEPTS.get(stem(token)):
                end = next((at for at in range(i, len(tokens)) if not _plain(tokens[at])), len(tokens))
                yield i, end, None, 0.1


def _plain(token) -> bool:
    return token.isalpha() and token.islower() and token not in STOPWORDS | PREPOSITIONS


def _figures(tokens, kind, head):
    for i, token in enumerate(tokens):
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        headed = bool(head) and stem(after.casefold()) == stem(head)
        if kind == "count" and token in COUNTS and headed:
            yield i, i + 1, None, 1.0
        if not token[0].isdigit():
            continue
        unit = after if after.casefold() in UNIT_WORDS else None
        if after.casefold() in ("square", "cubic") and i + 2 < len(tokens) and tokens[i + 2].casefold() in UNIT_WORDS:
            unit = f"{after} {tokens[i + 2]}"
        before = tokens[i - 1].casefold() if i else ""
        dated = not after.isalpha() or before in ("in", "since", "year", *(month.casefold() for month in MONTH_NAMES))
        year = unit is None and re.fullmatch(r"[12][0-9]{3}", token) and dated
        if kind == ("measure" if unit else "year" if year else "count"):
            yield i, i + 1, unit, float(headed)


def _named(tokens, kind, head, given):
    for i, j in _names(tokens, given):
        skipped = ("the", "a", "an", "town", "city", "village")
        before = next((t.casefold() for t in reversed(tokens[:i]) if t.casefold() not in skipped), "")
        local = before in ("in", "near", "at", "from", "of", "to", "on")
        # "the nearest town is Pellan"
        said = before == "is" and head and stem(head) in {stem(t.casefold()) for t in tokens[max(0, i - 4) : i]}
        beside = {t.casefold() for t in tokens[max(0, i - 1) : i] + tokens[j : j + 1]}
        if kind == "place" and said:
            yield i, j, None, 1.5
        elif kind == "place" and local:
            yield i, j, None, 0.2 * (before in ("in", "at", "near"))
        elif kind == "person" and not local:
            yield i, j, None, 0.5 * (before == "by")
        elif kind in ("name", "beside") and head and any(stem(each) == stem(head) for each in beside):
            yield i, j, None, 2.0
        elif kind == "name" and (not local or before == "of"):
            yield i, j, None, 0.0


def _names(tokens, given):
    """Runs of capitalised words inside a sentence that are not in the question."""
    i = 1
    while i < len(tokens):
        j = i
        while j < len(tokens) and tokens[j][0].isupper() and tokens[j] not in MONTH_NAMES:
            j += 1
        if j > i and not {part for t in tokens[i:j] for part in words(t)} <= given:
            yield i, j
        i = max(j, i + 1)


def _distance(tokens, hit, start, end):
    """Tokens between a hit and a span; a comma, `and` or a hit that comes after the span counts as four more."""
    low, high = (hit, start) if hit < start else (end - 1, hit)
    walls = sum(t in (",", ";", "and", "but") for t in tokens[low:high])
    return abs(high - low) + 4 * walls + 2 * (hit >= end)


# -- the expert


class Wiki(Expert):
    """Short facts out of a user's documents, by SQLite's full-text index (FTS5, BM25), with the page id.

    A page is accepted when its title stands in the query, or when it holds most of the query's rare words and every
    name in it; otherwise it is no_data with the nearest titles, never the least bad page, and so is a query that fits
    several pages. A query that asks for something of the page ("Whitlow Bridge opened when") gets the number, name or
    word, with `data["sentence"]` and a number's `data["unit"]`; `data["matched"]` is False where the sentence shares
    no word with the question, the span being the only one of its kind. A year, measure or count that the page lacks is
    no_data; a title alone gets the page's first sentence. Page and query are data: search operators in a query are
    quoted, and what a page tells its readers to do is text like any other.

    Args:
        docs: {"id", "title", "text"} objects, the path of a .jsonl of them, or a folder of .txt and .md files.
    """

    name = "wiki"
    description = "Looks up facts about people, places and things in the documents."
    limits = {"max_characters": 1000, "max_terms": 40}
    parameters = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "Title of the page and what is wanted of it"}},
        "required": ["query"],
    }

    def __init__(self, docs):
        self.pages = {str(doc["id"]): doc for doc in _documents(docs)}
        self.titles: dict[tuple[str, ...], list[str]] = {}
        for key, doc in self.pages.items():
            self.titles.setdefault(tuple(words(doc["title"])), []).append(key)
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._index.execute(
                "CREATE VIRTUAL TABLE pages USING fts5(id UNINDEXED, title, text, tokenize='porter unicode61')"
            )
        except sqlite3.OperationalError as error:
            raise MRKLError("this Python's SQLite has no FTS5, which the wiki expert needs") from error
        rows = [(key, doc["title"], doc["text"]) for key, doc in self.pages.items()]
        self._index.executemany("INSERT INTO pages VALUES (?, ?, ?)", rows)

    def run(self, arguments):
        query = arguments["query"].strip()
        if len(query) > self.limits["max_characters"]:
            return failed("error", f"wiki: a query of more than {self.limits['max_characters']} characters")
        terms = words(query)
        if not terms:
            return failed("error", "wiki: an empty query")
        found = self._titled(terms)
        if not found:
            found = self._ranked(query, terms)
        if not found:
            titles = [doc["title"] for doc in self.pages.values()]
            return failed("no_data", f"wiki: no page about {short(query)}{nearest(query, titles)}")
        if len(found) > 1:
            names = ", ".join(self.pages[key]["title"][:60] for key in found[:3])
            return failed("no_data", f"wiki: {short(query)} fits several pages: {names}")
        return self._fact(self.pages[found[0]], query)

    def _titled(self, terms):
        """Pages whose whole title stands in the query, the longest title only."""
        longest = max((len(title) for title in self.titles), default=0)
        for length in range(min(longest, len(terms)), 0, -1):
            spans = {tuple(terms[at : at + length]) for at in range(len(terms) - length + 1)}
            found = [key for title in spans if not set(title) <= STOPWORDS for key in self.titles.get(title, [])]
            if found:
                return found
        return []

    def _ranked(self, query, terms):
        """The one page that holds the query's rare words, or those that cannot be told apart by title words."""
        wanted = list(dict.fromkeys(term for term in terms if term not in STOPWORDS))[: self.limits["max_terms"]]
        if not wanted:
            return []
        text = " OR ".join(f'"{term}"' for term in wanted)
        with self._lock:
            rows = self._index.execute(
                "SELECT id FROM pages WHERE pages MATCH ? ORDER BY rank LIMIT 10", (text,)
            ).fetchall()
            count = "SELECT count(*) FROM pages WHERE pages MATCH ?"
            counts = {term: self._index.execute(count, (f'"{term}"',)).fetchone()[0] for term in wanted}
        share = {term: 1 / (1 + count) for term, count in counts.items()}
        initial = re.match(r"\W*\w+", query)
        names = {stem(each.casefold()) for each in NAME.findall(query[initial.end() :] if initial else query)}
        best, found = 0.0, []
        for (key,) in rows:
            title = {stem(each) for each in words(self.pages[key]["title"])}
            held = title | {stem(each) for each in words(self.pages[key]["text"])}
            if not {name for name in names if name not in STOPWORDS} <= held:
                continue
            covered = sum(weight for term, weight in share.items() if stem(term) in held) / sum(share.values())
            if covered >= 0.6 and covered > best + 1e-9:
                best, found = covered, [key]
            elif covered >= 0.6 and abs(covered - best) <= 1e-9 and {stem(term) for term in wanted} <= title:
                found.append(key)
        return found

    def _attribute(self, page, query) -> str | None:
        """The sentence by which the page's title answers `who wrote Nine Wells`: what is told of it is told there."""
        asked = words(query)
        names = [
            each for each in re.findall(r"\b[A-Z][\w'-]*(?: [A-Z][\w'-]*)*", query) if words(each)[0] not in STOPWORDS
        ]
        if (
            asked[0] not in ("who", "which", "what")
            or not names
            or set(words(page["title"])) & set(words(" ".join(names)))
        ):
            return None
        lines = sentences(facts_only(page["text"][:MAX_PAGE_CHARACTERS]))
        about = set().union(*(means(word) for word in words(lines[0]))) if lines else set()
        person = "born" in words(lines[0]) or bool(re.match(r"(?:He|She)\b", " ".join(lines[1:2]))) if lines else False
        found = []
        for line in lines:
            own = line.startswith((page["title"], "He ", "She ", "It ", "They "))
            known = about | set().union(*(means(word) for word in words(line)))
            rest = [word for word in asked[1:] if word not in STOPWORDS | PREPOSITIONS]
            if own and all(name in line for name in names) and all(means(word) & known for word in rest):
                found.append(line)
        fits = person if asked[0] == "who" else len(asked) > 1 and bool(means(asked[1]) & about)
        return found[0] if len(found) == 1 and fits else None

    def _fact(self, page, query):
        data = {"doc": str(page["id"]), "title": page["title"], "passage": page["text"][:2000]}
        text = facts_only(page["text"][:MAX_PAGE_CHARACTERS])
        told = self._attribute(page, query)
        if told is not None:
            extra = {"sentence": told[:MAX_SENTENCE_CHARACTERS], "matched": True, "attribute": True}
            return answered(page["title"], page["title"], **extra, **data)
        try:
            fact = find_fact(query, page["title"], text)
        except LookupError as error:
            return failed(
                "no_data", f"wiki: the page {page['title'][:60]} has no such {error.args[0]}", doc=data["doc"]
            )
        if fact is None:
            lines = sentences(text)
            sentence = lines[0][:MAX_SENTENCE_CHARACTERS] if lines else page["title"]
            return answered(sentence, sentence, sentence=sentence, **data)
        day = re.fullmatch(rf"(\d{{1,2}}) ({'|'.join(MONTH_NAMES)}) (\d{{4}})", fact.text)
        value = parse_number(fact.text) if fact.number else fact.text
        if day:
            with contextlib.suppress(ValueError):
                value = datetime.date(int(day[3]), MONTH_NAMES.index(day[2]) + 1, int(day[1]))
        extra = {"sentence": fact.sentence, "matched": fact.matched} | ({"unit": fact.unit} if fact.unit else {})
        return answered(value, fact.text if day else short_text(value), **extra, **data)


def _documents(docs) -> Iterable[dict]:
    if isinstance(docs, str | Path):
        path = Path(docs)
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.suffix in (".txt", ".md"))
            names = [(each.relative_to(path).with_suffix("").as_posix(), each) for each in files]
            docs = [
                {"id": n, "title": f.stem.replace("_", " "), "text": f.read_text(encoding="utf-8")} for n, f in names
            ]
        else:
            docs = read_lines(path)
    for number, doc in enumerate(docs):
        if not isinstance(doc, Mapping) or not all(isinstance(doc.get(key), str) for key in ("title", "text")):
            raise MRKLError(f"document {number} needs the texts 'title' and 'text' (and an 'id'): {short(doc)}")
        yield {"id": doc.get("id", number), "title": doc["title"], "text": doc["text"]}
