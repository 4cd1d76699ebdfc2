"""Decision requests as rows: the prompts, options and distances are those of the decider that will be asked."""

import json
import keyword

import pytest
import torch
from pcw_models import byte_level, tiny_llama

from hf_puzzle.corpora import DataError
from hf_puzzle.data import read_streams
from hf_puzzle.decision_data import BLANK, KEYWORDS, keyword_requests, tokenize_requests
from hf_puzzle.evaluation import Rows, Targets
from hf_puzzle.recipe import CorpusConfig, DataConfig
from hf_puzzle.remote.decisions_pcw import Decider


TONE = {"type": "choice", "instructions": "The tone?", "criteria": {"calm": None, "angry": None, "sad": None}}
PLACE = {"type": "choice", "instructions": "Where?", "criteria": {"here": None, "there": None}}
REQUESTS = [
    {"state": f"text {i}", "questions": {"tone": TONE, "place": PLACE}, "answers": {"tone": ("calm", "angry", "sad")[i % 3]}}
    for i in range(24)
]  # fmt: skip
LENGTH, PAD = 160, 0


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture(scope="module")
def models(tokenizer):
    torch.manual_seed(0)
    return tiny_llama(tokenizer, positions=1024), tiny_llama(tokenizer, positions=1024, seed=1)


def config_of(path, requests=REQUESTS, **changes):
    path.write_text("".join(json.dumps(each) + "\n" for each in requests))
    given = {"name": "decisions", "data_files": [str(path)], "sequence_length": LENGTH, "num_tokens": 10**6}
    return DataConfig(**{**given, "heldout_tokens": 10**6, "heldout_fraction": 0.4, **changes})


@pytest.fixture
def streams(models, tokenizer, tmp_path):
    path = tmp_path / "tokens.safetensors"
    tokenize_requests(path, config_of(tmp_path / "solved.jsonl"), Decider(models[0], tokenizer), PAD, answers=True)
    return read_streams(path)


def test_a_keyword_put_back_gives_the_file():
    source = "import os\n\n\ndef f(x):\n    if x is None:\n        return 'if'\n    return [y for y in x if not y]\n"
    requests = list(keyword_requests(source))
    for request in requests:
        word = request["answers"]["keyword"]
        assert keyword.iskeyword(word)
        assert request["state"].count(BLANK) == 1
        assert request["state"].replace(BLANK, word) in source
        assert list(request["questions"]["keyword"]["criteria"]) == list(KEYWORDS)
    assert [r["answers"]["keyword"] for r in requests] == [
        "import", "def", "if", "return", "return", "for", "in", "if",
    ]  # fmt: skip
    assert list(keyword_requests("def f(:\n  'no Python")) == []


def test_rows_are_the_deciders_prompts(models, tokenizer, streams):
    decider, seen = Decider(models[0], tokenizer), set()
    expected = {prompt.ids: prompt for r in REQUESTS for prompt in decider.prepare([r])[0].prompts}
    for stream in streams.values():
        rows = stream.view(-1, LENGTH)
        assert len(rows) == len(stream.decisions)
        for i, (row, (mark, right, *options)) in enumerate(zip(rows.tolist(), stream.decisions.tolist(), strict=True)):
            prompt = expected[tuple(row[: mark + 1])]
            seen.add(prompt.ids)
            labels = [label[0] for label in prompt.labels[0]]
            assert [o for o in options if o >= 0] == labels
            assert set(row[mark + 2 :]) <= {PAD}
            assert row[mark + 1] == labels[max(right, 0)]
            assert stream.answers[i].tolist() == [i * LENGTH + mark + 1, i * LENGTH + mark + 2]
            solved = prompt.questions[0].name == "tone"
            assert (right >= 0) == solved
    assert seen == set(expected)  # both sides together have all
    train, heldout = ({tuple(row) for row in s.view(-1, LENGTH).tolist()} for s in streams.values())
    assert not train & heldout


def test_documents_are_states(streams):
    for stream in streams.values():
        assert (stream.documents % LENGTH == 0).all()
        assert len(stream.documents) * 2 == len(stream.decisions)  # two questions each
    stream = streams["heldout"]
    first, second = stream.split_at_document(len(stream) // 3)
    assert torch.equal(torch.cat([first.decisions, second.decisions]), stream.decisions)
    assert len(first) == LENGTH * len(first.decisions)


def test_distances_are_of_the_deciders_probabilities(models, tokenizer, streams):
    parent, child = models
    rows = Rows.draw(streams["train"], LENGTH, 10**6, seed=3)
    verdict = Targets(parent, rows, 5).compare(child)
    deciders = [Decider(model, tokenizer) for model in models]
    by_prompt = {}
    for request in REQUESTS:
        asked = [decider.prepare([request]) for decider in deciders]
        found = [decider.probabilities(each)[0] for decider, each in zip(deciders, asked, strict=True)]
        for prompt, p, q in zip(asked[0][0].prompts, *found, strict=True):
            by_prompt[prompt.ids] = (p.double(), q.double())
    assert len(verdict.columns["kl"]) == len(rows) == len(rows.decisions)
    for i, (row, (mark, right, *_)) in enumerate(zip(rows.input_ids.tolist(), rows.decisions.tolist(), strict=True)):
        p, q = by_prompt[tuple(row[: mark + 1])]
        right = right if right >= 0 else int(p.argmax())
        columns = {name: float(values[i]) for name, values in verdict.columns.items()}
        assert columns["kl"] == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)
        assert columns["loss"] == pytest.approx(-float(q[right].log()), abs=1e-5)
        assert columns["same"] == float(p.argmax() == q.argmax())
        assert columns["hit"] == float(q.argmax() == right)
        assert columns["parent_hit"] == float(p.argmax() == right)
        one_hot = torch.nn.functional.one_hot(torch.tensor(right), len(q))
        assert columns["brier"] == pytest.approx(float((q - one_hot).square().sum()), abs=1e-5)


def test_a_network_is_at_distance_zero_from_itself(models, streams):
    rows = Rows.draw(streams["train"], LENGTH, 10**6, seed=0)
    verdict = Targets(models[0], rows, 4).compare(models[0]).to_dict()
    assert verdict["kl"] == pytest.approx(0, abs=1e-6)
    assert verdict["agreement"] == 1.0


def test_long_questions_are_skipped_and_said(models, tokenizer, tmp_path, caplog):
    long = [*REQUESTS, {**REQUESTS[0], "state": "x" * LENGTH}]
    path = tmp_path / "tokens.safetensors"
    tokenize_requests(path, config_of(tmp_path / "a.jsonl", long), Decider(models[0], tokenizer), PAD)
    assert sum(len(s.decisions) for s in read_streams(path).values()) == 2 * len(REQUESTS)
    assert "2 questions are longer than data.sequence_length 160" in caplog.text
    config = config_of(tmp_path / "a.jsonl", sequence_length=16)
    with pytest.raises(DataError, match=r"the longest question has \d+ tokens"):
        tokenize_requests(path, config, Decider(models[0], tokenizer), PAD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"tone": "glad"}}, "'tone' is answered 'glad', expected one of calm, angry, sad"),
        ({"questions": {"spam": {"type": "noul", "instructions": "Spam?"}}}, "a label has several"),
    ],
)
def test_what_cannot_be_read_is_named(change, message, models, tokenizer, tmp_path):
    wrong = [{**REQUESTS[0], "answers": {}, **change}]
    with pytest.raises(DataError, match=message):
        tokenize_requests(tmp_path / "t", config_of(tmp_path / "a.jsonl", wrong), Decider(models[0], tokenizer), PAD)


@pytest.mark.parametrize("line", ["{", '{"state": 1}'])
def test_lines_that_are_no_requests_are_named(line, models, tokenizer, tmp_path):
    config = config_of(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("\n" + line)
    with pytest.raises(DataError, match="line 2"):
        tokenize_requests(tmp_path / "t", config, Decider(models[0], tokenizer), PAD)


def test_files_belong_to_requests_alone():
    from hf_puzzle.corpora import Documents

    with pytest.raises(DataError, match="python-keywords has none"):
        Documents(CorpusConfig(name="python-keywords", data_files=["x"]))
