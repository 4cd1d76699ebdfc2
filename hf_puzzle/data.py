"""Text in, token blocks out: the corpora of a recipe, split by document, packed, and cut into sequences."""

import contextlib
import glob
import hashlib
import logging
import os
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from . import artifacts
from .progress import bar
from .recipe import DataConfig


logger = logging.getLogger(__name__)

PYTHON_STDLIB = "python-stdlib"
LOCAL_TEXT = "text"


class DataError(ValueError):
    """The text of a recipe is missing, too short, or cannot be tokenized; the message says by how much."""


class Documents:
    """`(document id, text)` of a corpus, in a fixed pseudo-random order that can be taken up again anywhere.

    `python-stdlib` is the source text of the running Python's standard library (no download), `text` the local files
    of `data_files` (globs), anything else a dataset of the Hub, streamed, its files in an order of `data.seed`.

    Args:
        state: of an earlier reader of the same corpus: this one begins behind the document that it gave last.
    """

    def __init__(self, config: DataConfig, state: dict | None = None):
        self.config, self._given = config, 0
        self._skip = (state or {}).get("documents", 0)
        self._rows = None
        if config.name not in (PYTHON_STDLIB, LOCAL_TEXT):
            import datasets

            rows = datasets.load_dataset(
                config.name, config.config_name, split=config.split, revision=config.revision, streaming=True
            )
            # a larger buffer would mix more, and lose its content with the process; sequences are drawn at random anyway
            self._rows = rows.shuffle(seed=config.seed, buffer_size=1)
            if state is not None:
                # datasets warns that a buffer's content is lost: ours is always empty here
                logging.getLogger("datasets.iterable_dataset").addFilter(
                    lambda r: "shuffle buffer" not in r.getMessage()
                )
                self._rows.load_state_dict(state["dataset"])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        if self._rows is not None:
            for row in self._rows:
                if self.config.text_column not in row:
                    raise DataError(
                        f"data.text_column {self.config.text_column!r} is not a column; columns: {sorted(row)}"
                    )
                text = row[self.config.text_column]
                yield hashlib.sha256(text.encode()).hexdigest(), text
            return
        for number, document in enumerate(self._local()):
            if number >= self._skip:  # files are read again, their text is not tokenized again
                self._given = number + 1
                yield document

    def state(self) -> dict:
        """Where this reader is, as JSON values."""
        if self._rows is not None:
            return {"dataset": self._rows.state_dict()}
        return {"documents": max(self._given, self._skip)}

    def _local(self) -> Iterator[tuple[str, str]]:
        if self.config.name == PYTHON_STDLIB:
            root = Path(sysconfig.get_paths()["stdlib"])
            return _files(root, [p for p in root.rglob("*.py") if "site-packages" not in p.parts])
        files = [Path(name) for pattern in self.config.data_files for name in glob.glob(pattern, recursive=True)]
        if not files:
            raise DataError(f"data.data_files {self.config.data_files} match no file")
        return _files(Path(), files)


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
    for document_id, text in Documents(config):
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
    """`tokenize_to`, into memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.safetensors"
        tokenize_to(path, config, tokenizer)
        return {side: stream.clone() for side, stream in artifacts.read_tensors(path).items()}


def tokenize_to(path: Path, config: DataConfig, tokenizer) -> None:
    """Pack the corpus into two int32 streams, `train` and `heldout`, documents separated by the end-of-text token.

    Reads documents until both `data.num_tokens` and `data.heldout_tokens` are reached. Memory holds one batch of documents:
    tokens are appended to files in a folder beside `path` (`.parts`, the caller's to delete), with the reader's position,
    from which a killed call continues.

    Raises:
        DataError: no end-of-text token, an empty corpus, or fewer tokens than one sequence on either side.
    """
    separator = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if separator is None:
        raise DataError("the tokenizer has neither an end-of-text nor a begin-of-text token to separate documents")
    wanted = {"train": config.num_tokens, "heldout": config.heldout_tokens}
    streams = _Streams(path.with_suffix(".parts"), wanted)
    source = Documents(config, streams.reader_state)
    progress = bar(
        total=sum(wanted.values()), initial=sum(streams.written.values()), desc="tokenize", unit="tok", unit_scale=True
    )
    for texts in _batches(source, config, streams.written, wanted):
        encoded = tokenizer([text for _, text in texts], add_special_tokens=False)["input_ids"]
        for (side, _), ids in zip(texts, encoded, strict=True):
            progress.update(streams.append(side, [*ids, separator]))
        streams.save_if_due(source.state)
    progress.close()
    for side, count in streams.written.items():
        if count < 2 * config.sequence_length:
            raise DataError(
                f"{config.name}: {count} {side} tokens, at least {2 * config.sequence_length} needed "
                "(two sequences of data.sequence_length); give more text or a shorter sequence_length"
            )
        if count < wanted[side]:
            logger.warning("%s has only %d of the %d %s tokens asked for", config.name, count, wanted[side], side)
    streams.finish(path)


class _Streams:
    """Growing token streams on disk: one file of int32 each, and how much of them counts, with the reader's position."""

    EVERY = 2**20  # tokens between two positions

    def __init__(self, folder: Path, wanted: dict[str, int]):
        self.folder, self.wanted, self.saved = folder, wanted, 0
        self.written, self.reader_state = dict.fromkeys(wanted, 0), None
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(artifacts.ArtifactError, KeyError, TypeError, OSError):
            state = artifacts.read_json(folder / "state.json")
            if all(self._path(side).stat().st_size >= 4 * state["tokens"][side] for side in wanted):
                self.written, self.reader_state = state["tokens"], state["reader"]
        self.saved = sum(self.written.values())
        for side, count in self.written.items():  # what was appended behind the last position comes again
            with open(self._path(side), "ab") as file:
                file.truncate(4 * count)

    def _path(self, side: str) -> Path:
        return self.folder / f"{side}.int32"

    def append(self, side: str, ids: list[int]) -> int:
        """Append at most what is still wanted; the number of tokens taken."""
        ids = ids[: self.wanted[side] - self.written[side]]
        with open(self._path(side), "ab") as file:
            file.write(np.array(ids, dtype="<i4").tobytes())
        self.written[side] += len(ids)
        return len(ids)

    def save_if_due(self, reader_state: Callable[[], dict]) -> None:
        if sum(self.written.values()) - self.saved < self.EVERY:
            return
        for side in self.wanted:
            with open(self._path(side), "rb") as file:
                os.fsync(file.fileno())
        artifacts.write_json(self.folder / "state.json", {"tokens": self.written, "reader": reader_state()})
        self.saved = sum(self.written.values())

    def finish(self, path: Path) -> None:
        arrays = {
            side: torch.from_file(str(self._path(side)), size=count, dtype=torch.int32)
            for side, count in self.written.items()
        }
        artifacts.write_tensors(path, arrays)


def _batches(rows, config: DataConfig, written: dict, wanted: dict, batch_size: int = 64) -> Iterator[list]:
    """Batches of `(side, text)` for the sides that still lack tokens."""
    if all(written[name] >= wanted[name] for name in wanted):
        return
    batch = []
    for document_id, text in rows:
        side = "heldout" if is_heldout(document_id, config.heldout_fraction) else "train"
        if written[side] < wanted[side]:
            batch.append((side, text))
        if len(batch) == batch_size:
            yield batch
            batch = []
        if all(written[name] >= wanted[name] for name in wanted):
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
