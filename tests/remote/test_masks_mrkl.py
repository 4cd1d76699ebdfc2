"""Every engine allows the same tokens, and these are the ones that go on."""

import importlib.util
import json
import random

import pytest
import torch
from pcw_models import TOKENIZERS, byte_level

from hf_puzzle.remote.calls_mrkl import MRKLError, check_schema
from hf_puzzle.remote.experts_mrkl import Calculator, Dates, Experts, Units
from hf_puzzle.remote.generation_mrkl import call_grammar
from hf_puzzle.remote.masks_mrkl import CONTROL, ENGINES, Machine, Masks, Vocabulary, every, maybe, text
from hf_puzzle.remote.schemas_mrkl import JSON


def weigh(item: str, unit: str = "kg") -> float:
    """
    Weight of an item.

    Args:
        item: What is weighed
        unit: Unit of the answer (choices: ["kg", "g"])
    """
    return 2.5


EXPERTS = Experts([Calculator(), Units(), Dates("2022-05-02"), weigh])
SCHEMAS = {name: expert.parameters for name, expert in EXPERTS.items()}
MACHINE = Machine(call_grammar(SCHEMAS, text("</call>")))
INSTALLED = [engine for engine in ENGINES if engine == "own" or importlib.util.find_spec(engine)]
NESTED = {
    "type": "object",
    "properties": {
        "rows": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "kind": {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["a", "b", "é\"'\\"]}]},
        "free": {},
        "least": {"type": "integer", "minimum": 0},
    },
    "required": ["rows"],
}


def reads(machine, written):
    state = machine.read(machine.start, written.encode())
    return state is not None and machine.complete(state)


@pytest.mark.parametrize(
    "written, valid",
    [
        ('calculator({"expression": "1+\\"2"})</call>', True),
        ('calculator({"expression":"1"})</call>', True),
        ("calculator({})</call>", False),
        ('calculator({"expression": 1})</call>', False),
        ('calculator({"expression": "a\nb"})</call>', False),
        ('weigh({"item": "x", "unit": "g"})</call>', True),
        ('weigh({"item": "x", "unit": "lb"})</call>', False),
        ('weigh({"unit": "g", "item": "x"})</call>', False),
        ('units({"value": -0.5, "from": "m", "to": "km"})</call>', True),
        ('units({"value": 01, "from": "m", "to": "km"})</call>', False),
        ('units({"value": 1., "from": "m", "to": "km"})</call>', False),
        ('dates({"op": "shift", "date": null, "days": 3})</call>', True),
        ('dates({"op": "shift", "days": 3.5})</call>', False),
        ('weigh({"item": "ein Gew\u00fcrz \u4e2d\U0001f600"})</call>', True),
        ('other({"x": 1})</call>', False),
        ('weigh({"item": "x"})</call> ', False),
    ],
)
def test_the_grammar_holds_what_json_and_schema_allow(written, valid):
    assert reads(MACHINE, written) == valid
    if valid:
        assert json.loads(written.partition("(")[2].removesuffix(")</call>")) is not None


def test_nested_schemas():
    check_schema(NESTED)
    machine = Machine(call_grammar({"f": NESTED}, text(">")))
    for written in (
        'f({"rows": []})>',
        'f({"rows": [{"n": 1}, {}], "kind": true})>',
        'f({"rows": [], "kind": "b", "free": null})>',
    ):
        assert reads(machine, written), written
    assert not reads(machine, 'f({"rows": [], "least": -1})>')
    assert machine.read(machine.start, b'f({"rows": [1') is None
    assert bytes(machine.ending(machine.start)) == b'f({"rows":[]})>'


def test_a_call_needs_an_expert_and_a_type_that_texts_write():
    with pytest.raises(MRKLError, match="at least one expert"):
        call_grammar({}, text("x"))
    with pytest.raises(MRKLError, match="no text writes"):
        JSON.node({"type": "date"})


@pytest.mark.parametrize(
    "begun", ["", "calc", 'units({"value": -', 'weigh({"item": "a\\', 'dates({"op": "w', 'weigh({"item": "\u4e2d']
)
def test_every_beginning_has_an_ending(begun):
    state = MACHINE.read(MACHINE.start, begun.encode())
    assert MACHINE.complete(MACHINE.read(state, MACHINE.ending(state)))


def test_bytes_that_are_no_text_do_not_go_on():
    state = MACHINE.read(MACHINE.start, b'weigh({"item": "')
    for wrong in (b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", b"\n"):
        assert MACHINE.read(state, wrong) is None
    assert MACHINE.free(state)
    assert MACHINE.read(state, "\u4e2d".encode()) == state


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "sentencepiece_legacy"])
def test_the_tree_allows_what_token_by_token_reading_allows(name):
    tokenizer = TOKENIZERS[name]()
    vocabulary = Vocabulary(tokenizer, len(tokenizer) + 3)
    for begun in ("", 'calculator({"expression": "', 'units({"value": 1', 'weigh({"item": "\u4e2d'):
        state = MACHINE.read(MACHINE.start, begun.encode())
        slow = [MACHINE.read(state, content) is not None if content else False for content in vocabulary.bytes]
        assert vocabulary.allowed(MACHINE, state).tolist() == slow
        assert any(slow)


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece"])
def test_the_bytes_of_tokens_are_the_text(name):
    tokenizer = TOKENIZERS[name]()
    content = Vocabulary(tokenizer, len(tokenizer)).bytes
    for written in ("a stone, 1.5 kg", "na\u00efve \u4e2d\n x"):
        ids = tokenizer(written, add_special_tokens=False)["input_ids"]
        assert b"".join(content[i] for i in ids).decode().lstrip(" ") == written


def with_control_tokens():
    import copy

    tokenizer = copy.deepcopy(byte_level())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<open>", "<close>"]})
    return tokenizer


GRAMMARS = {
    "calls": lambda vocabulary: call_grammar(SCHEMAS, vocabulary.nodes("</call>")),
    "nested": lambda vocabulary: call_grammar({"f": NESTED}, vocabulary.nodes("\n<close>")),
    "control": lambda vocabulary: every(
        vocabulary.nodes("say <open>"), ("many", ("any", "<"), 0, None), vocabulary.nodes("<close>"),
        maybe(text("!")), vocabulary.nodes("<open>;"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "engine", [engine for engine in INSTALLED if engine != "own"] or [pytest.param("", marks=pytest.mark.skip)]
)
@pytest.mark.parametrize("grammar", GRAMMARS)
def test_engines_allow_the_same_tokens(grammar, engine):
    vocabulary = Vocabulary(with_control_tokens(), len(with_control_tokens()))
    tree = GRAMMARS[grammar](vocabulary)
    ours, theirs = Masks(tree, vocabulary, "own"), Masks(tree, vocabulary, engine)
    assert theirs.engine == engine
    rng, ended = random.Random(1), 0
    for _ in range(12):
        one, two = ours.start(), theirs.start()
        for place in range(60):
            assert torch.equal(one.allowed(), two.allowed())
            ids = one.allowed().nonzero().flatten().tolist()
            # first at random, then on the way to an end
            if place > 25:
                first = one.machine.ending(one.state)[0]
                ids = [i for i in ids if vocabulary.symbols(i) == (first,)]
            token = rng.choice(ids)
            one.take(token)
            two.take(token)
            assert one.done == two.done
            if one.done:
                ended += 1
                break
    assert ended
    wrong = int((~one.allowed()).nonzero()[0])
    for each in (ours.start(), theirs.start()):
        with pytest.raises(MRKLError, match="not in the grammar"):
            each.take(wrong if not each.allowed()[wrong] else int((~each.allowed()).nonzero()[0]))


def test_control_tokens_go_on_only_where_the_grammar_names_them():
    tokenizer = with_control_tokens()
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    close = tokenizer.convert_tokens_to_ids("<close>")
    masks = Masks(GRAMMARS["nested"](vocabulary), vocabulary, "own")
    assert not masks.own(b'f({"rows":[],"kind":"').allowed()[close]
    assert masks.own(b'f({"rows":[]})\n').allowed().nonzero().flatten().tolist() == [close]
    assert masks.own([*b'f({"rows":[]})\n', CONTROL + close]).done
    assert masks.own(b"g(") is None


def test_an_engine_is_asked_for_by_name():
    vocabulary = Vocabulary(byte_level(), len(byte_level()))
    with pytest.raises(MRKLError, match="engine 'outlines' is none of auto, llguidance, own"):
        Masks(text("a"), vocabulary, "outlines")
    assert Masks(text("a"), vocabulary).engine == ("llguidance" if "llguidance" in INSTALLED else "own")
