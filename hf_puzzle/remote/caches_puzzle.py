"""What carries state through a child: its key-value cache, under whatever name a version of transformers passes it.

5.24 renamed `past_key_values` to `cache`, so a cache is known by what it can do and never swallowed with other keywords.
On versions that this code was not tested with, a child proves its first step with a cache against one without.
"""

import dataclasses
import inspect
import os

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast


TESTED = ("4.57", "5.23", "5.24")  # minor versions of transformers
SWITCH = "HF_PUZZLE_SELF_CHECK"  # 0: never, 1: on every version
# of PCW's and MRKL's folders. No ceiling: it would refuse versions that work, and those not tested prove themselves
REQUIREMENTS = "transformers>=5.23\n"
NAMES = ("cache", "past_key_values")
# what outputs of the installed version call it
_FIELDS = {field.name for field in dataclasses.fields(BaseModelOutputWithPast)}
OUTPUT_NAME = next((name for name in NAMES if name in _FIELDS), NAMES[0])
# a longer text is too dear to be computed twice; a made one stands for it
MAX_PROVEN_TOKENS, MADE_TOKENS = 8, 4
# relative differences that rounding explains; a lost or misplaced cache gives about 1
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_TOLERANCE = 0.1


class CacheError(ValueError):
    """A cache came in a way that this code does not know, or computes other logits than no cache."""


def is_cache(value) -> bool:
    """Whether a value is a key-value cache, of any class."""
    return hasattr(value, "update") and hasattr(value, "get_seq_length")


def is_paged(value) -> bool:
    """Whether a value is continuous batching's cache: it is told positions and masks, and has no length of its own."""
    return hasattr(value, "update") and hasattr(value, "free_blocks")


def find_cache(args: tuple, kwargs: dict):
    """The cache among the arguments of a call, None if there is none."""
    return next((value for value in (*args, *kwargs.values()) if is_cache(value)), None)


def one_cache(known: dict, others: dict):
    """The cache that a model was called with.

    Args:
        known: names under which the model takes a cache, each with what was given.
        others: all other keywords.

    Raises:
        CacheError: a cache under another name, two caches, or something that is none.
    """
    if strange := [name for name, value in others.items() if is_cache(value)]:
        raise CacheError(
            f"{strange[0]}={type(others[strange[0]]).__name__}: a cache under a name that this model does not know; it takes "
            f"{' or '.join(known)}. {remedy()}"
        )
    given = {name: value for name, value in known.items() if value is not None}
    for name, value in given.items():
        if not (is_cache(value) or is_paged(value)):
            raise CacheError(f"{name} is a {type(value).__name__}: expected a Cache of transformers")
    if len({id(value) for value in given.values()}) > 1:
        raise CacheError(
            f"{' and '.join(given)} are different caches: give one, which transformers {transformers.__version__} calls {OUTPUT_NAME}"
        )
    return next(iter(given.values()), None)


def check_not_lost(cache, use_cache: bool | None, length: int, attention_mask) -> None:
    """Raise CacheError where a mask covers tokens that neither the call nor a cache brings: their states were lost."""
    if cache is not None or not use_cache or torch.compiler.is_compiling():
        return
    if isinstance(attention_mask, torch.Tensor) and attention_mask.shape[-1] > length:
        raise CacheError(
            f"attention_mask covers {attention_mask.shape[-1]} tokens, the call has {length} and no cache: pass the cache of the "
            f"earlier ones as past_key_values, or use_cache=False with all tokens. {remedy()}"
        )


class CacheName:
    """Forward pre-hook of a stock model: it gets its cache under the name that it takes; nothing is swallowed."""

    def __init__(self, model: nn.Module):
        self.takes = [name for name in inspect.signature(type(model).forward).parameters if name in NAMES]
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict):
        others = {name: value for name, value in kwargs.items() if name not in NAMES}
        cache = one_cache({name: kwargs.get(name) for name in NAMES}, others)
        if is_paged(cache):
            return None
        tokens = next(
            (v for v in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if v is not None), None
        )
        if tokens is not None:
            use_cache = kwargs.get("use_cache", module.config.use_cache)
            given = find_cache(args, {}) if cache is None else cache  # an empty cache counts as false
            check_not_lost(given, use_cache, tokens.shape[1], kwargs.get("attention_mask"))
        return args, others if cache is None else {**others, self.takes[0]: cache}


def remedy() -> str:
    """What to do where this code and the installed version may not fit."""
    return (
        f"This code was tested with transformers {', '.join(TESTED)}; {transformers.__version__} is installed. Install one of "
        "those, or take the newest code of this model's repository."
    )


def self_checks() -> bool:
    """Whether children prove their first cached step: on versions that this code was not tested with, or as told."""
    told = os.environ.get(SWITCH, "")
    if told not in ("", "0", "1"):
        raise ValueError(f"{SWITCH}={told!r}: expected 0 (never) or 1 (on every version)")
    tested = any(f"{transformers.__version__}.".startswith(f"{minor}.") for minor in TESTED)
    return told == "1" or (told == "" and not tested)


def prove_first_step(model: nn.Module) -> None:
    """Hook a causal LM: its first step with a filled cache is compared with the same step without one."""
    if self_checks():
        model.register_forward_hook(_Proof(), with_kwargs=True)


class _Proof:
    """Forward hook: remembers what went into an empty cache, and compares the first step behind it, once."""

    def __init__(self):
        self.passed = self.running = False
        self.seen = None  # the cache, and what it holds

    @torch.no_grad()
    def __call__(self, model: nn.Module, args: tuple, kwargs: dict, output) -> None:
        if self.passed or self.running or model.training or torch.compiler.is_compiling():
            return
        given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        # one that the model made itself is only in its output
        cache = find_cache((*args, *kwargs.values()), dict(output.items()) if isinstance(output, dict) else {})
        if cache is None or "Quantized" in type(cache).__name__:  # whose loss is meant
            return
        self.running = True
        try:
            self._step(model, given, cache, output)
        finally:
            self.running = False

    def _step(self, model, given: dict, cache, output) -> None:
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        length = int(cache.get_seq_length())
        seen, self.seen = self.seen, None
        plain = ids is not None and (mask is None or (isinstance(mask, torch.Tensor) and mask.ndim == 2))
        if plain and length == ids.shape[1]:
            self.seen = (cache, ids, given.get("position_ids"))
            return
        if plain and seen is not None and seen[0] is cache and length == seen[1].shape[1] + ids.shape[1]:
            together, positions = _joined(seen[1], ids), _joined(seen[2], given.get("position_ids"))
            if together is not None and together.numel() <= MAX_PROVEN_TOKENS:
                uncached = model(
                    input_ids=together, attention_mask=mask, position_ids=positions, use_cache=False
                ).logits
                self._compare(output.logits[:, -1], uncached[:, -1])
                return
        self._made(model)

    def _made(self, model) -> None:
        """The proof on a text of our own and a new cache, where the caller's would be dear or is not known whole."""
        device = next(model.parameters()).device
        ids = torch.arange(MADE_TOKENS, device=device)[None] % model.config.get_text_config().vocab_size
        whole = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        cache = _without_last(find_cache((), dict(whole.items())), MADE_TOKENS)
        if cache is None:
            cache = model.get_decoder()(input_ids=ids[:, :-1], use_cache=True)[OUTPUT_NAME]
        step = model(input_ids=ids[:, -1:], use_cache=True, **{OUTPUT_NAME: cache})
        self._compare(step.logits[:, -1], whole.logits[:, -1])

    def _compare(self, cached: torch.Tensor, uncached: torch.Tensor) -> None:
        tolerance = TOLERANCES.get(cached.dtype, HALF_TOLERANCE)
        difference = (cached.float() - uncached.float()).norm(dim=-1) / uncached.float().norm(dim=-1)
        if not (difference <= tolerance).all():
            raise CacheError(
                f"the first step with a cache gives other logits than without (relative difference {difference.max().item():.2g}, "
                f"at most {tolerance:g} is rounding). {remedy()} Until then use_cache=False is right, and slow; "
                f"{SWITCH}=0 turns this check off."
            )
        self.passed = True


def _without_last(cache, length: int):
    """A cache of `length` tokens without its last one; None where it cannot forget (windows that are full)."""
    try:
        cache.crop(-1)
        return cache if cache.get_seq_length() == length - 1 else None
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None


def _joined(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    """Tokens or positions of two calls in one; None where there are none, or the rows differ."""
    if first is None or second is None or first.shape[:-1] != second.shape[:-1]:
        return None
    return torch.cat((first, second), dim=-1)
