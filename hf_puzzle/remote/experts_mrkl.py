"""Experts of MRKL (Karpas et al. 2022, arXiv 2205.00445): the registry, and the experts that a user brings.

The exact experts are in `exact_mrkl`, `dates_mrkl`, `sources_mrkl` and `wiki_mrkl` and are offered here too. A user's
expert is a function, a raw schema with a callable, a smolagents Tool or a tool of an MCP server; its description is
pinned by hash when it is registered, and one that changed later is not called.
"""

import asyncio
import contextlib
import copy
import inspect
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from .calls_mrkl import (
    MAX_TEXT_CHARACTERS,
    ArgumentsError,
    Expert,
    MRKLError,
    NumberError,
    Result,
    answered,
    check_name,
    check_schema,
    exact_text,
    failed,
    nearest,
    need,
    number_text,
    parse_number,
    run_with_deadline,
    short,
)
from .dates_mrkl import Dates, parse_date
from .exact_mrkl import Calculator, Currency, Units
from .sources_mrkl import Database, OpenMeteo, Weather
from .wiki_mrkl import Wiki


__all__ = [
    "ArgumentsError",
    "Calculator",
    "ChangedExpertError",
    "Currency",
    "Database",
    "Dates",
    "Expert",
    "Experts",
    "FunctionExpert",
    "MRKLError",
    "NumberError",
    "OpenMeteo",
    "Result",
    "Units",
    "Weather",
    "Wiki",
    "as_smolagents_tool",
    "exact_text",
    "expert_from",
    "experts_from_mcp",
    "number_text",
    "parse_date",
    "parse_number",
    "run_with_deadline",
]

MAX_DESCRIPTION_CHARACTERS = 4000


class ChangedExpertError(MRKLError):
    """An expert's name, description or schema is not the one that was registered."""


# -- the experts of a user


class FunctionExpert(Expert):
    """A callable behind a JSON schema. What it raises is an "error" result, what it returns is data.

    Numbers reach the callable as int where they are whole and as float otherwise; it may return a `Result`, anything
    that JSON writes, or None for "no_data". It is marked as not exact: nobody has shown that it is.

    Args:
        limits: For documentation; a deadline is the caller's, see `run_with_deadline`.
    """

    exact = False

    def __init__(self, function: Callable, name: str, description: str, parameters: Mapping, limits=None):
        if inspect.iscoroutinefunction(function):
            raise MRKLError(f"expert {name!r} is an async function; wrap it in one that runs it")
        self.name, self.function, self.limits = check_name(name), function, dict(limits or {})
        if not isinstance(description, str) or not description.strip():
            raise MRKLError(f"expert {name!r} needs a description; the router reads it")
        if len(description) > MAX_DESCRIPTION_CHARACTERS:
            raise MRKLError(f"expert {name!r}: a description of more than {MAX_DESCRIPTION_CHARACTERS} characters")
        check_schema(parameters)
        self.description = description.strip()
        self.parameters = json.loads(json.dumps({"type": "object", "properties": {}, **parameters}))

    def run(self, arguments):
        found = self.function(**{name: _plain(value) for name, value in arguments.items()})
        if isinstance(found, Result):
            return found
        if found is None:
            return failed("no_data", f"{self.name} has no such entry")
        if isinstance(found, int | float | Fraction | Decimal) and not isinstance(found, bool):
            try:
                return answered(parse_number(found), exact=False)
            except NumberError:
                return failed("error", f"{self.name} returned {short(found)}, which is no finite number")
        return answered(found, exact=False)


def _plain(value):
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def expert_from(obj, name: str | None = None) -> Expert:
    """Makes an Expert of what a user has.

    Args:
        obj: An Expert; a function with type hints and a Google docstring; (schema, callable) where the schema is a
            tool entry {"type": "function", "function": {...}} or its inner part; a smolagents Tool.
        name: Another name than its own.
    Raises:
        MRKLError: It is none of these, or its schema or name is not valid; the message says what is missing.
    """
    if isinstance(obj, Expert):
        if name is None or name == obj.name:
            check_name(obj.name)
            check_schema(obj.parameters)
            return obj
        other = copy.copy(obj)
        other.name = check_name(name)
        return other
    if isinstance(obj, tuple | list) and len(obj) == 2 and isinstance(obj[0], Mapping) and callable(obj[1]):
        entry = obj[0].get("function", obj[0])
        entry = entry if isinstance(entry, Mapping) else {}
        return FunctionExpert(obj[1], name or entry.get("name"), entry.get("description"), entry.get("parameters", {}))
    if all(hasattr(obj, each) for each in ("name", "description", "inputs", "forward")):
        properties = {key: _without_any(schema) for key, schema in obj.inputs.items()}
        required = [key for key, schema in obj.inputs.items() if not schema.get("nullable")]
        schema = {"type": "object", "properties": properties, "required": required}
        return FunctionExpert(obj, name or obj.name, obj.description, schema)
    if callable(obj):
        from transformers.utils import get_json_schema

        try:
            entry = get_json_schema(obj)["function"]
        except Exception as error:
            raise MRKLError(f"no schema can be read from {short(obj)}: {error}") from error
        return FunctionExpert(obj, name or entry["name"], entry["description"], entry["parameters"])
    raise MRKLError(
        f"{short(obj)} is no expert: give an Expert, a function with type hints and a Google docstring, "
        "(schema, callable) or a smolagents Tool"
    )


def _without_any(schema):
    return {key: value for key, value in schema.items() if (key, value) != ("type", "any")}


def as_smolagents_tool(expert: Expert):
    """`expert` as a smolagents Tool; without smolagents, an object with the same attributes.

    The tool returns the short answer as text, or the message where there is none, headed by the status.
    """
    inputs = {}
    for key, schema in expert.parameters.get("properties", {}).items():
        inputs[key] = {"type": schema.get("type", "any"), "description": schema.get("description", key)}
        if schema.get("nullable") or key not in expert.parameters.get("required", []):
            inputs[key]["nullable"] = True

    def forward(self, **arguments):
        result = expert(**arguments)
        return result.text if result.status == "ok" else f"{result.status}: {result.message}"

    body = {
        "name": re.sub(r"\W", "_", expert.name),
        "description": expert.description,
        "inputs": inputs,
        "output_type": "string",
        "skip_forward_signature_validation": True,
        "forward": forward,
    }
    try:
        base = need("smolagents").Tool
    except ImportError:
        return type("Tool", (), {**body, "__call__": forward})()
    return type("ExpertTool", (base,), body)()


def experts_from_mcp(server, names: Iterable[str] | None = None, seconds: float = 30.0) -> list[Expert]:
    """The tools of an MCP server as experts; the connection stays open until the process ends. Needs the extra `mcp`.

    Args:
        server: What `mcp.Client` takes: a URL, StdioServerParameters, a Transport or a server in this process.
        names: Only these tools; None for all.
        seconds: Limit for connecting, listing and each call.
    Raises:
        ImportError: mcp is not installed.
        MRKLError: A name is not offered, or a tool's name, description or schema is not valid.
    """
    connection = _Connection(need("mcp").Client(server), seconds)
    tools = {tool.name: tool for tool in connection.tools()}
    for name in names or ():
        if name not in tools:
            raise MRKLError(f"the MCP server offers no tool {name!r}{nearest(name, tools)}")
    chosen = [tools[name] for name in names] if names is not None else tools.values()
    return [FunctionExpert(connection.caller(t.name), t.name, t.description, t.input_schema) for t in chosen]


class _Connection:
    """One MCP session on an event loop in a daemon thread, called from any thread."""

    def __init__(self, client, seconds):
        self.client, self.seconds = client, seconds
        self.loop, self.ready, self.problem = asyncio.new_event_loop(), threading.Event(), None
        threading.Thread(
            target=self.loop.run_until_complete, args=(self.serve(),), name="mrkl-mcp", daemon=True
        ).start()
        if not self.ready.wait(seconds):
            raise MRKLError(f"the MCP server did not answer within {seconds:g} s")
        if self.problem:
            raise MRKLError(f"the MCP server cannot be reached: {self.problem}") from self.problem

    async def serve(self):
        try:
            async with self.client:
                self.ready.set()
                await asyncio.Event().wait()
        except Exception as error:  # told to the thread that waits for the connection
            self.problem = error
            self.ready.set()

    def call(self, coroutine):
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(self.seconds)
        except TimeoutError:
            future.cancel()
            raise

    def tools(self):
        found, cursor = [], None
        while True:
            page = self.call(self.client.list_tools(cursor=cursor))
            found += page.tools
            cursor = page.next_cursor
            if not cursor:
                return found

    def caller(self, name):
        def call(**arguments):
            answer = self.call(self.client.call_tool(name, arguments))
            text = "\n".join(part.text for part in answer.content if getattr(part, "text", None) is not None)
            if answer.is_error:
                return failed("error", f"{name}: {text[:300]}")
            return _of_tool(name, text[:MAX_TEXT_CHARACTERS])

        return call


def _of_tool(name, text) -> Result:
    """What a tool wrote: a number also where JSON put it in quotes, as it does a Decimal; nothing is no_data."""
    said = text.strip()
    if said in ("", "null", "None"):
        return failed("no_data", f"{name} has no such entry")
    if len(said) > 1 and said[0] == said[-1] == '"':
        with contextlib.suppress(ValueError):
            said = json.loads(said)
    with contextlib.suppress(NumberError):
        return answered(parse_number(said), said, exact=False)
    return answered(said if isinstance(said, str) else text, exact=False)


# -- the registry


class Budget:
    """Calls of one answer: an equal one is answered from the first, and behind `most` further ones are refused.

    Args:
        seconds: Deadline of one call.
    """

    def __init__(self, experts: "Experts", most: int, seconds: float):
        self.experts, self.most, self.seconds = experts, most, seconds
        self._memo: dict[tuple, Result] = {}

    def call(self, name: str, arguments: Mapping, made: int) -> Result:
        """`made`: calls that this answer has already."""
        key = (name, json.dumps(arguments, sort_keys=True))
        if key not in self._memo and made >= self.most:
            return failed("refused", f"the budget of {self.most} calls is used up")
        if key not in self._memo:
            self._memo[key] = self.experts.call(name, arguments, self.seconds)
        return self._memo[key]


class Experts(dict):
    """Experts by name, each pinned by the hash of its name, description and schema when it is registered.

    Args:
        experts: Anything `expert_from` takes, in a list, or by name in a mapping.
    """

    def __init__(self, experts: Iterable | Mapping = ()):
        super().__init__()
        self.pins: dict[str, str] = {}
        items = experts.items() if isinstance(experts, Mapping) else ((None, each) for each in experts)
        for name, each in items:
            self.add(each, name)

    @classmethod
    def from_fixtures(cls, directory, today) -> "Experts":
        """The experts that a folder of files allows: calculator and dates always, the others where their file is.

        Args:
            directory: Holds any of rates.json, units.json, weather.json, wiki.jsonl, shop.sqlite.
            today: ISO reference date; the machine's clock is not read.
        """
        folder = Path(directory)
        if not folder.is_dir():
            raise MRKLError(f"{str(folder)!r} is not a folder of fixtures")
        made = [Calculator(), Dates(today)]
        for file, make in (
            ("rates.json", lambda path: Currency(path, today)),
            ("units.json", Units),
            ("weather.json", lambda path: Weather(path, today)),
            ("wiki.jsonl", Wiki),
            ("shop.sqlite", lambda path: Database(path, today=today)),
        ):
            if (folder / file).is_file():
                made.append(make(folder / file))
        return cls(made)

    def add(self, obj, name: str | None = None) -> Expert:
        """Registers `obj`; MRKLError if the name is taken or it is no expert."""
        expert = expert_from(obj, name)
        if expert.name in self:
            raise MRKLError(f"an expert named {expert.name!r} is registered already; give this one another name")
        super().__setitem__(expert.name, expert)
        self.pins[expert.name] = expert.hash
        return expert

    def __setitem__(self, name, obj):
        self.add(obj, name)

    def __delitem__(self, name):
        super().__delitem__(name)
        del self.pins[name]

    def verify(self, name: str | None = None) -> None:
        """Whether each expert (or the one named) is still what was registered; ChangedExpertError if not."""
        for each in [name] if name else self:
            if self[each].hash != self.pins[each]:
                what = "its name, description or schema since it was registered; register it again"
                raise ChangedExpertError(f"expert {each!r} changed {what}")

    def call(self, name: str, arguments: Mapping, seconds: float | None = None) -> Result:
        """One call by name; an unknown name, a changed description and an overrun are results, not exceptions."""
        if name not in self:
            return failed("error", f"there is no expert {short(name)}{nearest(name, self)}")
        try:
            self.verify(name)
        except ChangedExpertError as error:
            return failed("refused", str(error))
        if seconds is not None:
            return run_with_deadline(self[name], arguments, seconds)
        return self[name](**arguments)

    @property
    def schemas(self) -> list[dict]:
        """The tool entries of all experts, as `apply_chat_template(tools=...)` takes them."""
        return [expert.schema for expert in self.values()]
