"""Decision requests as text of a Puzzle run: a row a question, and where and between which options its answer is read.

    requests --> prompts as users run them --> rows of `data.sequence_length` tokens --> streams `train`, `heldout`

A row is one prompt, the token of its right option, and padding; nothing else stands before it, as in use.
"""

import io
import keyword
import logging
import re
import tokenize as python
from collections.abc import Iterator
from pathlib import Path

import torch

from .corpora import DataError, is_heldout, open_corpus
from .data import TokenStream, write_streams
from .progress import bar
from .recipe import DataConfig


logger = logging.getLogger(__name__)

# the commonest of Python's keywords; a choice of them is small and its options exclude each other
KEYWORDS = ("class", "def", "for", "if", "import", "in", "return", "try")
MOST_PER_FILE, MOST_PER_KEYWORD = 32, 4
BLANK, BEFORE, AFTER = "____", 2, 1  # what stands for the keyword; lines of text around its own
LONGEST = 120  # characters of a state


def keyword_requests(source: str, most: int = MOST_PER_FILE) -> Iterator[dict]:
    """Solved requests of a Python file: which keyword is missing from a line, told by the lines around it.

    Of each keyword at most `MOST_PER_KEYWORD`, evenly from all of the file, so that the common ones do not crowd out the
    others.
    """
    lines = source.splitlines()
    try:
        tokens = list(python.generate_tokens(io.StringIO(source).readline))
    except (python.TokenError, SyntaxError):
        return  # of a file that shows wrong syntax on purpose
    places: dict[str, list] = {word: [] for word in KEYWORDS}
    for token in tokens:
        if token.type == python.NAME and keyword.iskeyword(token.string) and token.string in places:
            places[token.string].append(token)
    chosen = []
    for found in places.values():
        step = max(1, len(found) // MOST_PER_KEYWORD)
        chosen += found[step // 2 :: step][:MOST_PER_KEYWORD]
    question = {
        "type": "choice",
        "instructions": f"Which keyword is {BLANK}?",
        "criteria": dict.fromkeys(KEYWORDS),
    }
    for token in sorted(chosen, key=lambda t: t.start)[:most]:
        row, column = token.start[0] - 1, token.start[1]
        own = lines[row][:column] + BLANK + lines[row][token.end[1] :]
        text = "\n".join([*lines[max(0, row - BEFORE) : row], own, *lines[row + 1 : row + 1 + AFTER]])
        if len(text) <= LONGEST and not re.search(r"[^\x09\x0a\x20-\x7e]", text):
            yield {"state": text, "questions": {"keyword": question}, "answers": {"keyword": token.string}}


def requests_of(config: DataConfig) -> Iterator[tuple[str, dict]]:
    """`(document id, solved request)`: of the files of requests, or made from the Python standard library.

    Raises:
        DataError: as of `open_corpus`.
    """
    for document_id, document in open_corpus(config):
        if isinstance(document, dict):
            yield document_id, document
        else:
            yield from ((document_id, request) for request in keyword_requests(document))


def rows_of_request(decider, request: dict, where: str) -> Iterator[tuple[list[int], list[int]]]:
    """Per question its tokens, the answer's the last, and `[mark, right, option, option, ...]`: the token that the answer is
    read behind, the place of the right option among the options (-1 where the request does not say), and their tokens.

    Raises:
        DataError: an option of several tokens, an answer that is no option.
    """
    (asked,) = decider.prepare([request])
    answers = request.get("answers") or {}
    for prompt in asked.prompts:
        if not prompt.plain:
            raise DataError(
                f"{where}: options are told apart by one token here, and a label has several: give labels of one token each in "
                "decision.json"
            )
        for mark, question, labels in zip(prompt.marks, prompt.questions, prompt.labels, strict=True):
            options, right = [label[0] for label in labels], -1
            if question.name in answers:
                value = answers[question.name]
                option = str(value).lower() if isinstance(value, bool) else str(value)
                if option not in question.options:
                    raise DataError(f"{where}: {question.name!r} is answered {value!r}, expected one of {', '.join(question.options)}")  # fmt: skip
                right = question.options.index(option)
            yield [*prompt.ids[:mark], options[max(0, right)]], [mark - 1, right, *options]


def tokenize_requests(path: Path, config: DataConfig, decider, pad: int, answers: bool = False) -> None:
    """Two streams of rows, `train` and `heldout`, split by document; `TokenStream.decisions` says where answers are read.

    Reads requests until both `data.num_tokens` and `data.heldout_tokens` are reached; padding counts.

    Args:
        decider: a `Decider` of the parent: its prompts and labels are those of use.
        pad: token behind the answers.
        answers: whether the tokens of the answers are noted as such, as of `data.tokenize_to`.

    Raises:
        DataError: as of `rows_of_request`; fewer than two rows on either side.
    """
    length, longest, skipped = config.sequence_length, 0, 0
    wanted = {"train": config.num_tokens // length, "heldout": config.heldout_tokens // length}
    rows: dict[str, list] = {side: [] for side in wanted}
    starts: dict[str, list[int]] = {side: [] for side in wanted}
    last = dict.fromkeys(wanted)
    progress = bar(total=sum(wanted.values()), desc="tokenize", unit="row")
    for number, (document_id, request) in enumerate(requests_of(config)):
        side = "heldout" if is_heldout(document_id, config.heldout_fraction) else "train"
        if len(rows[side]) >= wanted[side]:
            if all(len(rows[name]) >= wanted[name] for name in wanted):
                break
            continue
        if document_id != last[side] and starts[side][-1:] != [len(rows[side]) * length]:
            starts[side].append(len(rows[side]) * length)
        last[side] = document_id
        for ids, decision in rows_of_request(decider, request, f"request {number}"):
            longest = max(longest, len(ids))
            if len(ids) > length:
                skipped += 1
            elif len(rows[side]) < wanted[side]:
                rows[side].append(([*ids, *[pad] * (length - len(ids))], decision))
                progress.update()
    progress.close()
    if skipped:
        logger.warning(
            "%s: %d questions are longer than data.sequence_length %d and were skipped; the longest has %d tokens with its answer",
            config.name, skipped, length, longest,
        )  # fmt: skip
    for side, found in rows.items():
        if len(found) < 2:
            raise DataError(
                f"{config.name}: {len(found)} {side} rows of data.sequence_length {length}, at least 2 needed (the longest "
                f"question has {longest} tokens with its answer)"
            )
    write_streams(path, {side: _stream(rows[side], starts[side], answers) for side in rows})


def _stream(rows: list, starts: list[int], answers: bool) -> TokenStream:
    tokens = torch.tensor([ids for ids, _ in rows], dtype=torch.int32)
    widest = max(len(decision) for _, decision in rows)
    decisions = torch.tensor([[*d, *[-1] * (widest - len(d))] for _, d in rows], dtype=torch.int64)
    spans = None
    if answers:
        begin = torch.arange(len(rows)) * tokens.shape[1] + decisions[:, 0] + 1
        spans = torch.stack([begin, begin + 1], 1)
    return TokenStream.of(tokens.flatten(), documents=torch.tensor(starts), answers=spans, decisions=decisions)
