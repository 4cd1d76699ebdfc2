"""Greedy answers side by side: a model against itself, against another, and token by token by hand."""

import pytest
import torch

from hf_puzzle.chat_evaluation import Answers, answer, compare_chats, followed, loops, prompt_ids
from hf_puzzle.data import train_tokenizer
from hf_puzzle.recipe import DataConfig


ENDS, NEW = [5, 9], 12


@pytest.fixture(scope="module")
def pair(make_parent):
    torch.manual_seed(1)
    other = make_parent("llama", num_hidden_layers=2)
    return make_parent("llama"), other


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(10, 60, (size,), generator=generator).tolist() for size in (3, 9, 4, 9, 17, 2, 5)]


def alone(model, prompt):
    """Greedy by hand: one prompt, no cache, no padding."""
    ids = list(prompt)
    for _ in range(NEW):
        with torch.no_grad():
            token = model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()
        if token in ENDS:
            return ids[len(prompt) :], True
        ids.append(token)
    return ids[len(prompt) :], False


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_answers_are_those_of_each_prompt_alone(pair, prompts, batch_size):
    found = answer(pair[0], prompts, ENDS, NEW, batch_size)
    assert list(zip(found.tokens, found.ended, strict=True)) == [alone(pair[0], p) for p in prompts]


def test_a_model_keeps_all_of_itself(pair, prompts):
    found = compare_chats(pair[0], pair[0], prompts, ENDS, NEW, 3)
    assert found["agreement"] == found["same_start"] == found["identical"] == found["wordiness"] == 1
    assert found["agreement_stderr"] == 0
    assert found["parent_tokens"] == found["child_tokens"]
    assert found["prompts"] == len(prompts)


def test_agreement_is_the_share_of_first_choices(pair, prompts):
    own, other = pair
    answers = answer(own, prompts, ENDS, NEW, 4)
    shares = followed(other, prompts, answers, 3)
    for prompt, tokens, share in zip(prompts, answers.tokens, shares.tolist(), strict=True):
        with torch.no_grad():
            first = other(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()
        same = [a == b for a, b in zip(first, tokens, strict=True)]
        assert share == pytest.approx(sum(same) / len(same) if same else 1.0)
    assert shares.mean() < 1
    assert followed(other, prompts[:2], Answers([[], [3]], [True, False]), 2)[0] == 1


def test_two_models_are_told_apart(pair, prompts):
    found = compare_chats(*pair, prompts, ENDS, NEW, 4)
    answers = [answer(model, prompts, ENDS, NEW, 4).tokens for model in pair]
    assert found["identical"] == sum(a == b for a, b in zip(*answers, strict=True)) / len(prompts)
    assert found["wordiness"] == pytest.approx(sum(map(len, answers[1])) / sum(map(len, answers[0])))
    assert found["same_start"] <= 1


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False), ([1, 2, 3], False), ([7, 7, 7], False), ([1] + [7] * 12, True), ([9, *[1, 2, 3, 4] * 3], True),
        ([1, 2, 3, 4] * 2, False), ([*[1, 2, 3, 4] * 3, 5], False), (list(range(30)), False),
    ],
)  # fmt: skip
def test_loops_are_repetitions_at_the_end(tokens, expected):
    assert loops(tokens) is expected


def test_prompts_end_where_the_assistant_begins():
    tokenizer = train_tokenizer(DataConfig(name="python-stdlib", heldout_fraction=0.5), 300, num_documents=5)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '.' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    turns = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    chat = [*turns, {"role": "assistant", "content": "no"}, {"role": "user", "content": "why"}]
    texts = [tokenizer.decode(ids) for ids in prompt_ids([chat, turns], tokenizer)]
    assert texts == ["system:be.user:hi.assistant:"] * 2
