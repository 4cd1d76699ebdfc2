"""Text in, token blocks out: the corpora of a recipe, split by document, packed, and cut into sequences."""

import glob
import hashlib
import logging
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from .recipe import DataConfig


logger = logging.getLogger(__name__)

PYTHON_STDLIB = "python-stdlib"
LOCAL_TEXT = "text"


class DataError(ValueError):
    """The text of a recipe is missing, too short, or cannot be tokenized; the message says by how much."""


def documents(config: DataConfig) -> Iterator[tuple[str, str]]:
    """Yield `(document id, text)` in a fixed pseudo-random order.

    `python-stdlib` is the source text of the running Python's standard library (no download), `text` the local files
    of `data_files` (globs), anything else a dataset of the Hub, streamed.
    """
    if config.name == PYTHON_STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [p for p in root.rglob("*.py") if "site-packages" not in p.parts]
        yield from _files(root, files)
    elif config.name == LOCAL_TEXT:
        files = [Path(name) for pattern in config.data_files for name in glob.glob(pattern, recursive=True)]
        if not files:
            raise DataError(f"data.data_files {config.data_files} match no file")
        yield from _files(Path(), files)
    else:
        import datasets

        rows = datasets.load_dataset(config.name, config.config_name, split=config.split, streaming=True)
        for row in rows.shuffle(seed=config.seed, buffer_size=10_000):
            if config.text_column not in row:
                raise DataError(f"data.text_column {config.text_column!r} is not a column; columns: {sorted(row)}")
            text = row[config.text_column]
            yield hashlib.sha256(text.encode()).hexdigest(), text


def _files(root: Path, files: list[Path]) -> Iterator[tuple[str, str]]:
    names = {path: path.relative_to(root).as_posix() if root != Path() else path.name for path in files}
    seen = set()
    for path in sorted(files, key=lambda p: hashlib.sha256(names[p].encode()).hexdigest()):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        digest = hashlib.sha256(text.encode()).digest()
        if text.strip() and digest not in seen:  # the same text on both sides of the split would leak
            seen.add(digest)
            yield names[path], text


def is_heldout(document_id: str, fraction: float) -> bool:
    """Split by hash of the document id: stable when documents are added or removed."""
    return int.from_bytes(hashlib.sha256(b"split:" + document_id.encode()).digest()[:4], "big") < fraction * 2**32


def train_tokenizer(config: DataConfig, vocab_size: int, num_documents: int = 500):
    """Byte-level BPE trained on the training documents of `config`, as a `PreTrainedTokenizerFast`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = []
    for document_id, text in documents(config):
        if not is_heldout(document_id, config.heldout_fraction):
            texts.append(text)
        if len(texts) == num_documents:
            break
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def tokenize(config: DataConfig, tokenizer) -> dict[str, torch.Tensor]:
    """Pack the corpus into two int32 streams, `train` and `heldout`, documents separated by the end-of-text token.

    Reads documents until both `data.num_tokens` and `data.heldout_tokens` are reached.

    Raises:
        DataError: no end-of-text token, an empty corpus, or fewer tokens than one sequence on either side.
    """
    separator = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if separator is None:
        raise DataError("the tokenizer has neither an end-of-text nor a begin-of-text token to separate documents")
    wanted = {"train": config.num_tokens, "heldout": config.heldout_tokens}
    streams: dict[str, list[int]] = {"train": [], "heldout": []}
    progress = tqdm(
        total=sum(wanted.values()), desc="tokenize", unit="tok", unit_scale=True, leave=False, disable=None
    )
    for texts in _batches(documents(config), config, streams, wanted):
        encoded = tokenizer([text for _, text in texts], add_special_tokens=False)["input_ids"]
        for (side, _), ids in zip(texts, encoded, strict=True):
            streams[side].extend([*ids, separator])
            progress.update(len(ids) + 1)
    progress.close()
    for side, stream in streams.items():
        if len(stream) < 2 * config.sequence_length:
            raise DataError(
                f"{config.name}: {len(stream)} {side} tokens, at least {2 * config.sequence_length} needed "
                "(two sequences of data.sequence_length); give more text or a shorter sequence_length"
            )
        if len(stream) < wanted[side]:
            logger.warning(
                "%s has only %d of the %d %s tokens asked for", config.name, len(stream), wanted[side], side
            )
    return {side: torch.tensor(stream[: wanted[side]], dtype=torch.int32) for side, stream in streams.items()}


def _batches(rows, config: DataConfig, streams: dict, wanted: dict, batch_size: int = 64) -> Iterator[list]:
    """Batches of `(side, text)` for the sides that still lack tokens."""
    batch = []
    for document_id, text in rows:
        side = "heldout" if is_heldout(document_id, config.heldout_fraction) else "train"
        if len(streams[side]) < wanted[side]:
            batch.append((side, text))
        if len(batch) == batch_size:
            yield batch
            batch = []
        if all(len(streams[name]) >= wanted[name] for name in wanted):
            return
    if batch:
        yield batch


class TokenBlocks(Dataset):
    """Non-overlapping sequences of a token stream in a seeded random order; a map-style dataset for `Trainer`.

    Args:
        tokens: the packed stream, shape `(num_tokens,)`, any integer dtype.
        sequence_length: tokens per sequence.
        seed: order of the sequences; `None` keeps the stream's order.
        limit: at most so many sequences.
    """

    def __init__(self, tokens: torch.Tensor, sequence_length: int, seed: int | None = None, limit: int | None = None):
        count = len(tokens) // sequence_length
        if count == 0:
            raise DataError(f"{len(tokens)} tokens do not fill one sequence of {sequence_length}")
        self.blocks = tokens[: count * sequence_length].view(count, sequence_length)
        if seed is None:
            self.order = torch.arange(count)
        else:
            self.order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.order = self.order[:limit]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[self.order[index]].long()}

    def tensor(self) -> torch.Tensor:
        """All sequences at once, shape `(len(self), sequence_length)`, int64."""
        return self.blocks[self.order].long()


def sequences(tokens: torch.Tensor, sequence_length: int, num_tokens: int, seed: int) -> torch.Tensor:
    """`num_tokens // sequence_length` (at least one) random sequences, shape `(num_sequences, sequence_length)`."""
    return TokenBlocks(tokens, sequence_length, seed, limit=max(1, num_tokens // sequence_length)).tensor()
