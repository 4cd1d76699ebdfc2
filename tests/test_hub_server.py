"""The client of huggingface_hub, and transformers on top of it, against the local Hub over HTTP."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import family_child
from hub_server import LocalHub
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_puzzle import hub
from hf_puzzle.blocks import Block


@pytest.fixture(scope="module")
def server():
    with LocalHub() as running:
        yield running


@pytest.fixture(autouse=True)
def no_xet(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def api(server):
    return HfApi(endpoint=server.endpoint, token=server.token)


@pytest.fixture
def repo(api, request):
    """A new, empty model repository, named after the test."""
    name = f"me/{request.node.name.replace('[', '-').replace(']', '')}"
    api.create_repo(name)
    return name


@pytest.fixture
def folder(tmp_path):
    """A file of every way to be uploaded: small, LFS, in a folder, empty."""
    files = {
        "config.json": b"{}",
        "model.safetensors": bytes(range(256)) * 20,
        "deep/er/a b.txt": b"text",
        "none": b"",
    }
    for path, content in files.items():
        (tmp_path / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / path).write_bytes(content)
    return tmp_path / "up", files


def content_of(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".cache" not in p.parts
    }


def without_attributes(files):
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def test_who_is_asking(api, server):
    assert api.whoami()["name"] == "me"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=server.endpoint, token="hf_wrong").whoami()


@pytest.mark.parametrize("repo_type, prefix", [("model", ""), ("dataset", "datasets/"), ("space", "spaces/")])
def test_a_folder_comes_back_as_it_was(api, server, folder, tmp_path, repo_type, prefix):
    path, files = folder
    sdk = {"space_sdk": "static"} if repo_type == "space" else {}
    url = api.create_repo("me/folder", repo_type=repo_type, **sdk)
    assert url == f"{server.endpoint}/{prefix}me/folder"
    commit = api.upload_folder(repo_id="me/folder", folder_path=path, repo_type=repo_type)
    assert without_attributes(server.files("me/folder", repo_type)) == files
    assert api.repo_info("me/folder", repo_type=repo_type).sha == commit.oid
    down = api.snapshot_download("me/folder", repo_type=repo_type, cache_dir=tmp_path / "cache", max_workers=1)
    assert without_attributes(content_of(tmp_path / "cache" / down)) == files
    assert set(api.list_repo_files("me/folder", repo_type=repo_type)) == {*files, ".gitattributes"}


def test_a_repository_exists_once(api, repo):
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(repo)
    assert api.create_repo(repo, exist_ok=True).repo_id == repo


def test_commits_keep_history(api, repo, server):
    first = api.upload_file(path_or_fileobj=b"one", path_in_repo="file.txt", repo_id=repo)
    second = api.upload_file(path_or_fileobj=b"two", path_in_repo="file.txt", repo_id=repo)
    api.upload_file(path_or_fileobj=b"1234", path_in_repo="sub/x.bin", repo_id=repo)
    assert len({first.oid, second.oid}) == 2
    assert server.files(repo, revision=first.oid)["file.txt"] == b"one"
    assert api.model_info(repo, revision=first.oid).sha == first.oid
    assert server.files(repo)["file.txt"] == b"two"
    with pytest.raises(HfHubHTTPError, match="412"):
        api.delete_file("file.txt", repo, parent_commit=first.oid)
    api.delete_file("file.txt", repo)
    api.delete_folder("sub", repo)
    assert without_attributes(server.files(repo)) == {}


def test_an_unchanged_file_makes_no_commit(api, repo):
    first = api.upload_file(path_or_fileobj=b"one", path_in_repo="a.bin", repo_id=repo)
    assert api.upload_file(path_or_fileobj=b"one", path_in_repo="a.bin", repo_id=repo).oid == first.oid


def test_tree_and_paths(api, repo, folder):
    api.upload_folder(repo_id=repo, folder_path=folder[0])
    assert {e.path for e in api.list_repo_tree(repo)} == {
        ".gitattributes",
        "config.json",
        "model.safetensors",
        "none",
        "deep",
    }
    assert {e.path for e in api.list_repo_tree(repo, "deep", recursive=True)} == {"deep/er", "deep/er/a b.txt"}
    weights, deep = api.get_paths_info(repo, ["model.safetensors", "missing", "deep"])
    assert (weights.size, weights.lfs.size, deep.path) == (5120, 5120, "deep")


def test_what_is_missing_has_its_own_error(api, repo, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/missing")
    with pytest.raises(RepositoryNotFoundError):
        api.upload_file(path_or_fileobj=b"", path_in_repo="x", repo_id="me/missing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(repo, revision="v2")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(repo, "missing.txt", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "missing"))


def test_private_repositories_and_writes_need_the_token(api, server, repo, tmp_path):
    anonymous = HfApi(endpoint=server.endpoint, token=False)
    assert anonymous.model_info(repo).id == repo
    with pytest.raises(HfHubHTTPError, match="403"):
        anonymous.upload_file(path_or_fileobj=b"", path_in_repo="x", repo_id=repo)
    with pytest.raises(HfHubHTTPError, match="401"):
        anonymous.create_repo("me/anonymous")
    api.create_repo("me/private", private=True)
    api.upload_file(path_or_fileobj=b"secret", path_in_repo="x", repo_id="me/private")
    assert api.model_info("me/private").private
    with pytest.raises(RepositoryNotFoundError):
        anonymous.hf_hub_download("me/private", "x", cache_dir=tmp_path)


def test_cards_are_validated(api, repo):
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n# x\n", path_in_repo="README.md", repo_id=repo)
    with pytest.raises((ValueError, BadRequestError), match="README"):
        api.upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id=repo)


@pytest.mark.parametrize("status", [429, 500])
def test_a_transient_failure_is_retried(api, server, repo, status):
    server.fail_next(status, 2, path="/lfs/")
    api.upload_file(path_or_fileobj=b"content", path_in_repo="x.bin", repo_id=repo)
    assert server.files(repo)["x.bin"] == b"content"


def test_a_cut_upload_is_sent_again_and_a_cut_download_resumed(api, server, repo, tmp_path):
    content = bytes(range(256)) * 4096 * 8
    (tmp_path / "x.bin").write_bytes(content)
    server.drop_after(1000)
    api.upload_file(path_or_fileobj=tmp_path / "x.bin", path_in_repo="x.bin", repo_id=repo)
    assert server.files(repo)["x.bin"] == content
    server.drop_after(len(content) // 2, method="GET")
    start = len(server.requests)
    down = api.hf_hub_download(repo, "x.bin", cache_dir=tmp_path / "cache")
    assert Path(down).read_bytes() == content
    assert [r.split()[0] for r in server.requests[start:]] == ["HEAD", "GET", "GET"]


PUSH_AND_OPEN = """
import json, sys
sys.modules["hf_puzzle"] = None
import torch
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).push_to_hub(sys.argv[2], private=True)
model = AutoModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True)
print(json.dumps([type(model).__name__, model(torch.tensor([[5, 6, 7]])).logits.tolist()]))
"""


def test_a_child_is_pushed_and_opened_where_hf_puzzle_is_not_installed(server, tmp_path):
    model = family_child("qwen3", [Block("none", 64), Block(2, 32), Block(4, 64)])
    folder = hub.write_model_folder(tmp_path / "child", model)
    run = subprocess.run(
        [sys.executable, "-c", PUSH_AND_OPEN, folder, "me/child"],
        env=server.environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = server.files("me/child")
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= set(files)
    assert files["modeling_puzzle.py"] == (folder / "modeling_puzzle.py").read_bytes()
    name, logits = json.loads(run.stdout)
    assert name == "PuzzleQwen3ForCausalLM"
    assert torch.equal(torch.tensor(logits), model(torch.tensor([[5, 6, 7]])).logits)
