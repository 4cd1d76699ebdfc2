"""Cutting blocks: from a parent's sub-block to each cheaper variant, and swapping them in and out of the parent.

Blocks keep the parent's own classes and interfaces, so a parent with swapped blocks runs its stock forward.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from ..blocks import LINEAR, NONE, Variant


# model_type -> what the DeciLM format needs to know: these families are pre-norm, gated and rotary like Llama
SUPPORTED_FAMILIES = ("llama", "mistral", "qwen2")


class UnsupportedParentError(ValueError):
    """The parent cannot be compressed into a DeciLM child; the message says which property stands in the way."""


def check_parent(config) -> None:
    """Refuse, before any compute, a parent that the DeciLM child cannot express.

    Raises:
        UnsupportedParentError: other family, activation, or a sliding window.
    """
    if config.model_type not in SUPPORTED_FAMILIES:
        raise UnsupportedParentError(
            f"parent family {config.model_type!r} is not supported; supported: {', '.join(SUPPORTED_FAMILIES)}"
        )
    if config.hidden_act != "silu":
        raise UnsupportedParentError(f"the parent's hidden_act is {config.hidden_act!r}; a DeciLM child needs 'silu'")
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise UnsupportedParentError(
            f"the parent attends within a sliding window of {config.sliding_window} tokens, which no engine honours in a "
            "DeciLM child; pass a parent with full attention"
        )


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers."""
    return model.get_decoder().layers


class LinearBlock(nn.Linear):
    """A sub-block replaced by one linear map; answers like an attention or an FFN."""

    def __init__(self, hidden_size: int, kind: str):
        super().__init__(hidden_size, hidden_size, bias=False)
        self.kind = kind

    def forward(self, hidden_states: torch.Tensor, **kwargs):
        output = super().forward(hidden_states)
        return (output, None) if self.kind == "attention" else output


class NoBlock(nn.Module):
    """A removed sub-block: adds nothing to the residual stream."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, hidden_states: torch.Tensor, **kwargs):
        output = torch.zeros_like(hidden_states)
        return (output, None) if self.kind == "attention" else output


def empty_block(parent_block: nn.Module, kind: str, variant: Variant, config, layer_idx: int) -> nn.Module:
    """A module of the right shapes for `variant`, its weights on the meta device."""
    if variant == NONE:
        return NoBlock(kind)
    with torch.device("meta"):
        if variant == LINEAR:
            return LinearBlock(config.hidden_size, kind)
        config = copy.deepcopy(config)
        if kind == "attention":
            config.num_key_value_heads = variant
            return type(parent_block)(config, layer_idx)
        config.intermediate_size = variant
        return type(parent_block)(config)


def load_block(block: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Give a meta block its weights (not copied) and freeze it."""
    block.load_state_dict(weights, assign=True)
    return block.requires_grad_(False).eval()


def initial_weights(
    parent_block: nn.Module, kind: str, variant: Variant, config, channels: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Training-free weights of a variant (Puzzle, appendix on initialisation).

    Args:
        channels: FFN channels by falling importance, shape `(intermediate_size,)`; only for narrower FFNs.
    """
    weights = {name: tensor.detach() for name, tensor in parent_block.state_dict().items()}
    if variant == NONE:
        return {}
    if kind == "attention":
        if variant == LINEAR:
            return {"weight": _attention_as_linear(weights, config)}
        return _pool_kv_heads(weights, variant, config)
    if variant == LINEAR:
        return {"weight": weights["down_proj.weight"] @ weights["up_proj.weight"]}
    kept = channels[:variant].sort().values.to(weights["down_proj.weight"].device)
    narrowed = {}
    for name, tensor in weights.items():
        if name.startswith("down_proj"):
            narrowed[name] = (tensor[:, kept] if name.endswith("weight") else tensor).clone()
        else:
            narrowed[name] = tensor[kept].clone()
    return narrowed


def _pool_kv_heads(weights: dict[str, torch.Tensor], num_kv_heads: int, config) -> dict[str, torch.Tensor]:
    """Mean of consecutive groups of key and value heads (the GQA recipe); queries keep their order."""
    pooled = {name: tensor.clone() for name, tensor in weights.items()}
    for name in weights:
        if name.startswith(("k_proj", "v_proj")):
            tensor = weights[name]
            heads = tensor.view(num_kv_heads, config.num_key_value_heads // num_kv_heads, -1, *tensor.shape[1:])
            pooled[name] = heads.mean(dim=1).reshape(-1, *tensor.shape[1:])
    return pooled


def _attention_as_linear(weights: dict[str, torch.Tensor], config) -> torch.Tensor:
    """Every token attends to itself only: W = W_o repeat_kv(W_v)."""
    value = weights["v_proj.weight"]  # (kv_heads * head_dim, hidden)
    groups = config.num_attention_heads // config.num_key_value_heads
    heads = value.view(config.num_key_value_heads, -1, value.shape[1]).repeat_interleave(groups, dim=0)
    return weights["o_proj.weight"] @ heads.reshape(-1, value.shape[1])


@contextlib.contextmanager
def swapped(model: PreTrainedModel, blocks: dict[int, tuple[nn.Module, nn.Module]]) -> Iterator[None]:
    """Run `model` with other sub-blocks, `{layer_idx: (attention, ffn)}`; the ones that were there come back."""
    layers = layers_of(model)
    originals = {idx: (layers[idx].self_attn, layers[idx].mlp) for idx in blocks}
    try:
        for idx, (attention, ffn) in blocks.items():
            layers[idx].self_attn, layers[idx].mlp = attention, ffn
        yield
    finally:
        for idx, (attention, ffn) in originals.items():
            layers[idx].self_attn, layers[idx].mlp = attention, ffn


@contextlib.contextmanager
def only_layers(model: PreTrainedModel, start: int, stop: int | None = None) -> Iterator[None]:
    """Run only layers `start..stop` of `model` on hidden states given as `inputs_embeds`.

    The model's own forward does the masks, positions, final norm and head, whatever its family.
    """
    decoder = model.get_decoder()
    layers = decoder.layers
    decoder.layers = nn.ModuleList(layers[start:stop])
    try:
        yield
    finally:
        decoder.layers = layers


def run_layer(model: PreTrainedModel, layer_idx: int, hidden_states: torch.Tensor) -> torch.Tensor:
    """The output of one layer on `(batch, length, hidden_size)`, with the model's own masks and positions."""
    outputs = []
    layer = layers_of(model)[layer_idx]

    def keep(module, args, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(keep)
    try:
        with only_layers(model, layer_idx, layer_idx + 1):
            model.get_decoder()(inputs_embeds=hidden_states, use_cache=False)
    finally:
        handle.remove()
    return outputs[0]
