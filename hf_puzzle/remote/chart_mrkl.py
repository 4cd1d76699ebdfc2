"""A bottom-up chart parser over rules that are data, and the registry of their meanings (MRKL, arXiv 2205.00445).

A rule is a line `Category <- pattern : meaning argument ...`. In a pattern a lower-case word or a sign stands for
itself, a capitalised word for a category, `[x]` for x or nothing, `(a|b c)` for one of several, `{X}` for a phrase of
the list X, which a line `X = phrase | phrase` gives and which means nothing. A meaning is a
function that was registered under its name; it gets what the pattern's categories mean and returns the meaning of the
whole, None where the types do not fit, or a list of meanings. `name/102 word` hands them over in another order, with a
word behind them; `name($1, other($0, #100), word)` says which goes where: `$0` is the first category's meaning, and left
out where the pattern has none, `#100` a number. The parser keeps every reading; a rule whose line ends
in `!` is used only where no reading without one explains all words.
"""

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterable
from fractions import Fraction


MAX_EDGES = 25_000
MAX_SENSES = 16
MEANINGS: dict[str, Callable] = {}
PLACE = re.compile(r"\$\d")
TOKEN = re.compile(r"\(|\)|\[|\]|\||'[^' ]+'|\{[^{}]+\}|[^\s()\[\]|]+")


class GrammarError(ValueError):
    """A rule cannot be read, or a meaning is missing or defined twice."""


class TooComplex(Exception):
    """A text has more partial readings than `MAX_EDGES`."""


def meaning(name: str) -> Callable:
    """Registers a function as the meaning `name`; GrammarError when the name is taken."""

    def register(function):
        known = MEANINGS.get(name)
        # a module that is loaded again defines the very same function
        if known is not None and _place(known) != _place(function):
            raise GrammarError(f"the meaning {name!r} is defined twice")
        MEANINGS[name] = function
        return function

    return register


@functools.cache
def takes(name: str, count: int) -> bool:
    """Whether the meaning `name` can be given that many values and arguments."""
    try:
        inspect.signature(MEANINGS[name]).bind(None, *[None] * count)
    except TypeError:
        return False
    return True


def _place(function):
    return function.__module__, function.__qualname__, function.__code__.co_firstlineno


def computed(meant: str, count: int) -> Callable:
    """What a rule's meaning makes of (context, values of its `count` categories): a list of meanings.

    Raises:
        GrammarError: It names a meaning that nobody defined, or one that does not take so many values.
    """
    if "(" not in meant:
        name, *words = meant.split()
        name, _, digits = name.partition("/")
        places = [place for place in map(int, digits) if place < count] if digits else range(count)
        meant = f"{name}({', '.join([*(f'${place}' for place in places), *words])})"
    tokens = re.findall(r"[(),]|[^\s(),]+", meant)
    made, rest = _computed(tokens, count)
    if rest:
        raise GrammarError(f"{meant!r} goes on behind its last bracket")
    return made


def _computed(tokens, count):
    """(function of (context, values), tokens that follow) of one expression."""
    head, *rest = tokens
    if rest[:1] != ["("]:
        if PLACE.fullmatch(head):
            place = int(head[1:])
            return lambda context, values: (values[place],), rest
        constant = ("n", Fraction(head[1:])) if head[0] == "#" else head
        return lambda context, values: (constant,), rest
    inner, rest = [], rest[1:]
    while rest[0] != ")":
        if rest[0] == "," or PLACE.fullmatch(rest[0]) and int(rest[0][1:]) >= count:
            rest = rest[1:]
        else:
            made, rest = _computed(rest, count)
            inner.append(made)
    if head not in MEANINGS:
        raise GrammarError(f"nobody defined the meaning {head!r}")
    if not takes(head, len(inner)):
        raise GrammarError(f"{head} does not take {len(inner)} values")
    function = MEANINGS[head]

    def run(context, values):
        found = []
        for chosen in itertools.product(*(each(context, values) for each in inner)):
            sense = function(context, *chosen)
            found += [each for each in (sense if isinstance(sense, list) else [sense]) if each is not None]
        return found

    return run, rest[1:]


# -- rules


def expansions(pattern: str, empty=frozenset()) -> list[tuple]:
    """Every sequence of symbols that `pattern` stands for; words are strings, categories are 1-tuples.

    empty: lists of phrases that have the empty one.
    """
    tokens = TOKEN.findall(pattern)
    at = 0

    def sequence(ends):
        nonlocal at
        found = [()]
        while at < len(tokens) and tokens[at] not in ends:
            token = tokens[at]
            at += 1
            if token in "([" and len(token) == 1:
                close = ")" if token == "(" else "]"
                inner = choice(close)
                options = inner + ([()] if token == "[" else [])
                found = [left + right for left in found for right in options]
            else:
                symbol = (
                    (token,)
                    if re.fullmatch(r"[A-Z]\w*|\{[^{}]+\}", token)
                    else token[1:-1]
                    if len(token) > 2 and token[0] == token[-1] == "'"
                    else token
                )
                options = [(symbol,), ()] if token[1:-1] in empty and token[0] == "{" else [(symbol,)]
                found = [left + right for left in found for right in options]
        return found

    def choice(close):
        nonlocal at
        found = sequence(("|", close))
        while at < len(tokens) and tokens[at] == "|":
            at += 1
            found += sequence(("|", close))
        if at == len(tokens) or tokens[at] != close:
            raise GrammarError(f"{pattern!r}: a bracket is not closed")
        at += 1
        return found

    found = sequence(())
    return list(dict.fromkeys(found))


class State:
    """A place in the tree of all patterns: words and categories that go on, and rules that end here."""

    __slots__ = ("categories", "ends", "words")

    def __init__(self):
        self.words: dict[str, State] = {}
        self.categories: dict[str, State] = {}
        self.ends: list[tuple] = []


class Grammar:
    """Rules as a tree of patterns.

    Args:
        texts: Blocks of rules, one a line; `#` begins a comment.
    Raises:
        GrammarError: A line that is no rule, a rule twice, or a meaning that nobody defined.
    """

    def __init__(self, texts: Iterable[str]):
        self.root, self.rules = State(), []
        self._empty, self._seen, self._lists = set(), set(), set()
        lines = [line.strip() for text in texts for line in text.splitlines()]
        rules = []
        for line in lines:
            phrases = re.fullmatch(r"([A-Z_]+) = (.+)", line)
            rule = re.fullmatch(r"(\w+) <- (.+?)(?: : ([\w ./*%+$,=<>()#-]+?))?(?: (!))?", line)
            if phrases:
                if () in expansions(f"({phrases[2]})"):
                    self._empty.add(phrases[1])
                rules.append((f"{{{phrases[1]}}}", f"({phrases[2]})", "nothing", 0))
            elif rule:
                rules.append((rule[1], rule[2], rule[3] or "same", int(bool(rule[4]))))
            elif line and not line.startswith("#"):
                raise GrammarError(f"{line!r} is no rule")
        named = {rule[0] for rule in rules}
        for category, pattern, meant, cost in rules:
            for used in re.findall(r"\{\w+\}", pattern):
                if used not in named:
                    raise GrammarError(f"{category} <- {pattern}: there is no list {used}")
            self.add(category, pattern if category.startswith("{") else self._listed(pattern), meant, cost)

    @functools.cached_property
    def vocabulary(self) -> frozenset:
        """Every word of the rules."""
        found, open_ = set(), [self.root]
        while open_:
            state = open_.pop()
            found |= set(state.words)
            open_ += [*state.words.values(), *state.categories.values()]
        return frozenset(found)

    def _listed(self, pattern):
        """`pattern` with each longer choice between phrases as a list without a name: the tree stays small."""

        def name(match):
            phrases = match[2].split("|")
            if len(phrases) < 3 or "" in phrases:
                return match[0]
            key = "{" + "_".join(match[2].replace("|", "_or_").split()) + "}"
            if key not in self._lists:
                self._lists.add(key)
                self.add(key, f"({match[2]})", "nothing", 0)
            return f"[{key}]" if match[1] == "[" else key

        return re.sub(r"([(\[])([^()\[\]{}A-Z]+)[)\]]", name, pattern)

    def add(self, category, pattern, meant, cost):
        self.rules.append((category, pattern, meant))
        for symbols in expansions(pattern, self._empty):
            if not symbols:
                if category.startswith("{"):
                    continue
                raise GrammarError(f"{category} <- {pattern} may be empty")
            key = (category, symbols, meant)
            if key in self._seen:
                raise GrammarError(f"{category} <- {pattern} : {meant}: {symbols} is there twice")
            self._seen.add(key)
            values = sum(isinstance(symbol, tuple) and symbol[0][0] != "{" for symbol in symbols)
            try:
                function = computed(meant, values)
            except GrammarError as error:
                raise GrammarError(f"{category} <- {pattern} : {meant}: {error}") from None
            state = self.root
            for symbol in symbols:
                table = state.categories if isinstance(symbol, tuple) else state.words
                state = table.setdefault(symbol[0] if isinstance(symbol, tuple) else symbol, State())
            state.ends.append((category, function, cost))


# -- parsing


class Chart:
    """All readings of a list of tokens.

    Args:
        words: The tokens as patterns see them.
        lexical: (category, start, end, meaning) and perhaps a cost, of what the lexicon knows.
        skippable: Places of tokens that may be passed over, such as commas.
        context: Handed to every meaning as its first argument.
    """

    def __init__(self, grammar: Grammar, words: list, lexical: Iterable, context, skippable=frozenset()):
        self.words, self.context, self.skippable = words, context, skippable
        self.edges: list[dict] = [{} for _ in range(len(words) + 1)]
        self.count = 0
        starts: dict[int, list] = {}
        for category, start, end, sense, *cost in lexical:
            starts.setdefault(start, []).append((category, end, sense, cost[0] if cost else 0))
        self.root = grammar.root
        for start in range(len(words) - 1, -1, -1):
            self._agenda = starts.get(start, [])
            self._from(start)

    def _from(self, start):
        agenda, self._agenda = self._agenda, []
        self._start = start
        state = self.root.words.get(self.words[start])
        if state is not None:
            self._walk(state, start + 1, (), 0)
        agenda += self._agenda
        while agenda:
            category, end, sense, cost = agenda.pop()
            senses = self.edges[start].setdefault(category, {}).setdefault(end, {})
            if senses.get(sense, 99) <= cost or len(senses) >= MAX_SENSES:
                continue
            senses[sense] = cost
            self.count += 1
            if self.count > MAX_EDGES:
                raise TooComplex
            state = self.root.categories.get(category)
            if state is not None:
                self._agenda = []
                self._walk(state, end, () if category[0] == "{" else (sense,), cost)
                agenda += self._agenda

    def _walk(self, state, at, args, cost):
        for category, function, more in state.ends:
            self._end(category, function, cost + more, at, args)
        if at >= len(self.words):
            return
        if state.words:
            following = state.words.get(self.words[at])
            if following is not None:
                self._walk(following, at + 1, args, cost)
        here = self.edges[at]
        if here and state.categories:
            for category, following in state.categories.items():
                for end, senses in here.get(category, {}).items():
                    for sense, more in senses.items():
                        self._walk(following, end, args if category[0] == "{" else (*args, sense), cost + more)
        if at in self.skippable and (state.words or state.categories):
            self._skip(state, at + 1, args, cost)

    def _skip(self, state, at, args, cost):
        """As `_walk`, without the rules that end before what was passed over."""
        bare = State()
        bare.words, bare.categories = state.words, state.categories
        self._walk(bare, at, args, cost)

    def _end(self, category, function, cost, at, args):
        self.count += 1
        if self.count > MAX_EDGES:
            raise TooComplex
        for sense in function(self.context, args):
            self._agenda.append((category, at, sense, cost))

    def readings(self, category: str) -> list:
        """(cost, meaning) of all readings of the whole text as `category`, the cheapest first."""
        if not self.words:
            return []
        found = self.edges[0].get(category, {})
        ends = [end for end in found if all(place in self.skippable for place in range(end, len(self.words)))]
        best: dict = {}
        for end in ends:
            for sense, cost in found[end].items():
                best[sense] = min(cost, best.get(sense, 99))
        return sorted(((cost, sense) for sense, cost in best.items()), key=lambda pair: pair[0])


@meaning("same")
def _same(context, *values):
    return next((value for value in values if value != ()), ())


@meaning("last")
def _last(context, *values):
    return values[-1]


@meaning("word")
def _word(context, word):
    return word


@meaning("nothing")
def _nothing(context, *values):
    return ()
