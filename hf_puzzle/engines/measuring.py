"""Timing models through the engine that will run them: what the search optimises is what the user gets."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from .. import hub
from ..blocks import Block
from ..costs import Timing, Workload
from ..formats import DECILM, build_model, format_of
from ..recipe import RecipeError
from . import ENGINES, llama_cpp, openvino, rewrites, vllm
from .gguf import tensor_types
from .onnx import EXTRA, PACKAGES, export_onnx
from .process import EngineError, EngineProcess


# engines with a process of their own, in which children are exchanged
OWN_PROCESS = {"vllm": vllm, "openvino": openvino}
_OUTTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def check_measured(engine: str, fmt: str, device: torch.device, dtype: str = "float32") -> None:
    """Raises RecipeError where costs cannot be measured in an engine, before any compute."""
    if engine == "transformers":
        return
    if fmt != DECILM and engine != "openvino":
        raise RecipeError(
            f"cost.engine: {engine} opens no {fmt} children; use `transformers`, or a Llama-shaped parent"
        )
    if engine in OWN_PROCESS:
        try:
            OWN_PROCESS[engine].interpreter()
        except EngineError as error:
            raise RecipeError(f"cost.engine: {error}; or use `transformers`") from None
    if engine == "openvino":
        if missing := [name for name in PACKAGES if find_spec(name) is None]:
            raise RecipeError(f"cost.engine: openvino runs ONNX graphs, which need {', '.join(missing)}: {EXTRA}")
        if dtype != "float32":
            raise RecipeError(
                f"cost.engine: openvino's graphs are exported in float32, cost.dtype is {dtype}; set `dtype: float32`"
            )
    if engine == "llama.cpp" and not (find_spec("llama_cpp") and find_spec("gguf")):
        raise RecipeError('cost.engine: llama.cpp is not installed: pip install "hf_puzzle[llama-cpp]"')
    if engine == "llama.cpp" and device.type != "cpu":
        raise RecipeError(
            f"cost.engine: llama.cpp is measured on the CPU, the recipe's device is {device}; set `device: cpu`"
        )


def open_engine(engine: str) -> str:
    """Load an engine that costs can be measured in, without a model; its version.

    Raises:
        RecipeError: it is not installed, or installed and does not load.
    """
    if engine == "transformers":
        return transformers.__version__
    try:
        return process_of(engine).version() if engine in OWN_PROCESS else llama_cpp.version()
    except (ImportError, OSError, RuntimeError, AttributeError, EngineError) as error:
        raise RecipeError(f"cost.engine: {engine} does not open: {error}; or use `transformers`") from None


@contextlib.contextmanager
def open_model(
    model: PreTrainedModel,
    engine: str,
    workload: Workload,
    threads: int | None = None,
    gguf_type: str = "auto",
    blocks: Sequence[Block] = (),
    cache_type: str | None = None,
) -> Iterator[Any]:
    """The same model as something that `costs.time_generation` can time in `engine`: transformers or llama.cpp.

    Args:
        gguf_type: as of `cost.gguf_type`.
        blocks: of the model; matrices are timed in the number formats that they name, where those are the engine's.
        cache_type: of keys and values in llama.cpp; default: f16.

    Raises:
        rewrites.CannotRun: a child that the engine cannot run.
    """
    if engine == "transformers":
        yield model
        return
    model = as_engine_runs_it(model, engine)
    tokens = workload.prefill_tokens + workload.decode_tokens
    with tempfile.TemporaryDirectory() as folder, llama_cpp.from_model(
        model, folder, tokens, _OUTTYPES[model.dtype] if gguf_type == "auto" else gguf_type,
        tensor_types(blocks), n_threads=threads or torch.get_num_threads(), n_seq_max=workload.batch_size,
        kv_dtype=cache_type or "f16",
    ) as runnable:  # fmt: skip
        yield runnable


def time_elsewhere(engine: str, model: PreTrainedModel, workload: Workload, rounds: int) -> list[Timing]:
    """All rounds of a model in an engine of `OWN_PROCESS`, in the process that all models of this program share.

    Raises:
        EngineError: the engine is absent, or did not run it.
        rewrites.CannotRun: a child that it cannot run.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = hub.write_model_folder(Path(folder) / "model", as_engine_runs_it(model, engine))
        if engine == "openvino":
            export_onnx(path, graph := path.with_name("graph"), check=False)
            openvino.shared().convert(graph, path := path.with_name("openvino"))
        return process_of(engine).time(path, workload, rounds)


def process_of(engine: str) -> EngineProcess:
    """The process of an engine of `OWN_PROCESS`."""
    return OWN_PROCESS[engine].shared()


def as_engine_runs_it(model: PreTrainedModel, engine: str) -> PreTrainedModel:
    """A DeciLM child after the exact rewrites for `engine`; a stock model as it is."""
    if format_of(model.config) != DECILM or ENGINES[engine].graphs:
        return model
    done = rewrites.rewrite(model.config, model.state_dict(), engine)
    if not done.changes:
        return model
    rewritten = build_model(done.config, done.state, model.dtype)
    rewritten.generation_config = model.generation_config
    return rewritten
