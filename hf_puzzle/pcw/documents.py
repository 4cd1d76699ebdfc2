"""Key facts spread over documents, one in each window: which way of reading them finds the one that is asked for?

A document is a few texts with a sentence such as "The number of the lantern is 48213." among them; all documents tell of
different things, and the question is for one of them. Numbers are drawn anew for every item.
"""

import math
import random
from collections.abc import Iterator, Sequence

import torch

from ..key_retrieval import THINGS
from ..progress import bar
from ..remote.generation_pcw import encode_windows, generate
from ..remote.windows_pcw import Tokens
from .recipe import DocumentsConfig


# all documents in one prompt; the one that tells it, alone: what is lost by reading more
PLAIN = ("long_prompt", "right_document")
NEW_TOKENS = 8


def make_item(tokens: Tokens, texts: Sequence[str], config: DocumentsConfig, number: int, seed: int) -> dict:
    """Documents of about `document_tokens`, the question, its answer and the index of the document that tells it."""
    drawn = random.Random(f"{seed} {number}")
    things = drawn.sample(THINGS, config.num_windows)
    numbers = [drawn.randrange(10_000, 100_000) for _ in things]
    documents = []
    for thing, value in zip(things, numbers, strict=True):
        lines, left = [], config.document_tokens
        while left > 0:
            lines.append(drawn.choice(texts))
            left -= len(tokens.ids(lines[-1] + "\n"))
        lines.insert(drawn.randint(0, len(lines)), f"The number of the {thing} is {value}. Remember it.")
        documents.append("\n".join(lines) + "\n")
    right = drawn.randrange(config.num_windows)
    question = f"\nNow remember. The number of the {things[right]} is"
    return {"documents": documents, "question": question, "answer": str(numbers[right]), "right": right}


@torch.no_grad()
def ask(model, tokenizer, texts: Sequence[str], config: DocumentsConfig, seed: int) -> Iterator[dict]:
    """Per item and way a row: `item`, `way` (a mode, or one of `PLAIN`), `found` (the greedy answer begins with the number)."""
    tokens = Tokens(tokenizer)
    prefix = tokens.start()
    for number in bar(range(config.items), desc="documents"):
        item = make_item(tokens, texts, config, number, seed)
        windows = [tokens.ids(document) for document in item["documents"]]
        encoded = encode_windows(model, windows, prefix)
        ways = {mode: (encoded, mode) for mode in config.modes}
        whole = [tuple(token for window in windows for token in window)]
        ways["long_prompt"] = (encode_windows(model, whole, prefix), "pcw")
        ways["right_document"] = (encode_windows(model, [windows[item["right"]]], prefix), "pcw")
        asked = torch.tensor([tokens.ids(item["question"])], device=model.device)
        for way, (read, mode) in ways.items():
            output = generate(
                asked, model=model, encoded=read, mode=mode, max_new_tokens=NEW_TOKENS, do_sample=False,
                pad_token_id=model.generation_config.eos_token_id or 0,
            )  # fmt: skip
            said = tokenizer.decode(output[0, asked.shape[1] :], skip_special_tokens=True).strip()
            yield {"item": number, "way": way, "found": said.startswith(item["answer"]), "said": said}


def summarize(rows: Sequence[dict]) -> list[dict]:
    """Per way the share of items whose number was found, and its 95 % interval (normal)."""
    found = []
    for way in dict.fromkeys(row["way"] for row in rows):
        hits = [row["found"] for row in rows if row["way"] == way]
        share = sum(hits) / len(hits)
        error = 1.96 * math.sqrt(share * (1 - share) / len(hits))
        found.append({"way": way, "items": len(hits), "found": share, "half_interval": error})
    return found


def table(summary: Sequence[dict], config: DocumentsConfig) -> list[str]:
    """Lines of the report."""
    lines = [
        "",
        f"## {config.num_windows} documents, a fact in each: {summary[0]['items']} questions",
        "",
        "| read as | found |",
        "|---|---|",
    ]
    return lines + [f"| {r['way']} | {r['found']:.0%} +- {r['half_interval']:.0%} |" for r in summary]
