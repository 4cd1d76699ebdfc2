"""One optimizer for small full trainings: Muon for the matrices, AdamW for everything else."""

from collections.abc import Iterable

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` on hidden 2-D weights and `torch.optim.AdamW` on embeddings, heads, norms and biases.

    Muon's update is scaled to AdamW's RMS (`match_rms_adamw`), so one learning rate serves both. Behaves as one
    optimizer for schedulers and checkpoints: the parameter groups are those of the two inner optimizers.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float = 0.0):
        matrices, others = [], []
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
                (matrices if hidden else others).append(parameter)
        inner = []
        if matrices:
            inner.append(torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            inner.append(torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.95)))
        super().__init__([group for optimizer in inner for group in optimizer.param_groups], {"lr": lr})
        self.inner = inner
        self._share_groups()

    def _share_groups(self) -> None:
        # the scheduler writes to our groups: the inner optimizers must read the very same dicts
        groups = iter(self.param_groups)
        for optimizer in self.inner:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]

    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.inner:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"inner": [optimizer.state_dict() for optimizer in self.inner]}

    def load_state_dict(self, state_dict: dict) -> None:
        for optimizer, state in zip(self.inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.inner for group in optimizer.param_groups]
        self._share_groups()
