"""ONNX graphs against the models they come from: largest logit differences of the prefill and of decoding steps.

    python benchmarks/export_onnx.py

The parent is recipes/puzzle/tiny_parent; its children have random weights, and every kind of block between them.
"""

import argparse
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.engines.onnx import PACKAGES, TOLERANCE, export_onnx
from hf_puzzle.puzzle.network import Network


ROOT = Path(__file__).parent.parent
PARENT = ROOT / "recipes/puzzle/tiny_parent"
OWN = Block(8, 1024)
CHILDREN = {
    "mixed KV heads": [OWN, Block(4, 1024), Block(2, 512), Block(1, 256)],
    "linear blocks": [OWN, Block("linear", 1024), Block(4, "linear"), Block("linear", "linear")],
    "attention-free first layer": [Block("none", 512), OWN, Block(2, 256), Block("none", 1024)],
    "absent blocks": [OWN, Block("none", "none"), Block(2, "none"), Block("none", 512), Block(4, 512)],
    "no attention": [Block("none", 512), Block("linear", 1024), Block("none", "linear")],
}


def measured(folder: Path, out: Path) -> dict:
    start = time.perf_counter()
    differences = export_onnx(folder, out)
    return {
        "logit_difference": differences,
        "export_seconds": round(time.perf_counter() - start, 1),
        "bytes": sum(path.stat().st_size for path in out.iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", type=Path, nargs="*", default=[], help="model folders to export besides")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/onnx.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = AutoModelForCausalLM.from_pretrained(PARENT, dtype=torch.float32).config
    config.initializer_range = 0.1  # spread enough for every block to matter
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        folders = {"parent": PARENT, **{path.name: path for path in args.child}}
        for name, blocks in CHILDREN.items():
            torch.manual_seed(0)
            folders[name] = scratch / name
            Network(config, blocks).random(torch.float32).save_pretrained(folders[name])
        for name, folder in folders.items():
            rows[name] = measured(folder, scratch / "onnx") | {"blocks": [b.id for b in CHILDREN.get(name, [])]}
            print(name, rows[name])
    worst = max(value for row in rows.values() for value in row["logit_difference"].values())
    print(f"largest logit difference of {len(rows)} models: {worst:.1e}")
    environment = artifacts.environment() | {"onnx": {name: version(name) for name in PACKAGES}}
    result = {"environment": environment, "tolerance": TOLERANCE, "largest": worst, "models": rows}
    artifacts.write_json(args.out, result)


if __name__ == "__main__":
    main()
