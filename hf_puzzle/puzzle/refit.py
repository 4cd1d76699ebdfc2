"""Closed-form refit of an assembled child: each output matrix corrects what the layers before it got wrong.

Walks the child from the first layer up. For each sub-block, its inputs Z to the output matrix are those the *child*
produces, and the target is what is missing to the parent's residual stream; the ridge solution is centred at the
current weights. No gradients; a few forward passes of calibration text.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..progress import bar
from ..recipe import ChildConfig
from .surgery import KINDS, first_states, hidden_states_of, layers_of, output_projection, place_of, run_layer


@dataclass(frozen=True)
class Trace:
    """One layer on one batch, `(batch, length, hidden_size)` each: what came in, each sub-block's answer, what came out."""

    state: torch.Tensor
    updates: dict[str, torch.Tensor]
    output: torch.Tensor

    def after(self, kind: str, scale: float) -> torch.Tensor:
        """The residual stream right after a sub-block."""
        if kind == "ffn":
            return self.output
        return self.state + scale * self.updates[kind] if kind in self.updates else self.state


@torch.no_grad()
def refit(child: PreTrainedModel, parent: PreTrainedModel, input_ids: torch.Tensor, config: ChildConfig) -> None:
    """Refit `child` in place; mixtures of experts stay as they are.

    Args:
        input_ids: calibration sequences, shape `(num_sequences, sequence_length)`.
    """
    batches = [batch.to(parent.device) for batch in input_ids.split(config.batch_size)]
    child_states = [first_states(child, batch) for batch in batches]
    parent_states = [first_states(parent, batch) for batch in batches]
    for layer_idx in bar(range(len(layers_of(child))), desc="refit"):
        targets = [_trace(parent, layer_idx, state) for state in parent_states]
        scale = _residual_scale(targets[0])
        for kind in KINDS:
            layer = layers_of(child)[layer_idx]
            output = output_projection(getattr(layer, place_of(layer, kind)))
            if output is not None:
                _refit_matrix(child, layer_idx, kind, output, child_states, targets, scale, config.ridge)
        child_states = [run_layer(child, layer_idx, state) for state in child_states]
        parent_states = [target.output for target in targets]


def _residual_scale(trace: Trace) -> float | None:
    """s where output = state + s * (attention + ffn), as in pre-norm layers; None behind norms after the sub-blocks."""
    change, update = (trace.output - trace.state).double(), sum(trace.updates.values()).double()
    scale = float((change * update).sum() / update.square().sum().clamp_min(1e-30))
    error = (change - scale * update).norm() / change.norm().clamp_min(1e-30)
    return scale if error < 1e-2 and scale > 0 else None


def _refit_matrix(child, layer_idx: int, kind: str, output: nn.Linear, states, targets, scale, ridge: float) -> None:
    size = output.in_features
    gram = torch.zeros(size, size, device=child.device, dtype=torch.float64)
    cross = torch.zeros(output.out_features, size, device=child.device, dtype=torch.float64)
    for state, target in zip(states, targets, strict=True):
        inputs: list[torch.Tensor] = []
        handle = output.register_forward_pre_hook(lambda module, args, keep=inputs: keep.append(args[0]))
        try:
            trace = _trace(child, layer_idx, state)
        finally:
            handle.remove()
        z = inputs[0].flatten(0, -2).float()
        if scale is None:  # a norm stands between the matrix and the stream: aim at the parent's own answer
            missing = target.updates[kind] - trace.updates[kind]
        else:
            missing = (target.after(kind, scale) - trace.after(kind, scale)) / scale
        gram += (z.T @ z).double()
        cross += (missing.flatten(0, -2).float().T @ z).double()
    penalty = ridge * gram.diagonal().mean() * torch.eye(size, device=gram.device, dtype=gram.dtype)
    update = torch.linalg.solve(gram + penalty, cross.T).T
    if torch.isfinite(update).all():
        output.weight += update.to(output.weight.dtype)


def _trace(model: PreTrainedModel, layer_idx: int, state: torch.Tensor) -> Trace:
    layer = layers_of(model)[layer_idx]
    updates: dict[str, torch.Tensor] = {}

    def keep(kind: str):
        return lambda module, args, output: updates.__setitem__(kind, hidden_states_of(output))

    blocks = {kind: getattr(layer, place_of(layer, kind)) for kind in KINDS}
    handles = [block.register_forward_hook(keep(kind)) for kind, block in blocks.items() if block is not None]
    try:
        output = run_layer(model, layer_idx, state)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(state, updates, output)
