"""How sure an accepted reading is (MRKL, arXiv 2205.00445): what a question takes for granted, weighed by data.

`FITTED` was fitted by `benchmarks/mrkl_confidence.py` on one half of questions at their first contact with the grammar,
in wordings that no rule had been written for. A logistic regression over FEATURES gives a score, and steps that never
fall (isotonic regression, on scores of folds left out) turn it into the share that was right.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass


WEEKDAY = "(mon|tues|wednes|thurs|fri|satur|sun)day"
# what a question may take for granted; its absence is what makes an answer sure
TAKEN = {
    # no frame that says what is asked; a formula needs none
    "short": re.compile(r"^(?=.*[a-z])\W*(\S+\s+){0,2}\S*\W*$", re.I),
    # names of several units or currencies
    "shared": re.compile(r"\b(dollar|pound|cup|ton|gallon|pint|ounce|crown|krone|peso|franc|degree)s?\b(?! (celsius|fahrenheit|c|f)\b)", re.I),
    # a weekday without its date
    "weekday": re.compile(rf"\b{WEEKDAY}\b(?!,? \d)", re.I),
    "counted": re.compile(r"\b(week|business |working )days?\b", re.I),
    # 1,5 and 9/11: a list, a decimal, a date or a fraction
    "comma": re.compile(r"\d,\d{1,2}(?!\d)|^\D*\d+/\d+\D*$"),
    "negative": re.compile(r"(?<![\w)])-\s?\d+ ?(°|c\b|f\b|deg|cel|fah)", re.I),
}  # fmt: skip
# an operation in words that may reach to the end or not, with another behind it
OPEN = re.compile(
    r"\b(root|half|third|quarter|twice|double|triple|sum|product|squared?) (of )?.*(\b(plus|minus|times|divided|over)\b|[-+*/])"
    r"|\bby (a|one) (half|third|quarter)\b", re.I,
)  # fmt: skip
FEATURES = (*TAKEN, "scope", "steps", "cost")


def features(query: str, steps, cost: float) -> dict[str, float]:
    """FEATURES of a question and the steps of its plan, each with `expert` and `arguments`."""
    found = {name: float(bool(pattern.search(query))) for name, pattern in TAKEN.items()}
    texts = [str(step.arguments.get("expression", "")) for step in steps if step.expert == "calculator"]
    several = any(len(re.findall(r"[-+*/]", text)) > 1 for text in texts)
    found["scope"] = float(several and bool(OPEN.search(query)))
    return found | {"steps": float(len(steps) > 1), "cost": float(cost > 0)}


@dataclass(frozen=True)
class Confidence:
    """Weights of FEATURES, and (least score, share that is right) in rising order."""

    weights: Mapping[str, float]
    bias: float
    steps: tuple

    def score(self, values: Mapping[str, float]) -> float:
        total = self.bias + sum(self.weights[name] * values[name] for name in FEATURES)
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))

    def __call__(self, values: Mapping[str, float]) -> float:
        score = self.score(values)
        return next((share for least, share in reversed(self.steps) if score >= least), self.steps[0][1])


# fitted: start
FITTED = Confidence(
    {
        "short": -1.8516,
        "shared": -1.7317,
        "weekday": -2.8608,
        "counted": 0.2485,
        "comma": -3.5985,
        "negative": -3.2932,
        "scope": -2.4335,
        "steps": 0.9539,
        "cost": 0.0708,
    },
    4.874,
    (
        (0.394002, 0.3571),
        (0.749427, 0.75),
        (0.825322, 0.8333),
        (0.856525, 0.94),
        (0.990384, 0.9895),
    ),
)
# fitted: end
