"""Calls of experts inside `generate` (MRKL, arXiv 2205.00445): the function of a `custom_generate` folder.

The model writes `<call>name({"argument": value})</call>`; from the opening on a grammar made from the experts' JSON
schemas allows only what continues a valid call: an unparsable one cannot occur. When it closes, decoding pauses, the
expert runs under a deadline, and its answer follows as `<result>...</result>` in the same sequence and cache. Only
what the model itself wrote opens a call: prompts and results are data. Rows that make no call are the tokens of stock
`generate`, in every way of choosing tokens, since nothing touches their logits. Needs transformers >= 5.23.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from transformers import AutoTokenizer, LogitsProcessor

from .caches_puzzle import NAMES, OUTPUT_NAME, CacheError, one_cache
from .calls_mrkl import MRKLError, Result, failed, short
from .experts_mrkl import Experts
from .soft_prompts_mrkl import base_model_settings


# custom_generate/generate.py of a published folder
CUSTOM_GENERATE = (
    '"""Calls of exact experts (MRKL, arXiv 2205.00445) for `model.generate(..., custom_generate=...)`."""\n\n'
    "from .generation_mrkl import generate\n\n\n"
    '__all__ = ["generate"]\n'
)
MAX_RESULT_CHARACTERS = 2000
MAX_DIGITS = 40
MAX_ITEMS = 16
NOT_WITH_CALLS = ("assistant_model", "prompt_lookup_num_tokens", "inputs_embeds", "negative_prompt_ids")
SIMPLE_ESCAPES = '"\\/bfnrt'


# -- what a call may look like


class CallText:
    """The texts `name({...})` + `close` of valid calls, read character by character.

    A state is a set of stacks; a stack holds what is still to come, first thing first:
        ("text", rest), ("string",), ("escape",), ("number", phase, integer, digits), ("value", schema),
        ("properties", schema, index, first), ("items", schema, count), ("either", alternatives), ("space",).
    Arguments stand in the schema's order, optional ones may be left out; one space may follow `,` and `:`.

    Args:
        schemas: name -> JSON schema of the arguments.
        close: What ends a call.
    """

    def __init__(self, schemas: Mapping[str, Mapping], close: str):
        if not schemas:
            raise MRKLError("a call needs at least one expert")
        self.schemas: list[Mapping] = []
        self._expanded: dict = {}
        self._steps: dict = {}
        calls = [
            (("text", f"{n}("), self._value({**s, "type": "object"}), ("text", f"){close}"))
            for n, s in schemas.items()
        ]
        self.start = self._settled({(("either", tuple(calls)),)})

    def _value(self, schema) -> tuple:
        self.schemas.append(schema)
        return ("value", len(self.schemas) - 1)

    def _settled(self, stacks: Iterable[tuple]) -> frozenset:
        """The stacks with everything on top replaced by what it can begin with."""
        done, seen, open_ = set(), set(), list(stacks)
        while open_:
            stack = open_.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if not stack:
                done.add(stack)
                continue
            top, rest = stack[0], stack[1:]
            kind = top[0]
            if kind == "text" and not top[1]:
                open_.append(rest)
            elif kind == "either":
                open_ += [(*choice, *rest) for choice in top[1]]
            elif kind in ("value", "properties", "items"):
                open_ += [(*choice, *rest) for choice in self._expansions(top)]
            elif kind == "space":
                done.add(((" ",), *rest))
                open_.append(rest)
            else:
                done.add(stack)
                if kind == "number" and top[1] in ("zero", "whole", "decimals"):
                    open_.append(rest)
        return frozenset(done)

    def _expansions(self, top) -> tuple:
        if top not in self._expanded:
            self._expanded[top] = self._expansion(top)
        return self._expanded[top]

    def _expansion(self, top) -> tuple:
        schema = self.schemas[top[1]]
        properties = schema.get("properties", {})
        if top[0] == "properties":
            return tuple(self._properties(schema, list(properties), *top[1:]))
        if top[0] == "items":
            _, index, count = top
            if count >= MAX_ITEMS:
                return ((("text", "]"),),)
            item = self._value(schema.get("items", {}))
            comma = (("text", ","), ("space",)) if count else ()
            return (("text", "]"),), (*comma, item, ("items", index, count + 1))
        if "enum" in schema:
            return tuple((("text", json.dumps(each, ensure_ascii=False)),) for each in schema["enum"])
        if "anyOf" in schema or "oneOf" in schema:
            return tuple((self._value(each),) for each in schema.get("anyOf") or schema["oneOf"])
        kinds = schema.get("type", "any")
        kinds = list(kinds) if isinstance(kinds, list | tuple) else [kinds]
        if "any" in kinds:
            kinds = ["string", "number", "boolean", "null"]
        if schema.get("nullable"):
            kinds.append("null")
        return tuple(choice for kind in kinds for choice in self._of_kind(kind, top[1]))

    def _of_kind(self, kind, index):
        if kind == "string":
            yield ("text", '"'), ("string",)
        elif kind in ("number", "integer"):
            yield (("number", "start", kind == "integer", 0),)
        elif kind == "boolean":
            yield (("text", "true"),)
            yield (("text", "false"),)
        elif kind == "null":
            yield (("text", "null"),)
        elif kind == "array":
            yield ("text", "["), ("items", index, 0)
        elif kind == "object":
            yield ("text", "{"), ("properties", index, 0, True)

    def _properties(self, schema, names, index, at, first):
        """What may follow in an object: the next argument, a later one where it is optional, or the end."""
        required = set(schema.get("required", ()))
        for place in range(at, len(names)):
            name = names[place]
            comma = () if first else (("text", ","), ("space",))
            key = ("text", f"{json.dumps(name)}:")
            value = self._value(schema["properties"][name])
            yield (*comma, key, ("space",), value, ("properties", index, place + 1, False))
            if name in required:
                return
        yield (("text", "}"),)

    def step(self, state: frozenset, character: str) -> frozenset:
        """The state after one more character; empty when no valid call goes on so."""
        key = (state, character)
        if key not in self._steps:
            if len(self._steps) > 1 << 16:
                self._steps.clear()
            after = (self._after(stack, character) for stack in state)
            self._steps[key] = self._settled(stack for stack in after if stack is not None)
        return self._steps[key]

    def _after(self, stack, character) -> tuple | None:
        if not stack:
            return None
        top, rest = stack[0], stack[1:]
        kind = top[0]
        if kind == "text":
            return (("text", top[1][1:]), *rest) if top[1][0] == character else None
        if kind == " ":
            return rest if character == " " else None
        if kind == "string":
            if character == '"':
                return rest
            if character == "\\":
                return (("escape",), *rest)
            return stack if character >= " " else None
        if kind == "escape":
            return (("string",), *rest) if character in SIMPLE_ESCAPES else None
        _, phase, integer, digits = top
        if digits >= MAX_DIGITS:
            return None
        digit = character in "0123456789"
        if phase in ("start", "minus"):
            if character == "-" and phase == "start":
                return (("number", "minus", integer, 0), *rest)
            return (("number", "zero" if character == "0" else "whole", integer, 1), *rest) if digit else None
        if digit and phase in ("whole", "point", "decimals"):
            return (("number", "whole" if phase == "whole" else "decimals", integer, digits + 1), *rest)
        if character == "." and phase in ("zero", "whole") and not integer:
            return (("number", "point", integer, digits), *rest)
        return None

    def read(self, state: frozenset, text: str) -> frozenset:
        for character in text:
            state = self.step(state, character)
        return state

    def complete(self, state: frozenset) -> bool:
        """Whether a call ends here; then nothing may follow."""
        return () in state

    def ending(self, state: frozenset) -> str:
        """The shortest text that ends the call."""
        front, seen = {state: ""}, set()
        while True:
            following = {}
            for each, text in front.items():
                if self.complete(each):
                    return text
                if each in seen:
                    continue
                seen.add(each)
                for character in self._leading(each):
                    following.setdefault(self.step(each, character), text + character)
            if not following:
                raise MRKLError("no call can end here: a schema has values that no text writes")
            front = following

    @staticmethod
    def _leading(state) -> list[str]:
        """Characters that lead on towards an end; a string ends at once, a number has one digit."""
        found = set()
        for stack in state:
            kind = stack[0][0]
            if kind == "text":
                found.add(stack[0][1][0])
            elif kind == "string":
                found.add('"')
            elif kind == "escape":
                found.add("n")
            elif kind == "number" and stack[0][1] in ("start", "minus", "point"):
                found.add("0")
        return sorted(found)


class Vocabulary:
    """Texts of a tokenizer's tokens as a tree, to find those that a grammar allows.

    Tokens that are no whole characters, and special tokens but `kept`, are left out.
    """

    def __init__(self, tokenizer, size: int, kept: Iterable[str] = ()):
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        ids = range(min(size, len(tokenizer)))
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        prefix = tokenizer.decode(anchor, **options)
        texts = tokenizer.batch_decode([[*anchor, i] for i in ids], **options)
        added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self.size, self.tree, self.texts = size, {}, {}
        for i, text in zip(ids, texts, strict=True):
            text = added[i] if i in added and added[i] in kept else text.removeprefix(prefix)
            if not text or "\ufffd" in text or (i in tokenizer.all_special_ids and text not in kept):
                continue
            self.texts[i] = text
            node = self.tree
            for character in text:
                node = node.setdefault(character, {})
            node.setdefault(None, []).append(i)
        self._allowed: dict = {}

    def allowed(self, grammar: CallText, state: frozenset) -> torch.Tensor:
        """Ids of the tokens that continue a valid call from `state`; none that goes on after its end."""
        key = (grammar, state)
        if key not in self._allowed:
            found: list[int] = []
            open_ = [(self.tree, state)]
            while open_:
                node, here = open_.pop()
                found += node.get(None, ())
                for character, below in node.items():
                    if character is not None and (after := grammar.step(here, character)):
                        open_.append((below, after))
            if len(self._allowed) > 4096:
                self._allowed.clear()
            self._allowed[key] = torch.tensor(sorted(found), dtype=torch.long)
        return self._allowed[key]

    def longest(self, text: str) -> int | None:
        """The token with the longest text that `text` begins with."""
        node, found = self.tree, None
        for character in text:
            node = node.get(character)
            if node is None:
                break
            found = node[None][0] if node.get(None) else found
        return found


# -- the decode loop


@dataclass
class _Row:
    """Where a row of the batch is: in text, in a call, or in a result that is being written."""

    written: list = field(default_factory=list)
    state: frozenset | None = None
    call: str = ""
    tokens: int = 0
    pending: list = field(default_factory=list)
    done: bool = False


class CallProcessor(LogitsProcessor):
    """Constrains calls, runs them and writes their results, row by row; leaves all other logits as they are.

    Args: as of `generate`. `trace`: gets {"row", "expert", "arguments", "result", "status"} per call.
    """

    def __init__(
        self, tokenizer, experts: Experts, vocabulary_size: int, trace: list, call=("<call>", "</call>"),
        result=("<result>", "</result>"), max_calls=8, seconds_per_call=2.0, max_call_tokens=128,
    ):  # fmt: skip
        self.tokenizer, self.experts, self.trace = tokenizer, experts, trace
        self.open, self.close = call
        self.result_open, self.result_close = result
        self.max_calls, self.seconds, self.max_call_tokens = max_calls, seconds_per_call, max_call_tokens
        self.grammar = _grammar(experts, self.close)
        self.vocabulary = _vocabulary(tokenizer, vocabulary_size, (self.open, self.close))
        self.ends = set(tokenizer.all_special_ids) - set(tokenizer.convert_tokens_to_ids([self.open, self.close]))
        self.rows: list[_Row] = []
        self.width = 0
        self.memo: dict = {}

    def __call__(self, input_ids, scores):
        if not self.rows:
            self.rows, self.width = [_Row() for _ in input_ids], input_ids.shape[1]
        elif input_ids.shape[1] > self.width:
            self.width = input_ids.shape[1]
            for number, (row, token) in enumerate(zip(self.rows, input_ids[:, -1].tolist(), strict=True)):
                self._take(number, row, token)
        changed = None
        for number, row in enumerate(self.rows):
            allowed = self._allowed(row)
            if allowed is None:
                continue
            if changed is None:
                changed = scores.clone()
            kept = scores[number, allowed]
            changed[number] = -torch.inf
            # earlier processors may have forbidden every token that a call needs
            changed[number, allowed] = kept if torch.isfinite(kept).any() else torch.zeros_like(kept)
        return scores if changed is None else changed

    def _allowed(self, row):
        if row.pending:
            return torch.tensor(row.pending[:1])
        if row.state is None:
            return None
        if row.tokens >= self.max_call_tokens:
            rest = self.grammar.ending(row.state)
            token = self.vocabulary.longest(rest)
            if token is not None:
                return torch.tensor([token])
        return self.vocabulary.allowed(self.grammar, row.state)

    def _take(self, number, row, token) -> None:
        """One more token of a row."""
        if row.pending:
            row.pending.pop(0)
            return
        if row.state is not None:
            text = self.vocabulary.texts.get(token)
            if text is None:
                # a finished row is padded
                row.state, row.call = None, ""
                return
            row.call += text
            row.tokens += 1
            row.state = self.grammar.read(row.state, text)
            if self.grammar.complete(row.state):
                call, row.state, row.call, row.tokens = row.call.removesuffix(self.close), None, "", 0
                row.pending, row.written = self._answer(number, call), []
            return
        row.written = [*row.written[-24:], token]
        if token in self.ends:
            row.written = []
            return
        before, text = self._text(row.written[:-1]), self._text(row.written)
        at = text.rfind(self.open)
        # the newest token must complete the opening, and what it holds beyond it must begin a call
        if at < 0 or at + len(self.open) <= len(before):
            return
        rest = text[at + len(self.open) :]
        state = self.grammar.read(self.grammar.start, rest)
        if state and not self.grammar.complete(state):
            row.state, row.call, row.tokens, row.written = state, rest, 0, []

    def _text(self, ids) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _answer(self, number, call) -> list[int]:
        """Ids of a call's result, which is data: control tokens in it are encoded as text."""
        name, _, text = call.partition("(")
        arguments = json.loads(text[:-1], parse_float=str)
        key = (name, json.dumps(arguments, sort_keys=True))
        made = sum(entry["row"] == number for entry in self.trace)
        if key in self.memo:
            result = self.memo[key]
        elif made >= self.max_calls:
            result = failed("refused", f"the budget of {self.max_calls} calls is used up")
        else:
            result = self.memo[key] = self.experts.call(name, arguments, self.seconds)
        said = _said(result)
        entry = {"row": number, "expert": name, "arguments": arguments, "result": said, "status": result.status}
        self.trace.append(entry)
        parts = (self.result_open, said, self.result_close)
        return [i for part in parts for i in self._ids(part, part is said)]

    def _ids(self, text, data) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=data)["input_ids"]


def _said(result: Result) -> str:
    text = result.text if result.status == "ok" else f"{result.status}: {result.message}"
    return text[:MAX_RESULT_CHARACTERS]


_vocabularies: dict = {}
_grammars: dict = {}


def _grammar(experts, close) -> CallText:
    """The last grammar is kept, and with it what the vocabulary knows of its states."""
    schemas = {name: expert.parameters for name, expert in experts.items()}
    key = json.dumps([schemas, close])
    if key not in _grammars:
        _grammars.clear()
        _grammars[key] = CallText(schemas, close)
    return _grammars[key]


def _vocabulary(tokenizer, size, kept) -> Vocabulary:
    """The last tokenizer's tree is kept: building one takes a second per 100,000 tokens."""
    key = (id(tokenizer), len(tokenizer), size, kept)
    if key not in _vocabularies:
        _vocabularies.clear()
        # holding the tokenizer keeps its id from being given to another
        _vocabularies[key] = (tokenizer, Vocabulary(tokenizer, size, kept))
    return _vocabularies[key][1]


def generate(
    inputs: torch.Tensor | None = None,
    generation_config=None,
    *,
    model,
    tokenizer=None,
    experts=None,
    trace: list | None = None,
    max_calls: int = 8,
    seconds_per_call: float = 2.0,
    max_call_tokens: int = 128,
    call_tokens: tuple[str, str] = ("<call>", "</call>"),
    result_tokens: tuple[str, str] = ("<result>", "</result>"),
    **kwargs,
):
    """`model.generate` with calls of experts.

    Takes all of stock `generate`'s arguments but beams and assisted decoding: greedy, sampling,
    `num_return_sequences`, batches, streamers, stopping criteria, logits processors.

    Args:
        inputs: (Q, L) ids, also as `input_ids`.
        tokenizer: By default the one of the model's folder.
        experts: What `Experts` takes: Experts, functions with type hints and a Google docstring, (schema, callable),
            smolagents tools; None: stock `generate`.
        trace: A list that gets {"row", "expert", "arguments", "result", "status"} per call, in order.
        max_calls: Of one row; further calls are answered "refused". The same call again is answered from the first.
        seconds_per_call: Deadline of one call.
        max_call_tokens: A call longer than this is closed in the shortest valid way.
        call_tokens, result_tokens: What opens and closes; plain text or tokens of the tokenizer.
    Returns: what stock `generate` returns; calls and results are part of the sequences and of `max_new_tokens`; a call
        that `max_new_tokens` cuts off is not run.
    Raises MRKLError, before any compute, for beams, assisted decoding, experts that are not valid and a cache under an
        unknown name; and for soft prompts that the installed PEFT does not carry.
    """
    stock = {name: value for name, value in kwargs.items() if value is not None}
    ids = stock.pop("input_ids", inputs)
    try:
        cache = one_cache({name: stock.pop(name, None) for name in NAMES}, stock)
    except CacheError as error:
        raise MRKLError(str(error)) from None
    if cache is not None:
        stock[OUTPUT_NAME] = cache
    stock |= base_model_settings(model)
    plain = functools.partial(type(model).generate, model)
    if experts is None:
        if tokenizer is not None:
            stock["tokenizer"] = tokenizer
        return plain(ids, generation_config=generation_config, **stock)
    if wrong := [name for name in NOT_WITH_CALLS if name in stock]:
        raise MRKLError(f"{wrong[0]} cannot be given together with experts")
    sources = (stock, generation_config, model.generation_config)
    values = (s.get("num_beams") if isinstance(s, dict) else getattr(s, "num_beams", None) for s in sources)
    if (next((value for value in values if value is not None), 1) or 1) > 1:
        raise MRKLError("num_beams: a call cannot be taken back; use num_beams=1, greedy or sampling")
    if max_calls < 0 or seconds_per_call <= 0 or max_call_tokens < 1:
        given = f"max_calls {max_calls}, seconds_per_call {seconds_per_call}, max_call_tokens {max_call_tokens}"
        raise MRKLError(f"{given}: expected at least 0, more than 0 and at least 1")
    if len(call_tokens) != 2 or len(result_tokens) != 2 or not all((*call_tokens, *result_tokens)):
        raise MRKLError(
            f"call_tokens {short(call_tokens)} and result_tokens {short(result_tokens)} are pairs of texts"
        )
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(model.config._name_or_path)
    experts = experts if isinstance(experts, Experts) else Experts(experts)
    processor = CallProcessor(
        tokenizer, experts, model.get_input_embeddings().num_embeddings, [] if trace is None else trace,
        tuple(call_tokens), tuple(result_tokens), max_calls, seconds_per_call, max_call_tokens,
    )  # fmt: skip
    stock["logits_processor"] = [*stock.pop("logits_processor", ()), processor]
    if "stop_strings" in stock or getattr(generation_config, "stop_strings", None):
        stock["tokenizer"] = tokenizer
    return plain(ids, generation_config=generation_config, **stock)
