"""llama.cpp by llama-cpp-python, on the CPU, on exported GGUF files in float32: prompts at once, then token by token."""

import ctypes

import llama_cpp as library
import numpy as np
from common import run


errors: list[str] = []


@library.llama_log_callback
def keep(level: int, text: bytes, _) -> None:
    if level == 4:
        errors[:] = [text.decode(errors="replace").strip()]


library.llama_log_set(keep, ctypes.c_void_p(0))
library.llama_backend_init()


class Model:
    def __init__(self, path: str, length: int, sequences: int = 1):
        params = library.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, False
        self.model = library.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(errors[0] if errors else "not loaded")
        params = library.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = length * sequences, 1, 1
        params.n_seq_max, params.n_batch = sequences, max(params.n_batch, sequences)
        params.type_k = params.type_v = library.GGML_TYPE_F32
        params.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = library.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(errors[0] if errors else "no context")
        self.size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))

    def clear(self) -> None:
        library.llama_memory_clear(library.llama_get_memory(self.context), True)

    def last(self, tokens: list[int]) -> np.ndarray:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if library.llama_decode(self.context, library.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError(errors[0] if errors else "not decoded")
        return np.ctypeslib.as_array(library.llama_get_logits_ith(self.context, -1), (self.size,)).copy()

    def next(self, tokens: np.ndarray, done: int) -> np.ndarray:
        """Most likely tokens (sequences, 1) after `tokens` (sequences, length) behind `done` others, in pieces of 512."""
        count, length = tokens.shape
        batch = library.llama_batch_init(512, 0, 1)
        cells, best = list(np.ndindex(count, length)), np.zeros((count, 1), np.int64)
        for start in range(0, len(cells), 512):
            piece = cells[start : start + 512]
            batch.n_tokens = len(piece)
            for i, (row, column) in enumerate(piece):
                batch.token[i], batch.pos[i] = int(tokens[row, column]), done + column
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
                batch.logits[i] = column == length - 1
            if library.llama_decode(self.context, batch) != 0:
                raise RuntimeError(errors[0] if errors else "not decoded")
            for i, (row, column) in enumerate(piece):
                if column == length - 1:
                    found = library.llama_get_logits_ith(self.context, i)
                    best[row] = np.ctypeslib.as_array(found, (self.size,)).argmax()
        library.llama_batch_free(batch)
        return best

    def close(self) -> None:
        library.llama_free(self.context)
        library.llama_model_free(self.model)


def compute(path: str, rows: list, where) -> dict[str, list]:
    if not path.endswith(".gguf"):
        raise FileNotFoundError("no GGUF file: its own converter was not run")
    model = Model(path, 128)
    where.stage, found = "forward", []
    for prompt, greedy, _ in rows:
        model.clear()
        tokens, logits, rest = [], [], prompt
        for _ in greedy:
            logits.append(model.last(rest))
            rest = [int(logits[-1].argmax())]
            tokens += rest
        found.append((tokens, np.stack(logits)))
    model.close()
    return {"whole": found}


if __name__ == "__main__":
    run("llama.cpp", compute)
