"""onnxruntime-genai on an export: its own generation, token by token, of one prompt and of two at once."""

import json

import numpy as np
import onnxruntime_genai as genai
from common import run


def greedy(model, prompts: list[list[int]], new: int) -> list[tuple[list[int], np.ndarray]]:
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=len(prompts[0]) + new, do_sample=False, batch_size=len(prompts))
    generator = genai.Generator(model, settings)
    generator.append_tokens(np.array(prompts, np.int32))
    tokens, logits = [], []
    for _ in range(new):
        logits.append(np.array(generator.get_logits(), np.float32)[:, -1])
        generator.generate_next_token()
        tokens.append(generator.get_next_tokens().astype(int))
    return [(row.tolist(), each) for row, each in zip(np.stack(tokens, 1), np.stack(logits, 1), strict=True)]


def compute(path: str, rows: list, where) -> dict[str, list]:
    config = genai.Config(path)
    said = {token for _, tokens, _ in rows for token in tokens}
    end = min(set(range(len(said) + 1)) - said)  # behind its end a sequence does not go on
    config.overlay(json.dumps({"model": {"eos_token_id": end}}))
    model = genai.Model(config)
    genai.Tokenizer(model)
    where.stage = "forward"
    found = {"whole": [greedy(model, [prompt], len(tokens))[0] for prompt, tokens, _ in rows]}
    twice = greedy(model, [rows[0][0]] * 2, len(rows[0][1]))
    return found | {"twice, first": twice[:1], "twice, second": twice[1:]}


if __name__ == "__main__":
    run("onnxruntime-genai", compute)
