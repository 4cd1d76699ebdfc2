"""Encoded windows on disk: safetensors, and a JSON file that says which model, tokenizer and prefix they belong to.

A cache of keys and values is worthless with any other weights, and nothing in it shows that: a store is refused by every
model but its own.
"""

import errno
import hashlib
import json
import os
import uuid
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .generation_pcw import EncodedWindows, PCWError, check_encoded, plain_model
from .weights_pcw import weights_hash


TENSORS, HEADER, VERSION = "windows.safetensors", "windows.json", 1
MAX_JSON_BYTES = 64 * 2**20


def model_hash(model) -> str:
    """sha256 (16 hex digits) of config, of every weight as it is now, and of adapters: see `weights_hash`."""
    return weights_hash(plain_model(model), fresh=True)


def tokenizer_hash(tokenizer) -> str:
    """sha256 (16 hex digits) of the vocabulary and of the ids of a probe, which shows special tokens and spaces."""
    probe = tokenizer(" A probe,\n  42 Ünïcödé\t== .")["input_ids"]
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps([vocabulary, list(probe)]).encode()).hexdigest()[:16]


def _identity(model, tokenizer, prefix) -> dict:
    return {
        "model": model_hash(model),
        "tokenizer": None if tokenizer is None else tokenizer_hash(tokenizer),
        "prefix": list(prefix),
    }


def save_windows(folder: str | Path, encoded: EncodedWindows, model, tokenizer=None) -> Path:
    """Write `encoded` to `folder`; a store that is there is replaced file by file, the JSON last.

    A crash between the two leaves a pair that `load_windows` refuses, since both carry one random id.

    Raises PCWError if the windows are not those of `model` as it is now.
    """
    check_encoded(model, encoded)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pair = uuid.uuid4().hex
    _replace(folder / TENSORS, lambda path: save_file(encoded.state_dict(), path, metadata={"id": pair}))
    header = {"pcw_store_version": VERSION, "id": pair, **_identity(model, tokenizer, encoded.prefix)}
    header |= {"windows": encoded.lengths, "alignment": encoded.alignment, "bytes": encoded.num_bytes}
    text = json.dumps(header, indent=1) + "\n"
    _replace(folder / HEADER, lambda path: path.write_text(text, encoding="utf-8"))
    return folder


def _replace(path: Path, write) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path):
    """JSON of a stranger; ValueError for none, more than `MAX_JSON_BYTES`, or nested without end."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    with open(path, "rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES // 2**20} MiB of JSON")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def load_windows(folder: str | Path, model, tokenizer=None, prefix=None) -> EncodedWindows:
    """The windows of a store, on the model's device and dtype.

    Args:
        tokenizer: checked against the one the store was saved with, where both are given.
        prefix: token ids, checked against the store's where given.

    Raises PCWError for a store that is missing, torn, of another version, model, tokenizer or prefix.
    """
    folder = Path(folder)
    try:
        header = read_json(folder / HEADER)
        with safe_open(folder / TENSORS, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            pair = (file.metadata() or {}).get("id")
    except FileNotFoundError as error:
        raise PCWError(f"{folder} holds no window store: {Path(error.filename or HEADER).name} is missing") from None
    except (ValueError, SafetensorError) as error:
        raise PCWError(f"{folder} is a broken window store ({error}): encode the windows again") from None
    version = header.get("pcw_store_version") if isinstance(header, dict) else None
    if version != VERSION:
        raise PCWError(f"{folder} is a store of version {version!r:.80}: this code reads {VERSION}")
    try:
        return _checked(folder, header, pair, state, model, tokenizer, prefix)
    except PCWError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise PCWError(
            f"{folder} is a broken window store ({type(error).__name__}: {str(error)[:200]}): encode the windows again"
        ) from None


def _checked(folder, header, pair, state, model, tokenizer, prefix) -> EncodedWindows:
    if header["id"] != pair:
        raise PCWError(f"{folder} is half written: {HEADER} and {TENSORS} are of two saves; encode the windows again")
    found = _identity(model, tokenizer, header["prefix"] if prefix is None else prefix)
    for what, value in found.items():
        if value is not None and header[what] is not None and header[what] != value:
            raise PCWError(f"{folder} was saved with another {what}: it has {header[what]}, expected {value}")
    return EncodedWindows.from_state(state, model)
