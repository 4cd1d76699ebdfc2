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
    for layer_idx in tqdm(range(len(layers_of(child))), desc="refit", leave=False, disable=None):
        targets = [_residuals(parent, layer_idx, state) for state in parent_states]
        for place in OUTPUTS:
            output = _output_of(layers_of(child)[layer_idx], place)
            if output is not None:
                wanted = [target[place] for target in targets]
                _refit_matrix(child, layer_idx, place, output, child_states, wanted, config.ridge)
        child_states = [run_layer(child, layer_idx, state) for state in child_states]
        parent_states = [target["mlp"] for target in targets]


def _refit_matrix(child, layer_idx: int, place: str, output: nn.Linear, states, targets, ridge: float) -> None:
    size = output.in_features
    gram = torch.zeros(size, size, device=child.device, dtype=torch.float64)
    cross = torch.zeros(output.out_features, size, device=child.device, dtype=torch.float64)
    for state, target in zip(states, targets, strict=True):
        inputs: list[torch.Tensor] = []
        handle = output.register_forward_pre_hook(lambda module, args, keep=inputs: keep.append(args[0]))
        try:
            residual = _residuals(child, layer_idx, state)[place]
        finally:
            handle.remove()
        z = inputs[0].flatten(0, -2).float()
        missing = (target - residual).flatten(0, -2).float()
        gram += (z.T @ z).double()
        cross += (missing.T @ z).double()
    penalty = ridge * gram.diagonal().mean() * torch.eye(size, device=gram.device, dtype=gram.dtype)
    update = torch.linalg.solve(gram + penalty, cross.T).T
    if torch.isfinite(update).all():
        output.weight += update.to(output.weight.dtype)


def _residuals(model: PreTrainedModel, layer_idx: int, state: torch.Tensor) -> dict[str, torch.Tensor]:
    """The residual stream right after each sub-block of a layer."""
    attention = layers_of(model)[layer_idx].self_attn
    updates: list[torch.Tensor] = []
    handle = attention and attention.register_forward_hook(lambda module, args, out: updates.append(out[0]))
    try:
        after_layer = run_layer(model, layer_idx, state)
    finally:
        if handle:
            handle.remove()
    return {"self_attn": state + updates[0] if updates else state, "mlp": after_layer}
