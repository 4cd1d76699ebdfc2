"""onnxruntime on the graph of an export: prompts at once, in pieces, then token by token."""

from pathlib import Path

import numpy as np
import onnxruntime
from common import run


class Model:
    def __init__(self, folder: str):
        path = Path(folder) / "model.onnx"
        if not path.exists():
            raise FileNotFoundError("no ONNX graph in the folder")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.clear(1)

    def clear(self, batch: int) -> None:
        shapes = {name: each.shape for name, each in self.inputs.items() if name.startswith("past_key_values")}
        self.cache = {n: np.zeros((batch, s[1], 0, s[3]), np.float32) for n, s in shapes.items()}
        self.done = 0

    def next(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (batch, vocabulary) behind `tokens` (batch, length) and all before them."""
        batch, length = tokens.shape
        given = {
            "input_ids": tokens,
            "attention_mask": np.ones((batch, self.done + length), np.int64),
            "position_ids": np.tile(np.arange(self.done, self.done + length, dtype=np.int64), (batch, 1)),
        }
        given = {name: value for name, value in given.items() if name in self.inputs}
        found = dict(zip(self.outputs, self.session.run(None, given | self.cache), strict=True))
        self.cache = {n.replace("present", "past_key_values"): v for n, v in found.items() if n != "logits"}
        self.done += length
        return found["logits"][:, -1]


def greedy(model, prompt: list[int], new: int, pieces: int = 1) -> tuple[list[int], np.ndarray]:
    model.clear(1)
    cut, tokens, logits = len(prompt) // pieces, [], []
    for i in range(pieces - 1):
        model.next(np.array([prompt[i * cut : (i + 1) * cut]], np.int64))
    rest = prompt[(pieces - 1) * cut :]
    for _ in range(new):
        logits.append(model.next(np.array([rest], np.int64))[0].astype(np.float32))
        rest = [int(logits[-1].argmax())]
        tokens += rest
    return tokens, np.stack(logits)


def compute(path: str, rows: list, where) -> dict[str, list]:
    model = Model(path)
    where.stage = "forward"
    new = len(rows[0][1])
    return {
        "whole": [greedy(model, prompt, new) for prompt, *_ in rows],
        "pieces": [greedy(model, rows[0][0], new, 3)],
    }


if __name__ == "__main__":
    run("onnxruntime", compute)
