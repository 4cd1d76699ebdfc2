"""Hidden numbers: the texts themselves, a model that finds all of them, and one that finds none."""

import types

import pytest
import torch

from hf_puzzle import key_retrieval
from hf_puzzle.key_retrieval import Keys, compare_keys, lengths


class Characters:
    """A tokenizer of one token a character."""

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [ord(c) for c in text]}


STREAM = torch.full((4_000,), ord("."), dtype=torch.int32)


def hidden(length=400, items=6, seed=0):
    return Keys.hidden_in(STREAM, Characters(), items, length, seed)


def test_a_text_tells_three_numbers_and_ends_in_the_one_asked_for():
    keys = hidden()
    assert keys.rows.shape == (6, 400)
    assert keys.answers == (6,) * 6
    for row in keys.rows.tolist():
        text = "".join(map(chr, row))
        thing, number = text.rpartition("The number of the ")[2].split(" is ")
        assert text.count(f"The number of the {thing} is {number}") == 2
        assert text.count("Remember it.") == 3


def test_the_same_seed_hides_the_same_numbers():
    assert torch.equal(hidden().rows, hidden().rows)
    assert not torch.equal(hidden().rows, hidden(seed=1).rows)


def oracle(monkeypatch, rows, wrong=()):
    """A model whose first choice is the next token of `rows`, but in the rows of `wrong` at the last place."""

    def states(model, ids):
        following = ids.roll(-1, 1)
        for i, row in enumerate(ids):
            index = next(k for k, known in enumerate(rows) if torch.equal(known, row))
            if index in wrong:
                following[i, -2] += 1
        return torch.nn.functional.one_hot(following, 128).float()

    monkeypatch.setattr(key_retrieval, "final_states", states)
    monkeypatch.setattr(key_retrieval, "float_head_of", lambda model: lambda states: states)
    monkeypatch.setattr(key_retrieval, "input_device", lambda model: torch.device("cpu"))


def test_an_answer_counts_when_all_of_its_tokens_are_right(monkeypatch):
    keys = hidden()
    oracle(monkeypatch, keys.rows, wrong=(1, 4))
    assert keys.found(None, 4).tolist() == [1, 0, 1, 1, 0, 1]


def test_lengths_end_where_the_positions_do():
    assert lengths(256, 8192) == [256, 512, 1024]
    assert lengths(256, 700) == [256, 512]
    assert lengths(4096, None) == [4096, 8192]


def test_texts_that_are_all_numbers_are_refused():
    with pytest.raises(ValueError, match="data.sequence_length"):
        hidden(length=250)
    with pytest.raises(ValueError, match="data.heldout_tokens"):
        Keys.hidden_in(STREAM[:300], Characters(), 2, 400, 0)


def test_what_a_parent_does_not_find_is_no_measure_of_its_child(monkeypatch):
    known = {}

    def found(self, model, batch_size, description=""):
        known[description] = batch_size
        return torch.tensor([1.0, 1.0, 1.0, 0.0] if model.good else [0.0, 0.0, 1.0, 0.0], dtype=torch.float64)

    monkeypatch.setattr(Keys, "found", found)
    config = types.SimpleNamespace(max_position_embeddings=1000)
    good, bad = (types.SimpleNamespace(good=g, config=config) for g in (True, False))
    (first, second) = compare_keys(good, bad, STREAM, Characters(), 4, 400, 8, 0)
    assert (first["length"], second["length"]) == (400, 800)
    assert (first["parent"], first["child"], first["kept"]) == (0.75, 0.25, pytest.approx(1 / 3))
    assert compare_keys(bad, good, STREAM, Characters(), 4, 400, 8, 0)[0]["kept"] is None
    assert sorted(set(known.values())) == [4, 8]
