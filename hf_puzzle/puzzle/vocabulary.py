"""A parent with fewer tokens (`vocabulary.size`): those that the text uses most, and all that any text can be written with.

Only byte-level BPE, or BPE that falls back to bytes, is trimmed: every text still encodes. A trimmed parent is the parent
on tokens that both have: its logits are the parent's without the rest, so that its distribution is the parent's given that
one of these tokens follows. Texts take more tokens than before; what is counted for speed is text, not tokens.
"""

import copy
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel

from .. import artifacts
from ..corpora import asks, is_heldout, open_corpus, reads_self
from ..data import as_used
from ..formats import model_is_tied
from ..progress import bar
from ..recipe import DataConfig, RecipeError


logger = logging.getLogger(__name__)

FILE = "vocabulary.json"  # of a run
DOCUMENTS = 20_000  # that tokens are counted on, at most
STALE = ("tokenizer.model",)  # what some tokenizers copy beside tokenizer.json


class VocabularyError(ValueError):
    """A vocabulary that cannot be trimmed, or not so far; the message says why, and what could be."""


@dataclass(frozen=True)
class Trimmed:
    """`vocabulary.json`: what a trimmed parent kept, and how much text its tokens stand for.

    Attributes:
        kept: the parent's id of each token.
        parent_size: tokens of the parent.
        parent_tokens, tokens: of the same held-out text, by either tokenizer.
        text_bytes: of that text, in UTF-8.
    """

    kept: list[int]
    parent_size: int
    parent_tokens: int
    tokens: int
    text_bytes: int

    @property
    def share(self) -> float:
        """Tokens that the parent needs for a text, for each token that the trimmed one needs; at most about 1."""
        return self.parent_tokens / self.tokens


def spec_of(tokenizer) -> dict:
    """`tokenizer.json` of a tokenizer whose vocabulary can be trimmed.

    Raises:
        VocabularyError: no BPE, or one that some text cannot be written with.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise VocabularyError(f"vocabulary.size: {type(tokenizer).__name__} has no tokenizer.json")
    spec = json.loads(backend.to_str())
    model = spec["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise VocabularyError(f"vocabulary.size: a tokenizer of {model.get('type')} is not trimmed, only BPE is")
    if not _bytes_of(spec):
        raise VocabularyError("vocabulary.size: this BPE knows no bytes: without some of its tokens, texts could not be written")  # fmt: skip
    return spec


def _bytes_of(spec: dict) -> set[str]:
    """Tokens that any text can be written with."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = spec["model"]["vocab"]
    if spec["model"].get("byte_fallback"):
        names = {f"<0x{byte:02X}>" for byte in range(256)}
        return names | {"▁"} & set(vocab) if names <= set(vocab) else set()
    if '"ByteLevel"' in json.dumps([spec.get("pre_tokenizer"), spec.get("normalizer")]):
        return set(ByteLevel.alphabet()) & set(vocab)
    return set()


def _pairs(spec: dict) -> list[tuple[str, str]]:
    return [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in spec["model"]["merges"]]


def kept_tokens(spec: dict, counts: Counter, size: int) -> list[int]:
    """Ids of the tokens that stay, ascending: bytes and added tokens, then the most used ones with what they are merged of.

    Raises:
        VocabularyError: `size` is less than what must stay.
    """
    vocab = spec["model"]["vocab"]
    made: dict[str, tuple[str, str]] = {}
    for pair in _pairs(spec):
        made.setdefault("".join(pair), pair)
    must = {token["content"] for token in spec["added_tokens"]} | _bytes_of(spec)
    must |= {spec["model"].get("unk_token")} & set(vocab)
    ids = vocab | {token["content"]: token["id"] for token in spec["added_tokens"]}
    if size < len(must):
        raise VocabularyError(f"vocabulary.size: {size} is too few: bytes and special tokens alone are {len(must)}")

    def with_parts(token: str) -> set[str]:
        parts, left = set(), [token]
        while left:
            if (part := left.pop()) not in parts and part not in kept:
                parts.add(part)
                left += made.get(part, ())
        return parts

    kept, names = set(must), {number: token for token, number in vocab.items()}
    for number, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        token = names.get(number)
        if token is not None and token not in kept and len(more := with_parts(token)) <= size - len(kept):
            kept |= more
    for token in sorted(vocab, key=vocab.get):  # text that uses fewer: by the order in which they were merged
        if len(kept) == size:
            break
        if token not in kept and len(more := with_parts(token)) <= size - len(kept):
            kept |= more
    return sorted({ids[token] for token in kept})


def trim_tokenizer(tokenizer, kept: list[int]):
    """A copy that has these tokens only, numbered in their order.

    Raises:
        VocabularyError: as of `spec_of`, or what is left is not read as it should be.
    """
    from tokenizers import Tokenizer

    spec, new = spec_of(tokenizer), {old: number for number, old in enumerate(kept)}
    model = spec["model"]
    model["vocab"] = {token: new[old] for token, old in model["vocab"].items() if old in new}
    stay = set(model["vocab"])
    model["merges"] = [
        merge
        for merge, pair in zip(model["merges"], _pairs(spec), strict=True)
        if stay >= {*pair, "".join(pair)}
    ]  # fmt: skip
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
    spec["post_processor"] = _renumbered(spec.get("post_processor"), new)
    if spec.get("padding"):
        spec["padding"]["pad_id"] = new[spec["padding"]["pad_id"]]
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = Tokenizer.from_str(json.dumps(spec))
    return trimmed


def _renumbered(processor, new: dict[int, int]):
    """Ids of special tokens in a post-processor: lists named `ids`, and pairs of a token and its id."""
    if isinstance(processor, dict):
        return {
            name: [new[i] for i in value]
            if name == "ids"
            else [value[0], new[value[1]]]
            if name in ("sep", "cls")
            else _renumbered(value, new)
            for name, value in processor.items()
        }
    return [_renumbered(each, new) for each in processor] if isinstance(processor, list) else processor


def trim_model(model: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """`model` in place with these rows of embeddings and head; its configs name special tokens by their new numbers.

    Raises:
        VocabularyError: it has other weights with a row for each token.
    """
    size, rows = model.config.vocab_size, torch.tensor(kept)
    inputs, head, tied = model.get_input_embeddings(), model.get_output_embeddings(), model_is_tied(model)
    known = {id(p) for module in (inputs, head) for p in module.parameters()}
    others = [name for name, p in model.named_parameters() if id(p) not in known and size in p.shape and p.ndim > 1]
    if others:
        raise VocabularyError(
            f"vocabulary.size: {others[0]} has a row for each token, too: this family is not trimmed"
        )
    new = {old: number for number, old in enumerate(kept)}
    inputs.weight = nn.Parameter(inputs.weight.data[rows.to(inputs.weight.device)], requires_grad=False)
    inputs.num_embeddings, inputs.padding_idx = len(kept), new.get(inputs.padding_idx)
    head.out_features = len(kept)
    if tied:
        head.weight = inputs.weight
    else:
        head.weight = nn.Parameter(head.weight.data[rows.to(head.weight.device)], requires_grad=False)
    if getattr(head, "bias", None) is not None:
        head.bias = nn.Parameter(head.bias.data[rows.to(head.bias.device)], requires_grad=False)
    for config in (model.config, model.generation_config):
        renumber(config, new)
    model.config.vocab_size = len(kept)
    return model


def renumber(config, new: dict[int, int]) -> None:
    """Special tokens of a config by their new numbers; those that are gone are None, or leave their list."""
    for name, value in list(vars(config).items()):
        if name.endswith(("_token_id", "suppress_tokens")) and value is not None:
            if isinstance(value, list):
                setattr(config, name, [new[i] for i in value if i in new])
            else:
                setattr(config, name, new.get(value))


def planned_config(config: PretrainedConfig, size: int) -> PretrainedConfig:
    """The config of a trimmed parent before it is made: the numbers of special tokens are not known yet."""
    if size >= config.vocab_size:
        return config
    config = copy.deepcopy(config)
    renumber(config, {})
    config.vocab_size = size
    return config


def documents_of(config: DataConfig, heldout: bool) -> Iterable:
    """The corpus's documents of one side."""
    found = (d for name, d in open_corpus(config) if is_heldout(name, config.heldout_fraction) == heldout)
    return itertools.islice(found, DOCUMENTS)


def counted(config: DataConfig, tokenizer) -> Counter:
    """How often training documents use each token, on at most `data.num_tokens` of them."""
    counts: Counter = Counter()
    for batch in _batches(bar(documents_of(config, False), desc="vocabulary")):
        for ids in as_used(batch, tokenizer, config.text_column):
            counts.update(ids)
        if counts.total() >= config.num_tokens:
            break
    return counts


def _batches(items: Iterable, size: int = 64) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def chosen(config: DataConfig, tokenizer, vocab_size: int, size: int) -> Trimmed:
    """Which tokens stay, by training text, and how many held-out text then takes.

    Args:
        vocab_size: rows of the parent's embeddings, of which some may stand for no token.
    """
    if size >= vocab_size:
        return Trimmed(list(range(vocab_size)), vocab_size, 1, 1, 1)
    kept = kept_tokens(spec_of(tokenizer), counted(config, tokenizer), size)
    after = trim_tokenizer(tokenizer, kept)
    totals: Counter = Counter()
    for batch in _batches(documents_of(config, True)):
        before = as_used(batch, tokenizer, config.text_column)
        totals["parent"] += sum(map(len, before))
        totals["after"] += sum(map(len, as_used(batch, after, config.text_column)))
        totals["bytes"] += sum(len(tokenizer.decode(ids).encode()) for ids in before)
        if totals["parent"] >= config.heldout_tokens:
            break
    return Trimmed(kept, vocab_size, totals["parent"], totals["after"], totals["bytes"])


def trimmed_parent(
    model: PreTrainedModel, tokenizer, config: DataConfig, size: int
) -> tuple[PreTrainedModel, object, Trimmed]:
    """A parent, in place, and its tokenizer with `size` tokens; untouched where it has no more.

    Raises:
        VocabularyError: as of `spec_of`, `kept_tokens` and `trim_model`.
    """
    found = chosen(config, tokenizer, model.config.vocab_size, size)
    if len(found.kept) < found.parent_size:
        model, tokenizer = trim_model(model, found.kept), trim_tokenizer(tokenizer, found.kept)
        logger.info(
            "vocabulary: %d of %d tokens; text takes %.2f times as many",
            len(found.kept),
            found.parent_size,
            1 / found.share,
        )
    return model, tokenizer, found


def check_written(folder: Path, tokenizer, text: DataConfig) -> None:
    """Raises VocabularyError where the tokenizer in a folder reads text otherwise than the one that was written."""
    for name in STALE:
        artifacts.remove(folder / name)
    again, sample = AutoTokenizer.from_pretrained(folder), list(itertools.islice(documents_of(text, True), 8))
    if as_used(sample, again, text.text_column) != as_used(sample, tokenizer, text.text_column):
        raise VocabularyError(
            f"vocabulary.size: {type(tokenizer).__name__} reads its own file otherwise: it cannot be trimmed"
        )


def check_vocabulary(size: int | None, config: DataConfig, in_memory: bool) -> None:
    """Raises RecipeError for runs whose tokens are not ours to choose."""
    if size is None:
        return
    if in_memory:
        raise RecipeError("vocabulary.size: a parent in memory keeps its tokens; save it and name its folder")
    if asks(config) or reads_self(config):
        raise RecipeError("vocabulary.size: tokens are chosen by text, not by decisions or chats of the parent's own")


def read_trimmed(path: Path) -> Trimmed:
    """`vocabulary.json`, as it was written."""
    with artifacts.reading(path):
        return Trimmed(**artifacts.read_json(path))


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, tokenizer, texts: list[str], first: int, batch_size: int = 8) -> float:
    """Bits that a model needs for a byte of text: comparable between tokenizers.

    Args:
        first: token in front of every text, which is not counted.
    """
    bits, size = 0.0, sum(len(text.encode()) for text in texts)
    for batch in _batches(bar(texts, desc="bits per byte"), batch_size):
        rows = [torch.tensor([first, *tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in batch]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=first).to(model.device)
        lengths = torch.tensor([len(row) for row in rows], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        counts = torch.arange(losses.shape[1], device=model.device) < lengths[:, None] - 1
        bits += (losses * counts).sum().item()
    return bits / torch.log(torch.tensor(2.0)).item() / max(1, size)
