"""Dataclasses whose fields document themselves, and values that are read as their type hints say, or refused by name."""

import dataclasses
import difflib
import types
import typing
from dataclasses import field
from typing import Any, Literal

import yaml


MAX_INTEGER = 2**63


class RecipeError(ValueError):
    """A recipe key or value is wrong; the message names the key, the value and what would be right."""


class _Loader(yaml.SafeLoader):
    """Plain values only: aliases can grow a small file without end, and a recipe has no use for tags."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(
                f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not read; repeat it"
            )
        if getattr(self.peek_event(), "tag", None) is not None:
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: tags (!name) are not read")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node):
        if abs(value := super().construct_yaml_int(node)) >= MAX_INTEGER:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an integer of more than 63 bits")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(text: str, where: str) -> Any:
    """One YAML document of plain values.

    Raises:
        RecipeError: no YAML, or with aliases, tags, or nested without end.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise RecipeError(f"{where} is not valid YAML: nested too deeply") from None
    # LookupError, AttributeError: PyYAML's own, from scalars like `=` or `1:` that look like a number and are none
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from None


def key(help: str, default: Any = dataclasses.MISSING, least: float | None = None, above: float | None = None) -> Any:
    """A recipe key with its documentation; mutable defaults are copied per instance.

    Args:
        least, above: numbers that the value, or every item of a list, must reach, or exceed.
    """
    metadata = {"help": help, "least": least, "above": above}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def shown(value: object) -> str:
    """`value` in a message: cut, and also where Python refuses to write it (an integer of thousands of digits)."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"an endless {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def did_you_mean(name: str, names: typing.Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def parse_as(hint: Any, value: Any, where: str) -> Any:
    """A value of a JSON file read strictly as a type hint, dataclasses included; no number may be written as text.

    Raises:
        RecipeError: naming the place below `where`.
    """
    parsed = _parse(hint, value, where)
    if (to_dict(parsed) if dataclasses.is_dataclass(parsed) else parsed) != value:
        raise RecipeError(f"{where}: {shown(value)} is not as it is written: a number is a text, or a key is missing")
    return parsed


def _parse(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse_section(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(
                f"{where}: {shown(value)} is not one of {', '.join(map(str, arguments))}{did_you_mean(shown(value), map(str, arguments))}"
            )
        return value
    if origin in (typing.Union, types.UnionType):
        return _parse_union(arguments, value, where)
    if origin is list:
        if not isinstance(value, list):
            raise RecipeError(f"{where}: expected a list, got {shown(value)}")
        return [_parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
        return {
            _parse(arguments[0], k, f"{where} key"): _parse(arguments[1], v, f"{where}.{k}") for k, v in value.items()
        }
    return _parse_scalar(hint, value, where)


def parse_section(section: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecipeError(f"{where or 'recipe'}: expected a mapping of keys, got {shown(value)}")
    prefix = f"{where}." if where else ""
    fields = {f.name: f for f in dataclasses.fields(section)}
    for name in value:
        if name not in fields:
            text = name[:200] if isinstance(name, str) else shown(name)
            raise RecipeError(f"unknown key '{prefix}{text}'{did_you_mean(text, fields)} (keys: {', '.join(fields)})")
    hints = typing.get_type_hints(section)
    parsed = {name: _parse(hints[name], item, prefix + name) for name, item in value.items()}
    for name, item in parsed.items():
        _check_number(item, fields[name].metadata, prefix + name)
    missing = [
        name
        for name, f in fields.items()
        if name not in parsed and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"missing key '{prefix}{missing[0]}'")
    return section(**parsed)


def _check_number(value: Any, metadata: typing.Mapping[str, Any], where: str) -> None:
    least, above = metadata.get("least"), metadata.get("above")
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            if least is not None and number < least:
                raise RecipeError(f"{where}: {number} is impossible; give {least} or more")
            if above is not None and number <= above:
                raise RecipeError(f"{where}: {number} is impossible; give more than {above}")


def _parse_union(options: tuple, value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = [option for option in options if option is not type(None)]
    for option in options:  # an exact type first, so that 1 stays an int where floats are allowed too
        if isinstance(option, type) and type(value) is option:
            return _parse(option, value, where)
    for option in options:
        try:
            return _parse(option, value, where)
        except RecipeError as error:
            last = error
    raise last


def _parse_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any or (hint is dict and isinstance(value, dict)):
        return value
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            value = float(value)
        except ValueError:
            raise RecipeError(f"{where}: expected a number, got {shown(value)}") from None
    if hint is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise RecipeError(f"{where}: too large for a number") from None
    if type(value) is int and abs(value) >= MAX_INTEGER:
        raise RecipeError(f"{where}: an integer of more than 63 bits")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise RecipeError(f"{where}: {shown(value)} is not Unicode text")
    if type(value) is not hint:
        raise RecipeError(f"{where}: expected {hint.__name__}, got {shown(value)}")
    if hint is float and value != value:
        raise RecipeError(f"{where}: not a number")
    return value


def to_dict(section: Any) -> Any:
    """A section as plain JSON values (for fingerprints and reports)."""
    return dataclasses.asdict(section)


def describe_keys(section: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """`(key, default, help)` of every key below `section`, for `hf-puzzle keys` and the docs."""
    rows = []
    hints = typing.get_type_hints(section)
    for f in dataclasses.fields(section):
        if dataclasses.is_dataclass(hints[f.name]):
            rows.extend(describe_keys(hints[f.name], f"{prefix}{f.name}."))
            continue
        if f.default is not dataclasses.MISSING:
            default = str(f.default)
        else:
            default = "required" if f.default_factory is dataclasses.MISSING else str(f.default_factory())
        rows.append((prefix + f.name, default, f.metadata["help"]))
        many = "[]" if typing.get_origin(hints[f.name]) is list else ""
        for inner in filter(dataclasses.is_dataclass, typing.get_args(hints[f.name])):
            rows.extend(describe_keys(inner, f"{prefix}{f.name}{many}."))
    return rows
