"""What all runners share: they read folders and references, and write what became of each. Numpy only."""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np


RIGHT = 1e-3  # largest difference of a logit (their deviation is about 1); what is wrong is off by more than 0.01


class Where:
    """Told by a runner how far it is."""

    stage = "load"
    notes: list[str] = []


def read(path: str) -> list[tuple[list[int], list[int], np.ndarray]]:
    """Prompts, greedy tokens and the logits they were taken from."""
    arrays = np.load(path)
    count = sum(name.startswith("prompt") for name in arrays)
    return [(arrays[f"prompt{i}"].tolist(), arrays[f"greedy{i}"].tolist(), arrays[f"logits{i}"]) for i in range(count)]


def judge(rows: list, found: list[tuple[list[int], np.ndarray | None]]) -> dict:
    """`found`: greedy tokens and logits (or None) of the prompts, or the first of them, in one way of running."""
    worst, same = 0.0, True
    for (_, greedy, expected), (tokens, logits) in zip(rows, found, strict=False):
        agree = next((i for i, pair in enumerate(zip(greedy, tokens, strict=True)) if pair[0] != pair[1]), len(greedy))
        same &= agree == len(greedy)
        if logits is not None:  # beyond the first other token they are of another text
            worst = max(worst, float(np.abs(logits[: agree + 1] - expected[: agree + 1]).max()))
    return {"difference": worst, "same_tokens": same}


def run(
    engine: str, compute: Callable[[str, list, type[Where]], dict[str, list]], spoilt_by: tuple[str, ...] = ()
) -> None:
    """Compute every folder of the manifest (argument 1) for `engine`; write one JSON line each (argument 2).

    `compute(path, rows, where)` returns, by way of running, what `judge` takes. Cases that are in the output are left out:
    a process that died is started again, and the case that killed it is told so. After a failure in a stage of
    `spoilt_by`, what is left of it disturbs the next case: the process ends, to be started again.
    """
    entries = [e for e in json.loads(Path(sys.argv[1]).read_text()) if engine in e["engines"] and "refused" not in e]
    out = Path(sys.argv[2])
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(line["case"], line["folder"]) for line in lines if "verdict" in line}
    begun = {(line["case"], line["folder"]) for line in lines} - done
    with out.open("a") as file:

        def tell(entry: dict, **said) -> None:
            file.write(json.dumps({"case": entry["case"], "folder": entry["folder"], **said}) + "\n")
            file.flush()

        for entry in entries:
            key = entry["case"], entry["folder"]
            if key in done:
                continue
            if key in begun:
                tell(entry, verdict="refuses", where="run", message="the process ended")
                continue
            tell(entry)
            Where.stage, Where.notes = "load", []
            rows = read(entry["reference"])
            try:
                ways = {way: judge(rows, found) for way, found in compute(entry["path"], rows, Where).items()}
            except (Exception, SystemExit) as error:  # noqa: BLE001
                last = traceback.extract_tb(error.__traceback__)[-1]
                message = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
                tell(
                    entry,
                    verdict="refuses",
                    where=Where.stage,
                    message=message,
                    line=f"{Path(last.filename).name}:{last.lineno}",
                )
                if Where.stage in spoilt_by:
                    raise SystemExit(f"{engine}: starts again behind {entry['case']}") from None
                continue
            worst = max(way["difference"] for way in ways.values())
            right = all(way["difference"] <= RIGHT and way["same_tokens"] for way in ways.values())
            told = {"notes": sorted(set(Where.notes))} if Where.notes else {}
            tell(entry, verdict="right" if right else "wrong", difference=worst, ways=ways, **told)
            print(entry["case"], entry["folder"], "right" if right else "WRONG", f"{worst:.1e}", flush=True)
