"""What a model finds again in a long text: numbers told somewhere in it, one of them asked for at its end."""

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from .anatomy import final_states, float_head_of, input_device
from .data import cut
from .evaluation import mean_and_error, ratio_and_error
from .progress import bar


TIMES = (1, 2, 4)  # the length of training
MOST = 8192  # tokens
TOLD = 3  # numbers in a text: the only one would be found by its form
THINGS = (
    "harbour", "lantern", "orchard", "violin", "compass", "garden", "castle", "bridge", "market", "kettle", "museum",
    "ladder", "tunnel", "window", "anchor", "forest",
)  # fmt: skip
WORKS = 0.5  # share that a parent must find for what its child finds to say anything


def _sentences(tokenizer, things: list[str], numbers: list[int]) -> tuple[list[list[int]], list[int], int]:
    """Token ids of what is told, and of the question for the first with its answer; tokens of that answer."""

    def encoded(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    told = [encoded(f"\nThe number of the {t} is {n}. Remember it.\n") for t, n in zip(things, numbers, strict=True)]
    question = f"\nNow remember. The number of the {things[0]} is"
    asked = encoded(f"{question} {numbers[0]}")
    return told, asked, len(asked) - len(encoded(question))


def check_length(tokenizer, length: int) -> None:
    """Raises ValueError for texts of which the numbers would be more than three quarters."""
    told, asked, _ = _sentences(tokenizer, sorted(THINGS, key=len)[-TOLD:], [10_000] * TOLD)
    needed = len(asked) + sum(map(len, told))
    if needed > 0.75 * length:
        raise ValueError(
            f"evaluate.keys: the numbers alone take {needed} of {length} tokens; raise data.sequence_length to "
            f"{math.ceil(needed / 0.75)}, or set it to 0"
        )


@dataclass(frozen=True)
class Keys:
    """Texts of one length.

    Attributes:
        rows: token ids, `(items, length)`, each ending in its answer.
        answers: number of tokens of each answer.
    """

    rows: torch.Tensor
    answers: tuple[int, ...]

    @classmethod
    def hidden_in(cls, tokens: torch.Tensor, tokenizer, num_items: int, length: int, seed: int) -> "Keys":
        """`num_items` pieces of a token stream with `TOLD` numbers at random places.

        Raises:
            ValueError: as of `check_length`; a stream that is no longer than one text.
        """
        if len(tokens) <= length:
            raise ValueError(
                f"{len(tokens)} held-out tokens are too few for texts of {length}: raise data.heldout_tokens"
            )
        check_length(tokenizer, length)
        generator = torch.Generator().manual_seed(seed)

        def below(limit: int) -> int:
            return int(torch.randint(0, limit, (1,), generator=generator))

        rows, answers = [], []
        for _ in range(num_items):
            things = [THINGS[i] for i in torch.randperm(len(THINGS), generator=generator)[:TOLD]]
            told, asked, answer = _sentences(tokenizer, things, [10_000 + below(90_000) for _ in things])
            left = length - len(asked) - sum(map(len, told))
            text = cut(tokens, below(len(tokens) - length), left)[0].tolist()
            places = sorted((1 + below(left - 1) for _ in told), reverse=True)
            for place, which in zip(places, torch.randperm(TOLD, generator=generator), strict=True):
                text[place:place] = told[which]
            rows.append(torch.tensor([*text, *asked]))
            answers.append(answer)
        return cls(torch.stack(rows), tuple(answers))

    @torch.no_grad()
    def found(self, model: PreTrainedModel, batch_size: int, description: str = "keys") -> torch.Tensor:
        """1.0 for each text whose answer is the model's first choice, token by token; float64."""
        head, device, hits = float_head_of(model), input_device(model), []
        for start in bar(range(0, len(self.rows), batch_size), desc=description):
            rows = self.rows[start : start + batch_size]
            most = max(self.answers[start : start + batch_size])
            chosen = head(final_states(model, rows.to(device))[:, -most - 1 : -1]).argmax(-1).cpu()
            same = chosen == rows[:, -most:]
            for row, count in zip(same, self.answers[start:], strict=False):
                hits.append(row[most - count :].all())
        return torch.stack(hits).double()


def lengths(sequence_length: int, positions: int | None) -> list[int]:
    """`TIMES` the length of training, as far as the parent has positions, and `MOST`."""
    limit = min(MOST, positions or MOST)
    return [times * sequence_length for times in TIMES if times * sequence_length <= limit]


def compare_keys(
    parent: PreTrainedModel,
    child: PreTrainedModel,
    tokens: torch.Tensor,
    tokenizer,
    num_items: int,
    sequence_length: int,
    batch_size: int,
    seed: int,
) -> list[dict]:
    """Parent and child on the same texts, a row for each of `lengths`.

    Args:
        batch_size: texts of `sequence_length` at once; of longer ones, as many as have that number of tokens.

    Returns:
        `length`, `items`, `parent` and `child` (shares found, with `_stderr`), `kept` (their ratio; None where the parent
        finds less than `WORKS`).
    """
    found = []
    for length in lengths(sequence_length, getattr(parent.config, "max_position_embeddings", None)):
        keys = Keys.hidden_in(tokens, tokenizer, num_items, length, seed)
        rows = max(1, batch_size * sequence_length // length)
        hits = {
            name: keys.found(model, rows, f"keys, {length} tokens: {name}")
            for name, model in (("parent", parent), ("child", child))
        }
        row = {"length": length, "items": num_items, "kept": None}
        for name, values in hits.items():
            row[name], row[f"{name}_stderr"] = mean_and_error(values)
        if row["parent"] >= WORKS:
            row["kept"], row["kept_stderr"] = ratio_and_error(hits["child"], hits["parent"])
        found.append(row)
    return found
