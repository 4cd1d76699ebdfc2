"""The blocks offered to every layer (Puzzle, arXiv 2411.19146, section 2)."""

import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PretrainedConfig

from .. import engines
from ..blocks import (
    KINDS,
    LINEAR,
    NONE,
    WEIGHT_TYPES,
    Block,
    Variant,
    kv_heads,
    num_experts,
    parse_variant,
    plain,
    row_of,
    sizes_of,
    typed,
    variant_id,
    weight_type,
    window,
    windowed,
    with_sizes,
    words,
)
from ..engines import weight_types
from ..formats import decilm_refuses, decilm_width, does_not_fit
from ..layers import (
    fits_layer,
    has_kv_heads,
    meta_parent,
    mixture_attributes,
    parent_blocks,
    stock_value,
)
from ..recipe import RecipeError, SearchSpaceConfig, did_you_mean
from .surgery import empty_block, layer_for, layers_of


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerSpace:
    """Variants of one layer in the model's dtype, the parent's first, and the blocks the engines allow, in all formats."""

    attention: tuple[Variant, ...]
    ffn: tuple[Variant, ...]
    blocks: tuple[Block, ...]

    def variants(self, kind: str) -> tuple[Variant, ...]:
        return self.attention if kind == "attention" else self.ffn


@dataclass(frozen=True)
class SearchSpace:
    """What the search may choose from."""

    parents: tuple[Block, ...]  # the parent's own, of each layer
    layers: tuple[LayerSpace, ...]

    @property
    def parent(self) -> Block:
        """The parent's block, where all its layers have the same."""
        (block,) = set(self.parents)
        return block

    @property
    def variants(self) -> dict[str, list[Variant]]:
        """Distinct variants over all layers, by kind, in a fixed order."""
        return {
            kind: list(dict.fromkeys(v for layer in self.layers for v in layer.variants(kind)))
            for kind in ("attention", "ffn")
        }

    @property
    def offered(self) -> dict[str, list[Variant]]:
        """As `variants`, each behind it in the number formats that blocks have it in."""
        found = {
            kind: dict.fromkeys(getattr(block, kind) for layer in self.layers for block in layer.blocks)
            for kind in ("attention", "ffn")
        }
        return {
            kind: [
                v for own in variants for v in (own, *(o for o in found[kind] if weight_type(o) and plain(o) == own))
            ]
            for kind, variants in self.variants.items()
        }

    @property
    def weight_types(self) -> list[str]:
        """Number formats besides the model's dtype, most bits first."""
        return list(dict.fromkeys(t for vs in self.offered.values() for v in vs if (t := weight_type(v))))

    @property
    def blocks(self) -> list[Block]:
        return list(dict.fromkeys(block for layer in self.layers for block in layer.blocks))


def build_search_space(
    config: PretrainedConfig, space: SearchSpaceConfig, deploy: Iterable[str] = (), tensor_parallel: int = 1
) -> SearchSpace:
    """Blocks per layer for a parent `config`; block kinds that an engine of `deploy` cannot run are left out.

    Raises:
        RecipeError: KV heads that do not divide, widths that do not fit, unknown words, layers out of range.
    """
    deploy = list(deploy)
    engines.check_engines(deploy)
    num_layers = config.num_hidden_layers
    parents = parent_blocks(config)
    overrides = _layer_overrides(space, num_layers)
    layers, dropped, rewritten, known = [], {}, {}, {}
    formats = _weight_types(space.weight_bits, deploy)
    recut = any(weight_types.engine_of(name) == "llama.cpp" for name in formats)
    for layer_idx, parent in enumerate(parents):
        choice = overrides.get(layer_idx, {})
        where = f"search_space.layers.{layer_idx}." if choice else "search_space."
        attention = _attention(choice.get("attention", space.attention), config, where, parent.attention)
        ffn = _ffn(choice.get("ffn", space.ffn), config, space.width_multiple, where, parent.ffn)
        blocks = []
        offers = [
            [typed(kind, v, name) for v in vs for name in (None, *formats) if name is None or v != NONE]
            for kind, vs in (("attention", attention), ("ffn", ffn))
        ]
        for block in itertools.starmap(Block, itertools.product(*offers)):
            reason = None
            if block != parent:
                reason = _refused(block, layer_idx, num_layers, deploy, tensor_parallel) or _not_kept(
                    config, block, known
                )
                reason = reason or (recut and _not_as_it_is(block, layer_idx, num_layers)) or None
            if reason is None:
                blocks.append(block)
                rewrites = {e: engines.rewritten(e, layer_idx, num_layers, *block) for e in deploy}
                for engine, rewrite in rewrites.items():
                    if rewrite:
                        rewritten.setdefault(f"{engine}: {rewrite}", []).append((layer_idx, block.id))
            else:
                dropped.setdefault(reason, []).append((layer_idx, block.id))
        live = [{b.plain.attention for b in blocks}, {b.plain.ffn for b in blocks}]
        layers.append(
            LayerSpace(
                tuple(a for a in attention if a in live[0]), tuple(f for f in ffn if f in live[1]), tuple(blocks)
            )
        )
    for reason, blocks in dropped.items():
        logger.info("deploy: %d blocks leave the search space (%s), e.g. layer %d %s", len(blocks), reason, *blocks[0])
    for rewrite, blocks in rewritten.items():
        logger.info(
            "deploy: %d blocks need `hf-puzzle export` (%s), e.g. layer %d %s", len(blocks), rewrite, *blocks[0]
        )
    return SearchSpace(tuple(parents), tuple(layers))


def _weight_types(values: list[int | str], deploy: list[str]) -> list[str]:
    """The number formats that `search_space.weight_bits` names, most bits first; 16 is the model's dtype.

    Raises:
        RecipeError: what no engine of `deploy` reads, or none can tell apart in one model.
    """
    where, found = "search_space.weight_bits", []
    able = [engine for engine in deploy or ["transformers"] if engine in WEIGHT_TYPES]
    for value in values:
        if value == 16:
            continue
        if isinstance(value, int):
            if len(able) != 1:
                what = f"{' and '.join(able)} read different formats" if able else "no engine in it reads any"
                raise RecipeError(
                    f"{where}: {value} bits for deploy {deploy}: {what}; name one of {', '.join(WEIGHT_TYPES)}"
                )
            value = next((name for name, bits in WEIGHT_TYPES[able[0]].items() if bits == value), value)
        known = [name for types in WEIGHT_TYPES.values() for name in types]
        if value not in known:
            raise RecipeError(f"{where}: {value!r} is none of 16, 8, 4, {', '.join(known)}")
        if deploy and (engine := weight_types.engine_of(value)) not in deploy:
            raise RecipeError(f"{where}: {value} is a format of {engine}, which is not in deploy: {deploy}")
        if reason := weight_types.missing_package(value):
            raise RecipeError(f"{where}: {reason}")
        found.append(value)
    found = list(dict.fromkeys(found))
    if len({weight_types.engine_of(name) for name in found}) > 1 or {"int8", "int4"} <= {*found}:
        raise RecipeError(
            f"{where}: {' and '.join(found)} in one model: transformers' quantization_config names one format for all "
            "matrices that it converts; choose one, or llama.cpp's, which are given per tensor"
        )
    return sorted(found, key=lambda name: -WEIGHT_TYPES[weight_types.engine_of(name)][name])


def _not_as_it_is(block: Block, layer_idx: int, num_layers: int) -> str | None:
    """Why llama.cpp's formats, which are given per tensor, rule a block out: it would be cut into other tensors."""
    why = engines.why_not_direct("llama.cpp", layer_idx, num_layers, *block)
    return why and f"llama.cpp: {why}, and formats are of tensors that no rewrite cuts again"


def _not_kept(config: PretrainedConfig, block: Block, known: dict) -> str | None:
    """Why a sub-block cannot be kept in the format that it names; `known` remembers."""
    for kind, variant in zip(KINDS, block, strict=True):
        name, own = weight_type(variant), plain(variant)
        if name and (kind, variant) not in known:
            known[kind, variant] = _misfit(config, kind, own, name)
        if name and (reason := known[kind, variant]):
            return f"{name}: {kind} {variant_id(kind, own)} has {reason}"
    return None


def _misfit(config: PretrainedConfig, kind: str, variant: Variant, name: str) -> str | None:
    if name == "int4" and kind == "ffn" and isinstance(variant, int) and variant % 128 and not decilm_refuses(config):
        return "a width that is no multiple of 128: what DeciLM fills it up with would change its groups"
    if weight_types.engine_of(name) == "llama.cpp" and kind == "ffn" and isinstance(variant, int):
        variant = decilm_width(variant)  # as it lies in the file
    host = layer_for(config, kind, variant)
    module = empty_block(layers_of(meta_parent(config))[host], kind, variant, config, host)
    return weight_types.does_not_fit(module, name)


def _refused(block: Block, layer_idx: int, num_layers: int, deploy: list[str], tensor_parallel: int) -> str | None:
    heads = kv_heads(block.attention)
    for engine in deploy:
        if why := engines.refuses(engine, layer_idx, num_layers, *block):
            return f"{engine}: {why}"
        if heads is not None and not engines.splits_heads(engine, tensor_parallel, heads):
            return f"{engine}: {heads} KV heads do not split over {tensor_parallel} devices"
    return None


def _layer_overrides(space: SearchSpaceConfig, num_layers: int) -> dict[int, dict]:
    overrides = {}
    for layer, choice in space.layers.items():
        if not -num_layers <= layer < num_layers:
            raise RecipeError(f"search_space.layers: layer {layer} does not exist; the parent has {num_layers} layers")
        for name, values in choice.items():
            if name not in KINDS:
                raise RecipeError(f"unknown key 'search_space.layers.{layer}.{name}'{did_you_mean(str(name), KINDS)}")
            if not isinstance(values, list):
                raise RecipeError(f"search_space.layers.{layer}.{name}: expected a list, got {values!r}")
        overrides[layer % num_layers] = choice
    return overrides


def _attention(values: list | None, config: PretrainedConfig, where: str, own: Variant) -> list[Variant]:
    """Variants of an attention that is `own`; of a recurrent one, those that are no cuts."""
    if (heads := kv_heads(own)) is None:
        found = [
            _variant("attention", value, config, where) for value in ([LINEAR, NONE] if values is None else values)
        ]
        return list(dict.fromkeys([own, *(v for v in found if v is not None and fits_layer(own, "attention", v))]))
    divisors = [d for d in range(1, heads + 1) if heads % d == 0] if has_kv_heads(config) else [heads]
    if values is None:
        values = [*reversed(divisors[:-1]), LINEAR, NONE]
    variants: list[Variant] = [heads]
    for value in values:
        if isinstance(value, str) and value.removeprefix("window").isdigit():
            value = windowed(heads, int(value.removeprefix("window")))
        elif value == "gla":
            value = f"gla{heads}"
        variant = _variant("attention", value, config, where)
        if variant is None:
            raise RecipeError(
                f"{where}attention: {value!r} is neither a number of KV heads, window<tokens>, "
                f"{words('attention', 'nor')}"
            )
        count = variant if isinstance(variant, int) else kv_heads(variant)
        if count is not None and count not in divisors:
            why = (
                f"do not divide the parent's {heads}"
                if has_kv_heads(config)
                else f"are unknown to {config.model_type}"
            )
            raise RecipeError(f"{where}attention: {count} KV heads {why}; use {divisors}")
        variants.append(variant)
    if len(windows := {window(v) for v in variants} - {None}) > 1:
        raise RecipeError(f"{where}attention: windows of {sorted(windows)} tokens; a model knows one size")
    return list(dict.fromkeys(variants))


def _variant(kind: str, value, config: PretrainedConfig, where: str) -> Variant | None:
    """The variant that a recipe names by a number or an id; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        variant = parse_variant(kind, str(value))
    except ValueError:
        return None
    if reason := does_not_fit(config, kind, variant):
        raise RecipeError(f"{where}{kind}: {value!r}: {reason}")
    return variant


def _plain_mixture(config: PretrainedConfig, variant: Variant) -> Variant:
    """A mixture's variant without the sizes that are the parent's own."""
    names, sizes = mixture_attributes(config), sizes_of("ffn", variant)
    own = {name: stock_value(config, names[name]) for name in sizes}
    own["experts_per_tok"] = min(own.get("experts_per_tok", 0), sizes["experts"])
    return with_sizes("ffn", {n: size for n, size in sizes.items() if n == "experts" or size != own[n]})


def _ffn(values: list, config: PretrainedConfig, multiple: int, where: str, own: Variant) -> list[Variant]:
    """Variants of an FFN that is `own`; ids of the other sort are left to the layers that they fit."""
    if own == NONE:
        return [NONE]
    experts = num_experts(own)
    mixed = len({num_experts(block.ffn) is None for block in parent_blocks(config) if block.ffn != NONE}) > 1
    full, unit, multiple = (experts, "expert", 1) if experts else (own, "channel", multiple)
    variants: list[Variant] = [own]
    for value in values:
        said = False
        if isinstance(value, str) and (variant := _variant("ffn", value, config, where)) is not None:
            if not row_of("ffn", variant).stock:
                variants.append(variant)
                continue
            if mixed and not fits_layer(own, "ffn", variant):
                continue
            value, said = (variant, True) if isinstance(variant, int) else (value, said)
            if experts and num_experts(variant):
                variants.append(_plain_mixture(config, variant))
                continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            kinds = "a number of experts, a share of them" if experts else "a width, a share of the width"
            raise RecipeError(f"{where}ffn: {value!r} is neither {kinds}, {words('ffn', 'nor')}")
        if mixed and isinstance(value, int) and not said:
            raise RecipeError(
                f"{where}ffn: {value} may be a width or a number of experts here: say w{value} or e{value}"
            )
        size = value * full if isinstance(value, float) and value <= 1 else value
        if size <= 0:
            raise RecipeError(f"{where}ffn: {value!r} is not positive; {NONE} stands for no FFN at all")
        rounded = max(multiple, round(size / multiple) * multiple)
        if isinstance(value, int) and rounded != value:
            raise RecipeError(f"{where}ffn: width {value} is not a multiple of search_space.width_multiple {multiple}")
        if rounded > max(full, multiple):
            raise RecipeError(f"{where}ffn: {value!r} is more than the parent's {full} {unit}s")
        if rounded < full:
            variants.append(f"e{rounded}" if experts else rounded)
    return list(dict.fromkeys(variants))
