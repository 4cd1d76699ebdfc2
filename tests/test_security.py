"""What SECURITY.md promises: nothing of a stranger's folder runs, no path leaves it, no small file fills the machine."""

import ast
import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from fuzzing import _configs, _run_folder, write_run_folder
from pcw_models import byte_level, tiny_llama
from transformers import pipeline

from hf_puzzle import artifacts, cli, hub
from hf_puzzle.artifacts import ArtifactError, inside
from hf_puzzle.engines.check import FolderError, check_folder, weight_files
from hf_puzzle.formats import FormatError
from hf_puzzle.mrkl.data import make_world
from hf_puzzle.mrkl.run import _own_file_only
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.recipe import RecipeError, load_recipe
from hf_puzzle.remote.adapters_mrkl import Adapters
from hf_puzzle.remote.calls_mrkl import MRKLError, check_schema
from hf_puzzle.remote.exact_mrkl import Currency
from hf_puzzle.remote.experts_mrkl import Calculator, Experts
from hf_puzzle.remote.generation_pcw import PCWError
from hf_puzzle.remote.known_mrkl import Schema
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.pipeline_pcw import PCWClassificationPipeline, PCWGenerationPipeline
from hf_puzzle.remote.windows_pcw import Template


ROOT = Path(__file__).parents[1] / "hf_puzzle"
SOURCES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
BOMB = "import pathlib\npathlib.Path({flag!r}).write_text('run')\n"


def calls(tree):
    """Dotted names of what is called, with the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# -- the sources


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_unpickles_evaluates_or_unpacks(name):
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(SOURCES[name])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "tarfile"}
    for called, node in calls(SOURCES[name]):
        assert called not in {"eval", "exec", "compile", "yaml.unsafe_load", "os.system"}, called
        if called == "torch.load":  # the scheduler of a checkpoint, which Trainer writes so
            assert name == "puzzle/distillation.py"
            assert ("weights_only", "True") in {(k.arg, ast.unparse(k.value)) for k in node.keywords}
        assert not called.endswith((".extractall", ".unpack_archive", ".full_load")), called
        if called == "yaml.load":
            assert ast.unparse(node.args[1]) == "_Loader"
        assert all(not (k.arg == "shell" and ast.unparse(k.value) != "False") for k in node.keywords)


def test_remote_code_is_trusted_nowhere_by_default():
    asked = set()
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                a = node.args
                defaults = [*zip([*a.posonlyargs, *a.args][::-1], a.defaults[::-1], strict=False)]
                defaults += [(arg, d) for arg, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None]
                for argument, default in defaults:
                    assert argument.arg != "trust_remote_code" or ast.unparse(default) != "True", name
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and ast.unparse(node.value) == "True":
                asked.add(name)
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code":
                assert ast.unparse(node.value).endswith(("False", "False)")), name
    # graphs that this process has just exported
    assert asked <= {"engines/onnx.py"}, asked


# -- folders of strangers


@pytest.fixture
def flag(tmp_path):
    return tmp_path / "it_ran"


def booby_trap(folder, flag, config):
    """A model folder in which everything that could run writes `flag`."""
    folder.mkdir(exist_ok=True)
    code = BOMB.format(flag=str(flag))
    for name in (
        "modeling_puzzle",
        "configuration_decilm",
        "modeling_decilm",
        "evil",
        "__init__",
        "conftest",
        "sitecustomize",
    ):
        (folder / f"{name}.py").write_text(code)
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(*a, **k): pass\n")
    config = {
        **config,
        "auto_map": {
            "AutoConfig": "evil.Config",
            "AutoModelForCausalLM": "evil.Model",
            "AutoModel": "../../evil.Model",
        },
        "custom_pipelines": {"text-generation": {"impl": "evil.Pipeline", "pt": ["AutoModelForCausalLM"]}},
    }
    artifacts.write_json(folder / "config.json", config)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(flag).encode())
    chat = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    artifacts.write_json(
        folder / "tokenizer_config.json", {"chat_template": chat, "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    )
    artifacts.write_json(
        folder / "puzzle.json", {"puzzle_format_version": 1, "recipe": "!!python/object/apply:os.system [id]"}
    )


@pytest.mark.parametrize("number", range(6))
def test_check_convert_and_export_run_nothing_of_a_folder(number, tmp_path, flag, capsys):
    folder = tmp_path / "stranger"
    booby_trap(folder, flag, _configs()[number])
    for command in (["check", folder], ["convert", folder, "--to", "decilm"], ["export", folder, "--target", "vllm"]):
        assert cli.main([*map(str, command)]) in (0, 2)
        assert "Traceback" not in capsys.readouterr().err
    assert not flag.exists()


def test_show_and_solve_run_nothing_of_a_run_folder(tmp_path, flag, capsys):
    run = tmp_path / "run"
    files = _run_folder(tmp_path)
    files["recipe.yaml"] = {**files["recipe.yaml"], "parent": {"name": "child", "trust_remote_code": True}}
    write_run_folder(run, files)
    booby_trap(run, flag, _configs()[0])
    booby_trap(run / "child", flag, _configs()[0])
    assert cli.main(["show", str(run)]) == 0
    assert cli.main(["solve", str(run)]) == 0
    assert "kv" in capsys.readouterr().out
    tag = f"parent: !!python/object/apply:os.system ['touch {flag}']\n"
    (run / "recipe.yaml").write_text(tag)
    assert cli.main(["solve", str(run)]) == 2
    assert "tags (!name) are not read" in capsys.readouterr().err
    assert not flag.exists()


def test_a_command_started_inside_a_folder_imports_nothing_of_it(tmp_path, flag):
    booby_trap(tmp_path / "f", flag, _configs()[0])
    for name in ("torch", "transformers", "yaml", "rich", "json"):
        (tmp_path / "f" / f"{name}.py").write_text(BOMB.format(flag=str(flag)))
    program = Path(sys.executable).with_name("hf-puzzle")
    if not program.exists():
        pytest.skip("hf-puzzle is not installed beside this Python")
    done = subprocess.run([program, "check", "."], cwd=tmp_path / "f", capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 2), done.stderr
    assert not flag.exists()


def test_pipelines_of_an_installed_hf_puzzle_run_nothing_of_a_folder(tmp_path, flag):
    folder = tmp_path / "stranger"
    tokenizer = byte_level()
    PCWGenerationPipeline(model=tiny_llama(tokenizer), tokenizer=tokenizer).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    booby_trap(folder, flag, config)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "pcw.json").read_text())
    settings["pcw-generation"] |= {"custom_generate": str(folder), "trust_remote_code": True}
    config |= {"custom_pipelines": {"pcw-generation": {"impl": "evil.Pipeline", "pt": ["AutoModelForCausalLM"]}}}
    artifacts.write_json(folder / "config.json", config)
    artifacts.write_json(folder / "pcw.json", settings)
    with pytest.raises(ValueError, match="other settings than|trust_remote_code"):
        pipeline("pcw-generation", model=str(folder))
    model = tiny_llama(tokenizer)
    model.config._name_or_path, model.config.custom_pipelines = str(folder), {"pcw-generation": {}}
    with pytest.raises(PCWError, match="other settings than"):
        PCWGenerationPipeline(model=model, tokenizer=tokenizer)
    assert not flag.exists()


def test_what_a_stranger_wrote_cannot_drive_the_terminal(tmp_path, capsys):
    config = {**_configs()[0], "architectures": ["\x1b[2J\x1b]0;title\x07[bold red][/nothing]"]}
    artifacts.write_json(tmp_path / "config.json", config)
    assert cli.main(["check", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "\x1b[2J" not in shown.out + shown.err
    assert "\x07" not in shown.out + shown.err
    (tmp_path / "recipe.yaml").write_text('"\\e[2J": 1\n')
    assert cli.main(["run", str(tmp_path / "recipe.yaml")]) == 2
    assert "\x1b" not in capsys.readouterr().err


# -- paths

OUTSIDE = [
    "/etc/passwd", "../x", "a/../../x", "..", ".", "", "a//b", "a/./b", "a\0b", "a\nb", "..\\x", "C:\\x", "/".join("a" * 40), None, 1,
    ["a"], {"a": 1}, b"a",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_names_that_are_no_file_of_a_folder_are_refused(name, tmp_path):
    with pytest.raises(ArtifactError):
        inside(tmp_path, name)


def test_names_and_links_inside_a_folder_are_taken(tmp_path):
    assert (
        inside(tmp_path, "layer_07/block.kv4win512+e4.safetensors")
        == tmp_path / "layer_07/block.kv4win512+e4.safetensors"
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert inside(tmp_path, "link/b").read_text() == "x"
    (tmp_path / "whole").symlink_to(tmp_path / "a")
    assert inside(tmp_path / "whole", "b").read_text() == "x"


def test_links_that_leave_a_folder_are_refused(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    for name in ("file", "up/secret"):
        with pytest.raises(ArtifactError, match="a link that leaves it"):
            inside(folder, name)
    assert not inside(folder, "loop").exists()


def test_the_cache_of_the_hub_is_links_to_blobs_and_no_further(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (blobs / "1").write_text("x")
    (tmp_path / "secret").write_text("x")
    (snapshot / "good").symlink_to("../../blobs/1")
    (snapshot / "bad").symlink_to("../../../secret")
    assert inside(snapshot, "good").read_text() == "x"
    with pytest.raises(ArtifactError, match="leaves it"):
        inside(snapshot, "bad")


@pytest.mark.parametrize("name", ["../part.safetensors", "/tmp/part.safetensors", "a\0b", "..", {"a": 1}], ids=repr)
def test_an_index_of_weights_names_files_of_its_folder(name, tmp_path):
    artifacts.write_tensors(tmp_path / "part.safetensors", {"a": torch.ones(1)})
    artifacts.write_json(tmp_path / "model" / "config.json", _configs()[0])
    artifacts.write_json(tmp_path / "model" / "model.safetensors.index.json", {"weight_map": {"a": name}})
    with pytest.raises(FolderError, match="points outside|must name a file"):
        weight_files(tmp_path / "model")


def test_a_library_opens_blocks_of_its_folder_only(tmp_path):
    artifacts.write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    library = BlockLibrary(tmp_path / "library")
    for name in ("../x", str(tmp_path / "x")):
        with pytest.raises(ArtifactError, match="is not the name of a file in it"):
            library.weights(name)
    artifacts.append_jsonl(tmp_path / "library" / "index.jsonl", {"name": "../x", "bytes": 1})
    with pytest.raises(ArtifactError, match="is not the name of a file in it"):
        BlockLibrary(tmp_path / "library")


def test_converting_copies_no_file_that_a_link_points_to(tmp_path, llama):
    folder, secret = tmp_path / "model", tmp_path / "id_rsa"
    secret.write_text("private")
    hub.write_model_folder(folder, llama)
    (folder / "notes.txt").symlink_to(secret)
    assert cli.main(["convert", str(folder), "--to", "decilm", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def saved_mrkl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mrkl")
    world = make_world(folder / "world", "train", 2)
    experts = Experts.from_fixtures(folder / "world", world.today)
    model, tokenizer = tiny_llama(byte_level(), positions=1024), byte_level()
    MrklPipeline(model=model, tokenizer=tokenizer, experts=experts, today=world.today).save_pretrained(
        folder / "saved"
    )
    model.config._name_or_path, model.config.custom_pipelines = str(folder / "saved"), {"mrkl": {}}
    return folder, model


def edited(settings, *path, value):
    holder = settings = json.loads(json.dumps(settings))
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return settings


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("files",), {"../world/rates.json": "0" * 64}, "is no file of its folder"),
        (("files",), {"/etc/passwd": "0" * 64}, "is no file of its folder"),
        (("files",), {"mrkl_data/stolen.json": None}, "is a link that leaves its folder"),
        (
            ("calls",),
            {"custom_generate": "evil/repository", "trust_remote_code": True},
            "sets 'custom_generate' for calls",
        ),
        (("limits", "calls"), 10**9, "expected a number below"),
        (("experts",), [{}], "not of the expected form"),
    ],
)
def test_a_saved_mrkl_folder_reaches_no_other_file_and_no_other_argument(saved_mrkl, path, value, message):
    folder, model = saved_mrkl
    settings = json.loads((folder / "saved" / "mrkl.json").read_text())
    link = folder / "saved" / "mrkl_data" / "stolen.json"
    link.unlink(missing_ok=True)
    link.symlink_to(folder / "world" / "rates.json")
    try:
        artifacts.write_json(folder / "saved" / "mrkl.json", edited(settings, *path, value=value))
        with pytest.raises(MRKLError, match=message):
            MrklPipeline(model=model, tokenizer=byte_level())
    finally:
        artifacts.write_json(folder / "saved" / "mrkl.json", settings)
        link.unlink()


def test_a_saved_currency_reads_rates_of_its_folder(saved_mrkl):
    folder, model = saved_mrkl
    settings = json.loads((folder / "saved" / "mrkl.json").read_text())
    index = next(i for i, each in enumerate(settings["experts"]) if each["kind"] == "currency")
    changed = edited(settings, "experts", index, "options", "rates", value=str(folder / "world" / "rates.json"))
    artifacts.write_json(folder / "saved" / "mrkl.json", changed)
    try:
        with pytest.raises(MRKLError, match="not of the expected form"):
            MrklPipeline(model=model, tokenizer=byte_level())
    finally:
        artifacts.write_json(folder / "saved" / "mrkl.json", settings)


def test_statements_of_a_recipe_reach_no_other_database(tmp_path):
    connection = sqlite3.connect(tmp_path / "own.sqlite")
    connection.set_authorizer(_own_file_only)
    connection.executescript("CREATE TABLE t(a); INSERT INTO t VALUES (1); UPDATE t SET a = 2;")
    for statement in (f"ATTACH '{tmp_path / 'x'}' AS x", f"VACUUM INTO '{tmp_path / 'x'}'"):
        with pytest.raises(sqlite3.DatabaseError, match="authoriz"):
            connection.executescript(statement)
    connection.close()
    assert not (tmp_path / "x").exists()


def test_adapters_are_safetensors_and_name_no_module(tmp_path):
    model = tiny_llama(byte_level())
    artifacts.write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(MRKLError, match=r"no adapter_model\.safetensors"):
        Adapters(model, {"a": tmp_path})
    artifacts.write_tensors(tmp_path / "adapter_model.safetensors", {"a": torch.ones(1)})
    artifacts.write_json(
        tmp_path / "adapter_config.json", {"peft_type": "LORA", "megatron_config": {}, "megatron_core": "evil"}
    )
    with pytest.raises(MRKLError, match="Megatron"):
        Adapters(model, {"a": tmp_path})


# -- bombs


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 10_000, "not valid JSON"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[1e999]", "too large for a number"),
        ('["\\ud800"]', "surrogates not allowed"),
        ("\xff", "not valid JSON"),
    ],
    ids=range(8),
)
def test_json_bombs_are_named(text, message, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=message):
        artifacts.read_json(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_bytes(text.encode("latin-1") + b"\n")
    with pytest.raises(ArtifactError, match="line 1"):
        artifacts.read_jsonl(tmp_path / "a.jsonl")


def test_files_of_any_size_and_kind_are_read_no_further_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_JSON_BYTES", 1000)
    (tmp_path / "long").write_bytes(b'{"a": "' + b"x" * 5000 + b'"}\n')
    with pytest.raises(ArtifactError, match="more than 0 MiB"):
        artifacts.read_json(tmp_path / "long")
    with pytest.raises(ArtifactError, match="line 1: more than"):
        artifacts.read_jsonl(tmp_path / "long")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        for read in (artifacts.read_json, artifacts.read_jsonl, artifacts.read_tensors):
            with pytest.raises(ArtifactError, match="is not a file"):
                read(tmp_path / name)


def test_tensors_that_claim_terabytes_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for size in (len(header), 2**63, 2**40):
        path.write_bytes(size.to_bytes(8, "little") + header)
        with pytest.raises(ArtifactError, match="truncated or not safetensors"):
            artifacts.read_tensors(path)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text, message",
    [
        (LAUGHS, "aliases"),
        ("a: &a {b: 1}\nc: {<<: [*a, *a]}\n", "aliases"),
        ("a: &a [*a]\n", "aliases"),
        ("[" * 3000, "nested too deeply"),
        ("seed: " + "9" * 5000, "not valid YAML|63 bits"),
        ("seed: 0x" + "f" * 5000, "63 bits"),
        ("seed: !!int x", "tags"),
        ("a: !!python/name:os.system", "tags"),
        ("x" * 300_000, "more than"),
        ('parent: {name: "\\ud800"}', "not Unicode text|not valid YAML"),
    ],
    ids=range(10),
)
def test_yaml_bombs_are_named(text, message, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_overrides_without_end_are_named(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(_run_folder(tmp_path)["recipe.yaml"]))
    for override in ("a." * 5000 + "b=1", "seed=" + "[" * 5000, "seed=&a [*a]"):
        with pytest.raises(RecipeError):
            load_recipe(tmp_path / "r.yaml", [override])


@pytest.mark.parametrize("number", range(6))
def test_a_config_with_a_billion_layers_is_named(number, tmp_path):
    for count in (10**9, 1e300, -1):
        artifacts.write_json(tmp_path / "config.json", {**_configs()[number], "num_hidden_layers": count})
        with pytest.raises(FormatError, match="num_hidden_layers is"):
            hub.read_config(tmp_path)
        with pytest.raises(FolderError, match="num_hidden_layers is"):
            check_folder(tmp_path)


def test_a_view_without_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_puzzle.remote.known_mrkl.MAX_SCHEMA_STEPS", 2)
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    connection.execute(
        "CREATE VIEW v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) AS i FROM n"
    )
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match="interrupted"):
        Schema.from_sqlite(tmp_path / "x.sqlite")


def test_archives_are_read_in_place_and_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_puzzle.remote.exact_mrkl.MAX_JSON_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "rates.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../rates.csv", "Date,USD\n" + "2022-05-02,1.05\n" * 10_000)
    with pytest.raises(MRKLError, match="unpacks to more than"):
        Currency(tmp_path / "rates.zip").load()
    (tmp_path / "rates.zip").write_bytes(b"PK")
    with pytest.raises(MRKLError, match="no archive"):
        Currency(tmp_path / "rates.zip").load()
    assert [path.name for path in tmp_path.iterdir()] == ["rates.zip"]


@pytest.mark.parametrize("text", ["{text:>9999999999} {label}", "{text!r} {label}", "{text:{label}} {label}"])
def test_templates_take_no_formats(text):
    with pytest.raises(PCWError, match="takes no format or conversion"):
        Template(text)


# -- what fuzzing found; each was an error of another type, or no end


def test_a_model_without_heads_is_a_verdict_or_a_named_error(tmp_path):
    stock, per_layer, decilm = _configs()[:3]
    artifacts.write_json(tmp_path / "config.json", {**decilm, "num_attention_heads": 0})
    with pytest.raises(FolderError, match="num_attention_heads is 0: expected a positive integer"):
        check_folder(tmp_path)
    for config in (stock, per_layer):
        artifacts.write_json(tmp_path / "config.json", {**config, "num_attention_heads": 0})
        assert check_folder(tmp_path)


@pytest.mark.parametrize("value", ["1.0", None, [1.0], 0, 1e9])
def test_a_margin_of_another_type_is_named(value, tmp_path, capsys):
    files = _run_folder(tmp_path)
    files["solutions.json"]["rounds"][0]["margin"] = value
    write_run_folder(tmp_path, files)
    assert cli.main(["solve", str(tmp_path)]) == 2
    assert "margin" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key, value", [("value", "0.1"), ("layer_idx", -1), ("layer_idx", 7), ("block", 5), ("tokens", None)]
)
def test_scores_of_another_type_are_named(key, value, tmp_path, capsys):
    files = _run_folder(tmp_path)
    files["scores.jsonl"][0][key] = value
    write_run_folder(tmp_path, files)
    assert cli.main(["solve", str(tmp_path)]) == 2
    assert "scores.jsonl" in capsys.readouterr().err


def test_a_run_that_nobody_touched_solves(tmp_path, capsys):
    write_run_folder(tmp_path, _run_folder(tmp_path))
    assert cli.main(["solve", str(tmp_path)]) == 0
    assert "kv" in capsys.readouterr().out


def test_a_schema_without_a_type_ends():
    with pytest.raises(MRKLError, match="is none of"):
        check_schema({"type": "object", "properties": {"a": {"type": []}}})


@pytest.mark.parametrize("query", ["take 1_000 off 80", "\ud800", "5_ km"])
def test_queries_that_once_broke_the_reader(query, saved_mrkl):
    folder, _ = saved_mrkl
    made = MrklPipeline(
        model=tiny_llama(byte_level()), tokenizer=byte_level(), experts=[Calculator()], today="2022-05-02"
    )
    assert made.planner.ask(query)["status"] in ("ok", "error", "no_data", "refused", "abstain")


@pytest.mark.parametrize(
    "settings",
    [
        {"template": 5},
        {"labels": 0.5},
        {"demonstrations": 7},
        {"separator": []},
        {"demonstrations": [["\ud800", "a"], ["b", "c"]]},
    ],
)
def test_settings_that_once_broke_pcw(settings):
    made = {"demonstrations": [("great film", "good"), ("a waste", "bad")], **settings}
    with pytest.raises(PCWError):
        PCWClassificationPipeline(model=tiny_llama(byte_level()), tokenizer=byte_level(), **made)("so so")
