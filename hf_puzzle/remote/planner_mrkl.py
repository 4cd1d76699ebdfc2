"""From a question to a plan of calls, and from the plan to an answer (MRKL, arXiv 2205.00445).

`reader_mrkl` reads a question completely or not at all; the planner runs the one plan its readings agree on, and
abstains where there is none or where they differ. Calls refer to earlier results as `$n`. What an expert answers is
data: nothing in it is ever read for a further call, and a plan is fixed before its first call runs.
"""

import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .calls_mrkl import Expert, MRKLError, Result
from .compositions_mrkl import Run, composed
from .confidence_mrkl import FITTED, features
from .custom_mrkl import customs
from .experts_mrkl import Experts
from .known_mrkl import Known
from .plan_mrkl import BUILT_IN, Plan, Step, entry_of, number_in, say
from .reader_mrkl import MAX_READINGS, Reader, agreed, set_aside
from .slots_mrkl import MAX_CHARS


__all__ = ["BUILT_IN", "Decision", "Limits", "Plan", "Planner", "Step", "refusal"]

# experts whose answer may be looked at before a plan is chosen: they are ours, local and without effects
LOCAL = frozenset(BUILT_IN)
# that nothing is asked which an expert holds, where no reading explains the question; and a call of a user's expert
UNSURE, OWN = 0.9, 0.94


@dataclass
class Limits:
    """Bounds of one query: calls, seconds per call, seconds in all."""

    calls: int = 8
    call_seconds: float = 2.0
    total_seconds: float = 6.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
                raise MRKLError(f"limits: {name} is {value!r:.80}: expected a number below 1e6")


@dataclass
class Decision:
    """What the planner chose: the plan (None: abstain), its confidence, and why."""

    plan: Plan | None
    confidence: float
    features: dict = field(default_factory=dict)
    status: str = "ok"
    message: str = ""


class Planner:
    """Answers queries with experts.

    Args:
        experts: name -> Expert; plans that need an absent one are dropped. One that changed since is not called.
        known: names that queries may mention, and the reference date.
        limits: Limits of one query.
        examples: expert -> questions that it answers, for experts that the grammar does not know.
        compositions: `Composition`s, for questions that no reading explains.
    """

    def __init__(
        self, experts: Mapping[str, Expert], known: Known, limits: Limits | None = None, examples=None, compositions=()
    ):
        self.experts = experts if isinstance(experts, Experts) else Experts(experts)
        self.compositions = {each.name: each for each in compositions}
        for each in compositions:
            each.needs_experts(self.experts)
        self.known = known
        self.limits = limits or Limits()
        self.reader = Reader(known, self.experts)
        self.customs = customs(self.experts, BUILT_IN, examples or {})

    # -- choosing

    def decide(self, query: str) -> Decision:
        """The plan for `query`, or why there is none. Calls nothing but our own local experts, and these only where
        readings have to be compared.

        Raises: TypeError when `query` is no text.
        """
        if not isinstance(query, str):
            raise TypeError(f"a query is a str, not {type(query).__name__}")
        if not query.strip():
            return Decision(None, 1.0, status="abstain", message="empty query")
        if len(query) > MAX_CHARS:
            return Decision(None, 1.0, status="refused", message=f"a query has at most {MAX_CHARS} characters")
        reason = refusal(query, self.known)
        if reason:
            return Decision(None, 0.99, status="refused", message=reason)
        text, instructed = set_aside(query)
        plans = [plan for plan in self.reader.plans(text) if len(plan.steps) <= self.limits.calls]
        decision = self.choose(plans, text)
        return decision if plans else self.own(text) or decision

    def choose(self, plans, text: str = "") -> Decision:
        """The plan that all readings of a text agree on."""
        if not plans:
            return Decision(None, UNSURE, {"readings": 0}, "abstain", "no reading explains every word")
        best = agreed(plans, self.worth)
        if best is None:
            what = (
                f"{len(plans)} readings with different answers" if len(plans) <= MAX_READINGS else "too many readings"
            )
            return Decision(None, UNSURE, {"readings": len(plans)}, "abstain", what)
        taken = features(text, best.steps, best.cost)
        named = [name for name, value in taken.items() if value]
        return Decision(best, FITTED(taken), {"readings": len(plans), "cost": best.cost, "taken": named})

    def worth(self, plan: Plan):
        """What a plan answers, to compare readings by; None where that cannot be known without effects."""
        if not all(step.expert in LOCAL and getattr(self.experts[step.expert], "local", True) for step in plan.steps):
            return None
        found = self.run(plan)
        if found["status"] == "ok" and plan.answer[0] == "value" and str(plan.answer[1]).startswith("$"):
            # a number is the same in whatever unit its name is said
            value = number_in(found["trace"][int(plan.answer[1][1:]) - 1]["result"])
            return found["answer"] if value is None else value
        return found["status"], found["answer"]

    def own(self, text) -> Decision | None:
        """A composition, or a call of the one expert of the user that explains the question word by word."""
        plan = composed(self.compositions, text, self.known)
        if plan is not None:
            return Decision(plan, OWN, {"readings": 1})
        read_text = self.reader.read_with_dates(text)
        found = [(each.name, each.arguments(read_text)) for each in self.customs]
        found = [(name, arguments) for name, arguments in found if arguments is not None]
        if len(found) != 1:
            return None
        return Decision(Plan([Step(*found[0])]), OWN, {"readings": 1})

    # -- running

    def ask(self, query: str) -> dict:
        """{"answer", "status", "trace", "confidence"} as the practice interface has them, and "message"."""
        decision = self.decide(query)
        if decision.plan is None:
            return {
                "answer": None,
                "status": decision.status,
                "trace": [],
                "confidence": round(decision.confidence, 4),
                "message": decision.message,
            }
        return self.run(decision.plan) | {"confidence": round(decision.confidence, 4)}

    def run(self, plan: Plan) -> dict:
        """Run a plan's steps, independent ones at the same time; stops at the first that gives no answer.

        Returns: {"answer", "status", "trace", "message"}. The trace holds every call that was made, in step order.
        """
        if plan.steps[0].expert in self.compositions:
            return Run(self, self.compositions[plan.steps[0].expert], plan.steps[0].arguments).reply()
        results, trace = {}, {}
        end = time.monotonic() + self.limits.total_seconds
        pending = dict(enumerate(plan.steps, 1))
        failed = None
        while pending and not failed:
            ready = [n for n, step in pending.items() if set(step.needs) <= set(results)]
            seconds = min(self.limits.call_seconds, end - time.monotonic())
            if seconds <= 0:
                failed = Result("error", message=f"no answer within {self.limits.total_seconds:g} s")
                break
            calls = {n: self.bind(pending.pop(n), results) for n in ready}
            for n, result in self.calls(calls, seconds).items():
                results[n] = result
                trace[n] = entry_of(plan.steps[n - 1].expert, plan.steps[n - 1].arguments, result)
                if result.status != "ok" and failed is None:
                    failed = result
        ordered = [trace[n] for n in sorted(trace)]
        if failed:
            return {"answer": None, "status": failed.status, "trace": ordered, "message": failed.message}
        return {"answer": say(plan, results), "status": "ok", "trace": ordered, "message": ""}

    def calls(self, calls: Mapping, seconds) -> dict:
        if len(calls) == 1:
            return {n: self.call(*call, seconds) for n, call in calls.items()}
        with ThreadPoolExecutor(len(calls)) as pool:
            futures = {n: pool.submit(self.call, *call, seconds) for n, call in calls.items()}
            return {n: future.result() for n, future in futures.items()}

    def bind(self, step, results):
        """The arguments of `step` with references resolved."""
        arguments = {}
        for name, value in step.arguments.items():
            if isinstance(value, str) and re.fullmatch(r"\$\d+", value) and step.needs:
                value = results[int(value[1:])].exact
            elif isinstance(value, str) and step.expert == "calculator":
                value = re.sub(r"\$(\d+)", lambda m: f"({results[int(m[1])].exact})", value)
            arguments[name] = value
        return step.expert, arguments

    def call(self, name, arguments, seconds) -> Result:
        return self.experts.call(name, arguments, seconds)


# -- requests to change data

WRITES = frozenset(
    str.split(
        "delete erase wipe drop purge truncate destroy remove insert update overwrite rename modify alter fire dismiss "
        "sack promote cancel hire reset set clear"
    )
)
DATA = frozenset(str.split("table tables row rows record records database entry entries column columns"))


def refusal(text: str, known: Known) -> str | None:
    """Why `text` is refused: an order to change the data, which no expert may do."""
    asked = re.sub(r"^\W*(?:(?:please|now|kindly|(?:can|could|would) you)\W+)+", "", text.lower())
    verb, *rest = re.findall(r"[a-z_]+", asked) or [""]
    tables = {table.lower() for table in known.schema.columns}
    singulars = {table.removesuffix("s") for table in tables}
    if verb in WRITES and set(rest) & (tables | singulars | DATA) and known.schema.columns:
        return f"{verb!r} would change the data; experts only read"
    return None
