"""How good a model is against its parent: the one place where distances on tokens and their errors are computed.

    rows of text --> Targets (the parent's final states) --> Tokens (a value per token) --> Verdict (rows, by document)

A network is compared by its final hidden states: logits exist `CHUNK` tokens at a time and in float32, whatever the
model's dtype, so that vocabularies of any size fit, and that half precision adds no floor of its own.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from .anatomy import check_head, final_states, float_head_of, input_device
from .costs import student_quantile
from .data import TokenBlocks, cut, given_tokens
from .progress import bar
from .remote.caches_puzzle import HALF_TOLERANCE, OUTPUT_NAME, TOLERANCES


logger = logging.getLogger(__name__)

CHUNK = 256  # tokens whose logits exist at once: with what follows from them, four times that much is held
IN_CACHE = 1 << 20  # logits that what follows from them is computed of at once: passes over more come from memory
QUANTITIES = ("kl", "loss", "hit", "same")  # of a child on a token
CALIBRATION = "calibration"  # and these: how sure it is of its first choice, and the Brier score
BINS = 15  # of confidence
NO_OPTION = -1e30  # logit of what is no option of a row: its probability is 0, and 0 times it is


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


def mean_and_error(values: torch.Tensor, clusters: torch.Tensor | None = None) -> tuple[float, float]:
    """Mean of `values` and its standard error, float64; `clusters` names those that belong together (a document's).

    Values of a cluster may depend on each other in any way, clusters may not (the sandwich estimate of a mean).
    """
    values = values.double()
    return values.mean().item(), _error_of_mean(values - values.mean(), clusters)


def surely_lower(
    values: torch.Tensor, others: torch.Tensor, clusters: torch.Tensor | None = None, confidence: float = 0.95
) -> bool:
    """Whether `values` have a lower mean than `others`, of the same rows, beyond chance: what a gate asks.

    One-sided Student's t of the paired differences, over `clusters` as of `mean_and_error`; a single one says nothing.
    """
    difference = values.double() - others.double()
    groups = len(difference) if clusters is None else len(clusters.unique())
    mean, error = mean_and_error(difference, clusters)
    return groups > 1 and mean + student_quantile(confidence, groups - 1) * error < 0


def ratio_and_error(
    numerator: torch.Tensor, denominator: torch.Tensor, clusters: torch.Tensor | None = None
) -> tuple[float, float]:
    """Ratio of two paired means and its standard error by linearisation; `clusters` as of `mean_and_error`."""
    numerator, denominator = numerator.double(), denominator.double()
    ratio = (numerator.mean() / denominator.mean()).item()
    return ratio, _error_of_mean((numerator - ratio * denominator) / denominator.mean(), clusters)


def _error_of_mean(residuals: torch.Tensor, clusters: torch.Tensor | None) -> float:
    """Standard error of a mean from residuals that sum to zero."""
    if clusters is not None:
        _, places = clusters.unique(return_inverse=True)
        residuals = residuals.new_zeros(int(places.max()) + 1).index_add_(0, places, residuals)
        count = len(places)
    else:
        count = len(residuals)
    groups = len(residuals)
    return (residuals.square().sum() * groups / (groups - 1)).sqrt().item() / count if groups > 1 else 0.0


@dataclass(frozen=True)
class Rows:
    """Sequences of held-out text.

    Attributes:
        input_ids: `(num_rows, length)`.
        documents: `(num_rows,)`, the document that each begins in: rows of one are no independent evidence.
        given: tokens that are never predicted, as of `TokenStream.given`: positions before them do not count.
        decisions: of decision requests, as of `TokenStream.decisions`: each row has one answer then, and the options are
            its vocabulary.
    """

    input_ids: torch.Tensor
    documents: torch.Tensor
    given: tuple[int, ...] = ()
    decisions: torch.Tensor | None = None

    @classmethod
    def of(cls, input_ids: torch.Tensor, given: Sequence[int] = ()) -> "Rows":
        """Rows that are taken for a document each."""
        return cls(input_ids, torch.arange(len(input_ids)), tuple(given))

    @classmethod
    def draw(cls, tokens: torch.Tensor, length: int, num_tokens: int, seed: int) -> "Rows":
        """`num_tokens // length` (at least one) random sequences of a stream, as `data.sequences` draws them."""
        blocks = TokenBlocks(tokens, length, seed, limit=max(1, num_tokens // length))
        decisions = getattr(tokens, "decisions", None)
        if decisions is not None:  # rows of the stream are those of the sequences
            decisions = decisions[blocks.order]
        return cls(blocks.tensor(), blocks.documents(), given_tokens(tokens), decisions)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, part: slice) -> "Rows":
        decisions = None if self.decisions is None else self.decisions[part]
        return Rows(self.input_ids[part], self.documents[part], self.given, decisions)

    @property
    def num_documents(self) -> int:
        return len(self.documents.unique())


@dataclass(frozen=True)
class Verdict:
    """Means over the counted tokens of each row, `(num_rows,)` each, float64.

    `kl` is KL(parent || child) in nats, `loss` and `parent_loss` next-token cross-entropies in nats, `hit` and
    `parent_hit` top-1 accuracies, `same` the share of equal top-1 tokens, `flip` that of tokens that one has right and the
    other wrong, `confidence` the probability of the first choice, `brier` the sum over the vocabulary of squared errors.

    Attributes:
        ece, parent_ece: expected calibration error of the first choice over all tokens, in `BINS` bins of confidence.
    """

    columns: dict[str, torch.Tensor]
    documents: torch.Tensor
    ece: float
    parent_ece: float

    def mean(self, name: str) -> tuple[float, float]:
        """Mean of a column and its standard error, clustered by document."""
        return mean_and_error(self.columns[name], self.documents)

    def to_dict(self) -> dict:
        """`top1_kept` (accuracy of the child / of the parent), `top1`, `parent_top1`, `agreement`, `kl`, `loss`,
        `parent_loss`, `flips`, `ece`, `brier` and the parent's; `*_stderr` of the first, `agreement`, `kl` and `loss`; `documents` and
        `rows` that they rest on."""
        kept, kept_error = ratio_and_error(self.columns["hit"], self.columns["parent_hit"], self.documents)
        (kl, kl_error), (loss, loss_error) = self.mean("kl"), self.mean("loss")
        known = math.isfinite(kept)  # a parent that is never right
        return {
            "rows": len(self.documents),
            "documents": len(self.documents.unique()),
            "top1_kept": kept if known else None,
            "top1_kept_stderr": kept_error if known else None,
            "top1": self.mean("hit")[0],
            "parent_top1": self.mean("parent_hit")[0],
            "agreement": self.mean("same")[0],
            "agreement_stderr": self.mean("same")[1],
            "kl": kl,
            "kl_stderr": kl_error,
            "loss": loss,
            "loss_stderr": loss_error,
            "parent_loss": self.mean("parent_loss")[0],
            "flips": self.mean("flip")[0],
            "ece": self.ece,
            "parent_ece": self.parent_ece,
            "brier": self.mean("brier")[0],
            "parent_brier": self.mean("parent_brier")[0],
        }


class Targets:
    """A parent's answers on rows of text, which any number of networks are compared with.

    Holds the parent's final hidden states, `(rows, length, hidden_size)` in its dtype; logits are made of them when they
    are needed. Of decision requests, a row has a single token to predict, the answer, in a vocabulary of its options; where
    the right one is unknown, the parent's choice is.

    Args:
        batch_size: rows of one forward.

    Raises:
        HeadError: a parent whose logits are not its head on its final states.
    """

    @torch.no_grad()
    def __init__(self, parent: PreTrainedModel, rows: Rows, batch_size: int, description: str = "parent"):
        self.rows, self.batch_size = rows, batch_size
        self.head = float_head_of(parent)
        device = input_device(parent)
        self.batches = [batch.to(device) for batch in rows.input_ids.split(batch_size)]
        check_head(parent, self.head, self.batches[0])
        self.states = [final_states(parent, batch) for batch in bar(self.batches, desc=description)]

    @torch.no_grad()
    def tokens(
        self, index: int, networks: Sequence[torch.Tensor], head=None, wanted: Sequence[str] = QUANTITIES
    ) -> list[dict[str, torch.Tensor]]:
        """Values per predicted token of batch `index`, `(rows, length - 1)` each, of several networks.

        Args:
            networks: final hidden states, `(rows, length, hidden_size)` each.
            head: float32 map to logits; default: the parent's.
            wanted: any of `QUANTITIES`, `CALIBRATION` for `confidence` and `brier`; `parent_loss`, `parent_hit`,
                `parent_confidence` and `parent_brier` come along where theirs do.
        """
        ids, head = self.batches[index], head or self.head
        if self.rows.decisions is not None:
            return self._of_options(index, networks, head, wanted)
        shape = (ids.shape[0], ids.shape[1] - 1)
        following = ids[:, 1:].flatten()
        parts: list[dict[str, list]] = [{} for _ in networks]
        flat = [states[:, :-1].flatten(0, 1) for states in networks]
        own = self.states[index][:, :-1].flatten(0, 1)
        for start in range(0, len(own), CHUNK):
            place = slice(start, start + CHUNK)
            answers = Answer.split(self.head(own[place]), following[place].to(own.device))
            for found, states in zip(parts, flat, strict=True):
                children = Answer.split(head(states[place]), following[place].to(own.device))
                for parent, child in zip(answers, children, strict=True):
                    for name, value in parent.against(child, wanted).items():
                        found.setdefault(name, []).append(value)
        return [{name: torch.cat(values).view(shape).cpu() for name, values in found.items()} for found in parts]

    def _of_options(
        self, index: int, networks: Sequence[torch.Tensor], head, wanted: Sequence[str]
    ) -> list[dict[str, torch.Tensor]]:
        """`tokens` of decision requests, `(rows, 1)` each."""
        first, places = index * self.batch_size, torch.arange(len(self.batches[index]))
        marks, right, *options = self.rows.decisions[first : first + len(places)].T
        options = torch.stack(options, 1)

        def shown(states: torch.Tensor, head) -> torch.Tensor:
            logits = head(states[places, marks])
            found = logits.gather(1, options.clamp(min=0).to(logits.device))
            return found.masked_fill((options < 0).to(logits.device), NO_OPTION)

        own = shown(self.states[index], self.head)
        right = torch.where(right < 0, own.argmax(-1).cpu(), right).to(own.device)
        parent = Answer(own, right)
        parts = (parent.against(Answer(shown(states, head), right), wanted) for states in networks)
        return [{name: value[:, None].cpu() for name, value in found.items()} for found in parts]

    def per_row(self, index: int, values: torch.Tensor) -> torch.Tensor:
        """Mean over the counted tokens of each row of batch `index`, float64."""
        if self.rows.decisions is not None:
            return values[:, 0].double()
        return mean_per_row(values.double(), self.batches[index].cpu(), self.rows.given)

    def _counted(self, index: int) -> torch.Tensor:
        """Which of the values of `tokens` count."""
        if self.rows.decisions is not None:
            return torch.ones(len(self.batches[index]), 1, dtype=torch.bool)
        return targets(self.batches[index].cpu(), self.rows.given) != -100

    def verdict(self, states: Iterable[torch.Tensor], head=None) -> Verdict:
        """Of one network, from its final hidden states on each batch."""
        columns: dict[str, list[torch.Tensor]] = {}
        bins = torch.zeros(2, BINS, dtype=torch.float64)  # sum of confidence less hits, of child and parent
        count = 0
        for index, each in enumerate(states):
            (found,) = self.tokens(index, [each], head, (*QUANTITIES, CALIBRATION))
            found["flip"] = (found["hit"] != found["parent_hit"]).float()
            for name, values in found.items():
                columns.setdefault(name, []).append(self.per_row(index, values))
            counted = self._counted(index)
            count += int(counted.sum())
            for row, who in enumerate(("", "parent_")):
                sure, hit = (found[f"{who}{name}"][counted].double() for name in ("confidence", "hit"))
                bins[row].index_add_(0, (sure * BINS).long().clamp(0, BINS - 1), sure - hit)
        ece, parent_ece = (bins.abs().sum(1) / count).tolist()
        joined = {name: torch.cat(parts) for name, parts in columns.items()}
        return Verdict(joined, self.rows.documents, ece, parent_ece)

    @torch.no_grad()
    def compare(self, child: PreTrainedModel, description: str = "evaluate") -> Verdict:
        """Of a whole model; HeadError for one whose logits are not its head on its final states."""
        head = float_head_of(child)
        check_head(child, head, self.batches[0])
        return self.verdict((final_states(child, batch) for batch in bar(self.batches, desc=description)), head)


class Answer:
    """Logits `(tokens, vocabulary)` of one model on some tokens, and what follows from them."""

    def __init__(self, logits: torch.Tensor, following: torch.Tensor):
        self.logits, self.following = logits, following
        self.normaliser = logits.logsumexp(-1)
        self._probabilities = self._entropy_term = self._best = None

    @classmethod
    def split(cls, logits: torch.Tensor, following: torch.Tensor) -> list["Answer"]:
        """Of some tokens each, `IN_CACHE` logits at a time on a CPU."""
        rows = max(1, IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
        return [cls(*part) for part in zip(logits.split(rows), following.split(rows), strict=True)]

    @property
    def best(self) -> torch.Tensor:
        if self._best is None:
            self._best = self.logits.argmax(-1)
        return self._best

    @property
    def loss(self) -> torch.Tensor:
        return self.normaliser - self.logits.gather(-1, self.following[:, None])[:, 0]

    @property
    def confidence(self) -> torch.Tensor:
        return (self.logits.gather(-1, self.best[:, None])[:, 0] - self.normaliser).exp()

    @property
    def brier(self) -> torch.Tensor:
        squares = ((2 * self.logits).logsumexp(-1) - 2 * self.normaliser).exp()
        return 1 + squares - 2 * (-self.loss).exp()

    def _expected(self, logits: torch.Tensor) -> torch.Tensor:
        if self._probabilities is None:
            self._probabilities = (self.logits - self.normaliser[:, None]).exp()
        return torch.linalg.vecdot(self._probabilities, logits)

    def against(self, child: "Answer", wanted: Sequence[str]) -> dict[str, torch.Tensor]:
        found = {}
        if "kl" in wanted:
            if self._entropy_term is None:
                self._entropy_term = self.normaliser - self._expected(self.logits)
            found["kl"] = child.normaliser - self._expected(child.logits) - self._entropy_term
        if "loss" in wanted:
            found |= {"loss": child.loss, "parent_loss": self.loss}
        if "hit" in wanted:
            found |= {
                name: (who.best == self.following).float() for name, who in (("hit", child), ("parent_hit", self))
            }
        if CALIBRATION in wanted:
            for name, who in (("", child), ("parent_", self)):
                found |= {f"{name}confidence": who.confidence, f"{name}brier": who.brier}
        if "same" in wanted:
            found["same"] = (child.best == self.best).float()
        return found


@dataclass(frozen=True)
class ClozeTask:
    """Which of four continuations follows the context; chance is 25 %.

    Wrong continuations are real text from elsewhere in the corpus, so that fluency alone does not answer.

    Attributes:
        rows: four rows per item, the right one first, `(4 * num_items, context + continuation)`.
        continuation: tokens of a row that are scored.
        documents: the document of each item's context, `(num_items,)`; an item of its own where the stream does not say.
    """

    rows: torch.Tensor
    continuation: int
    documents: torch.Tensor

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

        def draw(count: int, size: int, of: Callable[[int], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            """Token rows from random positions whose continuation is text throughout, and the positions."""
            found: list[torch.Tensor] = []
            places: list[int] = []
            for _ in range(100):
                for start in torch.randint(0, len(tokens) - size, (count,), generator=generator).tolist():
                    row = of(start)
                    if len(row) == size and not (len(given) and torch.isin(row[-continuation:], given).any()):
                        found.append(row)
                        places.append(start)
                if len(found) >= count:
                    return torch.stack(found[:count]), torch.tensor(places[:count])
            raise ValueError(f"the held-out documents are too short for continuations of {continuation} tokens")

        right, places = draw(num_items, length, lambda start: cut(tokens, start, length)[0])
        others, _ = draw(3 * num_items, continuation, lambda start: plain[start : start + continuation].long())
        rows = right[:, None].repeat(1, 4, 1)
        rows[:, 1:, context:] = others.view(num_items, 3, continuation)
        known = getattr(tokens, "documents", None)
        documents = torch.arange(num_items) if known is None else torch.searchsorted(known, places, right=True)
        return cls(rows.flatten(0, 1), continuation, documents)

    def correct(self, losses: torch.Tensor) -> torch.Tensor:
        """1.0 where the right continuation has the highest likelihood; one value per four rows of `(rows, length - 1)`."""
        summed = losses[:, -self.continuation :].sum(1).view(-1, 4)
        return (summed[:, :1] <= summed).all(1).float()


def compare(
    parent: PreTrainedModel,
    child: PreTrainedModel,
    rows: Rows | torch.Tensor,
    batch_size: int,
    given: Sequence[int] = (),
) -> dict:
    """Child against parent on held-out sequences, as `Verdict.to_dict`; plain sequences are taken for documents."""
    rows = rows if isinstance(rows, Rows) else Rows.of(rows, given)
    return Targets(parent, rows, batch_size).compare(child).to_dict() | {"tokens": rows.input_ids.numel()}


@torch.no_grad()
def task_accuracy(model: PreTrainedModel, task: ClozeTask, batch_size: int, device) -> torch.Tensor:
    """1.0 / 0.0 per item of the cloze task. A context is read once for its four continuations, where the model's cache
    says the same as no cache on the first item."""
    hits, head, size = [], float_head_of(model), task.continuation
    read = _behind_contexts if _reads_contexts_once(model, task, device) else _whole_rows
    for rows in bar(task.rows.split(4 * max(1, batch_size // 4)), desc="task"):
        rows = rows.to(device)
        losses = F.cross_entropy(head(read(model, rows, size)).transpose(1, 2), rows[:, -size:], reduction="none")
        hits.append(task.correct(losses).cpu())
    return torch.cat(hits)


def _whole_rows(model: PreTrainedModel, rows: torch.Tensor, continuation: int) -> torch.Tensor:
    """Final states in front of each token of the continuations, `(rows, continuation, hidden_size)`."""
    return final_states(model, rows)[:, -continuation - 1 : -1]


def _behind_contexts(model: PreTrainedModel, rows: torch.Tensor, continuation: int) -> torch.Tensor:
    """`_whole_rows`, each four rows' context read once and its cache repeated."""
    decoder = model.get_decoder()
    context = decoder(input_ids=rows[::4, :-continuation], use_cache=True)
    last = context.last_hidden_state[:, -1:].repeat_interleave(4, 0)
    if continuation == 1:
        return last
    cache = context[OUTPUT_NAME]
    cache.batch_repeat_interleave(4)
    behind = decoder(input_ids=rows[:, -continuation:-1], use_cache=True, **{OUTPUT_NAME: cache})
    return torch.cat([last, behind.last_hidden_state], 1)


def _reads_contexts_once(model: PreTrainedModel, task: ClozeTask, device) -> bool:
    rows = task.rows[:4].to(device)
    whole = _whole_rows(model, rows, task.continuation).float()
    try:
        behind = _behind_contexts(model, rows, task.continuation).float()
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        logger.debug("cloze: whole rows, since this model's cache cannot be repeated: %s", error)
        return False
    difference = (behind - whole).norm() / whole.norm().clamp_min(1e-30)
    return bool(difference <= TOLERANCES.get(model.dtype, HALF_TOLERANCE))


# -- decisions


@dataclass(frozen=True)
class Decisions:
    """Probabilities of options, and which was right: what a classifier or a decider said on held-out items.

    Attributes:
        probabilities: per item `(options,)`, summing to 1; items may have different options.
        right: per item the index of the right option.
    """

    probabilities: Sequence[torch.Tensor]
    right: Sequence[int]

    def _sure(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(probability of the first choice, whether it is right), `(items,)` each, float64."""
        best = [p.double().max(0) for p in self.probabilities]
        hit = [float(int(each.indices) == i) for each, i in zip(best, self.right, strict=True)]
        return torch.stack([each.values for each in best]), torch.tensor(hit, dtype=torch.float64)

    def of_right(self) -> torch.Tensor:
        """`(items,)` probability of the right option, float64."""
        return torch.stack([p.double()[i] for p, i in zip(self.probabilities, self.right, strict=True)])

    def coverage(self, error: float = 0.05) -> float:
        """Largest share of items, the surest first, among which at most `error` of the answers are wrong."""
        sure, hit = self._sure()
        order = sure.argsort(descending=True, stable=True)
        wrong = (1 - hit[order]).cumsum(0) / torch.arange(1, len(hit) + 1)
        # items that are equally sure are taken together
        last = torch.cat([sure[order][:-1] != sure[order][1:], torch.ones(1, dtype=torch.bool)])
        allowed = ((wrong <= error) & last).nonzero()
        return 0.0 if not len(allowed) else (int(allowed[-1]) + 1) / len(hit)

    def threshold(self, error: float = 0.05) -> float:
        """Probability from which an option belongs to the set that holds the right one with 1 - `error` (split conformal,
        Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv 2107.07511): the finite-sample quantile of these items."""
        scores = (1 - self.of_right()).sort().values
        rank = math.ceil((len(scores) + 1) * (1 - error))
        return 0.0 if rank > len(scores) else 1 - scores[rank - 1].item()

    def set_sizes(self, threshold: float) -> tuple[float, float]:
        """(mean number of options in the set, share of sets that hold the right one) at a threshold of other items."""
        sizes = torch.tensor([float((p.double() >= threshold).sum()) for p in self.probabilities])
        return sizes.mean().item(), (self.of_right() >= threshold).double().mean().item()

    def to_dict(self, development: "Decisions | None" = None, error: float = 0.05) -> dict:
        """`accuracy`, `ece` (`BINS` bins of the first choice), `brier`, `nll` in nats, `coverage`; with items of a
        development split also the conformal `set_size` and `set_holds`."""
        sure, hit = self._sure()
        bins = torch.zeros(BINS, dtype=torch.float64)
        bins.index_add_(0, (sure * BINS).long().clamp(max=BINS - 1), sure - hit)
        truth = zip(self.probabilities, self.right, strict=True)
        brier = [(p.double() - F.one_hot(torch.tensor(i), len(p))).square().sum() for p, i in truth]
        found = {
            "items": len(hit),
            "accuracy": hit.mean().item(),
            "ece": bins.abs().sum().item() / len(hit),
            "brier": torch.stack(brier).mean().item(),
            "nll": -self.of_right().clamp(min=1e-12).log().mean().item(),
            "coverage": self.coverage(error),
        }
        if development is not None:
            size, holds = self.set_sizes(development.threshold(error))
            found |= {"set_size": size, "set_holds": holds}
        return found

    def temperature(self) -> float:
        """The temperature that makes these items likeliest (Guo et al. 2017, arXiv 1706.04599); 1 where none does better."""
        widest = max(map(len, self.probabilities))
        padded = [
            F.pad(p.double().clamp(min=1e-30).log(), (0, widest - len(p)), value=-math.inf) for p in self.probabilities
        ]
        logs, right = torch.stack(padded), torch.tensor(self.right)[:, None]

        def loss(temperature: float) -> float:
            return -(logs / temperature).log_softmax(1).gather(1, right).sum().item()

        low, high = -3.0, 3.0  # of its natural logarithm; the loss has one minimum in 1 / temperature
        golden = (math.sqrt(5) - 1) / 2
        for _ in range(40):
            first, second = high - golden * (high - low), low + golden * (high - low)
            if loss(math.exp(first)) <= loss(math.exp(second)):
                high = second
            else:
                low = first
        found = math.exp((low + high) / 2)
        return found if loss(found) < loss(1.0) else 1.0
