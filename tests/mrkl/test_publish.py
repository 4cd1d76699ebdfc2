"""The custom_generate folder: loaded as `generate` loads it, equal to the function in the library."""

import json
import os
import subprocess
import sys

import pytest
import torch
from pcw_models import byte_level, tiny_llama

from hf_puzzle.mrkl.publish import write_custom_generate
from hf_puzzle.remote.generation_mrkl import generate


FRESH = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_puzzle":
            raise ImportError("hf_puzzle is not here")
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)

def length(text: str) -> int:
    '''
    Number of characters of a text.

    Args:
        text: The text
    '''
    return len(text)

class Write:
    def __init__(self, ids, first):
        self.at, self.ids = ids.shape[1], first
    def __call__(self, input_ids, scores):
        place = input_ids.shape[1] - self.at
        if place < len(self.ids):
            scores = torch.full_like(scores, -torch.inf)
            scores[:, self.ids[place]] = 0
        return scores

folder = sys.argv[1]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
ids = tokenizer("how long?", return_tensors="pt")
first = tokenizer('<call>length({"text": "tower"})</call>', add_special_tokens=False)["input_ids"]
trace = []
out = model.generate(**ids, experts=[length], tokenizer=tokenizer, trace=trace, max_new_tokens=60, do_sample=False,
                     logits_processor=[Write(ids["input_ids"], first)], custom_generate=folder, trust_remote_code=True)
plain = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
stock = plain.generate(**ids, max_new_tokens=9, do_sample=False)
same = torch.equal(stock, type(model).generate(model, **ids, max_new_tokens=9, do_sample=False))
print(json.dumps({"text": tokenizer.decode(out[0]), "trace": trace, "same": same}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "model"
    tokenizer = byte_level()
    tiny_llama(tokenizer, positions=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return write_custom_generate(folder)


def test_a_fresh_process_without_hf_puzzle_calls(folder, tmp_path):
    environment = {"HF_HOME": str(tmp_path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder)], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["trace"] == [
        {"row": 0, "expert": "length", "arguments": {"text": "tower"}, "result": "5", "status": "ok"}
    ]
    assert "</call><result>5</result>" in found["text"]
    assert found["same"]


def test_files_and_readme(folder):
    names = {path.name for path in (folder / "custom_generate").iterdir() if path.is_file()}
    assert {"generate.py", "requirements.txt", "generation_mrkl.py", "experts_mrkl.py", "calls_mrkl.py"} <= names
    assert "pipeline_mrkl.py" not in names
    assert "custom_generate" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("mine")
    write_custom_generate(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_without_experts_it_is_stock_generate():
    tokenizer = byte_level()
    model = tiny_llama(tokenizer)
    ids = tokenizer("how long?", return_tensors="pt")["input_ids"]
    assert torch.equal(generate(ids, model=model, max_new_tokens=8), model.generate(ids, max_new_tokens=8))
