"""What questions to the weather table and to documents mean (MRKL, arXiv 2205.00445).

A question to a document is whatever stands around a page's title, from a question word or a noun on, as long as every
word that says something is said by the page's own sentence too, or by a word of one meaning (`wiki_mrkl.SAME`): what
the page does not speak of has no reading.
"""

import datetime
import re

from .chart_mrkl import meaning
from .values_mrkl import call, is_number, is_quantity, n, op, quantity, root, total
from .wiki_mrkl import TOKEN, UNIT_WORDS, means, words
from .words_mrkl import MONTH_NAMES, stem


# -- weather

MAX_DAYS = 7
FIELD_UNITS = {"tmax": "degC", "tmin": "degC", "rain": "millimeter", "wind": "kilometer_per_hour"}


@meaning("weather")
def weather(c, what, place, date):
    if date[0] != "d":
        return None
    return quantity(c, call("weather", place=place, date=date, field=what), FIELD_UNITS[what])


@meaning("any_place")
def any_place(c, name):
    """A place that the table does not list: the expert is asked, and says so."""
    return name if "weather" in c.experts else None


@meaning("weather_apart")
def weather_apart(c, what, first, second, date, sign="+"):
    """How much more of one field one place had than another."""
    return _apart(c, what, (first, date), (second, date), sign)


@meaning("apart_days")
def apart_days(c, what, place, date, other, sign="+"):
    """How much more of one field a place had on one day than on another."""
    return _apart(c, what, (place, date), (place, other), sign)


def _apart(c, what, first, second, sign):
    found = [weather(c, what, *each) for each in (first, second)]
    if None in found or first == second:
        return None
    trees, unit = [each[1][0][0] for each in found], FIELD_UNITS[what]
    return quantity(c, op("-", *(trees if sign == "+" else trees[::-1])), "Δ" + unit if unit == "degC" else unit)


@meaning("which_place")
def which_place(c, what, first, second, date, mode):
    trees = [weather(c, what, place, date) for place in (first, second)]
    return None if None in trees else ("which", mode, (first, second), tuple(tree[1][0][0] for tree in trees))


@meaning("rained")
def rained(c, place, date):
    found = weather(c, "rain", place, date)
    return None if found is None else ("yesno", ">", found[1][0][0], n(0))


@meaning("weather_total")
def weather_total(c, place, period):
    """The rain of some days: a call for each, so that there are few of them."""
    count = (period[2] - period[1]).days + 1
    days = [("d", (period[1] + datetime.timedelta(days)).isoformat()) for days in range(min(count, MAX_DAYS + 1))]
    if not 2 <= count <= MAX_DAYS:
        return None
    found = [weather(c, "rain", place, day)[1][0] for day in days]
    tree = found[0][0]
    for other, _ in found[1:]:
        tree = op("+", tree, other)
    return quantity(c, tree, found[0][1])


@meaning("weather_spread")
def weather_spread(c, place, date):
    high, low = (weather(c, name, place, date) for name in ("tmax", "tmin"))
    return high and low and quantity(c, op("-", high[1][0][0], low[1][0][0]), "ΔdegC")


@meaning("weather_apart3")
def weather_apart3(c, what, first, *rest):
    same = len(rest) < 3 or rest[0] == what
    return weather_apart(c, what, first, *rest[-2:]) if same else None


@meaning("weather_minus")
def weather_minus(c, what, first, date, *rest):
    return weather_apart3(c, what, first, *rest, date)


# -- documents

ASKING = frozenset(("how", "what", "which", "when", "who", "whom", "whose", "where"))
ALLOWED = frozenset(
    str.split(
        "a an of in on at to from by for with is are was were be been did does do has have had it its that there this since under "
        "'s up out over near into as who how what which when where whom whose many much year name did reach saw"
    )
)
FORBIDDEN = frozenset(str.split("than not no never more most less least better best ago if without except"))
PAST_TITLE, BEFORE_TITLE = 8, 10


def edges(c, read) -> list:
    """Edges Fact (asked or named) and Event (`Mount Vance was first climbed`) around the titles of pages."""
    if c.wiki is None:
        return []
    titles = [(start, end, sense) for category, start, end, sense, *_ in read.edges if category == "Title"]
    found, open_words = [], _open(read)
    for start, end, title in titles:
        others = {place for s, e, t in titles if t != title for place in range(s, e)}
        page = _page(c, title)
        if page is None:
            continue
        known = page[1]
        low = start
        while low > max(0, start - BEFORE_TITLE) and _usable(read, low - 1, others, open_words, known):
            low -= 1
        high = end
        while high < min(len(read.words), end + PAST_TITLE) and _usable(read, high, others, open_words, known):
            high += 1
        for first in range(low, start + 1):
            for last in range(end, high + 1):
                found += _window(c, read, first, last, (start, end), page, title)
    return found or _attribute(c, read)


def _attribute(c, read) -> list:
    """The whole question as a Fact, where a page's title is what is asked: `who wrote Nine Wells`."""
    if read.words[:1] not in (["who"], ["which"], ["what"]) or FORBIDDEN & set(read.words):
        return []
    if any(edge[0] in ("Value", "Place", "Title") for edge in read.edges):
        return []
    query = " ".join(read.raws)
    if query not in c.facts:
        result = c.wiki.run({"query": query})
        told = result.status == "ok" and result.data.get("attribute")
        c.facts[query] = ("text", call("wiki", query=query)) if told else None
    return [("Fact", 0, len(read.words), c.facts[query])] if c.facts[query] else []


def _open(read) -> frozenset:
    return frozenset(i for i, token in enumerate(read.tokens) if token.kind == "word")


def _usable(read, place, others, open_words, known) -> bool:
    """Whether a word may stand in a question about the page: closed words, and what the page speaks of."""
    word = read.words[place]
    if place in others or place not in open_words or word in FORBIDDEN:
        return False
    return word in ALLOWED or means(word) & known or word in UNIT_WORDS or word in KIND_WORDS


KIND_WORDS = frozenset(
    str.split("year date long high tall deep wide old big large far people town city place name total number")
)


def _page(c, title):
    if title not in c.pages:
        keys = c.wiki.titles.get(tuple(words(title)), ())
        page = c.wiki.pages[keys[0]] if len(keys) == 1 else None
        told: set = set()
        for word in words(page["text"][:20000]) if page else ():
            told |= means(word)
        c.pages[title] = (page, told) if page else None
    return c.pages[title]


def _window(c, read, first, last, span, page, title):
    """The edges over words [first, last), if the page's own sentence explains them all."""
    start, end = span
    before, after = read.words[first:start], read.words[end:last]
    inside = [*before, *after]
    if any(word in ASKING for word in inside[2 if before else 0 :]):
        # a second question is another one
        return []
    says = [w for w in inside if w not in ALLOWED]
    asks = before[:1] and (
        before[0] in ASKING
        or (
            before[0] in ("in", "on", "at", "from", "by", "over", "for", "since", "under", "to")
            and before[1:2]
            and before[1] in ("what", "which", "whom")
        )
    )
    event = not before and says and after[0] not in ("'s", "of", "and", "in", "on", "by", "for", "with")
    named = not asks and (
        (before and before[-1] == "of" and before[0] not in ALLOWED and not after)
        or (after[:1] == ["'s"] and len(after) > 1 and not before)
    )
    if (
        not (asks or event or named)
        or not (says or before[:1] in (["when"], ["where"]))
        or inside[-1] in ("a", "an", "and", "as")
        or (after and after[-1] in ("is", "was", "the"))
    ):
        return []
    query = _query(before, title, after, event)
    key = (title, query)
    if key not in c.facts:
        c.facts[key] = _fact(c, query, title, says, page[0])
    sense = c.facts[key]
    if sense is None or event and sense[0] in ("text", "d"):
        return []
    if event and not is_number(sense):
        return []
    found = [("Event" if event else "Fact", first, last, sense)]
    day = event and _fact(c, query.replace("year ", "when ", 1), title, says, page[0])
    return [*found, ("EventDay", first, last, day)] if day and day[0] == "d" else found


def _query(before, title, after, event) -> str:
    parts = (["year"] if event else before) + [title, *after]
    return " ".join(parts).replace(" 's ", "'s ")


def _fact(c, query, title, says, page):
    """The fact as a call, None where the page's sentence leaves a word of the question unexplained."""
    result = c.wiki.run({"query": query})
    if result.status != "ok" or result.data.get("doc") != str(page["id"]):
        return None
    if not result.data.get("matched") and (
        says or not query.startswith("where ") or not isinstance(result.value, str)
    ):
        return None
    sentence = result.data["sentence"]
    tokens = [match[0].casefold() for match in TOKEN.finditer(sentence)]
    known = set()
    for word in [part for token in tokens for part in words(token)]:
        known |= means(word)
    kinds = {"year", "date", "name", "number"} | (
        {"town", "city", "village", "place"} if isinstance(result.value, str) else set()
    )
    unit = result.data.get("unit")
    for word in says:
        if word in kinds or word in UNIT_WORDS and unit and stem(word) == stem(unit.split()[-1]) or word == "total":
            continue
        if not means(word) & known:
            return None
    if says and says[0] in UNIT_WORDS and not unit:
        return None
    if query.startswith("who") and not _person(result, tokens):
        return None
    if isinstance(result.value, datetime.date):
        return ("d", call("wiki", query=query))
    if not isinstance(result.value, str) and not _beside(says, tokens, result.text):
        return None
    tree = call("wiki", query=query)
    if not isinstance(result.value, str):
        if unit is None:
            return tree
        name = c.units.find(unit) if c.units is not None else None
        return quantity(c, tree, name) if name else quantity(c, tree, unit)
    return ("text", tree)


def _beside(says, tokens, text) -> bool:
    """Whether a word of the question stands beside the number that answers it, with no other number between."""
    places = [i for i, token in enumerate(tokens) if token.replace(",", "") == text.replace(",", "")]
    cues = set().union(*(means(word) for word in says if word not in UNIT_WORDS))
    hits = [i for i, token in enumerate(tokens) if any(means(part) & cues for part in words(token))]
    if not cues or not says:
        return True
    for at in places:
        for hit in hits:
            low, high = sorted((at, hit))
            if not any(
                tokens[i][0].isdigit() and tokens[i + 1].capitalize() not in MONTH_NAMES for i in range(low + 1, high)
            ):
                return True
    return False


def _person(result, tokens) -> bool:
    """Whether the name is one that the sentence says did it: `by` stands before it, or it opens the sentence."""
    first = words(str(result.value))[:1]
    places = [i for i, token in enumerate(tokens) if first and words(token)[:1] == first]
    return any(i == 0 or tokens[i - 1] == "by" for i in places)


@meaning("fact")
def fact(c, *senses):
    sense = senses[-1]
    return sense if is_number(sense) or is_quantity(sense) else None


@meaning("fact_text")
def fact_text(c, sense):
    return ("date", sense[1]) if sense[0] == "d" else sense if sense[0] == "text" else None


@meaning("years_after_same")
def years_after_same(c, title, event):
    """`how many years after Mount Harrow was Mount Tessel first climbed`: the same of both."""
    if not is_number(event) or event[0] != "call" or event[1] != "wiki":
        return None
    query, page = dict(event[2])["query"], _page(c, title)
    own = next((each for each in c.wiki.titles if " ".join(each) in query.casefold()), None)
    other = next((p["title"] for p in c.wiki.pages.values() if own and tuple(words(p["title"])) == own), None)
    if page is None or other is None or other == title:
        return None
    asked = query.replace(other, title)
    says = [word for word in words(asked.replace(title, "")) if word not in ALLOWED and word != "year"]
    earlier = _fact(c, asked, title, says, page[0])
    return op("-", event, earlier) if earlier and is_number(earlier) else None


@meaning("years_ago")
def years_ago(c, event):
    return op("-", n(c.today.year), event) if is_number(event) else None


@meaning("title_age")
def title_age(c, title, year=None):
    """Years since a thing was opened, built, founded: since the one year that its page says of it; today, or in a year."""
    page = _page(c, title)
    years = set()
    for verb in ("opened", "built", "completed", "founded", "established", "born") if page else ():
        query = f"when {title} was {verb}"
        if (title, query) not in c.facts:
            c.facts[title, query] = _fact(c, query, title, [verb], page[0])
        if c.facts[title, query]:
            years.add(c.facts[title, query])
    values = {c.wiki.run({"query": dict(tree[2])["query"]}).text for tree in years if is_number(tree)}
    if not len(values) == 1 == len({is_number(tree) for tree in years}):
        return None
    since = next(iter(values))
    if year is not None and not (since.isdigit() and int(since) <= year):
        return None
    return op("-", n(year or c.today.year), sorted(years)[0])


def _measure(c, title, adjective):
    page = _page(c, title)
    if page is None:
        return None
    query = f"how {adjective} is {title}"
    if (title, query) not in c.facts:
        c.facts[title, query] = _fact(c, query, title, [adjective], page[0])
    return c.facts[title, query]


def _both(c, adjective, first, second, unit=None):
    """Numbers of the same measure of two things, in `unit` or the first one's, and that unit; None without."""
    left, right = (_measure(c, title, adjective) for title in (first, second))
    if not left or not right or not (is_quantity(left) and is_quantity(right)) or first == second:
        return None
    unit = unit or left[1][0][1]
    trees = [total(c, each, unit) for each in (left, right)]
    return None if None in trees else (trees, unit)


@meaning("titles_apart")
def titles_apart(c, comparative, first, second, unit=None):
    adjective, sign = comparative
    if (found := _both(c, adjective, first, second, unit)) is None:
        return None
    trees, unit = found
    return quantity(c, op("-", *(trees if sign > 0 else trees[::-1])), unit)


@meaning("titles_sum")
def titles_sum(c, first, second, adjective):
    found = _both(c, adjective, first, second)
    return found and quantity(c, op("+", *found[0]), found[1])


@meaning("titles_difference")
def titles_difference(c, adjective, first, second):
    """How far apart two measures are, whichever is the larger: the root of the square."""
    found = titles_apart(c, (adjective, 1), first, second)
    if found is None:
        return None
    tree, unit = found[1][0]
    return quantity(c, root(c, op("*", tree, tree), n(2)), unit)


@meaning("titles_ratio")
def titles_ratio(c, comparative, first, second):
    found = _both(c, comparative[0], first, second) if comparative[1] > 0 else None
    return found and op("/", *found[0])


@meaning("title_more")
def title_more(c, first, comparative, second):
    found = titles_apart(c, (comparative[0], 1), first, second)
    return None if found is None else ("yesno", ">" if comparative[1] > 0 else "<", found[1][0][0], n(0))


@meaning("which_title")
def which_title(c, comparative, first, second):
    found = titles_apart(c, (comparative[0], 1), first, second)
    if found is None:
        return None
    tree = found[1][0][0]
    return ("which", "max" if comparative[1] > 0 else "min", (first, second), (tree[2], tree[3]))


@meaning("comparative")
def comparative(c, adjective, sign):
    return (adjective, int(sign))


# -- context


_SUMS = (
    r"(?:all |our |the |my |that )*(?:\w+ )?(?:prices|salaries|amounts|figures|fees|costs|wages|values|sums|money|pay)"
)
_SAID = r"(?: (?:in|of) (?:the|our) \w+)? (?:are|is|being) (?:all )?(?:given |stated |quoted |listed |stored |kept |paid |recorded )?in (?P<{}>[\w ]+?)"
MONEY_CONTEXT = re.compile(
    rf"^\s*(?:note:? |note that |since |as |given |assume |assuming |suppose |remember |remember that )?{_SUMS}{_SAID.format('before')}[.;:,]\s+"
    rf"|,? (?:if|given|since|as|assuming|when|where) {_SUMS}{_SAID.format('after')}\s*[?.]?\s*$",
    re.IGNORECASE,
)


def money_context(c, text) -> tuple[str, str | None]:
    """A sentence that says the database's currency, apart from the question."""
    match = MONEY_CONTEXT.search(text)
    if not match:
        return text, None
    codes = c.lexicon.currency_forms.get(tuple((match["before"] or match["after"]).lower().split()))
    return (text[: match.start()] + text[match.end() :], "$" + codes[0]) if codes else (text, None)
