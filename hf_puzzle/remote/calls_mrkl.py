"""A call of MRKL (Karpas et al. 2022, arXiv 2205.00445): typed arguments in, a `Result` out, never an exception.

An `Expert` has a name, a description and a JSON schema of its arguments, the one that chat templates use. Numbers are
exact Fractions read from their source text and written back as text; a float never decides a digit. A call that cannot
be answered exactly says so in `Result.status`. Nothing in this file reads a clock, a network or a model.
"""

import contextlib
import datetime
import difflib
import hashlib
import importlib
import json
import math
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any


# the calculator's bound: 1233 decimal digits
MAX_BITS = 4096
MAX_DECIMALS = 30
# a number with more characters than 4096 bits can need, sign and point included, is refused before it is read
MAX_NUMBER_CHARACTERS = 2600
MAX_TEXT_CHARACTERS = 20_000
# calls of one expert that overran their deadline and still run; further ones are answered at once
MAX_ABANDONED = 4
RESERVED_NAMES = {"none", "many", "lm"}
MINUS_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-"})
NUMBER = re.compile(
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*|(?=\.[0-9]))"
    r"(?P<decimals>\.[0-9]*)?(?:[eE](?P<exponent>[+-]?[0-9]{1,4}))?"
)
JSON_TYPES = {"string", "number", "integer", "boolean", "array", "object", "null", "any"}


class MRKLError(ValueError):
    """A schema, an argument or a registration is wrong; the message names the value and what is allowed."""


class ArgumentsError(MRKLError):
    """The arguments of a call do not fit its schema."""


class NumberError(ArgumentsError):
    """A text is not one plain number, or the number is beyond `MAX_BITS`."""


# -- results


@dataclass(frozen=True)
class Result:
    """Answer of one call.

    status: "ok", "error" (a wrong argument, a division by zero, a limit), "no_data" (no such entry), "refused" (the
        input asked for something the expert must not do).
    value: int, Fraction, str, date, a list of rows, or None.
    text: the short answer; the last number in it is the answer's number. Integers and finite decimals are exact, other
        fractions have 12 significant digits.
    data: where the answer comes from (date of the data, page id, unit, decisions taken).
    message: why there is no answer, and what is known instead.
    """

    status: str
    value: Any = None
    text: str = ""
    data: dict = field(default_factory=dict)
    message: str = ""

    @property
    def exact(self) -> str:
        """The value as text that loses nothing (`p/q` where no finite decimal exists); what a trace records."""
        return exact_text(self.value) if self.status == "ok" else self.status


def answered(value, text=None, **data) -> Result:
    """An "ok" result; integral Fractions become int, and `text` defaults to the value in words a person reads."""
    if isinstance(value, Fraction) and value.denominator == 1:
        value = int(value)
    return Result("ok", value, short_text(value) if text is None else text, data)


def failed(status, message, **data) -> Result:
    return Result(status, None, "", data, message)


# -- numbers


def literal(match) -> Fraction:
    """The Fraction that a match of `NUMBER` writes.

    Raises:
        NumberError: More than `MAX_BITS` bits.
    """
    digits = match["digits"].replace(",", "").replace("_", "")
    decimals = (match["decimals"] or ".")[1:]
    exponent = int(match["exponent"] or 0)
    if max(len(digits), len(decimals)) + abs(exponent) > MAX_BITS:
        raise NumberError(f"a number of more than {MAX_BITS} bits")
    value = Fraction(int((digits + decimals) or 0), 10 ** len(decimals)) * Fraction(10) ** exponent
    return bounded(value)


def bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NumberError(f"a result of more than {MAX_BITS} bits")
    return value


def parse_number(value) -> Fraction:
    """One number, exactly: int, Fraction, Decimal, "1,234.5", "-7", "3/4", "1e3".

    A float is read as the shortest decimal that prints like it (0.1 is 1/10).

    Raises:
        NumberError: Not one plain finite number, or more than `MAX_BITS` bits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction | Decimal | str):
        raise NumberError(f"{short(value)} is not a number")
    if isinstance(value, int | Fraction):
        return bounded(Fraction(value))
    text = (repr(value) if isinstance(value, float) else str(value)).strip().translate(MINUS_SIGNS)
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise NumberError(f"a number of more than {MAX_NUMBER_CHARACTERS} characters")
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    upper, slash, lower = text.partition("/")
    parts = [NUMBER.fullmatch(part.strip()) for part in ([upper, lower] if slash else [upper])]
    if None in parts:
        raise NumberError(f"{short(value)} is not one plain number, such as 1234.5, -7 or 3/4")
    numbers = [literal(part) for part in parts]
    if slash and not numbers[1]:
        raise NumberError(f"{short(value)} divides by zero")
    return bounded(sign * numbers[0] / (numbers[1] if slash else 1))


def decimals_of(value: Fraction) -> int | None:
    """How many decimals write `value` exactly; None where none do, or more than `MAX_DECIMALS`."""
    rest, powers = value.denominator, []
    for prime in (2, 5):
        power = 0
        while rest % prime == 0 and power <= MAX_DECIMALS:
            rest //= prime
            power += 1
        powers.append(power)
    return max(powers) if rest == 1 and max(powers) <= MAX_DECIMALS else None


def number_text(value, digits=12) -> str:
    """`value` for a person: integers and short finite decimals exactly, others with `digits` significant digits."""
    value = Fraction(value)
    if value.denominator == 1:
        return str(value.numerator)
    decimals = decimals_of(value)
    if decimals is not None:
        scaled = str(abs(value.numerator) * 10**decimals // value.denominator).rjust(decimals + 1, "0")
        return f"{'-' * (value < 0)}{scaled[:-decimals]}.{scaled[-decimals:]}"
    whole = len(str(abs(value.numerator) // value.denominator))
    rounded = Context(prec=max(digits, whole + 6)).divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{rounded:f}" if abs(value) >= Fraction(1, 10**6) else f"{rounded:E}"


def exact_text(value) -> str:
    """`value` as text that can be read back without loss."""
    if isinstance(value, Fraction) and value.denominator != 1 and decimals_of(value) is None:
        return f"{value.numerator}/{value.denominator}"
    return short_text(value)


def short_text(value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Fraction):
        return number_text(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, list | tuple) and all(isinstance(row, list | tuple) for row in value):
        return "; ".join(", ".join(short_text(cell) for cell in row) for row in value)
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=short_text, ensure_ascii=False)
    return str(value)


def short(value, characters=60) -> str:
    """`value` as it appears in a message: quoted and cut."""
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge integer"
    return text if len(text) <= characters else text[: characters - 3] + "..."


def nearest(name, known: Iterable[str], count=3) -> str:
    """'; known: ...' with the names closest to `name`, or with how many there are when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name)[:100].casefold(), [each.casefold() for each in known], count, 0.6)
    names = [each for each in known if each.casefold() in close] or known
    listed = ", ".join(each[:60] for each in names[:count])
    return f"; nearest known: {listed}" if close else f"; {len(known)} known, such as {listed}" if known else ""


def need(module: str):
    """The optional package `module`, loaded on first use.

    Raises:
        ImportError: It is not installed; the message says what brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = {"mcp": "mcp", "llguidance": "masks"}.get(module, "mrkl")
        raise ImportError(f'{module} is needed for this: pip install "hf_puzzle[{extra}]"') from error


# -- files of strangers

MAX_JSON_BYTES = 64 * 2**20


def read_json(path, parse_float=None) -> Any:
    """A JSON file of whoever saved a pipeline.

    Raises:
        MRKLError: no JSON, larger than `MAX_JSON_BYTES`, nested without end, or an integer of thousands of digits.
        OSError: It cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file")
    with open(path, "rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise MRKLError(f"{path} has more than {MAX_JSON_BYTES // 2**20} MiB")
    return parse_json(content, path, parse_float)


def parse_json(text: str | bytes, where, parse_float=None) -> Any:
    """JSON of a stranger; MRKLError that names `where` for what is none, or nested without end."""
    try:
        value = json.loads(text, parse_float=parse_float)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:
            # half a surrogate pair is no text: no tokenizer and no file takes it
            json.dumps(value, ensure_ascii=False, default=str).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise MRKLError(f"{where} is not valid JSON: {str(error)[:200]}") from None


@contextlib.contextmanager
def reading(where):
    """One MRKLError that names `where` when the block stumbles over a value of another form than it expects."""
    try:
        yield
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise MRKLError(f"{where} is not of the expected form ({type(error).__name__}: {str(error)[:200]})") from error


def read_lines(path) -> list:
    """The rows of a JSONL file; MRKLError as of `read_json`, with the line."""
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_JSON_BYTES), b""), start=1):
            if line.strip():
                rows.append(parse_json(line, f"{path}, line {number}"))
    return rows


def plain_path(name) -> bool:
    """Whether `name` is a relative path of printable characters that stays below where it starts."""
    parts = name.split("/") if isinstance(name, str) else [""]
    return not {"", ".", ".."} & set(parts) and "\\" not in name and name.isprintable() and len(parts) <= 32


# -- schemas


def check_schema(parameters: Mapping) -> None:
    """Whether `parameters` is a JSON schema of arguments that calls can be checked and decoded against.

    Raises:
        MRKLError: It is not; the message names the place.
    """
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise MRKLError(f"parameters must be a JSON schema of type 'object', not {short(parameters)}")
    properties = parameters.get("properties", {})
    if not isinstance(properties, Mapping):
        raise MRKLError(f"'properties' must be an object, not {short(properties)}")
    with reading("the JSON schema"):
        for name, schema in properties.items():
            _check_type(name, schema, 0)
    required = parameters.get("required", [])
    if not isinstance(required, list | tuple) or not all(name in list(properties) for name in required):
        raise MRKLError(f"'required' must list names of 'properties' ({', '.join(properties)}), not {short(required)}")


def _check_type(name, schema, depth):
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", name):
        raise MRKLError(f"argument {short(name)} needs a name of letters, digits, _ and -")
    if not isinstance(schema, Mapping) or depth > 8:
        raise MRKLError(f"argument {name!r}: a schema must be an object nested at most 8 deep, not {short(schema)}")
    kinds = _kinds(schema)
    if not kinds or not all(isinstance(kind, str) for kind in kinds) or not set(kinds) <= JSON_TYPES:
        raise MRKLError(
            f"argument {name!r}: type {short(schema.get('type'))} is none of {', '.join(sorted(JSON_TYPES))}"
        )
    for key in ("minimum", "maximum"):
        if not isinstance(schema.get(key, 0), int | float | Fraction | Decimal):
            raise MRKLError(f"argument {name!r}: {key!r} must be a number, not {short(schema[key])}")
    if "enum" in schema and (not isinstance(schema["enum"], list | tuple) or not schema["enum"]):
        raise MRKLError(f"argument {name!r}: 'enum' must be a list with at least one value")
    if "items" in schema:
        _check_type(name, schema["items"], depth + 1)
    for inner, each in schema.get("properties", {}).items():
        _check_type(inner, each, depth + 1)
    for key in ("anyOf", "oneOf"):
        for each in schema.get(key, []):
            _check_type(name, each, depth + 1)


def _kinds(schema):
    kinds = schema.get("type", "any")
    return [kinds] if not isinstance(kinds, list | tuple) else list(kinds)


def coerce(name, value, schema):
    """`value` as the schema's type: numbers as Fraction or int, read from text where they come as text.

    Raises:
        ArgumentsError: It cannot be; the message names the argument, the value and what is allowed.
    """
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        for each in choices:
            try:
                return coerce(name, value, each)
            except ArgumentsError:
                continue
        raise ArgumentsError(f"argument {name!r}: {short(value)} fits none of the allowed types")
    kinds = _kinds(schema)
    if value is None:
        if schema.get("nullable") or {"null", "any"} & set(kinds):
            return None
        raise ArgumentsError(f"argument {name!r} must not be null")
    for kind in kinds:
        try:
            found = _as_kind(name, value, kind, schema)
            break
        except ArgumentsError as error:
            problem = error
    else:
        raise problem
    if "enum" in schema and found not in schema["enum"]:
        allowed = ", ".join(map(str, schema["enum"]))
        raise ArgumentsError(f"argument {name!r}: {short(value)} is none of {allowed}")
    return found


def _as_kind(name, value, kind, schema):
    if kind == "any":
        return value
    if kind == "string" and isinstance(value, str | int | float | Fraction | Decimal | datetime.date):
        return value if isinstance(value, str) else short_text(value) if isinstance(value, bool) else exact_text(value)
    if kind in ("number", "integer"):
        try:
            number = parse_number(value)
        except NumberError as error:
            raise ArgumentsError(f"argument {name!r}: {error}") from error
        if not schema.get("minimum", -math.inf) <= number <= schema.get("maximum", math.inf):
            low, high = schema.get("minimum", "any"), schema.get("maximum", "any")
            raise ArgumentsError(f"argument {name!r}: {short(value)} is outside {low}..{high}")
        if kind == "number":
            return number
        if number.denominator == 1:
            return int(number)
    if kind == "boolean" and value in (True, False, "true", "false"):
        return value in (True, "true")
    if kind == "array" and isinstance(value, list | tuple):
        return [coerce(f"{name}[{i}]", each, schema.get("items", {})) for i, each in enumerate(value)]
    if kind == "object" and isinstance(value, Mapping):
        inner = schema.get("properties", {})
        return {key: coerce(f"{name}.{key}", each, inner.get(key, {})) for key, each in value.items()}
    raise ArgumentsError(f"argument {name!r}: {short(value)} is not of type {kind}")


# -- experts


class Expert:
    """One thing that answers one kind of question from typed arguments (MRKL, arXiv 2205.00445).

    Subclasses set the attributes and write `run`; callers use the call, which never raises for a bad argument.
    Attributes:
        name, description: what a router reads.
        parameters: JSON schema of the arguments, as `transformers.utils.get_json_schema` writes it.
        exact: whether an "ok" result is exact by construction.
        limits: what is refused, for documentation and traces: sizes in their unit.
    """

    name: str
    description: str
    parameters: dict
    exact: bool = True
    limits: dict = {}

    def __call__(self, /, **arguments) -> Result:
        try:
            result = self.run(self.check(arguments))
        except ArgumentsError as error:
            return failed("error", f"{self.name}: {error}")
        except ImportError as error:
            return failed("error", f"{self.name}: {error}")
        except Exception as error:  # an expert's failure costs its own call only
            return failed("error", f"{self.name} failed: {type(error).__name__}: {str(error)[:300]}")
        if len(result.text) > MAX_TEXT_CHARACTERS:
            cut = result.text[:MAX_TEXT_CHARACTERS]
            return Result(result.status, result.value, cut, {**result.data, "truncated": True}, result.message)
        return result

    def run(self, arguments: dict) -> Result:
        """The answer for checked `arguments`; may raise ArgumentsError."""
        raise NotImplementedError

    def check(self, arguments: Mapping) -> dict:
        """`arguments` in their types; optional ones that were left out stay out.

        Raises:
            ArgumentsError: One is unknown, missing or of the wrong type.
        """
        if not isinstance(arguments, Mapping):
            raise ArgumentsError(f"arguments must be an object of names and values, not {short(arguments)}")
        properties = self.parameters.get("properties", {})
        unknown = [name for name in arguments if name not in properties]
        if unknown:
            raise ArgumentsError(f"unknown argument {short(unknown[0])}; allowed: {', '.join(properties) or 'none'}")
        missing = [name for name in self.parameters.get("required", []) if name not in arguments]
        if missing:
            raise ArgumentsError(f"argument {missing[0]!r} is missing")
        return {name: coerce(name, value, properties[name]) for name, value in arguments.items()}

    @property
    def schema(self) -> dict:
        """The tool entry that chat templates and OpenAI-style APIs read."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    @property
    def hash(self) -> str:
        """sha256 of name, description and schema, so that a description that changes later is noticed."""
        text = json.dumps([self.name, self.description, self.parameters], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self):
        return f"{type(self).__name__}(name={self.name!r}, hash={self.hash[:12]!r})"


def check_name(name) -> str:
    """`name`, if an expert may be called so; MRKLError otherwise."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name) or name in RESERVED_NAMES:
        reserved = ", ".join(sorted(RESERVED_NAMES))
        raise MRKLError(f"{short(name)} cannot name an expert: letters, digits, _ and -, not {reserved}")
    return name


_abandoned: dict[int, int] = {}
_abandoned_lock = threading.Lock()


def run_with_deadline(expert: Expert, arguments: Mapping, seconds: float) -> Result:
    """Calls `expert` in a thread of its own and waits `seconds` at most; whatever it does costs this call only.

    A Python thread cannot be killed: a call that overran goes on in a daemon thread and its answer is dropped. After
    `MAX_ABANDONED` such calls the expert is answered for at once until one of them ends.
    """
    key = id(expert)
    with _abandoned_lock:
        stuck = _abandoned.get(key, 0)
    if stuck >= MAX_ABANDONED:
        return failed("error", f"{expert.name}: {stuck} earlier calls have not come back")
    box, state = [], {"over": False, "done": False}

    def work():
        try:
            box.append(expert(**arguments))
        except BaseException as error:  # SystemExit in a user's expert must not pass for an answer
            box.append(failed("error", f"{expert.name} failed: {type(error).__name__}: {str(error)[:300]}"))
        with _abandoned_lock:
            state["done"] = True
            if state["over"]:
                _abandoned[key] -= 1
                if not _abandoned[key]:
                    del _abandoned[key]

    thread = threading.Thread(target=work, name=f"mrkl-{expert.name}", daemon=True)
    thread.start()
    thread.join(seconds)
    with _abandoned_lock:
        if not state["done"]:
            state["over"] = True
            _abandoned[key] = _abandoned.get(key, 0) + 1
            return failed("error", f"{expert.name}: no answer within {seconds:g} s")
    return box[0]
