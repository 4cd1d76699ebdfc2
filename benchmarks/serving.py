"""What users of a server wait for: parent and child behind `transformers serve` and llama.cpp's server.

    python benchmarks/serving.py --parent runs/smollm2_135m/parent --child runs/smollm2_135m/distilled
    python benchmarks/serving.py --figure serving.png    # throughput against the speed that a user sees, of the JSON

Both servers of an engine stand at once and answer the same requests, in turns of one model each, so that a machine's drift
meets both; the other one is idle meanwhile. Two loads:

- users: 1 to 16 at once, each asking again as soon as the answer is there. `transformers serve` batches them (continuous
  batching); llama-cpp-python's server takes one after the other, and requests wait for their turn.
- Poisson: arrivals at a share of what the parent can do one request after the other; requests in flight are bounded, and
  those that wait for a place count from their arrival.

Energy is the processor packages' by the kernel's counters, where they can be read. Needs the extras `serving` of
transformers, `server` of llama-cpp-python.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.energy import Counters
from hf_puzzle.engines import llama_server
from hf_puzzle.engines.check import OPENS, check_folder
from hf_puzzle.engines.export import export
from hf_puzzle.engines.gguf import write_gguf


ROOT = Path(__file__).parent.parent
PROMPTS = (
    "What is the capital of Norway, and what is it known for?",
    "Write a short note to a neighbour whose parcel came to my door.",
    "Explain to a child why the sky is blue.",
    "List three things to check before a long bicycle trip.",
    "What does a package manager do?",
    "Give me a name for a café beside a railway station, and say why.",
    "How do I boil an egg so that the yolk stays soft?",
    "Summarise in two sentences what a library is for.",
)
# requests that a server has at once, further ones wait here: llama-cpp-python's was seen to end at the second one, before
# engines/llama_server.py
IN_FLIGHT = {"transformers": 16, "llama.cpp": 1}
_places: dict[int, threading.Semaphore] = {}  # by port


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def command_of(engine: str, path: Path, port: int, threads: int) -> list[str]:
    place = ["--host", "127.0.0.1", "--port", str(port)]
    if engine == "transformers":
        program = str(Path(sys.executable).with_name("transformers"))
        # its cache takes most of a machine's memory unless it is told how much
        batching = ["--continuous-batching", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512"]
        return [program, "serve", str(path), *place, "--trust-remote-code", "--device", "cpu", *batching]
    settings = ["--n_ctx", "2048", "--n_threads", str(threads)]
    return [sys.executable, "-P", llama_server.__file__, "--model", str(path), *settings, *place]


def as_served(engine: str, path: Path, out: Path, outtype: str) -> Path:
    """What the engine opens: a GGUF file; for continuous batching, a folder whose layers have one count of KV heads."""
    if engine == "llama.cpp":
        return write_gguf(path, out.with_suffix(".gguf"), outtype)
    if not (path / "puzzle.json").exists():
        return path
    (verdict,) = (v for v in check_folder(path) if v.engine == "continuous-batching")
    if verdict.status == OPENS:
        return path
    print("\n".join(export(path, "continuous-batching", out)), flush=True)
    return out


@contextlib.contextmanager
def server(engine: str, path: Path, threads: int, log: Path) -> Iterator[int]:
    """A running server's port."""
    port = free_port()
    _places[port] = threading.Semaphore(IN_FLIGHT[engine])
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command_of(engine, path, port, threads), env=env, stdout=output, stderr=output)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    raise SystemExit(f"{engine} ended with {process.returncode}: {log.read_text()[-2000:]}")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.5)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def ask(port: int, model: str, prompt: str, max_tokens: int) -> tuple[list[float], str]:
    """Times at which pieces of a streamed answer came, and the answer; waits for a place at the server."""
    with _places[port]:
        return _ask(port, model, prompt, max_tokens)


def _ask(port: int, model: str, prompt: str, max_tokens: int) -> tuple[list[float], str]:
    body = {
        "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "temperature": 0,
        "stream": True,
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{response.status}: {response.read()[:500]}")
    times, said = [], ""
    for line in response:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        choices = json.loads(line[6:]).get("choices") or [{}]
        if piece := choices[0].get("delta", {}).get("content"):
            times.append(time.perf_counter())
            said += piece
    connection.close()
    return times, said


def load(port: int, model: str, arrivals: list[float], prompts: list[str], max_tokens: int) -> list[dict]:
    """Send the requests at their times; seconds to the first piece, between pieces, and in all, of each."""
    found, start = [None] * len(arrivals), time.perf_counter()

    def one(index: int) -> None:
        arrived = start + arrivals[index]
        time.sleep(max(0.0, arrived - time.perf_counter()))
        times, said = ask(port, model, prompts[index], max_tokens)
        each = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        found[index] = {"first_s": times[0] - arrived, "each_s": each, "total_s": times[-1] - arrived, "pieces": len(times), "answer": said}  # fmt: skip

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(arrivals))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if None in found:
        raise SystemExit("a request failed")
    return found


def summary(rows: list[dict]) -> dict:
    """p50 and p95 of each time."""
    found = {"requests": len(rows), "pieces": sum(row["pieces"] for row in rows)}
    for name in ("first_s", "each_s", "total_s"):
        values = [row[name] for row in rows]
        cuts = statistics.quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
        found[name] = {"p50": cuts[9], "p95": cuts[18]}
    return found


def together(port: int, model: str, users: int, requests: int, max_tokens: int, counters: Counters) -> dict:
    """So many users at once, who ask again when they are answered: pieces per second of all, and of one user."""
    rows: list[list[dict]] = []

    def run() -> None:
        rows.clear()
        rows.extend([] for _ in range(users))
        gate = threading.Barrier(users)

        def one(user: int) -> None:
            gate.wait()
            for number in range(requests):
                began = time.perf_counter()
                times, said = ask(port, model, PROMPTS[(user + number) % len(PROMPTS)], max_tokens)
                each = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
                rows[user].append({"first_s": times[0] - began, "each_s": each, "total_s": times[-1] - began, "pieces": len(times), "answer": said})  # fmt: skip

        threads = [threading.Thread(target=one, args=(user,)) for user in range(users)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    began = time.perf_counter()
    joules = counters.joules(run) if counters.zones else run()
    seconds = time.perf_counter() - began
    flat = [row for each in rows for row in each]
    if len(flat) != users * requests:
        raise SystemExit("a request failed")
    found = summary(flat)
    found |= {"pieces_per_s": found["pieces"] / seconds, "seconds": seconds}
    found["pieces_per_s_of_a_user"] = statistics.median(row["pieces"] / row["total_s"] for row in flat)
    return found | {"joules_per_piece": None if joules is None else joules / found["pieces"]}


def sweep(ports: dict[str, int], names: dict[str, str], args, counters: Counters) -> list[dict]:
    """A row for each number of users: both models in turn, and the ratios of the medians over the turns."""
    rows = []
    for users in args.users:
        turns: dict[str, list[dict]] = {name: [] for name in ports}
        for turn in range(args.turns):
            for name in list(ports)[:: -1 if turn % 2 else 1]:
                turns[name].append(together(ports[name], names[name], users, args.asked, args.max_tokens, counters))
        row: dict = {"users": users, "models": turns}
        for name in ("pieces_per_s", "pieces_per_s_of_a_user"):
            each = {who: statistics.median(turn[name] for turn in found) for who, found in turns.items()}
            row |= {name: each, f"{name}_ratio": each["child"] / each["parent"]}
        row["first_s_p50_ratio"] = _ratio(turns, "first_s")
        row["each_s_p50_ratio"] = _ratio(turns, "each_s")
        rows.append(row)
        print(users, {k: round(v, 3) for k, v in row.items() if k.endswith("ratio") and v}, flush=True)
    return rows


def _ratio(turns: dict[str, list[dict]], name: str) -> float | None:
    """Parent's over child's median of a time."""
    parent, child = (statistics.median(turn[name]["p50"] for turn in turns[who]) for who in ("parent", "child"))
    return parent / child if child else None


def poisson(ports: dict[str, int], names: dict[str, str], rate: float, args) -> dict:
    """Both models under the same arrivals, in turns."""
    rows = {name: [] for name in ports}
    draws = random.Random(0)
    for turn in range(args.turns):
        gaps = [draws.expovariate(rate) for _ in range(args.requests)]
        arrivals = [sum(gaps[: i + 1]) for i in range(len(gaps))]
        prompts = [PROMPTS[draws.randrange(len(PROMPTS))] for _ in arrivals]
        for name in list(ports)[:: -1 if turn % 2 else 1]:
            rows[name] += load(ports[name], names[name], arrivals, prompts, args.max_tokens)
    found = {name: summary(each) for name, each in rows.items()}
    ratios = {
        name: {cut: found["parent"][name][cut] / found["child"][name][cut] for cut in ("p50", "p95")}
        for name in ("first_s", "each_s", "total_s")
        if found["child"][name]["p50"]
    }
    return {"requests_per_s": rate, "models": found, "parent_over_child": ratios}


def measured(engine: str, paths: dict[str, Path], args, folder: Path) -> dict:
    """Both models of an engine, in turns."""
    with contextlib.ExitStack() as stack:
        ports = {
            name: stack.enter_context(server(engine, path, args.threads, folder / f"{engine}_{name}.log"))
            for name, path in paths.items()
        }
        names = {name: str(path) for name, path in paths.items()}
        alone = {name: [] for name in paths}
        for repeat in range(4):
            for name, port in ports.items():
                start = time.perf_counter()
                times, _ = ask(port, names[name], PROMPTS[repeat], args.max_tokens)
                if repeat:  # the first one loads
                    alone[name].append(times[-1] - start)
        seconds = {name: statistics.median(each) for name, each in alone.items()}
        users = sweep(ports, names, args, Counters())
        arrived = poisson(ports, names, args.load / seconds["parent"], args)
    return {"alone_s": seconds, "users": users, "poisson": arrived}


def figure(result: dict, path: Path) -> None:
    """Throughput against the speed that a user sees, a line for each model, a panel for each engine."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(1, len(result["engines"]), figsize=(4.5 * len(result["engines"]), 3.6), squeeze=False)
    for panel, (engine, found) in zip(axes[0], result["engines"].items(), strict=True):
        for name, style in (("parent", "o--"), ("child", "o-")):
            x, y = ([row[key][name] for row in found["users"]] for key in ("pieces_per_s_of_a_user", "pieces_per_s"))
            panel.plot(x, y, style, label=name)
            for row, a, b in zip(found["users"], x, y, strict=True):
                panel.annotate(str(row["users"]), (a, b), textcoords="offset points", xytext=(4, 4), fontsize=8)
        panel.set(title=engine, xlabel="tokens/s that a user sees", ylabel="tokens/s of the server", xscale="log")
        panel.legend(title="number: users at once", fontsize=8, title_fontsize=8)
    drawn.tight_layout()
    drawn.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=Path)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--figure", type=Path, help="draw the JSON of --out, and measure nothing")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--asked", type=int, default=2, help="requests of each user in a turn")
    parser.add_argument("--note", help="what else ran meanwhile, and what the child is")
    parser.add_argument("--engines", nargs="+", default=["transformers", "llama.cpp"])
    parser.add_argument("--outtype", default="q8_0", help="of the GGUF files")
    parser.add_argument("--load", type=float, default=0.6, help="share of the parent's own rate")
    parser.add_argument("--requests", type=int, default=20, help="of one turn of the Poisson load")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of each server")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/serving.json")
    args = parser.parse_args()
    if args.figure:
        figure(artifacts.read_json(args.out), args.figure)
        return
    if args.parent is None or args.child is None:
        parser.error("--parent and --child are needed")
    folders = {"parent": args.parent.resolve(), "child": args.child.resolve()}
    left_out = ("parent", "child", "out", "engines", "figure")
    facts = {key: value for key, value in vars(args).items() if key not in left_out}
    result = {"environment": artifacts.environment(), **facts, "in_flight": IN_FLIGHT, "engines": {}}
    if not Counters().zones:
        result["energy"] = "no counter of this machine's processor packages can be read"
    with tempfile.TemporaryDirectory() as folder:
        for engine in args.engines:
            paths = {
                name: as_served(engine, path, Path(folder) / name, args.outtype) for name, path in folders.items()
            }
            result["engines"][engine] = measured(engine, paths, args, Path(folder))
            print(engine, json.dumps(result["engines"][engine]["poisson"]["parent_over_child"]), flush=True)
            artifacts.write_json(args.out, result)


if __name__ == "__main__":
    main()
