"""Plans that a language model writes in slot ids where the grammar of questions reads nothing (MRKL, arXiv 2205.00445).

One adapter on the frozen model reads the masked question and writes calls, item by item, under a grammar made from the
experts' schemas: an expert, its arguments as slot ids, enum members, `$n` for the result of step n; or ` none`. A plan is
taken only if every slot of the question is used, and if a judge, fitted on held-out questions, is surer than was asked:
by how probable the plan is, and by whether the model writes it again when the question is worded a little differently.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .adapters_mrkl import SEPARATOR, Adapted, decode_items
from .calls_mrkl import MRKLError, exact_text
from .known_mrkl import Known
from .plan_mrkl import Plan, Step
from .slots_mrkl import Reading, read


OPERATORS = ("+", "-", "*", "/")
CONSTANTS = (" 100", " 1")
MAX_OPERANDS, MAX_STEPS, MAX_CHOICES, MAX_ITEM_TOKENS = 6, 3, 200, 96
DONE, NOTHING = " .", " none"
# what a call of the calendar consists of, by its operation: the schema has all of them as options
DATES = {
    "days_between": ("start", "end"),
    "years_between": ("start", "end"),
    "weekday": ("date",),
    "shift": ("date", "way", "count", "step"),
}
CHOICES = {"way": [" +", " -"], "step": [" days", " weeks", " months", " years"]}
# the same question in other clothes
COPIES = ("{}", "please: {}", "i would like to know: {}")
FEATURES = ("logp", "least", "agreed", "steps")


class PlanGrammar:
    """Items that a plan can consist of, given experts and a question's slots.

    Args:
        experts: name -> Expert; those whose arguments slots cannot be, such as SQL, are left out.
        reading: The question.
    """

    def __init__(self, experts: Mapping, reading: Reading):
        self.reading = reading
        self.ids = dict(zip(reading.ids, reading.slots, strict=True))
        self.experts = {}
        for name, expert in experts.items():
            properties = expert.parameters.get("properties", {})
            names = expert.parameters.get("required") or list(properties)
            if not {"sql", "query"} & set(names):
                self.experts[name] = {each: properties[each] for each in names}

    def _of(self, kinds) -> list[str]:
        return [f" <{name}>" for name, slot in self.ids.items() if slot.kind in kinds]

    def _choices(self, name: str, schema: Mapping, step: int) -> list[str]:
        """Items for an argument of call number `step`."""
        if name in CHOICES:
            return CHOICES[name]
        kinds = schema.get("type", "string")
        results = [f" ${k}" for k in range(1, step)]
        if "enum" in schema:
            return [f" {value}" for value in schema["enum"]][:MAX_CHOICES]
        if name == "count" or {"number", "integer"} & ({kinds} if isinstance(kinds, str) else set(kinds)):
            return self._of("n") + results
        if re.search(r"date|day|start|end|when", name):
            return [*self._of("d"), " today", *results]
        if re.search(r"unit|currency|^from$|^to$", name):
            return self._of("cu")
        return self._of("ex")

    def _fields(self, expert: str, done: Sequence[str]) -> list[tuple[str, dict]]:
        fields = self.experts[expert]
        if set(fields) == {"op"} and "op" in fields:
            known = [(name, {}) for name in DATES.get(done[0].strip(), ())] if done else []
            return [("op", {"enum": list(DATES)}), *known]
        return list(fields.items())

    def next(self, items: Sequence[str]) -> list[str]:
        """Items that may follow `items`; empty when the plan is complete."""
        if items and items[-1] in (DONE, NOTHING):
            return []
        step, expert, done, current = 1, None, [], []
        for item in items:
            if expert is None:
                expert, done, current = item.strip(), [], []
            elif item == " ;":
                done, current = [*done, "".join(current)], []
                if len(done) == len(self._fields(expert, done)):
                    step, expert = step + 1, None
            else:
                current = [*current, item]
        if expert is None:
            more = [f" {name}" for name in self.experts if self._possible(name, step)] if step <= MAX_STEPS else []
            return more + ([NOTHING] if not items else [DONE])
        name, schema = self._fields(expert, done)[len(done)]
        if name == "expression":
            return self._expression(current, step)
        return [" ;"] if current else self._choices(name, schema, step)

    def _possible(self, expert, step) -> bool:
        fields = self._fields(expert, ())
        return all(self._of("n") or step > 1 if n == "expression" else self._choices(n, s, step) for n, s in fields)

    def _expression(self, items, step) -> list[str]:
        depth = items.count(" (") - items.count(" )")
        operands = sum(item[1] in "<$" or item in CONSTANTS for item in items)
        if not items or items[-1] == " (" or items[-1][1:] in OPERATORS:
            opened = [" ("] if depth < 2 and operands + depth < MAX_OPERANDS - 1 else []
            return self._of("n") + [f" ${k}" for k in range(1, step)] + list(CONSTANTS) * bool(items) + opened
        following = [f" {op}" for op in OPERATORS] if operands + depth < MAX_OPERANDS else []
        return following + ([" )"] if depth else [" ;"])

    def plan(self, items: Sequence[str], today: str) -> Plan | None:
        """The plan that complete `items` say; None for ` none`, or where a slot of the question is not used."""
        said = {name for item in items for name in re.findall(r"<(\w+)>", item)}
        if not items or items[-1] != DONE or said != {n for n, s in self.ids.items() if s.kind != "t"}:
            return None
        steps, expert, done, current = [], None, [], []
        for item in items[:-1]:
            if expert is None:
                expert, done, current = item.strip(), [], []
            elif item == " ;":
                done, current = [*done, "".join(current).strip()], []
                fields = [name for name, _ in self._fields(expert, done)]
                if len(done) == len(fields):
                    arguments = self._arguments(dict(zip(fields, done, strict=True)), today)
                    needs = tuple(sorted({int(n) for n in re.findall(r"\$(\d+)", " ".join(arguments.values()))}))
                    steps.append(Step(expert, arguments, needs))
                    expert = None
            else:
                current = [*current, item]
        needed = {need for step in steps for need in step.needs}
        if expert is not None or needed != set(range(1, len(steps))):
            return None
        return Plan(steps, ("value", f"${len(steps)}", ""))

    def _arguments(self, values: Mapping, today: str) -> dict:
        found = {}
        for name, text in values.items():
            text = re.sub(r"<(\w+)>", lambda m, name=name: self._value(m[1], name == "expression"), text)
            found[name] = today if text == "today" else text
        if "way" in found:
            sign = "-" if found.pop("way") == "-" else ""
            found[found.pop("step")] = sign + found.pop("count")
        return found

    def _value(self, name, inside) -> str:
        slot = self.ids[name]
        if slot.kind in "ex":
            return slot.text
        value = slot.value if isinstance(slot.value, str) else exact_text(slot.value)
        return f"({value})" if inside and (value.startswith("-") or "/" in value) else value


# -- the judge


@dataclass
class Judge:
    """How probable it is that a written plan is right, from FEATURES; plans below `threshold` are not run."""

    weights: dict = field(default_factory=dict)
    bias: float = 0.0
    threshold: float = 1.0
    precision: float = 0.95

    def confidence(self, values: Mapping) -> float:
        score = self.bias + sum(self.weights.get(name, 0.0) * values[name] for name in FEATURES)
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


class PlanReader(Adapted):
    """Questions to plans by an adapter on the language model.

    Args:
        folder: PEFT folder of the adapter.
        judge: Which plans are good enough; default: none, until one is fitted.
    """

    name = "plan"

    def __init__(self, folder, judge: Judge | None = None):
        super().__init__(folder)
        self.judge = judge or Judge()

    def write(self, grammar: PlanGrammar, copy: str = COPIES[0]) -> tuple[list[str], float]:
        """(items, probability) that the adapter writes for the question, worded as `copy` has it."""
        prompt = self.tokenizer(copy.format(grammar.reading.masked) + SEPARATOR, add_special_tokens=False)["input_ids"]
        with self.adapters.use(self.name) as model, torch.no_grad():
            return decode_items(model, self.tokenizer, prompt, grammar.next, MAX_ITEM_TOKENS)

    def read(self, query: str, known: Known, experts: Mapping) -> tuple[Plan, dict] | None:
        """(plan, FEATURES) of what the adapter writes, or None where it writes none that uses every slot."""
        reading = read(query, known)
        grammar = PlanGrammar(experts, reading)
        if not reading.slots or not grammar.experts:
            return None
        try:
            items, probability = self.write(grammar)
            plan = grammar.plan(items, known.today)
            if plan is None:
                return None
            again = [self.write(grammar, copy)[0] == items for copy in COPIES[1:]]
        except MRKLError:
            return None
        logp = math.log(max(probability, 1e-12))
        steps = float(len(plan.steps))
        return plan, {"logp": logp, "least": logp / len(items), "agreed": float(sum(again)), "steps": steps}

    def plan(self, query: str, known: Known, experts: Mapping) -> tuple[Plan, float] | None:
        """(plan, confidence) where the judge is sure enough, else None."""
        found = self.read(query, known, experts) if self.judge.threshold < 1 else None
        if found is None:
            return None
        confidence = self.judge.confidence(found[1])
        return (found[0], confidence) if confidence >= self.judge.threshold else None

    def save(self, data: Path) -> dict:
        return super().save(data) | {"judge": dict(vars(self.judge))}

    @classmethod
    def load(cls, saved: Mapping, files: Mapping[str, Path]) -> "PlanReader":
        """What `save` described."""
        return cls(cls.saved_folder(saved, files), Judge(**saved["judge"]))
