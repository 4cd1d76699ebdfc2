"""Files a run writes: atomic, hashable, and finished only when the manifest says so."""

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from packaging.requirements import Requirement
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 64 * 2**20  # of a JSON file, and of a line of JSONL: what strangers wrote is read too
MAX_PARTS = 32  # of a path
# what requirements bring along, and what says most where nothing is known of them: a checkout that is not installed
BESIDE = ("hf_puzzle", "cbcbox", "highsbox", "highspy", "tokenizers", "torch", "transformers", "mip")
TOOLS = {"dev", "demo", "fuzz"}  # extras without influence on what a run finds


class ArtifactError(ValueError):
    """A file of a run folder is missing, truncated or of another run; the message names it and the way out."""


class RunLockedError(ValueError):
    """Another process works on this run folder."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` only when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def inside(folder: str | Path, name: object) -> Path:
    """`folder / name`, for a name that was read from a file or comes from whoever made the folder.

    Raises:
        ArtifactError: an absolute path, `..`, anything but a plain relative path, or a link that leaves the folder.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    if {"", ".", ".."} & set(parts) or "\\" in name or not name.isprintable() or len(parts) > MAX_PARTS:
        raise ArtifactError(f"{folder}: {name!r:.80} is not the name of a file in it: do not use this folder")
    root, path = Path(os.path.realpath(folder)), Path(folder, name)
    homes = [root]
    if root.parent.name == "snapshots":  # the Hub's cache: a snapshot is links to the blobs beside it
        homes.append(root.parents[1] / "blobs")
    if not any(Path(os.path.realpath(path)).is_relative_to(home) for home in homes):
        raise ArtifactError(f"{folder}: {name!r:.80} is a link that leaves it: copy the file there if it is yours")
    return path


AGAIN = "delete it and run its stage again"


def parse_json(text: str | bytes, where: str | Path, finite: bool = True, remedy: str = AGAIN) -> Any:
    """JSON of unknown origin.

    Args:
        where: what an error names.
        finite: refuse NaN, Infinity and numbers that overflow to it.
        remedy: what to do about it.

    Raises:
        ArtifactError: not JSON, or JSON that no reader should take: nested without end, integers of thousands of digits.
    """
    try:
        kinds = {"parse_constant": _refuse_constant, "parse_float": _finite} if finite else {}
        value = json.loads(text, **kinds)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text: nothing could write it
        return value
    except RecursionError:
        raise ArtifactError(f"{where}: not valid JSON (nested too deeply); {remedy}") from None
    except ValueError as error:  # no JSON, no UTF-8, an integer of thousands of digits
        raise ArtifactError(f"{where}: not valid JSON ({error}); {remedy}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is too large for a number")
    return value


@contextlib.contextmanager
def reading(where: str | Path) -> Iterator[None]:
    """Names `where` in one ArtifactError when the block stumbles over a value of another form than it expects."""
    try:
        yield
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ArtifactError(
            f"{where} is not as this hf_puzzle writes it ({type(error).__name__}: {error}): run its stage again"
        ) from error


def _open(path: str | Path) -> BinaryIO:
    # a pipe or a device would be read for ever
    if Path(path).exists() and not Path(path).is_file():
        raise ArtifactError(f"{path} is not a file: {AGAIN}")
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run the stage that writes it first") from None


def read_json(path: str | Path, finite: bool = True) -> Any:
    """Raises ArtifactError for a file that is missing, no JSON (see `parse_json`), or larger than 64 MiB."""
    with _open(path) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ArtifactError(f"{path} has more than {MAX_JSON_BYTES // 2**20} MiB, which no JSON file of a run has")
    return parse_json(content, path, finite)


def json_line(row: Mapping) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def append_jsonl(path: str | Path, row: Mapping) -> None:
    """Append one row and flush it to disk, so that a killed run keeps every finished row."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        # a line cut by a crash has no newline: drop it, or the new row would be glued to it
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if end and file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json_line(row).encode())
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: str | Path) -> list[dict]:
    """All complete rows; a last line cut by a crash is ignored, any other broken line is an error."""
    path, rows = Path(path), []
    if not path.exists():
        return rows
    with _open(path) as file:
        while (line := file.readline(MAX_JSON_BYTES)).endswith(b"\n"):
            where = f"{path}, line {len(rows) + 1}"
            rows.append(parse_json(line.decode(errors="replace"), where, remedy="delete that line"))
            if not isinstance(rows[-1], dict):
                raise ArtifactError(
                    f"{where}: a row is a JSON object, not {type(rows[-1]).__name__}; delete that line"
                )
    if len(line) == MAX_JSON_BYTES:
        raise ArtifactError(f"{path}, line {len(rows) + 1}: more than {MAX_JSON_BYTES // 2**20} MiB; delete that line")
    return rows


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    with replacing(Path(path)) as temporary:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, metadata=metadata)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    _open(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is truncated or not safetensors ({error}): delete it and rerun") from None


def tensors_metadata(path: str | Path) -> dict[str, str]:
    """The texts that `write_tensors` put into a file's header; empty for a file that is cut."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def fingerprint(*values: object) -> str:
    """sha256 (16 hex digits) of anything JSON can say; equal inputs give equal fingerprints on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


HASHED_BYTES = 4 * 2**20


def file_facts(path: Path) -> list:
    """Size and sha256 by which a file is known again; larger ones than 4 MiB by their size alone, which a cut changes."""
    size = path.stat().st_size
    return [size, file_sha256(path) if size <= HASHED_BYTES else None]


def folder_fingerprint(folder: str | Path) -> str:
    """Fingerprint of a model folder: every file by content, weights above 1 GiB by size and header only."""
    rows = []
    for path in sorted(Path(folder).iterdir()):
        if path.is_file() and path.suffix in {".json", ".safetensors", ".model", ".txt"}:
            big = path.stat().st_size > 2**30
            rows.append((path.name, path.stat().st_size if big else file_sha256(path)))
    return fingerprint(rows)


def size_on_disk(path: str | Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is none."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@functools.cache
def requirements() -> dict[str, list[Requirement]]:
    """What hf_puzzle needs here, by extra (`""`: always), as its installation says; nothing where there is none."""
    try:
        lines, extras = metadata.requires("hf_puzzle") or [], metadata.metadata("hf_puzzle").get_all("Provides-Extra")
    except metadata.PackageNotFoundError:
        return {}
    needed = {"": [each for each in map(Requirement, lines) if each.marker is None or each.marker.evaluate()]}
    for extra in extras or []:
        more = [each for each in map(Requirement, lines) if each.marker and each.marker.evaluate({"extra": extra})]
        needed[extra] = [each for each in more if each not in needed[""]]
    return needed


@functools.cache  # a tenth of a second, and every stage's entry records them
def versions() -> Mapping[str, str]:
    """Versions of those installed packages that may change what a run finds."""
    names = {each.name for extra, needed in requirements().items() if extra not in TOOLS for each in needed}
    found = {}
    for name in sorted(names.union(BESIDE), key=str.lower):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return MappingProxyType(found)


def environment() -> dict:
    """Machine and package versions, as every result file records them."""
    return {
        "python": platform.python_version(),
        "versions": dict(versions()),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _stages(value: Any, path: Path) -> dict[str, dict]:
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise ArtifactError(f"{path} is not a manifest: delete it, and all stages run again")
    return value


class Manifest:
    """`manifest.json` of a run: which stage finished, from which inputs. An entry is written last of all its files.

    Beside it stands the manifest as it was when the last stage began, in case a disk loses the newer one.
    """

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self.path = self.run_dir / "manifest.json"
        self.before = self.run_dir / "manifest.before.json"
        self.stages: dict[str, dict] = {}
        for path in (self.path, self.before):
            if path.exists():
                try:
                    self.stages = _stages(read_json(path), path)
                    break
                except ArtifactError as error:
                    logger.warning("%s; looking at the one before it", error)

    def is_finished(self, stage: str, inputs: str) -> bool:
        entry = self.stages.get(stage, {})
        return entry.get("inputs") == inputs and "finished" in entry

    def damaged(self, stage: str, outputs: list[Path]) -> list[Path]:
        """Files of a finished stage that are missing or changed since; an output that is not there at all is one."""
        missing = [path for path in outputs if not path.exists()]
        recorded = self.stages[stage].get("files", {})
        return missing + [self.run_dir / name for name, facts in recorded.items() if self._facts(name) != facts]

    def _facts(self, name: str) -> list:
        path = inside(self.run_dir, name)
        return file_facts(path) if path.is_file() else []

    def begin(self, stage: str, inputs: str, outputs: list[Path]) -> bool:
        """Note that `stage` starts; outputs made from other inputs are deleted. True if this continues a killed start."""
        continues = self.stages.get(stage) == {"inputs": inputs}
        if self.stages.get(stage, {}).get("inputs") != inputs:
            for path in outputs:
                remove(path)
        self.stages[stage] = {"inputs": inputs}
        self._write(also_before=True)
        return continues

    def reopen(self, stage: str, broken: list[Path]) -> None:
        """Take back that a finished stage is: its broken files are deleted, what is left is kept."""
        self.stages[stage] = {"inputs": self.stages[stage]["inputs"]}
        self._write(also_before=True)
        for path in broken:
            remove(path)

    def forget(self, stage: str, outputs: list[Path]) -> None:
        """Delete a stage's files and its entry."""
        if self.stages.pop(stage, None) is not None:
            self._write()
        for path in outputs:
            remove(path)

    def finish(self, stage: str, seconds: float, outputs: list[Path]) -> None:
        files = [file for path in outputs for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        names = [file.relative_to(self.run_dir).as_posix() for file in files if file.is_file()]
        self.stages[stage] |= {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 2),
            "files": {name: self._facts(name) for name in names},
            "environment": environment(),
        }
        self._write()

    def _write(self, also_before: bool = False) -> None:
        # the older one must know the stage that runs, or losing the newer one would delete that stage's work
        for path in (self.before, self.path) if also_before else (self.path,):
            write_json(path, self.stages)


@contextlib.contextmanager
def locked(run_dir: str | Path) -> Iterator[None]:
    """Hold the run folder's lock; it is released by the kernel even if the process is killed.

    Raises:
        RunLockedError: another process holds it; the message says which.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunLockedError(
                f"{run_dir} is in use by {file.read().strip() or 'another process'}: wait for it, or choose another --out"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        for path in list(run_dir.rglob(".*.tmp")):  # half-written files of a process that was killed
            remove(path)
        yield


def remove(path: str | Path) -> None:
    """Delete a file or folder if it is there."""
    path = Path(path)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
