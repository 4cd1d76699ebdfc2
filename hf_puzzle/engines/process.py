"""An engine in a process of its own, which stays: models are exchanged in it, and questions are lines of JSON.

The process runs in an environment that has the engine and need not have hf_puzzle.
"""

import atexit
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from ..costs import Timing, Workload


_MARK = "\x02hf_puzzle "
_TAIL = 2000  # characters of its log in an error


class EngineError(ValueError):
    """An engine is not installed here, or did not run a model; the message has the way out or its last words."""


class EngineProcess:
    """One process; it starts at the first question. Close it, or use it as a context manager."""

    NAME: ClassVar[str]  # as the table of engines has it
    WORKER: ClassVar[Path]  # the program
    ERROR: ClassVar[type[EngineError]] = EngineError

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._log: Any = None
        self.starts = 0  # of processes, so far

    def _interpreter(self) -> str:
        """The Python that has the engine; raises ERROR if there is none."""
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def version(self) -> str:
        """The engine's version; loads all of it.

        Raises:
            EngineError: it is absent, or does not load.
        """
        return self._ask({"version": True})["version"]

    def time(
        self, folder: str | Path, workload: Workload, rounds: int, options: Mapping[str, Any] | None = None
    ) -> list[Timing]:
        """`rounds` timings of a model folder, by wall clock; each generates twice: one token, and all of them.

        Args:
            options: further settings of the engine, e.g. vLLM's `{"dtype": "bfloat16"}`.

        Raises:
            EngineError: it is absent, refused the model, or a generation was no slower than its own prefill.
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
            raise self.ERROR(
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
                    raise self.ERROR(f"{self.NAME}: {answer['error']}")
                return answer
        process.wait()
        self._log.seek(0)
        last = self._log.read()[-_TAIL:]
        self.close()
        raise self.ERROR(f"{self.NAME}'s process ended with {process.returncode}:\n{last}")

    def _started(self) -> subprocess.Popen:
        if self._process is None:
            command = [self._interpreter(), str(self.WORKER), self.NAME]
            self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`); a full pipe would stop it
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
            self._process = subprocess.Popen(command, **pipes, text=True, env=self._environment())
            self.starts += 1
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


_shared: dict[type[EngineProcess], EngineProcess] = {}


def shared(kind: type[EngineProcess]) -> EngineProcess:
    """The one process of an engine in this program, which ends with it."""
    if kind not in _shared:
        _shared[kind] = kind()
        atexit.register(_shared[kind].close)
    return _shared[kind]
