"""Label trie, packing and store against an earlier commit of them, in one process, turn by turn.

    python benchmarks/pcw_against.py --old d79c983 --rounds 15

The random Llama of pcw_speed.py, one thread, processor time. Answers of both are compared, too. What the earlier code did not do (it
took windows of other weights) is part of today's times.
"""

import argparse
import importlib
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from pcw_speed import (
    LABELS,
    PREFIX,
    QUERIES,
    SIZES,
    TASK,
    WINDOW,
    compare,
    random_labels,
    random_model,
    random_rows,
    report,
)

from hf_puzzle import artifacts
from hf_puzzle.costs import cpu_threads
from hf_puzzle.remote import generation_pcw, store_pcw


ROOT = Path(__file__).parent.parent


def earlier(commit: str, folder: Path) -> tuple:
    """(generation_pcw, store_pcw) of a commit, as a package of their own."""
    package = folder / "earlier_remote"
    package.mkdir()
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-tree", "-r", "--name-only", commit, "hf_puzzle/remote"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for path in listed:
        if path.endswith(("_pcw.py", "__init__.py")):
            text = subprocess.run(
                ["git", "-C", str(ROOT), "show", f"{commit}:{path}"], capture_output=True, check=True
            )
            (package / Path(path).name).write_bytes(text.stdout)
    sys.path.insert(0, str(folder))
    return tuple(importlib.import_module(f"earlier_remote.{name}") for name in ("generation_pcw", "store_pcw"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default="d79c983")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--note", help="what else ran meanwhile")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/pcw_against.json")
    args = parser.parse_args()
    generator, model, found, differences = random.Random(0), random_model(0), {}, {}
    windows = random_rows(generator, 3, WINDOW - len(PREFIX))
    tasks, labels = random_rows(generator, QUERIES, TASK), random_labels(generator, LABELS)
    with tempfile.TemporaryDirectory() as folder, cpu_threads(1):
        old = earlier(args.old, Path(folder))
        sides = {"earlier": old, "today": (generation_pcw, store_pcw)}
        encoded = {side: code.encode_windows(model, windows, PREFIX) for side, (code, _) in sides.items()}

        def jobs(make) -> dict:
            return {side: make(side, *code) for side, code in sides.items()}

        parts = {
            "encoding": lambda side, code, store: lambda: code.encode_windows(model, windows, PREFIX),
            "trie": lambda side, code, store: lambda: code.score_labels(model, encoded[side], tasks[:1], labels),
            "packing": lambda side, code, store: lambda: code.task_logits(model, encoded[side], tasks, packed=True),
            "packed labels": lambda side, code, store: lambda: code.score_labels(model, encoded[side], tasks, labels[:6]),
            "save": lambda side, code, store: lambda: store.save_windows(Path(folder) / side, encoded[side], model),
            "load": lambda side, code, store: lambda: store.load_windows(Path(folder) / side, model),
        }  # fmt: skip
        for name, make in parts.items():
            timings = compare(jobs(make), args.rounds, "cpu")
            found[name] = report(name, timings, {"today against earlier": ("earlier", "today")})
        for name in ("trie", "packing", "packed labels"):
            both = jobs(parts[name])
            pairs = zip(both["earlier"](), both["today"](), strict=True)
            differences[name] = max(float((a - b).abs().max()) for a, b in pairs)
    artifacts.write_json(
        args.out,
        {
            "earlier": args.old, "note": args.note, "parts": found, "max_abs_difference": differences, "sizes": SIZES,
            "window_tokens": WINDOW, "windows": 3, "task_tokens": TASK, "queries": QUERIES, "labels": LABELS,
            "threads": 1, "clock": "cpu", "rounds": args.rounds, "seed": 0, "torch": torch.__version__,
            "environment": artifacts.environment(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
