"""What a chat template writes is what the format reads, and what its grammar holds."""

import json

import pytest
from tool_templates import SPECIAL, TEMPLATES, with_template

from hf_puzzle.remote.calls_mrkl import MRKLError
from hf_puzzle.remote.masks_mrkl import CONTROL, Machine, Vocabulary
from hf_puzzle.remote.toolformats_mrkl import SMOLLM2, ToolFormat


SCHEMAS = {
    "weigh": {
        "type": "object",
        "properties": {
            "count": {"type": "integer"},
            "exact": {"type": "boolean"},
            "thing": {"type": "string"},
            "unit": {"type": "string", "enum": ["kg", "g"]},
        },
        "required": ["thing"],
    },
    "now": {"type": "object", "properties": {}},
}
CALLS = [
    ("weigh", {"count": 12, "exact": False, "thing": "a red stone", "unit": "kg"}),
    ("weigh", {"thing": "na\u00efve"}),
    ("weigh", {"count": -3, "thing": "it"}),
    ("now", {}),
]
RAW = ("functiongemma", "tags")  # texts without escapes


def written(tokenizer, calls, dump=dict):
    """What the template writes for the calls, from the opening on."""
    made = [
        {"id": "abcdefgh1", "type": "function", "function": {"name": name, "arguments": dump(arguments)}}
        for name, arguments in calls
    ]
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": made}]
    return tokenizer.apply_chat_template(chat, tokenize=False).split("<|assistant|>")[1].removesuffix("<|end|>")


def symbols(vocabulary, content):
    """Bytes, with control tokens as such."""
    for kind, value in vocabulary.nodes(content)[1]:
        yield from value if kind == "text" else [CONTROL + value]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "without"])
def test_a_template_says_how_calls_are_written(name):
    tokenizer = with_template(name)
    found = ToolFormat.of(tokenizer)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    machine = Machine(found.grammar(SCHEMAS, vocabulary, opened=False))
    dump = json.dumps if name == "text_arguments" else dict
    for call in [*CALLS, *[("weigh", {"thing": 'say "\\" twice'})] * (name not in RAW)]:
        if name == "text_arguments" and "na\u00efve" in call[1].values():
            continue
        said = written(tokenizer, [call], dump)
        state = machine.read(machine.start, symbols(vocabulary, said))
        assert state is not None, said
        assert machine.complete(state), said
        (got,) = found.parse(said, SCHEMAS)
        assert (got[0], {k: str(v) for k, v in got[1].items()}) == (call[0], {k: str(v) for k, v in call[1].items()})
        opened = Machine(found.grammar(SCHEMAS, vocabulary, opened=True))
        assert opened.complete(opened.read(opened.start, symbols(vocabulary, said.removeprefix(found.opening))))
    for wrong in ("weigh", "now"):
        said = written(tokenizer, [(wrong, {"unit": "kg"})], dump)
        state = machine.read(machine.start, symbols(vocabulary, said))
        assert state is None or not machine.complete(state)


@pytest.mark.parametrize("name", ["mistral", "pythonic"])
def test_lists_hold_several_calls(name):
    tokenizer = with_template(name)
    found, vocabulary = ToolFormat.of(tokenizer), Vocabulary(tokenizer, len(tokenizer))
    machine = Machine(found.grammar(SCHEMAS, vocabulary, opened=False))
    said = written(tokenizer, [CALLS[0], CALLS[3], CALLS[1]])
    assert machine.complete(machine.read(machine.start, symbols(vocabulary, said)))
    assert [call[0] for call in found.parse(said, SCHEMAS)] == ["weigh", "now", "weigh"]


def test_what_the_formats_are():
    formats = {name: ToolFormat.of(with_template(name)) for name in TEMPLATES}
    assert (formats["hermes"].opening, formats["hermes"].head) == ("<tool_call>", '\n{"name": "')
    assert {name for name, each in formats.items() if each.at_start} == {"llama"}
    assert {name for name, each in formats.items() if each.joint} == {"mistral", "pythonic", "without"}
    assert {name for name, each in formats.items() if each.sorts} == {"functiongemma"}
    assert formats["functiongemma"].quotes == ("<escape>", "<escape>")
    assert formats["pythonic"].words == ("True", "False", "None")
    assert {name for name, each in formats.items() if not each.escaped} == set(RAW)
    assert formats["without"] == SMOLLM2
    assert set(SPECIAL) <= set(formats)


def test_templates_that_say_nothing_are_named():
    tokenizer = with_template("hermes")
    tokenizer.chat_template = None
    with pytest.raises(MRKLError, match="no chat template"):
        ToolFormat.of(tokenizer)
    tokenizer.chat_template = TEMPLATES["hermes"].replace("message.tool_calls %}", "message.nothing %}")
    with pytest.raises(MRKLError, match="does not write calls"):
        ToolFormat.of(tokenizer)
    with pytest.raises(MRKLError, match="is no call"):
        SMOLLM2.parse('<tool_call>[{"name": "other"', SCHEMAS)


def test_the_default_for_templates_without_tools():
    said = '<tool_call>[{"name": "weigh", "arguments": {"thing": "it", "unit": "g"}}, {"name": "now", "arguments": {}}]</tool_call>'
    assert SMOLLM2.parse(said, SCHEMAS) == [("weigh", {"thing": "it", "unit": "g"}), ("now", {})]
    vocabulary = Vocabulary(with_template("without"), 500)
    machine = Machine(SMOLLM2.grammar(SCHEMAS, vocabulary, opened=False))
    assert machine.complete(machine.read(machine.start, said.encode()))
