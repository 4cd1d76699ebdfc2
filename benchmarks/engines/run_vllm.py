"""vLLM on the CPU, eager, float32, several folders in one process: logits of every generated token, ragged prompts."""

import gc
import os


os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": str(max(os.sched_getaffinity(0))),
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}

import numpy as np
from common import run
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def compute(path: str, rows: list, where) -> dict[str, list]:
    settings = {"trust_remote_code": True, "enforce_eager": True, "dtype": "float32", "max_model_len": 128}
    settings |= {"max_logprobs": -1, "logprobs_mode": "raw_logits", "skip_tokenizer_init": True, "max_num_seqs": 4}
    model = None
    try:
        model = LLM(model=path, **settings)
        where.stage = "forward"
        sampling = SamplingParams(
            temperature=0.0, max_tokens=len(rows[0][1]), ignore_eos=True, detokenize=False, logprobs=-1
        )
        given = model.generate([{"prompt_token_ids": prompt} for prompt, *_ in rows], sampling, use_tqdm=False)
        found = []
        for each, (_, _, expected) in zip(given, rows, strict=True):
            logits = np.zeros_like(expected)
            for step, values in enumerate(each.outputs[0].logprobs):
                for token, value in values.items():
                    logits[step, token] = value.logprob
            found.append((list(each.outputs[0].token_ids), logits))
        return {"batch": found}
    finally:
        del model
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    run("vllm", compute, spoilt_by=("forward",))  # its collected engine takes the next one's groups along
