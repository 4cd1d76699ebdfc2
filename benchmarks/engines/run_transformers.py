"""transformers as a downloader has it (argument 3 is the engine: transformers or continuous-batching)."""

import sys

import numpy as np
import torch
from common import run
from transformers import AutoModelForCausalLM, GenerationConfig


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
    new = len(rows[0][1])
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)
    found = model.generate_batch([prompt for prompt, *_ in rows], generation_config=settings)
    tokens = [each.generated_tokens for _, each in sorted(found.items())]
    by_prompt = {tuple(each.prompt_ids): each.generated_tokens for each in found.values()}
    tokens = [by_prompt[tuple(prompt)] for prompt, *_ in rows]
    return {"batch": [(np.array(each).tolist()[:new], None) for each in tokens]}


@torch.no_grad()
def compute(path: str, rows: list, where) -> dict[str, list]:
    paged = {"attn_implementation": "paged|sdpa"} if ENGINE == "continuous-batching" else {}
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32, **paged).eval()
    where.stage = "generate"
    return continuous(model, rows) if ENGINE == "continuous-batching" else plain(model, rows)


if __name__ == "__main__":
    run(ENGINE, compute)
