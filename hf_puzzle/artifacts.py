"""Files a run writes: atomic, hashable, and finished only when the manifest says so."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


logger = logging.getLogger(__name__)

VERSIONED_PACKAGES = ("hf_puzzle", "torch", "transformers", "peft", "datasets", "mip", "highspy", "numpy", "gguf")


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


def read_json(path: str | Path) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run the stage that writes it first") from None
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}): delete it and run its stage again") from None


def append_jsonl(path: str | Path, row: Mapping) -> None:
    """Append one row and flush it to disk, so that a killed run keeps every finished row."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        # a line cut by a crash has no newline: drop it, or the new row would be glued to it
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        file.write((json.dumps(row, allow_nan=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: str | Path) -> list[dict]:
    """All complete rows; a last line cut by a crash is ignored, any other broken line is an error."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{path}, line {number}: not valid JSON ({error}); delete that line") from None
    return rows


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    with replacing(Path(path)) as temporary:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, metadata=metadata)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run the stage that writes it first") from None
    except SafetensorError as error:
        raise ArtifactError(f"{path} is truncated or not safetensors ({error}): delete it and rerun") from None


def fingerprint(*values: object) -> str:
    """sha256 (16 hex digits) of anything JSON can say; equal inputs give equal fingerprints on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_fingerprint(folder: str | Path) -> str:
    """Fingerprint of a model folder: every file by content, weights above 1 GiB by size and header only."""
    rows = []
    for path in sorted(Path(folder).iterdir()):
        if path.is_file() and path.suffix in {".json", ".safetensors", ".model", ".txt"}:
            big = path.stat().st_size > 2**30
            rows.append((path.name, path.stat().st_size if big else file_sha256(path)))
    return fingerprint(rows)


def environment() -> dict:
    """Machine and package versions, as every result file records them."""
    versions = {}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class Manifest:
    """`manifest.json` of a run: which stage finished, from which inputs. An entry is written last of all its files."""

    def __init__(self, run_dir: str | Path):
        self.path = Path(run_dir) / "manifest.json"
        self.stages: dict[str, dict] = read_json(self.path) if self.path.exists() else {}

    def is_finished(self, stage: str, inputs: str) -> bool:
        entry = self.stages.get(stage, {})
        return entry.get("inputs") == inputs and "finished" in entry

    def begin(self, stage: str, inputs: str, outputs: list[Path]) -> bool:
        """Note that `stage` starts; outputs made from other inputs are deleted. True if this continues a killed start."""
        continues = self.stages.get(stage) == {"inputs": inputs}
        if self.stages.get(stage, {}).get("inputs") != inputs:
            for path in outputs:
                remove(path)
        self.stages[stage] = {"inputs": inputs}
        write_json(self.path, self.stages)
        return continues

    def forget(self, stage: str, outputs: list[Path]) -> None:
        """Delete a stage's files and its entry."""
        if self.stages.pop(stage, None) is not None:
            write_json(self.path, self.stages)
        for path in outputs:
            remove(path)

    def finish(self, stage: str, seconds: float) -> None:
        self.stages[stage] |= {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 2),
            "environment": environment(),
        }
        write_json(self.path, self.stages)


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
        yield


def remove(path: str | Path) -> None:
    """Delete a file or folder if it is there."""
    path = Path(path)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
