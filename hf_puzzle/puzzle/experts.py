"""The experts of a mixture: which matter, and what the remaining ones make up for once others are gone.

transformers holds the experts of a layer in one module with stacked matrices, and says of it how they lie (`has_gate`,
`is_transposed`, ...): what one expert computes is read off that, whatever the family.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn


SWEEPS = 3  # over the experts of a layer: what one makes up for is no longer missing to the others that see its tokens


def experts_of(ffn: nn.Module) -> nn.Module | None:
    """The module with the routed experts of an FFN; None for a dense one."""
    experts = getattr(ffn, "experts", None)
    return experts if isinstance(getattr(experts, "down_proj", None), nn.Parameter) else None


def expert_width(experts: nn.Module) -> int:
    """Channels of each expert."""
    return experts.down_proj.shape[1 if experts.is_transposed else 2]


def down_matrix(experts: nn.Module, expert: int) -> torch.Tensor:
    """What writes an expert's channels to the output, `(out, channels)`; a view."""
    matrix = experts.down_proj[expert]
    return matrix.T if experts.is_transposed else matrix


def channels(experts: nn.Module, expert: int, states: torch.Tensor) -> torch.Tensor:
    """What enters the output matrix of an expert, `(tokens, channels)`, from what enters the expert, `(tokens, n)`."""
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    matrix = getattr(experts, name)[expert]
    inner = states @ (matrix if experts.is_transposed else matrix.T)
    if experts.has_bias:
        inner = inner + getattr(experts, f"{name}_bias")[expert]
    return experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)


def output(experts: nn.Module, expert: int, inner: torch.Tensor) -> torch.Tensor:
    """An expert's answer to its channels, `(tokens, out)`, before the gate."""
    answer = inner @ down_matrix(experts, expert).T
    if experts.has_bias:
        answer = answer + experts.down_proj_bias[expert]
    return experts.post_expert_norm(answer) if getattr(experts, "has_post_expert_norm", False) else answer


def routed(
    experts: nn.Module, indices: torch.Tensor, weights: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """`(expert, its tokens, their gates)` of each expert that gets tokens; `indices` and `weights` are `(tokens, top_k)`."""
    for expert in indices.unique().tolist():
        if expert < experts.num_experts:  # beyond: the mark of "none"
            tokens, place = torch.where(indices == expert)
            yield expert, tokens, weights[tokens, place].float()


class ExpertSums:
    """What ranks experts and their channels, summed over tokens; flat, so that processes can add theirs up.

    Rows, of E experts with I channels each: gates, gates times norms of the answer, tokens routed (E each), gates times
    absolute channels (E x I), and all tokens that came by.
    """

    def __init__(self, experts: nn.Module, device: torch.device | str):
        self.num, self.width = experts.num_experts, expert_width(experts)
        self.sizes = [self.num, self.num, self.num, self.num * self.width, 1]
        self.flat = torch.zeros(sum(self.sizes), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, experts: nn.Module, states: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> None:
        gates, norms, tokens, inner_sums, total = self.flat.split(self.sizes)
        total += len(states)
        for expert, rows, gate in routed(experts, indices, weights):
            inner = channels(experts, expert, states[rows])
            length = output(experts, expert, inner).float().norm(dim=-1)
            gates[expert] += gate.sum().double().to(gates.device)
            norms[expert] += (gate * length).sum().double().to(gates.device)
            tokens[expert] += len(rows)
            own = slice(expert * self.width, (expert + 1) * self.width)
            inner_sums[own] += (gate[:, None] * inner.float().abs()).sum(0).to(gates.device).double()

    def importance(self, experts: nn.Module, flat: torch.Tensor, criterion: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of experts `(E,)` and of channels within them `(E, I)`, float32.

        Args:
            flat: sums over all processes.
            criterion: `reap`: mean over the tokens routed to an expert of gate x norm of its answer, the gates as the model
                has normalised them (arXiv 2510.13999); `output_norm`: the same over all tokens, so that experts that
                few tokens see matter less; `routing_weight`: mean gate over all tokens.
        """
        gates, norms, tokens, inner, total = flat.split(self.sizes)
        scores = {"reap": norms / tokens.clamp_min(1), "output_norm": norms / total, "routing_weight": gates / total}[
            criterion
        ]
        lengths = torch.stack([down_matrix(experts, i).float().norm(dim=0) for i in range(self.num)]).cpu()
        inner = (inner / total).view(self.num, self.width).float().cpu()
        return scores.float().cpu(), inner * lengths


@dataclass
class ExpertData:
    """What a layer's experts saw of some text, and what is missing of their answers; `(tokens, ...)` each."""

    states: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor
    missing: torch.Tensor

    @classmethod
    def joined(cls, parts: list["ExpertData"]) -> "ExpertData":
        return cls(*(torch.cat(each) for each in zip(*(vars(part).values() for part in parts), strict=True)))


@torch.no_grad()
def refitted(experts: nn.Module, fit: ExpertData, judge: ExpertData, ridges: list[float]) -> torch.Tensor | None:
    """What to add to the experts' output matrices, `down_proj`, so that least is missing on `judge`; None for nothing.

    Ridge regression centred at the present matrices, one expert after the other, several times (block Gauss-Seidel).

    Args:
        ridges: strengths to try, relative to the mean power of an expert's inputs.
    """
    if experts.down_proj.shape[2 if experts.is_transposed else 1] != fit.missing.shape[1] or getattr(
        experts, "has_post_expert_norm", False
    ):
        return None  # another matrix, or a norm, stands between the experts and the stream
    plans = [_features(experts, data) for data in (fit, judge)]
    best, lowest = None, judge.missing.square().sum()
    for ridge in ridges:
        changes = _fitted(plans[0], fit.missing.clone(), ridge)
        left = judge.missing.clone()
        for expert, rows, inner in plans[1]:
            if expert in changes:
                left.index_add_(0, rows, inner @ changes[expert].T, alpha=-1)
        error = left.square().sum()
        if torch.isfinite(error) and error < lowest:
            best, lowest = changes, error
    if best is None:
        return None
    update = torch.zeros_like(experts.down_proj, dtype=torch.float32)
    for expert, change in best.items():
        update[expert] = change.T if experts.is_transposed else change
    return update


def _features(experts: nn.Module, data: ExpertData) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """`(expert, its tokens, gate x channels)`: the answer is linear in the output matrix, with these for inputs."""
    return [
        (expert, rows, gate[:, None] * channels(experts, expert, data.states[rows]).float())
        for expert, rows, gate in routed(experts, data.indices, data.weights)
    ]


def _fitted(
    plan: list[tuple[int, torch.Tensor, torch.Tensor]], missing: torch.Tensor, ridge: float
) -> dict[int, torch.Tensor]:
    """What to add to each expert's output matrix, `(out, channels)`."""
    changes: dict[int, torch.Tensor] = {}
    for _ in range(SWEEPS):
        for expert, rows, inner in plan:
            gram, before = (inner.T @ inner).double(), changes.get(expert)
            wanted = missing[rows] if before is None else missing[rows] + inner @ before.T
            penalty = (
                ridge
                * gram.diagonal().mean().clamp_min(1e-30)
                * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            )
            after = torch.linalg.solve(gram + penalty, (inner.T @ wanted).double()).T.float()
            missing.index_add_(0, rows, inner @ (after if before is None else after - before).T, alpha=-1)
            changes[expert] = after
    return changes
