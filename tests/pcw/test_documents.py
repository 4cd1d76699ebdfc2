"""Facts in documents: each document tells of its own thing, and what is found is what greedy decoding begins with."""

import pytest
import torch
from pcw_models import byte_level, tiny_llama

from hf_puzzle.pcw import documents
from hf_puzzle.pcw.recipe import DocumentsConfig
from hf_puzzle.remote.modes_pcw import MODES
from hf_puzzle.remote.windows_pcw import Tokens


CONFIG = DocumentsConfig(items=2, num_windows=3, document_tokens=20)
TEXTS = ["a great film", "a waste of time", "my card was lost"]


def test_a_document_tells_one_number_and_the_question_is_for_one_of_them():
    tokens = Tokens(byte_level())
    items = [documents.make_item(tokens, TEXTS, CONFIG, n, 0) for n in range(8)]
    for item in items:
        thing = item["question"].split("number of the ")[1].removesuffix(" is")
        told = f"The number of the {thing} is {item['answer']}. Remember it."
        assert [told in each for each in item["documents"]] == [i == item["right"] for i in range(3)]
        assert all(each.count("The number of the") == 1 for each in item["documents"])
    assert len({item["answer"] for item in items}) == 8
    assert {item["right"] for item in items} == {0, 1, 2}
    assert (
        documents.make_item(tokens, TEXTS, CONFIG, 1, 0)
        == items[1]
        != documents.make_item(tokens, TEXTS, CONFIG, 1, 1)
    )


def test_ways_are_asked_the_same_and_counted(monkeypatch):
    model = tiny_llama(byte_level(), positions=1024)
    rows = list(documents.ask(model, byte_level(), TEXTS, CONFIG, 0))
    assert [row["way"] for row in rows] == [*MODES, *documents.PLAIN] * 2
    assert not any(row["found"] for row in rows)  # a model of random weights
    # the long prompt is what the plain model generates
    item = documents.make_item(Tokens(byte_level()), TEXTS, CONFIG, 0, 0)
    ids = torch.tensor([byte_level()("".join(item["documents"]))["input_ids"] + byte_level()(item["question"], add_special_tokens=False)["input_ids"]])  # fmt: skip
    output = model.generate(ids, max_new_tokens=documents.NEW_TOKENS, do_sample=False, pad_token_id=0)
    said = byte_level().decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert next(row["said"] for row in rows if row["way"] == "long_prompt") == said

    def right(ids, **kwargs):
        answer = byte_level()(f" {item['answer']}.", return_tensors="pt", add_special_tokens=False)["input_ids"]
        return torch.cat([ids, answer], 1)

    monkeypatch.setattr(documents, "generate", right)
    rows = list(documents.ask(model, byte_level(), TEXTS, DocumentsConfig(1, 3, 20), 0))
    assert all(row["found"] for row in rows)


def test_shares_have_intervals():
    rows = [{"way": "pcw", "found": n < 3} for n in range(4)] + [{"way": "long_prompt", "found": True}]
    few, one = documents.summarize(rows)
    assert (few["found"], one["found"], one["half_interval"]) == (0.75, 1.0, 0.0)
    assert few["half_interval"] == pytest.approx(1.96 * (0.75 * 0.25 / 4) ** 0.5)
    assert documents.table([few, one], CONFIG)[-1] == "| long_prompt | 100% +- 0% |"
