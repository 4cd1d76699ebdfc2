"""Whatever an untrained model prefers, what is decoded is a valid call."""

import json
import string

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_puzzle.remote.calls_mrkl import Expert
from hf_puzzle.remote.constrained_mrkl import (
    CallProcessor,
    Copy,
    TokenGrammar,
    call_grammar,
    matches,
    prefix_allowed_tokens,
    resolve,
    shortest,
    value_grammar,
    vocabulary,
)


SCHEMAS = {
    "clock": {
        "type": "object",
        "properties": {"day": {"type": "string"}, "shift": {"type": "integer"}, "zone": {"type": ["string", "null"]}},
        "required": ["day"],
    },
    "shelf": {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["new", "old"]},
            "limit": {"type": "number", "minimum": 0},
            "tags": {"type": "array", "items": {"type": "string"}},
            "deep": {"type": "boolean"},
        },
        "required": ["kind", "limit", "tags", "deep"],
    },
    "none_needed": {"type": "object", "properties": {}},
}
SLOTS = {"d0": "d", "n0": "n"}
SOURCE = 'Is "Mount Grey" on the old shelf'
VALUES = {"d0": "2021-03-05", "n0": "7"}
PIECES = ["", *string.printable, '{"name": "', '", "arguments": {', '": ', "}}", "<n0>", "Mount Grey", '"<d0>"']


@pytest.fixture(scope="module")
def grammar():
    return TokenGrammar(call_grammar(SCHEMAS, SLOTS, SOURCE), vocabulary(PIECES), eos=0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(PIECES), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def check(tokens):
    assert tokens[-1] == 0 or 0 in tokens
    call = json.loads("".join(PIECES[token] for token in tokens))
    assert set(call) == {"name", "arguments"}
    expert = type("Any", (Expert,), {"name": call["name"], "description": "", "parameters": SCHEMAS[call["name"]]})()
    expert.check(resolve(call, VALUES)["arguments"])
    return call


def test_untrained_model_writes_only_valid_calls(grammar, model):
    torch.manual_seed(1)
    prompt = torch.randint(1, len(PIECES), (60, 3))
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=400,
        do_sample=True,
        logits_processor=[CallProcessor(grammar, 3)],
        pad_token_id=0,
        eos_token_id=0,
    )
    calls = [check(row) for row in out[:, 3:].tolist()]
    assert {call["name"] for call in calls} == set(SCHEMAS)


def test_processor_and_prefix_function_allow_the_same(grammar):
    processor = CallProcessor(grammar, 1)
    allowed = prefix_allowed_tokens(grammar, 1)
    ids = [5]
    for _ in range(20):
        scores = processor(torch.tensor([ids]), torch.zeros(1, len(PIECES)))
        free = torch.isfinite(scores[0]).nonzero().flatten().tolist()
        assert sorted(allowed(0, torch.tensor(ids))) == free
        if 0 in free:
            break
        ids.append(free[-1])


@pytest.mark.parametrize(
    "text, valid",
    [
        ('{"name": "clock", "arguments": {"day": "<d0>"}}', True),
        ('{"name": "clock", "arguments": {"day": "<d0>", "shift": -3}}', True),
        ('{"name": "clock", "arguments": {"day": "<d0>", "shift": "<n0>", "zone": null}}', True),
        ('{"name": "none_needed", "arguments": {}}', True),
        ('{"name": "clock", "arguments": {"day": "tomorrow"}}', False),
        ('{"name": "clock", "arguments": {"day": "<n0>"}}', False),
        ('{"name": "clock", "arguments": {"shift": 1}}', False),
        ('{"name": "clock", "arguments": {"day": "<d0>", "shift": 1.5}}', False),
        ('{"name": "rm", "arguments": {}}', False),
        (
            '{"name": "shelf", "arguments": {"kind": "new", "limit": 0.5, "tags": ["Mount Grey" ], "deep": true}}',
            False,
        ),
        ('{"name": "shelf", "arguments": {"kind": "new", "limit": 0.5, "tags": ["the old"], "deep": true}}', True),
        ('{"name": "shelf", "arguments": {"kind": "new", "limit": -1, "tags": [], "deep": true}}', False),
        ('{"name": "shelf", "arguments": {"kind": "newer", "limit": 1, "tags": [], "deep": true}}', False),
    ],
)
def test_language(text, valid):
    assert matches(call_grammar(SCHEMAS, SLOTS, SOURCE), text) is valid


def test_copies_are_whole_words_and_stay_inside_their_string():
    grammar = Copy('say "go on" now')
    assert matches(grammar, json.dumps('say "go'))
    assert not matches(grammar, '"say "go"')
    assert not matches(grammar, '"sa"')
    assert not matches(grammar, '"now say"')
    assert not matches(Copy(""), '""')


def test_shortest_ends(grammar):
    tokens = shortest(grammar)
    assert tokens[-1] == 0
    check(tokens)
    with pytest.raises(ValueError, match="within the limit"):
        shortest(grammar, limit=2)


def test_what_leaves_the_grammar_raises(grammar):
    with pytest.raises(ValueError, match="not in the grammar"):
        grammar.follow([PIECES.index("x")])
    with pytest.raises(ValueError, match="at least one expert"):
        call_grammar({}, {}, "")
    with pytest.raises(ValueError, match="no grammar for type"):
        value_grammar({"type": "date"}, {}, "a")


def test_resolve():
    assert resolve({"a": "<n0>", "b": ["<d0>", "<x9>"], "c": 1}, VALUES) == {
        "a": "7",
        "b": ["2021-03-05", "<x9>"],
        "c": 1,
    }
