"""Processor time of prefill and decoding steps of several models in one engine (argument 1), models in turn.

Reads argument 2 (`speed.py` writes it), writes argument 3: for each work and model, [prefill, decoding step] in ms by round.
Runs in the engine's environment: numpy, the engine, and the runners beside it.
"""

import gc
import json
import sys
import time
from pathlib import Path

import numpy as np


ENGINE = sys.argv[1]


class Transformers:
    def __init__(self, path: str):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32).eval()
        self.clear(1)

    def clear(self, batch: int) -> None:
        from transformers import DynamicCache

        self.cache = DynamicCache()

    def next(self, tokens: np.ndarray) -> np.ndarray:
        with self.torch.no_grad():
            found = self.model(self.torch.from_numpy(tokens), cache=self.cache, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1].numpy()


class Mlx:
    def __init__(self, path: str):
        import mlx.core as mx
        from mlx_lm import load

        self.mx = mx
        self.model, _ = load(path)
        self.clear(1)

    def clear(self, batch: int) -> None:
        from mlx_lm.models.cache import make_prompt_cache

        self.cache = make_prompt_cache(self.model)

    def next(self, tokens: np.ndarray) -> np.ndarray:
        return np.array(self.model(self.mx.array(tokens), cache=self.cache)[:, -1].astype(self.mx.float32))


class LlamaCpp:
    def __init__(self, path: str):
        self.path, self.model = path, None

    def clear(self, batch: int, length: int = 1024) -> None:
        from run_llama_cpp import Model

        if self.model is None or self.sizes != (batch, length):
            if self.model is not None:
                self.model.close()
            self.sizes, self.model = (batch, length), Model(self.path, length + 32, batch)
        self.model.clear()
        self.done = 0

    def next(self, tokens: np.ndarray) -> np.ndarray:
        best = self.model.next(tokens, self.done)
        self.done += tokens.shape[1]
        one = np.zeros((len(tokens), int(best.max()) + 1), np.float32)
        one[np.arange(len(tokens)), best[:, 0]] = 1
        return one


class Vllm:
    """Whole generations only: the time of one token, and of more."""

    def __init__(self, path: str):
        import run_vllm  # noqa: F401 (its settings)
        from vllm import LLM

        settings = {"trust_remote_code": True, "enforce_eager": True, "dtype": "float32", "max_model_len": 1100}
        settings |= {"skip_tokenizer_init": True, "max_num_seqs": 16, "enable_prefix_caching": False}
        self.model = LLM(model=path, **settings, max_num_batched_tokens=2048)

    def times(self, batch: int, length: int, decoded: int) -> list[float]:
        from vllm import SamplingParams

        draw, took = np.random.default_rng(0), []
        prompts = [{"prompt_token_ids": draw.integers(3, 16_000, length).tolist()} for _ in range(batch)]
        for tokens in (1, decoded + 1):
            sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
            start = time.process_time()
            self.model.generate(prompts, sampling, use_tqdm=False)
            took.append(time.process_time() - start)
        return [took[0] * 1e3, (took[1] - took[0]) * 1e3 / decoded]

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.model = None
        gc.collect()
        cleanup_dist_env_and_memory()


def opened(path: str):
    if ENGINE == "onnxruntime":
        from run_onnxruntime import Model

        return Model(path)
    if ENGINE == "openvino":
        from run_openvino import Model

        model = Model(path)
        clear = model.clear
        model.clear = lambda batch: clear()
        return model
    return {"transformers": Transformers, "mlx-lm": Mlx, "llama.cpp": LlamaCpp}[ENGINE](path)


def times(model, batch: int, length: int, decoded: int) -> list[float]:
    rest = np.random.default_rng(0).integers(3, 16_000, (batch, length))
    model.clear(batch, length) if isinstance(model, LlamaCpp) else model.clear(batch)
    marks = [time.process_time()]
    for _ in range(decoded + 1):
        rest = model.next(rest).argmax(-1)[:, None].astype(np.int64)
        marks.append(time.process_time())
    return [(marks[1] - marks[0]) * 1e3, (marks[-1] - marks[1]) * 1e3 / decoded]


def rounds_of(work: dict, rounds: int) -> int:
    """Fewer where a round takes minutes."""
    return min(rounds, 2) if work["batch"] * work["tokens"] > 8192 else rounds


def main() -> None:
    asked = json.loads(Path(sys.argv[2]).read_text())
    work = [{"batch": b, "tokens": n, "times": {name: [] for name in asked["models"]}} for b, n in asked["work"]]
    if ENGINE == "vllm":  # one model at a time
        for name, path in asked["models"].items():
            model = Vllm(path)
            model.times(1, 16, 2)
            for each in work:
                for _ in range(rounds_of(each, asked["rounds"])):
                    each["times"][name].append(model.times(each["batch"], each["tokens"], asked["decoded"]))
            model.close()
    else:
        models = {name: opened(path) for name, path in asked["models"].items()}
        for each in work:
            for model in models.values():
                times(model, each["batch"], 16, 2)
            for _ in range(rounds_of(each, asked["rounds"])):
                for name, model in models.items():
                    each["times"][name].append(times(model, each["batch"], each["tokens"], asked["decoded"]))
    Path(sys.argv[3]).write_text(json.dumps(work))


if __name__ == "__main__":
    main()
