"""Parent and child as they are deployed: GGUF files of a type in llama.cpp, judged by the parent as it came, and timed."""

import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from ..blocks import Block
from ..costs import Workload, cpu_threads, measure_interleaved, median_timing, speed_ratio
from ..engines import llama_cpp
from ..engines.gguf import tensor_types
from ..engines.measuring import as_engine_runs_it
from ..evaluation import Rows, Targets
from ..progress import bar


TOKENS = 16_384  # of the text that judges, at most: llama.cpp gives logits of all positions
WORKLOAD = Workload(1, 512, 128)  # a user's: one request


def _verdict(targets: Targets, model: llama_cpp.LlamaCpp, description: str) -> dict:
    """Of a GGUF file's logits, row by row."""

    def logits():
        for batch in bar(targets.batches, desc=description):
            yield torch.from_numpy(np.stack([model.logits(row) for row in batch.tolist()])).to(batch.device)

    return targets.verdict(logits(), head=lambda given: given).to_dict()


def in_llama_cpp(
    parent: PreTrainedModel,
    child: PreTrainedModel,
    rows: Rows,
    outtype: str,
    rounds: int,
    threads: int | None = None,
    workload: Workload = WORKLOAD,
    clock: str = "wall",
    blocks: Sequence[Block] = (),
    cache_type: str | None = None,
) -> dict:
    """What quantisation and engine leave of both.

    Args:
        rows: held-out text; the first `TOKENS` of it are used.
        outtype: of the GGUF files' matrices, as of `engines.gguf`.
        blocks: of the child; matrices for which they name one of llama.cpp's number formats have that one.
        cache_type: of the child's keys and values; default: f16, as the parent's are.

    Returns:
        `quality` of both against the parent in transformers, as of `Verdict.to_dict`; `file_bytes`; `speed`: `total`,
        `prefill` and `decode` of the child / the parent in the same engine and type, in one session.

    Raises:
        CannotRun, NotExpressible: a model that llama.cpp would not run right.
    """
    length = rows.input_ids.shape[1]
    targets = Targets(parent, rows[: max(1, TOKENS // length)], 1, "llama.cpp: parent")
    tokens = max(length, workload.prefill_tokens + workload.decode_tokens)
    found: dict = {"outtype": outtype, "workload": vars(workload), "quality": {}, "file_bytes": {}}
    with tempfile.TemporaryDirectory() as folder, cpu_threads(threads):
        options = {"n_threads": torch.get_num_threads(), "n_seq_max": workload.batch_size}
        models = {}
        try:
            subjects = (("parent", parent, {}, "f16"), ("child", child, tensor_types(blocks), cache_type or "f16"))
            for name, model, types, kv_dtype in subjects:
                path = llama_cpp.write_model_gguf(
                    as_engine_runs_it(model, "llama.cpp"), f"{folder}/{name}.gguf", outtype, types
                )
                found["file_bytes"][name] = path.stat().st_size
                models[name] = llama_cpp.LlamaCpp(path, tokens, **options, kv_dtype=kv_dtype)
                found["quality"][name] = _verdict(targets, models[name], f"llama.cpp: {name}")
            timings = measure_interleaved(models, workload, rounds, clock, "llama.cpp: speed")
        finally:
            for model in models.values():
                model.close()
    parts = {"total": "total_ms", "prefill": "prefill_ms", "decode": "decode_ms"}
    found["speed"] = {
        k: speed_ratio(timings["parent"], timings["child"], part=part).to_dict() for k, part in parts.items()
    }
    found["median_ms"] = {name: vars(median_timing(rounds)) for name, rounds in timings.items()}
    return found
