"""Compositions: questions that take several experts in a fixed order, written down as data (MRKL, arXiv 2205.00445).

The paper's flagship question, "which of the green-energy companies rose most last month?", needs documents, calendar,
database and calculator one after the other (its system Jurassic-X). A `Composition` names such an order once, with
arguments that are read from the slots of a question; it is JSON, no code, and is saved with a pipeline. Its calls keep
the limits of all calls: a deadline each, a budget, no repeats, and results that are data.
"""

import difflib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .calls_mrkl import (
    MRKLError,
    NumberError,
    Result,
    check_name,
    exact_text,
    nearest,
    number_text,
    parse_number,
    reading,
    short,
)
from .custom_mrkl import content
from .plan_mrkl import Plan, Step, entry_of
from .slots_mrkl import Reading, read


KINDS = ("title", "value", "place", "entity", "number", "date", "month", "currency", "unit")
FIELD = re.compile(r"\{([a-z_]\w*)(?:\.(\d+))?\}")
MONTHS_AGO = re.compile(
    r"\b(?P<this>this|the current) <t\d+>|\b(?:last|the previous|the past) <t\d+>|<(?P<n>n\d+)> <t\d+> ago"
)
# a composition is made of more calls than a plan: one per row
MAX_CALLS = 64


@dataclass(frozen=True)
class Composition:
    """An order of calls with open arguments.

    name: of the plan. description: what it answers.
    arguments: name -> a kind of `KINDS`, or {value: [words]}: the value whose word the question says.
    examples: questions that it answers: their words are its own.
    steps: mappings with `id` and
        `expert` and `arguments` (texts; `{name}` is an argument or an earlier step's result, inside `sql` an SQL
        literal), with `each`: a step's rows, one call per row, whose cells are `{row.0}`, ... ; or
        `pick` (a step with `each`) and `order` ("max" or "min"): the row with the largest or smallest result.
    answer: text of the answer; `{step}` is a result, `{step.0}` a cell of a picked row.
    digits: significant digits of numbers in the answer that no finite decimal writes.
    """

    name: str
    description: str
    arguments: Mapping
    examples: Sequence[str]
    steps: Sequence[Mapping]
    answer: str
    digits: int = 12

    def needs_experts(self, experts: Mapping) -> None:
        """MRKLError where a step's expert is not there."""
        for step in self.steps:
            name = step.get("expert")
            if name is not None and name not in experts:
                raise MRKLError(f"composition {self.name!r} needs an expert {name!r}{nearest(name, experts)}")

    def __post_init__(self):
        check_name(self.name)
        if not isinstance(self.description, str) or not all(isinstance(text, str) for text in self.examples):
            raise MRKLError(f"composition {self.name!r}: description and examples are texts")
        for name, kind in self.arguments.items():
            if not isinstance(kind, Mapping) and kind not in KINDS:
                raise MRKLError(
                    f"composition {self.name!r}: argument {name!r} is {kind!r}, none of {', '.join(KINDS)}"
                )
        if not self.examples or not self.steps:
            raise MRKLError(f"composition {self.name!r} needs examples and steps")
        said = set(self.arguments) | {"today"}
        for step in self.steps:
            wrong = set(step) - {"id", "expert", "arguments", "each", "pick", "order"}
            named = all(isinstance(step.get(key, ""), str) for key in ("expert", "pick", "each", "order"))
            if wrong or not named or not isinstance(step.get("id"), str) or ("expert" in step) == ("pick" in step):
                raise MRKLError(f"composition {self.name!r}: {short(dict(step))} needs id, and either expert or pick")
            texts = [*step.get("arguments", {}).values(), step.get("order", "")]
            used = [m[1] for text in texts for m in FIELD.finditer(str(text))]
            used += [step[key] for key in ("each", "pick") if key in step]
            for name in used:
                if name not in said and not (name == "row" and "each" in step):
                    near = difflib.get_close_matches(name, said, 1)
                    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(said))}"
                    raise MRKLError(
                        f"composition {self.name!r}, step {step['id']!r}: nothing is called {name!r}{hint}"
                    )
            said.add(step["id"])
        for match in FIELD.finditer(self.answer):
            if match[1] not in said:
                raise MRKLError(
                    f"composition {self.name!r}: the answer names {match[1]!r}, which is no step or argument"
                )

    @classmethod
    def read(cls, value: Mapping) -> "Composition":
        """The composition of a JSON or YAML mapping; MRKLError for keys and values that are none."""
        with reading(f"composition {short(value)}"):
            return cls(**value)

    def settings(self) -> dict:
        """What makes it again, as JSON values."""
        names = ("name", "description", "arguments", "examples", "steps", "answer", "digits")
        return {name: getattr(self, name) for name in names}

    def fill(self, reading: Reading) -> dict | None:
        """Arguments from a question's slots; None when one is missing. A month said as "last month" is a Step."""
        slots = {kind: [s for s in reading.slots if s.kind == kind] for kind in "ndmcuex"}
        masked, found = reading.masked, {}
        for name, kind in self.arguments.items():
            value = None
            if isinstance(kind, Mapping):
                words = [(word, each) for each, all_words in kind.items() for word in all_words]
                hits = [
                    (m.start(), each) for word, each in words if (m := re.search(rf"\b{re.escape(word)}\b", masked))
                ]
                value = min(hits)[1] if hits else None
            elif kind in ("title", "value", "place", "entity"):
                for slot in list(slots["e"]):
                    names = [each[-1] for each in slot.value if kind in ("entity", each[0])]
                    if names and value is None:
                        value = names[0]
                        slots["e"].remove(slot)
            elif kind == "month":
                value = slots["m"].pop(0).value if slots["m"] else self._months_ago(masked, reading)
            else:
                letter = {"number": "n", "date": "d", "currency": "c", "unit": "u"}[kind]
                if slots[letter]:
                    value = slots[letter].pop(0).value
                    value = exact_text(value) if isinstance(value, Fraction) else value
            if value is None:
                return None
            found[name] = value
        return found

    def asked(self, reading: Reading) -> dict | None:
        """Arguments of a question whose every word is one of this composition's, or names one of them."""
        said = content(re.sub(r"<\w+>", " ", reading.masked))
        orders = [
            word
            for kind in self.arguments.values()
            if isinstance(kind, Mapping)
            for each in kind.values()
            for word in each
        ]
        own = content(
            " ".join([self.description, *self.examples, *self.arguments, *orders, "last this previous ago one"])
        )
        return self.fill(reading) if said and said <= own else None

    @staticmethod
    def _months_ago(masked, reading) -> Step | None:
        match = MONTHS_AGO.search(masked)
        ids = dict(zip(reading.ids, reading.slots, strict=True))
        if not match or ids[re.search(r"<(t\d+)>", match[0])[1]].value != "month":
            return None
        months = 0 if match["this"] else int(ids[match["n"]].value) if match["n"] else 1
        return Step("dates", {"op": "shift", "date": "{today}", "months": str(-months)})


def composed(compositions: Mapping, text: str, known) -> Plan | None:
    """The plan that is the one composition whose words explain the question and whose arguments it has."""
    if not compositions:
        return None
    asked = read(text, known)
    found = [(each.name, each.asked(asked)) for each in compositions.values()]
    found = [Plan([Step(name, arguments)]) for name, arguments in found if arguments is not None]
    return found[0] if len(found) == 1 else None


class Run:
    """One run of a composition by a planner; `trace` grows call by call."""

    def __init__(self, planner, composition, arguments):
        self.planner, self.composition = planner, composition
        self.end = time.monotonic() + planner.limits.total_seconds
        self.trace, self.memo = [], {}
        self.values = {"today": planner.known.today, **arguments}
        self.rows, self.numbers = {}, {}
        self.failure = None

    def reply(self) -> dict:
        for name, value in list(self.values.items()):
            if isinstance(value, Step):
                found = self.call(value.expert, value.arguments, {})
                self.numbers[name] = [len(self.trace)]
                # a month, not the day the calendar answered with
                self.values[name] = found.exact[:7]
        for step in self.composition.steps:
            if self.failure is None:
                self.take(step)
        if self.failure is not None:
            status, message = self.failure.status, self.failure.message
            return {"answer": None, "status": status, "trace": self.trace, "message": message}
        answer = FIELD.sub(self.said, self.composition.answer)
        return {"answer": answer, "status": "ok", "trace": self.trace, "message": ""}

    def take(self, step) -> None:
        name = step["id"]
        if "pick" in step:
            order = FIELD.sub(lambda m: str(self.values[m[1]]), step["order"])
            results = self.values[step["pick"]]
            at = (min if order == "min" else max)(range(len(results)), key=results.__getitem__)
            self.values[name], self.rows[name] = results[at], self.rows[step["pick"]][at]
            return
        if "each" not in step:
            result = self.call(step["expert"], step["arguments"], {})
            rows = result.value if isinstance(result.value, list) else [[result.value]]
            self.numbers[name] = [len(self.trace)]
            self.values[name], self.rows[name] = result.exact, rows
            return
        results, source, before = [], self.rows[step["each"]], len(self.trace)
        for row in source:
            result = self.call(step["expert"], step["arguments"], {"row": row, "from": step["each"]})
            if self.failure is not None:
                return
            try:
                results.append(parse_number(result.exact))
            except NumberError:
                self.failure = Result(
                    "error", message=f"{step['expert']}: {short(result.exact)} is no number to compare"
                )
                return
        self.values[name], self.rows[name] = results, source
        self.numbers[name] = list(range(before + 1, len(self.trace) + 1))

    def call(self, expert, arguments, row) -> Result:
        """One call with its fields filled in, from the memo when it was made before.

        Its entry in the trace says under `needs` which earlier calls (from 1) its arguments come from.
        """
        needs = set(self.numbers.get(row.get("from"), ()))

        def filled(text, key):
            def value_of(match):
                name, cell = match[1], match[2]
                needs.update(self.numbers.get(name, ()))
                value = row["row"][int(cell)] if name == "row" else self.values[name]
                if cell is not None and name != "row":
                    value = self.rows[name][0][int(cell)]
                value = value if isinstance(value, str) else exact_text(value)
                if key == "sql":
                    return "'" + value.replace("'", "''") + "'"
                return f"({value})" if key == "expression" and re.search(r"^-|/", value) else value

            return FIELD.sub(value_of, str(text))

        bound = {name: filled(text, name) for name, text in arguments.items()}
        key = (expert, tuple(sorted(bound.items())))
        if key in self.memo:
            return self.memo[key]
        seconds = min(self.planner.limits.call_seconds, self.end - time.monotonic())
        if len(self.trace) >= MAX_CALLS or seconds <= 0:
            what = f"{MAX_CALLS} calls" if seconds > 0 else f"{self.planner.limits.total_seconds:g} s"
            self.failure = Result("error", message=f"no answer within {what}")
            return self.failure
        result = self.planner.call(expert, bound, seconds)
        entry = entry_of(expert, bound, result)
        if needs:
            entry["needs"] = sorted(needs)
        self.trace.append(entry)
        self.memo[key] = result
        if result.status != "ok":
            self.failure = result
        return result

    def said(self, match) -> str:
        name, cell = match[1], match[2]
        value = self.values[name] if cell is None else self.rows[name][int(cell)]
        return number_text(value, self.composition.digits) if isinstance(value, Fraction | int) else str(value)


def readable(reply: Mapping) -> str:
    """A trace as lines for a person: number, expert, arguments, result."""
    lines = []
    for number, step in enumerate(reply["trace"], 1):
        said = ", ".join(f"{name}={value}" for name, value in step["arguments"].items())
        doc = f"  [page {step['doc']}]" if "doc" in step else ""
        lines.append(f"{number}. {step['expert']}({said}) = {step['result']}{doc}")
    return "\n".join(lines)
