"""An engine in a process of its own: opens models one after the other and times generations, told by lines of JSON.

Run by path in the environment that has the engine (argument 1), which need not have hf_puzzle: imports the engine, numpy and
the standard library only.

    {"version": true}                                              -> {"version": "0.32.0"}
    {"open": FOLDER, "tokens": 640, "sequences": 4, "options": {}}  -> {"open": FOLDER}
    {"time": [batch, prefill, decode], "rounds": 5}                -> {"times": [[prefill_ms, total_ms], ...]}

OpenVINO makes its graphs here, too, and computes what they are proven by:

    {"convert": FOLDER, "to": FOLDER}                              -> {"to": FOLDER}
    {"logits": FILE.npz, "to": FILE.npy, "reset": true}            -> {"to": FILE.npy}
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
    """One graph, which keeps keys and values in its own state; made from an ONNX graph."""

    def __init__(self):
        self.model = self.request = None

    def version(self, asked: dict) -> dict:
        import openvino

        return {"version": openvino.__version__.partition("-")[0]}

    def convert(self, asked: dict) -> dict:
        """`FOLDER/model.onnx` as a stateful graph in `to`, with the tokenizer where there is one: what openvino_genai opens."""
        import openvino

        core, folder = openvino.Core(), asked["convert"]
        model = core.read_model(f"{folder}/model.onnx")
        _attend_at_once(model)
        _keep_state(model)
        model.set_rt_info("f32", ["runtime_options", "KV_CACHE_PRECISION"])  # 8 bits are its own choice
        openvino.save_model(model, f"{asked['to']}/openvino_model.xml", compress_to_fp16=False)
        if os.path.exists(f"{folder}/tokenizer.json"):
            from openvino_tokenizers import convert_tokenizer
            from transformers import AutoTokenizer

            words = AutoTokenizer.from_pretrained(folder)
            for name, each in zip(
                ("tokenizer", "detokenizer"), convert_tokenizer(words, with_detokenizer=True), strict=True
            ):
                openvino.save_model(each, f"{asked['to']}/openvino_{name}.xml")
        return {"to": asked["to"]}

    def open(self, asked: dict) -> dict:
        import openvino

        self.close()
        # bfloat16 is its own choice where the processor has it, whatever the file says
        settings = {"INFERENCE_PRECISION_HINT": "f32"} | asked["options"]
        if threads := os.environ.get("OMP_NUM_THREADS"):
            settings["INFERENCE_NUM_THREADS"] = int(threads)
        self.model = openvino.Core().compile_model(f"{asked['open']}/openvino_model.xml", "CPU", settings)
        self.request = self.model.create_infer_request()
        return {"open": asked["open"]}

    def close(self) -> None:
        self.model = self.request = None
        gc.collect()

    def logits(self, asked: dict) -> dict:
        """Of tokens behind those that were seen since the last `reset`: from a file of arrays to a file."""
        import numpy as np

        if asked["reset"]:
            self.request.reset_state()
        np.save(asked["to"], self._run(**np.load(asked["logits"])))
        return {"to": asked["to"]}

    def time(self, asked: dict) -> dict:
        batch, prefill, decode = asked["time"]
        self._generate(batch, prefill, 2)
        return {"times": [self._generate(batch, prefill, decode) for _ in range(asked["rounds"])]}

    def _generate(self, batch: int, prefill: int, tokens: int) -> tuple[float, float]:
        """Milliseconds until all sequences have their first token, and all of them."""
        import numpy as np

        vocabulary = self.model.output("logits").partial_shape[-1].get_length()
        last, done = np.random.default_rng(0).integers(0, vocabulary, (batch, prefill)), 0
        self.request.reset_state()
        start, first = time.perf_counter(), 0.0
        for i in range(tokens):
            positions = np.tile(np.arange(done, done + last.shape[1]), (batch, 1))
            done += last.shape[1]
            last = self._run(last, np.ones((batch, done), np.int64), positions)[:, -1:].argmax(-1)
            first = first or time.perf_counter() - start if i == 0 else first
        return first * 1e3, (time.perf_counter() - start) * 1e3

    def _run(self, input_ids, attention_mask, position_ids):
        import numpy as np

        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        given["beam_idx"] = np.arange(len(input_ids), dtype=np.int32)
        takes = {name for port in self.model.inputs for name in port.get_names()}
        self.request.infer({name: value for name, value in given.items() if name in takes})
        return self.request.get_tensor("logits").data


def _attend_at_once(model) -> None:
    """softmax(q k^T + mask) v as one operation: its kernel writes keys and values into the state in place and holds no scores,
    and nothing makes it of an ONNX graph's parts."""
    import numpy as np
    import openvino.opset13 as ops

    for node in model.get_ordered_ops():
        found = _attention(node) if node.get_type_name() == "Softmax" else None
        if found is None:
            continue
        query, turned, mask, value, product = found
        key = ops.transpose(turned, ops.constant(np.array([0, 1, 3, 2])))
        if turned.get_node().get_type_name() == "Transpose":
            order = _sources(turned.get_node())[1].get_node()
            if order.get_type_name() == "Constant" and order.get_data().tolist() == [0, 1, 3, 2]:
                key = _sources(turned.get_node())[0]
        one = ops.constant(np.float32(1))  # scores are scaled before
        attended = ops.scaled_dot_product_attention(query, key, value, mask, one, causal=False)
        for port in product.output(0).get_target_inputs():
            port.replace_source_output(attended.output(0))
    model.validate_nodes_and_infer_types()


def _attention(softmax) -> tuple | None:
    """(q, k^T, mask, v, the product that ends it) of an attention that is nothing but that; None of others, those with capped
    scores or sinks, say."""
    readers = list(softmax.output(0).get_target_inputs())
    added, product = _sources(softmax)[0].get_node(), readers[0].get_node()
    if len(readers) != 1 or not _is_product(product) or _sources(product)[0].get_node() != softmax:
        return None
    scores = [port for port in _sources(added) if _is_product(port.get_node())]
    if added.get_type_name() != "Add" or len(scores) != 1 or softmax.output(0).partial_shape.rank.get_length() != 4:
        return None
    if softmax.get_attributes()["axis"] not in (-1, 3) or len(scores[0].get_target_inputs()) != 1:
        return None
    (mask,) = (port for port in _sources(added) if port != scores[0])
    return *_sources(scores[0].get_node()), mask, _sources(product)[1], product


def _sources(node) -> list:
    return [port.get_source_output() for port in node.inputs()]


def _is_product(node) -> bool:
    return node.get_type_name() == "MatMul" and not any(node.get_attributes()[f"transpose_{x}"] for x in "ab")


def _keep_state(model) -> None:
    """Keys and values from inputs and outputs into the graph's own state, empty for a new prompt, its rows chosen by `beam_idx`."""
    import numpy as np
    import openvino.opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    own = ("input_ids", "attention_mask", "position_ids")
    given = [each.get_any_name() for each in model.inputs if each.get_any_name() not in own]
    kept = [each.get_any_name() for each in model.outputs[1:]]  # in the same order
    sizes = {f"{a}{b}": model.input(a).partial_shape for a, b in zip(given, kept, strict=True)}  # as states are named
    chosen = ops.parameter([-1], np.int32, name="beam_idx")
    chosen.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([chosen])  # openvino_genai wants it of a model without attention, too
    if not given:
        return
    for name in given:
        port = model.input(name)
        readers = port.get_target_inputs()
        rows = ops.gather(port.get_node(), chosen, ops.constant(np.int64(0)))
        for reader in readers:
            reader.replace_source_output(rows.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, dict(zip(given, kept, strict=True)))
    shape = ops.shape_of(model.input("input_ids").get_node(), output_type="i64")
    batch = ops.gather(shape, ops.constant(np.array([0])), ops.constant(np.int64(0)))
    none = ops.subtract(batch, batch)  # a constant 0 would become the state's size for ever
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            _, heads, _, size = sizes[op.get_variable_id()]
            fixed = [ops.constant(np.array([each.get_length()])) for each in (heads, size)]
            empty = ops.concat([batch, fixed[0], none, fixed[1]], axis=0)
            op.set_arguments([ops.broadcast(ops.constant(np.float32(0)), empty)])
    model.validate_nodes_and_infer_types()


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
