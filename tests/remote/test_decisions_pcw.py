"""Decisions: transformers' own answers, many questions in packed rows, windows before them, and every mistake by name."""

import asyncio
import copy
import itertools
import json
import subprocess
import sys

import pytest
import torch
from families import block_kinds, family_child, family_model, own_block
from pcw_models import byte_level, sentencepiece, tiny_llama
from transformers import DecisionConfig, pipeline

import hf_puzzle  # noqa: F401 (registers the pipelines)
from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.remote import cache_pcw, scoring_pcw
from hf_puzzle.remote.decisions_pcw import Decider
from hf_puzzle.remote.generation_pcw import PCWError, encode_windows
from hf_puzzle.remote.store_pcw import load_windows, save_windows


CHAT = (
    "{{ bos_token }}be brief\n{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TONE = {
    "type": "choice",
    "instructions": "What is the tone?",
    "criteria": {"calm": "a polite text", "angry": None, "sad": "tears"},
}
REFUND = {"type": "noul", "instructions": "Is a refund requested?"}
URGENCY = {"type": "score", "instructions": "How urgent is it?", "criteria": ["can wait", "this week", "today"]}
QUESTIONS = {"tone": TONE, "refund": REFUND, "urgency": URGENCY}
REQUEST = {"state": "my card was lost, or stolen; what a waste of time", "questions": QUESTIONS}
OTHER = {"state": {"film": "a great joy", "stars": 4}, "questions": {"refund": REFUND, "tone": TONE}}
# letters are tokens of their own here, "Yes" and "No" are not
LABELS = {"noul": ["Y", "N"]}
SOLVED = [
    {
        "state": f"the film {i} of a great cast",
        "questions": QUESTIONS,
        "answers": {"tone": ["calm", "angry", "sad"][i % 3], "refund": bool(i % 2), "urgency": i % 3},
    }
    for i in range(6)
]


@pytest.fixture(scope="module")
def tokenizer():
    found = copy.deepcopy(byte_level())
    found.chat_template = CHAT
    return found


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_llama(tokenizer, positions=4096)


@pytest.fixture
def config():
    return DecisionConfig(labels=LABELS, temperature={"choice": 0.7, "noul": 1.4})


def numbers(answers):
    """Every number of an answer, by its place."""
    if isinstance(answers, dict):
        return {(key, *rest): v for key, value in answers.items() for rest, v in numbers(value).items()}
    return {(): answers}


def assert_same(found, expected, tolerance=1e-5):
    found, expected = numbers(found), numbers(expected)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value, abs=tolerance) if isinstance(value, float) else value), key


# -- transformers' answers


def models(size):
    sizes = {"vocab_size": size, "max_position_embeddings": 2048}
    for name in ("llama", "qwen3", "gemma2", "mistral_windowed", "gpt_neox"):
        yield name, lambda name=name: family_model(name, **sizes)
    kinds, own = block_kinds("qwen3"), own_block("qwen3")
    layers = [kinds["no_attention"], own, kinds["window"], kinds["kv_heads"]]
    yield "per-layer child", lambda: family_child("qwen3", layers, **sizes)
    slots = [Block("none", 256), Block(4, 256), Block("linear", 256), Block(2, 256)]
    yield (
        "DeciLM child",
        lambda: family_child("llama", slots, fmt=formats.DECILM, intermediate_size=256, **sizes),
    )


@pytest.mark.parametrize(
    "name, make", models(len(byte_level())), ids=lambda value: value if isinstance(value, str) else ""
)
def test_answers_are_those_of_transformers(name, make, tokenizer, config):
    model = make()
    stock = pipeline("decision", model=model, tokenizer=copy.deepcopy(tokenizer), device="cpu", decision_config=config)
    decide = Decider(model, tokenizer, config)
    alone = [
        {"state": each["state"], "questions": {name: question}}
        for each in (REQUEST, OTHER)
        for name, question in each["questions"].items()
    ]
    for request in (*alone, REQUEST, OTHER):
        assert_same(decide(request), stock(request))
    together = decide([REQUEST, *alone, OTHER, REQUEST])
    for found, request in zip(together, [REQUEST, *alone, OTHER, REQUEST], strict=True):
        assert_same(found, stock(request))
    assert decide(json.dumps(OTHER)) == decide(OTHER)


def test_a_template_of_one_prompt_for_all_questions(model, tokenizer):
    template = "{{ bos_token }}{% for q in questions %}{{ q.instructions }} {{ q.labels | join(' ') }}:<|mark|>{% endfor %}{{ state }}"
    config = DecisionConfig(labels=LABELS, chat_template=template)
    stock = pipeline("decision", model=model, tokenizer=copy.deepcopy(tokenizer), device="cpu", decision_config=config)
    assert_same(Decider(model, tokenizer, config)(REQUEST), stock(REQUEST))
    with pytest.raises(PCWError, match="permute is for one prompt each"):
        Decider(model, tokenizer, config, permute=2)(REQUEST)
    with pytest.raises(PCWError, match="asks all questions at once"):
        Decider(model, tokenizer, config, demonstrations=SOLVED)


def test_a_model_without_a_chat_template(model):
    tokenizer = copy.deepcopy(byte_level())
    template = "{{ state }}\n{{ question.instructions }} {{ question.labels | join(' ') }}:"
    config = DecisionConfig(labels=LABELS, chat_template=template)
    stock = pipeline("decision", model=model, tokenizer=copy.deepcopy(tokenizer), device="cpu", decision_config=config)
    assert_same(Decider(model, tokenizer, config)(REQUEST), stock(REQUEST))
    assert Decider(model, tokenizer, config, demonstrations=SOLVED)(REQUEST)
    plain = Decider(model, tokenizer, DecisionConfig(labels=LABELS))
    own = plain.decision_config
    assert own.chat_template.endswith("Answer:\n")
    stock = pipeline("decision", model=model, tokenizer=copy.deepcopy(tokenizer), device="cpu", decision_config=own)
    assert_same(plain(REQUEST), stock(REQUEST))


# -- rows


def test_rows_are_short_and_hold_one_cache(model, tokenizer, config, monkeypatch):
    shapes, lengths = set(), []
    stock_update, stock_run = cache_pcw.FullLayer.update, scoring_pcw.Reader.run

    def update(layer, *args, **kwargs):
        found = stock_update(layer, *args, **kwargs)
        shapes.add(layer.keys.shape[0])
        return found

    def run(reader, context, ids, *args, **kwargs):
        lengths.append((tuple(ids.shape), len(context.positions)))
        return stock_run(reader, context, ids, *args, **kwargs)

    monkeypatch.setattr(cache_pcw.FullLayer, "update", update)
    monkeypatch.setattr(scoring_pcw.Reader, "run", run)
    decide = Decider(model, tokenizer, config)
    held = []
    for count in (4, 32):
        lengths.clear()
        asked = {f"{i}": {**REFUND, "instructions": f"Is it {i}?"} for i in range(count)}
        decide({"state": REQUEST["state"] * 4, "questions": asked})
        assert all(rows == 1 and length <= scoring_pcw.PACKED_TOKENS for (rows, length), _ in lengths)
        held.append(max(keys for _, keys in lengths))
    assert held[1] <= held[0]
    assert shapes == {1}


# -- windows before them


def chat_ids(tokenizer, *turns):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def test_one_window_of_demonstrations_is_a_chat(model, tokenizer, config):
    def text(request):
        ((inputs, _),) = config.prepare_inputs(request, copy.deepcopy(tokenizer))
        whole = tokenizer.decode(inputs["input_ids"][0])
        return whole.removeprefix("<s>be brief\n<user>").removesuffix("</s>\n<assistant>")

    solved = [
        {"state": f"the film {i}", "questions": {"refund": REFUND}, "answers": {"refund": bool(i)}} for i in range(2)
    ]
    decide = Decider(model, tokenizer, config, demonstrations=solved, num_windows=1)
    request = {"state": REQUEST["state"], "questions": {"refund": REFUND}}
    found = decide(request)["refund"]["noul"]
    orders = []
    for order in itertools.permutations(range(2)):
        turns = [turn for i in order for turn in (text(solved[i]), LABELS["noul"][1 - i])]
        logits = model(torch.tensor([chat_ids(tokenizer, *turns, text(request))])).logits[0, -1]
        labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in LABELS["noul"]]
        orders.append(float((logits[labels] / 1.4).softmax(-1)[0]))
    assert min(abs(found - each) for each in orders) <= 1e-5
    assert max(abs(found - each) for each in orders) > 1e-5  # so that the order of the deal is seen


def test_documents_stand_before_the_prompt(model, tokenizer, config):
    decide = Decider(model, tokenizer, config, contexts=["a great film"])
    request = {"state": "a card", "questions": {"refund": REFUND}}
    ((inputs, _),) = config.prepare_inputs(request, copy.deepcopy(tokenizer))
    head = tokenizer("be brief\n")["input_ids"]
    prompt = inputs["input_ids"][0].tolist()
    assert prompt[: len(head)] == head
    ids = head + tokenizer("a great film\n\n", add_special_tokens=False)["input_ids"] + prompt[len(head) :]
    labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in LABELS["noul"]]
    expected = (model(torch.tensor([ids])).logits[0, -1, labels] / 1.4).softmax(-1)[0]
    assert decide(request)["refund"]["noul"] == pytest.approx(float(expected), abs=1e-5)


def test_windows_are_encoded_once_kept_in_a_store_and_follow_the_weights(tokenizer, config, tmp_path):
    model = tiny_llama(tokenizer, positions=1024)
    decide = Decider(model, tokenizer, config, demonstrations=SOLVED, num_windows=3)
    expected = decide([REQUEST, OTHER])
    assert decide.windows() is decide.windows()
    assert_same(decide(REQUEST), expected[0])
    store = save_windows(tmp_path, decide.windows(), model, tokenizer)
    loaded = load_windows(store, model, tokenizer)
    again = Decider(model, tokenizer, config, demonstrations=SOLVED, num_windows=3, encoded=loaded)
    assert again([REQUEST, OTHER]) == expected
    assert again.windows() is loaded
    with pytest.raises(PCWError, match="not those of these demonstrations"):
        Decider(model, tokenizer, config, demonstrations=SOLVED[1:], num_windows=3, encoded=loaded)
    model.lm_head.weight.data.mul_(2)
    with pytest.raises(PCWError, match="saved with another model"):
        load_windows(store, model, tokenizer)
    fresh = Decider(model, tokenizer, config, demonstrations=SOLVED, num_windows=3)
    assert decide(REQUEST) == fresh(REQUEST) != expected[0]


# -- options


def test_labels_of_several_tokens_are_scored_whole(model, tokenizer):
    """Yes and No are no single tokens here, which transformers' pipeline refuses."""
    request = {"state": "a card", "questions": {"refund": REFUND}}
    ((inputs, _),) = DecisionConfig().prepare_inputs(request, copy.deepcopy(tokenizer))
    logs = []
    for label in ("Yes", "No"):
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        assert len(ids) > 1
        prompt = inputs["input_ids"][0].tolist()
        rows = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logs.append(sum(rows[i, token] for i, token in enumerate(ids)))
    found = Decider(model, tokenizer)(request)["refund"]["noul"]
    assert found == pytest.approx(float(torch.stack(logs).softmax(0)[0]), abs=1e-5)


def test_whole_options_take_any_number_of_them(model, tokenizer, config):
    criteria = {f"option {i}": None for i in range(40)} | {"option": None}  # which begins all others
    request = {"state": "a card", "questions": {"which": {"type": "choice", "criteria": criteria}, "urgency": URGENCY}}
    with pytest.raises(PCWError, match='reads at most 26 options.*options="whole"'):
        Decider(model, tokenizer, config)(request)
    answers = Decider(model, tokenizer, config, options="whole")(request)
    assert sum(answers["which"]["probabilities"].values()) == pytest.approx(1)
    assert answers["urgency"]["legend"]["1"] == "this week"


# -- orders


def test_orders_are_averaged_and_what_moved_is_said(model, tokenizer, config):
    decide, orders = Decider(model, tokenizer, config), list(itertools.permutations(TONE["criteria"]))
    alone = {}
    for order in orders:
        criteria = {option: TONE["criteria"][option] for option in order}
        alone[order] = decide(REQUEST | {"questions": {"tone": TONE | {"criteria": criteria}}})["tone"]
    found = Decider(model, tokenizer, config, permute=len(orders))(REQUEST)
    for option in TONE["criteria"]:
        mean = sum(each["probabilities"][option] for each in alone.values()) / len(orders)
        assert found["tone"]["probabilities"][option] == pytest.approx(mean, abs=1e-5)
    given = alone[tuple(TONE["criteria"])]["choice"]
    moved = sum(each["choice"] != given for each in alone.values()) / (len(orders) - 1)
    assert (found["tone"]["orders"], found["tone"]["moved"]) == (6, pytest.approx(moved))

    turned = DecisionConfig(
        labels={"noul": LABELS["noul"][::-1]}, temperature=config.temperature, noul_options=["false", "true"]
    )
    mean = (decide(REQUEST)["refund"]["noul"] + Decider(model, tokenizer, turned)(REQUEST)["refund"]["noul"]) / 2
    assert found["refund"]["noul"] == pytest.approx(mean, abs=1e-5)
    assert found["refund"]["orders"] == 2
    assert "orders" not in found["urgency"]
    assert_same(found["urgency"], decide(REQUEST)["urgency"])


# -- mistakes


@pytest.fixture
def no_compute(model):
    def fail(*_):
        raise AssertionError("computed")

    handle = model.model.register_forward_pre_hook(fail)
    yield
    handle.remove()


def ask(**question):
    return {"state": "a", "questions": {"q": question}}


@pytest.mark.parametrize(
    "request_, message",
    [
        ("{", "request 0 is not valid JSON"),
        (3, "request 0 is 3: expected"),
        ({"state": "a"}, "request 0 is .*expected"),
        ({"state": "a", "questions": {}}, "expected at least one, by name"),
        ({"state": "a", "questions": [TONE]}, "expected at least one, by name"),
        (REQUEST | {"assets": {"x": 1}}, "assets"),
        (ask(type="choice", criteria={"a": None, "a ": None}), "question 'q': option 'a' is there twice"),
        (ask(type="score", criteria=["now", "later", "now"]), "option 'now' is there twice"),
        ('{"state": "a", "questions": {"q": {"type": "choice", "criteria": {"x": 1, "x": 2}}}}', "'x' is there twice"),
        (ask(type="choice", criteria={}), "needs `criteria` with its options"),
        (ask(type="choice"), "needs `criteria`|missing"),
        (ask(type="rank", criteria={"a": None}), "`type` must be one of"),
        (ask(type="choice", criteria={str(i): None for i in range(27)}), "at most 26 options"),
        (REQUEST | {"state": "film " * 5000}, r"request 0, question 'tone' is \d+ tokens too long"),
    ],
)
def test_bad_requests_are_named_before_any_compute(model, tokenizer, config, request_, message, no_compute):
    decide = Decider(model, tokenizer, config)
    with pytest.raises(PCWError, match=message):
        decide(request_)
    with pytest.raises(PCWError, match=message.replace("request 0", "request 1")):
        decide([REQUEST, request_])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"options": "letters"}, "options is 'letters'"),
        ({"permute": 0}, "permute is 0"),
        ({"permute": True}, "permute is True"),
        ({"contexts": ["a"], "num_windows": 0}, "num_windows is 0: expected a whole number, at least 1"),
        ({"contexts": ["a"], "num_windows": "2"}, "num_windows is '2'"),
        ({"contexts": ["a"], "window_size": 9}, "window_size is for demonstrations"),
        ({"demonstrations": "abc"}, "demonstrations is 'abc': expected a list of requests"),
        ({"demonstrations": SOLVED, "contexts": ["a"]}, "either demonstrations or contexts"),
        ({"demonstrations": [REQUEST]}, "demonstration 0 has answers None"),
        ({"demonstrations": [REQUEST | {"answers": {"mood": 1}}]}, "demonstration 0 has answers"),
        (
            {"demonstrations": [REQUEST | {"answers": {"tone": "glad"}}]},
            "'tone' is answered 'glad', expected one of calm",
        ),
        ({"demonstrations": SOLVED, "num_windows": 19}, "expected 1 to 18"),
        ({"demonstrations": SOLVED, "window_size": 20}, "give another window_size"),
        ({"contexts": "a text"}, "expected a list of texts"),
        ({"contexts": ["a", ""]}, "contexts hold ''"),
        ({"contexts": ["a"], "num_windows": 2}, "1 contexts for 2 windows"),
    ],
)
def test_bad_settings_are_named_before_any_compute(model, tokenizer, config, settings, message, no_compute):
    with pytest.raises(PCWError, match=message):
        Decider(model, tokenizer, config, **settings)


def test_a_state_that_is_too_long_says_by_how_many_tokens(tokenizer, config):
    model = tiny_llama(tokenizer, positions=512)
    decide = Decider(model, tokenizer, config, demonstrations=SOLVED[:2], num_windows=6)
    first = decide.windows().next_position
    request = {"state": "a", "questions": {"refund": REFUND}}
    ((inputs, _),) = config.prepare_inputs(request, copy.deepcopy(tokenizer))
    spare = 512 - first - (inputs["input_ids"].shape[1] - len(decide.turns.head))
    letter = tokenizer("b b", add_special_tokens=False)["input_ids"]
    assert decide(request | {"state": "a" + " b" * (spare // (len(letter) - 1) - 8)})
    with pytest.raises(PCWError, match=f"is {10 * (len(letter) - 1)} tokens too long"):
        decide(request | {"state": "a" + " b" * (spare // (len(letter) - 1) + 10)})


def test_labels_with_the_same_tokens_are_refused(model, tokenizer):
    config = DecisionConfig(labels={"noul": ["Y", "Y"]})
    with pytest.raises(PCWError, match=r"labels 'Y' and 'Y' have the same tokens \[\d+\]"):
        Decider(model, tokenizer, config)({"state": "a", "questions": {"refund": REFUND}})
    unknown = copy.deepcopy(sentencepiece())
    unknown.chat_template = CHAT
    decide = Decider(tiny_llama(unknown, positions=1024), unknown, DecisionConfig(labels={"noul": ["<unk>", "N"]}))
    with pytest.raises(PCWError, match="label '<unk>' has no tokens of its own"):
        decide({"state": "a", "questions": {"refund": REFUND}})


# -- where decisions are asked


FRESH = """
import json, sys
sys.modules["hf_puzzle"] = None
from transformers import pipeline
decide = pipeline("pcw-decision", model=sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(decide(json.loads(sys.argv[2]))))
"""


def test_the_pipeline_is_saved_with_its_settings_and_temperatures(model, tokenizer, config, tmp_path):
    made = pipeline(
        "pcw-decision", model=model, tokenizer=tokenizer, device="cpu", decision_config=config, demonstrations=SOLVED,
        num_windows=3, permute=2,
    )  # fmt: skip
    expected = Decider(model, tokenizer, config, demonstrations=SOLVED, num_windows=3, permute=2)([REQUEST, OTHER])
    assert made([REQUEST, OTHER]) == expected
    assert made(json.dumps(REQUEST)) == made(REQUEST)
    assert made(iter([REQUEST]).__next__()) == made(REQUEST)
    assert "moved" not in made(REQUEST, permute=1)["tone"]
    with pytest.raises(PCWError, match="did you mean 'permute'"):
        made(REQUEST, permutes=2)
    made.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "decision.json").read_text())["temperature"] == config.temperature
    run = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path), json.dumps([REQUEST, OTHER])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    for found, each in zip(json.loads(run.stdout.splitlines()[-1]), expected, strict=True):
        assert_same(found, each)


@pytest.mark.parametrize("fmt", [formats.DECILM, formats.PER_LAYER])
def test_transformers_serves_our_children(fmt, tokenizer, config, tmp_path):
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("transformers[serving] is not installed")
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.systemone import SystemOneHandler
    from transformers.cli.serving.utils import GenerationState

    family = "llama" if fmt == formats.DECILM else "qwen3"
    own = Block(4, 256) if fmt == formats.DECILM else own_block(family)
    no_attention = Block("none", 256) if fmt == formats.DECILM else block_kinds(family)["no_attention"]
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024}
    sizes |= {"intermediate_size": 256} if fmt == formats.DECILM else {}
    child = family_child(family, [no_attention, own, own, own], fmt=fmt, **sizes)
    folder = hub.write_model_folder(tmp_path / "child", child, tokenizer, also=config.save_pretrained)
    manager = ModelManager(device="cpu", trust_remote_code=True, force_model=str(folder))
    try:
        handler = SystemOneHandler(manager, GenerationState())
        response = asyncio.run(handler.handle_request({"model": str(folder), **REQUEST}, "1"))
    finally:
        manager.shutdown()
    assert_same(json.loads(response.body)["answers"], Decider(child, tokenizer, config)(REQUEST))


def test_demonstrations_of_one_kind_move_the_answer(model, tokenizer, config):
    encoded = encode_windows(model, [[5, 6]])
    assert encoded.prefix == ()
    calm = [each | {"answers": {"tone": "calm"}} for each in SOLVED]
    sad = [each | {"answers": {"tone": "sad"}} for each in SOLVED]
    both = [Decider(model, tokenizer, config, demonstrations=each)(REQUEST)["tone"] for each in (calm, sad)]
    assert both[0]["probabilities"] != both[1]["probabilities"]
