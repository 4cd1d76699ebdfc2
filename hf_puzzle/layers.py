"""What the layers of a stock model are, one by one: read off its modules where layers differ, off its config where not."""

import copy
import dataclasses
import functools
import json
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from .blocks import NONE, RECURRENT, Block, Variant, row_of
from .remote import modeling_puzzle


class FormatError(ValueError):
    """A model cannot be written in a format; the message names the layer or the property, and the way out."""


def stock_value(config: PretrainedConfig, name: str, default: Any = None) -> Any:
    """An attribute of the parent's config, also where it differs per layer."""
    return modeling_puzzle.stock_value(config, name, default)


def has_kv_heads(config: PretrainedConfig) -> bool:
    """Whether the family knows grouped key-value heads at all (GPT-NeoX does not)."""
    names = {field.name for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set()
    return "num_key_value_heads" in names


def expert_attribute(config: PretrainedConfig) -> str | None:
    """Name of the config's number of experts; None for a dense family."""
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return next((name for name in names if vars(config).get(name)), None)


def mixture_attributes(config: PretrainedConfig) -> dict[str, str]:
    """What a family's config calls the sizes of a mixture's variants."""
    width = next(name for name in ("moe_intermediate_size", "intermediate_size") if hasattr(config, name))
    per_token = next(name for name in ("num_experts_per_tok", "moe_k") if name in vars(config))
    return {"experts": expert_attribute(config), "expert_width": width, "experts_per_tok": per_token}


def meta_parent(config: PretrainedConfig) -> PreTrainedModel:
    """The architecture of a stock config without weights."""
    return _meta_model(as_key(config))


def as_key(config: PretrainedConfig) -> tuple[type, str]:
    """A config as something that can be remembered; `of_key` gives it back."""
    return type(config), config.to_json_string(use_diff=False)


def of_key(key: tuple[type, str]) -> PretrainedConfig:
    """The inverse of `as_key`."""
    return key[0](**_with_infinities(json.loads(key[1])))


def _with_infinities(value: Any) -> Any:
    """JSON has no infinities: transformers writes them as `{"__float__": "Infinity"}`."""
    if isinstance(value, dict):
        return (
            float(value["__float__"])
            if set(value) == {"__float__"}
            else {k: _with_infinities(v) for k, v in value.items()}
        )
    return [_with_infinities(v) for v in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=4)
def _meta_model(key: tuple[type, str]) -> PreTrainedModel:
    config = of_key(key)
    with torch.device("meta"):
        return stock_class(config)(config)


# what says in a config that layers differ: words of `layer_types`, and counts of dense layers in a mixture
_MIXED_TYPES = ("linear_attention", "conv", "mamba", "moe", "mlp", "hybrid")
_MIXED_KEYS = (
    "first_k_dense_replace",
    "num_dense_layers",
    "moe_layer_start_index",
    "mlp_only_layers",
    "mlp_layer_types",
    "block_auto_adjust_ff_dim",
    "shared_intermediate_size",
)


def may_differ(config: PretrainedConfig) -> bool:
    types = stock_value(config, "layer_types") or ()
    return (
        any(word in _MIXED_TYPES for word in types)
        or "layers_block_type" in vars(config)  # layers of one sub-block each
        or any(stock_value(config, key) for key in _MIXED_KEYS)
        or (stock_value(config, "decoder_sparse_step") or 1) != 1
    )


def parent_blocks(config: PretrainedConfig) -> list[Block]:
    """The block that each layer of a stock model has."""
    if not may_differ(config):
        heads = attention_heads(config)
        experts = expert_attribute(config)
        ffn = f"e{stock_value(config, experts)}" if experts else stock_value(config, "intermediate_size")
        return [Block(heads, ffn)] * config.num_hidden_layers
    stock = without_overrides(config)
    return list(_blocks_of_meta(as_key(stock)))


def without_overrides(config: PretrainedConfig) -> PretrainedConfig:
    """The stock config of a per-layer child."""
    stock = copy.deepcopy(config)
    stock.per_layer_config = None
    for name in ("replace_with_linear", "replace_with", "attention_window", "kv_sharing_modes", "auto_map"):
        stock.__dict__.pop(name, None)
    stock.architectures = [stock_class(config).__name__]
    return stock


def attention_heads(config: PretrainedConfig) -> int:
    """KV heads of the parent's attentions."""
    heads = stock_value(config, "num_key_value_heads") if has_kv_heads(config) else None
    return heads or stock_value(config, "num_attention_heads")


@functools.lru_cache(maxsize=16)
def _blocks_of_meta(key: tuple[type, str]) -> tuple[Block, ...]:
    model = _meta_model(key)
    decoder = model.get_decoder()
    return tuple(_own_block(model.config, layer) for layer in getattr(decoder, modeling_puzzle.layer_list(decoder)))


def _own_block(config: PretrainedConfig, layer: nn.Module) -> Block:
    found = {kind: getattr(layer, place) for kind, place in modeling_puzzle.places_of(layer).items()}
    attention, ffn = found.get("attention"), found.get("ffn")
    if attention is not None:
        attention = RECURRENT if modeling_puzzle.recurs(attention) else attention_heads(config)
    if ffn is not None:
        experts = getattr(ffn, "experts", None)
        narrow = next(
            (m for n in ("down_proj", "w2", "output_linear") if (m := getattr(ffn, n, None)) is not None), None
        )
        ffn = f"e{experts.num_experts}" if experts is not None else narrow.in_features
    return Block(NONE if attention is None else attention, NONE if ffn is None else ffn)


def parent_block(config: PretrainedConfig) -> Block:
    """The block that every layer of a stock model has; FormatError where layers differ."""
    blocks = set(parent_blocks(config))
    if len(blocks) != 1:
        raise FormatError(
            f"layers of this {config.model_type} differ: {', '.join(sorted(block.id for block in blocks))}"
        )
    return blocks.pop()


def first_attention(config: PretrainedConfig) -> nn.Module:
    """The first attention of a stock model that keeps keys and values, without weights; ValueError if it has none."""
    decoder = meta_parent(config).get_decoder()
    for layer in getattr(decoder, modeling_puzzle.layer_list(decoder)):
        place = modeling_puzzle.places_of(layer).get("attention")
        if place is not None and not modeling_puzzle.recurs(getattr(layer, place)):
            return getattr(layer, place)
    raise ValueError(f"no layer of this {config.model_type} has an attention")


def fits_layer(own: Variant, kind: str, variant: Variant) -> bool:
    """Whether a layer whose own sub-block is `own` may have `variant`: cuts are of what is there; maps replace anything."""
    if variant in (own, NONE):
        return True
    if own == NONE:
        return False
    row, of = row_of(kind, variant), row_of(kind, own)
    if row.module is not None:  # one that starts from an attention needs one
        return not hasattr(row.module, "from_attention") or "num_key_value_heads" in of.sizes
    return bool(row.sizes) and row.sizes[0] in of.sizes


def with_layers(config: PretrainedConfig, sources: list[int]) -> PretrainedConfig:
    """`config` in place with layers like its own layers `sources`, in that order, some of them twice or not at all.

    Raises:
        FormatError: a family whose config cannot say that.
    """
    wanted, count = [parent_blocks(config)[i] for i in sources], config.num_hidden_layers
    dense = [i for i, source in enumerate(sources) if isinstance(parent_blocks(config)[source].ffn, int)]
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == count and name != "mlp_only_layers":
            setattr(config, name, [value[i] for i in sources])
    if (
        getattr(config, "mlp_only_layers", None) or (getattr(config, "decoder_sparse_step", None) or 1) != 1
    ) and expert_attribute(config):
        config.mlp_only_layers, config.decoder_sparse_step = dense, 1
    for name in ("first_k_dense_replace", "num_dense_layers"):
        if getattr(config, name, None) is not None:
            setattr(config, name, len(dense))
    if getattr(config, "moe_layer_start_index", None) is not None:
        config.moe_layer_start_index, config.moe_layer_end_index = len(dense), len(sources) - 1
    if len(sources) != config.num_hidden_layers:
        config.num_hidden_layers = len(sources)
    found = parent_blocks(config)
    if found != wanted:
        names = " ".join(block.id for block in wanted)
        raise FormatError(f"the config of {config.model_type} cannot say that its layers are {names}")
    return config


def stock_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The causal LM that transformers has for a config."""
    try:
        return AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        raise FormatError(f"transformers has no causal LM for {type(config).__name__}") from None
