"""A child for decisions, from a model that learns them to the report, through the command line."""

import json
import random

import pytest
import torch
import yaml
from pcw_models import byte_level, tiny_llama
from tiny_run import RECIPE, steady_clock

from hf_puzzle import artifacts
from hf_puzzle.cli import main
from hf_puzzle.data import read_streams
from hf_puzzle.pcw import Decider
from hf_puzzle.puzzle.pipeline import load_run
from hf_puzzle.recipe import RecipeError, load_recipe


LENGTH = 112
COLOUR = {"type": "choice", "instructions": "Colour?", "criteria": {"red": None, "green": None, "blue": None}}
PARENT = {"system": "parent", "start": "start", "batch_size": 8, "num_tokens": 4_000, "learning_rate": 1.0e-2}


@pytest.fixture(scope="module", autouse=True)
def steady_times():
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A start, solved requests (every fourth without its answer), and the two recipes."""
    folder, tokenizer = tmp_path_factory.mktemp("decisions"), byte_level()
    config = {"intermediate_size": 512, "num_hidden_layers": 3, "hidden_size": 32}
    tiny_llama(tokenizer, positions=256, **config).save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    draw, lines = random.Random(0), []
    for i in range(240):
        colour = draw.choice(list(COLOUR["criteria"]))
        request = {"state": f"{i}: {colour[0] * 3}", "questions": {"colour": COLOUR}}
        lines.append(json.dumps(request | ({"answers": {"colour": colour}} if i % 4 else {})))
    (folder / "solved.jsonl").write_text("\n".join(lines))
    data = {"name": "decisions", "data_files": [str(folder / "solved.jsonl")], "sequence_length": LENGTH,
            "num_tokens": 100 * LENGTH, "heldout_tokens": 90 * LENGTH, "heldout_fraction": 0.45}  # fmt: skip
    recipe = RECIPE | {
        "parent": {"name": "parent", "recipe": "parent.yaml", "dtype": "float32"},
        "data": data,
        "cost": RECIPE["cost"] | {"prefill_tokens": LENGTH, "decode_tokens": 1},
        "score": {"num_tokens": 16 * LENGTH},
        "child": {"refit_tokens": 32 * LENGTH},
        "constraints": {"num_parameters": 130_000},
        "distill": RECIPE["distill"] | {"num_tokens": 16 * LENGTH, "eval_tokens": 16 * LENGTH},
        "evaluate": {"num_tokens": 40 * LENGTH, "assisted_prompts": 0, "measure_rounds": 3, "batch_sizes": [1, 2]},
        "baselines": {"names": ["drop_layers", "uniform"], "num_tokens": [0]},
    }
    (folder / "parent.yaml").write_text(yaml.safe_dump({**PARENT, "data": data}))
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    assert main(["run", str(folder / "run.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_the_report_counts_decisions(finished):
    evaluation = artifacts.read_json(finished / "eval.json")
    quality, report = evaluation["quality"]["distilled"], (finished / "report.md").read_text()
    kept = f"{quality['agreement']:.2%} +- {quality['agreement_stderr']:.2%}"
    assert f"| decisions that are the parent's ({quality['rows']}) |  |  | {kept} |" in report
    assert "KL(parent \\|\\| child) over the options" in report or "KL(parent || child) over the options" in report
    assert "cloze" not in report
    assert "decode speed-up" not in report
    assert [row["name"] for row in artifacts.read_jsonl(finished / "baselines.jsonl")][0] == "searched"
    assert evaluation["requests"][0]["workload"] == {"batch_size": 1, "prefill_tokens": LENGTH, "decode_tokens": 1}


def test_its_numbers_are_those_of_the_decider(finished, folder):
    """The child is asked as users ask it, with the requests of the test text."""
    run = load_run(finished, recipe_dir=folder)
    requests = [json.loads(line) for line in (folder / "solved.jsonl").read_text().splitlines()]
    deciders = [Decider(model, run.tokenizer) for model in (run.parent, run.load_child("distilled"))]
    known = {}
    for request in requests:
        (asked,) = deciders[0].prepare([request])
        both = [decider.probabilities(decider.prepare([request]))[0][0].double() for decider in deciders]
        known[asked.prompts[0].ids] = both
    from hf_puzzle.puzzle.assess import test_rows as rows_of

    rows = rows_of(run)
    found = [known[tuple(r[: m + 1])] for r, m in zip(rows.input_ids.tolist(), rows.decisions[:, 0].tolist(), strict=True)]  # fmt: skip
    quality = artifacts.read_json(finished / "eval.json")["quality"]["distilled"]
    assert quality["rows"] == len(found)
    assert quality["kl"] == pytest.approx(
        sum(float((p * (p / q).log()).sum()) for p, q in found) / len(found), abs=1e-5
    )
    assert quality["agreement"] == pytest.approx(sum(p.argmax() == q.argmax() for p, q in found) / len(found))


def test_the_child_is_decided_with_from_the_shell(finished, folder, capsys):
    (folder / "asked.jsonl").write_text((folder / "solved.jsonl").read_text().splitlines()[0])
    capsys.readouterr()
    assert main(["decide", str(folder / "asked.jsonl"), "--model", str(finished / "distilled"), "--trust-remote-code"]) == 0  # fmt: skip
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert set(answer["colour"]["probabilities"]) == {"red", "green", "blue"}
    assert (finished / "distilled" / "decision.json").exists()


def test_the_parent_learned_the_answers_alone(finished, folder):
    facts = artifacts.read_json(finished / "parent" / "training.json")
    assert facts["heldout_accuracy"] > 0.45  # chance is a third
    assert facts["heldout_loss"] < torch.tensor(3.0).log()


def test_streams_hold_no_answers_unless_they_alone_count(finished):
    streams = read_streams(finished / "tokens.safetensors")
    assert all(s.answers is None and s.decisions is not None and s.prefix == () for s in streams.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"config": {"hidden_size": 8}}, "has its own"), ({"start": None}, "name it in `start`"), ({"start": "no/where"}, "cannot be opened")],
)  # fmt: skip
def test_what_a_model_cannot_start_from(change, message, folder, tmp_path):
    from hf_puzzle.puzzle.parent import train_parent

    recipe = yaml.safe_load((folder / "parent.yaml").read_text()) | change
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    with pytest.raises(RecipeError, match=message):
        train_parent(load_recipe(tmp_path / "p.yaml"), tmp_path / "out", folder)
