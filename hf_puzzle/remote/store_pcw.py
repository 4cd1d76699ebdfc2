"""Encoded windows on disk: safetensors, and a JSON file that says which model, tokenizer and prefix they belong to.

A cache of keys and values is worthless with any other weights, and nothing in it shows that: a store is refused by every
model but its own. In 8 or 4 bits it takes a fraction of the room; what that costs is measured in benchmarks/pcw_windows.json.
"""

import errno
import hashlib
import json
import os
import uuid
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .generation_pcw import EncodedWindows, PCWError, check_encoded, plain_model
from .weights_pcw import weights_hash


TENSORS, HEADER = "windows.safetensors", "windows.json"
VERSION = 2  # of 1, weights were hashed in another way
MAX_JSON_BYTES = 64 * 2**20
BITS = (4, 8)
GROUP = 64  # values that share a range
# keys differ by channel and keep their ranges over tokens, values by token (Liu et al. 2024, arXiv 2402.02750)
GROUPED_ALONG = {"keys": 2, "values": 3}


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


# -- few bits


def pack_state(state: dict[str, torch.Tensor], bits: int) -> dict[str, torch.Tensor]:
    """An `EncodedWindows.state_dict` with keys and values in `bits`: `NAME` as bytes, `NAME.ranges` (2, groups...) the
    step and the least value of each group, `NAME.packed` the bits and the shape."""
    packed = {}
    for name, tensor in state.items():
        along = GROUPED_ALONG.get(name.partition(".")[0])
        if along is None:
            packed[name] = tensor
            continue
        rows = tensor.float().movedim(along, -1)
        group = min(GROUP, rows.shape[-1] + rows.shape[-1] % 2)
        rows = torch.nn.functional.pad(rows.flatten(0, -2), (0, -rows.shape[-1] % group), mode="replicate")
        rows = rows.unflatten(-1, (-1, group))
        low, high = rows.aminmax(dim=-1, keepdim=True)
        # of a group of equal values the step does not matter
        step, low = ((high - low) / (2**bits - 1)).clamp(min=1e-7).half(), low.half()
        codes = ((rows - low.float()) / step.float()).round().clamp(0, 2**bits - 1).to(torch.uint8)
        if bits == 4:
            codes = codes[..., ::2] | (codes[..., 1::2] << 4)
        packed |= {
            name: codes,
            f"{name}.ranges": torch.cat([step, low], -1),
            f"{name}.packed": torch.tensor((bits, *tensor.shape)),
        }
    return packed


def unpack_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `pack_state`, in float32, as near as the bits allow; other tensors as they are."""
    found = {}
    for name, tensor in state.items():
        if name.endswith((".ranges", ".packed")):
            continue
        if f"{name}.packed" in state:
            (bits, *shape), along = state[f"{name}.packed"].tolist(), GROUPED_ALONG[name.partition(".")[0]]
            if bits not in BITS:
                raise PCWError(f"{name} has values of {bits} bits: this code reads {', '.join(map(str, BITS))}")
            if bits == 4:
                tensor = torch.stack([tensor & 15, tensor >> 4], -1).flatten(-2)
            step, low = state[f"{name}.ranges"].float().split(1, -1)
            length = shape.pop(along)
            rows = (tensor * step + low).flatten(-2)[..., :length]
            tensor = rows.reshape(*shape, length).movedim(-1, along)
        found[name] = tensor
    return found


# -- folders


def save_windows(folder: str | Path, encoded: EncodedWindows, model, tokenizer=None, bits: int | None = None) -> Path:
    """Write `encoded` to `folder`; a store that is there is replaced file by file, the JSON last.

    A crash between the two leaves a pair that `load_windows` refuses, since both carry one random id.

    Args:
        bits: 8 or 4 for each key and value, in groups of at most `GROUP` with a range; default: as they are.

    Raises PCWError if the windows are not those of `model` as it is now, and for other bits.
    """
    if bits is not None and bits not in BITS:
        raise PCWError(
            f"bits is {bits!r}: expected one of {', '.join(map(str, BITS))}, or None to keep them as they are"
        )
    check_encoded(model, encoded)
    state = encoded.state_dict() if bits is None else pack_state(encoded.state_dict(), bits)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pair = uuid.uuid4().hex
    _replace(folder / TENSORS, lambda path: save_file(state, path, metadata={"id": pair}))
    header = {"pcw_store_version": VERSION, "id": pair, **_identity(model, tokenizer, encoded.prefix)}
    header |= {"windows": encoded.lengths, "alignment": encoded.alignment, "bits": bits}
    header["bytes"] = sum(t.numel() * t.element_size() for t in state.values())
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
    return EncodedWindows.from_state(unpack_state(state), model)
