"""onnxruntime, or OpenVINO (argument 3), on the ONNX graphs of an export: prompts at once, then token by token."""

import sys
from pathlib import Path

import numpy as np
from common import run


ENGINE = sys.argv[3] if __name__ == "__main__" else ""


class OnnxRuntime:
    def __init__(self, path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def __call__(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(None, inputs)


class OpenVino:
    def __init__(self, path: Path):
        import openvino

        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        self.model = openvino.compile_model(str(path), "CPU", settings)
        self.inputs = [each.get_any_name() for each in self.model.inputs]
        self.outputs = [each.get_any_name() for each in self.model.outputs]

    def __call__(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.model(inputs)
        return [np.array(found[i]) for i in range(len(self.outputs))]


def compute(path: str, rows: list, where) -> dict[str, list]:
    folder = Path(path)
    if not (folder / "prefill.onnx").exists():
        raise FileNotFoundError("no ONNX graph in the folder")
    graph = OnnxRuntime if ENGINE == "onnxruntime" else OpenVino
    prefill, decode = graph(folder / "prefill.onnx"), graph(folder / "decode.onnx")
    where.stage = "forward"
    return {"whole": [greedy(prefill, decode, prompt, len(tokens)) for prompt, tokens, _ in rows]}


def step(graph, decode, tokens: np.ndarray, done: int, cache: dict) -> tuple[np.ndarray, dict]:
    """Logits of `tokens` (batch, length) behind `done` others, and the cache that `decode` takes next."""
    batch, length = tokens.shape
    given = {
        "input_ids": tokens,
        "attention_mask": np.ones((batch, done + length), np.int64),
        "position_ids": np.tile(np.arange(done, done + length, dtype=np.int64), (batch, 1)),
    }
    given = {name: value for name, value in (given | cache).items() if name in graph.inputs}
    found = dict(zip(graph.outputs, graph(given), strict=True))
    logits = found.pop("logits")
    wanted = [name for name in decode.inputs if name not in ("input_ids", "attention_mask", "position_ids")]
    return logits, dict(zip(wanted, found.values(), strict=True))


def greedy(prefill, decode, prompt: list[int], new: int) -> tuple[list[int], np.ndarray]:
    tokens, logits, cache, rest = [], [], {}, np.array([prompt], np.int64)
    for i in range(new):
        done = len(prompt) + i - rest.shape[1]
        found, cache = step(decode if i else prefill, decode, rest, done, cache)
        logits.append(found[0, -1].astype(np.float32))
        rest = found[:, -1:].argmax(-1)
        tokens.append(int(rest[0, 0]))
    return tokens, np.stack(logits)


if __name__ == "__main__":
    run(ENGINE, compute)
