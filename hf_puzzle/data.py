"""Text in, token blocks out: the corpora of a recipe, split by document, packed, and cut into sequences.

Streams look like inference. What the tokenizer puts around a prompt (BOS, most often) stands around every document;
chats go through the chat template. Every sequence is cut by `cut`, which begins it as a prompt begins: one that starts
inside a document gets the same tokens in front. They are given in use, never predicted: `TokenStream.given` names those
that no loss and no score takes as a target. Tokenizers that add nothing leave streams and sequences as plain as before.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from . import artifacts
from .corpora import DataError, Document, first_document, is_heldout, is_reserved, open_corpus
from .progress import bar
from .recipe import DataConfig


logger = logging.getLogger(__name__)

STREAMS = 4  # how streams are made; of 1 there was no BOS, of 2 no documents' starts, of 3 no chat was kept out
STARTS, ANSWERS, DECISIONS = ".documents", ".answers", ".decisions"


def train_tokenizer(config: DataConfig, vocab_size: int, num_documents: int = 500):
    """Byte-level BPE trained on the training documents of `config`, as a `PreTrainedTokenizerFast`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = []
    for document_id, text in open_corpus(config):
        if not isinstance(text, str):
            raise DataError(
                f"data.text_column {config.text_column!r} holds chats: a parent that is made here has no chat template"
            )
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


# -- what inference has


def as_used(documents: Sequence[Document], tokenizer, column: str = "text") -> list[list[int]]:
    """Token ids of each document as inference has them: `tokenizer(text)`, and chats through the chat template.

    Raises:
        DataError: naming `column`, for a chat where there is no template, or one that the template refuses.
    """
    encoded: list[list[int]] = [[] for _ in documents]
    for chat in (False, True):
        where = [i for i, document in enumerate(documents) if isinstance(document, list) == chat]
        if where:
            texts = [rendered(documents[i], tokenizer, column) if chat else documents[i] for i in where]
            # a template writes BOS itself
            ids = tokenizer(texts, add_special_tokens=not chat)["input_ids"]
            for i, tokens in zip(where, ids, strict=True):
                encoded[i] = list(tokens)
    return encoded


def answers_of(messages: list[dict], tokenizer, column: str = "text") -> list[tuple[int, int]]:
    """`(first, behind the last)` token of each answer of the assistant in a chat, as `as_used` encodes it; what ends its
    turn is part of it.

    Raises:
        DataError: as of `as_used`; a template that writes earlier turns otherwise once a later one is there.
    """
    text, spans = rendered(messages, tokenizer, column), []
    for k, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = rendered(messages[:k], tokenizer, column, add_generation_prompt=True)
        until = rendered(messages[: k + 1], tokenizer, column)
        if not (until.startswith(before) and text.startswith(until.rstrip())):
            raise DataError(
                f"data.text_column {column!r}: the chat template writes a turn otherwise once others follow it, so that "
                "answers cannot be told apart; set distill.answers_only to false"
            )
        spans.append((len(before), len(until.rstrip())))
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    found = []
    for begin, end in spans:
        inside = [i for i, (a, b) in enumerate(offsets) if begin <= a < b <= end]
        found += [(inside[0], inside[-1] + 1)] if inside else []
    return found


def rendered(messages: list[dict], tokenizer, column: str, **options) -> str:
    """A chat as the template writes it; `options` as of `apply_chat_template`.

    Raises:
        DataError: as of `as_used`.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"data.text_column {column!r} holds chats, and the parent's tokenizer has no chat template: save it with one "
            "(tokenizer.chat_template), or name a column of text"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"data.text_column {column!r}: the chat template refuses a chat: {error}") from None


def end_tokens(*configs) -> list[int]:
    """What the `eos_token_id`s of a model's configs name, each once, in their order."""
    found: dict[int, None] = {}
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found |= dict.fromkeys(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return list(found)


@dataclass(frozen=True)
class Marks:
    """Special tokens of documents in a stream.

    Attributes:
        prefix: in front of a prompt.
        separator: the end-of-text token.
        closes: whether the separator must be put behind a document: neither the tokenizer nor the next prefix does it.
    """

    prefix: tuple[int, ...]
    separator: int
    closes: bool

    def closed(self, ids: list[int]) -> list[int]:
        return [*ids, self.separator] if self.closes else ids


def around_prompt(tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer, as it is set up, puts in front of and behind a prompt.

    Raises:
        DataError: a text's own tokens are others with special tokens around it.
    """
    bare, full = (list(tokenizer("abc", add_special_tokens=special)["input_ids"]) for special in (False, True))
    places = [i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare]
    if not places or (full and not bare):
        raise DataError(f"the tokenizer makes {full} of 'abc', and {bare} without special tokens: no prefix is known")
    place = places[-1]  # several only where the text is unknown, and that token also the one in front
    return tuple(full[:place]), tuple(full[place + len(bare) :])


def marks_of(tokenizer, ends: Sequence[int] = (), document: Document | None = None, column: str = "text") -> Marks:
    """The marks that `tokenizer` itself puts around a text, or its template around a chat.

    The separator is what the tokenizer puts behind a text, else the first of its eos token and `ends` that the chat
    template does not write: an instruct model's eos ends a turn (`<|eot_id|>`), and documents are no turns.

    Args:
        ends: tokens that end the model's generation, as of `end_tokens`.
        document: the first of the corpus; default: a text.

    Raises:
        DataError: no end-of-text token; as of `around_prompt` and `as_used`.
    """
    separator = _end_of_text(tokenizer, ends)
    prefix, suffix = around_prompt(tokenizer)
    if isinstance(document, list):
        (ids,), bos = as_used([document], tokenizer, column), getattr(tokenizer, "bos_token_id", None)
        if not prefix and ids.count(bos) == 1 and ids[0] == bos:  # once: some templates begin every turn with it
            prefix = (bos,)
        prefix = prefix if tuple(ids[: len(prefix)]) == prefix else ()
        return Marks(prefix, separator, not prefix and ids[-1] != separator)
    if suffix:
        return Marks(prefix, suffix[-1], False)
    return Marks(prefix, separator, prefix[:1] != (separator,))


def _end_of_text(tokenizer, ends: Sequence[int]) -> int:
    own = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if own is None:
        raise DataError("the tokenizer has neither an end-of-text nor a begin-of-text token to separate documents")
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return own
    template = template if isinstance(template, str) else "".join(template.values())
    known = [token for token in (own, *ends) if 0 <= token < len(tokenizer)]
    return next((token for token in known if tokenizer.convert_ids_to_tokens(token) not in template), own)


# -- streams


class TokenStream(torch.Tensor):
    """Packed tokens, shape `(num_tokens,)`, that know what stands in front of a prompt; so do all slices of it.

    Attributes:
        prefix: tokens in front of every sequence.
        separator: the token between documents.
        documents: where each document starts, ascending, int64; None where that is unknown, as of slices.
        answers: `(first, behind the last)` token of what assistants wrote, ascending, `(count, 2)`, int64; None where that
            was not asked for, and of slices.
        decisions: of a stream of decision requests, whose rows are all of one length, `(rows, 2 + K)`, int64: the token that
            the answer is read behind, the place of the right one among the options (-1: unknown), and the options' tokens
            (-1: none). None of other streams, and of slices.
    """

    prefix: tuple[int, ...] = ()
    separator: int | None = None
    documents: torch.Tensor | None = None
    answers: torch.Tensor | None = None
    decisions: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        tokens: torch.Tensor,
        prefix: Sequence[int] = (),
        separator: int | None = None,
        documents: torch.Tensor | None = None,
        answers: torch.Tensor | None = None,
        decisions: torch.Tensor | None = None,
    ) -> "TokenStream":
        stream = tokens.view_as(tokens).as_subclass(cls)  # a tensor of its own: attributes stay off the caller's
        stream.prefix, stream.separator, stream.documents = tuple(prefix), separator, documents
        stream.answers = None if answers is None else answers.view(-1, 2)
        stream.decisions = decisions
        return stream

    def copied(self) -> "TokenStream":
        """In memory, whatever becomes of the file that it was read from."""
        return TokenStream.of(self.clone(), self.prefix, self.separator, self.documents, self.answers, self.decisions)

    def split_at_document(self, position: int) -> tuple["TokenStream", "TokenStream"]:
        """Two streams that share no document; the first has about `position` tokens."""
        if self.documents is not None and len(inner := self.documents[self.documents > 0]):
            position = int(inner[(inner - position).abs().argmin()])
        first, second = self[:position], self[position:]
        if self.documents is not None:
            first.documents = self.documents[self.documents < position]
            second.documents = self.documents[self.documents >= position] - position
        if self.decisions is not None:
            row = position // (len(self) // len(self.decisions))
            first.decisions, second.decisions = self.decisions[:row], self.decisions[row:]
        return first, second

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, cls) and args and isinstance(args[0], cls):
            result.prefix, result.separator = args[0].prefix, args[0].separator
        return result

    @property
    def given(self) -> tuple[int, ...]:
        """Tokens that are no target: inference is given them. The separator is one, also where it begins prompts."""
        return tuple(token for token in self.prefix if token != self.separator)


def given_tokens(tokens: torch.Tensor) -> tuple[int, ...]:
    """`TokenStream.given`; none of a plain tensor."""
    return tokens.given if isinstance(tokens, TokenStream) else ()


def write_streams(path: Path, streams: dict[str, torch.Tensor]) -> None:
    """Streams of one tokenizer as safetensors, with their documents' starts; its marks are in the header, where it has any."""
    first = next(iter(streams.values()))
    prefix, separator = getattr(first, "prefix", ()), getattr(first, "separator", None)
    marks = {"prefix": json.dumps(prefix), "separator": json.dumps(separator)} if prefix else None
    tensors = {name: t.as_subclass(torch.Tensor) for name, t in streams.items()}
    for name, t in streams.items():
        for ending in (STARTS, ANSWERS, DECISIONS):
            if (known := getattr(t, ending[1:], None)) is not None:
                tensors[f"{name}{ending}"] = known.contiguous()
    artifacts.write_tensors(path, tensors, marks)


def read_streams(path: Path) -> dict[str, TokenStream]:
    """What `write_streams` wrote."""
    marks, tensors = artifacts.tensors_metadata(path), artifacts.read_tensors(path)
    prefix, separator = json.loads(marks.get("prefix", "[]")), json.loads(marks.get("separator", "null"))
    return {
        name: TokenStream.of(
            tokens, prefix, separator, *(tensors.get(f"{name}{ending}") for ending in (STARTS, ANSWERS, DECISIONS))
        )
        for name, tokens in tensors.items()
        if not name.endswith((STARTS, ANSWERS, DECISIONS))
    }


def tokenize(config: DataConfig, tokenizer, ends: Sequence[int] = (), answers: bool = False) -> dict[str, TokenStream]:
    """`tokenize_to`, into memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.safetensors"
        tokenize_to(path, config, tokenizer, ends, answers)
        return {side: stream.copied() for side, stream in read_streams(path).items()}


def tokenize_to(path: Path, config: DataConfig, tokenizer, ends: Sequence[int] = (), answers: bool = False) -> None:
    """Pack the corpus into two int32 streams, `train` and `heldout`: documents as inference has them, an end between.

    Reads documents until both `data.num_tokens` and `data.heldout_tokens` are reached; `reserved_chats` are in neither. Memory holds one batch of documents:
    tokens are appended to files in a folder beside `path` (`.parts`, the caller's to delete), with the reader's position,
    from which a killed call continues.

    Args:
        ends: as of `marks_of`.
        answers: whether to note what assistants wrote, `TokenStream.answers`.

    Raises:
        DataError: no end-of-text token, an empty corpus, or fewer tokens than two sequences on either side; as of
            `open_corpus` and `as_used`; texts and chats whose marks differ.
    """
    marks = marks_of(tokenizer, ends, first_document(config), config.text_column)
    closing = {}  # texts and chats may need an end apart
    wanted = {"train": config.num_tokens, "heldout": config.heldout_tokens}
    streams = _Streams(path.with_suffix(".parts"), wanted, answers)
    source = open_corpus(config, streams.reader_state)
    progress = bar(
        total=sum(wanted.values()), initial=sum(streams.written.values()), desc="tokenize", unit="tok", unit_scale=True
    )
    for batch in _batches(source, config, streams.written, wanted):
        encoded = as_used([document for _, document in batch], tokenizer, config.text_column)
        for (side, document), ids in zip(batch, encoded, strict=True):
            most = max(config.heldout_document_tokens, config.sequence_length)
            kept = _piece(ids, document, marks, most) if side == "heldout" else ids
            kind = type(document)
            if kind not in closing:
                closing[kind] = marks_of(tokenizer, ends, document, config.text_column)
                if (closing[kind].prefix, closing[kind].separator) != (marks.prefix, marks.separator):
                    raise DataError(
                        "data.sources: the tokenizer puts other tokens in front of texts than the chat template in front "
                        "of chats: one stream cannot hold both"
                    )
            spans = answers_of(document, tokenizer, config.text_column) if answers and kind is list else ()
            progress.update(streams.append(side, closing[kind].closed(kept), spans))
        streams.save_if_due(source.state)
    progress.close()
    source.say_skipped()
    for side, count in streams.written.items():
        if count < 2 * config.sequence_length:
            raise DataError(
                f"{config.name}: {count} {side} tokens, at least {2 * config.sequence_length} needed "
                "(two sequences of data.sequence_length); give more text or a shorter sequence_length"
            )
        if count < wanted[side]:
            logger.warning("%s has only %d of the %d %s tokens asked for", config.name, count, wanted[side], side)
    streams.finish(path, marks)


def _piece(ids: list[int], document: Document, marks: Marks, most: int) -> list[int]:
    """At most `most` tokens of a held-out document: from anywhere in a text, since beginnings are not like the rest (their
    place depends on the text alone), and the first ones of a chat."""
    start = len(marks.prefix) if tuple(ids[: len(marks.prefix)]) == marks.prefix else 0
    room = most - start
    if len(ids) <= most or room < 1 or not isinstance(document, str):
        return ids[:most]
    digest = hashlib.sha256(b"piece:" + document.encode(errors="surrogatepass")).digest()
    begin = start + int.from_bytes(digest[:8], "big") % (len(ids) - start - room + 1)
    return [*ids[:start], *ids[begin : begin + room]]


def packed(documents: Sequence[Document], tokenizer, ends: Sequence[int] = (), answers: bool = False) -> TokenStream:
    """A stream of documents of one kind in memory, as `tokenize_to` packs them."""
    marks = marks_of(tokenizer, ends, documents[0])
    pieces = [marks.closed(ids) for ids in as_used(documents, tokenizer)]
    starts = np.cumsum([0, *map(len, pieces[:-1])]).tolist()
    tokens = torch.tensor([token for piece in pieces for token in piece], dtype=torch.int32)
    spans = None
    if answers:
        parts = zip(starts, documents, strict=True)
        found = [
            (start + a, start + b) for start, d in parts if isinstance(d, list) for a, b in answers_of(d, tokenizer)
        ]
        spans = torch.tensor(found, dtype=torch.int64).view(-1, 2)
    return TokenStream.of(tokens, marks.prefix, marks.separator, torch.tensor(starts), spans)


class _Streams:
    """Growing token streams on disk: one file of int32 each, one of their documents' starts, one of their answers where they
    are noted, and how much of them counts, with the reader's position."""

    EVERY = 2**20  # tokens between two positions

    def __init__(self, folder: Path, wanted: dict[str, int], answers: bool = False):
        self.folder, self.wanted, self.saved = folder, wanted, 0
        self.written, self.reader_state = dict.fromkeys(wanted, 0), None
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(artifacts.ArtifactError, KeyError, TypeError, OSError):
            state = artifacts.read_json(folder / "state.json")
            if all(self._path(side).stat().st_size >= 4 * state["tokens"][side] for side in wanted):
                self.written, self.reader_state = state["tokens"], state["reader"]
        self.saved = sum(self.written.values())
        # rows of positions, by side: of one number each, and of two
        self.starts = {side: self._known_places(side, "starts", 1) for side in wanted}
        self.answers = {side: self._known_places(side, "answers", 2) for side in wanted} if answers else None
        for side, count in self.written.items():  # what was appended behind the last position comes again
            with open(self._path(side), "ab") as file:
                file.truncate(4 * count)

    def _path(self, side: str) -> Path:
        return self.folder / f"{side}.int32"

    def _places_path(self, side: str, kind: str) -> Path:
        return self.folder / f"{side}.{kind}.int64"

    def _known_places(self, side: str, kind: str, width: int) -> list[list[int]]:
        path = self._places_path(side, kind)
        raw = path.read_bytes() if path.exists() else b""
        rows = np.frombuffer(raw[: len(raw) // (8 * width) * 8 * width], dtype="<i8").reshape(-1, width)
        rows = rows[rows[:, 0] < self.written[side]]
        path.write_bytes(rows.tobytes())
        return rows.tolist()

    def _note(self, side: str, kind: str, rows: list[list[int]]) -> None:
        getattr(self, kind)[side] += rows
        with open(self._places_path(side, kind), "ab") as file:
            file.write(np.array(rows, dtype="<i8").tobytes())

    def append(self, side: str, ids: list[int], answers: Sequence[tuple[int, int]] = ()) -> int:
        """Append at most what is still wanted; the number of tokens taken.

        Args:
            answers: of these tokens, as of `answers_of`.
        """
        ids, begin = ids[: self.wanted[side] - self.written[side]], self.written[side]
        self._note(side, "starts", [[begin]])
        if self.answers is not None:
            self._note(side, "answers", [[begin + a, begin + min(b, len(ids))] for a, b in answers if a < len(ids)])
        with open(self._path(side), "ab") as file:
            file.write(np.array(ids, dtype="<i4").tobytes())
        self.written[side] += len(ids)
        return len(ids)

    def save_if_due(self, reader_state: Callable[[], dict]) -> None:
        if sum(self.written.values()) - self.saved < self.EVERY:
            return
        for side in self.wanted:
            kinds = ("starts",) if self.answers is None else ("starts", "answers")
            for path in (self._path(side), *(self._places_path(side, kind) for kind in kinds)):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        artifacts.write_json(self.folder / "state.json", {"tokens": self.written, "reader": reader_state()})
        self.saved = sum(self.written.values())

    def finish(self, path: Path, marks: Marks) -> None:
        arrays = {
            side: torch.from_file(str(self._path(side)), size=count, dtype=torch.int32)
            for side, count in self.written.items()
        }
        streams = {
            side: TokenStream.of(
                t, marks.prefix, marks.separator, torch.tensor(self.starts[side], dtype=torch.int64).flatten(),
                torch.tensor(self.answers[side], dtype=torch.int64) if self.answers is not None else None,
            )
            for side, t in arrays.items()
        }  # fmt: skip
        write_streams(path, streams)


def _batches(rows, config: DataConfig, written: dict, wanted: dict, batch_size: int = 64) -> Iterator[list]:
    """Batches of `(side, document)` for the sides that still lack tokens."""
    if all(written[name] >= wanted[name] for name in wanted):
        return
    batch = []
    for document_id, document in rows:
        side = "heldout" if is_heldout(document_id, config.heldout_fraction) else "train"
        if written[side] < wanted[side] and not (side == "heldout" and is_reserved(document_id, document)):
            batch.append((side, document))
        if len(batch) == batch_size:
            yield batch
            batch = []
        if all(written[name] >= wanted[name] for name in wanted):
            return
    if batch:
        yield batch


# -- sequences


def cut(tokens: torch.Tensor, start: int, length: int) -> tuple[torch.Tensor, int]:
    """The sequence of `length` tokens from position `start` of a stream, as a prompt begins, int64; and where the next starts."""
    prefix = getattr(tokens, "prefix", ())
    first = _behind_marks(tokens, start)
    stop = first + length - len(prefix)
    text = tokens.as_subclass(torch.Tensor)[first:stop].long()
    return (torch.cat([torch.tensor(prefix), text]) if prefix else text), stop


def _behind_marks(tokens: torch.Tensor, start: int) -> int:
    """Where the text of a sequence from `start` begins: behind marks that stand there already, or are cut by `start`."""
    prefix = getattr(tokens, "prefix", ())
    if not prefix:
        return start
    array, size = tokens.numpy(), len(prefix)
    if tokens.separator not in prefix and start < len(array) and array[start] == tokens.separator:
        start += 1  # the end of the document before
    for begin in range(max(0, start - size + 1), start + 1):
        if tuple(array[begin : begin + size].tolist()) == prefix:
            return begin + size
    return start


class TokenBlocks(Dataset):
    """Sequences of a token stream in a seeded random order, no text twice; a map-style dataset for `Trainer`.

    Args:
        tokens: the packed stream, shape `(num_tokens,)`, any integer dtype; a `TokenStream`'s sequences all begin with
            its prefix.
        sequence_length: tokens per sequence.
        seed: order of the sequences; `None` keeps the stream's order.
        limit: at most so many sequences.
        positions: whether sequences come with `position_ids` that begin again at 0 with each document, from which
            transformers masks the documents from each other.

    Raises:
        DataError: too few tokens; `positions` of a stream that does not know its documents.
    """

    def __init__(
        self,
        tokens: torch.Tensor,
        sequence_length: int,
        seed: int | None = None,
        limit: int | None = None,
        positions: bool = False,
    ):
        self.tokens, self.sequence_length, self.positions = tokens, sequence_length, positions
        if positions and getattr(tokens, "documents", None) is None:
            raise DataError("distill.document_masks: this stream does not say where its documents begin")
        self.starts = self._starts(len(getattr(tokens, "prefix", ())))
        count = len(self.starts)
        if count == 0:
            raise DataError(f"{len(tokens)} tokens do not fill one sequence of {sequence_length}")
        if seed is None:
            self.order = torch.arange(count)
        else:
            self.order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.order = self.order[:limit]

    def _starts(self, prefix: int) -> Sequence[int]:
        room, end = self.sequence_length - prefix, len(self.tokens)
        if room < 1:
            raise DataError(
                f"data.sequence_length {self.sequence_length} has no room behind the {prefix} tokens in front of a prompt"
            )
        if prefix == 0:
            return range(0, end - room + 1, room)
        starts, start = [], 0
        while (stop := _behind_marks(self.tokens, start) + room) <= end:
            starts.append(start)
            start = stop
        return starts

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = self.starts[self.order[index]]
        row, stop = cut(self.tokens, start, self.sequence_length)
        found = {"input_ids": row}
        if getattr(self.tokens, "answers", None) is not None:
            found["answers"] = self._in_answers(len(row), stop)
        if self.positions:
            found["position_ids"] = self._in_documents(len(row), stop)
        return found

    def _in_documents(self, length: int, stop: int) -> torch.Tensor:
        """Positions of the `length` tokens in front of position `stop`: from the sequence's start, and from each document's
        that begins behind its first token."""
        prefix, documents = len(getattr(self.tokens, "prefix", ())), self.tokens.documents
        first = stop - length + prefix  # of the text
        inside = documents[(documents > first) & (documents < stop)] - first + prefix
        places = torch.arange(length)
        begins = torch.cat([torch.zeros(1, dtype=torch.int64), inside.long()])
        return places - begins[torch.searchsorted(begins, places, right=True) - 1]

    def _in_answers(self, length: int, stop: int) -> torch.Tensor:
        """Which of the `length` tokens in front of position `stop` an assistant wrote; those of a prefix are no answer's."""
        prefix, answers = len(getattr(self.tokens, "prefix", ())), self.tokens.answers
        places = torch.arange(stop - length + prefix, stop)
        last = torch.searchsorted(answers[:, 0].contiguous(), places, right=True) - 1
        ends = torch.cat([answers[:, 1], torch.zeros(1, dtype=torch.int64)])  # row -1: in front of the first
        return torch.cat([torch.zeros(prefix, dtype=torch.bool), places < ends[last]])

    def documents(self) -> torch.Tensor:
        """The document that each sequence begins in, `(len(self),)`; one of its own where the stream does not say."""
        starts = torch.tensor([self.starts[i] for i in self.order.tolist()])
        known = getattr(self.tokens, "documents", None)
        return starts if known is None else torch.searchsorted(known, starts, right=True)

    def tensor(self) -> torch.Tensor:
        """Tokens of all sequences at once, shape `(len(self), sequence_length)`, int64."""
        return torch.stack([self[i]["input_ids"] for i in range(len(self))])


def sequences(tokens: torch.Tensor, sequence_length: int, num_tokens: int, seed: int) -> torch.Tensor:
    """`num_tokens // sequence_length` (at least one) random sequences, shape `(num_sequences, sequence_length)`."""
    return TokenBlocks(tokens, sequence_length, seed, limit=max(1, num_tokens // sequence_length)).tensor()
