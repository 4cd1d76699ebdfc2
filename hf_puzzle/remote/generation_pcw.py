"""Parallel Context Windows (PCW, Ratner et al. 2023, arXiv 2212.10947) for any decoder with a key-value cache.

B windows are encoded side by side from the same first positions, none seeing another; the task attends to all of them
and continues at the position after the longest (section 2 of the paper). The modelling code is stock: windows are one
padded batch, their caches are concatenated, a shared prefix (BOS or a prompt) is kept once. Where stock code counts
cache entries instead of positions (sliding windows, ALiBi, packed rows), masks and biases are made by position for the
duration of the call, in the calling thread only. Needs transformers >= 5.23.

Shapes: B windows, M cached keys (prefix + all windows), Q tasks, L task tokens, H KV heads, E head_dim, V vocabulary.
"""

import contextlib
import copy
import functools
import inspect
import json
import math
import operator
import sys
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
import transformers
from transformers import AutoTokenizer, DynamicCache, GenerationMixin, PreTrainedModel

from .caches_puzzle import (
    HALF_TOLERANCE,
    NAMES,
    OUTPUT_NAME,
    SWITCH,
    TOLERANCES,
    find_cache,
    is_cache,
    remedy,
    self_checks,
)
from .weights_pcw import model_state


try:
    from transformers.cache_utils import DummyLayer, DynamicLayer, get_layer_types_and_kwargs
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
except ImportError as error:
    raise ImportError(f"parallel windows need transformers >= 5.23 ({error}). {remedy()}") from None


MODES = ("pcw", "ensemble", "nbce", "single")
MERGEABLE = {"full_attention": "plain", "dummy": "plain", "sliding_attention": "sliding"}
ALIBI_BUILDERS = ("build_alibi_tensor", "build_mpt_alibi_tensor")
# longer packed rows pay more for the blocks that are masked out than they save in calls (measured: 80 to 1280)
PACKED_TOKENS = 320
# logits held at once: 256 MiB
SCORED_LOGITS = 1 << 26
STOCK_NEW_TOKENS = 20
# of a generation config: how a cache is made and filled, of no consequence where one is given; and what reads without it
CACHE_SETTINGS = ("cache_implementation", "cache_config", "prefill_chunk_size")
ALTERING_SETTINGS = ("guidance_scale", "prompt_lookup_num_tokens")
NOT_WITH_WINDOWS = (
    *NAMES, *CACHE_SETTINGS, *ALTERING_SETTINGS, "inputs_embeds", "assistant_model", "negative_prompt_ids",
)  # fmt: skip


class PCWError(ValueError):
    """What the user asked for cannot be done with this model or these windows; raised before any compute."""


# -- what a model can do


def plain_model(model):
    """`model`, or of a `PeftModel` the model in which its adapters are; PCWError for prompts that are no text."""
    if not hasattr(model, "get_base_model"):
        return model
    if getattr(model.active_peft_config, "is_prompt_learning", False):
        raise PCWError("a soft prompt stands before all else, which windows do too: read without it, or use LoRA")
    return model.get_base_model()


def check_model(model) -> str:
    """How windows can be merged for `model`.

    Returns: "plain" (stock masks are right), "sliding" (masks by position) or "alibi" (biases by position).
    Raises PCWError naming the model type and the reason for encoder-decoders, recurrent, chunked or otherwise
    unmergeable layers, models without a cache and models that take no positions.
    """
    model = plain_model(model)
    config = model.config.get_text_config(decoder=True)
    name = config.model_type
    accepts = inspect.signature(model.forward).parameters
    if model.config.is_encoder_decoder:
        raise PCWError(f"{name} is an encoder-decoder: parallel windows need a decoder-only model")
    if getattr(model, "_is_stateful", False):
        raise PCWError(f"{name} has recurrent layers: their states cannot be merged as keys and values can")
    if _cache_name(model) is None:
        raise PCWError(
            f"{name} has no key-value cache that this code knows (its forward takes none of {', '.join(NAMES)}). {remedy()}"
        )
    decoder = _decoder(model)
    if any(getattr(module, "is_causal", True) is False for module in decoder.modules()):
        raise PCWError(f"{name} attends in both directions here (in its config, is_decoder=True makes it causal)")
    if not hasattr(config, "num_hidden_layers"):
        raise PCWError(f"{name} has no single list of layers")
    kinds = get_layer_types_and_kwargs(config)[0]
    if unknown := sorted(set(kinds) - set(MERGEABLE)):
        raise PCWError(
            f"{name} has layers of kind {', '.join(unknown)}: only {', '.join(MERGEABLE)} layers can be merged"
        )
    if "local" in getattr(config, "attention_layers", ()):
        raise PCWError(f"{name} has local attention layers that count cache entries, not positions")
    if config.model_type in ("bloom", "mpt") or getattr(config, "alibi", False):
        if _alibi_module(decoder) is None:
            raise PCWError(
                f"{name} has ALiBi biases, but none of {', '.join(ALIBI_BUILDERS)} to make them by position"
            )
        kind = "alibi"
    elif "position_ids" not in accepts:
        raise PCWError(f"{name} takes no position_ids: windows could not share positions")
    else:
        kind = "sliding" if _window_hooks(decoder) or "sliding_attention" in kinds else "plain"
    if kind != "plain":
        _check_masks(model)
    return kind


def _decoder(model):
    """The model without its head."""
    for decoder in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(decoder, PreTrainedModel) and decoder is not model:
            return decoder
    raise PCWError(f"{model.config.model_type} has no decoder apart from its head")


def _check_masks(model) -> None:
    name = _decoder(model).config._attn_implementation
    if name not in ("sdpa", "eager"):
        raise PCWError(
            f"{model.config.model_type} needs masks by position here, which attn_implementation {name!r} does not "
            "take: call model.set_attn_implementation('sdpa') or 'eager'"
        )


def _alibi_module(decoder):
    modules = [sys.modules[cls.__module__] for cls in type(decoder).__mro__]
    return next((m for m in modules if any(hasattr(m, name) for name in ALIBI_BUILDERS)), None)


def _window_hooks(decoder) -> set[type]:
    """Classes of the hooks by which Puzzle children narrow an attention to its last keys."""
    hooks = (hook for module in decoder.modules() for hook in module._forward_pre_hooks.values())
    return {type(hook) for hook in hooks if type(hook).__name__ == "WindowMask"}


def _accepts(module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _cache_name(module) -> str | None:
    """What this version's code of a model calls its cache; None: nothing that is known here."""
    return next((name for name in NAMES if _accepts(module, name)), None)


def _held(cache) -> int | None:
    """Tokens that a cache holds; None if none of its layers stores anything."""
    held = [0 if layer.keys is None else layer.keys.shape[-2] for layer in cache.layers if not _is_dummy(layer)]
    return max(held, default=None)


def _is_dummy(layer) -> bool:
    return isinstance(layer, DummyLayer)


def _check_read(model, cache, before: int | None, new: int) -> None:
    """PCWError if the cache that `model` was given did not grow by `new` tokens: it was not read either."""
    if before is not None and _held(cache) != before + new:
        raise PCWError(
            f"{type(model).__name__} was given a cache of {before} tokens and left it at {_held(cache)}, not {before + new}: "
            f"the windows were not read. {remedy()}"
        )


def _fingerprint(model) -> str:
    """Says what caches fit: the class and the shapes of all weights."""
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    code = zlib.crc32(json.dumps(sorted(shapes)).encode())
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    return f"{type(model).__name__} with {layers} layers (shapes {code:08x})"


def scale_switch(config) -> tuple[float, str | None]:
    """(positions after which rotary scales depend on the longest row, type of scaling); (inf, None) for most models.

    Keys that were cached before it do not fit tokens after it, and Phi-3's code drops them without a word.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    nested = [rope for rope in ropes.values() if isinstance(rope, Mapping)]
    found: tuple[float, str | None] = (math.inf, None)
    for rope in nested or [ropes]:
        kind = rope.get("rope_type") or "default"
        if kind == "longrope":
            trained = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        elif "dynamic" in kind:
            trained = config.max_position_embeddings
        else:
            continue
        found = min(found, (trained, kind), key=operator.itemgetter(0))
    return found


def _positions(model, kind: str) -> tuple[float, str]:
    """(positions that windows and a task may have, what limits them)."""
    config = model.config.get_text_config(decoder=True)
    limit = None if kind == "alibi" else getattr(config, "max_position_embeddings", None)
    limit, said = limit or math.inf, f"{model.config.model_type} has"
    switch, rope = scale_switch(config)
    if switch <= limit:
        return switch, f"{said} {switch} positions before its {rope} scale changes, which windows and task must share"
    return limit, f"{said} {limit} positions"


def column_names(value) -> list | None:
    """Names of the columns of a data set or data frame (of datasets, pandas, Polars, Arrow); None for anything else."""
    found = getattr(value, "column_names", None)
    found = getattr(value, "columns", None) if found is None else found
    return None if found is None or callable(found) else list(found)


def _listed(value, what: str, items: str = "list of token ids"):
    """`value` if it is a list with something in it; PCWError for what would be read as something else."""
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in list(value)[:4])
        raise PCWError(
            f"{what} is a {type(value).__name__} with the keys {keys}: expected a list, such as list({what}.values()) of a "
            f"dictionary or {what}['input_ids'] of a tokenizer's output"
        )
    if (columns := column_names(value)) is not None:
        raise PCWError(f"{what} is a {type(value).__name__} with the columns {columns}: expected one, as a list")
    ordered = hasattr(value, "__len__") and hasattr(value, "__iter__") and not isinstance(value, str | bytes | Set)
    if not ordered or not len(value):
        raise PCWError(f"{what} is {value!r:.80}: expected at least one {items}")
    return list(value)


def _token_ids(model, ids: Sequence[int], what: str) -> tuple[int, ...]:
    try:
        ids = tuple(operator.index(i) for i in (None if isinstance(ids, Mapping | Set) else ids))
    except TypeError:
        raise PCWError(f"{what} is {ids!r:.80}: expected a list of token ids") from None
    vocabulary = model.get_input_embeddings().num_embeddings
    if wrong := [i for i in ids if not 0 <= i < vocabulary]:
        raise PCWError(f"{what} holds token id {wrong[0]}, outside the model's vocabulary of {vocabulary}")
    return ids


# -- masks and biases by position


class _View:
    """What the queries of one call see, by key position: replaces stock masks, which go by cache index."""

    def __init__(self, config, key_positions, task_positions, allowed=None, self_weight=1.0):
        """key_positions: (M,); task_positions: (R, L), R divides the batch; allowed: (L, M + L) bool, else causal."""
        rows = task_positions.shape[0]
        self.config, self.allowed, self.bias = config, allowed, math.log(self_weight)
        self.merged = len(key_positions)
        self.known = torch.cat([key_positions.expand(rows, -1), task_positions], dim=1)
        self.length = self.known.shape[1]
        self.calls = 0

    def positions(self, rows: int, length: int) -> torch.Tensor:
        """(rows, length) positions of all keys; generated tokens follow the last known one."""
        known = self.known[:, :length]
        if length > known.shape[1]:
            new = torch.arange(1, length - known.shape[1] + 1, device=known.device)
            known = torch.cat([known, known[:, -1:] + new], dim=1)
        return known.repeat_interleave(rows // known.shape[0], dim=0)

    def mask(self, eager: bool, batch_size, q_length, kv_length, q_offset, attention_mask, device, **kwargs):
        """As transformers' mask functions: (batch, 1, queries, keys), bool for sdpa, additive for eager or a bias."""
        self.calls += 1
        keys = torch.arange(kv_length, device=device)
        queries = torch.arange(q_length, device=device) + q_offset
        allowed = keys <= queries[:, None] if self.allowed is None else self.allowed.to(device)
        allowed = allowed.expand(batch_size, 1, -1, -1)
        if attention_mask is not None:
            allowed = allowed & attention_mask[:, None, None, :kv_length].bool()
        if kwargs.get("local_size"):
            allowed = allowed & self.near(batch_size, q_length, kv_length, kwargs["local_size"]).to(device)
        if not eager and not self.bias:
            return allowed
        dtype = kwargs["dtype"]
        bias = torch.where(keys < self.merged, 0.0, self.bias).to(dtype)
        return torch.where(allowed, bias, torch.finfo(dtype).min)

    def near(self, rows: int, q_length: int, kv_length: int, window: int) -> torch.Tensor:
        positions = self.positions(rows, kv_length)
        return (positions[:, None, -q_length:, None] - positions[:, None, None, :]) < window

    def alibi(self, build: Callable, *args, **kwargs) -> torch.Tensor:
        """What `build` makes of one plain sequence, read at the keys' positions: (rows * heads or heads, 1, keys)."""
        first, *rest = args
        batched = isinstance(first, torch.Tensor)
        positions = self.positions(first.shape[0] if batched else self.known.shape[0], self.length)
        size = int(positions.max()) + 1
        if not batched:
            return build(first, size, *rest[1:], **kwargs)[:, :, positions[0]]
        table = build(first.new_ones(1, size), *rest, **kwargs)
        return table[:, 0, positions].transpose(0, 1).reshape(-1, 1, self.length)


_VIEW: ContextVar[_View | None] = ContextVar("pcw_view", default=None)
_LOCK = threading.Lock()
_installed: dict[tuple, list] = {}


def _mask_by_position(stock: Callable, eager: bool) -> Callable:
    @functools.wraps(stock)
    def mask(*args, **kwargs):
        view = _VIEW.get()
        if view is None or kwargs.get("config") is not view.config:
            return stock(*args, **kwargs)
        return view.mask(eager, **kwargs)

    return mask


def _alibi_by_position(stock: Callable) -> Callable:
    @functools.wraps(stock)
    def build(*args, **kwargs):
        view = _VIEW.get()
        return stock(*args, **kwargs) if view is None else view.alibi(stock, *args, **kwargs)

    return build


def _counting_forward(stock: Callable) -> Callable:
    @functools.wraps(stock)
    def forward(self, input_ids=None, *args, **kwargs):
        view = _VIEW.get()
        if view is not None:
            rows, new = input_ids.shape
            view.length = find_cache(args, kwargs).get_seq_length() + new
            if kwargs.get("attention_mask") is None:  # Bloom makes other biases when it has none
                kwargs["attention_mask"] = input_ids.new_ones(rows, view.length)
        return stock(self, input_ids, *args, **kwargs)

    return forward


def _window_by_position(stock: Callable) -> Callable:
    def narrow(hook, module, args, kwargs):
        view = _VIEW.get()
        if view is None:
            return stock(hook, module, args, kwargs)
        mask = kwargs["attention_mask"]
        near = view.near(mask.shape[0], *mask.shape[-2:], hook.window).to(mask.device)
        mask = mask & near if mask.dtype == torch.bool else mask.masked_fill(~near, torch.finfo(mask.dtype).min)
        return args, {**kwargs, "attention_mask": mask}

    return narrow


class _MaskFunctions:
    """The mask registry as an object with one attribute per attention implementation."""

    def __getattr__(self, name: str) -> Callable:
        return ALL_MASK_ATTENTION_FUNCTIONS[name]

    def __setattr__(self, name: str, value: Callable) -> None:
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, value)


_MASKS = _MaskFunctions()


def _sites(model, kind: str) -> list[tuple]:
    """(owner, attribute, what to put around it) of all that must go by position."""
    decoder = _decoder(model)
    name = decoder.config._attn_implementation
    sites = [(_MASKS, name, functools.partial(_mask_by_position, eager=name == "eager"))]
    sites += [(cls, "__call__", _window_by_position) for cls in _window_hooks(decoder)]
    if kind == "alibi":
        module = _alibi_module(decoder)
        sites += [(module, name, _alibi_by_position) for name in ALIBI_BUILDERS if hasattr(module, name)]
        owner = next(cls for cls in type(decoder).__mro__ if "forward" in vars(cls))
        sites.append((owner, "forward", _counting_forward))
    return sites


@contextlib.contextmanager
def _seen_by(view: _View, sites: list[tuple]) -> Iterator[None]:
    """`view` holds in this thread; other threads pass through to the stock functions, which the last one restores."""
    with _LOCK:
        for owner, name, wrap in sites:
            entry = _installed.setdefault((owner, name), [0, getattr(owner, name)])
            if not entry[0]:
                setattr(owner, name, wrap(entry[1]))
            entry[0] += 1
    token = _VIEW.set(view)
    try:
        yield
    finally:
        _VIEW.reset(token)
        with _LOCK:
            for owner, name, _ in sites:
                entry = _installed[owner, name]
                entry[0] -= 1
                if not entry[0]:
                    setattr(owner, name, entry[1])
                    del _installed[owner, name]


# -- layer 1: windows and their caches


class _FullLayer(DynamicLayer):
    """Keeps every key; of a type of its own, since Puzzle children exchange an empty DynamicLayer for a window."""

    def fill(self, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
        self.lazy_initialization(keys, values)
        self.keys, self.values = (t.expand(rows, *t.shape[1:]) for t in (keys, values))


def _cache(model, layers: Sequence[tuple] = (), rows: int = 1) -> DynamicCache:
    """A cache that keeps all keys, filled with `layers` of (keys, values) or (None, None), each `rows` times."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [layer if isinstance(layer, DummyLayer) else _FullLayer() for layer in cache.layers]
    for layer, (keys, values) in zip(cache.layers, layers, strict=False):
        if keys is not None:
            layer.fill(keys, values, rows)
    return cache


def _run_decoder(model, ids: torch.Tensor, positions: torch.Tensor, cache: DynamicCache) -> list[tuple]:
    decoder = _decoder(model)
    inputs = {"position_ids": positions} if _accepts(decoder, "position_ids") else {}
    before = _held(cache)
    decoder(input_ids=ids, use_cache=True, **{_cache_name(decoder) or OUTPUT_NAME: cache}, **inputs)
    _check_read(decoder, cache, before, ids.shape[1])
    return [(layer.keys, layer.values) for layer in cache.layers]


def _encode_prefix(model, prefix: tuple[int, ...]) -> list[tuple]:
    if not prefix:
        return []
    ids = torch.tensor([prefix], device=model.device)
    return _run_decoder(model, ids, torch.arange(len(prefix), device=model.device)[None], _cache(model))


def _encode_rows(model, prefix_layers, prefix, windows, longest, alignment, batch_size) -> list[list[tuple]]:
    """Per window, per layer its own keys and values (1, H, len(window), E), or (None, None)."""
    shared, lead = (len(prefix), ()) if alignment == "left" else (0, prefix)
    order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
    found = {}
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        width = len(lead) + len(windows[chunk[-1]])
        ids = torch.zeros(len(chunk), width, dtype=torch.long)
        for row, i in enumerate(chunk):
            ids[row, : len(lead) + len(windows[i])] = torch.tensor(lead + windows[i])
        first = torch.tensor([shared if alignment == "left" else longest - len(windows[i]) for i in chunk])
        # the padding must not leave the learned positions
        positions = (first[:, None] + torch.arange(width)).clamp(max=len(prefix) + longest - 1)
        cache = _cache(model, prefix_layers if shared else (), rows=len(chunk))
        layers = _run_decoder(model, ids.to(model.device), positions.to(model.device), cache)
        for row, i in enumerate(chunk):
            own = slice(len(prefix), len(prefix) + len(windows[i]))
            found[i] = [tuple(t if t is None else t[row : row + 1, :, own] for t in pair) for pair in layers]
    return [found[i] for i in range(len(windows))]


def _join(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    parts = [part for part in parts if part is not None]
    return torch.cat(parts, dim=2) if parts else None


@dataclass(frozen=True)
class _Context:
    """A choice of windows as one cache: per layer keys and values (1, H, M, E), the keys' positions (M,)."""

    layers: list[tuple]
    positions: torch.Tensor
    next_position: int


@dataclass(eq=False)
class EncodedWindows:
    """Windows encoded once, to be used by any number of tasks; the prefix is stored once.

    `keys[l]` and `values[l]` are (1, H, M, E) on the layer's device, prefix first and then the windows in order, or
    None for a layer that stores nothing. Left alignment: windows start right after the prefix. Right: all end at the
    same position (appendix of the paper), each read after its own copy of the prefix; the longest window's stays.
    """

    prefix: tuple[int, ...]
    windows: list[tuple[int, ...]]
    alignment: str
    keys: list[torch.Tensor | None] = field(repr=False)
    values: list[torch.Tensor | None] = field(repr=False)
    fingerprint: str
    state: str = field(repr=False, default="")  # `model_state` when they were encoded; not stored

    @property
    def lengths(self) -> list[int]:
        """Tokens per window, without the prefix."""
        return [len(window) for window in self.windows]

    @property
    def num_tokens(self) -> int:
        """M: cached keys per layer."""
        return len(self.prefix) + sum(self.lengths)

    @property
    def next_position(self) -> int:
        """Position of the first task token: after the longest window."""
        return len(self.prefix) + max(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Bytes of the stored keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values) if t is not None)

    def window_layers(self, index: int) -> list[tuple]:
        """Per layer the keys and values of one window, without the prefix, as views."""
        start = len(self.prefix) + sum(self.lengths[:index])
        return self._slice(start, start + self.lengths[index])

    def _slice(self, start: int, end: int) -> list[tuple]:
        pairs = zip(self.keys, self.values, strict=True)
        return [tuple(t if t is None else t[:, :, start:end] for t in pair) for pair in pairs]

    def _with(self, windows: list[tuple[int, ...]], layers: Sequence[list[tuple]]) -> "EncodedWindows":
        layers = [self._slice(0, len(self.prefix)), *layers]
        keys, values = (
            [_join(parts) for parts in zip(*([p[i] for p in w] for w in layers), strict=True)] for i in (0, 1)
        )
        return replace(self, windows=windows, keys=keys, values=values)

    def _change(self, model, index: int | None, ids: Sequence[int] | None) -> "EncodedWindows":
        kind = None if ids is None else check_encoded(model, self)
        if index is not None and not -len(self.windows) <= index < len(self.windows):
            raise PCWError(f"there is no window {index}: there are {len(self.windows)}")
        windows, parts = list(self.windows), [self.window_layers(i) for i in range(len(self.windows))]
        if ids is None:
            del windows[index], parts[index]
        else:
            index = len(windows) if index is None else index
            new = _window_ids(model, kind, [ids], self.prefix)[0]
            windows[index : index + 1 or None] = [new]
        if not windows:
            raise PCWError("the last window cannot be removed")
        longest = max(map(len, windows))
        if self.alignment == "right" and longest != max(self.lengths):
            raise PCWError(
                f"right-aligned windows end at token {max(self.lengths)}, now at {longest}: encode all anew"
            )
        if ids is not None:
            prefix_layers = self._slice(0, len(self.prefix))
            rows = _encode_rows(model, prefix_layers, self.prefix, [new], longest, self.alignment, 1)
            parts[index : index + 1 or None] = rows
        return self._with(windows, parts)

    @torch.no_grad()
    def add(self, model, ids: Sequence[int]) -> "EncodedWindows":
        """With one more window at the end, which alone is encoded; PCWError as `encode_windows`."""
        return self._change(plain_model(model), None, ids)

    @torch.no_grad()
    def replace(self, model, index: int, ids: Sequence[int]) -> "EncodedWindows":
        """With another window in the place of one, which alone is encoded; PCWError as `encode_windows`."""
        return self._change(plain_model(model), index, ids)

    def remove(self, index: int) -> "EncodedWindows":
        """Without one window; PCWError for the last one, and for the longest of right-aligned ones."""
        return self._change(None, index, None)

    def context(self, indices: Sequence[int] | None = None, temperature: float = 1.0) -> _Context:
        """The chosen windows (all, in order, by default; none: the prefix alone) as one cache.

        temperature: of the attention to windows, not to the prefix (APE, arXiv 2502.05431); it divides their keys.
        """
        everything = indices is None or list(indices) == list(range(len(self.windows)))
        indices = range(len(self.windows)) if everything else indices
        prefix = len(self.prefix)
        last = max((self.lengths[i] for i in indices), default=0) if self.alignment == "left" else max(self.lengths)
        positions = [torch.arange(prefix)]
        for i in indices:
            first = prefix + (0 if self.alignment == "left" else last - self.lengths[i])
            positions.append(torch.arange(first, first + self.lengths[i]))
        chosen = self
        if not everything:
            chosen = self._with([self.windows[i] for i in indices], [self.window_layers(i) for i in indices])
        keys = chosen.keys
        if temperature != 1.0:
            keys = [k if k is None else torch.cat([k[:, :, :prefix], k[:, :, prefix:] / temperature], 2) for k in keys]
        end = prefix + (last if len(indices) else 0)
        device = next((k.device for k in keys if k is not None), None)
        return _Context(list(zip(keys, chosen.values, strict=True)), torch.cat(positions).to(device), end)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All of it as tensors, for safetensors: ids, a JSON header as bytes, `keys.{layer}` and `values.{layer}`."""
        header = {"alignment": self.alignment, "fingerprint": self.fingerprint, "layers": len(self.keys)}
        state = {
            "header": torch.tensor(list(json.dumps(header).encode()), dtype=torch.uint8),
            "prefix": torch.tensor(self.prefix, dtype=torch.long),
            "lengths": torch.tensor(self.lengths),
            "tokens": torch.tensor([i for window in self.windows for i in window]),
        }
        for name, tensors in (("keys", self.keys), ("values", self.values)):
            state |= {f"{name}.{i}": t.contiguous() for i, t in enumerate(tensors) if t is not None}
        return state

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor], model) -> "EncodedWindows":
        """The inverse of `state_dict`, on the model's device and dtype; PCWError if another model encoded it."""
        model = plain_model(model)
        header = json.loads(bytes(state["header"].tolist()))
        windows = [tuple(w.tolist()) for w in state["tokens"].split(state["lengths"].tolist())]
        tensors = [
            [state[f"{name}.{i}"].to(model.device, model.dtype) if f"{name}.{i}" in state else None
             for i in range(header["layers"])]
            for name in ("keys", "values")
        ]  # fmt: skip
        prefix = tuple(state["prefix"].tolist())
        encoded = cls(prefix, windows, header["alignment"], *tensors, header["fingerprint"], model_state(model))
        kind = check_encoded(model, encoded)
        _prove(model, kind)
        return encoded


def check_encoded(model, encoded: EncodedWindows) -> str:
    """`check_model`, and PCWError if `encoded` is no EncodedWindows, or of another model or other weights than now."""
    model = plain_model(model)
    if not isinstance(encoded, EncodedWindows):
        raise PCWError(f"encoded is a {type(encoded).__name__}: expected what encode_windows returns")
    if encoded.fingerprint != _fingerprint(model):
        raise PCWError(f"these windows were encoded by {encoded.fingerprint}, this model is {_fingerprint(model)}")
    if encoded.state and encoded.state != model_state(model):
        raise PCWError(
            "these windows were encoded with other weights, another dtype, other adapters, or in the other of train() and "
            "eval(): encode them again"
        )
    return check_model(model)


def _window_ids(model, kind: str, windows, prefix: tuple[int, ...]) -> list[tuple[int, ...]]:
    windows = [_token_ids(model, window, f"window {i}") for i, window in enumerate(_listed(windows, "windows"))]
    limit, said = _positions(model, kind)
    for i, window in enumerate(windows):
        if not window:
            raise PCWError(f"window {i} is empty")
        # one position at least must be left for the task
        if (excess := len(prefix) + len(window) + 1 - limit) > 0:
            raise PCWError(
                f"window {i} is {excess} tokens too long: after a prefix of {len(prefix)} it has {len(window)} tokens "
                f"and {said}, of which the task needs at least one"
            )
    return windows


@torch.no_grad()
def encode_windows(
    model,
    windows: Sequence[Sequence[int]],
    prefix: Sequence[int] = (),
    alignment: str = "left",
    batch_size: int | None = None,
) -> EncodedWindows:
    """The caches of `windows` (token ids without BOS), each read after `prefix` (BOS, a prompt, or nothing).

    Windows go through the decoder as one right-padded batch, or `batch_size` at a time, without the language-model
    head: vocabulary logits of their tokens are never allocated. Under left alignment the prefix is encoded once.
    Raises PCWError as `check_model`, for no windows, an empty one, ids outside the vocabulary, and a window that does
    not fit into the model's positions (saying by how many tokens).
    """
    model = plain_model(model)
    kind = check_model(model)
    if alignment not in ("left", "right"):
        raise PCWError(f"alignment is {alignment!r}: expected 'left' or 'right'")
    if batch_size is not None and batch_size < 1:
        raise PCWError(f"batch_size is {batch_size}: expected at least 1")
    prefix = _token_ids(model, prefix, "prefix")
    windows = _window_ids(model, kind, windows, prefix)
    _prove(model, kind)
    layers = _encode_prefix(model, prefix)
    longest = max(map(len, windows))
    rows = _encode_rows(model, layers, prefix, windows, longest, alignment, batch_size or len(windows))
    start = layers or [(None, None)] * len(rows[0])
    keys, values = ([pair[i] for pair in start] for i in (0, 1))
    empty = EncodedWindows(prefix, windows, alignment, keys, values, _fingerprint(model), model_state(model))
    return empty._with(windows, rows)


# -- layer 2: tasks over a context


@dataclass(frozen=True)
class _Reader:
    """Runs tasks of a model over contexts."""

    model: torch.nn.Module
    kind: str
    self_weight: float = 1.0

    @contextlib.contextmanager
    def seeing(self, context: _Context, positions: torch.Tensor, allowed: torch.Tensor | None = None):
        """The view of tasks at `positions` (R, L) over `context`; nothing where stock masks are right."""
        if self.kind == "plain" and allowed is None and self.self_weight == 1.0:
            yield
            return
        decoder = _decoder(self.model)
        keys = context.positions.to(self.model.device)
        view = _View(decoder.config, keys, positions.to(self.model.device), allowed, self.self_weight)
        with _seen_by(view, _sites(self.model, self.kind)):
            yield
        if not view.calls and getattr(decoder, "has_attention", True):
            raise PCWError(f"{type(self.model).__name__} does not make its masks with transformers' mask functions")

    def run(self, context: _Context, ids, positions, allowed=None, keep=None, cache=None) -> torch.Tensor:
        """Logits (R, kept, V) of `ids` (R, L); keep: the columns wanted, (kept,).

        positions: (R or 1, L), longer by the tokens that `cache` holds behind the context, if it is given.
        """
        model, device = self.model, self.model.device
        cache = cache or _cache(model, context.layers, rows=ids.shape[0])
        inputs = {}
        if _accepts(model, "position_ids"):
            inputs["position_ids"] = positions[:, -ids.shape[1] :].expand(ids.shape).to(device)
        kept_by_model = keep is not None and _accepts(model, "logits_to_keep")
        if kept_by_model:
            inputs["logits_to_keep"] = keep.to(device)
        with self.seeing(context, positions, allowed):
            before = _held(cache)
            logits = model(input_ids=ids.to(device), use_cache=True, **{_cache_name(model): cache}, **inputs).logits
        _check_read(model, cache, before, ids.shape[1])
        return logits if keep is None or kept_by_model else logits[:, keep.to(logits.device)]

    def batch(self, context: _Context, tasks: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        """Per task its logits (L, V), from one right-padded batch."""
        width = max(map(len, tasks))
        ids = torch.tensor([task + (0,) * (width - len(task)) for task in tasks])
        positions = context.next_position + torch.arange(width)[None]
        return [row[: len(task)] for row, task in zip(self.run(context, ids, positions), tasks, strict=True)]

    def packed(self, context: _Context, tasks: Sequence[tuple[int, ...]], trie: "_Trie | None" = None):
        """Per task its logits (L, V), from rows that hold many tasks over one copy of the context.

        With a trie, which every task is followed by: (1 + N, V), after the task and after each of the N nodes.
        """
        nodes = len(trie.tokens) if trie else 0
        rows, used = [[]], 0
        for task in tasks:
            if used and used + len(task) + nodes > PACKED_TOKENS:
                rows, used = [*rows, []], 0
            rows[-1].append(task)
            used += len(task) + nodes
        return [logits for row in rows for logits in self._packed_row(context, row, trie)]

    def _packed_row(self, context: _Context, tasks, trie: "_Trie | None") -> Sequence[torch.Tensor]:
        tokens, depths, inside = (trie.tokens, trie.depths, trie.ancestors) if trie else ((), (), None)
        nodes, ids, positions, keep, blocks = len(tokens), [], [], [], []
        for task in tasks:
            start, length = len(ids), len(task)
            keep += range(start + length - 1 if trie else start, start + length + nodes)
            ids += (*task, *tokens)
            positions += (*range(length), *(length - 1 + depth for depth in depths))
            block = torch.ones(length + nodes, length + nodes, dtype=torch.bool).tril()
            if nodes:
                block[length:, length:] = inside
            blocks.append(block)
        allowed = torch.block_diag(*blocks).bool()
        allowed = torch.cat([allowed.new_ones(len(ids), len(context.positions)), allowed], dim=1)
        positions = (context.next_position + torch.tensor(positions))[None]
        keep = torch.tensor(keep) if trie else None
        logits = self.run(context, torch.tensor([ids]), positions, allowed.to(self.model.device), keep)[0]
        return logits.split([1 + nodes if trie else len(task) for task in tasks])


class _Trie:
    """Labels as a tree: a node per distinct proper beginning of a label, an edge per distinct beginning.

    tokens, depths: of the N nodes, depth 1 after the task. ancestors: (N, N), which nodes a node sees, itself too.
    edges: (E, 2), node (0: the task's end, i + 1: node i) and next token. paths: (labels, E), the edges of each label.
    """

    def __init__(self, labels: Sequence[tuple[int, ...]]):
        beginnings = sorted({label[:n] for label in labels for n in range(1, len(label))}, key=len)
        index = {(): 0} | {beginning: i for i, beginning in enumerate(beginnings, 1)}
        edges = sorted({label[:n] for label in labels for n in range(1, len(label) + 1)}, key=len)
        edge_index = {edge: i for i, edge in enumerate(edges)}
        self.tokens = [beginning[-1] for beginning in beginnings]
        self.depths = [len(beginning) for beginning in beginnings]
        self.ancestors = torch.zeros(len(beginnings), len(beginnings), dtype=torch.bool)
        for i, beginning in enumerate(beginnings):
            self.ancestors[i, [index[beginning[:n]] - 1 for n in range(1, len(beginning) + 1)]] = True
        self.edges = torch.tensor([(index[edge[:-1]], edge[-1]) for edge in edges])
        self.paths = torch.zeros(len(labels), len(edges))
        for i, label in enumerate(labels):
            self.paths[i, [edge_index[label[:n]] for n in range(1, len(label) + 1)]] = 1.0

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """(labels,) log-probabilities, the sums over each label's own tokens, from logits (1 + N, V)."""
        node, token = self.edges.to(logits.device).T
        logits = logits.float()
        return self.paths.to(logits.device) @ (logits[node, token] - logits.logsumexp(-1)[node])


# -- layer 3: modes


@dataclass(frozen=True)
class _Mode:
    """How the windows are put together.

    pcw: one attention over all (the paper). Others read each window alone, and combine next-token distributions p_b:
    ensemble: p = sum_b w_b p_b at each token (Parallel Ensemble, arXiv 2305.15262). nbce: log p proportional to
    (1 + beta) log p_b - beta log p(no window), b the window of least entropy at each token (Su's naive Bayes context
    extension with its maximum pooling, kexue.fm/archives/9617 and arXiv 2403.17552; beta 0.25 there).
    single: p_b, b the window of least entropy at the task's last token.
    """

    name: str
    beta: float
    weights: torch.Tensor | None

    def contexts(self, encoded: EncodedWindows, indices: Sequence[int], temperature: float) -> list[_Context]:
        if self.name == "pcw":
            return [encoded.context(indices, temperature)]
        return [encoded.context([i], temperature) for i in indices] + [encoded.context(())] * (self.name == "nbce")

    def log_weights(self, indices: Sequence[int], device) -> torch.Tensor:
        weights = torch.ones(len(indices)) if self.weights is None else self.weights[list(indices)]
        return (weights / weights.sum()).log().to(device)

    def combine(self, streams: torch.Tensor, indices: Sequence[int], chosen: torch.Tensor | None = None):
        """(S, ..., V) logits of the contexts to (..., V): themselves for pcw, log-probabilities for the others.

        chosen: for single, (...,) the stream per place.
        """
        if self.name == "pcw":
            return streams[0]
        logs = streams.float().log_softmax(-1)
        if self.name == "ensemble":
            weights = self.log_weights(indices, logs.device)
            return (logs + weights.view(-1, *[1] * (logs.ndim - 1))).logsumexp(0)
        if self.name == "single":
            return _pick(logs, chosen)
        windows, empty = logs[:-1], logs[-1]
        return ((1 + self.beta) * _pick(windows, _least_entropy(windows)) - self.beta * empty).log_softmax(-1)


def _least_entropy(logs: torch.Tensor) -> torch.Tensor:
    """(S, ..., V) log-probabilities to (...), the stream of least entropy."""
    return torch.special.entr(logs.exp()).sum(-1).argmin(0)


def _pick(streams: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    index = chosen[None, ..., None].expand(1, *streams.shape[1:])
    return streams.gather(0, index)[0]


@dataclass(frozen=True)
class _Plan:
    """A checked request: what to read, how, and which windows."""

    encoded: EncodedWindows
    reader: _Reader
    mode: _Mode
    temperature: float
    top_k: int | None

    def groups(self, tasks: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
        """Tasks by the windows they read; top-k ones are those after which the task's end has the least entropy."""
        count = len(self.encoded.windows)
        if self.top_k is None or self.top_k >= count:
            return {tuple(range(count)): list(range(len(tasks)))}
        found = {}
        contexts = [self.encoded.context([i], self.temperature) for i in range(count)]
        for number, task in enumerate(tasks):
            ends = torch.stack([self.reader.batch(context, [task])[0][-1] for context in contexts])
            entropy = torch.special.entr(ends.float().softmax(-1)).sum(-1)
            best = entropy.argsort(stable=True)[: self.top_k].sort().values
            found.setdefault(tuple(best.tolist()), []).append(number)
        return found

    def logits(self, indices, tasks, packed: bool = False, trie: _Trie | None = None, end: int = -1):
        """Per task the logits of the mode, (L, V) or with a trie (1 + N, V); end: the row of the task's last token."""
        read = functools.partial(self.reader.packed, trie=trie) if packed or trie else self.reader.batch
        contexts = self.mode.contexts(self.encoded, indices, self.temperature)
        if packed or trie is None:
            streams = [read(context, tasks) for context in contexts]
        else:
            streams = [[read(context, [task])[0] for task in tasks] for context in contexts]
        combined = []
        for rows in zip(*streams, strict=True):
            rows, chosen = torch.stack(rows), None
            if self.mode.name == "single":
                chosen = _least_entropy(rows[:, end].float().log_softmax(-1)).expand(rows.shape[1])
            combined.append(self.mode.combine(rows, indices, chosen))
        return combined


def _plan(model, encoded: EncodedWindows, *knobs) -> _Plan:
    kind = check_encoded(model, encoded)
    return _Plan(encoded, **check_knobs(model, kind, len(encoded.windows), *knobs))


def check_knobs(model, kind, count: int, mode, temperature, self_weight, top_k_windows, weights, beta) -> dict:
    """The parts of a `_Plan` over `count` windows; PCWError for a knob out of its range."""
    if mode not in MODES:
        raise PCWError(f"mode is {mode!r}: expected one of {', '.join(MODES)}")
    for name, value in (("temperature", temperature), ("self_weight", self_weight)):
        if not 0 < value < math.inf:
            raise PCWError(f"{name} is {value!r}: expected a positive number")
    if self_weight != 1.0:
        if kind == "alibi":
            raise PCWError(f"self_weight is not available for {model.config.model_type}, whose masks take no weights")
        _check_masks(model)
    if top_k_windows is not None and not 1 <= top_k_windows <= count:
        raise PCWError(f"top_k_windows is {top_k_windows!r}: expected 1 to {count}")
    if weights is not None:
        if mode != "ensemble":
            raise PCWError(f"weights are for mode 'ensemble', not {mode!r}")
        weights = torch.as_tensor(weights, dtype=torch.float32)
        if weights.shape != (count,) or not 0 < weights.sum() < math.inf or (weights < 0).any():
            raise PCWError(f"weights are {weights.tolist()}: expected {count} numbers, none negative, not all zero")
    return {
        "reader": _Reader(model, kind, self_weight),
        "mode": _Mode(mode, beta, weights),
        "temperature": temperature,
        "top_k": top_k_windows,
    }


def _check_tasks(model, kind, encoded, tasks, extra: int = 0) -> list[tuple[int, ...]]:
    """`tasks` as tuples; PCWError for none, empty ones, and those that `extra` tokens later are past the positions."""
    tasks = [_token_ids(model, task, f"task {i}") for i, task in enumerate(_listed(tasks, "tasks"))]
    for i, task in enumerate(tasks):
        if not task:
            raise PCWError(f"task {i} is empty")
        _check_length(model, kind, encoded.next_position, len(task), extra, f"task {i}")
    return tasks


def _check_length(model, kind, first: int, length: int, extra: int, what: str) -> None:
    limit, said = _positions(model, kind)
    if (excess := first + length + extra - limit) > 0:
        after = f" and {extra} tokens after it" if extra else ""
        raise PCWError(
            f"{what} is {excess} tokens too long: the longest window ends before position {first}, the task "
            f"has {length} tokens{after}, and {said}"
        )


@torch.no_grad()
def task_logits(
    model,
    encoded: EncodedWindows,
    tasks: Sequence[Sequence[int]],
    *,
    mode: str = "pcw",
    temperature: float = 1.0,
    self_weight: float = 1.0,
    top_k_windows: int | None = None,
    packed: bool = False,
    weights: Sequence[float] | None = None,
    beta: float = 0.25,
) -> list[torch.Tensor]:
    """Logits (L, V) of every token of every task, read after the windows.

    Args:
        mode: "pcw" (logits), or "ensemble", "nbce", "single" (log-probabilities); the formulas are `_Mode`'s.
        temperature: below 1 sharpens the attention to windows (APE, arXiv 2502.05431).
        self_weight: weight of the task's own keys in the softmax over keys (Structured Prompting, arXiv 2212.06713:
            the number of windows).
        top_k_windows: each task reads only that many windows: those with which its last token is the surest about the
            next one (least entropy).
        packed: tasks share one copy of the cache in few rows; otherwise a right-padded batch, one copy per task.
        weights: of the windows in an ensemble; they need not sum to 1.
        beta: of nbce.

    Raises PCWError for windows of another model, an unknown mode or a knob out of range, and for tasks that are empty
    or do not fit into the model's positions.
    """
    model = plain_model(model)
    plan = _plan(model, encoded, mode, temperature, self_weight, top_k_windows, weights, beta)
    tasks = _check_tasks(model, plan.reader.kind, encoded, tasks)
    if packed:
        _check_masks(model)
    found = {}
    for indices, members in plan.groups(tasks).items():
        logits = plan.logits(indices, [tasks[i] for i in members], packed)
        found |= dict(zip(members, logits, strict=True))
    return [found[i] for i in range(len(tasks))]


@torch.no_grad()
def score_labels(
    model,
    encoded: EncodedWindows,
    tasks: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    scores: str = "trie",
    mode: str = "pcw",
    packed: bool = True,
    temperature: float = 1.0,
    self_weight: float = 1.0,
    top_k_windows: int | None = None,
    weights: Sequence[float] | None = None,
    beta: float = 0.25,
) -> torch.Tensor:
    """Log-probabilities (tasks, labels) of whole labels after the tasks, float32 on the CPU: sums over own tokens.

    A label that begins another is scored like any other; give both an end token where they must exclude each other.

    Args:
        scores: "trie": exact, all labels in one forward (a tree of label tokens behind the task, position = depth).
            "each": the same, one forward per label. "greedy": the paper's restricted greedy decoding (section 3): at
            each step the likeliest token among those that continue a label, until one label is left; -inf but for the
            label it chose, whose value is the log-probability of the tokens decided on. A complete label that begins
            others is chosen if the model's likeliest token continues none of them. Mode "pcw" only.
        packed: tasks share rows and one copy of the cache; otherwise one forward per task.

    The other arguments, and PCWError: as `task_logits`; also for no labels, one without tokens, and two equal ones.
    """
    model = plain_model(model)
    plan = _plan(model, encoded, mode, temperature, self_weight, top_k_windows, weights, beta)
    if scores not in ("trie", "each", "greedy"):
        raise PCWError(f"scores is {scores!r}: expected 'trie', 'each' or 'greedy'")
    if scores == "greedy" and mode != "pcw":
        raise PCWError(f"scores='greedy' is for mode 'pcw', not {mode!r}")
    labels = [_token_ids(model, label, f"label {i}") for i, label in enumerate(_listed(labels, "labels"))]
    for i, label in enumerate(labels):
        if not label:
            raise PCWError(f"label {i} has no tokens")
        if (first := labels.index(label)) < i:
            raise PCWError(f"labels {first} and {i} have the same tokens {list(label)}")
    tasks = _check_tasks(model, plan.reader.kind, encoded, tasks, extra=max(map(len, labels)) - 1)
    if scores == "trie":
        _check_masks(model)
    score = {"trie": _score_trie, "each": _score_each, "greedy": _score_greedy}[scores]
    found = torch.empty(len(tasks), len(labels))
    for indices, members in plan.groups(tasks).items():
        rows = score(plan, indices, [tasks[i] for i in members], labels, packed)
        found[members] = torch.stack(rows).cpu()
    return found


def _score_trie(plan: _Plan, indices, tasks, labels, packed: bool) -> list[torch.Tensor]:
    trie = _Trie(labels)
    streams = 1 if plan.mode.name == "pcw" else len(indices) + 1
    vocabulary = plan.reader.model.get_input_embeddings().num_embeddings
    step = max(1, SCORED_LOGITS // (streams * (1 + len(trie.tokens)) * vocabulary))
    rows = []
    for start in range(0, len(tasks), step):
        logits = plan.logits(indices, tasks[start : start + step], packed, trie, end=0)
        rows += [trie.score(each) for each in logits]
    return rows


def _score_each(plan: _Plan, indices, tasks, labels, packed: bool) -> list[torch.Tensor]:
    def score(task: tuple[int, ...], label: tuple[int, ...]) -> torch.Tensor:
        end = len(task) - 1
        logs = plan.logits(indices, [task + label[:-1]], end=end)[0][end:].float().log_softmax(-1)
        return logs.gather(1, torch.tensor(label, device=logs.device)[:, None]).sum()

    return [torch.stack([score(task, label) for label in labels]) for task in tasks]


def _score_greedy(plan: _Plan, indices, tasks, labels, packed: bool) -> list[torch.Tensor]:
    reader, context = plan.reader, plan.encoded.context(indices, plan.temperature)
    rows = []
    for task in tasks:
        cache = _cache(reader.model, context.layers)
        taken, score, ids = (), 0.0, torch.tensor([task])
        while True:
            left = [label for label in labels if label[: len(taken)] == taken]
            if len(left) == 1:
                break
            positions = context.next_position + torch.arange(len(task) + len(taken))[None]
            keep = torch.tensor([ids.shape[1] - 1])
            logs = reader.run(context, ids, positions, keep=keep, cache=cache)[0, 0].float().log_softmax(-1)
            allowed = sorted({label[len(taken)] for label in left if len(label) > len(taken)})
            if taken in left and int(logs.argmax()) not in allowed:
                left = [taken]
                break
            token = allowed[int(logs[allowed].argmax())]
            taken, score, ids = (*taken, token), score + float(logs[token]), torch.tensor([[token]])
        row = torch.full((len(labels),), -math.inf)
        row[labels.index(left[0])] = score
        rows.append(row)
    return rows


# -- generation


class _StreamCache(DynamicCache):
    """One cache per context behind the face of one, for generation from combined distributions."""

    def __init__(self, caches: list[DynamicCache]):
        super().__init__()
        self.caches = caches

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.caches[0].get_seq_length()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        for cache in self.caches:
            cache.reorder_cache(beam_idx)


def _combining(plan: _Plan, indices, contexts: list[_Context], task_positions: torch.Tensor):
    """A shallow copy of the model whose forward reads every context and combines the logits of the last token."""
    model = plan.reader.model
    offsets = [len(context.positions) for context in contexts]
    name, chosen = _cache_name(model), None

    @functools.wraps(model.forward)
    def forward(input_ids, attention_mask=None, position_ids=None, **kwargs):
        nonlocal chosen
        given = {key: kwargs.pop(key) for key in [key for key, value in kwargs.items() if is_cache(value)]}
        merged = next(iter(given.values()), None)
        if len(given) != 1 or not isinstance(merged, _StreamCache):
            raise PCWError(f"generate passed {', '.join(given) or 'no cache'} where the windows were. {remedy()}")
        task_mask = None if attention_mask is None else attention_mask[:, offsets[0] :]
        streams = []
        for context, cache in zip(contexts, merged.caches, strict=True):
            inputs = dict(kwargs)
            if task_mask is not None:
                seen = task_mask.new_ones(task_mask.shape[0], len(context.positions))
                inputs["attention_mask"] = torch.cat([seen, task_mask], dim=1)
            if position_ids is not None:
                inputs["position_ids"] = position_ids + context.next_position
            with plan.reader.seeing(context, task_positions + context.next_position):
                before = _held(cache)
                output = model(input_ids=input_ids, **{name: cache}, **inputs)
            _check_read(model, cache, before, input_ids.shape[1])
            streams.append(output.logits[:, -1:])
        streams = torch.stack(streams)
        if plan.mode.name == "single" and chosen is None:
            chosen = _least_entropy(streams.float().log_softmax(-1))
        output.logits = plan.mode.combine(streams, indices, chosen)
        output[OUTPUT_NAME] = merged
        return output

    combining = copy.copy(model)
    combining.__dict__["forward"] = forward
    return combining


def _texts_to_ids(model, tokenizer, contexts, prefix):
    """(contexts, prefix, BOS id that must not be read again at the start of a task or None) from texts."""
    if tokenizer is None:
        if not (name := model.config._name_or_path):
            raise PCWError("contexts are texts and the model does not know where it came from: give tokenizer=")
        tokenizer = AutoTokenizer.from_pretrained(name)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    if prefix is None:
        prefix = [bos] if adds_bos else []
    elif isinstance(prefix, str):
        prefix = tokenizer(prefix)["input_ids"]
    contexts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in contexts]
    return contexts, prefix, bos if adds_bos and len(prefix) and prefix[0] == bos else None


def _task_mask(ids: torch.Tensor, mask: torch.Tensor | None, setting: Callable) -> torch.Tensor:
    """(Q, L) int64, 0 on padding: as given, or as stock `generate` infers it."""
    if mask is None:
        pad, eos = setting("pad_token_id"), setting("eos_token_id")
        eos = eos if isinstance(eos, (list, tuple)) else [eos]
        mask = torch.ones_like(ids) if pad is None or pad in eos else (ids != pad).long()
    if mask.shape != ids.shape:
        raise PCWError(f"attention_mask is {tuple(mask.shape)}: expected that of the task ids, {tuple(ids.shape)}")
    if not mask[:, -1].all():
        raise PCWError("a task ends with padding: pad on the left (tokenizer.padding_side='left')")
    return mask.to(ids.device).long()


@torch.no_grad()
def generate(
    inputs: torch.Tensor | None = None,
    generation_config=None,
    *,
    model,
    contexts: Sequence | None = None,
    prefix: Sequence[int] | str | None = None,
    encoded: EncodedWindows | None = None,
    tokenizer=None,
    alignment: str = "left",
    mode: str = "pcw",
    attention_temperature: float = 1.0,
    self_weight: float = 1.0,
    top_k_windows: int | None = None,
    weights: Sequence[float] | None = None,
    beta: float = 0.25,
    **kwargs,
):
    """`model.generate` after parallel windows; the function of the `custom_generate` folder.

    Takes all of stock `generate`'s arguments but those of `NOT_WITH_WINDOWS`: greedy, sampling, beams,
    `num_return_sequences`, streamers, stopping criteria, logits processors, left-padded batches of tasks.

    Args:
        inputs: (Q, L) task ids, also as `input_ids`.
        contexts: texts, or lists of token ids; or give `encoded` windows instead.
        prefix: read before every context and kept once: text or ids; by default BOS where contexts are texts and the
            tokenizer adds one. A BOS that also begins a task is then masked out of it.
        tokenizer: for texts; by default the one of the model's folder.
        mode, attention_temperature, self_weight, top_k_windows, weights, beta: as in `task_logits`, whose
            `temperature` is `attention_temperature` here; top-k needs a single task.

    Returns: what stock `generate` returns; sequences hold the task ids as given, then the new ones.
    Raises PCWError as `encode_windows` and `task_logits`, for `use_cache=False` and for arguments that conflict.
    """
    model = plain_model(model)
    stock = {name: value for name, value in kwargs.items() if value is not None}
    ids = stock.pop("input_ids", inputs)
    if wrong := [name for name, value in stock.items() if name in NOT_WITH_WINDOWS or is_cache(value)]:
        raise PCWError(f"{wrong[0]} cannot be given together with parallel windows")
    for config, where in ((generation_config, "generation_config"), (model.generation_config, "model.generation_config")):
        own = () if config is model.generation_config else CACHE_SETTINGS
        for name in (*own, *ALTERING_SETTINGS):
            if (value := getattr(config, name, None)) not in (None, 1.0):
                raise PCWError(f"{where}.{name} is {value!r}: not with parallel windows, set it to None")
    if stock.pop("use_cache", True) is False or (
        generation_config is not None and generation_config.use_cache is False
    ):
        raise PCWError("use_cache=False: parallel windows are a cache")
    if (contexts is None) == (encoded is None) or (prefix is not None and encoded is not None):
        raise PCWError("give either contexts, with or without a prefix, or encoded windows, which have theirs")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or not ids.numel():
        raise PCWError("inputs must be a tensor of task ids, (tasks, length), without embeddings")
    kind, again = check_model(model), None
    _check_generates(model)
    if contexts is not None:
        contexts = _listed(contexts, "contexts", "text or list of token ids")
        if all(isinstance(context, str) for context in contexts):
            contexts, prefix, again = _texts_to_ids(model, tokenizer, contexts, prefix)
        elif isinstance(prefix, str) or any(isinstance(context, str) for context in contexts):
            raise PCWError("contexts and prefix must be all texts or all token ids")

    def setting(name: str):
        for source in (stock, generation_config, model.generation_config):
            value = source.get(name) if isinstance(source, dict) else getattr(source, name, None)
            if value is not None:
                return value

    mask = _task_mask(ids, stock.pop("attention_mask", None), setting)
    if again is not None:
        starts = torch.nn.functional.one_hot(mask.argmax(1), ids.shape[1]).bool() & (ids == again)
        # a task that is BOS alone keeps it
        mask = mask.masked_fill(starts & (mask.sum(1, keepdim=True) > 1), 0)
    if kind == "alibi" and model.config.model_type == "mpt" and not mask.all():
        raise PCWError("mpt has one bias for all rows of a batch: give tasks of one length, or one at a time")
    if ids.min() < 0 or ids.max() >= model.get_input_embeddings().num_embeddings:
        raise PCWError("inputs hold token ids outside the model's vocabulary")
    if encoded is not None:
        check_encoded(model, encoded)
        prefix, windows = encoded.prefix, encoded.windows
    else:
        prefix = _token_ids(model, () if prefix is None else prefix, "prefix")
        windows = _window_ids(model, kind, contexts, prefix)
    knobs = (mode, attention_temperature, self_weight, top_k_windows, weights, beta)
    knobs = check_knobs(model, kind, len(windows), *knobs)
    if top_k_windows is not None and len(ids) > 1:
        raise PCWError("top_k_windows chooses windows for one task: generate one at a time")
    first, longest = len(prefix) + max(map(len, windows)), int(mask.sum(1).max())
    # rotary positions go on past the trained ones, as in stock generate; tables of positions and scales end
    config = model.config.get_text_config(decoder=True)
    scaled = scale_switch(config)[1] is not None
    tables = scaled or getattr(config, "rope_parameters", None) is None
    if scaled:  # Phi-3's code counts padding, too
        longest = max(longest, ids.shape[1])
    new = setting("max_new_tokens")
    if new is None and setting("max_length") is not None:
        new = setting("max_length") - ids.shape[1]
    _check_length(model, kind, first, longest, new - 1 if tables and new else 0, "the longest task")
    if tables and new is None:
        stock["max_new_tokens"] = int(min(STOCK_NEW_TOKENS, _positions(model, kind)[0] - first - longest + 1))
    if tokenizer is not None and setting("stop_strings"):
        stock["tokenizer"] = tokenizer
    plan = _Plan(encoded or encode_windows(model, windows, prefix, alignment), **knobs)
    indices = next(iter(plan.groups([tuple(ids[0, mask[0].bool()].tolist())])))
    rows = max(setting("num_beams") or 1, setting("num_return_sequences") or 1)
    return _generate(plan, indices, ids, mask, rows, generation_config, stock)


def _generate(plan: _Plan, indices, ids, mask, rows: int, generation_config, stock: dict):
    """Stock generation of `rows` sequences per task behind the merged cache."""
    model = plan.reader.model
    contexts = plan.mode.contexts(plan.encoded, indices, plan.temperature)
    rows = rows * len(ids)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    caches = [_cache(model, context.layers, rows) for context in contexts]
    stock["attention_mask"] = torch.cat([mask.new_ones(len(ids), len(contexts[0].positions)), mask], dim=1)
    if generation_config is not None:
        generation_config = copy.copy(generation_config)
        generation_config.use_cache = True
    else:
        stock["use_cache"] = True
    stock |= {"inputs": ids, "generation_config": generation_config}
    accepts_positions = _accepts(model, "position_ids")
    if plan.mode.name == "pcw":
        positions = positions + contexts[0].next_position
        if accepts_positions:
            stock["position_ids"] = positions
        before = _held(caches[0])
        with plan.reader.seeing(contexts[0], positions):
            output = GenerationMixin.generate(_with_given_cache(model), **{OUTPUT_NAME: caches[0]}, **stock)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        if before is not None and _held(caches[0]) < before + sequences.shape[1] - 1:
            raise PCWError(
                f"{type(model).__name__} began a cache of its own while it generated: what it wrote has not read the windows. "
                f"{remedy()}"
            )
        return output
    if accepts_positions:
        stock["position_ids"] = positions
    combining = _with_given_cache(_combining(plan, indices, contexts, positions))
    return GenerationMixin.generate(combining, **{OUTPUT_NAME: _StreamCache(caches)}, **stock)


def _with_given_cache(model):
    """`model`, or a shallow copy that makes no cache of its own where its generation config asks for one."""
    if all(getattr(model.generation_config, name, None) is None for name in CACHE_SETTINGS):
        return model
    model = copy.copy(model)
    model.generation_config = copy.copy(model.generation_config)
    for name in CACHE_SETTINGS:
        setattr(model.generation_config, name, None)
    return model


def _check_generates(model) -> None:
    """PCWError if this version's `generate` would not hand the windows to the model, or something stands before them."""
    name = model.config.model_type
    if not _accepts(model, OUTPUT_NAME):
        raise PCWError(
            f"the code of {name} takes its cache as {_cache_name(model)}, but generate of transformers "
            f"{transformers.__version__} passes it as {OUTPUT_NAME}: the windows would be lost; update that code"
        )
    peft = getattr(vars(model).get("prepare_inputs_for_generation"), "__self__", None)
    if peft is not None and getattr(getattr(peft, "active_peft_config", None), "is_prompt_learning", False):
        raise PCWError("a soft prompt stands before all else, which windows do too: generate without it, or use LoRA")


# -- versions that this code was not tested with


_PROVEN: weakref.WeakSet = weakref.WeakSet()
_PROOF = threading.RLock()


@torch.no_grad()
def _prove(model, kind: str) -> None:
    """On versions that this code was not tested with, compare windows with plain computation, once per model.

    Raises:
        PCWError: they differ, or cannot be read at all.
    """
    if model.training or not self_checks():
        return
    with _PROOF:
        if model in _PROVEN:
            return
        _PROVEN.add(model)
        try:
            _check_generates(model)
            difference = _window_difference(model, kind)
        except Exception as error:
            _PROVEN.discard(model)
            if isinstance(error, PCWError):
                raise
            raise PCWError(f"windows cannot be read ({type(error).__name__}: {error}). {remedy()}") from error
        tolerance = TOLERANCES.get(model.dtype, HALF_TOLERANCE)
        if not difference <= tolerance:
            _PROVEN.discard(model)
            raise PCWError(
                f"{type(model).__name__} computes other logits behind windows than without (relative difference "
                f"{difference:.2g}, at most {tolerance:g} is rounding). {remedy()} {SWITCH}=0 turns this check off."
            )


def _window_difference(model, kind: str) -> float:
    """Largest relative difference of logits: one window and the joined text; two windows, read in two ways and orders."""
    size = model.get_input_embeddings().num_embeddings
    first, second, task = (tuple((7 * i + n) % size for i in range(n)) for n in (6, 3, 2))
    ids = torch.tensor([task], device=model.device)
    config = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "num_beams": 1, "pad_token_id": 0}
    config |= {"output_logits": True, "return_dict_in_generate": True}

    def plan(windows, mode: str = "pcw") -> _Plan:
        return _Plan(encode_windows(model, windows), _Reader(model, kind), _Mode(mode, 0.0, None), 1.0, None)

    def generated(plan: _Plan):
        found = _generate(plan, range(len(plan.encoded.windows)), ids, torch.ones_like(ids), 1, None, dict(config))
        return tuple(found.sequences[0, :-1].tolist()), torch.cat(found.logits)

    pairs = []
    for mode in ("pcw", "ensemble"):
        tokens, logits = generated(plan([first], mode))
        plain = model(input_ids=torch.tensor([first + tokens], device=model.device), use_cache=False).logits[0]
        pairs.append((logits, plain[-len(logits) :]))
    both = plan([first, second])
    tokens, logits = generated(both)
    for each in (both, plan([second, first])):
        pairs.append((each.logits((0, 1), [tokens])[0][-len(logits) :], logits))
    centred = [[(x.float() - x.float().mean(-1, keepdim=True)) for x in pair] for pair in pairs]
    return max(float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max()) for a, b in centred)
