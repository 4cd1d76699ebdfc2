"""`hf-puzzle decide`: answers of the core, kept windows, fitted temperatures, and mistakes in files by name."""

import copy
import json

import pytest
import torch
from pcw_models import byte_level, tiny_llama
from transformers import DecisionConfig

from hf_puzzle.cli import main
from hf_puzzle.evaluation import Decisions
from hf_puzzle.pcw import Decider
from hf_puzzle.pcw.decide import calibrate, read_requests, solved_decisions
from hf_puzzle.remote.masks_pcw import PCWError


TONE = {"type": "choice", "instructions": "The tone?", "criteria": {"calm": None, "angry": None, "sad": None}}
QUESTIONS = {"tone": TONE, "refund": {"type": "noul", "instructions": "A refund?"}}
STATES = ["a great film", "what a waste", "my card was lost", "a joy", "time", "the cast", "stolen", "another card"]
SOLVED = [
    {
        "state": state,
        "questions": QUESTIONS,
        "answers": {"tone": ["calm", "angry", "sad"][i % 3], "refund": i % 2 == 0},
    }
    for i, state in enumerate(STATES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("model"), copy.deepcopy(byte_level())
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tiny_llama(tokenizer, positions=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    DecisionConfig(temperature={"choice": 0.5}).save_pretrained(folder)
    return folder


@pytest.fixture
def decider(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return Decider(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def answers_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def close(found, expected):
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(close(found[key], value) for key, value in expected.items())
    return found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def test_a_file_is_answered_as_by_the_core(folder, decider, tmp_path, capsys):
    requests = [{"state": each["state"], "questions": QUESTIONS} for each in SOLVED[:3]]
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    one.write_text(json.dumps(requests[0]))
    several.write_text(json.dumps(requests))
    for path, expected in (
        (str(one), requests[:1]),
        (str(several), requests),
        (lines(tmp_path / "lines.jsonl", requests), requests),
    ):
        assert main(["decide", path, "--model", str(folder)]) == 0
        assert all(map(close, answers_of(capsys), decider(expected)))
    assert main(["decide", str(one), "--model", str(folder), "--options", "whole", "--permute", "3"]) == 0
    assert answers_of(capsys)[0]["tone"]["orders"] == 3


def test_windows_are_kept_in_a_folder(folder, tmp_path, capsys):
    request = lines(tmp_path / "ask.jsonl", [{"state": "a film", "questions": QUESTIONS}])
    solved = lines(tmp_path / "solved.jsonl", SOLVED)
    command = ["decide", request, "--model", str(folder), "--demonstrations", solved, "--num-windows", "2"]
    assert main(command) == 0
    expected = answers_of(capsys)
    for _ in range(2):  # written, then read
        assert main([*command, "--windows", str(tmp_path / "kept")]) == 0
        assert answers_of(capsys) == expected
    other = lines(tmp_path / "other.jsonl", SOLVED[1:])
    assert main([*command[:4], "--demonstrations", other, "--windows", str(tmp_path / "kept")]) == 2
    assert "not those of these demonstrations" in capsys.readouterr().err
    assert main([*command[:4], "--windows", str(tmp_path / "none")]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_temperatures_are_fitted_stored_and_used(folder, decider, tmp_path, capsys):
    before = solved_decisions(decider, SOLVED)
    after = calibrate(decider, SOLVED)
    for kind, each in before.items():
        assert after[kind].to_dict()["nll"] <= each.to_dict()["nll"] + 1e-9
        assert after[kind].to_dict()["accuracy"] == each.to_dict()["accuracy"]
    solved = lines(tmp_path / "solved.jsonl", SOLVED)
    options = ["--calibrate", solved, "--save", str(tmp_path / "fitted"), "--evaluate"]
    assert main(["decide", solved, "--model", str(folder), *options]) == 0
    rows = {row.pop("type"): row for row in answers_of(capsys)}
    assert close(rows, {kind: each.to_dict(each) for kind, each in after.items()})
    stored = DecisionConfig.from_pretrained(tmp_path / "fitted")
    assert stored.temperature == pytest.approx(decider.decision_config.temperature, rel=1e-4)
    assert main(["decide", solved, "--model", str(folder), "--save", str(tmp_path)]) == 2
    assert "give --calibrate FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", "{", "a.json is not valid JSON.*JSON lines"),
        ("a.json", '[{"state": 1}]', "a.json, request 0 is"),
        ("a.jsonl", '{"state": "a", "questions": {"q": {}}}\nnot', "a.jsonl, line 2 is not valid JSON"),
        ("a.json", '{"state": "a", "state": "b", "questions": {}}', "'state' is there twice"),
    ],
)
def test_files_that_hold_no_requests(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(PCWError, match=message):
        read_requests(tmp_path / name)


def test_answers_that_are_missing_or_no_options_are_named(decider):
    for answers, message in (
        (None, "answers None"),
        ({"tone": "calm"}, "one to each"),
        ({"tone": "x", "refund": True}, "'x'"),
    ):
        with pytest.raises(PCWError, match=message):
            solved_decisions(decider, [SOLVED[0] | {"answers": answers}])


def test_probabilities_are_kept_as_they_were_said(decider):
    found = solved_decisions(decider, SOLVED)
    assert {kind: len(each.right) for kind, each in found.items()} == {"choice": 8, "noul": 8}
    (answer,) = decider([{"state": STATES[1], "questions": QUESTIONS}])
    assert found["choice"].probabilities[1].tolist() == pytest.approx(
        list(answer["tone"]["probabilities"].values()), abs=1e-5
    )
    assert isinstance(found["noul"], Decisions)
    assert torch.stack(list(found["noul"].probabilities)).sum(1).tolist() == pytest.approx([1.0] * 8)
