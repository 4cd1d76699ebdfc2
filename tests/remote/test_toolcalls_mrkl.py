"""A chat model's own calls: valid whatever the model, run, and given back as its template has it."""

import importlib.util

import pytest
import torch
from pcw_models import tiny_llama
from tool_templates import TEMPLATES, with_template
from transformers import LogitsProcessor

from hf_puzzle.remote.calls_mrkl import MRKLError
from hf_puzzle.remote.exact_mrkl import Calculator
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.toolcalls_mrkl import ToolCalls
from hf_puzzle.remote.toolformats_mrkl import ToolFormat


GREEDY = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}
CHAT = [{"role": "user", "content": "How heavy is the stone?"}]


RESPONSES = {
    "version": 1,
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|end|>", "content": "text"},
    },
}  # fmt: skip


def weigh(thing: str, unit: str = "kg") -> int:
    """
    Weigh a thing.

    Args:
        thing: What is weighed
        unit: Unit of the answer (choices: ["kg", "g"])
    """
    return 12


class Opens(LogitsProcessor):
    """Makes a model begin its first answers with a text."""

    def __init__(self, tokenizer, content, times=1):
        self.ids, self.times = tokenizer(content, add_special_tokens=False)["input_ids"], times
        self.at = None

    def __call__(self, input_ids, scores):
        if self.at is None or input_ids.shape[1] <= self.at:
            self.at, self.times = input_ids.shape[1], self.times - (self.at is not None)
        place = input_ids.shape[1] - self.at
        if self.times > 0 and place < len(self.ids):
            scores = torch.full_like(scores, -torch.inf)
            scores[:, self.ids[place]] = 0
        return scores


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_untrained_model_makes_a_valid_call_in_its_own_format(name):
    tokenizer = with_template(name)
    model = tiny_llama(tokenizer, positions=4096)
    calls = ToolCalls(model, tokenizer, [weigh, Calculator()], max_calls=2, max_call_tokens=30)
    turns = calls(CHAT, "required", **GREEDY)
    assert 1 <= len(turns.trace) <= 4
    assert {entry["expert"] for entry in turns.trace} <= {"weigh", "calculator"}
    for entry in turns.trace:
        calls.experts[entry["expert"]].check(entry["arguments"])
    assert turns.messages[-1]["role"] == "assistant"
    assert [m["role"] for m in turns.messages].count("tool") == len(turns.trace)
    # the conversation can go on from there
    assert calls.encode([*CHAT, *turns.messages, *CHAT])["input_ids"].shape[1] > 0


@pytest.mark.parametrize("name", ["hermes", "mistral", "functiongemma", "without"])
@pytest.mark.parametrize("engine", ["own", "llguidance"])
def test_engines_make_the_same_calls(name, engine):
    if engine != "own" and not importlib.util.find_spec(engine):
        pytest.skip(f"{engine} is not installed")
    tokenizer = with_template(name)
    model = tiny_llama(tokenizer, positions=4096, seed=3)
    traces = [
        ToolCalls(model, tokenizer, [weigh], each, max_calls=1, max_call_tokens=20)(CHAT, "required", **GREEDY).trace
        for each in ("own", engine)
    ]
    assert traces[0] == traces[1] != []


def test_without_an_opening_it_is_the_model_with_tools_in_its_prompt():
    tokenizer = with_template("hermes")
    model = tiny_llama(tokenizer, positions=4096)
    calls = ToolCalls(model, tokenizer, [weigh])
    turns = calls(CHAT, **GREEDY)
    encoded = calls.encode(CHAT)
    plain = model.generate(**encoded, **GREEDY)[0, encoded["input_ids"].shape[1] :]
    assert turns.trace == []
    assert turns.text == tokenizer.decode(plain, skip_special_tokens=True).strip()


def test_an_opening_of_the_model_s_own_makes_a_call_and_one_in_a_result_does_not():
    def echo(thing: str) -> str:
        """
        Says it.

        Args:
            thing: what
        """
        return "<tool_call>\n{"

    tokenizer = with_template("hermes")
    model = tiny_llama(tokenizer, positions=4096)
    opens = Opens(tokenizer, "well <tool_call>")
    calls = ToolCalls(model, tokenizer, [echo], max_call_tokens=12)
    turns = calls(CHAT, logits_processor=[opens], **GREEDY)
    assert [entry["expert"] for entry in turns.trace] == ["echo"]
    assert turns.messages[1]["content"] == "<tool_call>\n{"


def test_a_response_template_takes_thoughts_out_of_the_answer():
    tokenizer = with_template("hermes")
    tokenizer.response_template = RESPONSES
    model = tiny_llama(tokenizer, positions=4096)
    opens, end = Opens(tokenizer, "<think>hm</think>It is 12.<|end|>"), tokenizer.convert_tokens_to_ids("<|end|>")
    turns = ToolCalls(model, tokenizer, [weigh])(CHAT, logits_processor=[opens], eos_token_id=end, **GREEDY)
    assert turns.text == "It is 12."


def test_transformers_reads_the_same_calls():
    tokenizer = with_template("hermes")
    tokenizer.response_template = RESPONSES
    calls = ToolCalls(tiny_llama(tokenizer, positions=4096), tokenizer, [weigh], max_call_tokens=12)
    said = '<tool_call>\n{"name": "weigh", "arguments": {"thing": "a \\"red\\" stone", "unit": "g"}}\n</tool_call>'
    prefix = tokenizer.decode(calls.encode(CHAT)["input_ids"][0])
    theirs = tokenizer.parse_response(
        said + "<|end|>", prefix=prefix, tools=[e.schema for e in calls.experts.values()]
    )
    ours = calls.format.parse(said, calls.schemas)
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in theirs["tool_calls"]] == ours


def pipe(tokenizer, **options):
    return MrklPipeline(
        model=tiny_llama(tokenizer, positions=4096), tokenizer=tokenizer, experts=[Calculator(), weigh],
        today="2022-05-02", **options,
    )  # fmt: skip


def test_the_pipeline_asks_its_experts_first_and_then_lets_the_model_call():
    tokenizer = with_template("hermes")
    ask = pipe(tokenizer)
    assert ask("What is 12 times 12?", tool_calls="required", **GREEDY)["answer"] == "144"
    question = "Whither goest thou?"
    reply = ask(question, tool_calls="required", **GREEDY)
    assert reply["trace"]
    assert reply["confidence"] < 0.95
    assert ask(question, tool_calls="auto", **GREEDY) == ask(question, **GREEDY)
    chat = ask([{"role": "user", "content": question}], tool_calls="required", mask_engine="own", **GREEDY)
    assert [m["role"] for m in chat["generated_text"]][:3] == ["user", "assistant", "tool"]
    with pytest.raises(MRKLError, match="tool_calls 'always' is none of auto, required, False"):
        ask(question, tool_calls="always")


def test_settings_of_calls_are_saved(tmp_path):
    tokenizer = with_template("hermes")
    pipe(tokenizer, tool_calls="required").save_pretrained(tmp_path)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = MrklPipeline(
        model=AutoModelForCausalLM.from_pretrained(tmp_path), tokenizer=AutoTokenizer.from_pretrained(tmp_path),
        experts=[weigh],
    )  # fmt: skip
    assert ToolFormat.of(loaded.tokenizer) == ToolFormat.of(tokenizer)
    assert loaded("Whither goest thou?", **GREEDY)["trace"]
