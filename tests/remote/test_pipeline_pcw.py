"""Pipelines: shapes as text-classification's, settings that come back, and every bad input before any compute."""

import functools
import json
import subprocess
import sys
import threading

import pytest
import torch
from datasets import Dataset
from pcw_models import byte_level, sentencepiece, tiny_llama
from transformers import BertConfig, BertForSequenceClassification, LogitsProcessor, Qwen3NextConfig, pipeline

import hf_puzzle  # noqa: F401 (registers the pipelines)
from hf_puzzle.pcw.publish import write_custom_generate
from hf_puzzle.remote.generation_pcw import PCWError, encode_windows, generate, score_labels
from hf_puzzle.remote.pipeline_pcw import PCWClassificationPipeline, PCWGenerationPipeline
from hf_puzzle.remote.scoring_pcw import recompute_starts
from hf_puzzle.remote.windows_pcw import Demonstration, Template, Tokens, lay_out_demonstrations, tokenize_labels


LABELS = ["bad", "card", "card lost", "very good"]
SHOTS = [(f"the {w} film {i} of a great cast", LABELS[i % 4]) for i, w in enumerate(["joy", "waste", "end"] * 6)]
QUERIES = ["what a joy", "my card was lost or stolen", "a waste"]
CONTEXTS = ["Mary Shelley wrote it.", "It was in 1818, in Geneva (Switzerland).", "The film was a joy."]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_llama(tokenizer)


def make(model, tokenizer, task="pcw-classification", **settings):
    return pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **settings)


@pytest.fixture(scope="module")
def classifier(model, tokenizer):
    return make(model, tokenizer, demonstrations=SHOTS, seed=3)


@pytest.fixture(scope="module")
def answerer(model, tokenizer):
    return make(model, tokenizer, "pcw-generation", contexts=CONTEXTS, max_new_tokens=6)


@pytest.fixture
def no_compute(model, monkeypatch):
    """The model may not run."""

    for module in (model, model.model):

        @functools.wraps(type(module).forward)
        def forward(*args, **kwargs):
            raise AssertionError("computed")

        monkeypatch.setattr(type(module), "forward", forward)


# -- classification


def test_scores_are_those_of_the_core(model, tokenizer, classifier):
    shots, template = [Demonstration((text,), label) for text, label in SHOTS], Template()
    layout = lay_out_demonstrations(tokenizer, shots, LABELS, template, 256, seed=3)
    assert len(layout.windows) > 1
    labels = tokenize_labels(Tokens(tokenizer), LABELS, template)
    encoded = encode_windows(model, layout.windows, layout.prefix)
    tasks = [layout.task(template.separator + template.task((query,))) for query in QUERIES]
    expected = score_labels(model, encoded, tasks, labels.tokens).softmax(-1)
    for row, query in zip(expected, classifier(QUERIES, top_k=None), strict=True):
        found = {each["label"]: each["score"] for each in query}
        assert torch.allclose(torch.tensor([found[label] for label in LABELS]), row, atol=1e-6)
        assert [each["score"] for each in query] == sorted(found.values(), reverse=True)
        assert sum(found.values()) == pytest.approx(1)


def test_one_window_scores_like_the_joined_prompt(model, tokenizer):
    few = SHOTS[:4]
    classifier = make(model, tokenizer, demonstrations=few, num_windows=1, labels=["very good", "bad"] + LABELS[1:3])
    text = classifier.windows(encode=False).layout.texts[0]
    prompt = tokenizer(text + "\n==\nText: what a joy\nLabel:", return_tensors="pt")["input_ids"]
    ids = classifier.windows(encode=False).labels.tokens
    rows = []
    for label in ids:
        whole = torch.cat([prompt, torch.tensor([label])], 1)
        logs = model(whole).logits[0].log_softmax(-1)[prompt.shape[1] - 1 : -1]
        rows.append(logs.gather(1, torch.tensor(label)[:, None]).sum())
    expected = torch.stack(rows).softmax(-1)
    found = {each["label"]: each["score"] for each in classifier("what a joy", top_k=None)}
    names = classifier.windows(encode=False).labels.names
    assert torch.allclose(torch.tensor([found[name] for name in names]), expected, atol=1e-5)


def test_output_has_the_shape_of_text_classification(classifier, tokenizer):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=4, id2label=dict(enumerate(LABELS)),
    )  # fmt: skip
    stock = pipeline(
        "text-classification", model=BertForSequenceClassification(config), tokenizer=tokenizer, device="cpu"
    )

    def shape(value):
        if isinstance(value, dict):
            return {key: type(each) for key, each in value.items()}
        return [shape(each) for each in value]

    for inputs in ("a joy", ["a joy"], QUERIES):
        for settings in ({}, {"top_k": 1}, {"top_k": 3}, {"top_k": None}):
            assert shape(classifier(inputs, **settings)) == shape(stock(inputs, **settings)), (inputs, settings)


def test_batches_and_orders_do_not_matter(classifier):
    whole = classifier(QUERIES * 3, top_k=None)
    for found in (
        classifier(QUERIES * 3, top_k=None, batch_size=2),
        [classifier(query, top_k=None) for query in QUERIES * 3],
        list(classifier((query for query in QUERIES * 3), top_k=None)),
        classifier(Dataset.from_dict({"text": QUERIES * 3}), top_k=None),
        classifier(tuple(QUERIES * 3), top_k=None, packed=False),
        classifier((QUERIES * 3)[::-1], top_k=None)[::-1],
    ):
        for first, second in zip(whole, found, strict=True):
            assert [each["label"] for each in first] == [each["label"] for each in second]
            assert [each["score"] for each in first] == pytest.approx([each["score"] for each in second], abs=1e-5)
    assert classifier([]) == []


def test_windows_are_encoded_once_and_again_only_for_other_demonstrations(model, tokenizer, monkeypatch):
    from hf_puzzle.remote import pipeline_pcw

    calls = []
    stock = pipeline_pcw.encode_windows
    monkeypatch.setattr(pipeline_pcw, "encode_windows", lambda *a: calls.append(1) or stock(*a))
    classifier = make(model, tokenizer, demonstrations=SHOTS)
    classifier(QUERIES)
    classifier(QUERIES[0], mode="ensemble")
    assert len(calls) == 1
    other = classifier(QUERIES, demonstrations=SHOTS[:8], num_windows=2)
    assert len(calls) == 2
    assert other == make(model, tokenizer, demonstrations=SHOTS[:8], num_windows=2)(QUERIES)


def changes():
    """What changes a model, by name; each leaves it ready to compute."""

    def trained(model):
        model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        torch.optim.AdamW(model.parameters(), lr=0.05).step()
        model.zero_grad()

    def one_row(model):
        with torch.no_grad():
            model.get_input_embeddings().weight[byte_level()("the film")["input_ids"][-1]].mul_(-1)

    return {
        "load_state_dict": lambda m: m.load_state_dict(tiny_llama(byte_level(), seed=1).state_dict()),
        "training step": trained,
        "one row of the embeddings": one_row,
        "data in place": lambda m: [p.data.mul_(0.5) for p in m.model.layers.parameters()],
        "bfloat16": lambda m: m.to(torch.bfloat16),
        "train and eval": lambda m: m.train().eval(),
    }


@pytest.mark.parametrize("name", changes())
def test_windows_follow_the_weights(tokenizer, name):
    model = tiny_llama(tokenizer)
    classifier = make(model, tokenizer, demonstrations=SHOTS)
    answerer = make(model, tokenizer, "pcw-generation", contexts=CONTEXTS, max_new_tokens=6)
    before = classifier(QUERIES, top_k=None, calibrate=True)
    answerer("who?")
    changes()[name](model)
    found = classifier(QUERIES, top_k=None, calibrate=True)
    assert found == make(model, tokenizer, demonstrations=SHOTS)(QUERIES, top_k=None, calibrate=True)
    assert (found == before) == (name == "train and eval")
    fresh = make(model, tokenizer, "pcw-generation", contexts=CONTEXTS, max_new_tokens=6)
    assert answerer("who?") == fresh("who?")


def test_windows_follow_dropout_and_adapters(tokenizer):
    from peft import LoraConfig, get_peft_model

    model = tiny_llama(tokenizer, attention_dropout=0.9)
    classifier = make(model, tokenizer, demonstrations=SHOTS)
    expected = classifier(QUERIES, top_k=None)
    model.train()
    classifier(QUERIES)
    model.eval()
    assert classifier(QUERIES, top_k=None) == expected  # not with windows that dropout made
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    wrapped = get_peft_model(model, config, adapter_name="one")
    wrapped.add_adapter("two", config)
    for adapter in ("one", "two", "one"):
        wrapped.set_adapter(adapter)
        assert classifier(QUERIES, top_k=None) == make(model, tokenizer, demonstrations=SHOTS)(QUERIES, top_k=None)
    with wrapped.disable_adapter():
        for first, second in zip(classifier(QUERIES, top_k=None), expected, strict=True):
            assert [e["score"] for e in first] == pytest.approx([e["score"] for e in second], abs=1e-6)


def test_seed_decides_the_deal(model, tokenizer):
    def windows(seed):
        return make(model, tokenizer, demonstrations=SHOTS, seed=seed).windows(encode=False).layout.windows

    assert windows(1) == windows(1) != windows(2)


def test_calibration_divides_by_the_prior_of_texts_without_content(classifier):
    plain, calibrated = (classifier("a joy", top_k=None, calibrate=each) for each in (False, True))
    priors = [classifier(text, top_k=None) for text in ("N/A", "", "[MASK]")]
    prior = {label: sum(e["score"] for row in priors for e in row if e["label"] == label) / 3 for label in LABELS}
    expected = {each["label"]: each["score"] / prior[each["label"]] for each in plain}
    total = sum(expected.values())
    assert {e["label"]: e["score"] for e in calibrated} == pytest.approx(
        {k: v / total for k, v in expected.items()}, rel=1e-4
    )


@pytest.mark.parametrize("mode", ["pcw", "ensemble", "nbce", "single"])
def test_modes(classifier, mode):
    assert sum(each["score"] for each in classifier("a joy", top_k=None, mode=mode)) == pytest.approx(1)


def test_greedy_names_one_label_with_the_authors_tokenization(model):
    tokenizer = sentencepiece()
    classifier = make(
        tiny_llama(tokenizer, 400), tokenizer, demonstrations=SHOTS, scores="greedy", tokenization="separate"
    )
    found = classifier("a joy", top_k=None)
    assert [each["score"] for each in found] == [1, 0, 0, 0]


def test_mappings_and_several_inputs(model, tokenizer):
    template = "premise: {premise}\nhypothesis: {hypothesis}\nprediction: {label}"
    pairs = [({"premise": a, "hypothesis": b}, label) for a, b, label in [("a", "b", "yes"), ("c", "d", "no")]]
    classifier = make(model, tokenizer, demonstrations=pairs, template=template)
    assert classifier({"premise": "a", "hypothesis": "d"})[0]["label"] in {"yes", "no"}
    with pytest.raises(PCWError, match="input 1"):
        classifier([{"premise": "a", "hypothesis": "d"}, "a"])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "there are no demonstrations"),
        ({"demonstrations": []}, "there are no demonstrations"),
        ({"demonstrations": SHOTS, "labels": ["bad", "bad"]}, "'bad' is there twice"),
        ({"demonstrations": SHOTS, "labels": [*LABELS, " "]}, "label 4 is ' '"),
        ({"demonstrations": SHOTS, "labels": LABELS[:3]}, "'very good', which is not in labels"),
        ({"demonstrations": SHOTS, "num_windows": 1}, r"window 0 is \d+ tokens too long"),
        ({"demonstrations": SHOTS, "num_windows": 99}, "some would be empty"),
        ({"demonstrations": SHOTS, "window_size": 250}, r"window_size 250 is \d+ tokens too long"),
        ({"demonstrations": SHOTS, "template": "{text}"}, "template"),
        ({"demonstrations": SHOTS, "alignment": "middle"}, "alignment is 'middle'"),
        ({"demonstrations": SHOTS, "mode": "vote"}, "mode is 'vote'"),
        ({"demonstrations": SHOTS, "scores": "tree"}, "scores is 'tree'"),
        ({"demonstrations": SHOTS, "scores": "greedy", "calibrate": True}, "calibrate needs probabilities"),
        ({"demonstrations": SHOTS, "attention_temperature": 0}, "temperature"),
        ({"demonstrations": SHOTS, "top_k_windows": 99}, "top_k_windows"),
    ],
)
def test_bad_settings_are_refused_before_any_compute(model, tokenizer, settings, message, no_compute):
    classifier = make(model, tokenizer, **settings)
    with pytest.raises(PCWError, match=message):
        classifier("a joy")


def test_unknown_names_and_long_inputs_are_refused_before_any_compute(model, tokenizer, no_compute):
    with pytest.raises(PCWError, match="no argument 'num_window'; did you mean 'num_windows'"):
        make(model, tokenizer, demonstrations=SHOTS, num_window=3)
    classifier = make(model, tokenizer, demonstrations=SHOTS)
    with pytest.raises(PCWError, match=r"input 70 is \d+ tokens too long"):
        classifier(["a"] * 70 + ["film " * 200])
    with pytest.raises(PCWError, match="inputs are 3: give a text"):
        classifier(3)
    with pytest.raises(PCWError, match="input 0 is 3"):
        classifier([3])
    for settings in ({"top_k": 0}, {"top_k": "a"}, {"batch_size": 0}, {"num_windows": 1.5}, {"context_size": 0}):
        ((name, value),) = settings.items()
        with pytest.raises(PCWError, match=f"{name} is {value!r}: expected a whole number, at least 1"):
            classifier(["a"], **settings)


def test_decision_requests_among_the_labels(classifier):
    def ask(state, **question):
        return {
            "state": state,
            "questions": {"topic": {"type": "choice", "criteria": dict.fromkeys(LABELS)} | question},
        }

    found = classifier([ask(text) for text in QUERIES])
    for answer, row in zip(found, classifier(QUERIES, top_k=None), strict=True):
        assert answer["topic"]["probabilities"] == {each["label"]: each["score"] for each in row}
        assert answer["topic"]["choice"] == row[0]["label"]
        assert list(answer["topic"]["probabilities"]) == LABELS
    alone = classifier(ask(QUERIES[0]))["topic"]
    assert alone["probabilities"] == pytest.approx(found[0]["topic"]["probabilities"], abs=1e-6)
    for question in (
        {"criteria": {"bad": None}},
        {"type": "noul", "criteria": None},
        {"type": "score", "criteria": LABELS},
    ):
        with pytest.raises(
            PCWError, match="request 0, question 'topic': this classifier answers a choice among bad, card"
        ):
            classifier(ask("a", **question))
    with pytest.raises(PCWError, match="request 0, question 'topic': option 'x' is there twice"):
        classifier(ask("a", criteria={"x": None, "x ": None}))


def test_frames_and_series_are_read_by_rows(classifier, answerer):
    frame = Dataset.from_dict({"text": QUERIES, "question": QUERIES}).to_pandas()
    frame.index = [2, 0, 1]
    expected = classifier(QUERIES)
    for given in (frame, frame["text"], frame["text"].to_numpy(), Dataset.from_pandas(frame)):
        assert classifier(given) == expected
    assert answerer(frame["question"]) == answerer(QUERIES)
    assert answerer("who?", contexts=frame["text"].to_numpy()) == answerer("who?", contexts=QUERIES)
    with pytest.raises(PCWError, match="contexts of type DataFrame with the keys 'text', 'question'"):
        answerer("who?", contexts=frame)


def test_a_peft_model_classifies_as_its_base_does(tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    wrapped = get_peft_model(tiny_llama(tokenizer), config).eval()
    classifier = make(wrapped, tokenizer, demonstrations=SHOTS)
    expected = make(wrapped.get_base_model(), tokenizer, demonstrations=SHOTS)(QUERIES, top_k=None)
    assert classifier(QUERIES, top_k=None) == expected
    with wrapped.disable_adapter():
        assert classifier(QUERIES, top_k=None) != expected
    assert make(wrapped, tokenizer, "pcw-generation", contexts=CONTEXTS, max_new_tokens=3)("who?")
    with pytest.raises(PCWError, match="merge_and_unload"):
        classifier.save_pretrained(tmp_path)


def test_models_without_mergeable_caches_are_refused(tokenizer):
    from transformers import Qwen3NextForCausalLM

    config = Qwen3NextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    )  # fmt: skip
    with pytest.raises(PCWError, match="qwen3_next"):
        make(Qwen3NextForCausalLM(config), tokenizer, demonstrations=SHOTS)


def test_threads_do_not_disturb_one_another(model, tokenizer):
    classifier = make(model, tokenizer, demonstrations=SHOTS)
    expected = [make(model, tokenizer, demonstrations=SHOTS)(query, top_k=None) for query in QUERIES]
    found = {}

    def work(i):
        found[i] = classifier(QUERIES[i % 3], top_k=None)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        assert [e["label"] for e in found[i]] == [e["label"] for e in expected[i % 3]]
        assert [e["score"] for e in found[i]] == pytest.approx([e["score"] for e in expected[i % 3]], abs=1e-6)


# -- generation


def test_answers_are_those_of_the_core(model, tokenizer, answerer):
    question = "\n\nQuestion: who?\nAnswer:"
    ids = torch.tensor([tokenizer(question, add_special_tokens=False)["input_ids"]])
    output = generate(ids, model=model, contexts=CONTEXTS, tokenizer=tokenizer, max_new_tokens=6, pad_token_id=2)
    expected = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert answerer("who?") == [{"generated_text": expected}]


def test_one_document_answers_like_the_joined_prompt(model, tokenizer, answerer):
    prompt = tokenizer(CONTEXTS[0] + "\n\nQuestion: who?\nAnswer:", return_tensors="pt")["input_ids"]
    output = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=2)
    expected = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    assert answerer({"question": "who?", "contexts": CONTEXTS[:1]}) == [{"generated_text": expected}]


def test_questions_are_batched_by_their_documents(answerer):
    questions = ["who?", "where was it, and when?", {"question": "what?", "contexts": CONTEXTS[1:]}, "who?"]
    assert answerer(questions) == [answerer(question) for question in questions]
    assert answerer(questions, num_windows=1) != answerer(questions)


def test_the_whole_generate_surface_is_there(answerer, tokenizer):
    beams = answerer(["who?", "when?"], num_beams=3, num_return_sequences=2)
    assert [len(each) for each in beams] == [2, 2]
    torch.manual_seed(0)
    first = answerer("who?", do_sample=True, top_k=5)
    torch.manual_seed(0)
    assert answerer("who?", do_sample=True, top_k=5) == first

    class Only(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = torch.full_like(scores, -torch.inf)
            scores[:, 40] = 0
            return scores

    word = tokenizer.decode([40])
    assert answerer("who?", logits_processor=[Only()], max_new_tokens=3) == [{"generated_text": word * 3}]

    class Streamer:
        pieces = 0

        def put(self, value):
            self.pieces += 1

        def end(self):
            self.ended = True

    streamer = Streamer()
    answerer("who?", streamer=streamer)
    assert streamer.pieces > 1
    assert streamer.ended


@pytest.mark.parametrize("mode", ["ensemble", "nbce", "single"])
def test_generation_modes(answerer, mode):
    assert answerer("who?", mode=mode, alignment="right")[0]["generated_text"] is not None


@pytest.mark.parametrize(
    "inputs, settings, message",
    [
        ("who?", {"contexts": None}, "input 0 has no contexts"),
        ("who?", {"contexts": []}, "input 0 has no contexts"),
        ("who?", {"contexts": ["a", ""]}, "context 1 is ''"),
        ("who?", {"contexts": {"a title": "a text"}}, "contexts of type dict with the keys 'a title'"),
        ("who?", {"contexts": byte_level()(["a", "b"])}, "contexts of type BatchEncoding with the keys 'input_ids'"),
        ("who?", {"contexts": {"a", "b"}}, "contexts of type set: give a list"),
        ("who?", {"contexts": [["a"], "b"]}, r"has the context \['a'\]: expected texts"),
        ({"question": "who?", "contexts": {"a title": "a text"}}, {}, "input 0 has contexts of type dict"),
        ("who?", {"contexts": "abc"}, "input 0 has no contexts"),
        ("who?", {"num_windows": 4}, "3 contexts for 4 windows"),
        ("who?", {"max_new_tokens": 240}, "tokens too long"),
        ("who?", {"question_template": "Answer:"}, "question_template"),
        ("who?", {"mode": "vote"}, "mode is 'vote'"),
        ("who?", {"use_cache": False}, "use_cache=False"),
        ({"query": "who?"}, {}, "expected a question"),
        ([3], {}, "input 0 is 3"),
    ],
)
def test_bad_questions_are_refused(answerer, inputs, settings, message, no_compute):
    with pytest.raises(PCWError, match=message):
        answerer(inputs, **settings)


# -- saved and restored

FRESH = """
import json, sys
sys.modules["hf_puzzle"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
saved, folder, contexts = sys.argv[1:]
found = {}
for name in (saved, saved + "/again"):
    classifier = pipeline("pcw-classification", model=name, trust_remote_code=True, device="cpu")
    found[name[len(saved):]] = classifier(["what a joy", "a waste"], top_k=None)
    if name == saved:
        classifier.save_pretrained(saved + "/again")
        assert classifier.windows().encoded is not None
answerer = pipeline("pcw-generation", model=saved + "/again", trust_remote_code=True, device="cpu", max_new_tokens=6)
found["answer"] = answerer("who?")
model = AutoModelForCausalLM.from_pretrained(saved).eval()
tokenizer = AutoTokenizer.from_pretrained(saved)
ids = tokenizer("\\n\\nQuestion: who?\\nAnswer:", add_special_tokens=False, return_tensors="pt")["input_ids"]
contexts = json.loads(contexts)
found["generate"] = model.generate(
    ids, contexts=contexts, custom_generate=folder, trust_remote_code=True, max_new_tokens=6, do_sample=False
).tolist()
print(json.dumps(found))
"""


def test_a_process_without_hf_puzzle_gets_equal_outputs(model, tokenizer, classifier, answerer, tmp_path):
    saved = tmp_path / "saved"
    model.save_pretrained(tmp_path / "stock")  # fills in dtype and architectures
    before = dict(vars(model.config))
    answerer.save_pretrained(saved)
    settings = json.loads((saved / "pcw.json").read_text())
    (saved / "pcw.json").unlink()
    # both tasks in one folder: each keeps the other's settings
    classifier._others = {"pcw-generation": settings["pcw-generation"]}
    classifier.save_pretrained(saved, save_windows=True)
    classifier._others = {}
    assert dict(vars(model.config)) == before
    assert set(json.loads((saved / "config.json").read_text())["custom_pipelines"]) == {
        "pcw-classification",
        "pcw-decision",
        "pcw-generation",
    }
    folder = write_custom_generate(tmp_path / "custom")
    result = subprocess.run(
        [sys.executable, "-c", FRESH, str(saved), str(folder), json.dumps(CONTEXTS)],
        capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    expected = classifier(["what a joy", "a waste"], top_k=None)
    for name in ("", "/again"):
        for first, second in zip(expected, found[name], strict=True):
            assert [each["label"] for each in first] == [each["label"] for each in second]
            assert [each["score"] for each in first] == pytest.approx([each["score"] for each in second], abs=1e-6)
    assert found["answer"] == answerer("who?")
    ids = torch.tensor([tokenizer("\n\nQuestion: who?\nAnswer:", add_special_tokens=False)["input_ids"]])
    expected = generate(ids, model=model, contexts=CONTEXTS, tokenizer=tokenizer, max_new_tokens=6, do_sample=False)
    assert found["generate"] == expected.tolist()


def test_settings_come_back_and_arguments_win(classifier, tmp_path, model):
    classifier.save_pretrained(tmp_path)
    restored = pipeline(
        "pcw-classification", model=str(tmp_path), pipeline_class=PCWClassificationPipeline, device="cpu"
    )
    assert restored.settings() == classifier.settings()
    assert restored.settings()["seed"] == 3
    other = pipeline(
        "pcw-classification", model=str(tmp_path), pipeline_class=PCWClassificationPipeline, device="cpu", seed=4
    )
    assert other.settings()["seed"] == 4
    assert other.settings()["demonstrations"] == classifier.settings()["demonstrations"]
    fresh = pipeline(
        "pcw-classification", model=str(tmp_path), pipeline_class=PCWClassificationPipeline, device="cpu",
        demonstrations=[("x", "yes"), ("y", "no")],
    )  # fmt: skip
    assert {each["label"] for each in fresh("z", top_k=None)} == {"yes", "no"}
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline("pcw-classification", model=str(tmp_path), device="cpu")
    (tmp_path / "pcw.json").write_text('{"pcw_version": 9}')
    with pytest.raises(PCWError, match="version"):
        pipeline("pcw-classification", model=str(tmp_path), pipeline_class=PCWClassificationPipeline, device="cpu")


def test_saved_windows_of_another_dtype_are_encoded_again(classifier, tmp_path):
    classifier.save_pretrained(tmp_path, save_windows=True)
    settings = {"model": str(tmp_path), "pipeline_class": PCWClassificationPipeline, "device": "cpu"}
    assert pipeline("pcw-classification", **settings).windows(encode=False).encoded is not None
    assert pipeline("pcw-classification", **settings, seed=5).windows(encode=False).encoded is None
    half = pipeline("pcw-classification", **settings, dtype=torch.bfloat16)
    assert half.windows(encode=False).encoded is None
    assert half.windows().encoded.keys[0].dtype == torch.bfloat16


def test_a_data_set_is_saved_as_pairs(model, tokenizer, tmp_path):
    dataset = Dataset.from_dict({"review": ["x", "y"], "kind": ["good", "bad"]})
    classifier = make(model, tokenizer, demonstrations=dataset, text_column="review", label_column="kind")
    classifier.save_pretrained(tmp_path)
    restored = pipeline(
        "pcw-classification", model=str(tmp_path), pipeline_class=PCWClassificationPipeline, device="cpu"
    )
    assert restored("z", top_k=None) == classifier("z", top_k=None)
    assert isinstance(make(model, tokenizer, "pcw-generation"), PCWGenerationPipeline)


def test_starts_are_recomputed_where_asked_and_not_stored(model, tokenizer, tmp_path):
    plain = make(model, tokenizer, demonstrations=SHOTS, num_windows=2)
    again = make(model, tokenizer, demonstrations=SHOTS, num_windows=2, recompute_starts=3)
    expected = recompute_starts(model, plain.windows().encoded, 3)
    assert all(torch.equal(a, b) for a, b in zip(again.windows().encoded.keys, expected.keys, strict=True))
    assert again("a joy", top_k=None) != plain("a joy", top_k=None)
    assert plain("a joy", top_k=None, recompute_starts=3) == again("a joy", top_k=None)
    with pytest.raises(PCWError, match="save without save_windows"):
        again.save_pretrained(tmp_path, save_windows=True)
    with pytest.raises(PCWError, match="recompute_starts is -1"):
        plain("a joy", recompute_starts=-1)
