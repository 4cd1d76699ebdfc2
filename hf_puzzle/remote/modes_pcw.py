"""How the windows are put together: one row of `MODES` per way, which is all that a new way needs.

Shapes: S streams (contexts that are read), V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .cache_pcw import Context, EncodedWindows


def least_entropy(logs: torch.Tensor) -> torch.Tensor:
    """(S, ..., V) log-probabilities to (...), the stream of least entropy."""
    return torch.special.entr(logs.exp()).sum(-1).argmin(0)


def _pick(streams: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    index = chosen[None, ..., None].expand(1, *streams.shape[1:])
    return streams.gather(0, index)[0]


def _ensemble(logits: torch.Tensor, log_weights: torch.Tensor, beta: float, chosen) -> torch.Tensor:
    return (logits.float().log_softmax(-1) + log_weights.view(-1, *[1] * (logits.ndim - 1))).logsumexp(0)


def _nbce(logits: torch.Tensor, log_weights, beta: float, chosen) -> torch.Tensor:
    logs = logits.float().log_softmax(-1)
    windows, empty = logs[:-1], logs[-1]
    return ((1 + beta) * _pick(windows, least_entropy(windows)) - beta * empty).log_softmax(-1)


def _single(logits: torch.Tensor, log_weights, beta: float, chosen: torch.Tensor) -> torch.Tensor:
    return _pick(logits.float().log_softmax(-1), chosen)


class Mode(NamedTuple):
    """A way of putting windows together.

    combine: of logits (S, ..., V), log-weights of the windows (S,), beta, and the chosen stream per place (...), makes
        (..., V): logits, or log-probabilities.
    together: one context holds all windows; otherwise each has one of its own. empty: and one more holds no window.
    weighted: takes weights of the windows. chooses: a stream is chosen where the task ends, for all that follows.
    """

    combine: Callable
    together: bool = False
    empty: bool = False
    weighted: bool = False
    chooses: bool = False


MODES = {
    # one attention over all windows (the paper)
    "pcw": Mode(lambda logits, *_: logits[0], together=True),
    # p = sum_b w_b p_b at each token (Parallel Ensemble, arXiv 2305.15262)
    "ensemble": Mode(_ensemble, weighted=True),
    # log p proportional to (1 + beta) log p_b - beta log p(no window), b the window of least entropy at each token (Su's
    # naive Bayes context extension with its maximum pooling, kexue.fm/archives/9617 and arXiv 2403.17552; beta 0.25 there)
    "nbce": Mode(_nbce, empty=True),
    # p_b, b the window of least entropy at the task's last token
    "single": Mode(_single, chooses=True),
}


@dataclass(frozen=True)
class Mixture:
    """A mode with its knobs, checked."""

    name: str
    beta: float = 0.0
    weights: torch.Tensor | None = None

    @property
    def mode(self) -> Mode:
        return MODES[self.name]

    def streams(self, windows: int) -> int:
        """How many contexts are read for that many windows."""
        return 1 if self.mode.together else windows + self.mode.empty

    def parts(self, indices: Sequence[int]) -> list[tuple[int, ...]]:
        """Which of the windows each context holds."""
        if self.mode.together:
            return [tuple(indices)]
        return [(i,) for i in indices] + [()] * self.mode.empty

    def contexts(self, encoded: EncodedWindows, indices: Sequence[int], temperature: float) -> list[Context]:
        return [encoded.context(part, temperature) for part in self.parts(indices)]

    def combine(self, streams: torch.Tensor, indices: Sequence[int], chosen: torch.Tensor | None = None):
        """(S, ..., V) logits of the contexts to (..., V)."""
        weights = torch.ones(len(indices)) if self.weights is None else self.weights[list(indices)]
        log_weights = (weights / weights.sum()).log().to(streams.device)
        return self.mode.combine(streams, log_weights, self.beta, chosen)
