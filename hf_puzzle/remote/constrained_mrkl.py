"""Decoding of calls under a grammar made from JSON schemas: what comes out is a valid call, whatever the model.

A call is written `{"name": <expert>, "arguments": {<name>: <value>, ...}}`. Values are JSON literals of the schema's
type, enum members, slot ids of the query (`"<n0>"`) where a slot of that type exists, or, for open text, spans of the
query. The grammar is a machine over characters; a token is allowed when its characters can be consumed, so any
tokenizer that decodes tokens to text works (MRKL, arXiv 2205.00445; research note C.6). It is offered as a transformers
`LogitsProcessor` and as `prefix_allowed_tokens_fn`.
"""

import json
import re
from collections.abc import Mapping, Sequence

import torch
from transformers import LogitsProcessor


# JSON keeps these bounded: an untrained model would write digits for ever
MAX_DIGITS = 18
MAX_ITEMS = 8


# -- machines over characters: a state is hashable, `step` gives the state after a character or None


class Grammar:
    """A set of texts. `start` is its first state; `step(state, char)` the next or None; `accepts(state)` at the end."""

    start = 0

    def step(self, state, char):
        raise NotImplementedError

    def accepts(self, state) -> bool:
        raise NotImplementedError


class Choice(Grammar):
    """One of several fixed texts, as a trie; states are node numbers."""

    def __init__(self, texts: Sequence):
        if not texts:
            raise ValueError("a choice needs at least one text")
        self.edges, self.final = [{}], set()
        for text in texts:
            node = 0
            for char in text:
                if char not in self.edges[node]:
                    self.edges.append({})
                    self.edges[node][char] = len(self.edges) - 1
                node = self.edges[node][char]
            self.final.add(node)

    def step(self, state, char):
        return self.edges[state].get(char)

    def accepts(self, state):
        return state in self.final


class Copy(Grammar):
    """A JSON string that is a run of whole words of `source`, at most `words` long; states are (word, offset, left)."""

    start = ("open",)

    def __init__(self, source: str, words: int = 12):
        # escaped as JSON writes it, so that a quote in the query cannot close the string
        self.words = [json.dumps(w, ensure_ascii=False)[1:-1] for w in re.findall(r"\S+", source)]
        self.most = words

    def step(self, state, char):
        if state == ("open",):
            return ("first",) if char == '"' and self.words else None
        if state == ("first",):
            return self._all([(i, 0) for i in range(len(self.words))], char, self.most)
        if state[0] == "in":
            _, places, left = state
            ends = [i for i, at in places if at == len(self.words[i])]
            if char == '"' and ends:
                return ("closed",)
            if char == " " and ends and left > 1:
                onward = [(i + 1, 0) for i in ends if i + 1 < len(self.words)]
                return ("in", tuple(onward), left - 1) if onward else None
            return self._all(places, char, left)
        return None

    def _all(self, places, char, left):
        onward = tuple((i, at + 1) for i, at in places if at < len(self.words[i]) and self.words[i][at] == char)
        return ("in", onward, left) if onward else None

    def accepts(self, state):
        return state == ("closed",)


class Number(Grammar):
    """A JSON number; `integer` forbids decimals, `low`/`high` only its sign. States: (part, digits)."""

    start = ("sign", 0)

    def __init__(self, integer: bool = False, negative: bool = True):
        self.integer, self.negative = integer, negative

    def step(self, state, char):
        part, digits = state
        if char.isdigit() and char.isascii():
            if part == "zero" or digits >= MAX_DIGITS:
                return None
            if part in ("sign", "minus"):
                return ("zero", 1) if char == "0" else ("whole", 1)
            return ("decimals" if part in ("point", "decimals") else "whole", digits + 1)
        if char == "-" and part == "sign" and self.negative:
            return ("minus", 0)
        if char == "." and part in ("whole", "zero") and not self.integer and digits < MAX_DIGITS:
            return ("point", digits)
        return None

    def accepts(self, state):
        return state[0] in ("whole", "zero", "decimals")


class Either(Grammar):
    """Any of several grammars at once; a state is a tuple of their states, None where one is out."""

    def __init__(self, grammars: Sequence):
        self.grammars = tuple(grammars)
        self.start = tuple(g.start for g in self.grammars)

    def step(self, state, char):
        after = tuple(None if s is None else g.step(s, char) for g, s in zip(self.grammars, state, strict=True))
        return None if all(s is None for s in after) else after

    def accepts(self, state):
        return any(s is not None and g.accepts(s) for g, s in zip(self.grammars, state, strict=True))


class Chain(Grammar):
    """Grammars one after another; states are sets of (index, state), as one part may end where the next begins."""

    def __init__(self, grammars: Sequence):
        self.grammars = tuple(grammars)
        self.start = self._close({(0, self.grammars[0].start)})

    def _close(self, places):
        places, todo = set(places), list(places)
        while todo:
            i, state = todo.pop()
            if i + 1 < len(self.grammars) and self.grammars[i].accepts(state):
                place = (i + 1, self.grammars[i + 1].start)
                if place not in places:
                    places.add(place)
                    todo.append(place)
        return frozenset(places)

    def step(self, state, char):
        after = {(i, s) for i, inner in state for s in (self.grammars[i].step(inner, char),) if s is not None}
        return self._close(after) if after else None

    def accepts(self, state):
        return any(i == len(self.grammars) - 1 and self.grammars[i].accepts(s) for i, s in state)


class Repeat(Grammar):
    """`[`, up to MAX_ITEMS items, `]`; states are (item count, state or None between items)."""

    start = ("open", 0, None)

    def __init__(self, item: Grammar):
        self.item = item

    def step(self, state, char):
        where, count, inner = state
        if where == "open":
            return ("first", 0, None) if char == "[" else None
        if where == "closed":
            return None
        if where == "first" and char == "]":
            return ("closed", 0, None)
        if where == "in":
            onward = self.item.step(inner, char)
            if onward is not None:
                return ("in", count, onward)
            if self.item.accepts(inner):
                if char == "]":
                    return ("closed", count, None)
                if char == "," and count < MAX_ITEMS:
                    return ("next", count, None)
            return None
        onward = self.item.step(self.item.start, char)
        return None if onward is None else ("in", count + 1, onward)

    def accepts(self, state):
        return state[0] == "closed"


# -- from schemas

SLOT_KINDS = {"number": "n", "integer": "n", "string": "ndmcuex"}


def value_grammar(schema: Mapping, slots: Mapping, source: str, name: str = "") -> Grammar:
    """Texts of JSON values that fit `schema`.

    Args: `slots` id -> kind of the query's slots; `source` the query, from which open texts are copied. A string takes
    slots whose kind suits its name (dates for `date`, `start`, `end`; measures for `from`, `to`, ...), else any.
    Raises: ValueError for a schema nothing can be written for.
    """
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return Either([value_grammar(each, slots, source, name) for each in choices])
    if "enum" in schema:
        return Choice([json.dumps(value, ensure_ascii=False) for value in schema["enum"]])
    kinds = schema.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    parts = []
    for kind in kinds:
        if kind in ("number", "integer"):
            parts.append(Number(kind == "integer", negative=schema.get("minimum", -1) < 0))
            wanted = "n"
        elif kind == "boolean":
            parts.append(Choice(["true", "false"]))
            wanted = ""
        elif kind == "null":
            parts.append(Choice(["null"]))
            wanted = ""
        elif kind == "array":
            parts.append(Repeat(value_grammar(schema.get("items", {}), slots, source, name)))
            wanted = ""
        elif kind == "object":
            parts.append(object_grammar(schema, slots, source))
            wanted = ""
        elif kind in ("string", "any"):
            wanted = _suiting(name)
            fitting = [f'"<{key}>"' for key, letter in slots.items() if letter in wanted]
            if not fitting or wanted == SLOT_KINDS["string"]:
                parts.append(Copy(source) if source.split() else Choice(['""']))
        else:
            raise ValueError(f"argument {name!r}: no grammar for type {kind!r}")
        found = [f'"<{key}>"' for key, letter in slots.items() if letter in wanted]
        if found:
            parts.append(Choice(found))
    if schema.get("nullable") and "null" not in kinds:
        parts.append(Choice(["null"]))
    return parts[0] if len(parts) == 1 else Either(parts)


def _suiting(name) -> str:
    words = set(re.findall(r"[a-z]+", name.lower()))
    if words & {"date", "day", "start", "end", "when", "until", "since"}:
        return "dm"
    if words & {"amount", "value", "number", "count", "quantity"}:
        return "n"
    if words & {"from", "to", "unit", "currency", "source", "target"}:
        return "cu"
    return SLOT_KINDS["string"]


def object_grammar(schema: Mapping, slots: Mapping, source: str) -> Grammar:
    """Texts of JSON objects with the schema's required properties in their order, and any run of optional ones."""
    required = list(schema.get("required", []))
    properties = schema.get("properties", {})
    must = [name for name in properties if name in required]
    may = [name for name in properties if name not in required]

    def pair(name, comma):
        key = (", " if comma else "") + json.dumps(name) + ": "
        return Chain([Choice([key]), value_grammar(properties[name], slots, source, name)])

    parts = [Choice(["{"])]
    parts += [pair(name, i > 0) for i, name in enumerate(must)]
    if may and must:
        # each optional property is there or not
        parts += [Either([Choice([""]), pair(name, True)]) for name in may]
    elif may:
        parts.append(Either([Choice([""]), *(pair(name, False) for name in may)]))
    parts.append(Choice(["}"]))
    return Chain(parts)


def call_grammar(schemas: Mapping, slots: Mapping, source: str) -> Grammar:
    """Texts of calls of any expert in `schemas`, {name: JSON schema of its arguments}.

    Raises: ValueError when there is no expert or a schema has a type that JSON lacks.
    """
    if not schemas:
        raise ValueError("a grammar of calls needs at least one expert")
    return Either(
        [
            Chain(
                [
                    Choice([f'{{"name": {json.dumps(name)}, "arguments": ']),
                    object_grammar(schema, slots, source),
                    Choice(["}"]),
                ]
            )
            for name, schema in schemas.items()
        ]
    )


def matches(grammar: Grammar, text: str) -> bool:
    """Whether the whole of `text` is in the grammar."""
    state = grammar.start
    for char in text:
        state = grammar.step(state, char)
        if state is None:
            return False
    return grammar.accepts(state)


# -- tokens


class TokenGrammar:
    """Which tokens may follow, for one grammar and one vocabulary.

    Args:
        grammar: what the text after the prompt must be.
        pieces: text of each token id; ids whose text is empty are never allowed.
        eos: id that ends a text; allowed exactly where the grammar accepts.
    Vocabulary tries are shared between grammars: build `vocabulary(pieces)` once per tokenizer.
    """

    def __init__(self, grammar: Grammar, vocabulary, eos: int):
        self.grammar, self.trie, self.eos = grammar, vocabulary, eos
        self.known = {}

    def allowed(self, state) -> dict:
        """{token id: state after it}; never empty for a state that the grammar can still finish."""
        if state not in self.known:
            found = {}
            todo = [(self.trie, state)]
            while todo:
                node, at = todo.pop()
                for char, (below, ids) in node.items():
                    after = self.grammar.step(at, char)
                    if after is None:
                        continue
                    for token in ids:
                        found[token] = after
                    if below:
                        todo.append((below, after))
            if self.grammar.accepts(state):
                found[self.eos] = None
            self.known[state] = found
        return self.known[state]

    def follow(self, tokens: Sequence):
        """The state after `tokens`; None after eos. Raises: ValueError when they left the grammar."""
        state = self.grammar.start
        for token in tokens:
            if state is None:
                return None
            options = self.allowed(state)
            if int(token) not in options:
                raise ValueError(f"token {int(token)} is not in the grammar")
            state = options[int(token)]
        return state


def vocabulary(pieces: Sequence) -> dict:
    """A trie over token texts: {char: (trie below, ids that end here)}."""
    root = {}
    for token, text in enumerate(pieces):
        if not text:
            continue
        node = root
        for i, char in enumerate(text):
            below, ids = node.setdefault(char, ({}, []))
            if i + 1 == len(text):
                ids.append(token)
            node = below
    return root


def token_pieces(tokenizer) -> list:
    """Text that each id of a transformers tokenizer adds; special tokens and broken characters add none."""
    special = set(tokenizer.all_special_ids)
    mark = tokenizer.decode([tokenizer.convert_tokens_to_ids(tokenizer.tokenize("a")[0])]) if len(tokenizer) else ""
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    pieces = []
    for token in range(len(tokenizer)):
        # decoded behind an anchor: a first token may lose its leading space
        text = tokenizer.decode([*anchor, token]).removeprefix(tokenizer.decode(anchor) if anchor else mark)
        pieces.append("" if token in special or "\ufffd" in text else text)
    return pieces


class CallProcessor(LogitsProcessor):
    """Masks logits so that what follows the prompt is in the grammar.

    Args:
        grammars: one TokenGrammar per row of the batch, or one for all.
        prompt: number of prompt tokens, (padding included).
    Shapes: `input_ids` (B, L), `scores` (B, V). Rows that have ended may only repeat eos.
    """

    def __init__(self, grammars, prompt: int):
        self.grammars, self.prompt = grammars, prompt
        self.states = {}

    def grammar(self, row) -> TokenGrammar:
        return self.grammars[row] if isinstance(self.grammars, list | tuple) else self.grammars

    def __call__(self, input_ids, scores):
        masked = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids.tolist()):
            grammar = self.grammar(row)
            made = tuple(ids[self.prompt :])
            state = self._state(row, grammar, made)
            allowed = [grammar.eos] if state is None else list(grammar.allowed(state))
            masked[row, allowed] = scores[row, allowed]
        return masked

    def _state(self, row, grammar, made):
        # beams change rows: states are kept by what was written
        before = self.states.get((id(grammar), made[:-1])) if made else None
        if made and (id(grammar), made[:-1]) in self.states:
            state = None if before is None else grammar.allowed(before)[made[-1]]
        else:
            state = grammar.follow(made)
        self.states[id(grammar), made] = state
        return state


def prefix_allowed_tokens(grammar: TokenGrammar, prompt: int):
    """A `prefix_allowed_tokens_fn` for `generate`: the same constraint without a processor."""

    def allowed(_, ids):
        state = grammar.follow(ids.tolist()[prompt:])
        return [grammar.eos] if state is None else list(grammar.allowed(state))

    return allowed


def shortest(grammar: TokenGrammar, state=None, limit: int = 400) -> list:
    """Tokens that finish a text from `state` (the start when None) in the fewest steps; breadth first.

    Raises: ValueError when none of at most `limit` tokens does.
    """
    state = grammar.grammar.start if state is None else state
    edge, seen = [(state, ())], {state}
    for _ in range(limit):
        onward = []
        for at, path in edge:
            for token, after in grammar.allowed(at).items():
                if after is None:
                    return [*path, token]
                if after not in seen:
                    seen.add(after)
                    onward.append((after, (*path, token)))
        if not onward:
            break
        edge = onward
    raise ValueError("no text of the grammar ends within the limit")


def resolve(call: Mapping, slots: Mapping) -> dict:
    """`call` with slot ids replaced by the slots' values; `slots` id -> value text."""
    if isinstance(call, Mapping):
        return {key: resolve(value, slots) for key, value in call.items()}
    if isinstance(call, list):
        return [resolve(value, slots) for value in call]
    if isinstance(call, str):
        m = re.fullmatch(r"<(\w+)>", call)
        return slots[m[1]] if m and m[1] in slots else call
    return call
