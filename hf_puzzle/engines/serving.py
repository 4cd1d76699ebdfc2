"""The command that serves a model folder or GGUF file with an engine that is installed: its right flags, nothing else."""

import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from .. import artifacts
from ..recipe import did_you_mean
from . import llama_server, measured, vllm
from .check import OPENS, check_folder
from .gguf import read_cache_type
from .process import EngineError


def command(path: str | Path, engine: str | None = None) -> tuple[str, list[str]]:
    """Engine and command line that serve `path` over HTTP, as OpenAI's clients ask.

    Args:
        engine: of `ENGINES`; by default the first one that is installed and opens the model.

    Raises:
        FolderError: no model is there.
        EngineError: the engine is unknown, absent, or does not open this model; with the way out.
    """
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        known, opens = {"llama.cpp": _llama_cpp}, {"llama.cpp": ""}
    else:
        known = {name: make for name, make in ENGINES.items() if name != "llama.cpp"}
        verdicts = {verdict.engine: verdict for verdict in check_folder(path)}
        opens = {name: _why_not(path, verdicts[name]) for name in known}
    if engine is not None and engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}{did_you_mean(engine, ENGINES)}; known: {', '.join(ENGINES)}")
    if engine is not None and engine not in known:
        raise EngineError(
            f"{engine} serves {'no GGUF files' if path.is_file() else 'a GGUF file'}: "
            + ("llama.cpp does" if path.is_file() else f"hf-puzzle export {path} --target llama.cpp, and serve that")
        )
    reasons = []
    for name in [engine] if engine else known:
        if opens[name]:
            reasons.append(opens[name])
        elif (found := known[name](path)) is None:
            told = measured.told(name)
            reasons.append(f"{name} is not installed here" + (f" ({told})" if told else "") + f": {INSTALL[name]}")
        else:
            return name, found
    raise EngineError(f"nothing here serves {path}: " + "; ".join(reasons))


def _why_not(path: Path, verdict) -> str:
    if verdict.status == OPENS:
        return ""
    way = f"hf-puzzle export {path} --target {verdict.engine}" if verdict.status != "no" else "another engine"
    return f"{verdict.engine} does not open it as it is ({verdict.reason}; {verdict.source}): {way}"


def _has_code(path: Path) -> bool:
    return bool(artifacts.read_json(path / "config.json", finite=False).get("auto_map"))


def _trust(path: Path) -> list[str]:
    return ["--trust-remote-code"] if _has_code(path) else []


def _vllm(path: Path) -> list[str] | None:
    try:
        python = vllm.interpreter()
    except EngineError:
        return None
    # not its script: that of the CPU build does not start, for want of metadata named vllm
    return [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path), *_trust(path)]


def _mlx_lm(path: Path) -> list[str] | None:
    return [sys.executable, "-m", "mlx_lm", "server", "--model", str(path)] if find_spec("mlx_lm") else None


def _transformers(path: Path) -> list[str] | None:
    script = Path(sys.executable).with_name("transformers")
    if not script.exists() or not (find_spec("fastapi") and find_spec("uvicorn")):
        return None
    return [str(script), "serve", str(path), *_trust(path)]


def _llama_cpp(path: Path) -> list[str] | None:
    name = read_cache_type(path) if find_spec("gguf") else None
    if script := shutil.which("llama-server"):
        flags = ["--cache-type-k", name, "--cache-type-v", name, "--flash-attn", "on"] if name else []
        return [script, "-m", str(path), *flags]
    if find_spec("llama_cpp") and find_spec("starlette_context"):
        kind = GGML_TYPES.get(name)
        flags = ["--type_k", kind, "--type_v", kind, "--flash_attn", "true"] if kind else []
        # -P: its folder has a module of the name llama_cpp
        return [sys.executable, "-P", llama_server.__file__, "--model", str(path), *flags]
    return None


ENGINES: dict[str, Callable[[Path], list[str] | None]] = {
    "vllm": _vllm,
    "mlx-lm": _mlx_lm,
    "transformers-serve": _transformers,
    "llama.cpp": _llama_cpp,
}
GGML_TYPES = {"q8_0": "8", "q4_0": "2"}  # numbers of ggml.h, which llama-cpp-python's server takes
INSTALL = {
    "vllm": f"pip install vllm into an environment of its own, named in {vllm.PYTHON}",
    "mlx-lm": "pip install mlx-lm",
    "transformers-serve": "pip install 'transformers[serving]'",
    "llama.cpp": "llama-server on PATH, or pip install 'llama-cpp-python[server]'",
}
