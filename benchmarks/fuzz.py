"""Hostile input at full size: the targets of `tests/fuzzing.py`, more than 100,000 inputs, crashes and seconds per target.

`python benchmarks/fuzz.py` writes `fuzz.json`. Structured mutations with a fixed seed reach the readers of JSON, tensors
and folders; the parsers of text run under atheris too (`pip install atheris`), which follows the coverage. An input that
takes longer than 20 s counts as a crash.
"""

import argparse
import json
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
SECONDS_PER_INPUT = 20
GUIDED = ("block_ids", "recipes_as_text", "calculations", "dates", "queries")


class TooLong(Exception):
    """An input took more than `SECONDS_PER_INPUT`."""


def stop(*_) -> None:
    raise TooLong


def tried(target, value) -> Exception | None:
    """What the target raised that it may not; also where it does not come back."""
    from fuzzing import stumbled

    signal.alarm(SECONDS_PER_INPUT)
    try:
        return stumbled(target, value)
    except TooLong as error:
        return error
    finally:
        signal.alarm(0)


def structured(name: str, count: int, seed: int) -> dict:
    """`count` mutated inputs of one target."""
    from fuzzing import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name](Path(folder))
        rng, began, crashes = random.Random(f"{name} {seed}"), time.perf_counter(), []
        for i in range(count):
            value = target.draw(rng)
            if (error := tried(target, value)) is not None:
                crashes.append(
                    {"input": i, "error": f"{type(error).__name__}: {error}"[:300], "value": repr(value)[:500]}
                )
        seconds = round(time.perf_counter() - began, 1)
    return {
        "inputs": count,
        "crashes": len(crashes),
        "seconds": seconds,
        **({"first": crashes[:3]} if crashes else {}),
    }


def guided(name: str, count: int) -> dict:
    """`count` inputs of one target that atheris makes; it ends its process, hence one of its own."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--atheris", name, "--inputs", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not rows:
        raise RuntimeError(f"atheris on {name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return rows[-1] | {"seconds": round(time.perf_counter() - began, 1)}


def run_atheris(name: str, count: int) -> None:
    """In a process of its own: print one JSON line, whose last one counts."""
    import atheris

    with atheris.instrument_imports(include=["hf_puzzle"], enable_loader_override=False):
        from fuzzing import TARGETS
    folder = Path(tempfile.mkdtemp())
    target = TARGETS[name](folder)
    (folder / "corpus").mkdir()
    rng = random.Random(0)
    for i in range(100):
        if isinstance(value := target.draw(rng), str):  # dates come as calls too
            (folder / "corpus" / str(i)).write_bytes(value.encode(errors="replace"))
    found = {"inputs": 0, "crashes": 0}

    def one(data: bytes) -> None:
        found["inputs"] += 1
        if (error := tried(target, data.decode(errors="replace"))) is not None:
            found["crashes"] += 1
            found["first"] = f"{type(error).__name__}: {error}"[:300]
        if found["inputs"] >= count:
            print(json.dumps(found), flush=True)

    atheris.Setup([sys.argv[0], str(folder / "corpus"), f"-atheris_runs={count}", "-max_len=400", "-verbosity=0"], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="structured inputs of a target of weight 1")
    parser.add_argument("--guided", type=int, default=5_000, help="inputs of atheris per parser; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "fuzz.json")
    parser.add_argument("--atheris", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.ERROR)
    signal.signal(signal.SIGALRM, stop)
    if args.atheris:
        run_atheris(args.atheris, args.inputs)
        return
    from fuzzing import TARGETS

    from hf_puzzle.artifacts import environment

    results = {"structured": {}, "guided": {}}
    for name in TARGETS:
        results["structured"][name] = structured(name, round(args.inputs * WEIGHTS.get(name, 1.0)), args.seed)
        print(name, results["structured"][name], flush=True)
    for name in GUIDED if args.guided else ():
        results["guided"][name] = guided(name, args.guided)
        print(name, results["guided"][name], flush=True)
    rows = [row for kind in results.values() for row in kind.values()]
    total = {key: sum(row[key] for row in rows) for key in ("inputs", "crashes", "seconds")}
    print(total)
    args.out.write_text(
        json.dumps({"total": total, **results, "seed": args.seed, "environment": environment()}, indent=1) + "\n"
    )


# slow readers get fewer
WEIGHTS = {
    "recipes_as_text": 0.2, "json_files": 0.5, "json_lines": 0.5, "tensor_files": 0.5, "model_configs": 0.2, "run_folders": 0.04,
    "window_stores": 0.2, "pcw_settings": 0.2, "mrkl_settings": 0.06, "expert_files": 0.2, "queries": 0.2, "tables": 0.7,
    "call_texts": 0.3,
}  # fmt: skip


if __name__ == "__main__":
    main()
