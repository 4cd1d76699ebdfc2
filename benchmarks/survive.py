"""Does a run survive? Kills in every stage, files cut short, full disks, a jumping clock; then the files must be right.

    python benchmarks/survive.py [--kills 240]

Writes survive.json. The machinery is tests/kills.py: attempts are forked, SIGKILL comes after a random time or before a
random file operation, cuts are truncations of random files of the run folder. A life is wrong when a rerun fails, or leaves
other bytes than an undisturbed run (models, library, scores, tokens), other blocks or other qualities.
"""

import argparse
import collections
import json
import random
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    from kills import Lab

    from hf_puzzle import artifacts

    began, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(Path(scratch), args.seed)
        lives = 0

        def live(what: str, action) -> None:
            nonlocal lives
            lives += 1
            try:
                action(lab.up_to(lab.stages[lives % len(lab.stages)], lab.folder / f"life_{lives}"))
            except AssertionError as error:
                wrong.append({"what": what, "error": str(error)[-2000:]})
            print(f"{what}: {len(lab.kills)} kills, {len(lab.cuts)} cuts, {len(wrong)} wrong", flush=True)

        def finishes(out: Path) -> None:
            code = lab.attempt(out)
            assert code == 0, code
            lab.compare(out)

        while len(lab.kills) < args.kills:
            live("kills and cuts", lambda out: lab.life(out, kills=5, cut_share=0.2))
        sizes = random.Random(args.seed).sample(range(1_000, 400_000), 12)

        def starved(out: Path, size: int) -> None:
            code = lab.attempt(out, full_at=size)
            assert code in (0, 2), code  # it may have had enough
            finishes(out)

        for size in sizes:
            live("disk full", lambda out, size=size: starved(out, size))

        def confused(out: Path) -> None:
            assert lab.attempt(out, jumping_clock=True) == 0
            lab.compare(out)

        for _ in range(len(lab.stages)):
            live("clock", confused)
        result = {
            "kills": len(lab.kills),
            "kills_by_stage": dict(collections.Counter(lab.kills).most_common()),
            "cut_files": len(lab.cuts),
            "full_disks": len(sizes),
            "lives": lives,
            "wrong_or_lost": len(wrong),
            "wrong": wrong,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "seed": args.seed,
            "environment": artifacts.environment(),
        }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
