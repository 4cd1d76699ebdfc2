"""Chats that the parent writes: text like its own training set, for parents whose training set nobody has.

The user's turns are given, or written by the parent too, from the place in its chat template where a user's turn begins
(Magpie, arXiv 2406.08464). Batches are finished one by one: a killed run goes on with the next.
"""

import glob
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from .. import artifacts, data
from ..corpora import DataError, prompts_of_self
from ..costs import Workload
from ..progress import bar
from ..recipe import ChatsConfig
from ..stages import Estimate
from .estimates import Pieces


logger = logging.getLogger(__name__)

PARTS = ".batches.jsonl"
PLACE = "A place for what the user says."
FEWEST = (
    0.1  # of a batch's chats that must be new, over the last `PATIENCE` batches: below, there is nothing more to say
)
PATIENCE = 10


class ChatsError(DataError):
    """The parent has no chat template, or does not write chats with it."""


def write_chats(
    path: Path,
    parent: PreTrainedModel,
    tokenizer,
    config: ChatsConfig,
    ends: list[int],
    seed: int = 0,
    prompts: Iterable[list[str] | None] | None = None,
) -> dict[str, int]:
    """`path`: a line `{"messages": [user, assistant]}` for each of at most `config.num_chats` chats.

    Finished batches are in a file beside `path` (`.batches.jsonl`), from which a killed call goes on.

    Args:
        ends: tokens that end the parent's generation.
        prompts: of each batch, as of `prompts_of_files`; by default, and where a batch has None, the parent writes the
            user's turns, too.

    Returns:
        How many were written, and how many were skipped as `empty`, `repeated`, `long` (a prompt), or `unfinished` (written
        prompts that did not end).

    Raises:
        ChatsError: no chat template, or one without a place for a user's turn; no usable prompt, or no usable answer.
    """
    writer = _Writer(parent, tokenizer, config, ends)
    parts = path.with_name(path.name + PARTS)
    batches = artifacts.read_jsonl(parts)
    seen = {chat["prompt"] for batch in batches for chat in batch["chats"]}
    skipped = Counter()
    for batch in batches:
        skipped.update(batch["skipped"])
    progress = bar(total=config.num_chats, initial=min(len(seen), config.num_chats), desc="chats")
    for index, asked in enumerate(itertools.repeat(None) if prompts is None else prompts):
        if index < len(batches):
            continue
        if len(seen) >= config.num_chats or _exhausted(batches, config):
            break
        with torch.random.fork_rng(devices=[parent.device] if parent.device.type == "cuda" else []):
            torch.manual_seed(1_000_003 * seed + index)
            chats, missed = writer.batch(asked, seen)
        batches.append({"chats": chats, "skipped": missed})
        artifacts.append_jsonl(parts, batches[-1])
        skipped.update(missed)
        seen |= {chat["prompt"] for chat in chats}
        progress.update(min(len(chats), progress.total - progress.n))
    progress.close()
    chats = [chat for batch in batches for chat in batch["chats"]][: config.num_chats]
    if not chats:
        raise ChatsError(f"the parent wrote no usable chat ({dict(skipped)} skipped): give prompts, or other text")
    if len(chats) < config.num_chats:
        logger.warning("chats: %d of %d; skipped: %s", len(chats), config.num_chats, dict(skipped))
    rows = [
        {"messages": [{"role": "user", "content": c["prompt"]}, {"role": "assistant", "content": c["answer"]}]}
        for c in chats
    ]
    artifacts.write_text(path, "".join(map(artifacts.json_line, rows)))
    return {"chats": len(chats), **skipped}


def prompts_of_files(files: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    """Batches of the prompts in some files (globs, none where there are none), one a line.

    Raises:
        ChatsError: no such file.
    """
    if not files:
        return iter(())
    found = sorted(name for pattern in files for name in glob.glob(pattern, recursive=True))
    if not found:
        raise ChatsError(f"data.prompts {list(files)} match no file")
    lines = [line.strip() for name in found for line in Path(name).read_text(encoding="utf-8").splitlines()]
    known = list(dict.fromkeys(filter(None, lines)))
    return batches_of(known, batch_size)


def batches_of(prompts: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    for start in range(0, len(prompts), batch_size):
        yield list(prompts[start : start + batch_size])


def _exhausted(batches: list[dict], config: ChatsConfig) -> bool:
    last = batches[-PATIENCE:]
    return len(last) == PATIENCE and sum(len(b["chats"]) for b in last) < FEWEST * PATIENCE * config.batch_size


class _Writer:
    def __init__(self, parent: PreTrainedModel, tokenizer, config: ChatsConfig, ends: list[int]):
        self.parent, self.tokenizer, self.config = parent, tokenizer, config
        if not getattr(tokenizer, "chat_template", None):
            raise ChatsError("chats: the parent's tokenizer has no chat template; name text in `data` instead")
        rendered = data.rendered([{"role": "user", "content": PLACE}], tokenizer, "chats")
        before, found, after = rendered.partition(PLACE)
        if not found:
            raise ChatsError("chats: the chat template has no place for what a user says: give another one")
        self.user_begins = self._ids(before)
        own = tokenizer.eos_token_id
        after = self._ids(after)[:1]
        special = set(tokenizer.all_special_ids)
        # what the template writes behind a user's turn ends one, too, if it is a token of its own
        self.ends = list(
            dict.fromkeys([*ends, *([own] if own is not None else []), *(t for t in after if t in special)])
        )
        if not self.ends:
            raise ChatsError("chats: nothing ends a generation of this parent: its tokenizer needs an eos token")
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else self.ends[0]
        self.room = getattr(parent.config, "max_position_embeddings", None) or 2**31

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def batch(self, prompts: list[str] | None, seen: set[str]) -> tuple[list[dict], dict[str, int]]:
        """New chats, and what was skipped, by reason."""
        skipped, config = Counter(), self.config
        if prompts is None:
            written = self._sample([self.user_begins] * config.batch_size, config.max_prompt_tokens)
            skipped["unfinished"] = sum(not done for _, done in written)
            prompts = [text for text, done in written if done]
        asked, fresh = {}, set(seen)
        for prompt in prompts:
            if not prompt:
                skipped["empty"] += 1
            elif prompt in fresh:
                skipped["repeated"] += 1
            else:
                fresh.add(prompt)
                turn = [{"role": "user", "content": prompt}]
                ids = self._ids(data.rendered(turn, self.tokenizer, "chats", add_generation_prompt=True))
                long = len(self._ids(prompt)) > config.max_prompt_tokens or len(ids) + 1 >= self.room
                if long:
                    skipped["long"] += 1
                else:
                    asked[prompt] = ids
        chats = []
        if asked:
            longest = max(map(len, asked.values()))
            answers = self._sample(list(asked.values()), min(config.max_new_tokens, self.room - longest))
            for prompt, (answer, _) in zip(asked, answers, strict=True):
                if answer:
                    chats.append({"prompt": prompt, "answer": answer})
                else:
                    skipped["empty"] += 1
        return chats, dict(+skipped)

    @torch.inference_mode()
    def _sample(self, rows: list[list[int]], max_new_tokens: int) -> list[tuple[str, bool]]:
        """What the parent goes on with, and whether it ended it."""
        length, device = max(map(len, rows)), self.parent.device
        padded = torch.tensor([[self.pad] * (length - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
        # min_p, not top_p: nothing sorts the vocabulary, which takes a third of a small model's step on a CPU
        output = self.parent.generate(
            padded, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=True, top_k=0, num_beams=1,
            temperature=self.config.temperature, min_p=self.config.min_p, eos_token_id=self.ends, pad_token_id=self.pad,
        )  # fmt: skip
        results = []
        for row in output[:, length:].tolist():
            stop = next((i for i, token in enumerate(row) if token in self.ends), None)
            results.append((self.tokenizer.decode(row[:stop], skip_special_tokens=True).strip(), stop is not None))
        return results


def estimate_chats(p: Pieces) -> Estimate:
    """Two generations a batch, prompts and answers, of which the cache is the largest."""
    config = p.recipe.chats
    batches = -(-config.num_chats // config.batch_size)
    answer = Workload(config.batch_size, config.max_prompt_tokens, config.max_new_tokens)
    prompt = Workload(config.batch_size, 32, config.max_prompt_tokens)
    each = sum(
        p.generation(p.own, w).total_ms / 1e3
        for w in ((answer,) if prompts_of_self(p.recipe.data) else (answer, prompt))
    )
    length = answer.prefill_tokens + answer.decode_tokens
    cache = float(config.batch_size * sum(p.shapes.kept_bytes(own.attention, length, p.dtype) for own in p.own))
    memory = p.held(cache=cache, activations=p.activations(config.batch_size * config.max_prompt_tokens, p.width))
    return Estimate(p.open() + batches * each, memory, "lower chats.batch_size", 8.0 * config.num_chats * config.max_new_tokens)  # fmt: skip
