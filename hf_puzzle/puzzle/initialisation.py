"""Weights that blocks start from."""

import torch
from torch import nn

from ..blocks import NONE, Variant, kv_heads, num_experts, row_of, sizes_of
from ..formats import parent_block, stock_value
from .surgery import empty_block, sub_block


def initial_weights(
    parent_layer: nn.Module, kind: str, variant: Variant, config, channels: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Training-free weights of a variant (Puzzle, appendix on initialisation).

    What to cut is read off the shapes: a dimension that the variant has smaller is made of the parent's KV heads (mean
    of consecutive ones), FFN channels (also of fused projections) or experts.

    Args:
        channels: FFN channels, or experts, by falling importance; only for narrower FFNs.

    Raises:
        ValueError: a variant made of a linear map where there is no product of weights (ridge regression has one for every family).
    """
    parent_block_ = sub_block(parent_layer, kind)
    weights = {name: tensor.detach() for name, tensor in parent_block_.state_dict().items()}
    if variant == NONE:
        return {}
    if (module := row_of(kind, variant).module) is not None:
        return module.from_map(_as_linear(weights, kind, config), kind, *sizes_of(kind, variant).values())
    target = empty_block(parent_layer, kind, variant, config, getattr(parent_block_, "layer_idx", 0) or 0)
    return {
        name: _cut(weights[name], tensor.shape, kind, variant, config, channels, name)
        for name, tensor in target.state_dict().items()
    }


def _cut(tensor, shape: torch.Size, kind: str, variant: Variant, config, channels, name: str) -> torch.Tensor:
    changed = [dim for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)) if old != new]
    if not changed:
        return tensor.clone()
    assert len(changed) == 1, (name, tensor.shape, shape)
    dim = changed[0]
    old, new = tensor.shape[dim], shape[dim]
    if kind == "attention":
        own = parent_block(config).attention
        # a fused projection holds queries, keys and values one after another
        pooled = (old - new) * own // (own - kv_heads(variant))
        parts = tensor.split([old - pooled, pooled // 2, pooled // 2] if old > pooled else [old], dim)
        keep, pool = (parts[:1], parts[1:]) if old > pooled else ((), parts)
        return torch.cat([*keep, *(_mean_heads(part, own, kv_heads(variant)) for part in pool)])
    count = parent_block(config).ffn if num_experts(variant) is None else num_experts(parent_block(config).ffn)
    kept = channels[: new * count // old].sort().values.to(tensor.device)
    # a fused gate and up projection holds one run of all channels after the other
    offsets = torch.arange(0, old, count, device=tensor.device)[:, None]
    return tensor.index_select(dim, (offsets + kept).flatten()).contiguous()


def _mean_heads(tensor: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Mean of consecutive groups of heads along dimension 0 (the GQA recipe); queries keep their order."""
    heads = tensor.reshape(new, old // new, -1, *tensor.shape[1:])
    return heads.mean(dim=1).reshape(-1, *tensor.shape[1:])


def _as_linear(weights: dict[str, torch.Tensor], kind: str, config) -> torch.Tensor:
    """Attention: every token attends to itself only, W = W_o repeat_kv(W_v). FFN: W_down W_up."""

    def first(*names: str) -> torch.Tensor | None:
        return next((weights[name] for name in names if name in weights), None)

    if kind == "ffn":
        down, up = first("down_proj.weight"), first("up_proj.weight", "gate_up_proj.weight")
        if down is None or up is None or up.ndim != 2:
            raise ValueError(f"an FFN of {config.model_type} has no product of weights to start a linear block from")
        return down @ up[-down.shape[1] :]
    output, value = first("o_proj.weight", "dense.weight"), first("v_proj.weight")
    own, queries = parent_block(config).attention, stock_value(config, "num_attention_heads")
    if value is None and "qkv_proj.weight" in weights:
        fused = weights["qkv_proj.weight"]
        value = fused[-own * (output.shape[1] // queries) :]
    elif value is None and "query_key_value.weight" in weights:  # GPT-NeoX: query, key and value of each head in turn
        fused = weights["query_key_value.weight"]
        value = fused.view(queries, 3, -1, fused.shape[1])[:, 2].reshape(-1, fused.shape[1])
    if output is None or value is None:
        raise ValueError(f"an attention of {config.model_type} has no product of weights to start a linear block from")
    heads = value.view(own, -1, value.shape[1]).repeat_interleave(queries // own, dim=0)
    return output @ heads.reshape(-1, value.shape[1])
