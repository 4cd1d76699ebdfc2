"""Calls of experts inside `generate` (MRKL, arXiv 2205.00445): the function of a `custom_generate` folder.

The model writes `<call>name({"argument": value})</call>`; from the opening on a grammar made from the experts' JSON
schemas allows only what continues a valid call: an unparsable one cannot occur. When it closes, decoding pauses, the
expert runs under a deadline, and its answer follows as `<result>...</result>` in the same sequence and cache. Only
what the model itself wrote opens a call: prompts and results are data. Rows that make no call are the tokens of stock
`generate`, in every way of choosing tokens, since nothing touches their logits. Needs transformers >= 5.23.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from transformers import AutoTokenizer, LogitsProcessor

from .caches_puzzle import NAMES, OUTPUT_NAME, CacheError, one_cache
from .calls_mrkl import MRKLError, Result, short
from .experts_mrkl import Budget, Experts
from .masks_mrkl import CONTROL, Masks, Vocabulary, every, text
from .schemas_mrkl import JSON
from .soft_prompts_mrkl import base_model_settings


# custom_generate/generate.py of a published folder
CUSTOM_GENERATE = (
    '"""Calls of exact experts (MRKL, arXiv 2205.00445) for `model.generate(..., custom_generate=...)`."""\n\n'
    "from .generation_mrkl import generate\n\n\n"
    '__all__ = ["generate"]\n'
)
MAX_RESULT_CHARACTERS = 2000
NOT_WITH_CALLS = ("assistant_model", "prompt_lookup_num_tokens", "inputs_embeds", "negative_prompt_ids")


# -- the decode loop


@dataclass
class _Row:
    """Where a row of the batch is: in text, in a call, or in a result that is being written."""

    written: list = field(default_factory=list)
    spoken: bool = False
    free: int = 0
    matcher: object = None
    mask: torch.Tensor | None = None
    symbols: list = field(default_factory=list)
    tokens: int = 0
    pending: list = field(default_factory=list)


class Constrained(LogitsProcessor):
    """From an opening on, rows write what is in a grammar; all other logits stay as they are.

    Args:
        masks: The grammar behind the opening, for this tokenizer.
        opening: Text that opens a call; the token that completes it must be the model's own.
        max_call_tokens: A call longer than this is closed in the shortest valid way.
        required: The grammar with its opening, where rows must begin with a call.
        at_start: Whether only the beginning of a text opens.
    """

    def __init__(self, masks: Masks, opening: str, max_call_tokens=128, required: Masks | None = None, at_start=False):
        self.masks, self.opening, self.required, self.at_start = masks, opening, required, at_start
        self.vocabulary, self.max_call_tokens = masks.vocabulary, max_call_tokens
        self.tokenizer = masks.vocabulary.tokenizer
        self.ends = set(self.tokenizer.all_special_ids) - {self.tokenizer.convert_tokens_to_ids(opening)}
        self.rows: list[_Row] = []
        self.width = 0

    def completed(self, number: int, call: str) -> list[int]:
        """Tokens that must follow a call of row `number`."""
        return []

    def __call__(self, input_ids, scores):
        if not self.rows:
            self.rows, self.width = [_Row() for _ in input_ids], input_ids.shape[1]
            for row in self.rows:
                row.matcher = self.required and self.required.start()
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
        if row.matcher is None:
            return None
        row.mask = row.matcher.allowed()
        if row.tokens >= self.max_call_tokens:
            token = self._closing(row)
            if token is not None and row.mask[token]:
                return torch.tensor([token])
        return row.mask

    def _closing(self, row) -> int | None:
        """The token that brings a call nearest to its end."""
        masks = self.required if self.required is not None and not row.spoken else self.masks
        rest = masks.machine.ending(masks.own(row.symbols).state)
        if rest[0] >= CONTROL:
            return rest[0] - CONTROL
        end = next((at for at, symbol in enumerate(rest) if symbol >= CONTROL), len(rest))
        return self.vocabulary.longest(bytes(rest[:end]))

    def _take(self, number, row, token) -> None:
        """One more token of a row."""
        if row.pending:
            row.pending.pop(0)
            return
        if row.matcher is not None:
            if not row.mask[token]:
                # a finished row is padded
                row.matcher, row.symbols = None, []
                return
            row.symbols += self.vocabulary.symbols(token)
            row.tokens += 1
            row.matcher.take(token)
            if row.matcher.done:
                call = self._said(row.symbols)
                row.matcher, row.symbols, row.tokens, row.written, row.spoken = None, [], 0, [], True
                row.pending = self.completed(number, call)
            return
        row.free += 1
        row.written = [*row.written[-24:], token]
        if token in self.ends:
            row.written = []
            return
        before, written = self._text(row.written[:-1]), self._text(row.written)
        at = written.rfind(self.opening)
        # the newest token must complete the opening, and what it holds beyond it must begin a call
        if at < 0 or at + len(self.opening) <= len(before) or self.at_start and (row.spoken or written[:at].strip()):
            row.spoken = row.spoken or bool(written.strip())
            return
        rest = written[at + len(self.opening) :].encode()
        matcher = self.masks.own(rest) if rest else self.masks.start()
        row.spoken = True
        if matcher is not None and not matcher.done:
            row.matcher, row.symbols, row.tokens, row.written = matcher, list(rest), 0, []

    def _said(self, symbols) -> str:
        names = self.tokenizer.convert_ids_to_tokens
        return b"".join(bytes([s]) if s < CONTROL else names(s - CONTROL).encode() for s in symbols).decode()

    def _text(self, ids) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


class CallProcessor(Constrained):
    """Constrains calls, runs them and writes their results, row by row.

    Args: as of `generate`. `trace`: gets {"row", "expert", "arguments", "result", "status"} per call.
    """

    def __init__(
        self, tokenizer, experts: Experts, vocabulary_size: int, trace: list, call=("<call>", "</call>"),
        result=("<result>", "</result>"), max_calls=8, seconds_per_call=2.0, max_call_tokens=128, engine="auto",
    ):  # fmt: skip
        masks = _masks(experts, call[1], vocabulary(tokenizer, vocabulary_size), engine)
        super().__init__(masks, call[0], max_call_tokens)
        self.trace, self.close = trace, call[1]
        self.result_open, self.result_close = result
        self.budget = Budget(experts, max_calls, seconds_per_call)

    def completed(self, number, call) -> list[int]:
        """Ids of a call's result, which is data: control tokens in it are encoded as text."""
        name, _, written = call.removesuffix(self.close).partition("(")
        arguments = json.loads(written[:-1], parse_float=str)
        result = self.budget.call(name, arguments, sum(entry["row"] == number for entry in self.trace))
        said = said_of(result)
        entry = {"row": number, "expert": name, "arguments": arguments, "result": said, "status": result.status}
        self.trace.append(entry)
        parts = (self.result_open, said, self.result_close)
        return [i for part in parts for i in self._ids(part, part is said)]

    def _ids(self, content, data) -> list[int]:
        return self.tokenizer(content, add_special_tokens=False, split_special_tokens=data)["input_ids"]


def said_of(result: Result) -> str:
    text = result.text if result.status == "ok" else f"{result.status}: {result.message}"
    return text[:MAX_RESULT_CHARACTERS]


_vocabularies: dict = {}
_kept: dict = {}


def call_grammar(schemas: Mapping[str, Mapping], close: tuple) -> tuple:
    """The texts `name({...})` of valid calls, and what closes them."""
    if not schemas:
        raise MRKLError("a call needs at least one expert")
    calls = (every(text(f"{name}("), JSON.object(schema), text(")"), close) for name, schema in schemas.items())
    return ("either", tuple(calls))


def _masks(experts, close, known: Vocabulary, engine) -> Masks:
    """The last grammar is kept, and with it what is known of its states."""
    schemas = {name: expert.parameters for name, expert in experts.items()}
    key = (json.dumps([schemas, close, engine], default=str), id(known))
    if key not in _kept:
        _kept.clear()
        _kept[key] = Masks(call_grammar(schemas, known.nodes(close)), known, engine)
    return _kept[key]


def vocabulary(tokenizer, size) -> Vocabulary:
    """The last tokenizer's tree is kept: building one takes a second per 100,000 tokens."""
    key = (id(tokenizer), len(tokenizer), size)
    if key not in _vocabularies:
        _vocabularies.clear()
        # holding the tokenizer keeps its id from being given to another
        _vocabularies[key] = Vocabulary(tokenizer, size)
    return _vocabularies[key]


def _check(model, stock, generation_config, max_calls, seconds_per_call, max_call_tokens, call_tokens, result_tokens):
    """MRKLError for arguments that calls cannot be made with."""
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
    mask_engine: str = "auto",
    call_tokens: tuple[str, str] = ("<call>", "</call>"),
    result_tokens: tuple[str, str] = ("<result>", "</result>"),
    **kwargs,
):
    """`model.generate` with calls of experts.

    Takes all of stock `generate`'s arguments but beams and assisted decoding.

    Args:
        inputs: (Q, L) ids, also as `input_ids`.
        tokenizer: By default the one of the model's folder.
        experts: What `Experts` takes: Experts, functions with type hints and a Google docstring, (schema, callable),
            smolagents tools; None: stock `generate`.
        trace: A list that gets {"row", "expert", "arguments", "result", "status"} per call, in order.
        max_calls: Of one row; further calls are answered "refused". The same call again is answered from the first.
        seconds_per_call: Deadline of one call.
        max_call_tokens: A call longer than this is closed in the shortest valid way.
        mask_engine: "llguidance", "own", or "auto": the first where it is installed, else our own.
        call_tokens, result_tokens: What opens and closes; plain text or tokens of the tokenizer.
    Returns: what stock `generate` returns; calls and results are part of the sequences and of `max_new_tokens`; a call
        that `max_new_tokens` cuts off is not run.
    Raises MRKLError for what cannot be: beams, experts that are not valid, a cache under an unknown name.
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
        own = {} if tokenizer is None else {"tokenizer": tokenizer}
        return plain(ids, generation_config=generation_config, **stock, **own)
    _check(model, stock, generation_config, max_calls, seconds_per_call, max_call_tokens, call_tokens, result_tokens)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(model.config._name_or_path)
    experts = experts if isinstance(experts, Experts) else Experts(experts)
    processor = CallProcessor(
        tokenizer, experts, model.get_input_embeddings().num_embeddings, [] if trace is None else trace,
        tuple(call_tokens), tuple(result_tokens), max_calls, seconds_per_call, max_call_tokens, mask_engine,
    )  # fmt: skip
    stock["logits_processor"] = [*stock.pop("logits_processor", ()), processor]
    if "stop_strings" in stock or getattr(generation_config, "stop_strings", None):
        stock["tokenizer"] = tokenizer
    return plain(ids, generation_config=generation_config, **stock)
