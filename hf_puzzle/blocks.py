"""The one description of a layer: what its attention and its FFN are. Formats, engines and search all speak it.

An attention variant is a number of KV heads, `kv4win512` (KV heads and a sliding window), `linear` (one linear map) or
`none`; an FFN variant is a width, `e4` (experts kept of a mixture; `e4w256`: each of that width; `e4top1`: so many for
each token), `linear` or `none`; `recurrent` is a hybrid's own mixer, kept (Puzzle, arXiv 2411.19146, section 2). Ids: `kv4`, `w512`, and the words themselves; a block is `kv4+w512`. Every sort of variant is one row of
`rows`; sub-blocks that the published code adds (`SUB_BLOCKS`) bring their own (recipes/ADD_A_BLOCK.md). A variant whose
matrices are kept in fewer bits names an engine's number format behind itself: `kv4@q8_0`, `w512@int4`.
"""

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple


Variant = int | str
LINEAR, NONE = "linear", "none"
RECURRENT = "recurrent"  # the parent's own mixer with a state, as it is
KINDS = {"attention": "kv", "ffn": "w"}
MIXTURES = {
    "e{}": ("experts",),
    "e{}w{}": ("experts", "expert_width"),
    "e{}top{}": ("experts", "experts_per_tok"),
    "e{}w{}top{}": ("experts", "expert_width", "experts_per_tok"),
}
MAX_DIGITS = 12  # of a number in an id
# number formats of matrices, by the engine that has them: bits of a weight, without the scales of its group
WEIGHT_TYPES = {"llama.cpp": {"q8_0": 8, "q4_0": 4}, "transformers": {"int8": 8, "int4": 4}}
_ALL_TYPES = {name for types in WEIGHT_TYPES.values() for name in types}
_GRAPH_ENGINES = ("onnxruntime", "openvino")
_PER_LAYER_ENGINES = ("transformers", "transformers-serve", "continuous-batching", *_GRAPH_ENGINES)


@dataclass(frozen=True)
class Row:
    """A sort of variant: what formats, training, engines and costs ask about it. Parameters are counted on its module.

    Attributes:
        template: of its ids, `{}` for a number; a number behind the kind's own prefix is an int.
        kinds: `attention`, `ffn` or both.
        sizes: what its numbers are, by the config's name (`experts` has one for each family).
        stock: the parent's own sub-block, cut; a model of such layers, all alike, is a stock one.
        module: what the published code puts in its place; starts from the best linear map (`from_map`).
        trained: by BLD.
        not_decilm: why DeciLM cannot express it, where no check of the format says so.
        engines: that run it, the others say `refusal`; None: their table says (`engines.ENGINES`).
    """

    template: str
    kinds: tuple[str, ...]
    sizes: tuple[str, ...] = ()
    stock: bool = False
    module: type | None = None
    trained: bool = True
    not_decilm: str | None = None
    engines: tuple[str, ...] | None = None
    refusal: str = ""

    @property
    def example(self) -> str:
        usual = {"attention_window": 512, "expert_width": 512, "experts_per_tok": 2}
        return self.template.format(*(usual.get(name, 4) for name in self.sizes))

    def is_int(self, kind: str) -> bool:
        return self.template == f"{KINDS[kind]}{{}}"

    @property
    def pattern(self) -> str:
        return self.template.replace("{}", f"([1-9][0-9]{{0,{MAX_DIGITS - 1}}})")


@functools.cache
def rows() -> tuple[Row, ...]:
    """The registry."""
    from .remote.modeling_puzzle import SUB_BLOCKS  # brings torch, without which the table of engines is read

    linear_map, *others = SUB_BLOCKS
    return (
        Row("kv{}", ("attention",), ("num_key_value_heads",), stock=True),
        Row(
            "kv{}win{}",
            ("attention",),
            ("num_key_value_heads", "attention_window"),
            not_decilm="DeciLM engines ignore windows",
            engines=("transformers", "transformers-serve", *_GRAPH_ENGINES),
            refusal="no sliding windows",
        ),
        Row(
            RECURRENT,
            ("attention",),
            stock=True,
            trained=False,
            engines=("transformers", "transformers-serve", "onnxruntime"),  # not run elsewhere
            refusal="no recurrent layers beside searched ones",
        ),
        Row("w{}", ("ffn",), ("intermediate_size",), stock=True),
        *(
            Row(
                template,
                ("ffn",),
                sizes,
                stock=True,
                engines=(*_PER_LAYER_ENGINES, "vllm"),
                refusal="no expert counts per layer",
            )
            for template, sizes in MIXTURES.items()
        ),
        *(
            Row(
                module.template,
                module.kinds,
                module.sizes,
                module=module,
                not_decilm=f"DeciLM has no {module.noun}",
                engines=getattr(module, "engines", _PER_LAYER_ENGINES),
                refusal=f"no {module.noun}",
            )
            for module in others
        ),
        # ridge regression is within a few percent of what gradients reach: not trained
        Row(LINEAR, tuple(KINDS), module=linear_map, trained=False),
        Row(NONE, tuple(KINDS), trained=False),
    )


def variant_id(kind: str, variant: Variant) -> str:
    """`kv4` / `w512` for a number, else the word itself."""
    return f"{KINDS[kind]}{variant}" if isinstance(variant, int) else variant


@functools.lru_cache(maxsize=4096)
def _find(kind: str, text: str) -> tuple[Row, dict[str, int]]:
    base, at, name = text.partition("@")
    if at and (name not in _ALL_TYPES or base == NONE):
        raise ValueError(
            f"{text[:80]!r} is not an {kind} variant: behind @ stands one of {', '.join(sorted(_ALL_TYPES))}"
        )
    for row in rows():
        if kind in row.kinds and (match := re.fullmatch(row.pattern, base)):
            return row, dict(zip(row.sizes, map(int, match.groups()), strict=True))
    raise ValueError(f"{text[:80]!r} is not an {kind} variant: expected {KINDS[kind]}<number>, {words(kind, 'or')}")


def words(kind: str, conjunction: str) -> str:
    """Examples of the variants of a kind that are no int, for messages."""
    *others, last = (row.example for row in rows() if kind in row.kinds and not row.is_int(kind))
    return f"{', '.join(others)} {conjunction} {last}"


def row_of(kind: str, variant: Variant) -> Row:
    """The row of a variant; ValueError where none has its id."""
    return _find(kind, variant_id(kind, variant))[0]


def sizes_of(kind: str, variant: Variant) -> dict[str, int]:
    """The numbers of a variant by name (`Row.sizes`); empty where it has none, and for what is no variant."""
    try:
        return dict(_find(kind, variant_id(kind, variant))[1])
    except ValueError:
        return {}


def with_sizes(kind: str, sizes: dict[str, int]) -> Variant:
    """The inverse of `sizes_of` for variants with numbers."""
    row = next(row for row in rows() if kind in row.kinds and set(row.sizes) == set(sizes))
    return parse_variant(kind, row.template.format(*(sizes[name] for name in row.sizes)))


def parse_variant(kind: str, text: str) -> Variant:
    """The inverse of `variant_id`; ValueError for anything it does not write."""
    row, sizes = _find(kind, text)
    return sizes[row.sizes[0]] if row.is_int(kind) and "@" not in text else text


def weight_type(variant: Variant) -> str | None:
    """The number format of a variant's matrices; None where they keep the model's dtype."""
    return variant.partition("@")[2] or None if isinstance(variant, str) else None


def plain(variant: Variant) -> Variant:
    """A variant in the model's dtype."""
    if weight_type(variant) is None:
        return variant
    base = variant.partition("@")[0]
    number = next((base.removeprefix(p) for p in KINDS.values() if base.removeprefix(p).isdecimal()), None)
    return base if number is None else int(number)


def typed(kind: str, variant: Variant, name: str | None) -> Variant:
    """A variant with its matrices in a number format; itself for None, and where it has no weights."""
    return variant if name is None or variant == NONE else f"{variant_id(kind, plain(variant))}@{name}"


def windowed(kv_heads: int, window: int) -> Variant:
    """Attention of `kv_heads` KV heads that sees the last `window` tokens, itself included."""
    return f"kv{kv_heads}win{window}"


def kv_heads(attention: Variant) -> int | None:
    """KV heads of an attention variant; None where there is no attention."""
    return sizes_of("attention", attention).get("num_key_value_heads")


def window(attention: Variant) -> int | None:
    """Tokens a sliding-window attention sees; None for full attention and where there is none."""
    return sizes_of("attention", attention).get("attention_window")


def num_experts(ffn: Variant) -> int | None:
    """Experts of a mixture; None for a dense FFN."""
    return sizes_of("ffn", ffn).get("experts")


class Block(NamedTuple):
    """One layer of a child."""

    attention: Variant
    ffn: Variant

    @property
    def id(self) -> str:
        return f"{variant_id('attention', self.attention)}+{variant_id('ffn', self.ffn)}"

    @property
    def plain(self) -> "Block":
        """The same in the model's dtype."""
        return Block(plain(self.attention), plain(self.ffn))

    @property
    def rows(self) -> tuple[Row, Row]:
        return row_of("attention", self.attention), row_of("ffn", self.ffn)

    @classmethod
    def parse(cls, text: str) -> "Block":
        """Raises ValueError for anything that `Block.id` does not write."""
        attention, plus, ffn = text.partition("+") if isinstance(text, str) else ("", "", "")
        if not plus:
            raise ValueError(f"{text!r:.80} is not a block: expected attention+ffn, e.g. kv4+w512")
        return cls(parse_variant("attention", attention), parse_variant("ffn", ffn))
