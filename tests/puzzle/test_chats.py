"""Chats of a tiny parent: counted, different, resumable; what cannot chat is refused by name."""

import dataclasses
import json
from collections import Counter

import pytest
import torch

from hf_puzzle import artifacts
from hf_puzzle.data import train_tokenizer
from hf_puzzle.puzzle import chats
from hf_puzzle.puzzle.chats import ChatsError, prompts_of_files, write_chats
from hf_puzzle.recipe import ChatsConfig, DataConfig


TEMPLATE = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + ' ' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant ' }}{% endif %}"
)
CONFIG = ChatsConfig(num_chats=6, batch_size=4, max_prompt_tokens=24, max_new_tokens=8)


@pytest.fixture(scope="module")
def tokenizer():
    data = DataConfig(name="python-stdlib", heldout_fraction=0.5)
    made = train_tokenizer(data, 300, num_documents=5)
    made.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def parent(make_parent, tokenizer):
    return make_parent("llama", vocab_size=len(tokenizer))


@pytest.fixture
def ends(tokenizer):
    return [tokenizer.convert_tokens_to_ids("<|end|>")]


@pytest.fixture
def asked(tmp_path):
    """A file of prompts with two that come again, an empty one, and one that is too long."""
    lines = [f"what is {i}?" for i in range(9)]
    text = "\n".join([*lines[:3], lines[0], "", "and " * 60, *lines[3:], lines[1]])
    (tmp_path / "prompts.txt").write_text(text)
    return [str(tmp_path / "*.txt")]


def rows_of(path):
    return [json.loads(line)["messages"] for line in path.read_text().splitlines()]


def test_every_prompt_is_answered_once_and_the_rest_is_counted(parent, tokenizer, ends, asked, tmp_path):
    config = dataclasses.replace(CONFIG, num_chats=50)
    found = write_chats(tmp_path / "chats.jsonl", parent, tokenizer, config, ends, prompts=prompts_of_files(asked, 4))
    rows = rows_of(tmp_path / "chats.jsonl")
    assert found["chats"] == len(rows)
    assert found["long"] == 1
    assert found["chats"] + found.get("empty", 0) == 9
    assert [[m["role"] for m in row] for row in rows] == [["user", "assistant"]] * len(rows)
    assert all(m["content"].strip() for row in rows for m in row)
    prompts = [row[0]["content"] for row in rows]
    assert len(set(prompts)) == len(prompts)
    assert not any("<|" in m["content"] for row in rows for m in row)


def test_the_parent_writes_both_turns(parent, tokenizer, ends, tmp_path):
    config = dataclasses.replace(CONFIG, max_prompt_tokens=400, num_chats=3)
    found = write_chats(tmp_path / "chats.jsonl", parent, tokenizer, config, ends)
    rows = rows_of(tmp_path / "chats.jsonl")
    assert found["chats"] == len(rows) == 3
    assert len({row[0]["content"] for row in rows}) == 3
    written = artifacts.read_jsonl(tmp_path / "chats.jsonl.batches.jsonl")
    counts = sum((Counter(batch["skipped"]) for batch in written), Counter())
    tried = config.batch_size * len(written)
    assert sum(len(batch["chats"]) for batch in written) + sum(counts.values()) == tried


def test_a_killed_call_goes_on_and_writes_the_same(parent, tokenizer, ends, asked, tmp_path, monkeypatch):
    config = CONFIG
    whole, path = tmp_path / "whole.jsonl", tmp_path / "chats.jsonl"
    write_chats(whole, parent, tokenizer, config, ends, 3, prompts_of_files(asked, 4))
    batch, calls = chats._Writer.batch, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return batch(self, *arguments)

    monkeypatch.setattr(chats._Writer, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        write_chats(path, parent, tokenizer, config, ends, 3, prompts_of_files(asked, 4))
    monkeypatch.setattr(chats._Writer, "batch", batch)
    torch.manual_seed(17)  # of the caller: it neither matters nor moves
    before = torch.get_rng_state()
    write_chats(path, parent, tokenizer, config, ends, 3, prompts_of_files(asked, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert path.read_text() == whole.read_text()
    other = tmp_path / "other.jsonl"
    write_chats(other, parent, tokenizer, config, ends, 4, prompts_of_files(asked, 4))
    assert other.read_text() != whole.read_text()


def test_a_parent_with_nothing_more_to_say_is_not_asked_forever(
    parent, tokenizer, ends, tmp_path, monkeypatch, caplog
):
    said = [[("the same", True)] * 4, [("answer", True)]]
    monkeypatch.setattr(chats._Writer, "_sample", lambda self, rows, most: said[0] if len(rows) == 4 else said[1])
    found = write_chats(tmp_path / "chats.jsonl", parent, tokenizer, CONFIG, ends)
    assert found == {"chats": 1, "repeated": 3 + 4 * (chats.PATIENCE - 1)}
    assert "1 of 6" in caplog.text


def test_no_usable_answer_is_an_error(parent, tokenizer, ends, tmp_path, monkeypatch):
    monkeypatch.setattr(chats._Writer, "_sample", lambda self, rows, most: [("", True)] * len(rows))
    with pytest.raises(ChatsError, match="no usable chat"):
        write_chats(tmp_path / "chats.jsonl", parent, tokenizer, CONFIG, ends)


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "no chat template"), ("{{ 'fixed' }}", "no place"), ("{% if x %}", "template refuses")],
)
def test_a_tokenizer_that_cannot_chat_is_refused(parent, tokenizer, ends, tmp_path, template, message):
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    with pytest.raises(Exception, match=message):
        write_chats(tmp_path / "chats.jsonl", parent, other, CONFIG, ends)


def test_prompts_of_nowhere_are_refused(tmp_path):
    with pytest.raises(ChatsError, match="match no file"):
        prompts_of_files([str(tmp_path / "no.txt")], 4)
