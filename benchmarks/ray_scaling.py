"""What a local Ray cluster gains and costs: BLD and scores with one worker, two workers, and without Ray.

    python benchmarks/ray_scaling.py [--repeats 3]

Writes ray_scaling.json. The stages `library` and `score` of recipes/puzzle/tiny_cpu.yaml at a smaller token budget, one thread
per worker, timed by the manifest's wall seconds; the ways take turns. Two workers chain their BLD jobs
(`library.states: pipeline`). Ray's own start and the imports of a worker (told
apart by a task before) are start-up, counted apart. Meant for two idle cores.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent
SETTINGS = {
    "threads": 1,
    "resources.cpu": 1,
    "library.num_tokens": 65_536,
    "score.num_tokens": 1_024,
    "score.batch_size": 8,
}
STAGES = ("library", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    import ray

    from hf_puzzle import artifacts
    from hf_puzzle.costs import cpu_threads
    from hf_puzzle.puzzle.pipeline import PuzzleRun
    from hf_puzzle.recipe import load_recipe

    recipe_path = ROOT / "recipes" / "puzzle" / "tiny_cpu.yaml"
    ways = {"in process": (None, 1), "ray, 1 worker": ("ray", 1), "ray, 2 workers": ("ray", 2)}
    seconds: dict[str, list[dict]] = {name: [] for name in ways}
    hashes = set()
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared"

        def run(out: Path, stage: str, workers: int = 1, on: str | None = None) -> float:
            settings = SETTINGS | {"resources.workers": workers}
            if workers > 1:  # one parent forward feeds both jobs
                settings["library.states"] = "pipeline"
            recipe = load_recipe(recipe_path, [f"{key}={value}" for key, value in settings.items()])
            PuzzleRun(recipe, out, recipe_path.parent).run(only=stage, on=on)
            return artifacts.read_json(out / "manifest.json")[stage]["seconds"]

        with cpu_threads(1):
            for stage in ("data", "importance"):
                run(prepared, stage)
        for repeat in range(args.repeats):
            for name, (on, workers) in ways.items():
                out = Path(scratch) / "run"
                shutil.copytree(prepared, out)
                row = {}
                if on is not None:
                    began = time.perf_counter()
                    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, namespace="hf_puzzle")
                    row["start_up_s"] = time.perf_counter() - began
                    # workers import torch and transformers in their first task
                    began = time.perf_counter()
                    ray.get([ray.remote(warm_up).remote() for _ in range(workers)])
                    row["imports_s"] = time.perf_counter() - began
                for stage in STAGES:
                    row[f"{stage}_s"] = run(out, stage, workers, on)
                row["total_s"] = sum(row[f"{stage}_s"] for stage in STAGES)
                hashes.add(
                    (artifacts.file_sha256(out / "scores.jsonl"), artifacts.file_sha256(out / "library/index.jsonl"))
                )
                seconds[name].append(row)
                print(repeat, name, row, flush=True)
                if on is not None:
                    ray.shutdown()
                shutil.rmtree(out)
    medians = {name: statistics.median(row["total_s"] for row in rows) for name, rows in seconds.items()}

    def ratios(a: str, b: str) -> dict:
        values = [x["total_s"] / y["total_s"] for x, y in zip(seconds[a], seconds[b], strict=True)]
        return {"median": round(statistics.median(values), 3), "all": [round(value, 3) for value in values]}

    result = {
        "two_workers_to_one": ratios("ray, 2 workers", "ray, 1 worker"),
        "one_worker_to_in_process": ratios("ray, 1 worker", "in process"),
        "median_s": {name: round(value, 2) for name, value in medians.items()},
        "same_files": len(hashes) == 1,
        "runs": {name: [{k: round(v, 2) for k, v in row.items()} for row in rows] for name, rows in seconds.items()},
        "settings": SETTINGS,
        "environment": artifacts.environment(),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def warm_up() -> None:
    import hf_puzzle.puzzle.pipeline  # noqa: F401

    time.sleep(1.0)  # so that every worker gets one


if __name__ == "__main__":
    main()
