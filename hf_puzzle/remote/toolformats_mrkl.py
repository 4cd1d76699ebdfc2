"""How a model writes calls of tools, read off its chat template (MRKL, arXiv 2205.00445).

The template is given a made-up conversation with a call in it; what it writes says what stands before a name, between
names and values, around texts, and behind a call: JSON in tags (Hermes, Qwen, Granite), bare JSON (Llama 3), lists
(Mistral, SmolLM2), tags of their own (Qwen-Coder, GLM), calls as in Python or as in FunctionGemma. Where a template
leaves tools out, they are described in a system message and written as SmolLM2's card has it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .calls_mrkl import MRKLError
from .masks_mrkl import Vocabulary, every, text
from .schemas_mrkl import JSON_STRING, Values, parts


NAME, OTHER, IDENTITY = "probe_tool", "probe_too2", "abcXYZ987"
WORD, COUNT = 'q"k \u00e9', 731
PROBE = {"a_word": WORD, "b_count": COUNT, "c_flag": True}
TAG = re.compile(r"\s*(<[^<>\s]{1,40}>|\[[A-Z_]{2,40}\]|<[|\uff5c][^<>]{1,40}?[|\uff5c]>)")
SYSTEM = """You can call functions. They are:
<tools>{tools}</tools>

To call them, write a list of the form
<tool_call>[{{"name": "a function's name", "arguments": {{"an argument's name": "its value"}}}}]</tool_call>
What they return follows; then answer the question. If no function fits, answer without a call."""


@dataclass(frozen=True)
class ToolFormat:
    """What a template writes around names and values.

    Attributes:
        opening: What opens a call; `at_start`: only at the beginning of a message.
        head: Between the opening and the first name.
        first, empty: Behind a name: up to the first argument's name, and all that follows where there are none.
        key: Between an argument's name and its value. between: Before further arguments' names.
        last: Behind the last value. joint: From the last value to the next call's name; None: one call an opening.
        quotes: What stands before and after a text; `escaped`: with JSON's escapes in it.
        words: How true, false and null are written.
        sorts: Whether arguments are sorted by name. system: Whether the template leaves tools out.
    """

    opening: str
    head: str
    first: str
    key: str
    between: str
    last: str
    empty: str
    joint: str | None = None
    quotes: tuple = ('"', '"')
    escaped: bool = True
    words: tuple = ("true", "false", "null")
    at_start: bool = False
    sorts: bool = False
    system: bool = False

    @classmethod
    def of(cls, tokenizer) -> "ToolFormat":
        """The format of a tokenizer's chat template.

        Raises: MRKLError where it has none, or writes calls in a way that cannot be read off.
        """
        if not tokenizer.chat_template:
            raise MRKLError("this tokenizer has no chat template: set tokenizer.chat_template, which says how to call")
        chat = [{"role": "user", "content": "Hello"}]
        prompt = _rendered(tokenizer, chat, generation=True)
        if prompt is None or NAME not in prompt:
            return SMOLLM2
        one = _after(tokenizer, prompt, [_call(NAME, PROBE)])
        if one is None or NAME not in one:
            raise MRKLError("the chat template describes tools but does not write calls: its format is not known")
        return _read(tokenizer, prompt, one)

    # -- the grammar

    def values(self, mark) -> Values:
        """How values are written; `mark`: a text as a grammar."""
        if self.quotes == ('"', '"') and self.escaped:
            return Values(JSON_STRING, words=self.words)
        opened, closed = self.quotes
        stop = (closed or self.between).lstrip()[:1] + (self.last.lstrip()[:1] if not closed else "")
        character = ("any", stop + "\\" * self.escaped)
        if self.escaped:
            character = ("either", (character, every(text("\\"), ("either", (text("\\"), text(closed))))))
        string = every(mark(opened), ("many", character, 0, None), mark(closed))
        return Values(string, lambda value: mark(self._dumped(value)), self.words)

    def _dumped(self, value) -> str:
        if isinstance(value, str):
            inner = json.dumps(value, ensure_ascii=False)[1:-1] if self.escaped else value
            return self.quotes[0] + inner + self.quotes[1]
        if value is None or isinstance(value, bool):
            return self.words[2 if value is None else 0 if value else 1]
        return json.dumps(value, ensure_ascii=False)

    def grammar(self, schemas: Mapping[str, Mapping], vocabulary: Vocabulary, opened: bool) -> tuple:
        """Calls of tools with these schemas; `opened`: without what opens them."""
        if not schemas:
            raise MRKLError("a call needs at least one expert")
        values = self.values(vocabulary.nodes)
        letter = ("set", ((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)))

        def glue(written):
            first, *others = (vocabulary.nodes(part) for part in written.split(IDENTITY))
            return every(first, *(node for each in others for node in (("many", letter, 9, 9), each)))

        def called(name, schema, tail):
            required = set(schema.get("required", ()))

            def pair(key, each):
                return every(text(key), glue(self.key), values.node(each))

            ends = glue(tail), glue(self._bare(tail))
            properties = self._ordered(schema.get("properties", {}))
            return every(text(name), parts(properties, required, glue(self.first), glue(self.between), pair, *ends))

        def calls(tail):
            return ("either", tuple(called(name, schema, tail) for name, schema in schemas.items()))

        start = glue(self.head if opened else self.opening + self.head)
        if self.joint is None:
            return every(start, calls(self.last))
        return every(start, ("many", calls(self.joint), 0, 3), calls(self.last))

    def _bare(self, tail) -> str:
        """What follows the name of a call without arguments."""
        return self.empty.removesuffix(self.last) + tail if self.empty.endswith(self.last) else self.empty

    def _ordered(self, properties):
        return dict(sorted(properties.items())) if self.sorts else properties

    # -- reading

    def parse(self, written: str, schemas: Mapping[str, Mapping]) -> list[tuple[str, dict]]:
        """(name, arguments) of the calls in a text of the grammar, which may begin with the opening.

        Raises: MRKLError for other texts.
        """
        at = len(self.opening) if written.startswith(self.opening) else 0
        at += len(self.head)
        found = []
        while at < len(written):
            names = [name for name in schemas if written.startswith(name, at)]
            if not names:
                raise MRKLError(f"{written[at : at + 40]!r} is no call")
            name = max(names, key=len)
            arguments, at, more = self._arguments(written, at + len(name), schemas[name])
            found.append((name, arguments))
            if not more:
                break
        return found

    def _arguments(self, written, at, schema):
        """(arguments, place behind them, whether another call follows)."""
        found: dict = {}
        tails = [(tail, more) for tail, more in ((self.joint, True), (self.last, False)) if tail is not None]
        for tail, more in tails:
            if m := _glue(self._bare(tail)).match(written, at):
                return found, m.end(), more
        properties = self._ordered(schema.get("properties", {}))
        for key, each in properties.items():
            lead = _glue((self.between if found else self.first) + key + self.key)
            if m := lead.match(written, at):
                found[key], at = self._value(written, m.end(), each)
        for tail, more in tails:
            if m := _glue(tail).match(written, at):
                return found, m.end(), more
        raise MRKLError(f"{written[at : at + 40]!r} ends no call")

    def _value(self, written, at, schema):
        opened, closed = self.quotes
        for word, value in zip(self.words, (True, False, None), strict=True):
            if written.startswith(word, at) and (opened or not _takes_text(schema)):
                return value, at + len(word)
        if opened and written.startswith(opened, at):
            end = at + len(opened)
            while not written.startswith(closed, end):
                end += 2 if self.escaped and written[end] == "\\" else 1
            inner = written[at + len(opened) : end]
            if self.escaped:
                inner = json.loads(f'"{inner}"') if closed == '"' else re.sub(r"\\(.)", r"\1", inner)
            return inner, end + len(closed)
        if not opened:
            stops = [m.start() for tail in (self.between, self.last) for m in [_glue(tail).search(written, at)] if m]
            end = min(stops)
            return written[at:end], end
        return json.JSONDecoder(parse_float=str).raw_decode(written, at)


def _takes_text(schema) -> bool:
    kinds = schema.get("type", "string")
    return "string" in ([kinds] if isinstance(kinds, str) else kinds)


def _glue(written) -> re.Pattern:
    return re.compile("[0-9A-Za-z]{9}".join(map(re.escape, written.split(IDENTITY))))


SMOLLM2 = ToolFormat(
    opening="<tool_call>", head='[{"name": "', first='", "arguments": {"', key='": ', between=', "',
    last="}}]</tool_call>", empty='", "arguments": {}}]</tool_call>', joint='}}, {"name": "', system=True,
)  # fmt: skip


# -- what a template writes


def _schema(name) -> dict:
    kinds = zip(PROBE, ("string", "integer", "boolean"), strict=True)
    properties = {key: {"type": kind, "description": "."} for key, kind in kinds}
    parameters = {"type": "object", "properties": properties, "required": list(PROBE)}
    return {"type": "function", "function": {"name": name, "description": ".", "parameters": parameters}}


def _call(name, arguments) -> dict:
    return {"id": IDENTITY, "type": "function", "function": {"name": name, "arguments": arguments}}


def _rendered(tokenizer, chat, generation=False) -> str | None:
    """The chat as the template writes it; None where it refuses."""
    try:
        return tokenizer.apply_chat_template(
            chat, tools=[_schema(NAME), _schema(OTHER)], tokenize=False, add_generation_prompt=generation
        )
    except Exception:  # templates raise what they like
        return None


def _after(tokenizer, prompt, calls) -> str | None:
    """What the template writes behind the prompt for an assistant's calls, without the end of the message."""
    user = {"role": "user", "content": "Hello"}
    for dump in (dict, lambda arguments: json.dumps(arguments, ensure_ascii=False)):
        made = [{**c, "function": {**c["function"], "arguments": dump(c["function"]["arguments"])}} for c in calls]
        for content in ("", None):
            message = {"role": "assistant", "content": content, "tool_calls": made}
            whole = _rendered(tokenizer, [user, message])
            if whole is None or calls[0]["function"]["name"] not in whole.removeprefix(prompt):
                continue
            said = _rendered(tokenizer, [user, {"role": "assistant", "content": "Zq"}])
            end = said.rpartition("Zq")[2] if said and "Zq" in said else ""
            end = os.path.commonprefix([end[::-1], whole[::-1]])[::-1]
            start = len(os.path.commonprefix([prompt, whole]))
            return whole[start : len(whole) - len(end)]
    return None


def _read(tokenizer, prompt, one) -> ToolFormat:
    head, _, rest = one.partition(NAME)
    first, _, rest = rest.partition("a_word")
    spellings = {json.dumps(WORD, ensure_ascii=False)[1:-1]: True, json.dumps(WORD)[1:-1]: True, WORD: False}
    spelling = next((each for each in spellings if each in rest), "\0")
    lead, _, rest = rest.partition(spelling)
    tail, _, rest = rest.partition("b_count")
    key, _, rest = rest.partition(str(COUNT))
    between, _, rest = rest.partition("c_flag")
    flag = "true" if key + "true" in rest else "True"
    last = rest.partition(key + flag)[2]
    if not last or not lead.startswith(key) or not tail.endswith(between):
        raise MRKLError(f"the chat template writes calls as {one[:80]!r}: this format cannot be read off")
    quotes = lead[len(key) :], tail[: len(tail) - len(between)]
    bare = _after(tokenizer, prompt, [_call(NAME, {})])
    empty = bare.partition(NAME)[2] if bare and NAME in bare else first + last
    tag = TAG.match(head)
    opening, head = (tag[0], head[tag.end() :]) if tag else (head.lstrip()[:1], head.lstrip()[1:])
    if not opening:
        raise MRKLError("the chat template writes calls without anything that opens them")
    found = ToolFormat(
        opening.lstrip(), head, first, key, between, last, empty, None, quotes, spellings[spelling],
        ("true", "false", "null") if flag == "true" else ("True", "False", "None"), at_start=not tag,
    )  # fmt: skip
    back = _after(tokenizer, prompt, [_call(NAME, dict(reversed(PROBE.items())))])
    sorts = bool(back) and back.find("a_word") < back.find("b_count")
    return replace(found, joint=_joint(tokenizer, prompt, found), sorts=sorts)


def _joint(tokenizer, prompt, found) -> str | None:
    """What stands between two calls where one opening holds both."""
    two = _after(tokenizer, prompt, [_call(NAME, PROBE), _call(OTHER, PROBE)])
    if not two or OTHER not in two:
        return None
    flag = found.key + found.words[0]
    before = two.partition(OTHER)[0]
    joint = before.rpartition(flag)[2]
    return None if found.opening in joint or found.last.strip() and found.last.strip() in joint else joint
