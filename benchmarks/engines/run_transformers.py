"""transformers as a downloader has it (argument 3: transformers, continuous-batching or transformers-serve)."""

import json
import socket
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import torch
from common import run
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


ENGINE = sys.argv[3]
torch.set_num_threads(1)


def plain(model, rows: list) -> dict[str, list]:
    whole = []
    for prompt, greedy, _ in rows:
        given = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=len(greedy),
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        whole.append((given.sequences[0, len(prompt) :].tolist(), torch.cat(given.logits).float().numpy()))
    longest = max(len(prompt) for prompt, *_ in rows)
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt, *_ in rows])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, *_ in rows])
    new = len(rows[0][1])
    batch = model.generate(tokens, attention_mask=mask, max_new_tokens=new, do_sample=False)[:, longest:]
    return {"whole": whole, "batch": [(row, None) for row in batch.tolist()]}


def continuous(model, rows: list) -> dict[str, list]:
    from transformers import ContinuousBatchingConfig

    new = len(rows[0][1])
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=256)  # else nine tenths of the memory
    prompts = [prompt for prompt, *_ in rows]
    found = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=small)
    if error := next((each.error for each in found.values() if each.error), None):
        raise RuntimeError(error)
    by_prompt = {tuple(each.prompt_ids): each.generated_tokens for each in found.values()}
    return {"batch": [(np.array(by_prompt[tuple(prompt)]).tolist()[:new], None) for prompt in prompts]}


class Server:
    """`transformers serve` in this process, on a free port."""

    def __init__(self):
        from transformers.cli.serve import Serve

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {"device": "cpu", "dtype": "float32", "trust_remote_code": True, "log_level": "error"}
        self.serve = Serve(host="127.0.0.1", port=self.port, non_blocking=True, **settings)
        while not self.serve.server.started:
            time.sleep(0.1)

    def ask(self, **asked) -> str:
        data = json.dumps(asked).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["choices"][0]["text"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{error.code}: {error.read()[:200].decode(errors='replace')}") from None


def served(server: Server, path: str, model, rows: list) -> dict[str, list]:
    """Text in, text out: what `generate` gives for the tokens of that text is right, which is a row of its own."""
    tokenizer, found = AutoTokenizer.from_pretrained(path), []
    for prompt, greedy, _ in rows:
        text = tokenizer.decode(prompt)
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        given = model.generate(tokens, max_new_tokens=len(greedy), do_sample=False)[0, tokens.shape[1] :]
        expected = tokenizer.decode(given, skip_special_tokens=True)
        told = server.ask(model=path, prompt=text, max_tokens=len(greedy), temperature=0.0)
        found.append((greedy if told == expected else [-1] * len(greedy), None))
    server.serve.reset_loaded_models()
    return {"whole": found}


@torch.no_grad()
def compute(path: str, rows: list, where) -> dict[str, list]:
    paged = {"attn_implementation": "paged|sdpa"} if ENGINE == "continuous-batching" else {}
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32, **paged).eval()
    where.stage = "generate"
    if ENGINE == "transformers-serve":
        return served(SERVER, path, model, rows)
    return continuous(model, rows) if ENGINE == "continuous-batching" else plain(model, rows)


if __name__ == "__main__":
    SERVER = Server() if ENGINE == "transformers-serve" else None
    try:
        run(ENGINE, compute)
    finally:
        if SERVER is not None:
            SERVER.serve.kill_server()
