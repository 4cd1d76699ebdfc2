"""Cutting blocks: from a parent's sub-block to each cheaper variant, and swapping them in and out of the parent.

Blocks keep the parent's own classes and interfaces, so a parent with swapped blocks runs its stock forward. What a
family calls its parts is found on the modules themselves (`remote/modeling_puzzle.py`), never by a copy per family.
"""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from ..blocks import NONE, Variant, kv_heads
from ..formats import DECILM, decilm_refuses, variant_overrides
from ..layers import fits_layer, meta_parent, parent_blocks
from ..remote.modeling_puzzle import (
    NoNorm,
    Nothing,
    answers_pair,
    build_layer,
    layer_list,
    norms_of,
    place_of,
    places_of,
)


logger = logging.getLogger(__name__)

KINDS = ("attention", "ffn")
# families that the tests take through every stage; others with the same anatomy are tried, with a warning
TESTED_FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "granite", "smollm3", "olmo2"),
    *("gpt_neox", "mixtral", "qwen3_moe", "gpt_oss", "qwen3_next", "qwen3_5_text", "nemotron_h", "granitemoehybrid"),
    *("lfm2", "glm4_moe", "ernie4_5_moe"),
)


class UnsupportedParentError(ValueError):
    """The parent cannot be compressed; the message says which property stands in the way."""


def check_parent(config, fmt: str = "auto") -> None:
    """Refuse, before any compute, a parent whose layers cannot be exchanged or not be written in format `fmt`.

    Raises:
        UnsupportedParentError: no decoder family of transformers, a child already, quantised weights, a layer with
            something that is neither attention, recurrent mixer nor FFN, or for `decilm` another family, activation, or a
            sliding window.
    """
    if quantization := getattr(config, "quantization_config", None):
        kind = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
        raise UnsupportedParentError(
            f"the parent is quantised (quantization_config: {getattr(kind, 'value', kind)}), and blocks are cut from whole "
            "weights: pass the model that it was made from, or dequantise it once (model.dequantize(), save_pretrained)"
        )
    if getattr(config, "is_heterogeneous", False) or hasattr(config, "block_configs"):
        raise UnsupportedParentError("the parent is a Puzzle child already; compress the model it came from")
    if config.is_encoder_decoder:
        raise UnsupportedParentError(f"parent family {config.model_type!r} is an encoder-decoder; pass a decoder")
    if fmt == DECILM and (reason := decilm_refuses(config)) is not None:
        raise UnsupportedParentError(f"{reason}; a DeciLM child cannot express that: use child.format: per_layer")
    if getattr(config, "kv_lora_rank", None):
        raise UnsupportedParentError(
            f"parent family {config.model_type!r}: multi-head latent attention keeps latents, whose heads and bytes are unknown here"
        )
    try:
        parent = meta_parent(config)
        for layer_idx, layer in enumerate(layers_of(parent)):
            _check_layer(layer_idx, layer)
        if not any(kv_heads(block.attention) for block in parent_blocks(config)):
            raise ValueError("no layer of it keeps keys and values: nothing counts the tokens of a cache")
    except (KeyError, ValueError, TypeError) as error:
        raise UnsupportedParentError(f"parent family {config.model_type!r} is not supported: {error}") from None
    if config.model_type not in TESTED_FAMILIES:
        logger.warning(
            "family %r has the right anatomy, but no test of ours takes it: see recipes/ADD_A_FAMILY.md",
            config.model_type,
        )


def _check_layer(layer_idx: int, layer: nn.Module) -> None:
    """Raises ValueError for a layer without a sub-block that we know, or with one that we do not."""
    places = places_of(layer)
    known = {*places.values(), *(("shared_mlp",) if "ffn" in places else ())}
    unknown = [
        f"{name} ({type(child).__name__})"
        for name, child in layer.named_children()
        if name not in known and any(p.ndim > 1 for p in child.parameters())
    ]
    if places and not unknown:
        return
    rest = " and ".join(f"its {kind} `{place}`" for kind, place in places.items()) or "nothing of it"
    raise ValueError(
        f"layer {layer_idx}: {', '.join(unknown) or type(layer).__name__} is neither an attention, a recurrent mixer nor an FFN "
        f"that we know; {rest} could be searched once it has its line (recipes/ADD_A_FAMILY.md)"
    )


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers."""
    decoder = model.get_decoder()
    return getattr(decoder, layer_list(decoder))


def sub_block(layer: nn.Module, kind: str) -> nn.Module:
    """The attention or the FFN of a layer; ValueError where it has none."""
    return getattr(layer, place_of(layer, kind))


def sub_blocks(layer: nn.Module) -> dict[str, nn.Module]:
    """`{kind: sub-block}` of those that a layer has."""
    return {kind: getattr(layer, place) for kind, place in places_of(layer).items()}


def hidden_states_of(output) -> torch.Tensor:
    """The tensor that a sub-block or layer hands on, whatever it answers beside it."""
    return output[0] if isinstance(output, tuple) else output


def output_projection(block: nn.Module) -> nn.Linear | None:
    """The matrix of a sub-block that writes to the residual stream; None for mixtures and where there is none."""
    names = ("o_proj", "dense", "out_proj", "down_proj", "dense_4h_to_h", "c_proj", "linear_attn", "linear_mlp", "w2", "output_linear")  # fmt: skip
    return next((m for name in names if isinstance(m := getattr(block, name, None), nn.Linear)), None)


def empty_block(parent_layer: nn.Module, kind: str, variant: Variant, config, layer_idx: int) -> nn.Module:
    """A module of the right shapes for `variant`, its weights on the meta device."""
    if variant == NONE:
        own = sub_blocks(parent_layer).get(kind)
        return Nothing(own is not None and answers_pair(own, kind, config.model_type), kind)
    with torch.device("meta"):
        overrides = variant_overrides(config, kind, variant, layer_idx)
        layer = build_layer(type(parent_layer), config, overrides, layer_idx)
    return sub_block(layer, kind)


def load_block(block: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Give a meta block its weights (not copied) and freeze it."""
    block.load_state_dict(weights, assign=True)
    return block.requires_grad_(False).eval()


def layer_for(config, kind: str, variant: Variant) -> int:
    """The first layer of a parent that may have a variant; ValueError if none may."""
    for layer_idx, own in enumerate(parent_blocks(config)):
        if fits_layer(getattr(own, kind), kind, variant):
            return layer_idx
    raise ValueError(f"{kind} {variant!r}: no layer of this parent can have it")


def count_parameters(config, kind: str, variant: Variant) -> int:
    """Parameters of a sub-block with the norms that only it passes through."""
    if variant == NONE:
        return 0
    layer_idx = layer_for(config, kind, variant)
    layer = layers_of(meta_parent(config))[layer_idx]
    modules = [
        empty_block(layer, kind, variant, config, layer_idx),
        *(getattr(layer, n) for n in norms_of(layer, kind)),
    ]
    return sum(p.numel() for module in modules for p in module.parameters())


# -- running parts of a model


@contextlib.contextmanager
def swapped(model: PreTrainedModel, blocks: dict[int, tuple[nn.Module, nn.Module]]) -> Iterator[None]:
    """Run `model` with other sub-blocks, `{layer_idx: (attention, ffn)}`; the ones that were there come back."""
    layers, originals = layers_of(model), {}
    try:
        put_blocks(model, blocks, originals)
        yield
    finally:
        for (idx, name), module in originals.items():
            setattr(layers[idx], name, module)


def put_blocks(
    model: PreTrainedModel,
    blocks: dict[int, tuple[nn.Module, nn.Module]],
    originals: dict[tuple[int, str], nn.Module] | None = None,
) -> None:
    """As `swapped`, to stay; `originals` gets what was there, by layer and name."""
    layers, originals = layers_of(model), {} if originals is None else originals
    places = {idx: places_of(layers[idx]) for idx in blocks}  # before anything moves

    def put(idx: int, name: str, module: nn.Module) -> None:
        originals[idx, name] = getattr(layers[idx], name)
        setattr(layers[idx], name, module)

    for idx, pair in blocks.items():
        for kind, block in zip(KINDS, pair, strict=True):
            if kind not in places[idx]:
                continue
            norms = norms_of(layers[idx], kind) if isinstance(block, Nothing) else ()
            put(idx, places[idx][kind], block)
            for name in norms:  # a norm with a bias would add it behind a removed sub-block
                put(idx, name, NoNorm(getattr(layers[idx], name)))


class _PassOn(nn.Module):
    """A layer that does nothing; kept in its place, so that masks and positions by layer index stay right."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.block_type = getattr(layer, "block_type", None)  # some decoders choose a mask by it

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return hidden_states


@contextlib.contextmanager
def only_layers(
    model: PreTrainedModel, start: int, stop: int | None = None, states: torch.Tensor | None = None
) -> Iterator[None]:
    """Run only layers `start..stop` of `model`; with `states`, on these hidden states `(batch, length, hidden_size)`.

    The model's own forward does the masks, positions, final norm and head, whatever its family. The states enter behind
    the embeddings, which some families scale; give the forward `inputs_embeds` of the same shape.
    """
    decoder = model.get_decoder()
    name = layer_list(decoder)
    layers = getattr(decoder, name)
    stop = len(layers) if stop is None else stop
    inner = [layer if start <= i < stop else _PassOn(layer) for i, layer in enumerate(layers)]
    handle = states is not None and inner[0].register_forward_pre_hook(lambda module, args: (states, *args[1:]))
    setattr(decoder, name, nn.ModuleList(inner))
    try:
        yield
    finally:
        setattr(decoder, name, layers)
        if handle:
            handle.remove()


def first_states(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """What enters layer 0, `(batch, length, hidden_size)`: embeddings, scaled where the family does."""
    kept: list[torch.Tensor] = []
    with only_layers(model, 0, 0):
        handle = layers_of(model)[0].register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        try:
            model.get_decoder()(input_ids=input_ids, use_cache=False)
        finally:
            handle.remove()
    return kept[0]


def run_layer(model: PreTrainedModel, layer_idx: int, hidden_states: torch.Tensor) -> torch.Tensor:
    """The output of one layer on `(batch, length, hidden_size)`, with the model's own masks and positions."""
    outputs: list[torch.Tensor] = []
    handle = layers_of(model)[layer_idx].register_forward_hook(
        lambda module, args, output: outputs.append(hidden_states_of(output))
    )
    try:
        with only_layers(model, layer_idx, layer_idx + 1, hidden_states):
            model.get_decoder()(inputs_embeds=hidden_states, use_cache=False)
    finally:
        handle.remove()
    return outputs[0]
