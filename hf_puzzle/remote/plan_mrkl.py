"""A reading as a plan: calls of experts with `$n` for earlier results, and how their results are said (MRKL).

What a plan holds is all that runs: nothing in a question, a document or an answer adds a call.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from .calls_mrkl import Result, exact_text
from .values_mrkl import constant, is_number, is_quantity
from .words_mrkl import MONTH_NAMES


BUILT_IN = ("calculator", "currency", "units", "dates", "database", "weather", "wiki")
LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 4}


@dataclass
class Step:
    """One call: an argument may be `$n`, the result of step n, and a calculator's expression may hold several."""

    expert: str
    arguments: dict
    needs: tuple = ()


@dataclass
class Plan:
    """Steps in order, and the answer: (kind, what is needed to say it).

    Kinds: "value" (reference, unit), "split" (references, units), "yesno" (sign, reference), "which" (labels,
    references, mode) and "apart" (the same, and by how much), "both" and "several" (references), "month" (reference). Without one the last result is said.
    """

    steps: list = field(default_factory=list)
    answer: tuple = ()
    cost: float = 0.0

    @property
    def route(self) -> str:
        experts = {step.expert for step in self.steps}
        return next(iter(experts)) if len(self.steps) == 1 else "many" if self.steps else "none"


class Compiler:
    """Collects the steps of a reading; the same call twice is one step."""

    def __init__(self):
        self.steps, self.made = [], {}

    def reference(self, tree) -> str:
        """What stands for `tree` in an argument: a number as text, or `$n`."""
        if isinstance(tree, str) or tree is None:
            return tree
        if tree[0] == "d":
            return self.reference(tree[1])
        value = constant(tree)
        if value is not None:
            return exact_text(value)
        if tree not in self.made:
            if tree[0] == "call":
                expert, arguments = tree[1], {name: self.reference(each) for name, each in tree[2]}
            else:
                expert, arguments = "calculator", {"expression": self.expression(tree)[0]}
            text = " ".join(str(each) for each in arguments.values())
            needs = (
                tuple(sorted({int(number) for number in re.findall(r"\$(\d+)", text)})) if expert != "database" else ()
            )
            self.steps.append(Step(expert, arguments, needs))
            self.made[tree] = f"${len(self.steps)}"
        return self.made[tree]

    def expression(self, tree) -> tuple:
        """(text, level of its operator)."""
        if tree[0] == "n":
            text = exact_text(tree[1])
            return (text, 2 if "/" in text else 3 if text.startswith("-") else 5)
        if tree[0] == "call":
            return self.reference(tree), 5
        if tree[0] == "neg":
            text, level = self.expression(tree[1])
            return f"-{text}" if level >= 4 else f"-({text})", 3
        _, sign, left, right = tree
        level = LEVEL[sign]
        (first, low), (second, high) = self.expression(left), self.expression(right)
        if low < level or sign == "**" and low <= level:
            first = f"({first})"
        if high <= level and not (high == level and sign in "+*" and self._same(right, sign)) or high == 3:
            second = f"({second})"
        return f"{first}{sign}{second}", level

    @staticmethod
    def _same(tree, sign):
        return tree[0] == "op" and tree[1] == sign


def compiled(sense) -> Plan | None:
    """The plan of a reading; None for one that calls nothing, such as a number alone."""
    compiler = Compiler()
    answer = _answer(compiler, sense)
    if answer is None or not compiler.steps:
        return None
    return Plan(compiler.steps, answer)


def _answer(compiler, sense):
    if is_number(sense):
        return ("value", _computed(compiler, sense), "")
    if is_quantity(sense):
        if len(sense[1]) != 1:
            return None
        tree, unit = sense[1][0]
        return ("value", _computed(compiler, tree), unit)
    kind = sense[0]
    if kind in ("text", "date"):
        return ("value", compiler.reference(sense[1]), "")
    if kind == "month":
        return ("month", compiler.reference(sense[1]))
    if kind == "both":
        return ("both", *(compiler.reference(each[1]) for each in sense[1:]))
    if kind == "split":
        _, tree, size, larger, smaller = sense
        whole = ("op", "//", tree, ("n", size))
        rest = ("op", "-", tree, ("op", "*", ("n", size), whole))
        compiler.reference(tree)
        first = compiler.reference(whole)
        return ("split", (first, compiler.reference(rest)), (larger, smaller))
    if kind == "yesno":
        _, sign, left, right = sense
        return ("yesno", sign, compiler.reference(("op", "-", left, right)))
    if kind in ("which", "apart"):
        _, mode, labels, trees = sense
        if len(trees) == 2:
            return (kind, mode, labels, (compiler.reference(("op", "-", *trees)),))
        return ("which", mode, labels, tuple(compiler.reference(tree) for tree in trees))
    if kind == "several":
        references = tuple(compiler.reference(each) for each in sense[1])
        return ("several", references)
    return None


def _computed(compiler, tree):
    value = constant(tree)
    return exact_text(value) if value is not None else compiler.reference(tree)


def number_in(text) -> Fraction | None:
    try:
        return Fraction(str(text).replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def say(plan: Plan, results: dict) -> str:
    """The answer's text from the results of the steps, {number: Result}."""
    kind, *rest = plan.answer or ("value", f"${len(plan.steps)}", "")

    def text(reference):
        return results[int(reference[1:])].text if str(reference).startswith("$") else str(reference)

    def value(reference):
        if not str(reference).startswith("$"):
            return Fraction(reference)
        return number_in(results[int(reference[1:])].exact)

    if kind == "value":
        reference, unit = rest
        said = text(reference)
        name = unit.lstrip("$Δ").replace("_", " ")
        return f"{said} {name}" if unit and re.fullmatch(r"-?[\d.,/Ee+-]+", said) else said
    if kind == "month":
        return MONTH_NAMES[int(text(rest[0])[5:7]) - 1]
    if kind == "both":
        return ", ".join(text(each) for each in rest)
    if kind == "several":
        return ", ".join(text(each) for each in rest[0])
    if kind == "split":
        return " ".join(f"{text(reference)} {unit.replace('_', ' ')}" for reference, unit in zip(*rest, strict=True))
    if kind == "yesno":
        sign, difference = rest[0], value(rest[1])
        return "yes" if {">": difference > 0, "<": difference < 0, "=": difference == 0}[sign] else "no"
    mode, labels, references = rest
    values = [value(reference) for reference in references]
    if len(labels) == 2:
        values = [values[0], Fraction(0)]
    best = max(values) if mode == "max" else min(values)
    chosen = [label for label, each in zip(labels, values, strict=True) if each == best]
    if kind == "apart" and len(chosen) == 1:
        return f"{chosen[0]}, by {exact_text(abs(values[0]))}"
    return " and ".join(chosen) if len(chosen) < len(labels) else "neither: they are equal"


def entry_of(expert: str, arguments: dict, result: Result) -> dict:
    """A call as the trace shows it."""
    entry = {"expert": expert, "arguments": dict(arguments), "result": result.exact}
    if expert == "wiki" and result.data.get("doc"):
        entry["doc"] = result.data["doc"]
    if result.data.get("exact") is False and expert in BUILT_IN:
        entry["exact"] = False
    if result.data.get("date"):
        entry["data_date"] = str(result.data["date"])
    return entry
