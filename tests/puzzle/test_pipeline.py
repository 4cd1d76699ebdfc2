"""The whole run at its smallest, through the command line and from Python."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from families import family_model, own_head
from tiny_run import steady_clock, write_recipes
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, LlamaModel

import hf_puzzle
from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.cli import main
from hf_puzzle.data import DataError, train_tokenizer
from hf_puzzle.formats import describe
from hf_puzzle.puzzle import pipeline
from hf_puzzle.puzzle.parent import train_parent
from hf_puzzle.puzzle.pipeline import PuzzleRun, load_run
from hf_puzzle.puzzle.scoring import stored_values, with_sums
from hf_puzzle.puzzle.surgery import UnsupportedParentError
from hf_puzzle.recipe import load_recipe


STAGES = [
    "parent",
    "data",
    "importance",
    "library",
    "score",
    "cost",
    "solve",
    "child",
    "distill",
    "evaluate",
    "baselines",
    "baseline_speeds",
    "report",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a corpus, the two recipes, and the trained parent beside them."""
    return write_recipes(tmp_path_factory.mktemp("recipes"))


def cli(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module", autouse=True)
def steady_times():
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        yield


@pytest.fixture(scope="module")
def finished(folder):
    """A run folder that the command line filled."""
    out = folder / "run"
    assert cli("run", folder / "tiny.yaml", "--out", out) == 0
    return out


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run that a test may spoil."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    return out


def stages_that_ran(monkeypatch, caplog, *arguments, code=0):
    caplog.clear()
    with caplog.at_level("INFO", logger="hf_puzzle"):
        assert cli(*arguments) == code
    return [
        r.getMessage().partition(":")[0]
        for r in caplog.records
        if r.getMessage().endswith((": starts", ": continues"))
    ]


def test_every_file_is_there(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "recipe.yaml", "overrides.json", "manifest.json", "parent", "tokens.safetensors", "importance.safetensors", "library",
        "scores.jsonl", "costs.json", "solutions.json", "child", "distilled", "eval.json", "baselines.jsonl", "report.md",
        "figures",
    }  # fmt: skip
    assert not any(name.endswith(".tmp") or "checkpoint" in name for name in names)
    manifest = artifacts.read_json(finished / "manifest.json")
    assert list(manifest) == STAGES
    assert all("finished" in entry for entry in manifest.values())
    figures = {path.name for path in (finished / "figures").iterdir()}
    report = (finished / "report.md").read_text()
    assert {line.split("figures/")[1].rstrip(")") for line in report.splitlines() if "](figures/" in line} == figures


def test_the_child_says_what_gkd_did(finished):
    done = artifacts.read_json(finished / "distilled" / "puzzle.json")["gkd"]
    assert done["learning_rate"] == 1e-3
    assert done["kl_after"] <= done["kl_before"]
    before, after = (load_run(finished).load_child(name) for name in ("child", "distilled"))
    same = all(torch.equal(t, after.state_dict()[name]) for name, t in before.state_dict().items())
    assert same == (done["step"] == 0)
    assert f"KL on validation text {done['kl_before']:.4f} before" in (finished / "report.md").read_text()


@pytest.mark.parametrize("refit", ["false", "true"])
def test_a_parent_whose_config_calls_its_own_head_tied(finished, refit, tmp_path):
    folder = write_recipes(tmp_path)
    shutil.copytree(finished / "parent", folder / "tiny_parent")
    parent = own_head(AutoModelForCausalLM.from_pretrained(folder / "tiny_parent", dtype=torch.float32))
    parent.save_pretrained(folder / "tiny_parent")
    out, changes = folder / "run", ["--set", f"child.refit={refit}", "--set", "constraints.num_parameters=200000"]
    assert cli("run", folder / "tiny.yaml", "--out", out, *changes, "--set", "baselines.names=[]") == 0
    run = load_run(out, recipe_dir=folder)
    assert not run.config.tie_word_embeddings
    for name in ("child", "distilled"):
        child = run.load_child(name)
        assert not artifacts.read_json(out / name / "config.json")["tie_word_embeddings"]
    assert torch.equal(run.load_child("child").lm_head.weight, parent.lm_head.weight) or refit == "true"
    blocks = [Block.parse(text) for text in run.chosen["blocks"]]
    parameters = run.costs.non_block_parameters + sum(run.costs.block_costs(b, 2)["num_parameters"] for b in blocks)
    assert parameters == child.num_parameters()


def test_check_says_where_the_child_is_slower(copied, capsys):
    evaluation = artifacts.read_json(copied / "eval.json")
    (one, two) = evaluation["requests"]
    assert (one["workload"]["batch_size"], two["workload"]["batch_size"]) == (1, 2)
    for ratios in (one, two, evaluation["speed"]):
        for part in {"total", "prefill", "decode", "same_code"} & ratios.keys():
            ratios[part]["value"] = 1.5
    artifacts.write_json(copied / "eval.json", evaluation)
    assert cli("check", copied / "distilled") == 0
    assert "slower than its parent" not in capsys.readouterr().out
    one["decode"]["value"] = 0.9
    artifacts.write_json(copied / "eval.json", evaluation)
    assert cli("check", copied / "distilled") == 0
    assert "batch 1, 32 tokens in, 32 out: each further token: 0.90x" in capsys.readouterr().out
    artifacts.write_json(copied / "eval.json", {"of": "another program"})
    assert cli("check", copied / "distilled") == 0


def test_a_parent_without_a_head_is_refused_before_any_compute(finished, tmp_path, capsys):
    folder = write_recipes(tmp_path)
    shutil.copytree(finished / "parent", folder / "tiny_parent")
    config = artifacts.read_json(folder / "tiny_parent" / "config.json")
    artifacts.write_json(folder / "tiny_parent" / "config.json", config | {"tie_word_embeddings": False})
    assert cli("run", folder / "tiny.yaml", "--out", folder / "run") == 2
    assert "there is no lm_head.weight: set it to true" in capsys.readouterr().err
    assert not (folder / "run" / "tokens.safetensors").exists()


def test_tables_agree_with_each_other(finished):
    run = load_run(finished)
    space = run.space
    scores = with_sums(run.scores, space)
    assert {(s.layer_idx, s.block) for s in scores} == {
        (i, b.id) for i, layer in enumerate(space.layers) for b in layer.blocks
    }
    chosen = run.chosen
    table = {(s.layer_idx, s.block): s.value for s in scores}
    child = run.load_child("distilled")
    assert child.num_parameters() <= 120_000
    table_of_costs = run.costs
    blocks = [Block.parse(text) for text in chosen["blocks"]]
    parameters = table_of_costs.non_block_parameters
    parameters += sum(table_of_costs.block_costs(b, 2)["num_parameters"] for b in blocks)
    assert parameters == child.num_parameters()
    assert set(chosen["blocks"]) <= {block for _, block in table}
    evaluation = artifacts.read_json(finished / "eval.json")
    assert evaluation["memory"]["child"]["num_parameters"] == child.num_parameters()
    baselines = artifacts.read_jsonl(finished / "baselines.jsonl")
    assert baselines[0]["name"] == "searched"
    assert baselines[0]["blocks"] == chosen["blocks"]
    # the searched child without GKD is what `child` holds
    assert baselines[0]["quality"]["kl"] == pytest.approx(evaluation["quality"]["child"]["kl"], rel=1e-4)


def test_tokens_are_never_shared_between_their_uses(finished):
    tokens = load_run(finished).tokens
    heldout = artifacts.read_tensors(finished / "tokens.safetensors")["heldout"]
    assert torch.equal(torch.cat([tokens["validation"], tokens["test"]]), heldout)


@pytest.mark.parametrize(
    "row, column, message",
    [
        ({"text": [1, 2]}, "text", "data.text_column 'text' holds lists of numbers"),
        ({"body": "a"}, "text", r"'text' is not a column; columns: \['body'\]"),
        ({"chat": [{"role": "user", "content": "a"}]}, "chat", "'chat' holds chats, .* no chat template"),
    ],
)
@pytest.mark.parametrize("makes_parent", [True, False])
def test_the_first_row_is_read_before_any_compute(folder, finished, tmp_path, row, column, message, makes_parent):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    recipe = load_recipe(folder / "tiny.yaml")
    text = dataclasses.replace(recipe.data, name="json", data_files=[str(tmp_path / "rows.jsonl")], text_column=column)
    parent = recipe.parent if makes_parent else dataclasses.replace(recipe.parent, name=str(finished / "parent"))
    run = PuzzleRun(dataclasses.replace(recipe, data=text, parent=parent), tmp_path / "run", folder)
    with pytest.raises(DataError, match=message):
        run.run()
    assert not list((tmp_path / "run").iterdir())


def test_every_use_of_a_stream_begins_as_a_prompt_does(folder, finished, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(finished / "parent")
    bos = tokenizer.convert_tokens_to_ids("a")  # a token like any other, that this tokenizer puts in front
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="a $A", special_tokens=[("a", bos)]
    )
    # timings take random tokens, of other lengths than the sequences (16) and items (9 + 4)
    recipe = load_recipe(folder / "tiny.yaml", ["evaluate.task_context=9", "baselines.names=[]"])
    parent = LlamaForCausalLM.from_pretrained(finished / "parent", dtype=torch.float32)
    run = PuzzleRun(recipe, tmp_path / "run", folder, parent=parent, tokenizer=tokenizer)
    seen, forward, stage = {}, LlamaModel.forward, []

    def watched(model, input_ids=None, **kwargs):
        if input_ids is not None and input_ids.shape[1] in (13, 16):
            seen.setdefault(stage[-1], []).append(input_ids)
        return forward(model, input_ids, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", watched)
    run.run(say=lambda text: stage.append(text.partition(":")[0]))
    assert set(seen) >= {"importance", "library", "score", "child", "distill", "evaluate"}
    for name, batches in seen.items():
        for rows in batches:
            assert (rows[:, 0] == bos).all(), name
            assert (rows[:, 1] != bos).any(), name


def test_recipe_is_kept_verbatim(folder, finished):
    assert (finished / "recipe.yaml").read_text() == (folder / "tiny.yaml").read_text()
    assert artifacts.read_json(finished / "overrides.json") == []


def test_a_second_run_reuses_everything(folder, finished, monkeypatch, caplog):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file() and p.parent.name != "run"}
    assert stages_that_ran(monkeypatch, caplog, "run", folder / "tiny.yaml", "--out", finished) == []
    assert {p: p.stat().st_mtime_ns for p in before} == before


LOAD = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_puzzle":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
try:
    import hf_puzzle
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("hf_puzzle is there")
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
ids = tokenizer("abc def gh", return_tensors="pt")["input_ids"]
with torch.no_grad():
    save_file({"ids": ids, "logits": model(ids).logits}, out)
"""


@torch.no_grad()
def test_the_child_opens_where_the_library_is_not_installed(finished, tmp_path):
    out = tmp_path / "logits.safetensors"
    command = [sys.executable, "-c", LOAD, finished / "distilled", out]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "hf"), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    theirs = artifacts.read_tensors(out)
    run = load_run(finished)
    assert torch.equal(run.load_child("distilled")(theirs["ids"]).logits, theirs["logits"])
    assert torch.equal(run.tokenizer("abc def gh", return_tensors="pt")["input_ids"], theirs["ids"])


def test_show(finished, capsys):
    assert cli("show", finished) == 0
    out = capsys.readouterr().out
    assert "top-1 accuracy" in out
    assert str(finished / "distilled") in out.replace("\n", "")


def test_solve_with_other_constraints_writes_nothing(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    for override in ("constraints.num_parameters=90000", "constraints.speedup=0.3"):
        assert cli("solve", finished, "--set", override) == 0
        assert "kv" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before
    candidates = load_run(finished, ["constraints.num_parameters=90000"]).resolve()
    assert all(c.solution.costs["num_parameters"] <= 90_000 for c in candidates)


def test_infeasible_constraints_exit_with_the_nearest_value(finished, capsys):
    assert cli("solve", finished, "--set", "constraints.speedup=1000") == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-puzzle: ")
    assert "speedup" in error
    with pytest.raises(ValueError, match="speedup") as caught:
        load_run(finished, ["constraints.speedup=1000"]).resolve()
    nearest = caught.value.nearest["speedup"]
    assert (
        cli(
            "solve",
            finished,
            "--set",
            f"constraints.speedup={0.95 * nearest}",
            "--set",
            "constraints.num_parameters=null",
        )
        == 0
    )


@pytest.mark.parametrize("tokens, judges", [(64, "one judges"), (112, "one judges"), (128, "would do. Matrices")])
def test_a_refit_that_would_be_taken_back_is_said_before_compute(finished, caplog, tokens, judges):
    load_run(finished, [f"child.refit_tokens={tokens}"]).check_recipe()
    (said,) = (r.message for r in caplog.records if "refit_tokens" in r.message)
    assert judges in said
    wanted = int(re.search(r"(\d+) (tokens )?would do", said)[1])
    caplog.clear()
    load_run(finished, [f"child.refit_tokens={wanted}"]).check_recipe()
    assert not any("one judges" in r.message for r in caplog.records)


@pytest.mark.parametrize(
    "line, message",
    [
        ("sede: 1", "did you mean 'seed'"),
        ("library: {num_tokens: 1, args: {learning_rat: 1}}", "did you mean 'learning_rate'"),
        ("distill: {num_tokens: 256, eval_tokens: 31}", "1 held-out sequences of 16 tokens cannot choose a step"),
        ("distill: {num_tokens: 256, args: {save_steps: 3, eval_steps: 2}}", "multiple of the evaluation"),
        ("deploy: [vlm]", "did you mean 'vllm'"),
        ("constraints: {speedup: 0}", "constraints.speedup: 0.0 is impossible"),
        ("baselines: {names: [gredy]}", "did you mean 'greedy'"),
        ("search_space: {attention: [3]}", "3 KV heads do not divide the parent's 2"),
        ("parent: {name: nowhere/at/all}", "nowhere/at/all"),
    ],
)
def test_user_mistakes_are_one_line_and_no_compute(folder, finished, tmp_path, capsys, monkeypatch, line, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    raw = yaml.safe_load((folder / "tiny.yaml").read_text()) | yaml.safe_load(line)
    if "parent" not in line:
        raw["parent"] = {"name": str(finished / "parent"), "dtype": "float32"}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(raw))
    assert cli("run", tmp_path / "wrong.yaml", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    content = {p.name for p in (tmp_path / "out").rglob("*")} if (tmp_path / "out").exists() else set()
    assert content <= {"recipe.yaml", "overrides.json"}  # no stage began
    if "sede" in line:
        assert content == set()


def test_other_mistakes_of_the_command_line(folder, finished, tmp_path, capsys):
    assert cli("run", folder / "absent.yaml") == 2
    assert "absent.yaml" in capsys.readouterr().err
    assert cli("run", folder / "tiny.yaml", "--out", finished, "--only", "sovle") == 2
    assert "unknown stage 'sovle'" in capsys.readouterr().err
    assert cli("show", tmp_path) == 2
    assert "solutions.json is missing" in capsys.readouterr().err
    with artifacts.locked(finished):
        assert cli("run", folder / "tiny.yaml", "--out", finished) == 2
    assert "is in use by process" in capsys.readouterr().err


def test_keys(capsys):
    assert cli("keys") == 0
    assert "constraints.speedup" in capsys.readouterr().out.replace("\n", "")


def digest(run_dir, names):
    files = [
        p
        for name in names
        for p in ([run_dir / name] if (run_dir / name).is_file() else sorted((run_dir / name).rglob("*")))
    ]
    return {
        p.relative_to(run_dir).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()
    }


def test_interrupted_and_rerun_is_uninterrupted(folder, finished, copied, monkeypatch, caplog):
    """Killed inside importance, then inside scoring; what is random is seeded, so the files are the same bytes."""
    names = ["tokens.safetensors", "importance.safetensors", "library", "scores.jsonl"]
    expected = digest(finished, names)
    arguments = ["run", folder / "tiny.yaml", "--out", copied]

    def killed_in_cost(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.cost_stages, "measure", killed_in_cost)

    real_rank = pipeline.channel_importance

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "channel_importance", killed)
    assert cli(*arguments, "--from", "importance") == 130
    monkeypatch.setattr(pipeline, "channel_importance", real_rank)

    append = artifacts.append_jsonl

    def killed_in_layer_one(path, row):
        if row.get("layer_idx") == 1:
            raise KeyboardInterrupt
        append(path, row)

    monkeypatch.setattr(artifacts, "append_jsonl", killed_in_layer_one)
    # stages after the killed one are still marked finished from before: take their marks away
    manifest = artifacts.read_json(copied / "manifest.json")
    artifacts.write_json(copied / "manifest.json", {k: v for k, v in manifest.items() if k in STAGES[:3]})
    for name in ("library", "scores.jsonl"):
        artifacts.remove(copied / name)
    assert stages_that_ran(monkeypatch, caplog, *arguments, code=130) == ["importance", "library", "score"]
    assert set(stored_values(copied / "scores.parts" / "all")) == {(0, 0)}
    monkeypatch.setattr(artifacts, "append_jsonl", append)
    assert stages_that_ran(monkeypatch, caplog, *arguments, code=130) == ["score", "cost"]
    assert digest(copied, names) == expected


def test_changed_settings_rerun_what_depends_on_them(folder, copied, monkeypatch, caplog):
    ran = stages_that_ran(
        monkeypatch, caplog, "run", folder / "tiny.yaml", "--out", copied, "--set", "evaluate.task_items=9"
    )
    assert ran == ["evaluate", "baselines", "baseline_speeds", "report"]
    assert artifacts.read_json(copied / "overrides.json") == ["evaluate.task_items=9"]
    assert artifacts.read_json(copied / "eval.json")["task"]["parent"]["items"] == 9
    # the run knows its overrides: another look uses them
    assert load_run(copied).recipe.evaluate.task_items == 9
    # without the override the evaluation is stale, and its readers refuse to run alone
    assert (
        stages_that_ran(monkeypatch, caplog, "run", folder / "tiny.yaml", "--out", copied, "--only", "report", code=2)
        == []
    )


def test_from_python_with_a_model_in_memory(folder, finished, tmp_path):
    recipe = load_recipe(folder / "tiny.yaml", ["baselines.names=[]", "distill.num_tokens=0"])
    loaded = load_run(finished)
    parent, tokenizer = loaded.parent, loaded.tokenizer
    before = {name: tensor.clone() for name, tensor in parent.state_dict().items()}
    run = PuzzleRun(recipe, tmp_path / "run", parent=parent, tokenizer=tokenizer)
    said = []
    run.run(say=said.append)
    assert [line.partition(":")[0] for line in said if line.endswith("starts")] == STAGES[1:]
    assert not (tmp_path / "run" / "parent").exists()
    # the same parent, data and seeds give the same files whether it came from memory or from disk
    names = ["tokens.safetensors", "importance.safetensors", "library", "scores.jsonl"]
    assert digest(tmp_path / "run", names) == digest(finished, names)
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.state_dict().items())
    child, distilled = (run.load_child(name).state_dict() for name in ("child", "distilled"))
    assert all(torch.equal(child[name], tensor) for name, tensor in distilled.items())  # no GKD tokens: no GKD
    again = []
    PuzzleRun(recipe, tmp_path / "run", parent=parent, tokenizer=tokenizer).run(say=again.append)
    assert all("reused" in line for line in again)


def test_public_names():
    assert hf_puzzle.PuzzleRun is PuzzleRun
    assert hf_puzzle.load_recipe is load_recipe


def test_parent_command_trains_an_ordinary_folder(folder, finished, tmp_path):
    recipe = load_recipe(folder / "tiny_parent.yaml", ["num_tokens=256"])
    made = train_parent(recipe, tmp_path / "parent")
    config = json.loads((made / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert artifacts.read_json(made / "training.json")["tokens"] == 2 * 8 * 16
    assert len(train_tokenizer(recipe.data, recipe.vocab_size)) == config["vocab_size"]
    assert cli("run", folder / "tiny_parent.yaml", "--out", tmp_path / "again", "--set", "num_tokens=256") == 0
    assert not list(tmp_path.glob("again*checkpoints*"))


def test_a_speed_up_is_measured_before_it_is_promised(folder, copied, monkeypatch, caplog):
    overrides = ["--set", "constraints.speedup=1.5", "--set", "constraints.num_parameters=null"]
    ran = stages_that_ran(
        monkeypatch, caplog, "run", folder / "tiny.yaml", "--out", copied, "--only", "solve", *overrides
    )
    assert ran == ["solve"]
    solutions = artifacts.read_json(copied / "solutions.json")
    measured = solutions["chosen"]["measured"]
    assert measured["total"]["lower_bound"] >= 1.5
    bounds = [measured[name]["lower_bound"] for name in ("total", "same_code")]
    assert measured["bound_over_target"] == pytest.approx(min(bounds) / 1.5)
    assert solutions["chosen"]["blocks"] in [row["blocks"] for row in solutions["rounds"]]
    assert (
        cli("run", folder / "tiny.yaml", "--out", copied, "--only", "solve", "--set", "constraints.speedup=1000") == 2
    )


def test_a_parent_in_memory_is_checked_before_any_compute(folder, make_parent, tmp_path):
    recipe = load_recipe(folder / "tiny.yaml", ["child.format=decilm"])
    parent = make_parent("mistral", sliding_window=32)
    with pytest.raises(UnsupportedParentError, match="sliding window of 32"):
        PuzzleRun(recipe, tmp_path / "run", parent=parent).run()
    assert not (tmp_path / "run").exists()


def test_another_family_runs_from_end_to_end(folder, finished, tmp_path):
    """Qwen3 is no Llama: its child is written in the per-layer format, by the same stages."""
    recipe = load_recipe(folder / "tiny.yaml")
    tokenizer = AutoTokenizer.from_pretrained(finished / "parent")
    parent = family_model("qwen3", vocab_size=len(tokenizer))
    space = {"attention": [2, "window8", "none"], "ffn": [32, "linear"], "width_multiple": 8}
    limit = int(0.9 * parent.num_parameters())
    recipe = dataclasses.replace(
        recipe,
        search_space=dataclasses.replace(recipe.search_space, **space),
        constraints=dataclasses.replace(recipe.constraints, num_parameters=limit),
        baselines=dataclasses.replace(recipe.baselines, names=[]),
    )
    run = PuzzleRun(recipe, tmp_path / "run", parent=parent, tokenizer=tokenizer)
    run.run()
    child = run.load_child("distilled")
    assert type(child).__name__ == "PuzzleQwen3ForCausalLM"
    assert child.num_parameters() <= limit
    assert describe(child.config) == [Block.parse(text) for text in run.chosen["blocks"]]
    assert (tmp_path / "run" / "distilled" / "modeling_puzzle.py").exists()


@pytest.mark.parametrize("pairs", ["library.coupling=coupled", "library.ffn_under_no_attention=true"])
def test_blocks_that_are_trained_as_pairs_are_all_scored(tmp_path, pairs):
    folder = write_recipes(tmp_path)
    for settings, blocks in ([], "sub_blocks"), ([pairs], "all"):
        run = PuzzleRun(load_recipe(folder / "tiny.yaml", settings), tmp_path / "run", folder)
        assert run.score_config.blocks == blocks
