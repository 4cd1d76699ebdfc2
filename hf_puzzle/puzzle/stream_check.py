"""The parent's loss as users run it and as the streams run it, on the same held-out documents."""

import itertools
import logging
from collections.abc import Iterator

import torch

from ..anatomy import input_device
from ..corpora import DataError, is_heldout, open_corpus
from ..data import as_used, cut, marks_of
from ..evaluation import mean_and_error, token_losses
from ..recipe import DataConfig


logger = logging.getLogger(__name__)

DOCUMENTS, TOKENS = 16, 2**20  # that are compared; of the stream in which they are looked for
BEFORE, SPAN = 128, 64  # tokens of a sequence before a document, and its own that count
# A gap needs both. Chance makes one of 4 standard errors in no run; what another document in front of a text does to a
# model that was trained on packed text is a few percent.
ERRORS, SHARE = 4.0, 0.1


@torch.no_grad()
def check_streams(parent, tokenizer, config: DataConfig, heldout: torch.Tensor) -> tuple[float, float] | None:
    """Compare the first tokens of held-out documents, alone as inference has them, with the same in sequences.

    Args:
        heldout: stream of the corpus of `config`, from its first held-out document on.

    Returns:
        Losses in nats per token, alone and in sequences; None with fewer than four documents to compare.

    Raises:
        DataError: the stream's loss is higher by more than `ERRORS` standard errors over documents, and by `SHARE`.
    """
    try:
        documents = list(_documents(tokenizer, config))
    except (DataError, OSError) as error:  # the streams are there, the corpus is not any more
        logger.warning("streams: not compared with the parent as users run it: %s", error)
        return None
    alone, packed = [], []
    for ids, begin in documents:
        row, position = _in_sequence(heldout[:TOKENS], ids[begin:], config.sequence_length)
        count = min(len(row) - position, len(ids) - begin, SPAN)
        if count > 1:  # where nothing stands in front, nothing predicts the first token
            alone.append(_loss(parent, torch.tensor(ids[: begin + count]), count - 1))
            packed.append(_loss(parent, row[: position + count], count - 1))
    if len(alone) < 4:
        logger.info("streams: %d held-out documents are too few to compare the parent's losses", len(alone))
        return None
    (used, _), (streamed, _) = mean_and_error(torch.tensor(alone)), mean_and_error(torch.tensor(packed))
    gap, error = mean_and_error(torch.tensor(packed) - torch.tensor(alone))
    said = f"the parent's loss is {used:.3f} nats as users run it and {streamed:.3f} in the streams"
    if gap > ERRORS * error and gap > SHARE * used:
        raise DataError(
            f"{said} (the same {len(alone)} held-out documents; gap {gap:.3f} +- {error:.3f}): scores, BLD and "
            "distillation would see another model than users do. Does the tokenizer put around a text what the parent was "
            "trained with (tokenizer('abc'))? If so, text in front of a document disturbs this parent: take documents "
            "that are longer than data.sequence_length"
        )
    logger.info("streams: %s (%d held-out documents)", said, len(alone))
    return used, streamed


def _documents(tokenizer, config: DataConfig) -> Iterator[tuple[list[int], int]]:
    """Held-out documents as inference has them, with where their text begins."""
    heldout = (document for name, document in open_corpus(config) if is_heldout(name, config.heldout_fraction))
    for document in itertools.islice(heldout, DOCUMENTS):
        (ids,) = as_used([document], tokenizer, config.text_column)
        yield ids, len(marks_of(tokenizer, document=document, column=config.text_column).prefix)


def _in_sequence(stream: torch.Tensor, text: list[int], sequence_length: int) -> tuple[torch.Tensor, int]:
    """A sequence in which the document begins after others, and where; the empty one if the stream does not have it."""
    wanted = torch.tensor(text[:SPAN])
    if not 0 < len(wanted) <= len(stream):
        return stream[:0], 0
    places = (stream.unfold(0, len(wanted), 1) == wanted).all(-1).nonzero().flatten()
    if not len(places):
        return stream[:0], 0
    place = int(places[0])
    start = max(0, place - min(BEFORE, sequence_length // 2))
    row, stop = cut(stream, start, min(sequence_length, place - start + SPAN, len(stream) - start))
    return row, len(row) - (stop - place)


def _loss(parent, ids: torch.Tensor, count: int) -> float:
    """Mean loss of the last `count` tokens."""
    batch = ids[None].to(input_device(parent))
    logits = parent(input_ids=batch, use_cache=False).logits
    return token_losses(logits, batch.to(logits.device))[0, -count:].mean().item()
