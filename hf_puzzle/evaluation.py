"""How good a model is against its parent: distances on tokens, and a task with right and wrong answers."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from .data import cut, given_tokens
from .progress import bar


def kl_divergence(parent_logits: torch.Tensor, child_logits: torch.Tensor, chunk: int = 512) -> torch.Tensor:
    """KL(parent || child) per token in nats, float32; logits `(..., vocab)` -> `(...)`, `chunk` tokens at a time."""
    parent_flat, child_flat = parent_logits.flatten(0, -2), child_logits.flatten(0, -2)
    parts = []
    for p, c in zip(parent_flat.split(chunk), child_flat.split(chunk), strict=True):
        log_p, log_c = F.log_softmax(p.float(), -1), F.log_softmax(c.float(), -1)
        parts.append((log_p.exp() * (log_p - log_c)).sum(-1))
    return torch.cat(parts).view(parent_logits.shape[:-1])


def token_losses(logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """Next-token cross-entropy in nats, `(batch, length - 1)`."""
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), input_ids[:, 1:].flatten(), reduction="none")
    return flat.view(input_ids.shape[0], -1)


def targets(input_ids: torch.Tensor, given: Sequence[int] = ()) -> torch.Tensor:
    """The next token of each position, `(batch, length - 1)`; -100 where it is one of those that inference is `given`."""
    following = input_ids[:, 1:]
    if not given:
        return following
    return following.masked_fill(torch.isin(following, torch.tensor(given, device=following.device)), -100)


def mean_per_row(values: torch.Tensor, input_ids: torch.Tensor, given: Sequence[int] = ()) -> torch.Tensor:
    """Mean of each row of `values`, `(batch, length)` or without the last position, without those before a `given` token."""
    if not given:
        return values.mean(1)
    counted = F.pad(targets(input_ids, given) != -100, (0, values.shape[1] - input_ids.shape[1] + 1), value=True)
    return (values * counted).sum(1) / counted.sum(1)


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    """Mean and standard error of independent `values` (float64)."""
    values = values.double()
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else 0.0
    return values.mean().item(), error


def ratio_and_error(numerator: torch.Tensor, denominator: torch.Tensor) -> tuple[float, float]:
    """Ratio of two paired means and its standard error by linearisation."""
    numerator, denominator = numerator.double(), denominator.double()
    ratio = (numerator.mean() / denominator.mean()).item()
    residuals = (numerator - ratio * denominator) / denominator.mean()
    return ratio, residuals.std().item() / len(residuals) ** 0.5


@dataclass(frozen=True)
class ClozeTask:
    """Which of four continuations follows the context; chance is 25 %.

    Wrong continuations are real text from elsewhere in the corpus, so that fluency alone does not answer.

    Attributes:
        rows: four rows per item, the right one first, `(4 * num_items, context + continuation)`.
        continuation: tokens of a row that are scored.
    """

    rows: torch.Tensor
    continuation: int

    @classmethod
    def from_tokens(
        cls, tokens: torch.Tensor, num_items: int, context: int, continuation: int, seed: int
    ) -> "ClozeTask":
        """Raises ValueError when the stream is shorter than one item, or its documents than a continuation."""
        length, prefix = context + continuation, len(getattr(tokens, "prefix", ()))
        if len(tokens) < 2 * length:
            raise ValueError(f"{len(tokens)} held-out tokens are too few for cloze items of {length} tokens")
        if context <= prefix:
            raise ValueError(f"a context of {context} tokens has no text: a prompt begins with {prefix} of its own")
        generator, given = torch.Generator().manual_seed(seed), torch.tensor(given_tokens(tokens))
        plain = tokens.as_subclass(torch.Tensor)

        def draw(count: int, size: int, of: Callable[[int], torch.Tensor]) -> torch.Tensor:
            """Token rows from random positions whose continuation is text throughout."""
            found: list[torch.Tensor] = []
            for _ in range(100):
                for start in torch.randint(0, len(tokens) - size, (count,), generator=generator).tolist():
                    row = of(start)
                    if len(row) == size and not (len(given) and torch.isin(row[-continuation:], given).any()):
                        found.append(row)
                if len(found) >= count:
                    return torch.stack(found[:count])
            raise ValueError(f"the held-out documents are too short for continuations of {continuation} tokens")

        right = draw(num_items, length, lambda start: cut(tokens, start, length)[0])
        others = draw(3 * num_items, continuation, lambda start: plain[start : start + continuation].long())
        rows = right[:, None].repeat(1, 4, 1)
        rows[:, 1:, context:] = others.view(num_items, 3, continuation)
        return cls(rows.flatten(0, 1), continuation)

    def correct(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """1.0 where the right continuation has the highest likelihood; one value per four rows."""
        losses = token_losses(logits, rows)[:, -self.continuation :].sum(1).view(-1, 4)
        return (losses[:, :1] <= losses).all(1).float()


def batched(input_ids: torch.Tensor, batch_size: int, description: str) -> Iterable[torch.Tensor]:
    return bar(input_ids.split(batch_size), desc=description)


@torch.no_grad()
def compare(
    parent: PreTrainedModel,
    child: Callable,
    input_ids: torch.Tensor,
    batch_size: int,
    description: str = "evaluate",
    given: Sequence[int] = (),
) -> dict[str, float]:
    """Child against parent on held-out sequences; every share and mean with its standard error over sequences.

    Args:
        input_ids: shape `(num_sequences, sequence_length)`.
        given: tokens that are never predicted, as of `TokenStream.given`: positions before them do not count.

    Returns:
        `top1_kept` (accuracy of the child / of the parent), `top1`, `parent_top1`, `agreement`, `kl`, `loss`,
        `parent_loss`, and `*_stderr` for the first, `kl` and `loss`.
    """
    columns: dict[str, list[torch.Tensor]] = {k: [] for k in ("p_hit", "c_hit", "same", "kl", "p_loss", "c_loss")}
    for batch in batched(input_ids, batch_size, description):
        batch = batch.to(parent.device)
        p = parent(input_ids=batch, use_cache=False).logits
        c = child(input_ids=batch, use_cache=False).logits
        p_best, c_best, target = p[:, :-1].argmax(-1), c[:, :-1].argmax(-1), batch[:, 1:]
        per_token = {
            "p_hit": (p_best == target).float(),
            "c_hit": (c_best == target).float(),
            "same": (p_best == c_best).float(),
            "kl": kl_divergence(p[:, :-1], c[:, :-1]),
            "p_loss": token_losses(p, batch),
            "c_loss": token_losses(c, batch),
        }
        for name, tokens in per_token.items():
            columns[name].append(mean_per_row(tokens, batch, given))
    values = {name: torch.cat(parts).cpu() for name, parts in columns.items()}
    kept, kept_error = ratio_and_error(values["c_hit"], values["p_hit"])
    kl, kl_error = mean_and_error(values["kl"])
    loss, loss_error = mean_and_error(values["c_loss"])
    return {
        "tokens": input_ids.numel(),
        "top1_kept": kept if math.isfinite(kept) else None,  # a parent that is never right
        "top1_kept_stderr": kept_error if math.isfinite(kept) else None,
        "top1": values["c_hit"].mean().item(),
        "parent_top1": values["p_hit"].mean().item(),
        "agreement": values["same"].mean().item(),
        "kl": kl,
        "kl_stderr": kl_error,
        "loss": loss,
        "loss_stderr": loss_error,
        "parent_loss": values["p_loss"].mean().item(),
    }


@torch.no_grad()
def task_accuracy(model: Callable, task: ClozeTask, batch_size: int, device) -> torch.Tensor:
    """1.0 / 0.0 per item of the cloze task."""
    hits = []
    for rows in batched(task.rows, 4 * max(1, batch_size // 4), "task"):
        rows = rows.to(device)
        hits.append(task.correct(model(input_ids=rows, use_cache=False).logits, rows).cpu())
    return torch.cat(hits)
