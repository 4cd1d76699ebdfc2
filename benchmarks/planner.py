"""`hf-puzzle plan` against the machine: predicted and measured time and peak memory of every stage.

    OMP_NUM_THREADS=1 python benchmarks/planner.py

Three parents: that of recipes/puzzle/tiny_cpu.yaml, a random one of ten times its size, and a random one of another shape
that no formula was tried on before. Every stage runs in a process
of its own, so that its peak is its own; the plan is made, in another process, before the stage runs. Time is processor
time of one thread. Then the plan of a 70 B parent, and the published layouts.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hf_puzzle import artifacts
from hf_puzzle.costs import _resident_bytes
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
TINY = ROOT / "recipes/puzzle/tiny_cpu.yaml"
TOO_SHORT_S = 1.5
GATES = {"memory": 0.15, "time": 0.30, "plan_s": 30.0, "plan_bytes": 2e9}

# recipes/puzzle/tiny_cpu.yaml with fewer tokens and rounds; the larger parent with fewer blocks
REDUCED = {
    "tiny": [
        "threads=1", "data={name: python-stdlib, sequence_length: 128, num_tokens: 300_000, heldout_tokens: 60_000}",
        "importance.num_tokens=16_384", "library.num_tokens=16_384", "score.num_tokens=512", "cost.rounds=1",
        "constraints={num_parameters: 2_400_000}", "distill.num_tokens=32_768",
        "evaluate={num_tokens: 8_192, batch_size: 32, task_items: 100, assisted_prompts: 2, measure_rounds: 4}",
        "baselines={names: [drop_layers], num_tokens: [0]}",
    ],
    "larger": [
        "threads=1", "parent={name: larger_parent, dtype: float32}", "importance={num_tokens: 4_096, batch_size: 8}",
        "data={name: python-stdlib, sequence_length: 128, num_tokens: 300_000, heldout_tokens: 60_000}",
        "search_space={attention: [4, none], ffn: [0.5, none]}",
        "library={num_tokens: 8_192, batch_size: 8, eval_tokens: 1_024, evals: 2, skip_below: 0.0}",
        "score={num_tokens: 1_024, batch_size: 8}",
        "cost={batch_sizes: [8], prefill_tokens: 32, decode_tokens: 16, dtype: float32, clock: cpu, threads: 1, rounds: 1, stack_layers: 4, calibration_children: 3}",
        "constraints={num_parameters: 24_000_000}", "child={refit_tokens: 4_096}",
        "distill={num_tokens: 8_192, batch_size: 8, learning_rate: 1.0e-3}",
        "evaluate={num_tokens: 2_048, batch_size: 8, task_items: 32, assisted_prompts: 1, assisted_new_tokens: 16, measure_rounds: 3}",
        "baselines={names: []}",
    ],
}  # fmt: skip
# made after the formulas were settled on the other two
REDUCED["unseen"] = [
    "threads=1", "parent={name: unseen_parent, dtype: float32}", "importance={num_tokens: 8_192, batch_size: 16}",
    "data={name: python-stdlib, sequence_length: 96, num_tokens: 250_000, heldout_tokens: 50_000}",
    "search_space={attention: [2, linear, none], ffn: [0.5, 0.25]}",
    "library={num_tokens: 12_288, batch_size: 16, eval_tokens: 1_536, evals: 2}",
    "score={num_tokens: 1_536, batch_size: 16}",
    "cost={batch_sizes: [16], prefill_tokens: 48, decode_tokens: 24, dtype: float32, clock: cpu, threads: 1, rounds: 1, stack_layers: 4, calibration_children: 3}",
    "constraints={num_parameters: 9_000_000}", "child={refit_tokens: 6_144}",
    "distill={num_tokens: 15_360, batch_size: 16, learning_rate: 1.0e-3}",
    "evaluate={num_tokens: 4_096, batch_size: 16, task_items: 48, assisted_prompts: 1, assisted_new_tokens: 16, measure_rounds: 3}",
    "baselines={names: [greedy], num_tokens: [0]}",
]  # fmt: skip
SHAPES = {"larger": {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 8, "max_position_embeddings": 512, "vocab_size": 8192, "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}, "unseen": {
    "hidden_size": 320, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 10,
    "num_key_value_heads": 10, "max_position_embeddings": 256, "vocab_size": 4096, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}}  # fmt: skip


def write_parent(folder: Path, shape: dict) -> None:
    """Random weights (38 M and 21 M parameters), with the tiny parent's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY.parent / "tiny_parent").save_pretrained(folder)


def recipe_of(case: str, work: Path):
    """Recipe and its folder."""
    folder = TINY.parent if case == "tiny" else work
    if case in SHAPES and not (work / f"{case}_parent").exists():
        write_parent(work / f"{case}_parent", SHAPES[case])
    return load_recipe(TINY, REDUCED[case]), folder


def predict(case: str, work: str) -> dict:
    """The plan for this machine; what a fresh process does."""
    from hf_puzzle.puzzle.plan import plan

    torch.set_num_threads(1)
    recipe, folder = recipe_of(case, Path(work))
    began = time.process_time()
    made = plan(recipe, folder, "this").to_dict()
    return made | {"measuring_cpu_s": time.process_time() - began}


def run_stage(case: str, work: str, name: str) -> dict:
    """One stage; what a fresh process does. Its peak is `VmHWM`: `ru_maxrss` carries that of whoever started us."""
    from transformers import AutoModelForCausalLM, Trainer  # noqa: F401 (part of the baseline, loaded lazily)

    from hf_puzzle.costs import cpu_threads
    from hf_puzzle.puzzle.pipeline import PuzzleRun
    from hf_puzzle.stages import run_stages

    recipe, folder = recipe_of(case, Path(work))
    run = PuzzleRun(recipe, Path(work) / "run", folder)
    base, began, wall = _resident_bytes("VmHWM"), _cpu_seconds(), time.perf_counter()
    with cpu_threads(1):
        run_stages(run.run_dir, run.stages(), only=name, say=lambda line: None)
    seconds = _cpu_seconds() - began
    peak = _resident_bytes("VmHWM")
    return {"base_bytes": base, "peak_bytes": peak, "cpu_s": seconds, "wall_s": time.perf_counter() - wall}


def _cpu_seconds() -> float:
    """Of this process and those it started (`evaluate` measures memory in processes of their own)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def in_fresh_process(call: str, *arguments: str) -> dict:
    program = "import json, sys; sys.path.insert(0, sys.argv[1]); import planner;"
    program += "print(json.dumps(getattr(planner, sys.argv[2])(*sys.argv[3:])))"
    # one thread: what is compared is processor time
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, str(Path(__file__).parent), call, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{call} {arguments} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(case: str, work: Path) -> dict:
    """Every stage: what the plan says, then what it took."""
    from hf_puzzle.puzzle.estimates import PROCESS_BYTES

    work.mkdir(parents=True, exist_ok=True)
    made, rows = in_fresh_process("predict", case, str(work)), []
    for stage in made["stages"]:
        kept = work / f"{stage['stage']}.json"
        if not kept.exists():
            artifacts.write_json(kept, in_fresh_process("run_stage", case, str(work), stage["stage"]))
        measured = artifacts.read_json(kept)
        # the bare process is measured; the plan's own constant for it is not what is judged here
        own = stage["memory_bytes"] - PROCESS_BYTES
        predicted = own + measured["base_bytes"]
        row = {
            "stage": stage["stage"],
            "predicted_s": stage["seconds"],
            "measured_cpu_s": measured["cpu_s"],
            "measured_wall_s": measured["wall_s"],
            "time_error": stage["seconds"] / measured["cpu_s"] - 1,
            "predicted_bytes": predicted,
            "measured_bytes": measured["peak_bytes"],
            "memory_error": predicted / measured["peak_bytes"] - 1,
            "memory_error_without_process": own / max(1, measured["peak_bytes"] - measured["base_bytes"]) - 1,
            "memory_parts": stage["memory"],
        }
        rows.append(row)
        print(
            f"{case} {row['stage']:16} {row['predicted_s']:7.1f} s, took {row['measured_cpu_s']:7.1f} ({row['time_error']:+.0%})   "
            f"{predicted / 1e6:6.0f} MB, took {row['measured_bytes'] / 1e6:6.0f} ({row['memory_error']:+.0%}; own "
            f"{row['memory_error_without_process']:+.0%})", flush=True,
        )  # fmt: skip
    total = sum(r["predicted_s"] for r in rows) / sum(r["measured_cpu_s"] for r in rows) - 1
    return {
        "parameters": made["parent_parameters"],
        "overrides": REDUCED[case],
        "measuring_cpu_s": made["measuring_cpu_s"],
        "time_error_of_the_sum": total,
        "stages": rows,
    }


def large_plan() -> dict:
    """A plan of a 70 B parent: seconds and peak memory of the whole command, the interpreter's start included."""
    recipe = ROOT / "recipes/puzzle/llama_3.1_8b.yaml"
    program = (
        "import sys, time; from hf_puzzle.cli import main; from hf_puzzle.costs import _resident_bytes;"
        "main(sys.argv[1:]); print(time.process_time(), _resident_bytes('VmHWM'))"
    )
    arguments = ["plan", str(recipe), "--parent", "llama-70b", "--machine", "h100-80gb", "--workers", "8", "--json"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    wall = time.perf_counter() - began
    *text, last = done.stdout.strip().splitlines()
    made, (cpu, peak) = json.loads("\n".join(text)), last.split()
    stages = [
        {k: row[k] for k in ("stage", "tasks", "seconds", "memory_bytes", "disk_bytes")} for row in made["stages"]
    ]
    return {
        "cpu_s": float(cpu),
        "wall_s": wall,
        "peak_bytes": int(peak),
        "stages": stages,
        "problems": made["problems"],
    }


def gate(result: dict) -> dict:
    rows = [row for case in result["cases"].values() for row in case["stages"]]
    # a stage with nothing to do, and the figures, take less than can be told from noise
    times = [abs(row["time_error"]) for row in rows if row["measured_cpu_s"] > TOO_SHORT_S]
    memory = [abs(row["memory_error"]) for row in rows]
    return {
        "limits": GATES,
        "time": {"worst": max(times), "median": statistics.median(times), "within": sum(e <= GATES["time"] for e in times), "of": len(times)},
        "memory": {"worst": max(memory), "median": statistics.median(memory), "within": sum(e <= GATES["memory"] for e in memory), "of": len(memory)},
        "plan": result["plan_70b"]["cpu_s"] < GATES["plan_s"] and result["plan_70b"]["peak_bytes"] < GATES["plan_bytes"],
    }  # fmt: skip


def main() -> None:
    from hf_puzzle.puzzle.published import predictions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="keep the runs here; stages measured there before are not run again")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        result = {"environment": artifacts.environment(), "load_average": os.getloadavg()}
        result["cases"] = {case: compare(case, work / case) for case in REDUCED}
    result["plan_70b"] = large_plan()
    result["published"] = predictions()
    result["gates"] = gate(result)
    artifacts.write_json(args.out, result)
    print(json.dumps(result["gates"], indent=1))


if __name__ == "__main__":
    main()
