"""Which tokens may come next, so that what a model writes is in a grammar (MRKL, arXiv 2205.00445).

A grammar is a tree of tuples over characters and control tokens; it has no recursion. `Machine` reads it byte by byte
and knows, per state, the tokens of a vocabulary that go on; llguidance (extra `masks`) is given the same tree in its own
notation and allows the same tokens. A token that is no whole character goes on where its bytes do.

    ("text", bytes)  ("token", id)  ("set", ((first, last), ...)): one ASCII character  ("any", excluded): one character
    that is neither a control character nor in `excluded`  ("all", nodes)  ("either", nodes)  ("many", node, least, most
    or None)
"""

import functools
import importlib.util
from collections.abc import Iterable

import torch

from .calls_mrkl import MRKLError, need


ENGINES = ("llguidance", "own")
# lead and following bytes of UTF-8, without overlong forms and surrogates
UTF8 = (
    ((0xC2, 0xDF), (0x80, 0xBF)),
    ((0xE0, 0xE0), (0xA0, 0xBF), (0x80, 0xBF)),
    ((0xE1, 0xEC), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xED, 0xED), (0x80, 0x9F), (0x80, 0xBF)),
    ((0xEE, 0xEF), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xF0, 0xF0), (0x90, 0xBF), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xF1, 0xF3), (0x80, 0xBF), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xF4, 0xF4), (0x80, 0x8F), (0x80, 0xBF), (0x80, 0xBF)),
)
# characters that some string may not hold: tokens without them go on wherever any text does
MARKS = frozenset(b"\"\\'<>[]{}|")
CONTROL = 256  # the symbol of control token i is CONTROL + i


def text(value: str) -> tuple:
    return ("text", value.encode())


def every(*nodes) -> tuple:
    return ("all", nodes)


def maybe(node) -> tuple:
    return ("many", node, 0, 1)


# -- our own matcher


class Machine:
    """A grammar as a machine over bytes and control tokens; states are numbers, made as they are reached."""

    def __init__(self, grammar: tuple):
        self._moves: list[list] = []
        self._empty: list[list] = []
        start = self._new()
        self._final = self._build(grammar, start)
        self._sets: list[tuple] = []
        self._ids: dict = {}
        self._steps: list[dict] = []
        self._bulk: dict = {}
        self.start = self._state({start})

    def _new(self) -> int:
        self._moves.append([])
        self._empty.append([])
        return len(self._moves) - 1

    def _move(self, at, first, last) -> int:
        target = self._new()
        self._moves[at].append((first, last, target))
        return target

    def _build(self, node, at) -> int:
        """Adds `node` behind the place `at`; where it ends."""
        kind = node[0]
        if kind == "text":
            for byte in node[1]:
                at = self._move(at, byte, byte)
            return at
        if kind == "token":
            return self._move(at, CONTROL + node[1], CONTROL + node[1])
        if kind == "all":
            for each in node[1]:
                at = self._build(each, at)
            return at
        if kind == "many":
            return self._build_many(*node[1:], at)
        end = self._new()
        if kind == "either":
            for each in node[1]:
                self._empty[self._build(each, at)].append(end)
        elif kind == "set":
            self._moves[at] += [(first, last, end) for first, last in node[1]]
        else:
            self._moves[at] += [(first, last, end) for first, last in _ascii(node[1])]
            for lead, *rest in UTF8:
                place = self._move(at, *lead)
                for pair in rest[:-1]:
                    place = self._move(place, *pair)
                self._moves[place].append((*rest[-1], end))
        return end

    def _build_many(self, node, least, most, at) -> int:
        for _ in range(least):
            at = self._build(node, at)
        end = self._new()
        if most is None:
            loop = self._new()
            self._empty[at].append(loop)
            self._empty[self._build(node, loop)].append(loop)
            self._empty[loop].append(end)
            return end
        for _ in range(most - least):
            self._empty[at].append(end)
            # a place of its own: what precedes may have other ways on
            inner = self._new()
            self._empty[at].append(inner)
            at = self._build(node, inner)
        self._empty[at].append(end)
        return end

    def _state(self, places: Iterable[int]) -> int:
        seen, todo = set(places), list(places)
        while todo:
            for place in self._empty[todo.pop()]:
                if place not in seen:
                    seen.add(place)
                    todo.append(place)
        # places that only lead on are the same state by any way
        kept = tuple(sorted(p for p in seen if self._moves[p] or p == self._final))
        if kept not in self._ids:
            self._ids[kept] = len(self._sets)
            self._sets.append(kept)
            self._steps.append({})
        return self._ids[kept]

    def step(self, state: int, symbol: int) -> int | None:
        """The state after one more byte or control token; None when nothing of the grammar goes on so."""
        steps = self._steps[state]
        if symbol not in steps:
            after = {t for p in self._sets[state] for first, last, t in self._moves[p] if first <= symbol <= last}
            steps[symbol] = self._state(after) if after else None
        return steps[symbol]

    def read(self, state: int | None, symbols: Iterable[int]) -> int | None:
        for symbol in symbols:
            if state is None:
                break
            state = self.step(state, symbol)
        return state

    def complete(self, state: int) -> bool:
        return self._final in self._sets[state]

    def free(self, state: int) -> bool:
        """Whether any text without MARKS leaves the state as it is."""
        if state not in self._bulk:
            plain = (byte for byte in range(0x20, 0x7F) if byte not in MARKS)
            ways = [(byte,) for byte in plain] + [tuple(first for first, _ in way) for way in UTF8]
            self._bulk[state] = all(self.read(state, way) == state for way in ways)
        return self._bulk[state]

    @functools.cached_property
    def _distances(self) -> list:
        """How many symbols each place is from the end."""
        before: list[list] = [[] for _ in self._moves]
        for place, moves in enumerate(self._moves):
            for _, _, target in moves:
                before[target].append((place, 1))
            for target in self._empty[place]:
                before[target].append((place, 0))
        found = [float("inf")] * len(self._moves)
        found[self._final] = 0
        front = [self._final]
        while front:
            place = front.pop(0)
            for earlier, cost in before[place]:
                if found[place] + cost < found[earlier]:
                    found[earlier] = found[place] + cost
                    front.append(earlier)
        return found

    def ending(self, state: int) -> list[int]:
        """The fewest symbols that end the text.

        Raises: MRKLError where no text of the grammar goes on so.
        """
        symbols = []
        while not self.complete(state):
            ways = [(self._distances[t], first) for p in self._sets[state] for first, _, t in self._moves[p]]
            if not ways or min(ways)[0] == float("inf"):
                raise MRKLError("no call can end here: a schema has values that no text writes")
            symbols.append(min(ways)[1])
            state = self.step(state, symbols[-1])
        return symbols


def _ascii(excluded: str) -> list[tuple]:
    """Ranges of the ASCII characters from the space on without `excluded`."""
    found, first = [], 0x20
    for byte in sorted({*map(ord, excluded), 0x80}):
        if byte > first:
            found.append((first, byte - 1))
        first = byte + 1
    return found


# -- tokens


@functools.cache
def _byte_letters() -> dict:
    """Letter -> byte of byte-level tokenizers: what is no printable Latin-1 character stands from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def token_bytes(tokenizer, size: int) -> list[bytes | None]:
    """What each of the first `size` ids adds to a text; None for control tokens and ids that have no text."""
    special, added = set(tokenizer.all_special_ids), tokenizer.added_tokens_decoder
    special |= {i for i, token in added.items() if token.special}
    ids = range(min(size, len(tokenizer)))
    names = tokenizer.convert_ids_to_tokens(list(ids))
    decoder = str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
    letters = _byte_letters() if "ByteLevel" in decoder else None
    spaced = letters is None and ("ByteFallback" in decoder or "Metaspace" in decoder)
    anchored = None if letters or spaced else _anchored(tokenizer, ids)
    found: list[bytes | None] = []
    for i, name in zip(ids, names, strict=True):
        if spaced and len(name or "") == 6 and name.startswith("<0x") and name.endswith(">"):
            found.append(bytes([int(name[3:5], 16)]))
        elif i in special or not name:
            found.append(None)
        elif i in added:
            found.append(added[i].content.encode())
        elif letters is not None:
            known = all(letter in letters for letter in name)
            found.append(bytes(letters[letter] for letter in name) if known else name.encode())
        elif spaced:
            found.append(name.replace("\u2581", " ").encode())
        else:
            found.append(anchored[i])
    return found + [None] * (size - len(found))


def _anchored(tokenizer, ids) -> list[bytes | None]:
    """By decoding behind another token: a first one may lose its space."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    prefix = tokenizer.decode(anchor, **options)
    texts = (each.removeprefix(prefix) for each in tokenizer.batch_decode([[*anchor, i] for i in ids], **options))
    return [each.encode() if each and "\ufffd" not in each else None for each in texts]


class Vocabulary:
    """A tokenizer's tokens as bytes, and the same for llguidance.

    Args:
        size: Number of logits.
    """

    def __init__(self, tokenizer, size: int):
        self.tokenizer, self.size = tokenizer, size
        self.bytes = token_bytes(tokenizer, size)
        self.tree: dict = {}
        self._marked: dict = {}
        plain = []
        for i, content in enumerate(self.bytes):
            if content:
                _add(self.tree, content, i)
                if _plain(content):
                    plain.append(i)
                else:
                    _add(self._marked, content, i)
        self._plain = torch.tensor(plain, dtype=torch.long)
        self.control = torch.tensor([content is None for content in self.bytes])

    def symbols(self, token: int) -> tuple:
        content = self.bytes[token]
        return (CONTROL + token,) if content is None else tuple(content)

    def nodes(self, value: str) -> tuple:
        """`value` with the tokenizer's control tokens as tokens."""
        added = self.tokenizer.added_tokens_decoder.items()
        # a token that was added behind the model's vocabulary cannot be written
        control = {token.content: i for i, token in added if i < self.size and self.bytes[i] is None}
        special = zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=False)
        control |= {content: i for content, i in special if i < self.size}
        found, at, begun = [], 0, 0
        while at < len(value):
            names = [name for name in control if name and value.startswith(name, at)]
            if names:
                name = max(names, key=len)
                found += [text(value[begun:at])] * (begun < at) + [("token", control[name])]
                at = begun = at + len(name)
            else:
                at += 1
        return every(*found, *[text(value[begun:])] * (begun < len(value)))

    def allowed(self, machine: Machine, state: int) -> torch.Tensor:
        """(V,) which tokens go on from `state`."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        tree = self.tree
        if machine.free(state):
            mask[self._plain] = True
            tree = self._marked
        found: list[int] = []
        todo = [(tree, state)]
        while todo:
            node, at = todo.pop()
            found += node.get(None, ())
            for byte, below in node.items():
                if byte is not None and (after := machine.step(at, byte)) is not None:
                    todo.append((below, after))
        found += [s - CONTROL for p in machine._sets[state] for s, _, _ in machine._moves[p] if s >= CONTROL]
        mask[torch.tensor(found, dtype=torch.long)] = True
        return mask

    def longest(self, content: bytes) -> int | None:
        """The token with the most bytes that `content` begins with."""
        node, found = self.tree, None
        for byte in content:
            node = node.get(byte)
            if node is None:
                break
            found = node[None][0] if node.get(None) else found
        return found

    @functools.cached_property
    def llguidance(self):
        llguidance = need("llguidance")
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(self)), n_vocab=self.size)


class _Tokens:
    """What llguidance asks of a tokenizer; a text has no one tokenization here, so that none is forced on a model."""

    def __init__(self, vocabulary):
        self.eos_token_id, self.bos_token_id = vocabulary.tokenizer.eos_token_id or 0, None
        # control tokens need texts that differ
        self.tokens = [f"[{i}]".encode() if c is None else c for i, c in enumerate(vocabulary.bytes)]
        self.special_token_ids = vocabulary.control.nonzero().flatten().tolist()
        self._longest = vocabulary.longest

    def __call__(self, content: bytes) -> list[int]:
        found = []
        while content:
            token = self._longest(content)
            if token is None:
                break
            found.append(token)
            content = content[len(self.tokens[token]) :]
        return found


def _add(tree, content, token) -> None:
    for byte in content:
        tree = tree.setdefault(byte, {})
    tree.setdefault(None, []).append(token)


def _plain(content) -> bool:
    try:
        return all(ch >= " " for ch in content.decode()) and not MARKS & set(content) and 0x7F not in content
    except UnicodeDecodeError:
        return False


# -- the engines


class Own:
    """Masks by `Machine`; those of a state are kept."""

    def __init__(self, machine: Machine, vocabulary: Vocabulary, masks: dict, state: int | None = None):
        self.machine, self.vocabulary, self._masks = machine, vocabulary, masks
        self.state = machine.start if state is None else state

    def allowed(self) -> torch.Tensor:
        if self.state not in self._masks:
            if len(self._masks) > 1024:
                self._masks.clear()
            self._masks[self.state] = self.vocabulary.allowed(self.machine, self.state)
        return self._masks[self.state]

    def take(self, token: int) -> None:
        after = self.machine.read(self.state, self.vocabulary.symbols(token))
        if after is None:
            raise MRKLError(f"token {token} is not in the grammar")
        self.state = after

    @property
    def done(self) -> bool:
        return self.machine.complete(self.state)


BITS = torch.arange(8, dtype=torch.uint8)


def _unpacked(words, size) -> torch.Tensor:
    return ((words.view(torch.uint8).unsqueeze(-1) >> BITS) & 1).flatten()[:size].bool()


class LLGuidance:
    """Masks by llguidance."""

    def __init__(self, grammar: str, vocabulary: Vocabulary, tokens: torch.Tensor):
        llguidance = need("llguidance")
        self.matcher = llguidance.LLMatcher(vocabulary.llguidance, grammar)
        if self.matcher.is_error():
            raise MRKLError(f"llguidance: {self.matcher.get_error()[:200]}")
        self.vocabulary, self._tokens = vocabulary, tokens

    def allowed(self) -> torch.Tensor:
        words = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
        return _unpacked(words, self.vocabulary.size) & self._tokens

    def take(self, token: int) -> None:
        if not self.matcher.consume_token(token):
            raise MRKLError(f"token {token} is not in the grammar")

    @property
    def done(self) -> bool:
        return self.matcher.is_accepting()


class Masks:
    """Matchers of one grammar for one vocabulary, by the engine asked for.

    Args:
        engine: "llguidance", "own", or "auto": llguidance where it is installed, else our own.
    Raises MRKLError for another name, and ImportError for an engine that is not installed.
    """

    def __init__(self, grammar: tuple, vocabulary: Vocabulary, engine: str = "auto"):
        if engine not in (*ENGINES, "auto"):
            raise MRKLError(f"engine {engine!r} is none of auto, {', '.join(ENGINES)}")
        if engine == "auto":
            engine = "llguidance" if importlib.util.find_spec("llguidance") else "own"
        self.grammar, self.vocabulary, self.engine = grammar, vocabulary, engine
        self._masks: dict = {}
        # control tokens go on only where the grammar names them, whatever an engine takes their text for
        self._tokens = ~vocabulary.control
        self._tokens[sorted(_tokens_of(grammar))] = True
        if engine == "llguidance":
            self._compiled = lark(grammar)

    @functools.cached_property
    def machine(self) -> Machine:
        return Machine(self.grammar)

    def own(self, symbols: Iterable[int] = ()) -> Own | None:
        """Our own matcher behind what was written already; None where that is not in the grammar."""
        state = self.machine.read(self.machine.start, symbols)
        return None if state is None else Own(self.machine, self.vocabulary, self._masks, state)

    def start(self):
        """A matcher at the beginning: `allowed()`, `take(token)`, `done`."""
        if self.engine == "llguidance":
            return LLGuidance(self._compiled, self.vocabulary, self._tokens)
        return self.own()


# -- the same grammar for llguidance


def _tokens_of(node) -> set:
    if node[0] == "token":
        return {node[1]}
    inner = node[1] if node[0] in ("all", "either") else (node[1],) if node[0] == "many" else ()
    return set().union(*map(_tokens_of, inner))


def _counted(body: str, least: int, most: int | None) -> str:
    if most is None:
        return f"{body}*" if not least else f"{body}+" if least == 1 else f"{body}{{{least},}}"
    return f"{body}?" if (least, most) == (0, 1) else f"{body}{{{least},{most}}}"


def _escaped(character: str) -> str:
    return character if character.isalnum() or ord(character) > 0x7F else f"\\x{ord(character):02x}"


def regex(node) -> str:
    """A grammar without control tokens, in the notation of Rust's and other regular expressions."""
    kind = node[0]
    if kind == "text":
        return "".join(map(_escaped, node[1].decode()))
    if kind == "set":
        return "[" + "".join(f"{_escaped(chr(a))}-{_escaped(chr(b))}" for a, b in node[1]) + "]"
    if kind == "any":
        return "[^\\x00-\\x1f" + "".join(map(_escaped, node[1])) + "]"
    if kind == "all":
        return "".join(map(regex, node[1]))
    if kind == "either":
        return "(" + "|".join(map(regex, node[1])) + ")"
    return _counted(f"({regex(node[1])})", *node[2:])


def _nullable(node) -> bool:
    if node[0] == "all":
        return all(map(_nullable, node[1]))
    if node[0] == "either":
        return any(map(_nullable, node[1]))
    return node[0] == "many" and (not node[2] or _nullable(node[1])) or node[0] == "text" and not node[1]


def lark(grammar) -> str:
    """One lexeme as far as there is no control token."""
    # without forcing: else it allows only its own tokenization of a text that must come
    return f'%llguidance {{"no_forcing": true}}\nstart: {_lark(grammar)}'


def _lark(node) -> str:
    if not _tokens_of(node):
        body = regex(node)
        return f'(/{body}/ | "")' if _nullable(node) else f"/{body}/"
    if node[0] == "token":
        return f"<[{node[1]}]>"
    if node[0] == "either":
        return "(" + " | ".join(map(_lark, node[1])) + ")"
    if node[0] == "many":
        return _counted(f"({_lark(node[1])})", *node[2:])
    parts, plain = [], []
    for each in _flat(node):
        if _tokens_of(each):
            parts += [_lark(every(*plain))] * bool(plain) + [_lark(each)]
            plain = []
        else:
            plain.append(each)
    return " ".join(parts + [_lark(every(*plain))] * bool(plain))


def _flat(node):
    for each in node[1]:
        if each[0] == "all":
            yield from _flat(each)
        else:
            yield each
