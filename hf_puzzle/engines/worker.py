"""An engine in a process of its own: opens models one after the other and times generations, told by lines of JSON.

Run by path in the environment that has the engine (argument 1), which need not have hf_puzzle: imports the engine, numpy and
the standard library only.

    {"version": true}                                              -> {"version": "0.32.0"}
    {"open": FOLDER, "tokens": 640, "sequences": 4, "options": {}}  -> {"open": FOLDER}
    {"time": [batch, prefill, decode], "rounds": 5}                -> {"times": [[prefill_ms, total_ms], ...]}
"""

import contextlib
import gc
import json
import os
import random
import sys
import time


MARK = "\x02hf_puzzle "  # in front of answers: libraries print, too


class Vllm:
    def __init__(self):
        self.model = None

    def version(self, asked: dict) -> dict:
        import vllm

        return {"version": vllm.__version__}

    def open(self, asked: dict) -> dict:
        """Exchange the model; weights are random, so the folder needs none."""
        from vllm import LLM
        from vllm.platforms import current_platform

        self.close()
        options = {"load_format": "dummy", "trust_remote_code": True, "skip_tokenizer_init": True}
        options |= {"max_model_len": asked["tokens"], "max_num_seqs": asked["sequences"]}
        # what one round leaves in the cache of prefixes would spare the next its prefill
        options |= {"enable_prefix_caching": False, "disable_log_stats": True}
        if current_platform.is_cpu():  # compiling takes a minute per model there
            options["enforce_eager"] = True
        self.model = LLM(model=asked["open"], **options | asked["options"])
        return {"open": asked["open"]}

    def close(self) -> None:
        if self.model is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        with contextlib.suppress(AttributeError):  # not in every version
            self.model.llm_engine.engine_core.shutdown()
        self.model = None
        gc.collect()
        cleanup_dist_env_and_memory()

    def time(self, asked: dict) -> dict:
        batch, prefill, decode = asked["time"]
        self._generate(batch, prefill, 2)  # what is compiled or allocated at the first use
        return {"times": [[self._generate(batch, prefill, n) for n in (1, decode)] for _ in range(asked["rounds"])]}

    def _generate(self, batch: int, prefill: int, tokens: int) -> float:
        """Milliseconds until all sequences have so many tokens."""
        from vllm import SamplingParams

        vocabulary = self.model.llm_engine.model_config.get_vocab_size()
        draw = random.Random(0)
        prompts = [{"prompt_token_ids": [draw.randrange(vocabulary) for _ in range(prefill)]} for _ in range(batch)]
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        found = self.model.generate(prompts, sampling, use_tqdm=False)
        elapsed = time.perf_counter() - start
        if any(len(each.outputs[0].token_ids) != tokens for each in found):
            raise RuntimeError(f"a sequence has other than {tokens} tokens")
        return elapsed * 1e3


class OpenVino:
    """The two ONNX graphs of an export; the one of decoding keeps keys and values in its own state."""

    def __init__(self):
        self.prefill = self.decode = None

    def version(self, asked: dict) -> dict:
        import openvino

        return {"version": openvino.__version__.partition("-")[0]}

    def open(self, asked: dict) -> dict:
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        self.close()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"} | asked["options"]
        if threads := os.environ.get("OMP_NUM_THREADS"):
            settings["INFERENCE_NUM_THREADS"] = int(threads)
        core = openvino.Core()
        self.prefill = core.compile_model(f"{asked['open']}/prefill.onnx", "CPU", settings)
        decode = core.read_model(f"{asked['open']}/decode.onnx")
        own = ("input_ids", "attention_mask", "position_ids")
        # in this order keys and values go in and come out
        given = [each.get_any_name() for each in decode.inputs if each.get_any_name() not in own]
        kept = [each.get_any_name() for each in decode.outputs if each.get_any_name() != "logits"]
        if given:  # a model without attention has none
            apply_make_stateful_transformation(decode, dict(zip(given, kept, strict=True)))
        self.decode = core.compile_model(decode, "CPU", settings)
        made = [each.get_any_name() for each in self.prefill.outputs if each.get_any_name() != "logits"]
        self.states = {f"{a}{b}": name for a, b, name in zip(given, kept, made, strict=True)}  # as OpenVINO names them
        return {"open": asked["open"]}

    def close(self) -> None:
        self.prefill = self.decode = None
        gc.collect()

    def time(self, asked: dict) -> dict:
        batch, prefill, decode = asked["time"]
        self._generate(batch, prefill, 2)
        return {"times": [self._generate(batch, prefill, decode) for _ in range(asked["rounds"])]}

    def _generate(self, batch: int, prefill: int, tokens: int) -> tuple[float, float]:
        """Milliseconds until all sequences have their first token, and all of them."""
        import numpy as np
        import openvino

        vocabulary = self.prefill.output("logits").partial_shape[-1].get_length()
        prompts = np.random.default_rng(0).integers(0, vocabulary, (batch, prefill))
        start = time.perf_counter()
        request = self.prefill.create_infer_request()
        request.infer(self._inputs(prompts, 0))
        last = request.get_tensor("logits").data[:, -1:].argmax(-1)
        first = time.perf_counter()
        decode = self.decode.create_infer_request()
        for state in decode.query_state():
            state.state = openvino.Tensor(request.get_tensor(self.states[state.name]).data.copy())
        for done in range(prefill, prefill + tokens - 1):
            decode.infer(self._inputs(last, done))
            last = decode.get_tensor("logits").data[:, -1:].argmax(-1)
        return (first - start) * 1e3, (time.perf_counter() - start) * 1e3

    def _inputs(self, tokens, done: int) -> dict:
        import numpy as np

        batch, length = tokens.shape
        positions = np.tile(np.arange(done, done + length), (batch, 1))
        mask = np.ones((batch, done + length), np.int64)
        return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


def main() -> None:
    # a script's folder comes first on the path, and holds a vllm.py of ours
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM and its children print
    worker = {"vllm": Vllm, "openvino": OpenVino}[sys.argv[1]]()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, next(iter(asked)))(asked)
        except Exception as error:  # noqa: BLE001 (whatever it is, the caller is told, and may go on with another model)
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(f"{MARK}{json.dumps(answer)}\n")
        answers.flush()
    worker.close()


if __name__ == "__main__":
    main()
