"""Children of every kind go out and come back: saved, pushed to a Hub over HTTP, opened where hf_puzzle is not installed.

    python benchmarks/round_trip.py

One child per family, kind of block and position. This process makes and pushes them; one fresh process, in which
`import hf_puzzle` fails, opens them through AutoModelForCausalLM and compares. No network: the Hub is tests/hub_server.py.
"""

import argparse
import collections
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent
NUM_LAYERS = 4
POSITIONS = {"first": 0, "middle": 1, "last": NUM_LAYERS - 1}
CHUNKS = (9, 1, 2, 1, 1)  # tokens per forward with a cache; the windows are 6 and 8
CACHED_TOLERANCE = 1e-5
DECILM_FAMILIES = ("llama", "mistral", "qwen2")


def check() -> None:
    """The fresh process: for each line of stdin, open a child from the Hub and answer what was found wrong."""
    sys.modules["hf_puzzle"] = None
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, DynamicCache

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for line in sys.stdin:
        job = json.loads(line)
        problems, difference, refusal = [], None, None
        try:
            expected = load_file(job["expected"])
            tokens, logits = expected["tokens"], expected["logits"]
            model = AutoModelForCausalLM.from_pretrained(job["repo"], trust_remote_code=True)
            if not torch.equal(model(tokens, use_cache=False).logits, logits):
                problems.append("logits are not bit-equal")
            cache = DynamicCache()
            steps = [model(chunk, past_key_values=cache).logits for chunk in tokens.split(CHUNKS, dim=1)]
            difference = (torch.cat(steps, dim=1) - logits).abs().max().item()
            if not difference <= CACHED_TOLERANCE:
                problems.append(f"cached logits differ by {difference}")
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        try:
            AutoModelForCausalLM.from_pretrained(job["folder"], trust_remote_code=False)
            problems.append("opened without trust in remote code")
        except Exception as error:
            refusal = type(error).__name__
        print(json.dumps({"problems": problems, "difference": difference, "refusal": refusal}), flush=True)


def children():
    """(family, format, kind, position, model) of every child, one after the other."""
    from families import FAMILIES, block_kinds, family_child, own_block

    from hf_puzzle.formats import DECILM, PER_LAYER

    for fmt, families in ((PER_LAYER, FAMILIES), (DECILM, DECILM_FAMILIES)):
        for family in families:
            for kind, block in block_kinds(family).items():
                if fmt == DECILM and kind == "window":
                    continue  # refused, as DeciLM's engines ignore windows
                for position, layer_idx in POSITIONS.items():
                    blocks = [own_block(family)] * NUM_LAYERS
                    blocks[layer_idx] = block
                    yield family, fmt, kind, position, family_child(family, blocks, fmt=fmt)


def send(jobs, workdir: Path, seed: int) -> list[dict]:
    """Write, compute and push every child, and hand it to the process that `jobs` is the stdin of."""
    import torch
    import transformers
    from huggingface_hub import HfApi

    from hf_puzzle import artifacts, hub

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    tokens = torch.randint(3, 128, (2, sum(CHUNKS)), generator=torch.Generator().manual_seed(seed))
    api, sent, pushed = HfApi(), [], set()
    for family, fmt, kind, position, model in children():
        name = f"{fmt}-{family}-{kind}-{position}"
        folder = hub.write_model_folder(workdir / name, model)
        expected = workdir / f"{name}.safetensors"
        with torch.no_grad():
            logits = model(tokens, use_cache=False).logits
        artifacts.write_tensors(expected, {"tokens": tokens, "logits": logits})
        if (family, fmt) in pushed:
            api.create_repo(f"me/{name}")
            api.upload_folder(repo_id=f"me/{name}", folder_path=folder)
        else:  # once per family as transformers does it
            model.push_to_hub(f"me/{name}")
            pushed.add((family, fmt))
        sent.append({"family": family, "format": fmt, "kind": kind, "position": position})
        jobs.write(json.dumps({"repo": f"me/{name}", "folder": str(folder), "expected": str(expected)}) + "\n")
        jobs.flush()
    return sent


def summary(rows: list[dict]) -> dict:
    """Counts over `rows`, and one line per format and family."""
    lines = collections.defaultdict(list)
    for row in rows:
        lines[row["format"], row["family"]].append(row)
    return {
        "children": len(rows),
        "families": len({row["family"] for row in rows}),
        "kinds": sorted({row["kind"] for row in rows}),
        "positions": POSITIONS,
        "bit_equal": sum(
            "logits are not bit-equal" not in r["problems"] and r["difference"] is not None for r in rows
        ),
        "cached_difference_max": max(row["difference"] or 0.0 for row in rows),
        "refused_without_trust": dict(collections.Counter(row["refusal"] for row in rows if row["refusal"])),
        "failures": [row for row in rows if row["problems"]],
        "rows": [
            {
                "format": fmt,
                "family": family,
                "kinds": sorted({row["kind"] for row in part}),
                "children": len(part),
                "cached_difference_max": max(row["difference"] or 0.0 for row in part),
            }
            for (fmt, family), part in lines.items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/round_trip.json")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        return check()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from hub_server import LocalHub

    start = time.perf_counter()
    with LocalHub() as server, tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, __file__, "--check"]
        environment = server.environment(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
        with open(Path(workdir) / "answers", "w+") as answers, open(Path(workdir) / "errors", "w+") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=answers, stderr=errors, env=environment, text=True
            )
            os.environ.update(server.environment(PYTHONWARNINGS="ignore"))  # before huggingface_hub is imported
            sent = send(process.stdin, Path(workdir), args.seed)
            process.stdin.close()
            if process.wait():
                errors.seek(0)
                sys.exit(errors.read())
            answers.seek(0)
            rows = [job | json.loads(answer) for job, answer in zip(sent, answers, strict=True)]
        requests = len(server.requests)
    seconds = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(each.ru_utime + each.ru_stime for each in usage)

    from hf_puzzle import artifacts

    found = summary(rows)
    print(
        f"{found['children']} children of {found['families']} families: {found['bit_equal']} bit-equal, cached within "
        f"{found['cached_difference_max']:.1e}, {len(found['failures'])} failures, {seconds:.0f} s"
    )
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds, "http_requests": requests}
    artifacts.write_json(args.out, {"environment": artifacts.environment(), "seed": args.seed} | times | found)
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
