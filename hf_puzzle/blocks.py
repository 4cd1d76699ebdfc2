"""The one description of a layer: what its attention and its FFN are. Formats, engines and search all speak it.

An attention variant is a number of KV heads, `kv4win512` (KV heads and a sliding window), `linear` (one linear map) or
`none`; an FFN variant is a width, `e4` (experts kept of a mixture), `linear` or `none` (Puzzle, arXiv 2411.19146,
section 2). Ids: `kv4`, `w512`, and the words themselves; a block is `kv4+w512`.
"""

import re
from typing import NamedTuple


Variant = int | str
LINEAR, NONE = "linear", "none"
KINDS = {"attention": "kv", "ffn": "w"}
MAX_DIGITS = 12  # of a number in an id
_WINDOWED = re.compile(rf"kv([1-9]\d{{0,{MAX_DIGITS - 1}}})win([1-9]\d{{0,{MAX_DIGITS - 1}}})", re.ASCII)
_EXPERTS = re.compile(rf"e([1-9]\d{{0,{MAX_DIGITS - 1}}})", re.ASCII)


def variant_id(kind: str, variant: Variant) -> str:
    """`kv4` / `w512` for a number, else the word itself."""
    return f"{KINDS[kind]}{variant}" if isinstance(variant, int) else variant


def parse_variant(kind: str, text: str) -> Variant:
    """The inverse of `variant_id`; ValueError for anything it does not write."""
    special = _WINDOWED if kind == "attention" else _EXPERTS
    if text in (LINEAR, NONE) or special.fullmatch(text):
        return text
    prefix = KINDS[kind]
    number = re.fullmatch(rf"{prefix}(0|[1-9]\d{{0,{MAX_DIGITS - 1}}})", text, re.ASCII)
    if number is None:
        example = "kv4win512" if kind == "attention" else "e4"
        raise ValueError(
            f"{text[:80]!r} is not an {kind} variant: expected {prefix}<number>, {example}, {LINEAR} or {NONE}"
        )
    return int(number[1])


def windowed(kv_heads: int, window: int) -> Variant:
    """Attention of `kv_heads` KV heads that sees the last `window` tokens, itself included."""
    return f"kv{kv_heads}win{window}"


def kv_heads(attention: Variant) -> int | None:
    """KV heads of an attention variant; None where there is no attention."""
    if isinstance(attention, int):
        return attention
    match = _WINDOWED.fullmatch(attention)
    return int(match[1]) if match else None


def window(attention: Variant) -> int | None:
    """Tokens a sliding-window attention sees; None for full attention and where there is none."""
    match = isinstance(attention, str) and _WINDOWED.fullmatch(attention)
    return int(match[2]) if match else None


def num_experts(ffn: Variant) -> int | None:
    """Experts of a mixture; None for a dense FFN."""
    match = isinstance(ffn, str) and _EXPERTS.fullmatch(ffn)
    return int(match[1]) if match else None


class Block(NamedTuple):
    """One layer of a child."""

    attention: Variant
    ffn: Variant

    @property
    def id(self) -> str:
        return f"{variant_id('attention', self.attention)}+{variant_id('ffn', self.ffn)}"

    @classmethod
    def parse(cls, text: str) -> "Block":
        """Raises ValueError for anything that `Block.id` does not write."""
        attention, plus, ffn = text.partition("+") if isinstance(text, str) else ("", "", "")
        if not plus:
            raise ValueError(f"{text!r:.80} is not a block: expected attention+ffn, e.g. kv4+w512")
        return cls(parse_variant("attention", attention), parse_variant("ffn", ffn))
