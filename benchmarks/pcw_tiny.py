"""Accuracy by number of windows and mode, on the small in-context model of recipes/pcw/tiny_cpu.yaml.

python benchmarks/pcw_tiny.py        # trains and evaluates, about six minutes; writes pcw_tiny.json
"""

import argparse
import tempfile
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.cli import main as hf_puzzle


ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/pcw_tiny.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        assert hf_puzzle(["run", str(ROOT / "recipes/pcw/tiny_cpu.yaml"), "--out", folder]) == 0
        artifacts.write_json(args.out, artifacts.read_json(Path(folder) / "pcw.json"))


if __name__ == "__main__":
    main()
