"""This code against an earlier commit of it: seconds of the stages that a search takes, the child that comes out, memory.

    git worktree add --detach ../old d79c983
    python benchmarks/against.py --old ../old --runs runs/against

Both run their own demo recipe, stage by stage in processes of their own, in turn. The children are compared on one test
text and timed in one session. Memory is the peak of the processes of `score` and `evaluate` on a random parent with
SmolLM2's vocabulary, the same recipe for both; a process that only imports is taken off.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from hf_puzzle import artifacts


ROOT = Path(__file__).parent.parent
BEFORE, STAGES = ("data", "importance"), ("library", "score", "cost", "solve")
VOCABULARY = 49_152  # of SmolLM2
MEMORY = """
parent: {name: parent, dtype: float32}
data: {name: python-stdlib, sequence_length: 512, num_tokens: 40_000, heldout_tokens: 60_000, heldout_fraction: 0.04}
search_space: {attention: [1], ffn: [0.5]}
importance: {num_tokens: 4_096}
library: {num_tokens: 0}
score: {num_tokens: 8_192, batch_size: 8}
cost: {batch_sizes: [1], prefill_tokens: 8, decode_tokens: 4, rounds: 1, calibration_children: 2, stack_layers: 1, dtype: float32}
constraints: {num_parameters: 34_000_000}
child: {refit: false}
distill: {num_tokens: 0}
evaluate: {num_tokens: 16_384, batch_size: 8, task_items: 8, assisted_prompts: 0, measure_rounds: 2}
"""


def run(code: Path, recipe: Path, out: Path, stage: str) -> tuple[float, int]:
    """Seconds of a stage by the run's own manifest, and the peak memory of its process in bytes."""
    command = [sys.executable, "-m", "hf_puzzle.cli", "run", str(recipe), "--out", str(out), "--only", stage]
    peak = measured_peak(command, code)
    return artifacts.read_json(out / "manifest.json")[stage]["seconds"], peak


def measured_peak(command: list[str], code: Path) -> int:
    """Peak resident bytes of a command that imports hf_puzzle from `code`."""
    # a process between, so that the peak of earlier commands is not taken for this one's
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        env=os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"}, cwd=code, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout) * 1024


def random_parent(folder: Path) -> None:
    """Two narrow layers under a large vocabulary, with the demo's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "recipes/puzzle/tiny_parent").save_pretrained(folder)


def memory(sides: dict[str, Path], runs: Path) -> dict:
    """Peak bytes of `score` and `evaluate` beyond a process that imports the library and loads the parent."""
    random_parent(runs / "parent")
    (runs / "memory.yaml").write_text(MEMORY)
    load = (
        "from transformers import AutoModelForCausalLM as A; import hf_puzzle.puzzle.pipeline; A.from_pretrained({!r})"
    )
    result = {}
    for name, code in sides.items():
        bare = measured_peak([sys.executable, "-c", load.format(str(runs / "parent"))], code)
        peaks = {}
        for stage in (*BEFORE, *STAGES, "child", "distill", "evaluate"):
            _, peaks[stage] = run(code, runs / "memory.yaml", runs / f"memory_{name}", stage)
        result[name] = {stage: peaks[stage] - bare for stage in ("score", "evaluate")} | {"bare": bare}
    return result | {"ratio": {s: result["new"][s] / result["old"][s] for s in ("score", "evaluate")}}


def children(runs: dict[str, Path], rounds: int) -> dict:
    """The children of both sides before and after the refit, on the new run's test text, and their speeds in one session."""
    from hf_puzzle import hub
    from hf_puzzle.blocks import Block
    from hf_puzzle.puzzle.assess import test_targets
    from hf_puzzle.puzzle.bench import jsonable
    from hf_puzzle.puzzle.pipeline import PuzzleRun
    from hf_puzzle.recipe import load_recipe

    recipe = ROOT / "recipes/puzzle/tiny_cpu.yaml"
    run = PuzzleRun(load_recipe(recipe), runs["new"], recipe.parent)
    layouts = {name: artifacts.read_json(each / "solutions.json")["chosen"]["blocks"] for name, each in runs.items()}
    parsed = [[Block.parse(text) for text in blocks] for blocks in layouts.values()]
    speeds = run.bench.confirm(parsed, 64, 4, rounds)
    targets = test_targets(run)
    return {
        name: {
            "blocks": layouts[name],
            "quality": targets.compare(hub.open_model_folder(runs[name] / "child")).to_dict(),
            "speed": jsonable(speed),
        }
        for name, speed in zip(runs, speeds, strict=True)
    }


def times(sides: dict[str, Path], runs: Path, repeats: int) -> dict:
    """Seconds of the stages of both sides, in turn, and what became of the children."""
    seconds: dict[str, list[dict]] = {name: [{} for _ in range(repeats)] for name in sides}
    for repeat in range(repeats):
        for stages in (BEFORE, *([stage] for stage in STAGES), ["child"]):
            for name, code in list(sides.items())[:: -1 if repeat % 2 else 1]:
                for stage in stages:
                    took, _ = run(code, code / "recipes/puzzle/tiny_cpu.yaml", runs / f"{name}_{repeat}", stage)
                    if stage in STAGES:
                        seconds[name][repeat][stage] = took
                        print(name, repeat, stage, f"{took:.1f} s", flush=True)
    totals = {name: [sum(each.values()) for each in rows] for name, rows in seconds.items()}
    return {
        "seconds": seconds,
        "total_s": totals,
        "ratio": [new / old for old, new in zip(totals["old"], totals["new"], strict=True)],
        "children": children({name: runs / f"{name}_0" for name in sides}, rounds=3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the earlier commit")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", choices=["times", "memory"], help="the other part of --out stays as it is")
    parser.add_argument("--note", help="what else ran meanwhile")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/against.json")
    args = parser.parse_args()
    sides = {"old": args.old.resolve(), "new": ROOT.resolve()}
    runs = args.runs.resolve()
    runs.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(
        ["git", "-C", str(args.old), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    result = artifacts.read_json(args.out) if args.only and args.out.exists() else {}
    about = {"environment": artifacts.environment(), "old_commit": commit.stdout.strip(), "note": args.note}
    if args.only != "memory":
        result["times"] = about | times(sides, runs, args.repeats)
    if args.only != "times":
        result["memory"] = about | {"bytes": memory(sides, runs)}
    artifacts.write_json(args.out, result)
    print(
        json.dumps(
            {
                "ratio": result.get("times", {}).get("ratio"),
                "memory": result["memory"]["bytes"]["ratio"] if "memory" in result else None,
            }
        )
    )


if __name__ == "__main__":
    main()
