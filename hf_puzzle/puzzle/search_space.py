"""The blocks offered to every layer (Puzzle, arXiv 2411.19146, section 2)."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PretrainedConfig

from .. import engines
from ..blocks import KINDS, LINEAR, NONE, Block, Variant
from ..recipe import RecipeError, SearchSpaceConfig, did_you_mean


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerSpace:
    """Variants of one layer, the parent's first, and the blocks the engines allow."""

    attention: tuple[Variant, ...]
    ffn: tuple[Variant, ...]
    blocks: tuple[Block, ...]

    def variants(self, kind: str) -> tuple[Variant, ...]:
        return self.attention if kind == "attention" else self.ffn


@dataclass(frozen=True)
class SearchSpace:
    """What the search may choose from."""

    parent: Block
    layers: tuple[LayerSpace, ...]

    @property
    def variants(self) -> dict[str, list[Variant]]:
        """Distinct variants over all layers, by kind, in a fixed order."""
        return {
            kind: list(dict.fromkeys(v for layer in self.layers for v in layer.variants(kind)))
            for kind in ("attention", "ffn")
        }

    @property
    def blocks(self) -> list[Block]:
        return list(dict.fromkeys(block for layer in self.layers for block in layer.blocks))


def build_search_space(config: PretrainedConfig, space: SearchSpaceConfig, deploy: Iterable[str] = ()) -> SearchSpace:
    """Blocks per layer for a parent `config`; block kinds that an engine of `deploy` cannot run are left out.

    Raises:
        RecipeError: KV heads that do not divide, widths that do not fit, unknown words, layers out of range.
    """
    deploy = list(deploy)
    engines.check_engines(deploy)
    num_layers = config.num_hidden_layers
    parent = Block(config.num_key_value_heads, config.intermediate_size)
    overrides = _layer_overrides(space, num_layers)
    layers, dropped = [], {}
    for layer_idx in range(num_layers):
        choice = overrides.get(layer_idx, {})
        where = f"search_space.layers.{layer_idx}." if choice else "search_space."
        attention = _attention(choice.get("attention", space.attention), config, where)
        ffn = _ffn(choice.get("ffn", space.ffn), config, space.width_multiple, where)
        blocks = []
        for block in (Block(a, f) for a in attention for f in ffn):
            reasons = {e: engines.refuses(e, layer_idx, num_layers, *block) for e in deploy} if block != parent else {}
            reason = next((f"{engine}: {why}" for engine, why in reasons.items() if why), None)
            if reason is None:
                blocks.append(block)
            else:
                dropped.setdefault(reason, []).append((layer_idx, block.id))
        live = [{b.attention for b in blocks}, {b.ffn for b in blocks}]
        layers.append(
            LayerSpace(
                tuple(a for a in attention if a in live[0]), tuple(f for f in ffn if f in live[1]), tuple(blocks)
            )
        )
    for reason, blocks in dropped.items():
        logger.info("deploy: %d blocks leave the search space (%s), e.g. layer %d %s", len(blocks), reason, *blocks[0])
    return SearchSpace(parent, tuple(layers))


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


def _attention(values: list | None, config: PretrainedConfig, where: str) -> list[Variant]:
    heads = config.num_key_value_heads
    if values is None:
        values = [*(d for d in range(heads - 1, 0, -1) if heads % d == 0), LINEAR, NONE]
    variants: list[Variant] = [heads]
    for value in values:
        if isinstance(value, bool) or not (isinstance(value, int) or value in (LINEAR, NONE)):
            raise RecipeError(f"{where}attention: {value!r} is neither a number of KV heads, {LINEAR} nor {NONE}")
        if isinstance(value, int) and (value < 1 or heads % value):
            divisors = [d for d in range(1, heads + 1) if heads % d == 0]
            raise RecipeError(f"{where}attention: {value} KV heads do not divide the parent's {heads}; use {divisors}")
        variants.append(value)
    return list(dict.fromkeys(variants))


def _ffn(values: list, config: PretrainedConfig, multiple: int, where: str) -> list[Variant]:
    full = config.intermediate_size
    variants: list[Variant] = [full]
    for value in values:
        if value in (LINEAR, NONE):
            variants.append(value)
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RecipeError(f"{where}ffn: {value!r} is neither a width, a share of the width, {LINEAR} nor {NONE}")
        width = value * full if isinstance(value, float) and value <= 1 else value
        if width <= 0:
            raise RecipeError(f"{where}ffn: {value!r} is not positive; {NONE} stands for no FFN at all")
        rounded = max(multiple, round(width / multiple) * multiple)
        if isinstance(value, int) and rounded != value:
            raise RecipeError(f"{where}ffn: width {value} is not a multiple of search_space.width_multiple {multiple}")
        if rounded > max(full, multiple):
            raise RecipeError(f"{where}ffn: {value!r} is wider than the parent's {full}")
        if rounded < full:
            variants.append(rounded)
    return list(dict.fromkeys(variants))
