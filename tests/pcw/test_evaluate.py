"""The protocol: n_max, draws, what is averaged, what the report says, and a run that continues."""

import json
import statistics

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from pcw_models import byte_level, tiny_llama

from hf_puzzle import parse_recipe
from hf_puzzle.cli import main
from hf_puzzle.pcw import evaluate
from hf_puzzle.pcw.baselines import BASELINES
from hf_puzzle.pcw.evaluate import (
    compare,
    draw,
    evaluate_dataset,
    load_examples,
    losses,
    measure,
    report,
    run_recipe,
    summarize,
    verdict,
)
from hf_puzzle.pcw.recipe import DatasetConfig
from hf_puzzle.recipe import RecipeError, describe_keys, recipe_class
from hf_puzzle.remote.modes_pcw import MODES
from hf_puzzle.remote.windows_pcw import Tokens, tokenize_labels


RECIPE = {
    "system": "pcw",
    "device": "cpu",
    "train": {"num_steps": 4, "tokens_per_step": 128, "sequence_length": 64, "max_classes": 12, "config": {"hidden_size": 16, "num_hidden_layers": 2}},
    "datasets": [{"name": "episode", "num_classes": 6, "title": "six"}, {"name": "episode", "num_classes": 24, "title": "many"}],
    "protocol": {"num_windows": [1, 3], "draws": 3, "test_items": 20},
}  # fmt: skip


def rows_of(accuracies, dataset="many", labels=24, mode="pcw", seen=(0.5, 0.9), accuracy_seen=(0.8, 0.8)):
    """One row per draw and B of {B: accuracies}."""
    return [
        {
            "dataset": dataset, "labels": labels, "n_max": 4, "draw": i, "num_windows": b, "mode": mode, "accuracy": value,
            "seen": seen[b > 1], "accuracy_seen": accuracy_seen[b > 1],
        }
        for b, values in accuracies.items()
        for i, value in enumerate(values)
    ]  # fmt: skip


def test_sizes_and_draws_are_the_papers():
    examples = load_examples(DatasetConfig(name="episode", num_classes=8), 50, 0)
    tokens = Tokens(evaluate.make_tokenizer())
    labels = tokenize_labels(tokens, examples.labels, examples.template)
    sizes = measure(examples, labels, tokens, 64)
    # demonstrations of three tokens, tasks of a line break and a word, BOS
    assert sizes.n_max == (64 - 1 - 2) // 3
    assert sizes.task_tokens == 2 + 1
    assert len(sizes.train) == 0.99 * evaluate.EPISODE_TRAIN_ITEMS
    more, fewer = draw(sizes, [1, 3], 7), draw(sizes, [3], 7)
    assert more == fewer == draw(sizes, [1, 3], 7) != draw(sizes, [3], 8)
    assert len(set(more)) == 3 * sizes.n_max


def test_accuracy_is_that_of_the_classifier(tmp_path):
    from transformers import pipeline

    recipe = parse_recipe(
        {**RECIPE, "protocol": {"num_windows": [2], "draws": 1, "test_items": 12, "modes": ["pcw"], "baselines": []}}
    )
    tokenizer = evaluate.make_tokenizer()
    model = tiny_llama(tokenizer, positions=64)
    examples = load_examples(recipe.datasets[0], 12, 0)
    (row,) = evaluate_dataset(model, tokenizer, examples, recipe, set(), lambda line: None)
    sizes = measure(
        examples, tokenize_labels(Tokens(tokenizer), examples.labels, examples.template), Tokens(tokenizer), 64
    )
    shots = [examples.train[i] for i in draw(sizes, [2], 0)]
    classifier = pipeline(
        "pcw-classification", model=model, tokenizer=tokenizer, device="cpu", demonstrations=shots, labels=examples.labels,
        template=examples.template, num_windows=2, task_tokens=sizes.task_tokens,
    )  # fmt: skip
    kept = [examples.test[i] for i in sizes.test]
    found = classifier([example.inputs[0] for example in kept])
    right = [each["label"] == example.label for each, example in zip(found, kept, strict=True)]
    assert row["accuracy"] == pytest.approx(sum(right) / len(right))
    assert row["test_items"] == len(kept)
    assert list(evaluate_dataset(model, tokenizer, examples, recipe, {("six", 0, 2, "pcw")}, lambda line: None)) == []


def test_texts_of_a_draw_are_others_than_those_of_the_one_before():
    assert evaluate._part_of([5, 6, 7, 8], None, 3) == [5, 6, 7, 8]
    assert [evaluate._part_of([5, 6, 7, 8], 2, n) for n in range(3)] == [[5, 6], [7, 8], [5, 6]]


def test_summary_and_comparison():
    rows = rows_of({1: [0.5, 0.6, 0.7], 3: [0.7, 0.7, 0.85]})
    few, many = summarize(rows)
    assert few["accuracy"] == pytest.approx(0.6)
    assert few["deviation"] == pytest.approx(0.1)
    assert few["half_interval"] == pytest.approx(1.96 * 0.1 / 3**0.5)
    gain = compare(rows, "many")
    assert gain["gain"] == pytest.approx(0.15)
    assert gain["standard_error"] == pytest.approx(statistics.stdev([0.2, 0.1, 0.15]) / 3**0.5)
    assert compare(rows[:4], "many") is None
    assert "| pcw | 60.0 +- 11.3 (10.0) |" in report(rows, "m")
    assert summarize(rows[:1])[0]["deviation"] is None
    assert "| pcw | 50.0 |" in report(rows[:1], "m")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"accuracies": {1: [0.5, 0.6], 3: [0.7, 0.9]}}, "labels shown for 50% > 90%"),
        ({"accuracies": {1: [0.5, 0.6], 3: [0.5, 0.6]}, "labels": 4}, "few labels"),
        ({"accuracies": {1: [1.0, 0.99], 3: [0.99, 1.0]}}, "one window is enough"),
        ({"accuracies": {1: [0.5, 0.6], 3: [0.5, 0.5]}, "accuracy_seen": (0.9, 0.5)}, "spread over more windows"),
        ({"accuracies": {1: [0.5, 0.6], 3: [0.6, 0.5]}}, "within the noise of 2 draws"),
    ],
)
def test_verdict_says_why(settings, words):
    rows = rows_of(**settings)
    assert words in verdict(summarize(rows), "many", compare(rows, "many"))


def test_a_run_writes_its_report_and_continues(tmp_path, capsys, monkeypatch):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(RECIPE))  # JSON is YAML
    stock, calls = evaluate._quality, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return stock(*args)

    monkeypatch.setattr(evaluate, "_quality", killed)
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 130
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 0
    assert len(calls) == 1 + 2 * 3 * 2 * 6  # data sets, draws, B, modes and baselines
    printed = capsys.readouterr().out
    assert "## many: 24 labels" in printed
    assert printed.strip() == (tmp_path / "run" / "report.md").read_text().strip()
    results = json.loads((tmp_path / "run" / "pcw.json").read_text())
    assert {(r["dataset"], r["mode"], r["num_windows"]) for r in results["summary"]} == {
        (d, m, b) for d in ("six", "many") for m in (*MODES, *BASELINES) for b in (1, 3)
    }
    assert all(
        0 <= row["ece"] <= 1 and 0 <= row["coverage"] <= 1 and row["set_size"] > 0 for row in results["summary"]
    )
    assert "Windows lose" in printed
    assert "| mode, B=3 | ECE | Brier | coverage at 5 % error | conformal set at 95 % |" in printed
    assert set(results["gains"]["many"]) == {"gain", "standard_error", "draws", "few", "many"}
    one = {(r["dataset"], r["mode"]): r["accuracy"] for r in results["summary"] if r["num_windows"] == 1}
    assert one["many", "pcw"] == one["many", "ensemble"] == one["many", "single"]
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 0
    assert len(calls) == 73


def test_the_table_says_where_windows_lose():
    rows = rows_of({1: [0.5, 0.6, 0.5], 3: [0.9, 0.8, 0.9]})
    rows += [
        row | {"mode": "linear", "accuracy": row["accuracy"] + (0.1 if row["num_windows"] == 1 else -0.1)}
        for row in rows
    ]
    (said,) = losses(rows, "many")
    assert said == "B=1: `linear` on the same shots beats `pcw` by 10.0% +- 0.0%"
    assert f"Windows lose: {said}." in report(rows, "m")
    assert losses([row for row in rows if row["mode"] == "pcw"], "many") == []


def test_hub_data_sets_are_read_by_their_columns(monkeypatch):
    features = Features({"q": Value("string"), "kind": ClassLabel(names=["card_lost", "card_late"])})
    rows = Dataset.from_dict(
        {"q": [f"text {i}" for i in range(40)], "kind": [i % 2 for i in range(40)]}, features=features
    )
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: DatasetDict({"train": rows}))
    config = DatasetConfig(name="some/where", template="query: {q}\nintent: {label}", label_column="kind")
    examples = load_examples(config, 5, 0)
    assert (len(examples.train), len(examples.test)) == (30, 5)
    assert examples.labels == ("card lost", "card late")
    assert examples.train[0].label in examples.labels
    words = load_examples(DatasetConfig(**{**vars(config), "labels": ["a", "b"]}), 5, 0)
    assert {each.label for each in words.train} == {"a", "b"}
    with pytest.raises(RecipeError, match="no column 'label'; it has q, kind"):
        load_examples(DatasetConfig(name="x", template="{q} {label}"), 5, 0)
    with pytest.raises(RecipeError, match="no split 'dev'; it has train"):
        load_examples(DatasetConfig(**{**vars(config), "train_split": "dev"}), 5, 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": None}, "either train"),
        ({"model": {"name": "x"}}, "either train"),
        ({"protocol": {"modes": ["nbce"]}}, "modes must hold pcw"),
        ({"protocol": {"num_windows": [0]}}, "num_windows"),
        ({"protocol": {"baselines": ["linear_embeddings"]}}, "protocol.embeddings: name the sentence encoder"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        run_recipe(parse_recipe({**RECIPE, **changes}), tmp_path, tmp_path)


def test_what_cannot_fit_is_said():
    examples = load_examples(DatasetConfig(name="episode", num_classes=8), 50, 0)
    tokens = Tokens(byte_level())
    labels = tokenize_labels(tokens, examples.labels, examples.template)
    with pytest.raises(ValueError, match="not one demonstration fits"):
        measure(examples, labels, tokens, 12)
    sizes = measure(examples, labels, tokens, 4000)
    with pytest.raises(ValueError, match="demonstrations are wanted"):
        draw(sizes, [900], 0)


def test_keys_name_the_sections_of_lists():
    names = {name: text for name, _, text in describe_keys(recipe_class("pcw"))}
    assert {"datasets[].template", "train.num_steps", "protocol.draws"} <= set(names)
    assert all(names.values())
    assert main(["keys", "pcw"]) == 0
    assert torch.get_num_threads() == 1
