"""Experts that a user brings, from a question's own words (MRKL, arXiv 2205.00445).

Such an expert is reached without a rule: its name, description, arguments and example questions say which words are
its own, and what the question has beyond them must be its arguments, each of its type. A word that is neither means
that the expert is not asked.
"""

import re
from collections.abc import Mapping

from .calls_mrkl import exact_text
from .lexicon_mrkl import Read
from .words_mrkl import DELETED, stem


CLOSED = DELETED | frozenset(
    str.split(
        "a an of in on at to for from by with is are was were be been do does did can could would will shall should you "
        "me my i we us our your it its this that these those there tell give show get let know need want like please "
        "what which who when where how much many and 's s am"
    )
)
DENIED = frozenset(str.split("not no never without except nor neither"))
# words of a name that say nothing of what a function is about
GENERIC = frozenset(
    stem(word)
    for word in str.split(
        "get find fetch look lookup compute calculate run do make call query search tool function api my the"
    )
)


def content(text: str) -> set:
    """Stems of the words of `text` that say something; camel case and underscores part words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]", " ", text)
    return {stem(word) for word in re.findall(r"[^\W\d_]+", spaced.lower()) if word not in CLOSED}


class Custom:
    """One expert's words.

    Args:
        expert: With name, description and JSON schema.
        examples: Questions that it answers.
    """

    def __init__(self, expert, examples=()):
        self.name, self.parameters = expert.name, expert.parameters
        self.triggers = content(expert.name) - GENERIC
        said = [expert.description.split("\n\n")[0], *self.parameters.get("properties", {}), *examples]
        self.examples = [content(text) for text in examples]
        self.words = self.triggers | GENERIC | set().union(*map(content, said))

    def arguments(self, read: Read) -> dict | None:
        """Arguments for a question that this expert explains word by word, None for others."""
        stems = {stem(word) for word in read.words if word.isalpha()}
        likely = any(len(words & stems) * 3 >= len(words) * 2 for words in self.examples if words)
        if not (self.triggers & stems or likely) or DENIED & set(read.words):
            return None
        taken: set[int] = set()
        found, texts = {}, []
        for name, schema in self.parameters.get("properties", {}).items():
            kinds = schema.get("type", "string")
            kinds = {kinds} if isinstance(kinds, str) else set(kinds)
            if "enum" in schema:
                found |= self._choice(name, schema["enum"], read, taken)
            elif kinds & {"number", "integer"}:
                found |= self._edge(name, ("Number",), read, taken)
            elif re.search(r"date|day|when", name):
                found |= self._edge(name, ("Date",), read, taken)
            elif "string" in kinds:
                texts.append(name)
        for name, run in zip(texts, self._runs(read, taken), strict=False):
            found[name] = " ".join(read.raws[place] for place in run)
            taken |= set(run)
        required = self.parameters.get("required", list(self.parameters.get("properties", {})))
        return found if set(required) <= set(found) and not self._left(read, taken) else None

    @staticmethod
    def _choice(name, values, read, taken):
        for value in values:
            if str(value).lower() in read.words:
                taken.add(read.words.index(str(value).lower()))
                return {name: value}
        return {}

    @staticmethod
    def _edge(name, categories, read, taken):
        edges = [edge for edge in read.edges if edge[0] in categories and not set(range(edge[1], edge[2])) & taken]
        if not edges:
            return {}
        _, start, end, sense, *_ = min(edges, key=lambda edge: (edge[1], -edge[2]))
        taken |= set(range(start, end))
        return {name: exact_text(sense[1]) if sense[0] == "n" else sense[1]}

    def _own(self, read, place) -> bool:
        word = read.words[place]
        return word in CLOSED or not word[0].isalnum() or stem(word) in self.words

    def _runs(self, read, taken) -> list:
        """Neighbouring words that are not the expert's: what it is asked about."""
        runs, run = [], []
        for place in range(len(read.words)):
            inside = run and read.words[place] in ("of", "-") and place + 1 < len(read.words)
            if place not in taken and (not self._own(read, place) or inside and not self._own(read, place + 1)):
                run.append(place)
            elif run:
                runs.append(run)
                run = []
        return [*runs, run] if run else runs

    def _left(self, read, taken) -> bool:
        return any(place not in taken and not self._own(read, place) for place in range(len(read.words)))


def customs(experts: Mapping, built_in, examples: Mapping) -> list:
    """The words of all experts that are not ours."""
    return [Custom(expert, examples.get(name, ())) for name, expert in experts.items() if name not in built_in]
