"""`evaluate` metrics of a child against its parent; they need no network, where `evaluate.load` does.

A corpus of vocabulary logits is too large to keep, so `reductions` turns each batch into seven sums per sequence, and
the metrics aggregate those:

    metric = evaluate.combine([AccuracyKept(), KLToParent(), Perplexity(), Agreement()])
    for batch in batches:
        metric.add_batch(**reductions(parent(**batch).logits, child(**batch).logits, **batch))
    metric.compute()

Tokens weigh equally, and standard errors are over sequences. Names and values are those of `evaluation.compare`.
"""

import math

import datasets
import evaluate
import torch

from .evaluation import QUANTITIES, Answer, ratio_and_error
from .recipe import did_you_mean


COLUMNS = {
    "tokens": "predicted tokens",
    "parent_hits": "tokens that the parent predicts right",
    "child_hits": "tokens that the child predicts right",
    "agreements": "tokens for which both predict the same",
    "kl": "KL(parent || child), nats",
    "parent_loss": "cross-entropy of the parent, nats",
    "child_loss": "cross-entropy of the child, nats",
}
_COUNTS = ("parent_hits", "child_hits", "agreements")


class MetricInputError(ValueError):
    """Values that a metric cannot take; the message names the column and what would be right."""


@torch.no_grad()
def reductions(parent_logits, child_logits, input_ids, attention_mask=None, **others) -> dict[str, torch.Tensor]:
    """Sums over the next-token predictions of each sequence: what the metrics of this module take.

    Args:
        parent_logits, child_logits: shape `(batch, length, vocab)`; tensors, arrays or lists.
        input_ids: shape `(batch, length)`.
        others: what else a batch holds, such as `labels`; not used.
        attention_mask: shape `(batch, length)`; a prediction counts where context and target are both 1. Default: all.

    Returns:
        One value per sequence for each name of `COLUMNS`, shape `(batch,)`, float64 on the CPU.

    Raises:
        MetricInputError: shapes that do not belong together, ids outside the vocabulary, or a sequence without a
            prediction that counts.
    """
    parent, child, ids = torch.as_tensor(parent_logits), torch.as_tensor(child_logits), torch.as_tensor(input_ids)
    mask = torch.ones_like(ids) if attention_mask is None else torch.as_tensor(attention_mask)
    _check_batch(parent, child, ids, mask)
    ids, mask = ids.to(parent.device).long(), mask.to(parent.device)
    rows = []
    for p, c, row, kept in zip(parent, child.to(parent.device), ids, (mask[:, 1:] * mask[:, :-1]).bool(), strict=True):
        # one sequence at a time: the float32 copies of the logits stay small
        parents, childs = (Answer(logits[:-1].float(), row[1:]) for logits in (p, c))
        found = parents.against(childs, QUANTITIES)
        values = [found[name] for name in ("parent_hit", "hit", "same", "kl", "parent_loss", "loss")]
        rows.append(torch.stack([kept.sum().double(), *(value[kept].double().sum() for value in values)]))
    return dict(zip(COLUMNS, torch.stack(rows).cpu().T, strict=True))


def _check_batch(parent: torch.Tensor, child: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> None:
    if parent.ndim != 3 or parent.shape != child.shape:
        raise MetricInputError(
            f"logits of parent {tuple(parent.shape)} and child {tuple(child.shape)}: expected the same "
            "(batch, length, vocab) from both"
        )
    for name, tensor in (("input_ids", ids), ("attention_mask", mask)):
        if tensor.shape != parent.shape[:2]:
            raise MetricInputError(
                f"{name} has shape {tuple(tensor.shape)}, the logits ask for {tuple(parent.shape[:2])}"
            )
    if ids.is_floating_point() or ids.numel() == 0 or ids.min() < 0 or ids.max() >= parent.shape[2]:
        raise MetricInputError(
            f"input_ids must be token ids from 0 to {parent.shape[2] - 1}; mask tokens by attention_mask, not by -100"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise MetricInputError("attention_mask must hold 0 and 1")
    empty = (mask[:, 1:] * mask[:, :-1]).sum(1) == 0
    if empty.any():
        raise MetricInputError(
            f"sequence {int(empty.nonzero()[0])} of the batch has no next token to predict: leave it out"
        )


class _Retention(evaluate.Metric):
    """A metric over `columns`, the sums per sequence that it needs; `add_batch` takes all of `reductions`' at once."""

    columns: tuple[str, ...]
    description: str

    def __init__(self, config_name: str | None = None, keep_in_memory: bool | None = None, **kwargs):
        if keep_in_memory is None:  # a few numbers per sequence; processes can only share files
            keep_in_memory = kwargs.get("num_process", 1) == 1
        super().__init__(config_name, keep_in_memory, **kwargs)

    def _info(self):
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="Per sequence: " + "; ".join(f"`{name}`, {COLUMNS[name]}" for name in self.columns),
            features=datasets.Features({name: datasets.Value("float64") for name in self.columns}),
        )

    def add_batch(self, *, predictions=None, references=None, **sums) -> None:
        """Add sequences: for each column of the metric a tensor, array or list of numbers, one per sequence.

        Raises:
            MetricInputError: naming the column.
        """
        super().add_batch(**self._checked(predictions, references, sums))

    def add(self, *, prediction=None, reference=None, **sums) -> None:
        """Add one sequence, a number per column."""
        self.add_batch(predictions=prediction, references=reference, **{name: [sum_] for name, sum_ in sums.items()})

    def compute(self, *, predictions=None, references=None, **sums) -> dict | None:
        """The metric over all that was added, and over `sums` if given; None in all processes but the first.

        Raises:
            MetricInputError: nothing was added, or wrong sums.
        """
        if predictions is not None or references is not None or any(value is not None for value in sums.values()):
            self.add_batch(predictions=predictions, references=references, **sums)
        if len(self) == 0:
            raise MetricInputError(f"{self.name}: add_batch(**reductions(...)) before compute()")
        return super().compute()

    def _checked(self, predictions, references, sums: dict) -> dict[str, list[float]]:
        if predictions is not None or references is not None:
            raise MetricInputError(
                f"{self.name} takes sums per sequence, not predictions and references: add_batch(**reductions(...))"
            )
        for name in sums:
            if name not in COLUMNS:
                raise MetricInputError(
                    f"{self.name}: unknown column {name!r}{did_you_mean(name, COLUMNS)}; known: {', '.join(COLUMNS)}"
                )
        missing = [name for name in self.columns if sums.get(name) is None]
        if missing:
            raise MetricInputError(f"{self.name}: {', '.join(missing)} missing; `reductions` computes all columns")
        tensors = {}
        for name in self.columns:
            try:
                tensor = torch.as_tensor(sums[name]).double().cpu()
            except (TypeError, ValueError, RuntimeError):
                raise MetricInputError(f"{self.name}: {name} is no list of numbers") from None
            if tensor.ndim != 1 or len(tensor) == 0:
                raise MetricInputError(
                    f"{self.name}: {name} has shape {tuple(tensor.shape)}: expected one number per sequence"
                )
            if not tensor.isfinite().all():
                place = int((~tensor.isfinite()).nonzero()[0])
                raise MetricInputError(f"{self.name}: {name} of sequence {place} is {tensor[place].item()}")
            tensors[name] = tensor
        tokens = tensors["tokens"]
        for name, tensor in tensors.items():
            if len(tensor) != len(tokens):
                raise MetricInputError(
                    f"{self.name}: {len(tokens)} tokens, but {len(tensor)} {name}: one per sequence"
                )
            if (name == "tokens" and (tensor <= 0).any()) or (name in _COUNTS and (tensor > tokens).any()):
                raise MetricInputError(
                    f"{self.name}: {name} must be {COLUMNS[name]} of each sequence: sums, not means"
                )
        return {name: tensor.tolist() for name, tensor in tensors.items()}

    def _compute(self, **sums) -> dict[str, float | None]:
        return self.aggregate({name: torch.tensor(values, dtype=torch.float64) for name, values in sums.items()})

    def aggregate(self, sums: dict[str, torch.Tensor]) -> dict[str, float | None]:
        """The results from all sequences' sums, float64, shape `(num_sequences,)` each."""
        raise NotImplementedError


def _ratio(name: str, numerator: torch.Tensor, denominator: torch.Tensor) -> dict[str, float | None]:
    """Ratio of two sums and its standard error over sequences; None where it is not defined."""
    ratio = numerator.sum().item() / denominator.sum().item() if denominator.any() else None
    error = ratio_and_error(numerator, denominator)[1] if ratio is not None and len(numerator) > 1 else None
    return {name: ratio, f"{name}_stderr": error}


class AccuracyKept(_Retention):
    """Next-token accuracy of the child, divided by the parent's; None where the parent is never right."""

    columns = ("tokens", "parent_hits", "child_hits")
    description = "Next-token (top-1) accuracy that a child keeps of its parent's."

    def aggregate(self, sums):
        tokens = sums["tokens"].sum()
        return _ratio("top1_kept", sums["child_hits"], sums["parent_hits"]) | {
            "top1": (sums["child_hits"].sum() / tokens).item(),
            "parent_top1": (sums["parent_hits"].sum() / tokens).item(),
        }


class Agreement(_Retention):
    """Share of tokens for which parent and child predict the same next one."""

    columns = ("tokens", "agreements")
    description = "Share of tokens for which parent and child predict the same next token."

    def aggregate(self, sums):
        return _ratio("agreement", sums["agreements"], sums["tokens"])


class KLToParent(_Retention):
    """KL(parent || child) per token, in nats."""

    columns = ("tokens", "kl")
    description = "KL(parent || child) of the next-token distributions, nats per token."

    def aggregate(self, sums):
        return _ratio("kl", sums["kl"], sums["tokens"])


class Perplexity(_Retention):
    """Perplexity per token of child and parent, and the losses in nats that they are the exponentials of."""

    columns = ("tokens", "parent_loss", "child_loss")
    description = "Perplexity per token of a child, beside its parent's."

    def aggregate(self, sums):
        loss = _ratio("loss", sums["child_loss"], sums["tokens"])
        parent_loss = (sums["parent_loss"].sum() / sums["tokens"].sum()).item()
        perplexity, error = _exp(loss["loss"]), loss["loss_stderr"]
        return loss | {
            "parent_loss": parent_loss,
            "perplexity": perplexity,
            "perplexity_stderr": None if error is None else perplexity * error,  # to first order
            "parent_perplexity": _exp(parent_loss),
        }


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
