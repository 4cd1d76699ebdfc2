"""OpenVINO on the stateful graph of an export: its runtime for logits, and openvino_genai's LLMPipeline, as users open it."""

from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from common import run


SETTINGS = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16, where the processor has it


class Model:
    def __init__(self, folder: str):
        path = Path(folder) / "openvino_model.xml"
        if not path.exists():
            raise FileNotFoundError("no OpenVINO graph in the folder")
        self.model = openvino.Core().compile_model(str(path), "CPU", SETTINGS)
        self.takes = {name for port in self.model.inputs for name in port.get_names()}
        self.request = self.model.create_infer_request()
        self.clear()

    def clear(self) -> None:
        self.request.reset_state()
        self.done = 0

    def next(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (batch, vocabulary) behind `tokens` (batch, length) and all before them."""
        batch, length = tokens.shape
        given = {
            "input_ids": tokens,
            "attention_mask": np.ones((batch, self.done + length), np.int64),
            "position_ids": np.tile(np.arange(self.done, self.done + length, dtype=np.int64), (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        self.request.infer({name: value for name, value in given.items() if name in self.takes})
        self.done += length
        return self.request.get_tensor("logits").data[:, -1].copy()


def greedy(model, prompt: list[int], new: int, pieces: int = 1) -> tuple[list[int], np.ndarray]:
    model.clear()
    cut, tokens, logits = len(prompt) // pieces, [], []
    for i in range(pieces - 1):
        model.next(np.array([prompt[i * cut : (i + 1) * cut]], np.int64))
    rest = prompt[(pieces - 1) * cut :]
    for _ in range(new):
        logits.append(model.next(np.array([rest], np.int64))[0].astype(np.float32))
        rest = [int(logits[-1].argmax())]
        tokens += rest
    return tokens, np.stack(logits)


def pipeline(path: str, rows: list, new: int) -> list:
    opened = openvino_genai.LLMPipeline(path, "CPU", **SETTINGS)
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens, settings.do_sample, settings.ignore_eos = new, False, True
    found = []
    for prompt, *_ in rows:
        given = openvino.Tensor(np.array([prompt], np.int64)), openvino.Tensor(np.ones((1, len(prompt)), np.int64))
        told = opened.generate(openvino_genai.TokenizedInputs(*given), settings)
        found.append((list(map(int, told.tokens[0])), None))
    return found


def compute(path: str, rows: list, where) -> dict[str, list]:
    model = Model(path)
    where.stage, new = "forward", len(rows[0][1])
    found = {
        "whole": [greedy(model, prompt, new) for prompt, *_ in rows],
        "pieces": [greedy(model, rows[0][0], new, 3)],
    }
    del model
    where.stage = "openvino_genai"
    return found | {"LLMPipeline": pipeline(path, rows, new)}


if __name__ == "__main__":
    run("openvino", compute)
