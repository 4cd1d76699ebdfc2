"""llama.cpp in this process: logits, greedy tokens and timings of a GGUF file, by its low-level API."""

import ctypes
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from transformers import PreTrainedModel

from ..costs import Timing, Workload, clock_ms
from .cache_types import CACHE_TYPES
from .gguf import OutType, write_model_gguf
from .llama_library import LlamaCppError, last_error
from .llama_library import library as _library


KV_TYPES = ("f16", "f32", *CACHE_TYPES)
# tokens of one llama_decode: bounds the memory of the logits, llama.cpp computes 512 at a time anyway
CHUNK = 512


def _repacks(library: ModuleType) -> bool:
    """Whether weights may be laid out anew for this CPU's products.

    Not for AMX: quantised products there end the process with an illegal access (llama-cpp-python 0.3.36; llama.cpp's
    issue 20824). Without them the same file runs by AVX-512.
    """
    return b"AMX_INT8 = 1" not in library.llama_print_system_info()


def version() -> str:
    """Load the library, and gguf, which writes its files; the version of llama-cpp-python.

    Raises:
        ImportError, OSError, RuntimeError: one of them is missing, or its shared library does not load.
    """
    import gguf  # noqa: F401

    library = _library()
    if library.llama_max_devices() < 1:
        raise RuntimeError("llama.cpp sees no device, not even the CPU")
    return library.__version__


class _Batch:
    """llama.cpp's batch over numpy arrays: filling one token by token from Python would show in the timings."""

    def __init__(self, library: ModuleType, size: int, n_seq_max: int):
        self._tokens, self._positions, self._lengths = (np.ones(size, np.int32) for _ in range(3))
        self._sequences = np.arange(n_seq_max, dtype=np.int32)
        self._pointers = np.zeros(size, np.uintp)
        self._wanted = np.zeros(size, np.int8)
        fields = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._lengths,
            "seq_id": self._pointers,
            "logits": self._wanted,
        }
        types = dict(library.llama_batch._fields_)
        self._batch = library.llama_batch(
            **{name: ctypes.cast(array.ctypes.data, types[name]) for name, array in fields.items()}
        )

    def fill(self, tokens, positions, sequences, wanted):
        """The library's own structure with one row per token."""
        count = self._batch.n_tokens = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._pointers[:count] = self._sequences.ctypes.data + self._sequences.itemsize * sequences
        self._wanted[:count] = wanted
        return self._batch


class LlamaCpp:
    """A GGUF file opened on the CPU. Close it, or use it as a context manager.

    Args:
        n_ctx: tokens that one sequence can hold.
        n_seq_max: sequences that can be generated at once.
        kv_dtype: of the KV cache, `KV_TYPES`; f32 also switches flash attention, which rounds, off, and fewer bits than 16
            need it.
    """

    def __init__(
        self,
        path: str | Path,
        n_ctx: int,
        n_threads: int = 1,
        n_seq_max: int = 1,
        kv_dtype: str = "f16",
    ):
        if kv_dtype not in KV_TYPES:
            raise ValueError(f"kv_dtype {kv_dtype!r}: expected one of {', '.join(KV_TYPES)}")
        if not Path(path).exists():
            raise LlamaCppError(f"{path} does not exist: write it with hf_puzzle.engines.gguf.write_gguf")
        self._model = self._context = None
        self.n_ctx, self.n_seq_max = n_ctx, n_seq_max
        library = self._library = _library()
        last_error.clear()

        model_params = library.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.use_extra_bufts = _repacks(library)
        self._model = library.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise self._error(f"llama.cpp does not load {path}")
        self._vocab = library.llama_model_get_vocab(self._model)
        self.vocab_size = library.llama_vocab_n_tokens(self._vocab)

        params = library.llama_context_default_params()
        params.n_ctx = n_ctx * n_seq_max
        params.n_batch = params.n_ubatch = max(CHUNK, n_seq_max)
        params.n_seq_max = n_seq_max
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k = params.type_v = getattr(library, f"GGML_TYPE_{kv_dtype.upper()}")
        if kv_dtype != "f16":
            flash = "DISABLED" if kv_dtype == "f32" else "ENABLED"
            params.flash_attn_type = getattr(library, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
        params.no_perf = True
        self._context = library.llama_init_from_model(self._model, params)
        if not self._context:
            error = self._error(f"llama.cpp makes no context of {n_seq_max} x {n_ctx} tokens for {path}")
            self.close()
            raise error
        self._memory = library.llama_get_memory(self._context)
        self._batch = _Batch(library, params.n_batch, n_seq_max)

    def _error(self, what: str) -> LlamaCppError:
        return LlamaCppError(f"{what}: {last_error[0] if last_error else 'no reason given'}")

    def close(self) -> None:
        """Free the model and its context; a closed object is of no more use."""
        if self._context is not None:
            self._library.llama_free(self._context)
        if self._model is not None:
            self._library.llama_model_free(self._model)
        self._model = self._context = None

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self):
        if getattr(self, "_model", None) is not None:
            self.close()

    def _decode(self, tokens, positions, sequences, wanted: np.ndarray) -> np.ndarray:
        """Logits (number wanted, vocab) of one batch; the array is llama.cpp's own, valid until the next call."""
        batch = self._batch.fill(tokens, positions, sequences, wanted)
        if self._library.llama_decode(self._context, batch) != 0:
            raise self._error(f"llama.cpp does not decode a batch of {len(tokens)} tokens")
        count = int(wanted.sum())
        if not count:
            return np.empty((0, self.vocab_size), np.float32)
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._context), (count, self.vocab_size))

    def _prefill(self, prompts: np.ndarray, everywhere: bool, chunk: int) -> Iterator[np.ndarray]:
        """Logits of new sequences 0, 1, ... with the tokens (sequences, length): of all positions, or of the last.

        They come in pieces of `chunk` tokens, see `_decode`.
        """
        count, length = prompts.shape
        if not 0 < length <= self.n_ctx:
            raise ValueError(f"{length} tokens: expected 1 to n_ctx = {self.n_ctx}")
        if prompts.min() < 0 or prompts.max() >= self.vocab_size:
            raise ValueError(f"token ids {prompts.min()} to {prompts.max()}: expected 0 to {self.vocab_size - 1}")
        self._library.llama_memory_clear(self._memory, False)
        tokens = prompts.reshape(-1)
        positions, sequences = np.tile(np.arange(length), count), np.repeat(np.arange(count), length)
        wanted = np.full(len(tokens), True) if everywhere else positions == length - 1
        for start in range(0, len(tokens), chunk):
            piece = slice(start, start + chunk)
            yield self._decode(tokens[piece], positions[piece], sequences[piece], wanted[piece])

    def _step(self, tokens: np.ndarray, position: int) -> np.ndarray:
        """Logits (sequences, vocab) after one more token of each sequence."""
        everyone = np.arange(len(tokens))
        return self._decode(tokens, position, everyone, np.full(len(tokens), True))

    def logits(self, tokens: Sequence[int], chunk: int = CHUNK) -> np.ndarray:
        """float32 logits (len(tokens), vocab) of all positions; `chunk=1` runs token by token through the cache."""
        pieces = self._prefill(np.array([tokens]), True, min(chunk, CHUNK))
        return np.concatenate([piece.copy() for piece in pieces])

    def last_logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 logits (vocab) of the last position, the only one computed."""
        *_, last = self._prefill(np.array([tokens]), False, CHUNK)
        return last[0].copy()

    def _greedy(self, prompts: np.ndarray, steps: int) -> Iterator[np.ndarray]:
        """The most likely next token of each sequence, `steps` times; ValueError if they do not fit."""
        count, length = prompts.shape
        if count > self.n_seq_max or length + steps - 1 > self.n_ctx:
            raise ValueError(
                f"{count} sequences of {length} + {steps} tokens do not fit n_seq_max = {self.n_seq_max} and "
                f"n_ctx = {self.n_ctx}"
            )
        tokens = np.concatenate([piece.argmax(-1) for piece in self._prefill(prompts, False, CHUNK)])
        yield tokens
        for position in range(length, length + steps - 1):
            tokens = self._step(tokens, position).argmax(-1)
            yield tokens

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        """The `n` most likely tokens after `tokens`, ends of text included."""
        return [int(step[0]) for step in self._greedy(np.array([tokens]), n)]

    def time_generation(self, workload: Workload, clock: str = "wall") -> Timing:
        """One greedy generation of `workload.batch_size` sequences in one batch, as `costs.time_generation` times it.

        ValueError if the workload does not fit `n_seq_max` and `n_ctx`.
        """
        shape = (workload.batch_size, workload.prefill_tokens)
        prompts = torch.randint(0, self.vocab_size, shape, generator=torch.Generator().manual_seed(0)).numpy()
        now = clock_ms(clock, torch.device("cpu"))
        start = now()
        steps = self._greedy(prompts, workload.decode_tokens)
        next(steps)
        first = now()
        for _ in steps:
            pass
        return Timing(first - start, now() - first)

    def _needs_vocabulary(self) -> None:
        if self._library.llama_vocab_type(self._vocab) == self._library.LLAMA_VOCAB_TYPE_NONE:
            raise ValueError("this GGUF file has no vocabulary: write it with vocabulary=True, or pass token ids")

    def tokenize(self, text: str, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Token ids; `add_special` adds what the file says, `parse_special` finds special tokens in the text, as
        transformers does."""
        self._needs_vocabulary()
        data = text.encode()
        tokens = (ctypes.c_int32 * (len(data) + 3))()
        count = self._library.llama_tokenize(
            self._vocab, data, len(data), tokens, len(tokens), add_special, parse_special
        )
        if count < 0:
            raise LlamaCppError(f"llama.cpp made {-count} tokens of {len(data)} bytes")
        return tokens[:count]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens from its start, special ones spelled out; incomplete UTF-8 becomes U+FFFD."""
        self._needs_vocabulary()
        pieces = []
        for token in tokens:
            buffer = ctypes.create_string_buffer(64)
            size = self._library.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            if size < 0:
                buffer = ctypes.create_string_buffer(-size)
                size = self._library.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            pieces.append(buffer.raw[:size])
        text = b"".join(pieces).decode(errors="replace")
        return text.removeprefix(" ") if self._adds_space() else text

    def _adds_space(self) -> bool:
        """Whether `tokenize` puts a space in front of text."""
        value = ctypes.create_string_buffer(8)
        self._library.llama_model_meta_val_str(self._model, b"tokenizer.ggml.add_space_prefix", value, len(value))
        return value.value == b"true"


def from_model(
    model: PreTrainedModel,
    folder: str | Path,
    n_ctx: int,
    outtype: OutType = "f16",
    types: dict[str, str] | None = None,
    **options,
) -> LlamaCpp:
    """`model` in llama.cpp, by a GGUF file without vocabulary in `folder`, which the caller deletes.

    Args:
        types: of single tensors, as of `gguf.tensor_types`.
        options: further arguments of `LlamaCpp`.

    Raises:
        NotExpressible: llama.cpp would not run this model right.
    """
    path = Path(folder) / f"{uuid.uuid4().hex}.gguf"
    return LlamaCpp(write_model_gguf(model, path, outtype, types), n_ctx, **options)
