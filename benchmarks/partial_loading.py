"""What a BLD job for some layers of a large parent reads and holds, against the bytes of its own layers.

    python benchmarks/partial_loading.py --scratch FOLDER

Writes a random-weight parent of Llama-3.1-8B's shapes in bfloat16 (16 GB, one shard per four layers) layer by layer,
measures each job in a process of its own, and deletes the parent. The job for layers 16..20 gets its states from the
job below (`states.Upstream`); reading all weights and one forward over them make sure that every byte counts.
"""

import argparse
import functools
import json
import os
import queue
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save, save_file
from transformers import AutoConfig, LlamaConfig

from hf_puzzle import artifacts
from hf_puzzle.puzzle.loading import Shards, layer_bytes, load_layers
from hf_puzzle.puzzle.states import LayerStream, Upstream
from hf_puzzle.puzzle.surgery import meta_parent


SHAPES = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
LIMIT = 1.2


def write_parent(folder: Path, layers_per_shard: int = 4) -> None:
    config = LlamaConfig(**SHAPES, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    groups: dict[int, list] = {}
    for name, parameter in meta_parent(config).named_parameters():
        layer = int(name.split(".")[2]) if ".layers." in name else None
        groups.setdefault(-1 if layer is None else layer // layers_per_shard, []).append((name, parameter.shape))
    weight_map = {}
    for number, tensors in enumerate(groups.values(), start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: _random(shape) for name, shape in tensors}, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name, _ in tensors}
        with open(folder / file, "rb") as written:  # out of the page cache: reading must come from the disk
            os.fsync(written.fileno())
            os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    artifacts.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


@functools.cache
def _row() -> torch.Tensor:
    return torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()


def _random(shape: torch.Size) -> torch.Tensor:
    """Random weights, the same over and over: 8 G values drawn one by one would take the longest of all."""
    row = _row()
    return row.repeat(-(-shape.numel() // len(row)))[: shape.numel()].view(shape)


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def job(folder: Path, start: int, stop: int) -> dict:
    """One job: load, one forward of its layers over states, and what that took."""
    config = AutoConfig.from_pretrained(folder)
    shards = Shards(folder)
    own = layer_bytes(shards, range(start, stop))
    read, held, began = _read_bytes(), _rss(), time.perf_counter()
    parent = load_layers(shards, config, start, stop, with_embeddings=start == 0)
    tokens = torch.randint(0, config.vocab_size, (1, 16), generator=torch.Generator().manual_seed(0))
    if start == 0:
        LayerStream(parent, range(start, stop)).run(tokens)
    else:
        channel = queue.Queue()
        states = torch.randn(1, 16, config.hidden_size, dtype=torch.bfloat16)
        channel.put(save({"input_ids": tokens, "states": states}))
        stream = LayerStream(parent, range(start, stop), Upstream(channel))
        for batch, entering in stream.with_states([tokens]):
            stream.run(batch, entering)
    if start == 0:
        own += config.vocab_size * config.hidden_size * 2  # the first job's own part includes the embeddings
    return {
        "layers": [start, stop],
        "own_bytes": own,
        "loader_bytes": shards.bytes_read,
        "loader_ratio": shards.bytes_read / own,
        "disk_bytes": _read_bytes() - read,
        "disk_ratio": (_read_bytes() - read) / own,
        "resident_bytes": _rss() - held,
        "resident_ratio": (_rss() - held) / own,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the parent; deleted afterwards")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--job", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.job:
        print(json.dumps(job(args.scratch, *args.job)))
        return
    args.scratch.mkdir(parents=True)
    try:
        write_parent(args.scratch)
        size = sum(path.stat().st_size for path in args.scratch.iterdir())
        jobs = []
        for layers in ((16, 20), (15, 16), (0, 4)):
            command = [sys.executable, __file__, "--scratch", str(args.scratch), "--job", *map(str, layers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            jobs.append(json.loads(done.stdout.splitlines()[-1]))
            print(jobs[-1])
    finally:
        shutil.rmtree(args.scratch)
    worst = max(row[f"{what}_ratio"] for row in jobs for what in ("loader", "disk", "resident"))
    artifacts.write_json(
        args.out,
        {
            "environment": artifacts.environment(),
            "parent_bytes": size,
            "jobs": jobs,
            "worst_ratio": worst,
            "limit": LIMIT,
        },
    )
    print(
        f"a job loads at most {worst:.3f}x the bytes of its own part (limit {LIMIT}x); the parent has {size / 1e9:.1f} GB"
    )
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
