"""Weights that blocks start from."""

import torch
from torch import nn

from ..blocks import NONE, Variant, kv_heads, num_experts, row_of, sizes_of
from ..layers import attention_heads, stock_value
from .experts import expert_width, experts_of
from .surgery import empty_block, output_projection, sub_block


def initial_weights(
    parent_layer: nn.Module,
    kind: str,
    variant: Variant,
    config,
    channels: torch.Tensor | None = None,
    inner: torch.Tensor | None = None,
    layer_idx: int = 0,
) -> dict[str, torch.Tensor]:
    """Training-free weights of a variant (Puzzle, appendix on initialisation).

    What to cut is read off the shapes: a dimension that the variant has smaller is made of the parent's KV heads (mean
    of consecutive ones), FFN channels (also of fused projections) or experts.

    Args:
        channels: FFN channels, or experts, by falling importance; only for narrower FFNs.
        inner: channels of each expert by falling importance, `(num_experts, width)`; only for narrower experts.
        layer_idx: of `parent_layer`, where layers differ.

    Raises:
        ValueError: a variant made of a linear map where there is no product of weights (ridge regression has one for every family).
    """
    parent_block_ = sub_block(parent_layer, kind)
    weights = {name: tensor.detach() for name, tensor in parent_block_.state_dict().items()}
    if variant == NONE:
        return {}
    module = row_of(kind, variant).module
    if hasattr(module, "from_attention"):
        return module.from_attention(parent_block_, config, *sizes_of(kind, variant).values())
    if module is not None:
        return module.from_map(product_of_weights(parent_layer, kind, config), kind, *sizes_of(kind, variant).values())
    target = empty_block(parent_layer, kind, variant, config, layer_idx)
    if num_experts(variant) is not None:
        return _cut_mixture(weights, parent_block_, target, channels, inner)
    return {
        name: _cut(weights[name], tensor.shape, kind, variant, config, channels, name, parent_block_)
        for name, tensor in target.state_dict().items()
    }


def _cut(
    tensor, shape: torch.Size, kind: str, variant: Variant, config, channels, name: str, block: nn.Module
) -> torch.Tensor:
    changed = [dim for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)) if old != new]
    if not changed:
        return tensor.clone()
    assert len(changed) == 1, (name, tensor.shape, shape)
    dim = changed[0]
    old, new = tensor.shape[dim], shape[dim]
    if kind == "attention":
        own = heads_of(block, config)
        # a fused projection holds queries, keys and values one after another
        pooled = (old - new) * own // (own - kv_heads(variant))
        parts = tensor.split([old - pooled, pooled // 2, pooled // 2] if old > pooled else [old], dim)
        keep, pool = (parts[:1], parts[1:]) if old > pooled else ((), parts)
        return torch.cat([*keep, *(_mean_heads(part, own, kv_heads(variant)) for part in pool)])
    count = output_projection(block).in_features
    kept = channels[: new * count // old].sort().values.to(tensor.device)
    # a fused gate and up projection holds one run of all channels after the other
    offsets = torch.arange(0, old, count, device=tensor.device)[:, None]
    return tensor.index_select(dim, (offsets + kept).flatten()).contiguous()


def _cut_mixture(
    weights: dict, own: nn.Module, target: nn.Module, ranking: torch.Tensor, inner
) -> dict[str, torch.Tensor]:
    """Rows of the experts that stay, in all tensors that have one for each, and of each the channels that stay.

    Raises:
        ValueError: the width of experts is also that of something that all tokens pass (shared experts of DeepSeek's family).
    """
    experts, count, cut = experts_of(own), experts_of(target).num_experts, {}
    width = expert_width(experts_of(target))
    kept = ranking[:count].sort().values.to(experts.down_proj.device)
    places = None if width == expert_width(experts) else inner.to(kept.device)[kept, :width].sort(dim=1).values
    for name, shape in ((name, tensor.shape) for name, tensor in target.state_dict().items()):
        tensor = weights[name]
        per_expert = [
            dim
            for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True))
            if (old, new) == (experts.num_experts, count)
        ]
        if per_expert and tensor.shape != shape:
            tensor = tensor.index_select(per_expert[0], kept)
        narrowed = [dim for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)) if old != new]
        if narrowed and not name.startswith("experts."):
            raise ValueError(f"experts of width {width}: {name} would change its width, too, which no ranking covers")
        if narrowed:
            (dim,), runs = narrowed, tensor.shape[narrowed[0]] // expert_width(experts)
            offsets = torch.arange(runs, device=kept.device)
            # gate and up: one run of channels after the other, or in turn
            rows = places[:, None] + offsets[:, None] * expert_width(experts) if experts.is_concatenated else (
                places[:, :, None] * runs + offsets
            )  # fmt: skip
            rows = rows.flatten(1)
            index = rows.view(len(kept), *(-1 if d == dim else 1 for d in range(1, tensor.ndim)))
            tensor = tensor.gather(
                dim, index.expand(*(len(rows[0]) if d == dim else n for d, n in enumerate(tensor.shape)))
            )
        cut[name] = tensor.contiguous()
    return cut


def heads_of(attention: nn.Module, config) -> int:
    """KV heads that an attention has, which may be fewer than its model's config says."""
    groups = getattr(attention, "num_key_value_groups", None)
    return attention_heads(config) if groups is None else stock_value(config, "num_attention_heads") // groups


def _mean_heads(tensor: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Mean of consecutive groups of heads along dimension 0 (the GQA recipe); queries keep their order."""
    heads = tensor.reshape(new, old // new, -1, *tensor.shape[1:])
    return heads.mean(dim=1).reshape(-1, *tensor.shape[1:])


def product_of_weights(parent_layer: nn.Module, kind: str, config) -> torch.Tensor:
    """A linear map `(hidden_size, hidden_size)` for a sub-block (the paper's). Attention: every token attends to itself
    only, W = W_o repeat_kv(W_v). FFN: W_down W_up.

    Raises:
        ValueError: the family has no such product.
    """
    weights = {name: tensor.detach() for name, tensor in sub_block(parent_layer, kind).state_dict().items()}

    def first(*names: str) -> torch.Tensor | None:
        return next((weights[name] for name in names if name in weights), None)

    if kind == "ffn":
        down, up = (
            first("down_proj.weight", "w2.weight", "output_linear.weight"),
            first("up_proj.weight", "gate_up_proj.weight", "w3.weight", "input_linear.weight"),
        )
        if down is None or up is None or up.ndim != 2:
            raise ValueError(f"an FFN of {config.model_type} has no product of weights to start a linear block from")
        return down @ up[-down.shape[1] :]
    output, value = first("o_proj.weight", "dense.weight", "out_proj.weight"), first("v_proj.weight")
    own, queries = heads_of(sub_block(parent_layer, kind), config), stock_value(config, "num_attention_heads")
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


def shared_subspaces(
    attention: nn.Module, pooled: dict[str, torch.Tensor], heads: int, config, moments: torch.Tensor
) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of an attention with `heads` KV heads that fit the parent's inputs, by name of the method.

    `shared_values`: each value head is the subspace of those it stands for that keeps most of what the output matrix makes
    of them; that matrix is adapted. `shared_subspace`: keys, too. Complex factors of pairs of rotary dimensions commute
    with positions: each pair of the key is the best common one under such factors, which go into the queries.

    Args:
        pooled: the weights by `initial_weights`.
        moments: of the inputs with a one behind them, which biases see, `(hidden_size + 1, hidden_size + 1)`, float64.

    Returns:
        Nothing where projections are fused or no head is saved, and no keys where norms follow on the projections.
    """
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    own, query_heads = heads_of(attention, config), stock_value(config, "num_attention_heads")
    projections = [getattr(attention, name, None) for name in names]
    if heads == own or not all(isinstance(p, nn.Linear) for p in projections) or not moments.isfinite().all():
        return {}
    query, key, value = (_with_bias(p).to(moments) for p in projections[:3])
    output = projections[3].weight.detach().T.to(moments)
    size = len(key) // own
    if not len(key) == len(value) == own * size or not len(query) == len(output) == query_heads * size or size % 2:
        return {}
    merged = (heads, own // heads)
    queries = (*merged, query_heads // own, size)
    value, output = _merge_values(value.view(*merged, size, -1), output.reshape(*queries, -1), moments)
    found = {"v_proj": value.flatten(0, 1), "o_proj": output.flatten(0, 3)}
    methods = {"shared_values": found}
    if not any("norm" in name for name, _ in attention.named_children()):
        query, key = _merge_keys(query.view(*queries, -1), key.view(*merged, size, -1), moments)
        methods["shared_subspace"] = {**found, "q_proj": query.flatten(0, 3), "k_proj": key.flatten(0, 1)}
    return {method: {**pooled, **_as_weights(projection, pooled)} for method, projection in methods.items()}


def _with_bias(projection: nn.Linear) -> torch.Tensor:
    weight, bias = projection.weight.detach(), projection.bias
    return torch.cat([weight, weight.new_zeros(len(weight), 1) if bias is None else bias.detach()[:, None]], dim=1)


def _as_weights(projections: dict[str, torch.Tensor], pooled: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {}
    for name, matrix in projections.items():
        weight, bias = f"{name}.weight", f"{name}.bias"
        if name == "o_proj":
            weights[weight] = matrix.T.contiguous().to(pooled[weight].device, torch.float32)
            continue
        weights[weight] = matrix[:, :-1].contiguous().to(pooled[weight].device, torch.float32)
        if bias in pooled:
            weights[bias] = matrix[:, -1].contiguous().to(pooled[bias].device, torch.float32)
    return weights


def _merge_values(
    value: torch.Tensor, output: torch.Tensor, moments: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(new, old, size, n)` and `(new, old, queries, size, out)` -> `(new, size, n)` and the adapted output."""
    size, stacked = value.shape[2], value.flatten(1, 2)
    gram = stacked @ moments @ stacked.mT
    gram.diagonal(dim1=1, dim2=2).add_(1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-30)
    root = torch.linalg.cholesky(gram)
    kept = torch.einsum("gjqso,gjqto->gjst", output, output) @ root.unflatten(1, value.shape[1:3])
    basis = torch.linalg.eigh(root.mT @ kept.flatten(1, 2)).eigenvectors[..., -size:]
    shared = basis.mT @ torch.linalg.solve_triangular(root, stacked, upper=False)
    back = (root @ basis).unflatten(1, value.shape[1:3])
    # as large as a value head was: AdamW's steps know no scale
    scale = stacked.norm(dim=(1, 2), keepdim=True) / value.shape[1] ** 0.5 / shared.norm(dim=(1, 2), keepdim=True)
    return scale * shared, torch.einsum("gjst,gjqso->gjqto", back, output) / scale[..., None, None]


def _merge_keys(query: torch.Tensor, key: torch.Tensor, moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(new, old, queries, size, n)` and `(new, old, size, n)` -> the adapted queries and `(new, size, n)`."""

    def pairs(rows: torch.Tensor) -> torch.Tensor:
        return torch.complex(*rows.unflatten(-2, (2, -1)).unbind(-3))

    def unpaired(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows.real, rows.imag], dim=-2)

    power = (
        ((query @ moments) * query).sum(-1).unflatten(-1, (2, -1)).sum((2, 3)).clamp_min(0).sqrt()
    )  # (new, old, pairs)
    keys, seen = pairs(key), pairs(key @ moments)
    gram = torch.einsum("gap,gapi,gbpi,gbp->gpab", power, seen, keys.conj(), power)
    mix = torch.linalg.eigh(gram).eigenvectors[..., -1].conj() * power.mT
    shared = torch.einsum("gpj,gjpi->gpi", mix, keys)
    size = shared.abs().square().sum(-1, keepdim=True).clamp_min(1e-30)
    shared = shared * (keys.abs().square().sum(-1, keepdim=True).mean(1) / size).sqrt()
    seen_shared = torch.complex(shared.real @ moments, shared.imag @ moments)
    own_power = (seen_shared * shared.conj()).real.sum(-1).clamp_min(1e-30)
    factor = torch.einsum("gjpi,gpi->gjp", seen, shared.conj()) / own_power[:, None]
    return unpaired(pairs(query) * factor.conj()[:, :, None, :, None]), unpaired(shared)
