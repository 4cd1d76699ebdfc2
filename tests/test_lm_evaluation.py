"""`hf-puzzle eval`: lm-eval's own numbers, paired intervals, and what goes wrong."""

import copy
import json
import logging
import random
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from hf_puzzle import artifacts, formats, hub, lm_evaluation
from hf_puzzle.cli import main
from hf_puzzle.data import sequences
from hf_puzzle.evaluation import compare
from hf_puzzle.lm_evaluation import (
    EvaluationError,
    bootstrap,
    evaluate_tasks,
    find_subject,
    interval,
    open_tokenizers,
)


PARENT = Path(__file__).parents[1] / "recipes/puzzle/tiny_parent"
WORDS = ["self", "None", "True", "return", "import", "class", "def", "for", "while", "if", "else", "print", "list"]


def noisy_child(parent, scale=0.01):
    """A DeciLM child that is the parent with noise on its weights."""
    child = copy.deepcopy(parent)
    torch.manual_seed(0)
    for parameter in child.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    blocks = [formats.parent_block(parent.config)] * parent.config.num_hidden_layers
    return formats.build_model(formats.child_config(parent.config, blocks, formats.DECILM), child.state_dict())


@pytest.fixture(scope="module")
def parent():
    return hub.open_model_folder(PARENT, "float32")


@pytest.fixture(scope="module")
def child(parent, tmp_path_factory):
    """A child's folder whose code must never run, with the parent it came from in puzzle.json."""
    folder = tmp_path_factory.mktemp("models") / "child"
    provenance = {"recipe": {"parent": {"name": str(PARENT), "dtype": "float32", "trust_remote_code": True}}}
    hub.write_model_folder(folder, noisy_child(parent), AutoTokenizer.from_pretrained(PARENT), provenance)
    for name in ("modeling_decilm.py", "configuration_decilm.py", "caches_puzzle.py"):
        (folder / name).write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


@pytest.fixture(scope="module")
def tasks(parent, tmp_path_factory):
    """Task YAMLs over local files, one per kind of request, and two groups."""
    folder = tmp_path_factory.mktemp("tasks")
    rng, tokenizer = random.Random(0), AutoTokenizer.from_pretrained(PARENT)
    rows = {"choice": [], "other": [], "text": [], "generate": []}
    for name, count in (("choice", 24), ("other", 8)):
        for _ in range(count):
            choices = rng.sample(WORDS, 3)
            rows[name].append({"question": f"x = {rng.choice(WORDS)}", "choices": choices, "label": rng.randrange(3)})
    for _ in range(6):
        rows["text"].append({"text": "def f(self):\n    return " + " ".join(rng.choices(WORDS, k=12))})
    for word in WORDS[:10]:
        question = f"def {word}_name(self, "
        ids = tokenizer(question, return_tensors="pt")["input_ids"]
        answer = parent.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        rows["generate"].append({"question": question, "answer": tokenizer.decode(answer)})
    accuracy = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    choice = {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "label",
              "doc_to_choice": "choices", "fewshot_split": "test", "metric_list": accuracy}  # fmt: skip
    perplexity = {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
    bits = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
    configs = {
        "choice": choice,
        "other": choice | {"num_fewshot": 0},
        "text": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
                 "metric_list": [perplexity, bits]},
        "generate": {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
                     "generation_kwargs": {"until": ["\n\n\n\n"], "max_gen_toks": 3, "do_sample": False},
                     "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
                                     {"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}]},
    }  # fmt: skip
    for name, config in configs.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        write_task(folder, f"tiny_{name}", path, config)
    members = ["tiny_choice", "tiny_other"]
    for name, by_size in (("tiny_by_size", True), ("tiny_by_task", False)):
        aggregate = [{"metric": "acc", "weight_by_size": by_size}]
        group = {"group": name, "task": members, "aggregate_metric_list": aggregate}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(group))
    nested = {"group": "tiny_all", "task": ["tiny_by_size", "tiny_text"]}
    (folder / "tiny_all.yaml").write_text(yaml.safe_dump(nested))
    return folder


def write_task(folder, name, data, config):
    common = {"task": name, "dataset_path": "json", "test_split": "test"}
    files = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(common | {"dataset_kwargs": files} | config))


ALL = ["tiny_by_size", "tiny_text", "tiny_generate"]


@pytest.fixture(scope="module")
def result(child, tasks):
    return evaluate_tasks(find_subject(child), ALL, tasks)


def test_values_are_lm_evals_own(parent, child, tasks, result):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    tokenizer = AutoTokenizer.from_pretrained(PARENT)
    for who, model in (("parent", parent), ("child", hub.open_model_folder(child))):
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
        theirs = simple_evaluate(lm, tasks=list(ALL), task_manager=manager, bootstrap_iters=0)["results"]
        assert len(result["tasks"]) == 7
        for row in result["tasks"]:
            expected = theirs[row["task"]][f"{row['metric']},{row['filter']}"]
            assert row[who] == pytest.approx(expected, rel=1e-4), row
    assert not (child / "ran").exists()


def test_rows_are_complete_and_consistent(result):
    by_name = {(row["task"], row["metric"]): row for row in result["tasks"]}
    items = {"tiny_by_size": 32, "tiny_choice": 24, "tiny_other": 8, "tiny_text": 6, "tiny_generate": 10}
    assert [row["level"] for row in result["tasks"]] == [0, 1, 1, 0, 0, 0, 0]
    for row in result["tasks"]:
        assert row["items"] == items[row["task"]]
        assert row["higher_is_better"] is (row["task"] != "tiny_text")
        assert row["difference"] == pytest.approx(row["child"] - row["parent"])
        for name in ("parent", "child", "ratio", "difference"):
            if (row["task"], name) == ("tiny_other", "ratio"):
                continue  # eight items: the parent has none right in some draws
            assert row[f"{name}_interval"] is not None, (row, name)
            low, high = row[f"{name}_interval"]
            assert low <= row[name] <= high, (row, name)
    assert by_name["tiny_generate", "exact_match"]["parent"] > 0.5
    text = by_name["tiny_text", "word_perplexity"]
    assert text["ratio"] == pytest.approx(text["child"] / text["parent"])
    # the same text for both models: the ratio is known far better than either perplexity
    spread = {name: np.ptp(text[f"{name}_interval"]) / text[name] for name in ("parent", "ratio")}
    assert 0 < spread["ratio"] < 0.5 * spread["parent"]
    assert result["num_fewshot"] == dict.fromkeys(sorted(items.keys() - {"tiny_by_size"}), 0)


def test_a_parent_against_itself_keeps_all(tasks):
    result = evaluate_tasks(find_subject(PARENT, str(PARENT)), ["tiny_by_task", "tiny_text"], tasks, limit=5)
    assert {row["items"] for row in result["tasks"]} == {5, 10}
    for row in result["tasks"]:
        assert row["difference"] == 0
        assert row["difference_interval"] == [0, 0]
        if row["parent"]:
            assert row["ratio"] == 1
    assert result["child"] == result["parent"]
    assert str(PARENT.parent) not in json.dumps(result)


@pytest.mark.parametrize("name, share", [("tiny_by_size", 0.75), ("tiny_by_task", 0.5)])
def test_groups_are_weighted_as_lm_eval_does(child, tasks, name, share):
    group, choice, other = evaluate_tasks(find_subject(child), [name], tasks)["tasks"]
    for who in ("parent", "child"):
        assert group[who] == pytest.approx(share * choice[who] + (1 - share) * other[who])
    widths = [np.ptp(row["child_interval"]) for row in (group, choice, other)]
    # tasks are drawn independently: the variance of the sum, read off intervals
    expected = ((share * widths[1]) ** 2 + ((1 - share) * widths[2]) ** 2) ** 0.5
    assert widths[0] == pytest.approx(expected, rel=0.25)


def test_groups_without_a_metric_of_their_own_show_their_members(child, tasks):
    rows = evaluate_tasks(find_subject(child), ["tiny_all"], tasks, limit=3)["tasks"]
    assert [(row["task"], row["level"]) for row in rows] == [
        ("tiny_by_size", 1), ("tiny_choice", 2), ("tiny_other", 2), ("tiny_text", 1), ("tiny_text", 1),
    ]  # fmt: skip


def test_globs_and_demonstrations(child, tasks):
    result = evaluate_tasks(find_subject(child), ["tiny_cho*", "tiny_other", "tiny_other"], tasks, 4, num_fewshot=2)
    assert [row["task"] for row in result["tasks"]] == ["tiny_choice", "tiny_other"]
    assert result["num_fewshot"] == {"tiny_choice": 2, "tiny_other": 0}  # fixed to 0 by the task


def test_one_model_in_memory_at_a_time(child, tasks, monkeypatch):
    opened, open_folder = [], hub.open_model_folder

    def opening(*args):
        assert all(model() is None for model in opened)
        model = open_folder(*args)
        opened.append(weakref.ref(model))
        return model

    monkeypatch.setattr(hub, "open_model_folder", opening)
    evaluate_tasks(find_subject(child), ["tiny_choice"], tasks, limit=2)
    assert len(opened) == 2
    assert all(model() is None for model in opened)


# -- intervals


def values_of(count, seed):
    return np.random.default_rng(seed).normal(2.0, 1.0, count).tolist()


@pytest.mark.parametrize("name", ["mean", "perplexity", "weighted_perplexity", "bits_per_byte"])
def test_fast_aggregations_are_lm_evals(name):
    from lm_eval.api import metrics

    function = getattr(metrics, name)
    columns = [values_of(20, seed) for seed in (0, 1)]
    if name in ("weighted_perplexity", "bits_per_byte"):
        columns = [list(zip(column, range(3, 23), strict=True)) for column in columns]
    fast = bootstrap(columns, function, np.random.default_rng(0))
    slow = bootstrap(columns, lambda values: function(values), np.random.default_rng(0))
    assert fast.shape == (2, 1000)
    assert slow.shape == (2, 100)
    np.testing.assert_allclose(fast[:, :100], slow, rtol=1e-12)


def test_intervals_are_those_of_the_normal_approximation():
    first = np.asarray(values_of(400, 0))
    second = first + np.random.default_rng(1).normal(0.1, 0.05, 400)
    draws = bootstrap([first.tolist(), second.tolist()], None, np.random.default_rng(0), resamples=4000)
    difference = second - first
    half = 1.96 * difference.std(ddof=1) / 20
    low, high = interval(draws[1] - draws[0])
    assert (low, high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.1 * half)
    low, high = interval(draws[0])
    assert (high - low) / 2 == pytest.approx(1.96 * first.std(ddof=1) / 20, rel=0.1)


def test_what_a_draw_leaves_undefined_has_no_interval():
    from lm_eval.api import metrics

    assert interval(bootstrap([[1.0]], metrics.mean, np.random.default_rng(0))) is None
    assert interval(bootstrap([[0.0, 1.0]], lambda values: 1 / sum(values), np.random.default_rng(0))) is None


# -- which models


def test_what_a_folder_says_is_no_consent_to_run_code(child):
    subject = find_subject(child)
    assert subject.parent.name == str(PARENT)
    assert subject.parent.dtype == "float32"
    assert not subject.parent.trust_remote_code
    assert find_subject(child, str(PARENT), trust_remote_code=True).parent.trust_remote_code


def test_tokenizer_code_of_a_folder_is_not_run(child, tmp_path):
    folder = shutil.copytree(child, tmp_path / "child")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": [None, "tokens.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokens.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    tokenizers = open_tokenizers(find_subject(folder))
    assert tokenizers["child"]("def f")["input_ids"] == tokenizers["parent"]("def f")["input_ids"]
    assert not (tmp_path / "ran").exists()


def test_a_model_without_tokenizer_takes_the_others(child, tmp_path):
    folder = shutil.copytree(child, tmp_path / "child")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert open_tokenizers(find_subject(folder))["child"]("def f")["input_ids"]
    (folder / "puzzle.json").unlink()
    with pytest.raises(EvaluationError, match="no tokenizer in"):
        open_tokenizers(find_subject(folder))


@pytest.mark.parametrize(
    "notes, why",
    [
        (None, "no puzzle.json"),
        ({}, "names no parent"),
        ({"recipe": "text"}, "names no parent"),
        ({"recipe": {"parent": {"name": 3}}}, "names no parent"),
        ({"recipe": {"parent": {"name": "gone", "recipe": "gone.yaml"}}}, "'gone' was trained by a recipe"),
        ({"recipe": {"parent": {"name": "nobody/nothing"}}}, "'nobody/nothing' cannot be opened"),
    ],
)
def test_a_child_of_unknown_parent_is_evaluated_alone(child, tasks, tmp_path, notes, why, capsys, caplog, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = shutil.copytree(child, tmp_path / "child")
    (folder / "puzzle.json").unlink()
    if notes is not None:
        artifacts.write_json(folder / "puzzle.json", {"puzzle_format_version": 1, **notes})
    caplog.set_level(logging.INFO)
    out = tmp_path / "alone.json"
    arguments = ["--tasks", "tiny_choice", "--include-path", str(tasks), "--limit", "3", "--out", str(out)]
    assert main(["eval", str(folder), *arguments]) == 0
    assert (
        f"only the child: its {'' if 'json' in why else ''}" in caplog.text or "only the child: it has" in caplog.text
    )
    assert why in caplog.text
    assert "kept" not in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["tasks"]
    assert "parent" not in row
    assert row["child_interval"][0] <= row["child"] <= row["child_interval"][1]


# -- the command


@pytest.fixture(scope="module")
def run_dir(parent, child, tmp_path_factory):
    """The files of a finished run that an evaluation reads."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(child, folder / "distilled")
    recipe = {
        "parent": {"name": str(PARENT), "dtype": "float32"},
        "data": {"name": "python-stdlib", "sequence_length": 32},
        "library": {"num_tokens": 0},
        "distill": {"num_tokens": 0},
        "evaluate": {"num_tokens": 320},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    artifacts.write_json(folder / "overrides.json", [])
    generator = torch.Generator().manual_seed(0)
    stream = torch.randint(0, parent.config.vocab_size, (3000,), generator=generator, dtype=torch.int32)
    artifacts.write_tensors(folder / "tokens.safetensors", {"train": stream[:100].clone(), "heldout": stream})
    return folder


@pytest.mark.parametrize("limit", [None, 4])
def test_a_run_is_compared_on_its_own_test_text(run_dir, parent, tmp_path, capsys, limit):
    out = tmp_path / "out" / "eval.json"
    arguments = ["--limit", str(limit)] if limit else []
    assert main(["eval", str(run_dir), "--out", str(out), *arguments]) == 0
    stream = artifacts.read_tensors(run_dir / "tokens.safetensors")["heldout"][1000:]
    rows = sequences(stream, 32, 320, 11)[:limit]
    expected = compare(parent, hub.open_model_folder(run_dir / "distilled"), rows, 3)
    quality = json.loads(out.read_text())["quality"]
    assert quality["tokens"] == 32 * (limit or 10)
    for name, value in expected.items():
        assert quality[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-7)), name
    assert quality["perplexity"] == pytest.approx(np.exp(expected["loss"]), rel=1e-4)
    shown = capsys.readouterr().out
    for text in ("agreement", "KL(parent || child)", f"{quality['kl']:.4f}", f"{quality['perplexity']:.3f}"):
        assert text in shown
    assert [path.name for path in out.parent.iterdir()] == ["eval.json"]


def test_tasks_of_a_run_are_one_table_and_one_file(run_dir, tasks, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "eval.json"
    arguments = ["--tasks", "tiny_text, tiny_choice", "--include-path", str(tasks), "--limit", "4"]
    assert main(["eval", str(run_dir), *arguments, "--batch-size", "2", "--out", str(out)]) == 0
    shown, written = capsys.readouterr().out, json.loads(out.read_text())
    assert written["limit"] == 4
    assert written["bootstrap"] == {"confidence": 0.95, "resamples": 1000, "seed": 0}
    assert {row["task"] for row in written["tasks"]} == {"tiny_text", "tiny_choice"}
    for row in written["tasks"]:
        assert f"{row['parent']:.5g}" in shown
        low, high = row["difference_interval"]
        assert f"{row['difference']:+.3g} [{low:+.3g}, {high:+.3g}]" in shown
    assert main(["eval", str(run_dir), *arguments, "--batch-size", "2", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["tasks"] == written["tasks"]  # seeded


def without_lm_evals_own():
    """lm-eval's index without its own 14,000 tasks, which take seconds to read."""
    from lm_eval.tasks import TaskManager

    return lambda include_path=None, include_defaults=True: TaskManager(
        include_path=include_path, include_defaults=False
    )


def test_wrong_inputs_are_one_line(child, run_dir, tasks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/recipe.yaml").write_text("")
    bad = tmp_path / "bad"
    bad.mkdir()
    data = tasks / "choice.jsonl"
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "label",
        "doc_to_choice": "choices",
    }
    write_task(bad, "no_data", tmp_path / "gone.jsonl", config)
    write_task(bad, "no_field", data, config | {"doc_to_choice": "nothing"})
    write_task(bad, "bad_template", data, config | {"doc_to_text": "{{question"})
    write_task(bad, "bad_metric", data, config | {"metric_list": [{"metric": "nothing", "aggregation": "nothing"}]})
    write_task(bad, "runs_code", data, config | {"unsafe_code": True})
    tiny, mine = ["--tasks", "tiny_choice", "--include-path", str(tasks)], ["--include-path", str(bad), "--tasks"]
    cases = [
        ([str(tmp_path / "gone")], "is no folder: name a model folder"),
        ([str(tmp_path / "empty")], "holds neither a model (config.json) nor a Puzzle run"),
        ([str(tmp_path / "unfinished")], "has no distilled child: finish the run"),
        ([str(child)], "is a model: name --tasks, or a run folder"),
        ([str(run_dir), "--include-path", str(tasks)], "belong to --tasks"),
        ([str(run_dir), "--num-fewshot", "1"], "belong to --tasks"),
        ([str(run_dir), "--limit", "0"], "--limit 0: must be at least 1"),
        ([str(run_dir), "--batch-size", "-1"], "--batch-size -1: must be at least 1"),
        ([str(run_dir), "--parent", "nobody/nothing"], "--parent nobody/nothing: "),
        ([str(run_dir), "--parent", str(tmp_path / "empty")], "the folder has no config.json"),
        ([str(child), *tiny, "--limit", "0"], "--limit 0: must be at least 1"),
        ([str(child), *tiny, "--num-fewshot", "-1"], "--num-fewshot -1: must be at least 0"),
        ([str(child), *tiny, "--out", str(tmp_path)], "name a file, e.g."),
        ([str(child), "--tasks", ","], "names no task"),
        ([str(child), "--tasks", "tiny_choice", "--include-path", str(tmp_path / "gone")], "is no folder of task YAMLs"),
        ([str(child), *mine, "no_data"], "task 'no_data': "),
        ([str(child), *mine, "bad_metric"], "task 'bad_metric' has no metric"),
        ([str(child), *mine, "no_field"], "no_field"),
        ([str(child), *mine, "bad_template"], "TemplateSyntaxError"),
        ([str(child), *mine, "runs_code"], "runs code that the model writes"),
    ]  # fmt: skip
    monkeypatch.setattr("lm_eval.tasks.TaskManager", without_lm_evals_own())
    for arguments, message in cases:
        assert main(["eval", *arguments]) == 2, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-puzzle: ")]
        assert len(lines) == 1, arguments
        assert message in lines[0], (arguments, lines)


def test_an_unknown_task_names_the_nearest(child, tasks, monkeypatch):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", without_lm_evals_own())
    with pytest.raises(EvaluationError, match="task 'tiny_choise' is unknown to lm-eval; nearest: tiny_choice"):
        evaluate_tasks(find_subject(child), ["tiny_text", "tiny_choise"], tasks)


def test_another_vocabulary_is_no_parent(run_dir, llama, tmp_path, capsys):
    llama.save_pretrained(tmp_path / "other")
    assert main(["eval", str(run_dir), "--parent", str(tmp_path / "other")]) == 2
    assert "has a vocabulary of 256" in capsys.readouterr().err


def test_without_lm_eval_the_extra_is_named(child, capsys, monkeypatch):
    monkeypatch.setattr(lm_evaluation, "find_spec", lambda name: None)
    assert main(["eval", str(child), "--tasks", "x"]) == 2
    assert "pip install 'hf_puzzle[eval]'" in capsys.readouterr().err
