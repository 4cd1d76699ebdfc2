"""Corpora: documents of a recipe's text, from files, the Hub, the parent itself, or several of them by weight."""

import dataclasses
import glob
import hashlib
import json
import logging
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .recipe import CorpusConfig, DataConfig, SourceConfig


logger = logging.getLogger(__name__)

PYTHON_STDLIB = "python-stdlib"
LOCAL_TEXT = "text"
DECISIONS = "decisions"  # solved requests
PYTHON_KEYWORDS = "python-keywords"  # the same, made of the standard library
SELF = "self"  # chats that the parent writes: a stage of a run makes them
MIXTURE = "mixture"
TRAINERS_DATA = "datasets of the Trainer"  # of PuzzleCallback, which makes the streams itself
# of `datasets`: without data_files they would read the working folder
FILE_FORMATS = ("arrow", "csv", "json", "parquet", "webdataset", "xml")
BLANK_ROWS = 1000  # as many in front of the first text are a wrong column

Document = str | list[dict] | dict  # a text, the messages of a chat, or a decision request


class DataError(ValueError):
    """The text of a recipe is missing, too short, or cannot be tokenized; the message says by how much."""


class Documents:
    """`(document id, document)` of a corpus, in a fixed pseudo-random order that can be taken up again anywhere.

    `python-stdlib` is the source text of the running Python's standard library (no download), `text` the local files
    of `data_files` (globs), anything else what `datasets.load_dataset` streams: a dataset of the Hub, a folder, or
    `json`, `csv`, `parquet` with `data_files`; its files come in an order of `seed`. A document is a text, or a chat:
    the list of messages that a row has in `data.text_column`. Rows without either are skipped and counted. `decisions` are
    the requests of `data_files` (JSON lines), `python-keywords` the standard library again, which requests are made of.

    Args:
        state: of an earlier reader of the same corpus: this one begins behind the document that it gave last.
        seed: order of a dataset's files.

    Attributes:
        skipped: rows of a dataset without text so far.

    Raises:
        DataError: no such corpus, file or column; a row that is neither text nor chat.
    """

    def __init__(self, config: CorpusConfig, state: dict | None = None, seed: int = 0):
        self.config, self._given, self.skipped = config, 0, (state or {}).get("skipped", 0)
        self._skip = (state or {}).get("documents", 0)
        self._rows = None
        if config.name in (PYTHON_STDLIB, PYTHON_KEYWORDS) and config.data_files:
            raise DataError(f"data.data_files: {config.name} has none; with name: {LOCAL_TEXT} they are text files")
        if config.prompts and config.name != SELF:
            raise DataError(f"data.prompts are answered with `name: {SELF}` only, not with {config.name}")
        if config.name == SELF:
            raise DataError("data.name self: the parent writes these chats in a Puzzle run only")
        if config.name in FILE_FORMATS and not config.data_files:
            raise DataError(f"data.data_files: name the files of data.name {config.name} (globs, or addresses)")
        if config.name not in (PYTHON_STDLIB, PYTHON_KEYWORDS, LOCAL_TEXT, DECISIONS):
            # a larger buffer would mix more, and lose its content with the process; sequences are drawn at random anyway
            self._rows = _load(config).shuffle(seed=seed, buffer_size=1)
            if state is not None:
                # datasets warns that a buffer's content is lost: ours is always empty here
                logging.getLogger("datasets.iterable_dataset").addFilter(
                    lambda r: "shuffle buffer" not in r.getMessage()
                )
                self._rows.load_state_dict(state["dataset"])

    def __iter__(self) -> Iterator[tuple[str, Document]]:
        if self._rows is not None:
            yield from self._documents()
            self.say_skipped()
            return
        for number, document in enumerate(self._local()):
            if number >= self._skip:  # files are read again, their text is not tokenized again
                self._given = number + 1
                yield document

    def state(self) -> dict:
        """Where this reader is, as JSON values."""
        if self._rows is not None:
            return {"dataset": self._rows.state_dict(), "skipped": self.skipped}
        return {"documents": max(self._given, self._skip)}

    def say_skipped(self) -> None:
        """One warning with the number of rows without text, when reading is over."""
        if self.skipped:
            config = self.config
            logger.warning(
                "%s: %d rows without text in column %s were skipped", config.name, self.skipped, config.text_column
            )
            self.skipped = 0

    def _documents(self) -> Iterator[tuple[str, Document]]:
        column, found = self.config.text_column, False
        for row in self._rows:
            if column not in row:
                raise DataError(_no_column(column, sorted(row)))
            document = _document(row[column], column)
            if document is None:
                self.skipped += 1
                if self.skipped == BLANK_ROWS and not found:
                    raise DataError(f"data.text_column {column!r}: the first {BLANK_ROWS} rows have no text in it")
                continue
            found = True
            yield hashlib.sha256(as_text(document).encode()).hexdigest(), document

    def _local(self) -> Iterator[tuple[str, Document]]:
        if self.config.name in (PYTHON_STDLIB, PYTHON_KEYWORDS):
            root = Path(sysconfig.get_paths()["stdlib"])
            return _files(root, [p for p in root.rglob("*.py") if "site-packages" not in p.parts])
        files = [Path(name) for pattern in self.config.data_files for name in glob.glob(pattern, recursive=True)]
        if not files:
            raise DataError(f"data.data_files {self.config.data_files} match no file")
        return _requests(files) if self.config.name == DECISIONS else _files(Path(), files)


class Mixture:
    """Several corpora as one: the next document comes from the source that is most behind its share of the characters.

    A source that has no more documents leaves its share to the others.

    Args:
        sources: with their weights.
        state: as of `Documents`.

    Raises:
        DataError: no sources, a mixture within one, or as of `Documents`.
    """

    def __init__(self, sources: list[SourceConfig], state: dict | None = None, seed: int = 0):
        if not sources:
            raise DataError("data.name mixture: name its corpora in data.sources")
        if any(source.name == MIXTURE for source in sources):
            raise DataError("data.sources: a mixture within a mixture; list all its sources")
        states = state["sources"] if state else [None] * len(sources)
        self._weights = [source.weight for source in sources]
        self._readers = [Documents(source, each, seed) for source, each in zip(sources, states, strict=True)]
        self.characters: list[int] = state["characters"] if state else [0] * len(sources)

    def __iter__(self) -> Iterator[tuple[str, Document]]:
        left = {i: iter(reader) for i, reader in enumerate(self._readers)}
        while left:
            i = min(left, key=lambda i: self.characters[i] / self._weights[i])
            try:
                name, document = next(left[i])
            except StopIteration:
                del left[i]
                if left:
                    logger.warning("data.sources[%d] (%s) has no more documents: the others go on", i, self._readers[i].config.name)  # fmt: skip
                continue
            self.characters[i] += len(as_text(document))
            yield name, document  # by its text or file: one that two sources have is on one side of the split

    def state(self) -> dict:
        return {"sources": [reader.state() for reader in self._readers], "characters": self.characters}

    def say_skipped(self) -> None:
        for reader in self._readers:
            reader.say_skipped()


def open_corpus(config: DataConfig, state: dict | None = None) -> Documents | Mixture:
    """The documents of a recipe's text.

    Raises:
        DataError: as of `Documents` and `Mixture`.
    """
    if config.name == MIXTURE:
        return Mixture(config.sources, state, config.seed)
    if config.sources:
        raise DataError(f"data.sources are read with `name: {MIXTURE}` only, not with {config.name}")
    return Documents(config, state, config.seed)


def prompts_of_self(config: DataConfig) -> list[str]:
    """Globs of the files with prompts that the parent answers; empty where it writes them itself."""
    corpora = [corpus for corpus in (config, *config.sources) if corpus.name == SELF]
    if len(corpora) > 1:
        raise DataError("data.sources: the parent writes its chats once; name `self` once")
    return corpora[0].prompts if corpora else []


def with_files_of_self(config: DataConfig, chats: Path) -> DataConfig:
    """`config` reading the chats that the parent wrote, wherever it says `self`, from a file."""

    def placed(corpus):
        if corpus.name != SELF:
            return corpus
        return dataclasses.replace(
            corpus, name="json", data_files=[str(chats)], text_column="messages", split="train", prompts=[]
        )

    return dataclasses.replace(placed(config), sources=[placed(source) for source in config.sources])


def asks(config: DataConfig) -> bool:
    """Whether the text are decision requests."""
    return config.name in (DECISIONS, PYTHON_KEYWORDS)


def reads_self(config: DataConfig) -> bool:
    """Whether some of the text is to be written by the parent."""
    return SELF in (config.name, *(source.name for source in config.sources))


def as_text(document: Document) -> str:
    return document if isinstance(document, str) else json.dumps(document, sort_keys=True, default=str)


def first_document(config: DataConfig) -> Document | None:
    """The corpus' first document, which shows whether it can be read; None where there is none.

    Raises:
        DataError: as of `open_corpus`.
    """
    return next((document for _, document in open_corpus(config)), None)


def _load(config: CorpusConfig):
    import datasets

    files = {"data_files": config.data_files} if config.data_files else {}
    try:
        return datasets.load_dataset(
            config.name, config.config_name, split=config.split, revision=config.revision, streaming=True, **files
        )
    # StopIteration: of datasets, where local data_files match no file
    except (OSError, ValueError, StopIteration) as error:
        what = f"data.name {config.name!r}" + (f" with data_files {config.data_files}" if files else "")
        reason = "they match no file" if isinstance(error, StopIteration) else error
        raise DataError(f"{what} cannot be opened: {reason}") from None


def _no_column(column: str, columns: list[str]) -> str:
    message = f"data.text_column {column!r} is not a column; columns: {columns}"
    if {"prompt", "completion"} <= set(columns):
        message += (
            "; prompts and completions make one text only when joined: give a column with both, or with messages"
        )
    return message


def _document(value: object, column: str) -> Document | None:
    """What a row holds: a text, the messages of a chat (without empty fields), or None where it is blank."""
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return value
    first = value[0] if isinstance(value, list) else None
    if isinstance(first, dict):
        # columnar files fill absent fields with null, which templates take for present ones
        messages = [{k: v for k, v in (message or {}).items() if v is not None} for message in value]
        if all(isinstance(m.get("role"), str) and {"content", "tool_calls"} & set(m) for m in messages):
            return messages
        what = f"messages with the keys {sorted(first)}; rename them to role and content"
    elif isinstance(first, str):
        what = "lists of texts; join them into one text a row, or give each a row of its own"
    elif isinstance(first, int):
        what = "lists of numbers (token ids?); name the column of the text, which is tokenized here"
    else:
        what = f"values of type {type(value).__name__}; name a column of texts or of messages (role, content)"
    raise DataError(f"data.text_column {column!r} holds {what}")


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


def _requests(files: list[Path]) -> Iterator[tuple[str, dict]]:
    """Requests of JSON lines; requests about one state are one document's."""
    for path in sorted(files):
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    request = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}, line {number}: not valid JSON ({error})") from None
                if not isinstance(request, dict) or not {"state", "questions"} <= set(request):
                    raise DataError(f'{path}, line {number}: expected {{"state": ..., "questions": {{...}}}}')
                yield hashlib.sha256(json.dumps(request["state"], sort_keys=True).encode()).hexdigest(), request


def is_heldout(document_id: str, fraction: float) -> bool:
    """Split by hash of the document id: stable when documents are added or removed."""
    return int.from_bytes(hashlib.sha256(b"split:" + document_id.encode()).digest()[:4], "big") < fraction * 2**32


def is_reserved(document_id: str, document: Document) -> bool:
    """Whether a held-out document is in no stream: every second chat, by hash, is there for its prompt to be answered in the
    last evaluation, whatever text the search and GKD were judged by."""
    return isinstance(document, list) and hashlib.sha256(b"answered:" + document_id.encode()).digest()[0] % 2 == 0


def reserved_chats(config: DataConfig) -> Iterator[list[dict]]:
    """Held-out chats that no stream has.

    Raises:
        DataError: as of `open_corpus`.
    """
    for name, document in open_corpus(config):
        if is_heldout(name, config.heldout_fraction) and is_reserved(name, document):
            yield document
