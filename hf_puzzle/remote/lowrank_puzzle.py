"""A low-rank map in the place of an attention or an FFN: hidden_size -> rank -> hidden_size, without a nonlinearity.

One file is all there is of this block: its module, its ids, where its weights start from.
"""

import torch
from torch import nn


class LowRank(nn.Module):
    """W x with W of rank at most `rank`: two matrices with 2 x hidden_size x rank weights.

    Attributes:
        template: of its ids in recipes, scores and `replace_with`; `{}` is a number.
        kinds: what it may stand for.
        sizes: what the numbers in its id are: arguments of the constructor, after the three that all sub-blocks take.
        noun: in messages of engines and formats that do not have it.
    """

    template = "r{}"
    kinds = ("attention", "ffn")
    sizes = ("rank",)
    noun = "low-rank maps"

    def __init__(self, config, kind: str, pair: bool, rank: int):
        super().__init__()
        self.pair = pair
        self.in_proj = nn.Linear(config.hidden_size, rank, bias=False)
        self.out_proj = nn.Linear(rank, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, **kwargs):
        output = self.out_proj(self.in_proj(hidden_states))
        return (output, None) if self.pair else output

    @staticmethod
    def why_not(config, rank: int) -> str | None:
        """What a parent's size says against it, with the way out; None if nothing."""
        size = config.hidden_size
        return (
            f"rank {rank} takes as many weights as the linear map, {size} x {size}: use linear"
            if 2 * rank >= size
            else None
        )

    @staticmethod
    def from_map(
        weight: torch.Tensor, kind: str, rank: int, inputs: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Its weights before training: the map of this rank whose answers are nearest to those of `weight`.

        Args:
            weight: the linear map that is best at the sub-block's work, `(hidden_size, hidden_size)`.
            inputs: second moments of what goes in, `(hidden_size, hidden_size)`; default: all directions alike.
        """
        root = torch.eye(len(weight), dtype=torch.float64, device=weight.device)
        if inputs is not None:
            ridge = 1e-6 * inputs.diagonal().mean().clamp_min(1e-30).double() * root
            root = torch.linalg.cholesky(inputs.double() + ridge)
        left = torch.linalg.svd(weight.double() @ root, full_matrices=False)[0][:, :rank]
        inner = left.T @ weight.double()
        scale = inner.norm(dim=1).clamp_min(1e-30).sqrt()  # both matrices alike, for the optimizer
        pair = {"in_proj.weight": inner / scale[:, None], "out_proj.weight": left * scale}
        return {name: tensor.to(weight.dtype).contiguous() for name, tensor in pair.items()}
