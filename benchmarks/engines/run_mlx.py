"""mlx-lm: prompt at once, prompt in two pieces, and ragged prompts in one batch."""

import builtins

import mlx.core as mx
import numpy as np
from common import Where, run
from mlx_lm import load
from mlx_lm.models.cache import make_prompt_cache


def asked(*_) -> str:
    Where.notes.append("asks on the terminal whether to run the folder's code")
    raise EOFError  # nobody answers


builtins.input = asked


def greedy(model, prompt: list[int], new: int, pieces: int) -> tuple[list[int], np.ndarray]:
    cache = make_prompt_cache(model)
    cut = len(prompt) // pieces
    for i in range(pieces - 1):
        mx.eval(model(mx.array([prompt[i * cut : (i + 1) * cut]]), cache=cache))
    rest, tokens, logits = prompt[(pieces - 1) * cut :], [], []
    for _ in range(new):
        last = np.array(model(mx.array([rest]), cache=cache)[0, -1].astype(mx.float32))
        logits.append(last)
        rest = [int(last.argmax())]
        tokens += rest
    return tokens, np.stack(logits)


def compute(path: str, rows: list, where) -> dict[str, list]:
    model, tokenizer = load(path)
    new = len(rows[0][1])
    tokenizer.eos_token_ids = set()
    where.stage = "forward"
    found = {"whole": [greedy(model, prompt, new, 1) for prompt, *_ in rows]}
    where.stage = "prompt in pieces"
    found["pieces"] = [greedy(model, rows[0][0], new, 3)]
    where.stage = "batch"
    texts, got = [prompt for prompt, *_ in rows], [[] for _ in rows]
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(model, max_tokens=new)
    uids = generator.insert(texts)
    while any(len(tokens) < new for tokens in got):
        answers = generator.next()
        answers = answers[-1] if isinstance(answers, tuple) else answers
        for answer in answers:
            got[uids.index(answer.uid)].append(answer.token)
    found["batch"] = [(tokens[:new], None) for tokens in got]
    return found


run("mlx-lm", compute)
