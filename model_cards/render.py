"""Make the runs of the tiny recipes, as far as they are not finished, and render their cards to `examples/`.

    python model_cards/render.py [--runs runs/cards] [--out model_cards/examples] [--set a.b=value] [SYSTEM ...]

Nothing is downloaded or published; on two CPU cores the three runs take about half an hour together.
"""

import argparse
import shutil
import sys
from pathlib import Path

from hf_puzzle.cli import main as hf_puzzle
from hf_puzzle.publishing import staged


HERE = Path(__file__).parent
# made by their recipes from nothing, pcw and mrkl inherit no licence
LICENSES = {"puzzle": None, "pcw": "apache-2.0", "mrkl": "apache-2.0"}
KEPT = ("README.md", "config.json", "eval.json", "overrides.json", "puzzle.json", "recipe.yaml", "figures")


def render(system: str, run: Path, out: Path) -> None:
    """Replace `out` by what `hf-puzzle publish` would send for `run`, without weights and code."""
    shutil.rmtree(out, ignore_errors=True)
    with staged(run, f"your-name/tiny-{system}", LICENSES[system], None) as uploads:
        for name, path in uploads[-1].files.items():
            if name.split("/")[0] in KEPT:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, out / name)
        for note in uploads[-1].notes:
            print(f"{system}: {note}")
    print(f"{system}: {out / 'README.md'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/cards"), help="where the runs are, or will be")
    parser.add_argument("--out", type=Path, default=HERE / "examples")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="a.b=value", help="as for `run`"
    )
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"default: {' '.join(LICENSES)}")
    args = parser.parse_args()
    if unknown := set(args.systems) - set(LICENSES):
        parser.error(f"unknown system {', '.join(sorted(unknown))}: choose from {', '.join(LICENSES)}")
    for system in args.systems or LICENSES:
        recipe = HERE.parent / "recipes" / system / "tiny_cpu.yaml"
        changes = [f"--set={each}" for each in args.overrides]
        if code := hf_puzzle(["run", str(recipe), "--out", str(args.runs / system), *changes]):
            return code
        render(system, args.runs / system, args.out / system)
    return 0


if __name__ == "__main__":
    sys.exit(main())
