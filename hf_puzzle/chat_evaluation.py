"""What a child keeps of its parent as a chat model: greedy answers to the same prompts, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from .data import rendered
from .evaluation import mean_and_error, ratio_and_error
from .progress import bar


LOOP = 3  # times that the end of an answer repeats what stands in front of it


@dataclass(frozen=True)
class Answers:
    """Greedy answers of one model.

    Attributes:
        tokens: of each answer, without the token that ended it.
        ended: whether it ended by itself.
    """

    tokens: list[list[int]]
    ended: list[bool]


def prompt_ids(chats: Sequence[list[dict]], tokenizer) -> list[list[int]]:
    """Token ids of each chat up to its first answer, as a server has them when it generates."""
    found = []
    for messages in chats:
        place = next((i for i, m in enumerate(messages) if m["role"] == "assistant"), len(messages))
        text = rendered(messages[:place], tokenizer, "messages", add_generation_prompt=True)
        found.append(list(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return found


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    ends: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    description: str = "answers",
) -> Answers:
    """Greedy answers; rows of a batch are padded on the left, prompts of like length share one."""
    tokens: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in bar(range(0, len(order), batch_size), desc=description):
        places = order[start : start + batch_size]
        length = max(len(prompts[i]) for i in places)
        rows = torch.tensor([[ends[0]] * (length - len(prompts[i])) + prompts[i] for i in places])
        mask = torch.tensor([[0] * (length - len(prompts[i])) + [1] * len(prompts[i]) for i in places])
        output = model.generate(
            rows.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=max_new_tokens, do_sample=False,
            num_beams=1, eos_token_id=list(ends), pad_token_id=ends[0],
        )  # fmt: skip
        for i, row in zip(places, output[:, length:].tolist(), strict=True):
            stop = next((k for k, token in enumerate(row) if token in ends), None)
            tokens[i], ended[i] = row[:stop], stop is not None
    return Answers(tokens, ended)


@torch.inference_mode()
def followed(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    answers: Answers,
    batch_size: int,
    description: str = "follow",
) -> torch.Tensor:
    """Share of each answer's tokens that are `model`'s first choice, given what stands in front of them; float64."""
    shares = []
    pairs = list(zip(prompts, answers.tokens, strict=True))
    for start in bar(range(0, len(pairs), batch_size), desc=description):
        part = pairs[start : start + batch_size]
        longest = max(len(prompt) + len(tokens) for prompt, tokens in part)
        rows = torch.tensor([[*p, *t] + [0] * (longest - len(p) - len(t)) for p, t in part])  # padded behind: causal
        most = max((len(t) for _, t in part), default=0)
        first = min(len(p) for p, _ in part)
        chosen = model(input_ids=rows.to(model.device), use_cache=False, logits_to_keep=longest - first + 1).logits
        chosen = chosen.argmax(-1).cpu()
        for (prompt, tokens), row in zip(part, chosen, strict=True):
            begin = len(prompt) - first
            said = torch.tensor(tokens[:most])
            same = row[begin : begin + len(tokens)] == said if tokens else torch.ones(1)
            shares.append(same.double().mean())
    return torch.stack(shares)


def loops(tokens: Sequence[int]) -> bool:
    """Whether an answer ends in the same piece `LOOP` times over, of one token or more."""
    return any(
        list(tokens[-size:]) * LOOP == list(tokens[-size * LOOP :])
        for size in range(1, len(tokens) // LOOP + 1)
        if size * LOOP >= 12  # a few dots in a row are no loop
    )


def compare_chats(
    parent: PreTrainedModel,
    child: PreTrainedModel,
    prompts: Sequence[list[int]],
    ends: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> dict:
    """Parent and child on the same prompts, with standard errors over them.

    Returns:
        `agreement`: share of the parent's answer that is the child's first choice, token by token; `same_start`: share of it
        before the first difference of the child's own answer; `identical` answers; of both `tokens` an answer, share
        that `ended` by itself, that `loops`, and is `empty`; `wordiness`: the child's tokens / the parent's.
    """
    own = answer(parent, prompts, ends, max_new_tokens, batch_size, "chats: parent")
    theirs = answer(child, prompts, ends, max_new_tokens, batch_size, "chats: child")
    found: dict = {"prompts": len(prompts), "max_new_tokens": max_new_tokens}

    def put(name: str, values) -> None:
        found[name], found[f"{name}_stderr"] = mean_and_error(torch.as_tensor(values, dtype=torch.float64))

    put("agreement", followed(child, prompts, own, batch_size, "chats: agreement"))
    common = [
        next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))
        for x, y in zip(own.tokens, theirs.tokens, strict=True)
    ]
    put("same_start", [c / max(1, len(x)) if x else float(not y) for c, x, y in zip(common, own.tokens, theirs.tokens, strict=True)])  # fmt: skip
    put("identical", [float(x == y) for x, y in zip(own.tokens, theirs.tokens, strict=True)])
    for name, answers in (("parent", own), ("child", theirs)):
        put(f"{name}_tokens", [float(len(t)) for t in answers.tokens])
        put(f"{name}_ended", [float(e) for e in answers.ended])
        put(f"{name}_loops", [float(loops(t)) for t in answers.tokens])
        put(f"{name}_empty", [float(not t) for t in answers.tokens])
    lengths = [torch.tensor([float(len(t)) for t in a.tokens], dtype=torch.float64) for a in (theirs, own)]
    if lengths[1].any():
        found["wordiness"], found["wordiness_stderr"] = ratio_and_error(*lengths)
    return found
