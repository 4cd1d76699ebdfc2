"""The package llama-cpp-python, opened once, and what it makes of a file without running it."""

import ctypes
import functools
from pathlib import Path
from types import ModuleType


EXTRA = 'pip install "hf_puzzle[llama-cpp]"'
last_error: list[str] = []


class LlamaCppError(ValueError):
    """llama.cpp refused a file, a context or a batch; the message has its own last word."""


@functools.cache
def library() -> ModuleType:
    """The package llama_cpp, its log kept to the last error."""
    try:
        import llama_cpp
    except ImportError:
        raise ImportError(f"running GGUF files needs the package llama-cpp-python: {EXTRA}") from None

    @llama_cpp.llama_log_callback
    def keep_errors(level: int, text: bytes, _) -> None:
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            last_error[:] = [text.decode(errors="replace").strip()]

    llama_cpp.llama_log_set(keep_errors, ctypes.c_void_p(0))
    llama_cpp._hf_puzzle_log = keep_errors  # the library holds no reference
    llama_cpp.llama_backend_init()
    return llama_cpp


def quantize(source: str | Path, out: str | Path, outtype: str, n_threads: int = 1) -> None:
    """Write the float32 GGUF file `source` to `out` with matrices of a type that llama.cpp makes.

    Raises:
        ImportError: llama-cpp-python is missing.
        LlamaCppError: llama.cpp refused.
    """
    llama_cpp = library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{outtype.upper()}")
    params.nthread = n_threads
    last_error.clear()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) != 0:
        raise LlamaCppError(
            f"llama.cpp does not write {outtype}: {last_error[0] if last_error else 'no reason given'}"
        )
