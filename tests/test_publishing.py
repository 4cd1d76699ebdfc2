"""Publishing over real HTTP to a local Hub; what was published is opened where hf_puzzle cannot be imported."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import family_child, own_head
from hub_server import LocalHub
from huggingface_hub import HfApi
from pcw_models import byte_level, tiny_llama

from hf_puzzle import __version__, artifacts, hub, publishing
from hf_puzzle.blocks import Block
from hf_puzzle.cli import main
from hf_puzzle.formats import DECILM
from hf_puzzle.pcw import write_custom_generate
from hf_puzzle.publishing import HubError, PublishError, publish
from hf_puzzle.remote.exact_mrkl import Calculator, Units
from hf_puzzle.remote.generation_pcw import generate
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.pipeline_pcw import PCWClassificationPipeline
from hf_puzzle.remote.wiki_mrkl import Wiki


BLOCKS = [Block("none", 256), Block(2, 512), Block(4, "linear")]
TOKENS = torch.tensor([[5, 6, 7, 8]])
SHOTS = [("a great joy", "good"), ("what a waste", "bad"), ("a good cast", "good"), ("the worst film", "bad")]
TEXTS = ["a great film", "a waste of time"]
CONTEXTS = [[8, 9, 10, 11], [12, 13]]
QUESTIONS = ["What is 12345678 times 87654321?", "How many feet is 3 metres?", "When was Kelby Mill built?"]
DOCS = [{"id": "p", "title": "Kelby Mill", "text": "Kelby Mill is a mill. It was built in 1802."}]
GENERATE = {"contexts": CONTEXTS, "prefix": [1], "max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}


@pytest.fixture(scope="module")
def server():
    with LocalHub() as running:
        yield running


@pytest.fixture(autouse=True)
def hub_settings(server, monkeypatch):
    """This process knows the local Hub only, has its token, and waits for nothing; returns the waits."""
    waits = []
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
    template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setenv("HF_TOKEN", server.token)
    yield waits
    server.heal()
    server.objects.clear()  # or weights of the next test would be there already


def child(fmt=None, seed=0, **overrides):
    family = "llama" if fmt == DECILM else "qwen3"
    return family_child(family, BLOCKS, seed, **({"fmt": fmt} if fmt else {}), num_hidden_layers=3, **overrides)


def make_classifier():
    tokenizer = byte_level()
    return PCWClassificationPipeline(
        model=tiny_llama(tokenizer),
        tokenizer=tokenizer,
        task="pcw-classification",
        demonstrations=SHOTS,
        num_windows=2,
    )


def make_mrkl():
    tokenizer = byte_level()
    return MrklPipeline(
        model=tiny_llama(tokenizer, positions=512),
        tokenizer=tokenizer,
        experts=[Calculator(), Units(), Wiki(DOCS)],
        today="2022-05-02",
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of every kind that hf_puzzle writes."""
    root = tmp_path_factory.mktemp("folders")
    for name, fmt in (("decilm", DECILM), ("per_layer", None)):
        hub.write_model_folder(root / name, child(fmt), byte_level(), {"chosen": {"blocks": [str(b) for b in BLOCKS]}})
    make_classifier().save_pretrained(root / "pcw")
    write_custom_generate(root / "pcw")
    make_mrkl().save_pretrained(root / "mrkl")
    write_custom_generate(root / "generate")
    return root


@pytest.fixture
def folder(folders, tmp_path):
    """A child of its own, to be spoilt."""
    return Path(shutil.copytree(folders / "decilm", tmp_path / "child"))


@pytest.fixture
def repo(request):
    return f"me/{''.join(c if c.isalnum() else '-' for c in request.node.name).strip('-')[:90].replace('--', '-')}"


def content(folder):
    """Everything below a folder: bytes, and when they were written."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def lines(*args, **kwargs):
    """What `publish` says."""
    said = []
    publish(*args, **kwargs, say=said.append)
    return said


# -- opened elsewhere

OPEN = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_puzzle":
            raise ImportError("hf_puzzle is not here")
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoModelForCausalLM, pipeline
torch.set_num_threads(1)
given = json.loads(open(sys.argv[1]).read())
tokens, found = torch.tensor(given["tokens"]), {}
for name in given["children"]:
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
    found[name] = [type(model).__name__, model(tokens).logits.tolist()]
found["classify"] = pipeline("pcw-classification", model="me/pcw", trust_remote_code=True)(given["texts"], top_k=None)
model = AutoModelForCausalLM.from_pretrained("me/pcw", trust_remote_code=True)
found["own generate"] = model.generate(tokens, **given["generate"]).tolist()
plain = AutoModelForCausalLM.from_pretrained("me/pcw", trust_remote_code=False)
found["generate"] = plain.generate(
    tokens, custom_generate="me/generate", trust_remote_code=True, **given["generate"]
).tolist()
ask = pipeline(model="me/mrkl", trust_remote_code=True)
found["mrkl"] = ask(given["questions"], max_new_tokens=4, do_sample=False)
print(json.dumps(found))
"""


def test_all_that_is_published_opens_where_hf_puzzle_is_not_installed(server, folders, tmp_path):
    models = {
        "me/decilm": child(DECILM),
        "me/per_layer": child(),
        "me/shared": child(DECILM),
        "me/other": child(seed=1),
    }
    hub.write_model_folder(tmp_path / "other", models["me/other"], byte_level())
    for name in ("decilm", "per_layer", "pcw", "generate", "mrkl"):
        publish(folders / name, f"me/{name}")
    publish(folders / "decilm", "me/shared", code_repo="me/code")
    publish(tmp_path / "other", "me/other", code_repo="me/code")

    given = {"tokens": TOKENS.tolist(), "children": list(models), "texts": TEXTS, "generate": GENERATE}
    artifacts.write_json(tmp_path / "given.json", given | {"questions": QUESTIONS})
    run = subprocess.run(
        [sys.executable, "-c", OPEN, tmp_path / "given.json"],
        env=server.environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])

    for name, model in models.items():
        assert found[name][0] == type(model).__name__
        assert torch.equal(torch.tensor(found[name][1]), model(TOKENS).logits), name
    classifier = make_classifier()
    for ours, theirs in zip(classifier(TEXTS, top_k=None), found["classify"], strict=True):
        assert [each["label"] for each in ours] == [each["label"] for each in theirs]
        assert [each["score"] for each in ours] == pytest.approx([each["score"] for each in theirs], abs=1e-6)
    assert found["generate"] == found["own generate"] == generate(TOKENS, model=classifier.model, **GENERATE).tolist()
    replies = make_mrkl()(QUESTIONS, max_new_tokens=4, do_sample=False)
    assert [reply["answer"] for reply in replies][::2] == ["1082152022374638", "1802"]
    assert found["mrkl"] == json.loads(json.dumps(replies))

    # one repository holds the code of both formats, their children none
    code = {
        *("caches_puzzle.py", "configuration_decilm.py", "lowrank_puzzle.py"),
        *("modeling_decilm.py", "modeling_puzzle.py", "recurrent_puzzle.py"),
    }
    assert set(server.files("me/code")) == code | {"README.md", ".gitattributes"}
    for name in ("me/shared", "me/other"):
        assert not code & set(server.files(name))
        auto_map = json.loads(server.files(name)["config.json"])["auto_map"]
        assert all(value.startswith("me/code--") for value in auto_map.values())
    for name in (*models, "me/pcw", "me/generate", "me/mrkl", "me/code"):
        files = server.files(name)
        beside = {
            p: len(c) for p, c in files.items() if not p.endswith(".safetensors") and not p.startswith("tokenizer")
        }
        assert sum(beside.values()) < 1_000_000, beside
        assert files["README.md"].startswith(b"---\n")


def test_publishing_changes_nothing_here(server, folders, repo, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = content(folders)
    names = sorted(folders.iterdir())
    for name in ("per_layer", "pcw", "mrkl"):
        publish(folders / name, repo)
        publish(folders / name, repo, dry_run=True)
    publish(folders / "decilm", f"{repo}-shared", code_repo=f"{repo}-code")
    monkeypatch.setattr("os.access", lambda *args: False)  # a folder in which nothing can be written
    publish(folders / "decilm", repo)
    monkeypatch.setattr("os.link", lambda *args: exec("raise OSError(18, 'another file system')"))
    publish(folders / "mrkl", repo)
    assert content(folders) == before
    assert sorted(folders.iterdir()) == names
    assert list(tmp_path.iterdir()) == []  # no copy is left


# -- twice


def test_a_second_push_makes_no_commit(server, folder, repo):
    (said,) = [line for line in lines(folder, repo, message="First") if "published" in line]
    commits = dict(server.repos["model", repo].commits)
    assert server.repos["model", repo].messages[-1] == "First"
    assert f"{server.endpoint}/{repo} " in said
    start = len(server.requests)
    assert lines(folder, repo)[-1].startswith(f"nothing to do: {server.endpoint}/{repo}")
    assert server.repos["model", repo].commits == commits
    assert not [each for each in server.requests[start:] if each.split()[0] != "GET"]
    # one file more: only it is sent
    (folder / "notes.md").write_text("more")
    assert "1 of " in lines(folder, repo)[-1]
    assert server.files(repo)["notes.md"] == b"more"


def test_what_others_put_there_stays_and_old_weights_go(server, folder, repo):
    child(DECILM).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    publish(folder, repo)
    shards = {name for name in server.files(repo) if name.startswith(("model-", "model."))}
    assert "model.safetensors.index.json" in shards
    api = HfApi(endpoint=server.endpoint, token=server.token)
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="examples/model.safetensors", repo_id=repo)
    for name in shards:
        (folder / name).unlink()
    child(DECILM).save_pretrained(folder)
    assert f"{len(shards)} old files of weights or measurements removed" in lines(folder, repo)[-1]
    left = set(server.files(repo))
    assert not shards & left
    assert {"model.safetensors", "examples/model.safetensors"} <= left


def test_a_card_written_on_the_hub_stays(server, folder, repo):
    api = HfApi(endpoint=server.endpoint, token=server.token)
    api.create_repo(repo)
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id=repo)
    publish(folder, repo)  # metadata alone, as the Hub's own form writes it
    rendered = server.files(repo)["README.md"]
    assert b"from transformers import" in rendered
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n# Mine\n", path_in_repo="README.md", repo_id=repo)
    said = lines(folder, repo)[-1]
    assert said.startswith("nothing to do")
    assert said.endswith("files; the README.md there was written by hand and stays")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine, and here\n")
    publish(folder, repo)
    assert server.files(repo)["README.md"].endswith(b"# Mine, and here\n")
    (folder / "README.md").write_text("---\na: [\n---\n# Mine\n")
    with pytest.raises(ValueError, match="README.md"):
        publish(folder, repo)


def test_a_public_repository_is_not_filled_by_mistake(server, folder, repo):
    publish(folder, repo)
    (folder / "secret.txt").write_text("not yet")
    with pytest.raises(PublishError, match="exists and is public"):
        publish(folder, repo, private=True)
    assert "secret.txt" not in server.files(repo)
    assert "published, private" in lines(folder, f"{repo}-2", private=True)[-1]
    assert server.repos["model", f"{repo}-2"].private


def test_shared_code_may_be_public_where_a_model_is_private(server, folder, repo):
    publish(folder, f"{repo}-1", code_repo=f"{repo}-code")
    publish(folder, f"{repo}-2", code_repo=f"{repo}-code", private=True)
    assert not server.repos["model", f"{repo}-code"].private
    assert server.repos["model", f"{repo}-2"].private


@pytest.mark.parametrize(
    "error, words",
    [
        (ConnectionError("Network error: https://host/xet-write-token?sig=1"), "no connection to the Hub"),
        (TimeoutError("slow"), "no connection to the Hub (TimeoutError: slow)"),
        (ValueError("ours"), None),
        (FileNotFoundError("ours"), None),
    ],
)
def test_what_uploads_over_xet_raise_is_the_hubs(error, words):
    reason = publishing._reason(error)
    assert (reason is None) if words is None else (words in reason and "https://" not in reason)


# -- runs and folders


def run_folder(path, stages, **folders):
    for name, source in folders.items():
        shutil.copytree(source, path / name)
    entry = {"inputs": "x", "finished": "2026-01-01T00:00:00Z"}
    artifacts.write_json(
        path / "manifest.json", {name: entry if done else {"inputs": "x"} for name, done in stages.items()}
    )
    return path


def test_runs_give_their_model(folders, tmp_path):
    puzzle = run_folder(
        tmp_path / "puzzle", {"library": 1, "distill": 1}, child=folders / "decilm", distilled=folders / "decilm"
    )
    mrkl = run_folder(tmp_path / "mrkl", {"model": 1, "ask": 1}, model=folders / "pcw", pipeline=folders / "mrkl")
    assert publishing.find_model(puzzle) == (puzzle / "distilled", puzzle)
    assert publishing.find_model(puzzle / "distilled") == (puzzle / "distilled", puzzle)
    assert publishing.find_model(puzzle / "child") == (puzzle / "child", puzzle / "child")  # was not measured last
    assert publishing.find_model(mrkl) == (mrkl / "pipeline", mrkl)


@pytest.mark.parametrize(
    "stages, message",
    [
        ({"library": 1, "distill": 0}, "has not finished its stage distill"),
        ({"model": 1}, "has not finished its stage report"),
        ({"adapters": 1}, "has not finished its stage ask"),
        ({"data": 1}, "has made no model yet"),
        ({"evaluate": 1, "report": 1}, "no model of its own"),
    ],
)
def test_unfinished_runs_are_refused(tmp_path, stages, message):
    with pytest.raises(PublishError, match=message):
        publish(run_folder(tmp_path / "run", stages), "me/x", dry_run=True)


def test_a_run_of_parallel_windows_gets_its_pipelines(server, tmp_path, repo):
    tokenizer = byte_level()
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = run_folder(tmp_path / "run", {"model": 1, "evaluate": 1, "report": 1}, model=tmp_path / "model")
    artifacts.write_json(run / "pcw.json", {})
    publish(run, repo)
    files = server.files(repo)
    assert {
        "pipeline_pcw.py",
        "generation_pcw.py",
        "custom_generate/generate.py",
        "custom_generate/generation_pcw.py",
    } <= set(files)
    assert "pcw-classification" in json.loads(files["config.json"])["custom_pipelines"]
    assert not (run / "model/custom_generate").exists()
    publish(run / "model", f"{repo}-model")
    assert set(server.files(f"{repo}-model")) == set(files)


def test_code_that_is_missing_or_old_is_put_right(server, folders, tmp_path, repo):
    folder = Path(shutil.copytree(folders / "pcw", tmp_path / "pcw"))
    (folder / "pipeline_pcw.py").unlink()  # as Pipeline.save_pretrained loses it
    (folder / "store_pcw.py").write_text("old = True\n")
    (folder / "custom_generate/generation_pcw.py").unlink()
    said = lines(folder, repo)
    assert "note: code added, as it was missing: pipeline_pcw.py, custom_generate/generation_pcw.py" in said
    assert f"note: code replaced by that of hf_puzzle {__version__}: store_pcw.py" in said
    for name in ("pipeline_pcw.py", "store_pcw.py", "custom_generate/generation_pcw.py"):
        assert server.files(repo)[name] == (hub.REMOTE / Path(name).name).read_bytes()


def test_code_of_others_is_kept(server, folder, repo):
    """NVIDIA's repositories have a modeling_decilm.py too."""
    (folder / "puzzle.json").unlink()
    (folder / "modeling_decilm.py").write_text("class DeciLMForCausalLM: ...\n")
    publish(folder, repo)
    assert server.files(repo)["modeling_decilm.py"] == b"class DeciLMForCausalLM: ...\n"


def test_custom_generate_beside_a_model_of_others_touches_its_code_not(folder):
    (folder / "modeling_decilm.py").write_text("class DeciLMForCausalLM: ...\n")
    write_custom_generate(folder)
    assert (folder / "modeling_decilm.py").read_text() == "class DeciLMForCausalLM: ...\n"


def test_leftovers_stay_here(server, folder, repo):
    for name in ("optimizer.pt", "checkpoint-10/model.safetensors", ".env", ".git/config", "__pycache__/x.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert "note: left out: checkpoint-10/, optimizer.pt" in lines(folder, repo)
    assert not {"optimizer.pt", "checkpoint-10/model.safetensors", ".env", ".git/config"} & set(server.files(repo))


def break_index(folder):
    child(DECILM).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    (folder / "model-00002-of-00003.safetensors").unlink(missing_ok=True)
    next(folder.glob("model-00002-of-*"), folder / "none").unlink(missing_ok=True)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def mislabel(folder):
    own_head(child(DECILM)).save_pretrained(folder)


def stale_shards(folder):
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    artifacts.write_json(folder / "model.safetensors.index.json", index)


def edit(name, **values):
    def apply(folder):
        artifacts.write_json(folder / name, artifacts.read_json(folder / name) | values)

    return apply


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "config.json").unlink(), r"no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), r"missing or broken: weights \(model.safetensors, or"),
        (break_index, r"model-00002-of-\d+.safetensors \(named by model.safetensors.index.json\)"),
        (cut, "model.safetensors is cut off or no safetensors file"),
        (write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "no safetensors file"),
        (edit("config.json", auto_map={"AutoModel": "mine.Model"}), r"mine.py \(named by auto_map\)"),
        (edit("config.json", custom_pipelines={"x": {"impl": "my.Pipe"}}), r"my.py \(named by custom_pipelines\)"),
        (edit("config.json", auto_map={"AutoModel": "../../x.Model"}), "expected `module.Class`"),
        (edit("config.json", auto_map=["x"]), "not as transformers writes it"),
        (write("config.json", "[]"), "not as transformers writes it"),
        (write("config.json", "{"), "not valid JSON"),
        (write("modeling_decilm.py", "from .gone import x\n"), r"gone.py \(named by modeling_decilm.py\)"),
        (lambda f: (f / "more.txt").symlink_to(f / "none"), "link to nothing"),
        (mislabel, "true, and the weights have a head of their own: .*--target transformers` rewrites it"),
        (stale_shards, "one is left over from an earlier save"),
        (write("notes.md", "token: hf_" + "a" * 34), "notes.md holds a Hub token"),
    ],
)
def test_what_is_missing_or_broken_is_named(folder, server, spoil, message):
    (folder / "puzzle.json").unlink()
    spoil(folder)
    start = len(server.requests)
    with pytest.raises(ValueError, match=message):
        publish(folder, "me/broken")
    assert len(server.requests) == start


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "mrkl_data/wiki.jsonl").unlink(), r"mrkl_data/wiki.jsonl \(named by mrkl.json\)"),
        (write("mrkl_data/wiki.jsonl", "[]"), r"mrkl_data/wiki.jsonl changed since"),
        (edit("mrkl.json", mrkl_version=0), "mrkl.json is not of version 2"),
    ],
)
def test_pipelines_that_would_not_open_are_refused(folders, tmp_path, spoil, message):
    folder = Path(shutil.copytree(folders / "mrkl", tmp_path / "mrkl"))
    spoil(folder)
    with pytest.raises(PublishError, match=message):
        publish(folder, "me/x", dry_run=True)


def test_experts_of_an_older_hf_puzzle_are_not_given_newer_code(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "mrkl", tmp_path / "mrkl"))
    settings = artifacts.read_json(folder / "mrkl.json")
    settings["experts"][0]["hash"] = "another"
    artifacts.write_json(folder / "mrkl.json", settings)
    (folder / "exact_mrkl.py").write_text("old = True\n")
    with pytest.raises(PublishError, match="expert 'calculator' was saved by another hf_puzzle"):
        publish(folder, "me/x", dry_run=True)


def test_a_folder_without_tokenizer_is_published_with_a_note(folders, tmp_path):
    hub.write_model_folder(tmp_path / "bare", child())
    assert any("no tokenizer" in line for line in lines(tmp_path / "bare", "me/bare", dry_run=True))


@pytest.mark.parametrize(
    "name", ["child", "a/b/c", "me/", "/x", "me/-x", "me/a--b", "me/a..b", "me/x.git", "me/a b", "me/" + "x" * 97, ""]
)
def test_names_that_are_not_valid_are_refused_before_anything(name, tmp_path):
    with pytest.raises(PublishError, match="expected user/repo of letters"):
        publish(tmp_path / "missing", name)
    with pytest.raises(PublishError, match="expected user/repo of letters"):
        publish(tmp_path / "missing", "me/x", code_repo=name)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"license": "MIT License"}, "is no id of the Hub"),
        ({"code_repo": "me/x"}, "is the model's own repository"),
    ],
)
def test_options_that_cannot_be_are_refused(folder, options, message):
    with pytest.raises(PublishError, match=message):
        publish(folder, "me/x", **options)


def test_code_that_is_not_ours_cannot_be_shared(folders):
    with pytest.raises(PublishError, match="names no modelling code of hf_puzzle"):
        publish(folders / "pcw", "me/x", code_repo="me/code", dry_run=True)


# -- a Hub that falters


def test_a_dry_run_lists_all_files_and_needs_no_hub(folders, monkeypatch, server):
    monkeypatch.delenv("HF_TOKEN")
    start = len(server.requests)
    said = lines(folders / "mrkl", "me/dry", dry_run=True)
    assert len(server.requests) == start
    listed = {line.split(maxsplit=2)[2] for line in said if line.startswith(" ")}
    assert {str(p.relative_to(folders / "mrkl")) for p in (folders / "mrkl").rglob("*") if p.is_file()} <= listed
    assert {"README.md", "model.safetensors", "custom_generate/generate.py"} <= listed
    assert said[-1].endswith("Nothing was sent.")
    assert ("model", "me/dry") not in server.repos


@pytest.mark.parametrize(
    "status, path",
    [
        (429, "/lfs/"),
        (503, "/lfs/"),
        (500, "/commit/"),
        (429, "/api/repos/create"),
        (502, "/preupload/"),
        (500, "/tree/"),
    ],
)
def test_a_hub_that_falters_is_asked_again(server, folder, repo, status, path):
    server.fail_next(status, 2, path)
    start = len(server.requests)
    publish(folder, repo)
    assert "model.safetensors" in server.files(repo)
    assert sum(path in each for each in server.requests[start:]) >= 3
    assert len(server.repos[("model", repo)].messages) == 2  # made, and one commit


def test_a_hub_that_says_when_is_asked_then(server, folder, repo, hub_settings):
    server.fail_next(429, 1, "/commit/", retry_after=17)
    assert "the Hub answers 429 injected 429: trying again in 17 s" in lines(folder, repo)
    assert hub_settings == [17.0]
    (folder / "more.txt").write_text("more")
    server.fail_next(429, 1, "/commit/", retry_after=4000)
    with pytest.raises(HubError, match="asks to wait 4000 s"):
        publish(folder, repo)


def test_a_hub_that_stays_down_is_one_clear_error_and_the_same_command_goes_on(server, folder, repo):
    before = content(folder)
    server.fail_next(500, 1000, "/commit/")
    with pytest.raises(
        HubError, match=f"{repo} is not published: the Hub answers 500 .* same command goes on"
    ) as caught:
        publish(folder, repo)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(folder) == before
    assert set(server.files(repo)) == {".gitattributes"}
    server.heal()
    start = len(server.requests)
    publish(folder, repo)
    assert "model.safetensors" in server.files(repo)
    assert not [each for each in server.requests[start:] if each.startswith("PUT")]  # the weights were there already


def test_an_upload_that_is_cut_is_sent_again(server, folder, repo):
    server.drop_after(1000)
    start = len(server.requests)
    publish(folder, repo)
    assert server.files(repo)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert sum(each.startswith("PUT") for each in server.requests[start:]) == 2


def test_uploads_that_are_always_cut_end_clearly_and_a_rerun_completes(server, folder, repo):
    for _ in range(100):
        server.drop_after(1000)
    with pytest.raises(HubError, match="no connection to the Hub .* goes on from here"):
        publish(folder, repo)
    server.heal()
    publish(folder, repo)
    assert server.files(repo)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_an_answer_that_is_lost_makes_no_second_commit(server, folder, repo, monkeypatch):
    create_commit, calls = HfApi.create_commit, []

    def lose(self, *args, **kwargs):
        commit = create_commit(self, *args, **kwargs)
        calls.append(commit)
        if len(calls) == 1:
            raise RuntimeError("lost") from ConnectTimeout("lost")
        return commit

    from httpx2 import ConnectTimeout

    monkeypatch.setattr(HfApi, "create_commit", lose)
    assert lines(folder, repo)[-1].startswith("nothing to do")
    assert len(calls) == 1


def test_a_commit_of_somebody_else_meanwhile_is_compared_again(server, folder, repo):
    publish(folder, repo)
    (folder / "more.txt").write_text("more")
    server.fail_next(412, 1, "/commit/")
    assert "412" in "".join(lines(folder, repo))
    assert server.files(repo)["more.txt"] == b"more"


def test_a_hub_that_is_not_there(folder, monkeypatch, hub_settings):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"no connection to the Hub \(ConnectError.*, 4 tries; .* is unchanged"):
        publish(folder, "me/x")
    assert len(hub_settings) == 3


def test_errors_of_our_own_are_not_called_the_hubs(folder, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("ours")

    monkeypatch.setattr(HfApi, "model_info", broken)
    with pytest.raises(KeyError, match="ours"):
        publish(folder, "me/x")


def test_permissions_are_said(server, folder, repo, monkeypatch):
    with pytest.raises(HubError, match="may not write to you/child .403.: take one with write access to you"):
        publish(folder, "you/child")
    publish(folder, repo)
    (folder / "more.txt").write_text("more")
    monkeypatch.setenv("HF_TOKEN", server.read_token)
    with pytest.raises(HubError, match=f"may not write to {repo}"):
        publish(folder, repo)
    with pytest.raises(HubError, match=f"may not write to {repo}-new"):
        publish(folder, f"{repo}-new")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="does not accept this token"):
        publish(folder, repo)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "none"))
    with pytest.raises(HubError, match="there is no Hub token"):
        publish(folder, repo)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        publish(folder, repo)


def test_a_full_disk_is_said(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = content(folder)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(PublishError, match="no space for the copy .* is unchanged"):
        publish(folder, "me/x")
    assert content(folder) == before


PUBLISH_LOUDLY = """
import sys, time
time.sleep = lambda seconds: None
from hf_puzzle.cli import main
folder, repo = sys.argv[1:]
assert main(["--verbose", "publish", folder, repo]) == 0
main(["--verbose", "publish", folder, "you/x"])
"""


def test_the_token_and_signatures_are_nowhere(server, folder, repo):
    """With all messages on, in a shell of its own, while the Hub falters."""
    server.fail_next(500, 3, f"/lfs/{artifacts.file_sha256(folder / 'model.safetensors')}")
    server.fail_next(429, 1, "/commit/")
    run = subprocess.run(
        [sys.executable, "-c", PUBLISH_LOUDLY, str(folder), repo],
        env=server.environment(OMP_NUM_THREADS="1", HF_HUB_VERBOSITY="debug"), capture_output=True, text=True,
    )  # fmt: skip
    said = run.stdout + run.stderr
    assert "published, public" in run.stdout
    assert "trying again" in run.stdout
    assert "thrown while requesting PUT" in run.stderr  # what the client itself logs is let through
    assert "write access to you" in run.stderr  # a traceback
    stored = b"".join(server.files(repo).values()) + b"".join(each for each, _ in content(folder).values())
    for secret in (server.token, server.upload_key):
        assert secret not in said
        assert secret.encode() not in stored


def test_the_redaction_itself(caplog):
    with publishing._without_secrets("hf_secret"), caplog.at_level(logging.WARNING):
        logging.getLogger("huggingface_hub.first_used_later").warning("%s at http://h/x?sig=abc&b=1", "hf_secret")
        assert caplog.messages == ["hf_*** at http://h/x?***"]


def test_the_command_line(server, folder, repo, capsys):
    assert main(["publish", str(folder), repo, "--private", "--revision-message", "Hello", "--license", "mit"]) == 0
    assert "published, private" in capsys.readouterr().out
    assert server.repos["model", repo].messages[-1] == "Hello"
    assert b"license: mit" in server.files(repo)["README.md"]
    assert main(["publish", str(folder), "no name"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-puzzle: 'no name' is no name of a repository")
    assert error.count("\n") == 1
