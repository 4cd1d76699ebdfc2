"""Grammars of the values that fit a JSON schema, for `masks_mrkl` (MRKL, arXiv 2205.00445)."""

import json
from collections.abc import Mapping

from .calls_mrkl import MRKLError
from .masks_mrkl import every, maybe, text


MAX_DIGITS = 40
DIGIT, LEADING = ("set", ((0x30, 0x39),)), ("set", ((0x31, 0x39),))
SPACE = maybe(text(" "))
JSON_STRING = every(
    text('"'),
    (
        "many",
        ("either", (("any", '"\\'), every(text("\\"), ("either", tuple(text(each) for each in '"\\/bfnrt'))))),
        0,
        None,
    ),
    text('"'),
)


def number(integer: bool, negative: bool = True) -> tuple:
    """A JSON number without exponent, of at most MAX_DIGITS digits before and behind its point."""
    whole = ("either", (text("0"), every(LEADING, ("many", DIGIT, 0, MAX_DIGITS - 1))))
    sign = [maybe(text("-"))] * negative
    return every(*sign, whole, *[maybe(every(text("."), ("many", DIGIT, 1, MAX_DIGITS)))] * (not integer))


def parts(properties: Mapping, required, first, between, pair, last: tuple, none: tuple) -> tuple:
    """Pairs in the schema's order, optional ones or not: `first` pair `between` pair `last`; `none` where there are none."""
    names = list(properties)

    def rest(at, begun):
        if at == len(names):
            return last if begun else none
        here = every(between if begun else first, pair(names[at], properties[names[at]]))
        if names[at] in required:
            return every(here, rest(at + 1, True))
        if begun:
            return every(maybe(here), rest(at + 1, True))
        return ("either", (every(here, rest(at + 1, True)), rest(at + 1, False)))

    return rest(0, False)


class Values:
    """How values are written: JSON, unless a format says otherwise.

    Args:
        string: The grammar of a text.
        dump: Value of an enum -> its grammar.
        words: The texts of true, false and null.
    """

    def __init__(self, string: tuple = JSON_STRING, dump=None, words=("true", "false", "null")):
        self.string, self.dump, self.words = string, dump or _dumped, words

    def node(self, schema: Mapping) -> tuple:
        """The grammar of values that fit `schema`.

        Raises: MRKLError for a schema that no text fits.
        """
        if "const" in schema:
            schema = {"enum": [schema["const"]]}
        if "enum" in schema:
            return ("either", tuple(map(self.dump, schema["enum"])))
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            return ("either", tuple(map(self.node, choices)))
        kinds = schema.get("type", "any")
        kinds = list(kinds) if isinstance(kinds, list | tuple) else [kinds]
        if "any" in kinds:
            kinds = ["string", "number", "boolean", "null"]
        if schema.get("nullable"):
            kinds.append("null")
        return ("either", tuple(self._of_kind(kind, schema) for kind in dict.fromkeys(kinds)))

    def _of_kind(self, kind, schema) -> tuple:
        if kind == "string":
            return self.string
        if kind in ("number", "integer"):
            return number(kind == "integer", not schema.get("minimum", -1) >= 0)
        if kind == "boolean":
            return ("either", tuple(map(text, self.words[:2])))
        if kind == "null":
            return text(self.words[2])
        if kind == "array":
            item = JSON.node(schema.get("items", {}))
            more = ("many", every(text(","), SPACE, item), 0, None)
            return every(text("["), maybe(every(item, more)), text("]"))
        if kind == "object":
            return JSON.object(schema)
        raise MRKLError(f"no text writes a value of type {kind!r}")

    def object(self, schema: Mapping) -> tuple:
        def pair(name, each):
            return every(_dumped(name), text(":"), SPACE, self.node(each))

        required = set(schema.get("required", ()))
        first, between, last = text("{"), every(text(","), SPACE), text("}")
        return parts(schema.get("properties", {}), required, first, between, pair, last, text("{}"))


def _dumped(value) -> tuple:
    return text(json.dumps(value, ensure_ascii=False))


JSON = Values()
