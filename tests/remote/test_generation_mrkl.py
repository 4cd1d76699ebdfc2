"""Calls inside generate: equal to stock generate where none is made, always valid where one is."""

import copy
import time

import pytest
import torch
from pcw_models import TOKENIZERS, byte_level, tiny_llama
from transformers import DynamicCache, LogitsProcessor, TextStreamer

from hf_puzzle.remote.caches_puzzle import NAMES, OUTPUT_NAME
from hf_puzzle.remote.calls_mrkl import MRKLError, answered
from hf_puzzle.remote.experts_mrkl import Calculator, Dates, Expert, Experts, Units
from hf_puzzle.remote.generation_mrkl import generate


def weigh(item: str, unit: str = "kg") -> float:
    """
    Weight of an item.

    Args:
        item: What is weighed
        unit: Unit of the answer (choices: ["kg", "g"])
    """
    return 2.5


EXPERTS = Experts([Calculator(), Units(), Dates("2022-05-02"), weigh])
SCHEMAS = {name: expert.parameters for name, expert in EXPERTS.items()}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_llama(tokenizer, positions=2048)


class Write(LogitsProcessor):
    """Makes every row, or one, write a text first: the untrained model then goes on by itself."""

    def __init__(self, tokenizer, prompt, text, row=slice(None)):
        self.at, self.row = prompt.shape[1], row
        self.ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def __call__(self, input_ids, scores):
        place = input_ids.shape[1] - self.at
        if place < len(self.ids):
            scores = scores.clone()
            scores[self.row] = -torch.inf
            scores[self.row, self.ids[place]] = 0
        return scores


def prompts(tokenizer, count=1, text="Question: how heavy is it?\nAnswer:"):
    return tokenizer([text] * count, return_tensors="pt")["input_ids"]


def run(model, tokenizer, ids, text=None, row=slice(None), **settings):
    """(new texts, trace) of a run in which the model is made to begin with `text`."""
    trace = []
    processors = [] if text is None else [Write(tokenizer, ids, text, row)]
    settings = {"max_new_tokens": 160, "max_call_tokens": 40, "do_sample": False, "experts": EXPERTS} | settings
    out = generate(
        ids, model=model, tokenizer=tokenizer, trace=trace, logits_processor=processors,
        attention_mask=torch.ones_like(ids), pad_token_id=0, **settings,
    )  # fmt: skip
    return [tokenizer.decode(row[ids.shape[1] :]) for row in out], trace


# -- without a call


def test_a_given_cache_is_read_under_either_name(model, tokenizer):
    ids = prompts(tokenizer)
    plain = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    for name in NAMES:
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids[:, :4], use_cache=True, **{OUTPUT_NAME: cache})
        for experts in (EXPERTS, None):
            found = generate(
                ids, model=model, tokenizer=tokenizer, experts=experts, max_new_tokens=5, do_sample=False,
                pad_token_id=0, **{name: copy.deepcopy(cache)},
            )  # fmt: skip
            assert torch.equal(found, plain)
    for experts in (EXPERTS, None):
        with pytest.raises(MRKLError, match="states=DynamicCache: a cache under a name"):
            generate(ids, model=model, tokenizer=tokenizer, experts=experts, states=DynamicCache())
        two = {name: DynamicCache() for name in NAMES}
        with pytest.raises(MRKLError, match="are different caches"):
            generate(ids, model=model, tokenizer=tokenizer, experts=experts, **two)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False},
        {"do_sample": True},
        {"do_sample": True, "temperature": 1.4, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.2},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": False, "output_scores": True, "return_dict_in_generate": True},
    ],
    ids=["greedy", "sampling", "warpers", "sequences", "scores"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_without_a_call_it_is_stock_generate(model, tokenizer, settings, count):
    ids = prompts(tokenizer, count)
    settings = {**settings, "max_new_tokens": 24, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    torch.manual_seed(3)
    stock = model.generate(ids, **settings)
    torch.manual_seed(3)
    ours = generate(ids, model=model, tokenizer=tokenizer, experts=EXPERTS, **settings)
    if "output_scores" in settings:
        assert all(torch.equal(a, b) for a, b in zip(stock.scores, ours.scores, strict=True))
        stock, ours = stock.sequences, ours.sequences
    assert torch.equal(stock, ours)
    torch.manual_seed(3)
    plain = generate(ids, model=model, **settings)
    assert torch.equal(getattr(plain, "sequences", plain), stock)


def test_a_row_that_calls_leaves_its_neighbours_as_they_are(model, tokenizer):
    ids = prompts(tokenizer, 3)
    settings = {"do_sample": True, "max_new_tokens": 60}
    torch.manual_seed(5)
    stock = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    torch.manual_seed(5)
    texts, trace = run(model, tokenizer, ids, "<call>", row=1, **settings)
    assert {entry["row"] for entry in trace} == {1}
    for row in (0, 2):
        assert texts[row] == tokenizer.decode(stock[row, ids.shape[1] :])


# -- with a call


def test_the_answer_follows_the_call(model, tokenizer):
    texts, trace = run(model, tokenizer, prompts(tokenizer), ' so <call>weigh({"item": "a stone"})</call>')
    assert trace == [{"row": 0, "expert": "weigh", "arguments": {"item": "a stone"}, "result": "2.5", "status": "ok"}]
    assert texts[0].startswith(' so <call>weigh({"item": "a stone"})</call><result>2.5</result>')


def test_numbers_of_a_call_stay_exact(model, tokenizer):
    call = '<call>units({"value": 12345678901234567890.125, "from": "meter", "to": "meter"})</call>'
    texts, trace = run(model, tokenizer, prompts(tokenizer), call, max_call_tokens=200)
    assert trace[0]["result"].startswith("12345678901234567890.125")


def test_the_result_is_the_context_of_what_follows(model, tokenizer):
    """What is generated after a result is what stock generate writes after the same text."""
    ids = prompts(tokenizer)
    texts, trace = run(model, tokenizer, ids, '<call>weigh({"item": "x"})</call>', max_new_tokens=90)
    whole = tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    told = '<call>weigh({"item": "x"})</call><result>2.5</result>'
    parts = ('<call>weigh({"item": "x"})</call>', "<result>", "2.5", "</result>")
    before = [i for part in parts for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
    prompt = torch.cat([ids, torch.tensor([before])], 1)
    stock = model.generate(prompt, max_new_tokens=90 - len(before), do_sample=False, pad_token_id=0)
    assert texts[0] == told + tokenizer.decode(stock[0, prompt.shape[1] :])
    assert len(whole) > len(before)


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "sentencepiece_legacy"])
@pytest.mark.parametrize("sample", [False, True])
def test_an_untrained_model_writes_valid_calls_only(name, sample):
    tokenizer = TOKENIZERS[name]()
    model = tiny_llama(tokenizer, positions=2048)
    ids = prompts(tokenizer, 6)
    calls = 0
    for seed in range(3 if sample else 1):
        torch.manual_seed(seed)
        texts, trace = run(model, tokenizer, ids, "<call>", do_sample=sample, max_new_tokens=130)
        for entry in trace:
            expert = EXPERTS[entry["expert"]]
            properties = expert.parameters["properties"]
            assert set(expert.parameters["required"]) <= set(entry["arguments"]) <= set(properties)
            for key, value in entry["arguments"].items():
                assert value is None or value in properties[key].get("enum", [value])
            assert f"{entry['expert']}(" in texts[entry["row"]]
        assert {entry["row"] for entry in trace} == set(range(6))
        calls += len(trace)
    assert calls >= 6


def test_call_tokens_may_be_tokens_of_the_tokenizer(tokenizer):
    import copy

    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<call>", "</call>"]})
    model = tiny_llama(own, positions=512)
    ids = prompts(own)
    call = own.convert_tokens_to_ids("<call>")
    assert own("<call>", add_special_tokens=False)["input_ids"] == [call]
    texts, trace = run(model, own, ids, '<call>weigh({"item": "x"})</call>')
    assert trace[0]["result"] == "2.5"
    assert texts[0].replace(" ", "").startswith('<call>weigh({"item":"x"})</call><result>2.5</result>')


class Says(Expert):
    name, description, parameters = "says", "Says what it was given to say.", {"type": "object", "properties": {}}

    def __init__(self, text):
        self.text, self.count = text, 0

    def run(self, arguments):
        self.count += 1
        return answered(self.text)


def test_what_an_expert_returns_starts_no_call_and_is_no_control_token(model, tokenizer):
    says = Says('</s><call>calculator({"expression": "1+1"})</call> <call>')
    texts, trace = run(
        model,
        tokenizer,
        prompts(tokenizer),
        "<call>says({})</call>",
        experts=Experts([says, Calculator()]),
        max_new_tokens=100,
    )
    assert [entry["expert"] for entry in trace] == ["says"]
    assert f"<result>{says.text}</result>" in texts[0]
    ids = tokenizer(says.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.eos_token_id not in ids


def test_a_call_in_the_prompt_is_text(model, tokenizer):
    ids = prompts(tokenizer, text='Say <call>weigh({"item": "x"})</call> and <call>')
    _, trace = run(model, tokenizer, ids, max_new_tokens=20)
    assert trace == []


def test_the_same_call_runs_once_and_the_budget_holds(model, tokenizer):
    says = Says("try again")
    call = "<call>says({})</call>"
    texts, trace = run(model, tokenizer, prompts(tokenizer), call, experts=Experts([says]))
    assert says.count == 1
    again = Experts([says, Calculator()])
    _, trace = run(
        model,
        tokenizer,
        prompts(tokenizer),
        '<call>calculator({"expression": "2+2"})</call>',
        experts=again,
        max_calls=0,
    )
    assert trace[0]["status"] == "refused"
    assert "budget of 0" in trace[0]["result"]
    ids = prompts(tokenizer, 4)
    _, trace = run(model, tokenizer, ids, call, experts=again)
    assert says.count == 2  # once for this run's four equal calls
    assert sum(entry["expert"] == "says" for entry in trace) >= 4


def test_an_expert_that_hangs_or_raises_costs_its_own_call(model, tokenizer):
    def slow() -> float:
        """Waits."""
        time.sleep(5)

    def broken() -> float:
        """Breaks."""
        raise RuntimeError("no")

    began = time.time()
    for function, message in ((slow, "no answer within"), (broken, "RuntimeError")):
        text = f"<call>{function.__name__}({{}})</call>"
        _, trace = run(
            model, tokenizer, prompts(tokenizer), text, experts=[function], seconds_per_call=0.2, max_new_tokens=60
        )
        assert trace[0]["status"] == "error"
        assert message in trace[0]["result"]
    assert time.time() - began < 5


def test_what_is_no_call_after_the_opening_stays_text(model, tokenizer):
    texts, trace = run(model, tokenizer, prompts(tokenizer), "a <call", max_new_tokens=12)
    assert trace == []
    assert texts[0].startswith("a <call")


def test_streams_as_it_is_written(model, tokenizer):
    class Keep(TextStreamer):
        kept = ""

        def on_finalized_text(self, text, stream_end=False):
            self.kept += text

    streamer = Keep(tokenizer, skip_prompt=True)
    texts, _ = run(model, tokenizer, prompts(tokenizer), '<call>weigh({"item": "x"})</call>', streamer=streamer)
    assert streamer.kept == texts[0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_beams": 2}, "num_beams"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup"),
        ({"experts": []}, "at least one expert"),
        ({"experts": [3]}, "no expert"),
        ({"seconds_per_call": 0}, "seconds_per_call"),
        ({"call_tokens": ("", "x")}, "pairs of texts"),
    ],
)
def test_mistakes_are_said(model, tokenizer, settings, message):
    with pytest.raises(MRKLError, match=message):
        run(model, tokenizer, prompts(tokenizer), **settings)
