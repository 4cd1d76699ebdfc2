"""Fits the confidence of accepted readings on half of the questions at first contact, and measures it on the others (MRKL).

    python benchmarks/mrkl_confidence.py          # writes mrkl_confidence.json
    python benchmarks/mrkl_confidence.py --write  # also the fitted data in hf_puzzle/remote/confidence_mrkl.py

mrkl_first_contact.jsonl holds what was answered with status "ok" when the questions of mrkl_wordings.jsonl first met the
grammar: by the code of then, before rules were written for them. A question whose expected answer is to abstain counts as
wrong. Halves are by a hash of the question. What the features are was decided with the errors of both halves known.
"""

import argparse
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

from hf_puzzle.mrkl.confidence import fit, reliability
from hf_puzzle.remote import confidence_mrkl
from hf_puzzle.remote.confidence_mrkl import FEATURES, features


HERE = Path(__file__)
ROWS = HERE.with_name("mrkl_first_contact.jsonl")
TARGET = Path(confidence_mrkl.__file__)


def half(query: str) -> int:
    return hashlib.sha256(query.encode()).digest()[0] % 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        steps = [SimpleNamespace(expert=e, arguments={"expression": text}) for e, text in row["steps"]]
        row["features"] = features(row["query"], steps, row["cost"])
    parts = {
        name: [row for row in rows if half(row["query"]) == number] for number, name in enumerate(("fitted", "others"))
    }
    fitted = fit([row["features"] for row in parts["fitted"]], [row["right"] for row in parts["fitted"]])
    found = {"features": list(FEATURES), "weights": fitted.weights, "bias": fitted.bias, "steps": fitted.steps}
    for name, part in parts.items():
        confidences, right = [fitted(row["features"]) for row in part], [row["right"] for row in part]
        found[name] = reliability(confidences, right)
        found[name]["before: all at 0.99 or 0.9"] = reliability([0.9 if row["cost"] else 0.99 for row in part], right)
    HERE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.write:
        text = TARGET.read_text(encoding="utf-8")
        start, end = "# fitted: start\n", "# fitted: end\n"
        weights = "".join(f'        "{name}": {value},\n' for name, value in fitted.weights.items())
        steps = "".join(f"        {pair},\n" for pair in fitted.steps)
        data = f"FITTED = Confidence(\n    {{\n{weights}    }},\n    {fitted.bias},\n    (\n{steps}    ),\n)\n"
        TARGET.write_text(text.partition(start)[0] + start + data + end + text.partition(end)[2], encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
