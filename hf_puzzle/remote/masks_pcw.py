"""What a model can do with parallel windows, and its masks and biases by position, by family.

Where stock code counts cache entries instead of positions (sliding windows, ALiBi, packed rows), masks and biases are made
by position for the duration of a call, in the calling thread only. Needs transformers >= 5.23.

Shapes: M cached keys (prefix + all windows), R rows of tasks, L task tokens.
"""

import contextlib
import functools
import inspect
import math
import operator
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextvars import ContextVar

import torch
from transformers import PreTrainedModel

from .caches_puzzle import NAMES, find_cache, remedy


try:
    from transformers.cache_utils import get_layer_types_and_kwargs
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
except ImportError as error:
    raise ImportError(f"parallel windows need transformers >= 5.23 ({error}). {remedy()}") from None


MERGEABLE = {"full_attention": "plain", "dummy": "plain", "sliding_attention": "sliding"}
ALIBI_BUILDERS = ("build_alibi_tensor", "build_mpt_alibi_tensor")


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
    if model.config.is_encoder_decoder:
        raise PCWError(f"{name} is an encoder-decoder: parallel windows need a decoder-only model")
    if getattr(model, "_is_stateful", False):
        raise PCWError(f"{name} has recurrent layers: their states cannot be merged as keys and values can")
    if cache_name(model) is None:
        raise PCWError(
            f"{name} has no key-value cache that this code knows (its forward takes none of {', '.join(NAMES)}). {remedy()}"
        )
    decoder = decoder_of(model)
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
    elif not accepts(model, "position_ids"):
        raise PCWError(f"{name} takes no position_ids: windows could not share positions")
    else:
        kind = "sliding" if _window_hooks(decoder) or "sliding_attention" in kinds else "plain"
    if kind != "plain":
        check_masks(model)
    return kind


def decoder_of(model):
    """The model without its head."""
    for decoder in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(decoder, PreTrainedModel) and decoder is not model:
            return decoder
    raise PCWError(f"{model.config.model_type} has no decoder apart from its head")


def check_masks(model) -> None:
    name = decoder_of(model).config._attn_implementation
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


def accepts(module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def cache_name(module) -> str | None:
    """What this version's code of a model calls its cache; None: nothing that is known here."""
    return next((name for name in NAMES if accepts(module, name)), None)


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


def position_limit(model, kind: str) -> tuple[float, str]:
    """(positions that windows and a task may have, what limits them)."""
    config = model.config.get_text_config(decoder=True)
    limit = None if kind == "alibi" else getattr(config, "max_position_embeddings", None)
    limit, said = limit or math.inf, f"{model.config.model_type} has"
    switch, rope = scale_switch(config)
    if switch <= limit:
        return switch, f"{said} {switch} positions before its {rope} scale changes, which windows and task must share"
    return limit, f"{said} {limit} positions"


def check_length(model, kind, first: int, length: int, extra: int, what: str) -> None:
    limit, said = position_limit(model, kind)
    if (excess := first + length + extra - limit) > 0:
        after = f" and {extra} tokens after it" if extra else ""
        windows = f"the longest window ends before position {first}, " if first else ""
        raise PCWError(f"{what} is {excess} tokens too long: {windows}the task has {length} tokens{after}, and {said}")


# -- what is handed in


def column_names(value) -> list | None:
    """Names of the columns of a data set or data frame (of datasets, pandas, Polars, Arrow); None for anything else."""
    found = getattr(value, "column_names", None)
    found = getattr(value, "columns", None) if found is None else found
    return None if found is None or callable(found) else list(found)


def listed(value, what: str, items: str = "list of token ids"):
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


def check_count(value, what: str, least: int = 1) -> None:
    """PCWError for what is neither None nor a whole number from `least` on."""
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
        raise PCWError(f"{what} is {value!r:.80}: expected a whole number, at least {least}")


def token_ids(model, ids: Sequence[int], what: str) -> tuple[int, ...]:
    try:
        ids = tuple(operator.index(i) for i in (None if isinstance(ids, Mapping | Set) else ids))
    except TypeError:
        raise PCWError(f"{what} is {ids!r:.80}: expected a list of token ids") from None
    vocabulary = model.get_input_embeddings().num_embeddings
    if wrong := [i for i in ids if not 0 <= i < vocabulary]:
        raise PCWError(f"{what} holds token id {wrong[0]}, outside the model's vocabulary of {vocabulary}")
    return ids


# -- masks and biases by position


class View:
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


_VIEW: ContextVar[View | None] = ContextVar("pcw_view", default=None)
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


def sites_of(model, kind: str) -> list[tuple]:
    """(owner, attribute, what to put around it) of all that must go by position."""
    decoder = decoder_of(model)
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
def seen_by(view: View, sites: list[tuple]) -> Iterator[None]:
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
