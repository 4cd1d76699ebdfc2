"""Types in which llama.cpp keeps keys and values (`--cache-type-k`, `--cache-type-v`): what they leave of them, and their bytes.

One type serves all layers of a model. Groups of 32 numbers of a head share a scale, as in the GGUF types of the same names.
Where the size of a head is a multiple of 64, llama.cpp turns queries, keys and values by a Hadamard matrix first, which spreads
outliers and leaves products as they are (in llama-cpp-python 0.3.36; `LLAMA_ATTN_ROT_DISABLE=1` leaves it out). Queries are
rounded to q8_0, as its products with such keys have them on CPUs.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..blocks import WEIGHT_TYPES
from ..recipe import RecipeError
from .weight_types import GGUF_GROUP, held_bytes


CACHE_TYPES = WEIGHT_TYPES["llama.cpp"]  # bits of a number, without its share of a scale
ATTENTION = "sdpa"  # the implementation of transformers that `rounded_cache` rounds in
_TURNED = 64  # least size of a turn, and that of values


def cache_type(bits: int | str) -> str | None:
    """The type of `kv_cache.bits`; None for 16, the dtype.

    Raises:
        RecipeError: bits that no type has.
    """
    if bits == 16:
        return None
    name = next((name for name, each in CACHE_TYPES.items() if bits in (each, name)), None)
    if name is None:
        raise RecipeError(f"kv_cache.bits: {bits!r} is none of 16, 8, 4, {', '.join(CACHE_TYPES)}")
    return name


def cache_bytes(numbers: int, name: str) -> int:
    """Bytes of keys or values of so many numbers, a multiple of 32."""
    return held_bytes((1, numbers), name, 0)


def rounded(states: torch.Tensor, name: str) -> torch.Tensor:
    """What a type leaves of numbers, in groups along the last axis; float32."""
    groups = states.float().unflatten(-1, (-1, GGUF_GROUP))
    if name == "q8_0":
        scale = groups.abs().amax(-1, keepdim=True) / 127
        whole = _divided(groups, scale)
        whole = whole.sign() * (whole.abs() + 0.5).floor()
    else:  # q4_0: the number farthest from 0, with its sign, is -8
        farthest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
        scale = farthest / -8
        whole = (_divided(groups, scale) + 8.5).floor().clamp(0, 15) - 8
    return (whole * scale.half().float()).flatten(-2)


def _divided(groups: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return groups * torch.where(scale == 0, 0.0, 1 / scale)


@functools.cache
def _hadamard(size: int, device: torch.device) -> torch.Tensor:
    """Orthonormal and symmetric, `(size, size)`."""
    matrix = torch.ones(1, 1, device=device)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def kept_states(states: torch.Tensor, name: str, is_key: bool) -> torch.Tensor:
    """What a cache leaves of keys behind RoPE or of values, `(batch, heads, length, head_dim)`, in their dtype."""
    head_dim, found = states.shape[-1], states.float()
    if is_key:  # a DeciLM file has the two halves that RoPE turns beside each other
        found = found.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    size = head_dim & -head_dim if is_key else _TURNED  # the largest power of two that divides it
    turns = _hadamard(size, states.device) if head_dim % _TURNED == 0 else None
    if turns is not None:
        found = (found.unflatten(-1, (-1, size)) @ turns).flatten(-2)
    found = rounded(found, name)
    if turns is not None:
        found = (found.unflatten(-1, (-1, size)) @ turns).flatten(-2)
    if is_key:
        found = found.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return found.to(states.dtype)


@contextlib.contextmanager
def rounded_cache(name: str | None) -> Iterator[None]:
    """As long as the context lasts, models of this process that run with `ATTENTION` attend to the keys and values that a
    cache of this type would hold; None: to their own."""
    if name is None:
        yield
        return
    plain = ALL_ATTENTION_FUNCTIONS[ATTENTION]

    def attend(module, query, key, value, *args, **kwargs):
        query, key = (kept_states(states, kind, True) for states, kind in ((query, "q8_0"), (key, name)))
        return plain(module, query, key, kept_states(value, name, False), *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS[ATTENTION] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[ATTENTION] = plain
