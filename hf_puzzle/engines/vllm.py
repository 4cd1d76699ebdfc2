"""What generation costs on vLLM, by its own benchmark `vllm bench latency`, where vLLM is installed."""

import json
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..costs import Timing, Workload


ABSENT = "there is no executable `vllm` on PATH: `pip install vllm` on a machine with a supported GPU"


class VllmError(ValueError):
    """vLLM is not installed here, or its benchmark did not run; the message has the way out or vLLM's last words."""


def version() -> str:
    """What `vllm --version` says, which loads all of it.

    Raises:
        VllmError: there is no executable, or it fails.
    """
    executable = shutil.which("vllm")
    if executable is None:
        raise VllmError(ABSENT)
    done = subprocess.run([executable, "--version"], capture_output=True, text=True)
    if done.returncode != 0:
        raise VllmError("; ".join(["`vllm --version` fails", *done.stderr.strip().splitlines()[-1:]]))
    return done.stdout.strip().splitlines()[-1]


def latency_command(
    folder: str | Path, workload: Workload, rounds: int, output: str | Path, options: Sequence[str] = ()
) -> list[str]:
    """The benchmark's command line: weights are random, so the folder needs none; the result goes to `output`."""
    return [
        *("vllm", "bench", "latency", "--model", str(folder), "--load-format", "dummy", "--trust-remote-code"),
        *("--input-len", str(workload.prefill_tokens), "--output-len", str(workload.decode_tokens)),
        *("--batch-size", str(workload.batch_size), "--num-iters", str(rounds), "--output-json", str(output)),
        *options,
    ]


def read_latencies(path: str | Path) -> list[float]:
    """Seconds of each iteration, from the JSON that the benchmark writes.

    Raises:
        VllmError: there is none, or not in the documented format.
    """
    try:
        latencies = json.loads(Path(path).read_text(encoding="utf-8"))["latencies"]
        return [float(seconds) for seconds in latencies]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VllmError(
            f"{path} is no result of `vllm bench latency` ({type(error).__name__}: {error}): expected JSON with "
            "'latencies', a list of seconds"
        ) from None


def measure(folder: str | Path, workload: Workload, rounds: int, options: Sequence[str] = ()) -> list[Timing]:
    """`rounds` timings of the model folder, by wall clock: a run that stops at the first token is the prefill of all.

    The two runs are separate processes, so one round's prefill says nothing about the same round's decode: each decode
    time is a full latency minus the median prefill. vLLM draws prompts from the first 10000 ids, so the vocabulary must
    have as many.

    Args:
        options: further arguments of the benchmark, e.g. `["--dtype", "bfloat16"]`.

    Raises:
        VllmError: no executable `vllm`, a run that failed, or one no slower than its own prefill.
    """
    prefills = _latencies(folder, Workload(workload.batch_size, workload.prefill_tokens, 1), rounds, options)
    totals = _latencies(folder, workload, rounds, options) if workload.decode_tokens > 1 else prefills
    prefill = statistics.median(prefills)
    decodes = [total - prefill if workload.decode_tokens > 1 else 0.0 for total in totals]
    if min(decodes) < 0:
        raise VllmError(
            f"generating {workload.decode_tokens} tokens took {min(totals) * 1e3:.3f} ms, less than the median prefill "
            f"of {prefill * 1e3:.3f} ms: the machine is too noisy; decode more tokens"
        )
    return [Timing(p * 1e3, d * 1e3) for p, d in zip(prefills, decodes, strict=True)]


def _latencies(folder: str | Path, workload: Workload, rounds: int, options: Sequence[str]) -> list[float]:
    executable = shutil.which("vllm")
    if executable is None:
        raise VllmError(ABSENT)
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "latency.json"
        command = latency_command(folder, workload, rounds, output, options)
        done = subprocess.run([executable, *command[1:]], capture_output=True, text=True)
        if done.returncode != 0:
            raise VllmError(f"`{' '.join(command)}` failed with {done.returncode}:\n{done.stderr[-2000:]}")
        latencies = read_latencies(output)
    if len(latencies) != rounds:
        raise VllmError(f"`{' '.join(command)}` gave {len(latencies)} latencies for {rounds} iterations")
    return latencies
