"""What generation costs on OpenVINO: one process of it, in which the ONNX graphs of children are exchanged.

`HF_PUZZLE_OPENVINO_PYTHON` names an interpreter that has openvino; without it, it is this one.
"""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from . import process
from .process import EngineError, EngineProcess


PYTHON = "HF_PUZZLE_OPENVINO_PYTHON"


class OpenVino(EngineProcess):
    """A process of OpenVINO; it opens what `onnx.export_onnx` writes."""

    NAME = "openvino"
    WORKER = Path(__file__).with_name("worker.py")

    def _interpreter(self) -> str:
        return interpreter()


def interpreter() -> str:
    """The Python that has openvino.

    Raises:
        EngineError: there is none, or `HF_PUZZLE_OPENVINO_PYTHON` names no file.
    """
    if named := os.environ.get(PYTHON):
        if shutil.which(named) is None:
            raise EngineError(f"{PYTHON} is {named!r}, which is no executable")
        return named
    if find_spec("openvino") is not None:
        return sys.executable
    raise EngineError(
        f"openvino is not installed here: pip install openvino, or name the interpreter that has it in {PYTHON}"
    )


def shared() -> OpenVino:
    """The one process of this program, which ends with it."""
    return process.shared(OpenVino)
