"""OpenVINO: a folder that it opens, and what generation costs there, in one process, in which children are exchanged.

`HF_PUZZLE_OPENVINO_PYTHON` names an interpreter that has openvino; without it, it is this one.
"""

import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from .. import artifacts
from . import process
from .onnx import GRAPH, differences
from .process import EngineError, EngineProcess


PYTHON = "HF_PUZZLE_OPENVINO_PYTHON"


MODEL = "openvino_model.xml"


class OpenVino(EngineProcess):
    """A process of OpenVINO; it opens what `convert` writes."""

    NAME = "openvino"
    WORKER = Path(__file__).with_name("worker.py")

    def _interpreter(self) -> str:
        return interpreter()

    def convert(self, folder: str | Path, out: str | Path) -> None:
        """Write `folder`, which `onnx.export_onnx` wrote, to `out` as OpenVINO's own: one graph with keys and values in its
        state, and the tokenizer as graphs where there is one. `openvino_genai.LLMPipeline(out, "CPU")` opens it.

        Raises:
            EngineError: openvino or openvino-tokenizers is absent, or cannot express the graph.
        """
        folder, out = Path(folder), Path(out)
        staging = out.with_name(f".{out.name}.tmp")
        artifacts.remove(staging)
        staging.mkdir(parents=True)
        try:
            self._ask({"convert": str(folder.resolve()), "to": str(staging.resolve())})
            for path in folder.iterdir():
                if path.is_file() and not path.name.startswith((GRAPH, "export.json")) and path.suffix != ".py":
                    shutil.copyfile(path, staging / path.name)
            artifacts.remove(out)
            staging.rename(out)
        finally:
            artifacts.remove(staging)

    def differences(self, model: PreTrainedModel, folder: str | Path) -> dict[str, float]:
        """As `onnx.onnx_differences`, computed by OpenVINO with what `convert` wrote.

        Raises:
            ValueError: the graph computes something else.
        """
        self._ask({"open": str(Path(folder).resolve()), "options": {}})
        with tempfile.TemporaryDirectory() as scratch:

            def run(inputs: dict[str, torch.Tensor], state: object) -> tuple[torch.Tensor, bool]:
                given, told = f"{scratch}/given.npz", f"{scratch}/told.npy"
                np.savez(given, **{name: value.numpy() for name, value in inputs.items()})
                self._ask({"logits": given, "to": told, "reset": state is None})
                return torch.from_numpy(np.load(told)), True

            return differences(model, run)


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
        f"openvino is not installed here: pip install openvino openvino-tokenizers, or name the interpreter that has it in "
        f"{PYTHON}"
    )


def shared() -> OpenVino:
    """The one process of this program, which ends with it."""
    return process.shared(OpenVino)
