"""`hf-puzzle publish`: a run or a folder goes to the Hub in one commit, with its code and card; nothing is changed here.

A copy is completed and checked, compared with the repository, and only what differs is sent: the same command, run
again after any failure, continues.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from . import __version__, artifacts, cards, hub
from .engines.check import wrong_tie
from .pcw.publish import write_custom_generate
from .remote import pipeline_mrkl, pipeline_pcw


logger = logging.getLogger(__name__)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_FILE = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# pickles run code when they are opened; the rest is what training leaves
LEFT_OUT = {".bin", ".ckpt", ".lock", ".pkl", ".pt", ".pth", ".pyc", ".tmp"}
HIDDEN_KEPT = {".eval_results"}
LINKED_FROM = 10 * 2**20  # bytes; smaller files are copied, as the card may write over them
HUB_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
TRIES = 4
FIRST_WAIT, LONGEST_WAIT = 2.0, 300.0  # seconds
AGAIN = {408, 412, 429, 500, 502, 503, 504}  # 412: the repository changed since it was compared
CODE_CARD = f"""---
library_name: transformers
license: apache-2.0
tags:
- hf_puzzle
---
{cards.MADE_HERE}

# Modelling code of children made with hf_puzzle

The config.json of a child names this repository in its `auto_map`: many children share one copy of their code.
`AutoModelForCausalLM.from_pretrained(child, trust_remote_code=True)` fetches it; nothing has to be installed.
"""


class PublishError(ValueError):
    """What was asked for cannot be published; the message says what to change."""


class HubError(RuntimeError):
    """The Hub refused or could not be reached; what is here is unchanged."""


@dataclass
class Upload:
    """One commit: files by their path in `repo_id`, and what there is to say about them."""

    repo_id: str
    files: dict[str, Path]
    notes: list[str] = field(default_factory=list)


def publish(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
    code_repo: str | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = logger.info,
    api: HfApi | None = None,
) -> None:
    """Publish a run's model, or a folder of a model, a pipeline or a `custom_generate`.

    Args:
        folder: is read only.
        private: of a repository that is made; one that exists and is public is refused.
        license: Hub id of a licence; default: the parent's.
        message: of the commit.
        code_repo: repository that gets the modelling code, which config.json then names there.
        dry_run: say what would be sent; no token and no network is used.
        say: gets every line for the user.

    Raises:
        PublishError: a name, licence or folder that cannot be published; missing files are named.
        HubError: no permission, or no Hub after a few tries.
    """
    folder = Path(folder)
    for name in (repo_id, code_repo):
        check_name(name)
    if repo_id == code_repo:
        raise PublishError(f"--code-repo {code_repo} is the model's own repository: leave it out")
    with staged(folder, repo_id, license, code_repo, online=not dry_run) as uploads:
        for upload in uploads:
            for note in upload.notes:
                say(f"note: {note}")
            if dry_run:
                _describe(upload, say)
        if dry_run:
            return
        token = _token(api)
        with _without_secrets(token):
            for upload in uploads:
                text = message or f"Publish with hf_puzzle {__version__}"
                # code that many models share may be public
                own = private and upload.repo_id == repo_id
                _push(api or HfApi(), upload, own, text, folder, say)


def check_name(repo_id: str | None) -> None:
    """Raises PublishError, with the rule, for what is no `user/repo`."""
    if repo_id is None:
        return
    with contextlib.suppress(HFValidationError):
        validate_repo_id(repo_id)
        if re.fullmatch(r"[^/]+/[^/]+", repo_id):
            return
    raise PublishError(
        f"{repo_id!r} is no name of a repository: expected user/repo of letters, digits, '-', '_' and '.', at most 96, "
        "not starting or ending with '-' or '.', without '--' and '..', not ending in .git"
    )


# -- what is sent


@contextlib.contextmanager
def staged(
    folder: Path, repo_id: str, license: str | None, code_repo: str | None, online: bool = True
) -> Iterator[list[Upload]]:
    """The commits that publish `folder`, from a copy that is removed afterwards; large files are linked, not copied."""
    model, source = find_model(folder)
    beside = model.resolve().parent  # links need the same file system
    try:
        with tempfile.TemporaryDirectory(
            prefix=".publish_", dir=beside if os.access(beside, os.W_OK) else None
        ) as made:
            staging, shared = Path(made, "model"), Path(made, "code")
            staging.mkdir()
            try:
                notes = _copy(model, staging)
                if source != model and (source / "pcw.json").exists() and model.name == "model":
                    _add_pcw(staging)
                notes += complete(staging)
                notes += cards.write_card(staging, source, repo_id, license, online, code_repo)
                uploads = []
                if code_repo is not None:
                    shared.mkdir()
                    share_code(staging, shared, code_repo)
                    uploads.append(Upload(code_repo, _files(shared)))
                uploads.append(Upload(repo_id, _files(staging), notes))
                for upload in uploads:
                    _refuse_secrets(upload.files)
            except ValueError as error:
                # the user has never seen the copy
                raise PublishError(str(error).replace(str(staging), str(model))) from None
            yield uploads
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise PublishError(
            f"no space for the copy that is sent (beside {folder}, or in {tempfile.gettempdir()}): free some; "
            f"{folder} is unchanged"
        ) from None


def find_model(folder: Path) -> tuple[Path, Path]:
    """(folder to publish, folder of the JSON files that were measured with it) of a run, or of a folder itself."""
    if not folder.is_dir():
        raise PublishError(f"{folder} is no folder: give a run, or a folder of a model or pipeline")
    run = folder.resolve().parent
    if (folder / "config.json").exists() or (folder / "custom_generate").is_dir():
        of_run = folder.resolve().name in cards.MODELS_OF_RUNS and (run / "manifest.json").exists()
        return folder, run if of_run else folder
    if not (folder / "manifest.json").exists():
        raise PublishError(f"{folder} holds no config.json, no custom_generate/ and no run (manifest.json)")
    stages = artifacts.Manifest(folder).stages
    for name, stage, marks in (
        ("distilled", "distill", {"importance", "library", "solve"}),
        ("pipeline", "ask", {"adapters", "ask"}),
        ("model", "report", {"model", "report"}),
    ):
        if not marks & set(stages):
            continue
        if "finished" not in stages.get(stage, {}):
            raise PublishError(f"{folder} has not finished its stage {stage}: `hf-puzzle run` with its recipe goes on")
        if not (folder / name / "config.json").exists():
            raise PublishError(
                f"{folder} holds no model of its own ({name}/config.json): save a pipeline with save_pretrained(FOLDER) "
                "and publish that folder"
            )
        return folder / name, folder
    raise PublishError(f"{folder} is a run that has made no model yet: `hf-puzzle run` with its recipe goes on")


def _copy(source: Path, target: Path) -> list[str]:
    """Copy what belongs to a model, large files as links; notes on what is left out."""
    left = []
    for root, folders, names in os.walk(source):
        inside = Path(root).relative_to(source)
        for name in sorted(folders):
            is_hidden = name.startswith(".") and name not in HIDDEN_KEPT
            if is_hidden or name == "__pycache__" or re.fullmatch(r"checkpoint-\d+", name):
                folders.remove(name)
                left += [] if is_hidden or name == "__pycache__" else [f"{inside / name}/"]
            elif Path(root, name).is_symlink():
                left.append(f"{inside / name}/")  # os.walk does not follow it
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith("."):
                continue
            if path.suffix in LEFT_OUT:
                left.append(str(inside / name))
                continue
            if not path.is_file():
                raise PublishError(f"{path} is a link to nothing, or no file: remove it, or put the file there")
            artifacts.inside(source, (inside / name).as_posix())  # what a link leads to may be private
            (target / inside).mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors" or path.stat().st_size >= LINKED_FROM:
                with contextlib.suppress(OSError):  # another file system: copied below
                    os.link(path.resolve(), target / inside / name)
                    continue
            shutil.copyfile(path, target / inside / name)
    return [f"left out: {', '.join(left)}"] if left else []


def _add_pcw(staging: Path) -> None:
    """Make the model of a PCW run what such a run is about: pipelines and `generate` over parallel windows."""
    config = artifacts.read_json(staging / "config.json")
    artifacts.write_json(staging / "config.json", config | {"custom_pipelines": pipeline_pcw.CUSTOM_PIPELINES})
    write_custom_generate(staging)
    artifacts.remove(staging / "README.md")


def complete(staging: Path) -> list[str]:
    """Add code that is missing or of another hf_puzzle, and check that all is there; notes on what changed.

    Raises:
        PublishError: names every file that is missing or broken.
    """
    # another author's modelling code may have the name of ours: only a child of ours gets it replaced
    is_ours = any((staging / name).exists() for name in ("puzzle.json", "pcw.json", "mrkl.json"))
    before = set(_files(staging))
    written, missing = hub.write_code(staging, replace=is_ours or not (staging / "config.json").exists())
    problems = [*missing, *_weight_problems(staging), *_settings_problems(staging)]
    if written and not problems and (staging / pipeline_mrkl.SETTINGS_FILE).exists():
        problems = _expert_problems(staging)
    if problems:
        raise PublishError("missing or broken: " + "; ".join(problems))
    notes = []
    for what, names in (
        ("added, as it was missing", [name for name in written if name not in before]),
        (f"replaced by that of hf_puzzle {__version__}", [name for name in written if name in before]),
    ):
        if names:
            notes.append(f"code {what}: {', '.join(names)}")
    if (staging / "config.json").exists() and not any((staging / name).exists() for name in TOKENIZERS):
        notes.append("no tokenizer: users need that of the parent (tokenizer.save_pretrained(FOLDER) puts one there)")
    return notes


def _weight_problems(staging: Path) -> list[str]:
    if not (staging / "config.json").exists():
        return [] if (staging / hub.GENERATE).exists() else ["config.json", hub.GENERATE]
    if (staging / WEIGHTS).exists():
        shards = {WEIGHTS: None}
    elif (staging / INDEX).exists():
        index = artifacts.read_json(staging / INDEX)
        if not (isinstance(index, dict) and isinstance(index.get("weight_map"), dict)):
            return [f"{INDEX} has no weight_map"]
        shards: dict[str, set | None] = {}
        for tensor, name in index["weight_map"].items():
            shards.setdefault(str(name), set()).add(tensor)
    else:
        return [f"weights ({WEIGHTS}, or {INDEX} and its shards; pickled ones are not published)"]
    problems = []
    for name, tensors in sorted(shards.items()):
        try:
            with safe_open(staging / name, framework="pt") as file:
                lost = sorted((tensors or set()) - set(file.keys()))
        except FileNotFoundError:
            problems.append(f"{name} (named by {INDEX})")
        except SafetensorError as error:
            problems.append(f"{name} is cut off or no safetensors file ({error})")
        else:
            if lost:
                problems.append(f"{name} lacks {lost[0]}" + (f" and {len(lost) - 1} more" if lost[1:] else ""))
    if not problems and (reason := wrong_tie(staging)) is not None:
        problems = [f"{reason}: engines may lose it; `hf-puzzle export FOLDER --target transformers` rewrites it"]
    return problems


def _settings_problems(staging: Path) -> list[str]:
    """What would stop the pipelines of this hf_puzzle from opening the settings that lie beside the model."""
    problems = []
    for module in (pipeline_pcw, pipeline_mrkl):
        name, key = module.SETTINGS_FILE, f"{module.SETTINGS_FILE.removesuffix('.json')}_version"
        if not (staging / name).exists():
            continue
        settings = artifacts.read_json(staging / name)
        if settings.get(key) != module.SETTINGS_VERSION:
            problems.append(f"{name} is not of version {module.SETTINGS_VERSION}: save the pipeline again")
            continue
        for each, digest in settings.get("files", {}).items():
            path = staging / each
            if not path.is_file():
                problems.append(f"{each} (named by {name})")
            elif artifacts.file_sha256(path) != digest:
                problems.append(f"{each} changed since the pipeline was saved: save it again")
    return problems


def _expert_problems(staging: Path) -> list[str]:
    """Experts that the code of this hf_puzzle does not make as they were saved."""
    settings, problems = artifacts.read_json(staging / pipeline_mrkl.SETTINGS_FILE), []
    files = {name: staging / name for name in settings["files"]}
    for entry in settings["experts"]:
        if entry["kind"] not in pipeline_mrkl.BUILDERS:
            continue
        expert = pipeline_mrkl.BUILDERS[entry["kind"]][1](entry["options"], files, settings["today"])
        expert.name = entry["name"]
        if expert.hash != entry["hash"]:
            problems.append(f"expert {entry['name']!r} was saved by another hf_puzzle: save the pipeline again")
    return problems


def share_code(staging: Path, shared: Path, code_repo: str) -> None:
    """Move the modelling code from `staging` to `shared`, and let config.json name it there."""
    config = artifacts.read_json(staging / "config.json") if (staging / "config.json").exists() else {}
    auto_map = config.get("auto_map") or {}
    references = {name: str(value).split("--")[-1] for name, value in auto_map.items()}
    modules = {f"{value.split('.')[0]}.py" for value in references.values()}
    if not references or not all((hub.REMOTE / name).exists() for name in modules):
        raise PublishError("--code-repo: config.json names no modelling code of hf_puzzle that could be shared")
    written, _ = hub.write_code(shared, dict.fromkeys(sorted(modules), "auto_map"))
    artifacts.write_text(shared / "README.md", CODE_CARD)
    for name in written:
        (staging / name).unlink(missing_ok=True)
    config["auto_map"] = {name: f"{code_repo}--{value}" for name, value in references.items()}
    artifacts.write_json(staging / "config.json", config)


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _refuse_secrets(files: dict[str, Path]) -> None:
    token = (get_token() or "").encode()
    for name, path in files.items():
        if path.stat().st_size >= LINKED_FROM or path.suffix == ".safetensors":
            continue
        content = path.read_bytes()
        if HUB_TOKEN.search(content) or (token and token in content):
            raise PublishError(f"{name} holds a Hub token: take it out, and revoke it if others may have seen it")


def _describe(upload: Upload, say: Callable[[str], None]) -> None:
    sizes = {name: path.stat().st_size for name, path in upload.files.items()}
    say(f"would be sent to {upload.repo_id}:")
    for name, size in sizes.items():
        say(f"{_size(size):>10}  {name}")
    rest = sum(size for name, size in sizes.items() if not name.endswith(".safetensors"))
    say(f"{len(sizes)} files, {_size(sum(sizes.values()))}; {_size(rest)} without weights. Nothing was sent.")


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000


# -- sending


def _token(api: HfApi | None) -> str:
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set: unset it to publish; --dry-run needs no Hub")
    token = api.token if api is not None and api.token else get_token()
    if not token:
        raise HubError("there is no Hub token: `hf auth login`, or set HF_TOKEN, with one that may write")
    return token


def _push(api: HfApi, upload: Upload, private: bool, message: str, folder: Path, say: Callable[[str], None]) -> None:
    """Make the repository hold the files of `upload`: compare, then commit what differs; repeated if the Hub falters."""
    repo_id, wait = upload.repo_id, FIRST_WAIT
    for number in range(1, TRIES + 1):
        try:
            return say(_push_once(api, upload, private, message))
        except ValueError as error:  # a card that the Hub does not take, say
            raise PublishError(" ".join(str(error).split())) from None
        except Exception as error:
            response, reason = _answer(error), _reason(error)
            if type(error).__name__.startswith("XetAuthentication"):
                raise HubError(f"this token may not upload to {repo_id}: take one with write access") from None
            if reason is None:
                raise
        status = None if response is None else response.status_code
        if status == 401:
            raise HubError(
                "the Hub does not accept this token (401): `hf auth login`, or set HF_TOKEN, with one that may write"
            )
        if status in (403, 404):
            owner = repo_id.split("/")[0]
            raise HubError(f"this token may not write to {repo_id} ({status}): take one with write access to {owner}")
        if status is not None and status not in AGAIN:
            raise HubError(f"the Hub refused {repo_id}: {reason}; {folder} is unchanged")
        pause = 0.0 if status == 412 else _retry_after(response) or wait
        if number == TRIES or pause > LONGEST_WAIT:
            asks = f", and asks to wait {pause:.0f} s" if pause > LONGEST_WAIT else ""
            raise HubError(
                f"{repo_id} is not published: {reason}, {number} tries{asks}; {folder} is unchanged, and the same "
                "command goes on from here"
            )
        say(f"{reason}: trying again in {pause:.0f} s")
        time.sleep(pause)
        wait *= 2


def _push_once(api: HfApi, upload: Upload, private: bool, message: str) -> str:
    repo_id = upload.repo_id
    url = f"{api.endpoint}/{repo_id}"
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        info = api.model_info(repo_id)
    if private and not info.private:
        raise PublishError(
            f"{repo_id} exists and is public: --private is for a repository that is made; change its visibility on the "
            "Hub first, or take another name"
        )
    tree = api.list_repo_tree(repo_id, recursive=True, revision=info.sha)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    changed = [name for name, path in upload.files.items() if not _same(path, there.get(name))]
    kept = "README.md" in changed and _is_by_hand(api, upload, there.get("README.md"), info.sha)
    if kept:
        changed.remove("README.md")
    # weights in other shards would be found before, or beside, the new ones
    has_weights = any(WEIGHT_FILE.fullmatch(name) for name in upload.files)
    stale = [name for name in there if has_weights and WEIGHT_FILE.fullmatch(name) and name not in upload.files]
    if not kept:  # numbers that the new card does not have any more
        measured = [name for name in there if name == cards.TASKS or name.startswith(".eval_results/")]
        stale += [name for name in measured if name not in upload.files and "puzzle.json" in there]
    card = "; the README.md there was written by hand and stays" if kept else ""
    if not changed and not stale:
        return f"nothing to do: {url} holds these {len(upload.files)} files{card}"
    operations = [CommitOperationAdd(name, upload.files[name]) for name in changed]
    operations += [CommitOperationDelete(name) for name in stale]
    commit = api.create_commit(repo_id, operations, commit_message=message, parent_commit=info.sha)
    gone = f", {len(stale)} old files of weights or measurements removed" if stale else ""
    kind = "private" if info.private else "public"
    sent = f"{len(changed)} of {len(upload.files)} files sent{gone}"
    return f"published, {kind}: {url} ({sent}, commit {commit.oid[:8]}){card}"


def _same(path: Path, entry: RepoFile | None) -> bool:
    """Whether the Hub's file is this one, by size and hash."""
    if entry is None or path.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        return artifacts.file_sha256(path) == entry.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry.blob_id


def _is_by_hand(api: HfApi, upload: Upload, there: RepoFile | None, revision: str) -> bool:
    """Whether somebody wrote the Hub's card, which a rendered one must not replace; one of metadata alone may go."""
    if there is None or cards.MADE_HERE not in upload.files["README.md"].read_text(encoding="utf-8"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(upload.repo_id, "README.md", revision=revision, local_dir=folder)
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    return cards.MADE_HERE not in text and bool(ModelCard(text, ignore_metadata_errors=True).text.strip())


def _answer(error: BaseException | None):
    """The Hub's response behind an error; uploads wrap it."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response
        error = error.__cause__
    return None


def _reason(error: BaseException) -> str | None:
    """One line on what the Hub or the way to it did wrong, without addresses; None for an error of another kind."""
    if (response := _answer(error)) is not None:
        said = response.headers.get("X-Error-Message") or response.reason_phrase
        return f"the Hub answers {response.status_code} {' '.join(said.split())}".strip()
    while error is not None:
        # huggingface_hub 1 speaks through httpx, 2 through httpx2
        # and uploads through Xet raise Python's own errors, with addresses in them
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2") or isinstance(
            error, ConnectionError | TimeoutError
        ):
            text = re.sub(r"https?://\S+", "", " ".join(str(error).split()))
            return f"no connection to the Hub ({type(error).__name__}: {text})"
        error = error.__cause__
    return None


def _retry_after(response) -> float | None:
    value = None if response is None else response.headers.get("Retry-After")
    return float(value) if value is not None and value.isdigit() else None


@contextlib.contextmanager
def _without_secrets(token: str) -> Iterator[None]:
    """Take the token, and the signatures of upload addresses, out of what is logged meanwhile."""

    def redact(record: logging.LogRecord) -> bool:
        text = record.getMessage().replace(token, "hf_***")
        record.msg, record.args = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?***", text), ()
        return True

    handlers = [*logging.getLogger("huggingface_hub").handlers, *logging.root.handlers]
    for handler in handlers:
        handler.addFilter(redact)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(redact)
