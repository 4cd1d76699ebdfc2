"""The demo as a user meets it after installation: minutes, peak memory, and what a second run costs.

python benchmarks/demo.py --out-dir runs/demo_benchmark
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hf_puzzle import artifacts


ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/puzzle/tiny_cpu.yaml"


def run(out: Path) -> float:
    """Seconds of one `hf-puzzle run`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "hf_puzzle.cli", "run", str(RECIPE), "--out", str(out)], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/demo.json")
    args = parser.parse_args()
    shutil.rmtree(args.out_dir, ignore_errors=True)
    first = run(args.out_dir)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    second = run(args.out_dir)
    stages = artifacts.read_json(args.out_dir / "manifest.json")
    evaluation = artifacts.read_json(args.out_dir / "eval.json")
    result = {
        "environment": artifacts.environment(),
        "minutes": first / 60,
        "peak_memory_gb": peak / 1e9,
        "second_run_s": second,
        "stage_s": {name: entry["seconds"] for name, entry in stages.items()},
        "speed": {name: evaluation["speed"][name] for name in ("total", "prefill", "decode", "same_code")},
        "quality": evaluation["quality"],
        "task": evaluation["task"],
        "gkd_tokens": evaluation["gkd_tokens"],
    }
    artifacts.write_json(args.out, result)
    print(f"{result['minutes']:.1f} minutes, {result['peak_memory_gb']:.2f} GB, second run {second:.1f} s")


if __name__ == "__main__":
    main()
