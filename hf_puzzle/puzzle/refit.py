"""Closed-form refit of an assembled child: each output matrix corrects what the layers before it got wrong.

Walks the child from the first layer up. For each sub-block, its inputs Z to the output matrix are those the *child*
produces, and the target is what is missing to the parent's residual stream; the ridge solution is centred at the
current weights. No gradients; a few forward passes of calibration text.
"""

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..recipe import ChildConfig
from .surgery import layers_of, run_layer


# names of the matrices that write to the residual stream, by sub-block
OUTPUTS = {"self_attn": ("o_proj", "linear_attn"), "mlp": ("down_proj", "linear_mlp")}


def _output_of(layer: nn.Module, place: str) -> nn.Linear | None:
    sub_block = getattr(layer, place)
    for name in OUTPUTS[place]:
        if sub_block is not None and hasattr(sub_block, name):
            return getattr(sub_block, name)
    return None


@torch.no_grad()
def refit(child: PreTrainedModel, parent: PreTrainedModel, input_ids: torch.Tensor, config: ChildConfig) -> None:
    """Refit `child` in place.

    Args:
        input_ids: calibration sequences, shape `(num_sequences, sequence_length)`.
    """
    batches = [batch.to(parent.device) for batch in input_ids.split(config.batch_size)]
    child_states = [child.get_input_embeddings()(batch) for batch in batches]
    parent_states = [parent.get_input_embeddings()(batch) for batch in batches]
    for layer_idx in tqdm(range(len(layers_of(child))), desc="refit", leave=False):
        for place in OUTPUTS:
            output = _output_of(layers_of(child)[layer_idx], place)
            if output is not None:
                _refit_matrix(child, parent, layer_idx, place, output, child_states, parent_states, config.ridge)
        child_states = [run_layer(child, layer_idx, state) for state in child_states]
        parent_states = [run_layer(parent, layer_idx, state) for state in parent_states]


def _refit_matrix(
    child, parent, layer_idx, place, output: nn.Linear, child_states, parent_states, ridge: float
) -> None:
    size = output.in_features
    gram = torch.zeros(size, size, device=child.device, dtype=torch.float64)
    cross = torch.zeros(output.out_features, size, device=child.device, dtype=torch.float64)
    for child_state, parent_state in zip(child_states, parent_states, strict=True):
        inputs, child_residual = _residual_after(child, layer_idx, place, child_state, output)
        _, parent_residual = _residual_after(parent, layer_idx, place, parent_state, None)
        missing = (parent_residual - child_residual).flatten(0, -2).float()
        inputs = inputs.flatten(0, -2).float()
        gram += (inputs.T @ inputs).double()
        cross += (missing.T @ inputs).double()
    penalty = ridge * gram.diagonal().mean() * torch.eye(size, device=gram.device, dtype=gram.dtype)
    update = torch.linalg.solve(gram + penalty, cross.T).T
    if torch.isfinite(update).all():
        output.weight += update.to(output.weight.dtype)


def _residual_after(model, layer_idx: int, place: str, state: torch.Tensor, output: nn.Linear | None):
    """Inputs of the output matrix, and the residual stream right after the sub-block at `place`."""
    layer = layers_of(model)[layer_idx]
    seen: dict[str, torch.Tensor] = {}
    handles = []
    if output is not None:
        handles.append(output.register_forward_pre_hook(lambda m, args: seen.__setitem__("inputs", args[0])))
    if place == "self_attn" and layer.self_attn is not None:
        handles.append(layer.self_attn.register_forward_hook(lambda m, a, out: seen.__setitem__("update", out[0])))
    try:
        after_layer = run_layer(model, layer_idx, state)
    finally:
        for handle in handles:
            handle.remove()
    residual = after_layer if place == "mlp" else state + seen["update"] if "update" in seen else state
    return seen.get("inputs"), residual
