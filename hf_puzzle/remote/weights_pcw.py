"""What cached windows depend on: weights, adapters and modes of a model, as one hash that is cheap to ask for again.

The hash is of every bit of the weights. A tensor is read again when its version counter, its storage or one of a few
sampled values changed, so that asking costs microseconds a tensor. Writes that leave no trace in these (a few values
through `.data` or NumPy) are not seen in memory; `weights_hash(fresh=True)`, by which stores on disk are known, sees them.
"""

import ctypes
import functools
import hashlib
import json
import threading
import weakref
from collections.abc import Iterator

import torch


SAMPLE = 8  # values per tensor that each call looks at
# and of what adapters are merged into: taken out again, by PEFT itself in a forward pass, they leave no other trace than a
# rounding error in some of the values
ADAPTED = 256
CHUNK = 1 << 16  # words whose products are held at once: they fit into a core's cache
FOLD = 29  # bits; no sign of a smaller type comes to lie on another one
# what may change without changing a model's function
VOLATILE = {
    "_name_or_path", "_commit_hash", "_attn_implementation", "attn_implementation", "architectures", "auto_map",
    "custom_pipelines", "dtype", "torch_dtype", "transformers_version", "use_cache", "output_attentions",
    "output_hidden_states", "return_dict",
}  # fmt: skip

_KNOWN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_LOCK = threading.RLock()


def model_state(model) -> str:
    """sha256 (16 hex digits) of `weights_hash`, devices and train() or eval(): equal as long as windows stay right."""
    with _LOCK:
        return _Known.of(model).state(model)


def weights_hash(model, fresh: bool = False) -> str:
    """sha256 (16 hex digits) of config, name, shape, dtype and values of every weight, and of which adapters are on.

    fresh: read every weight now, whatever its version counter says.
    """
    with _LOCK:
        if fresh:
            return _Known(model)._content(model, _look(model)[1])
        known = _Known.of(model)
        known.state(model)
        return known.content


def _plain(tensors) -> Iterator[torch.Tensor]:
    """Of packed tensors (quantised ones) those that they are made of."""
    for tensor in tensors:
        if type(tensor) is torch.nn.Parameter or type(tensor) is torch.Tensor:
            yield tensor
        elif hasattr(tensor, "__tensor_flatten__"):
            yield from _plain(getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        elif tensor is not None:
            yield tensor


def _stored(module) -> list[torch.Tensor]:
    """The weights and buffers of a module alone; also those that no checkpoint holds, which a cast rounds."""
    found = list(module._parameters.values())
    if module._buffers:
        kinds = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        # a rotary table that follows the length of what was read last
        passing = any(kind == "longrope" or "dynamic" in str(kind) for kind in kinds)
        found += [t for name, t in module._buffers.items() if not passing or name.endswith("original_inv_freq")]
    return list(_plain(found)) if found else found


@functools.cache
def _is_tuner(cls: type) -> bool:
    return isinstance(getattr(cls, "active_adapters", None), property)  # PEFT's; a method of transformers' models


def _look(model) -> tuple[list[torch.Tensor], list]:
    """(weights, modes of modules): what every call looks at, in a fixed order.

    Every call pays for each line in here: plain parameters, nearly all that there is, take the shortest way.
    """
    tensors, modes, stack = [], [], [model]
    while stack:
        module = stack.pop()
        if module is None:
            continue
        modes.append(module.training)
        if module._buffers:
            tensors += _stored(module)
        else:
            for tensor in module._parameters.values():
                if type(tensor) is torch.nn.Parameter:
                    tensors.append(tensor)
                elif tensor is not None:
                    tensors += _plain([tensor])
        if module._modules:
            stack += module._modules.values()
        if _is_tuner(type(module)):
            on = (list(module.active_adapters), module.disable_adapters, list(getattr(module, "merged_adapters", ())))
            modes.append(f"{on} {getattr(module, 'scaling', None)}")
    return tensors, modes


def _trace(tensor: torch.Tensor) -> tuple:
    """Another value after every change of a tensor that torch knows of; of an offloaded one nothing can be told."""
    address = tensor.data_ptr()
    if not address and tensor.is_meta:
        return tensor.shape, tensor.dtype
    try:
        version = tensor._version
    except RuntimeError:  # of inference mode: none is kept
        version = None
    return id(tensor), version, address, tensor.device


def _adapted(model) -> set[int]:
    """ids of the weights that adapters can be merged into."""
    bases = (getattr(module, "base_layer", None) for module in model.modules() if _is_tuner(type(module)))
    return {id(weight) for base in bases if base is not None for weight in base.parameters()}


def _places(tensors: list[torch.Tensor], adapted: set[int]) -> list[list[tuple]]:
    """Where a few evenly spaced values of each tensor lie: (tensor, size, stride, offset), by device and dtype."""
    groups: dict[tuple, list] = {}
    for i, tensor in enumerate(tensors):
        size = 0 if tensor.is_meta or not tensor.is_contiguous() else tensor.numel()
        if size:
            count = min(ADAPTED if id(tensor) in adapted else SAMPLE, size)
            place = (i, (count,), (size // count,), tensor.storage_offset())
            groups.setdefault((tensor.device, tensor.dtype), []).append(place)
    return list(groups.values())


class _Sample:
    """A few values of tensors, read again and again as long as their `_trace` stays.

    In the memory of the CPU they are views of addresses: made once, they cost a tenth of new ones, and they keep no weights
    alive that their model has given up.
    """

    def __init__(self, tensors: list[torch.Tensor], adapted: set[int]):
        self.places: list[list[tuple]] = []
        self.views: list[list[torch.Tensor]] = []
        for group in _places(tensors, adapted):
            first = tensors[group[0][0]]
            if first.device.type == "cpu":
                self.views.append([_values_at(tensors[i], count, step) for i, (count,), (step,), _ in group])
            else:
                self.places.append(group)

    @torch.no_grad()
    def read(self, tensors: list[torch.Tensor]) -> list[bytes]:
        """The values now; `tensors` must have the traces that they were made with."""
        strided = torch.as_strided
        parts = [torch.cat([strided(tensors[i], *place) for i, *place in group]) for group in self.places]
        found = [part.cpu().view(torch.uint8).numpy().tobytes() for part in parts]
        return found + [torch.cat(views).view(torch.uint8).numpy().tobytes() for views in self.views]


def _values_at(tensor: torch.Tensor, count: int, step: int) -> torch.Tensor:
    """(count,) values of a contiguous tensor on the CPU, without a reference to it."""
    memory = (ctypes.c_ubyte * (tensor.numel() * tensor.element_size())).from_address(tensor.data_ptr())
    return torch.frombuffer(memory, dtype=tensor.dtype)[: count * step : step]


def _checksum(tensor: torch.Tensor) -> str:
    """Of all bits: the sums, for each `CHUNK` of 64-bit words, of folded words times fixed odd factors, modulo 2^64.

    One changed word always changes it. The upper bits of a word go into its lower ones first: a product never carries bits
    down, so that two flipped signs at the top of words would cancel.
    """
    if tensor.is_meta:
        return "offloaded"
    flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
    if flat.numel() % 8 or flat.storage_offset() % 8:
        flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8))
    factors, sums = _factors(tensor.device), []
    for words in flat.view(torch.int64).split(CHUNK):
        words, own = words ^ ((words >> FOLD) & (1 << 64 - FOLD) - 1), factors[: len(words)]
        sums.append(torch.dot(words, own) if words.device.type == "cpu" else (words * own).sum())
    return str(torch.stack(sums).tolist()) if sums else ""


@functools.cache
def _factors(device) -> torch.Tensor:
    """(CHUNK,) odd numbers without order (the finalizer of splitmix64)."""
    z = torch.arange(1, CHUNK + 1, device=device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        z = (z ^ (z >> shift)) * factor
    return (z ^ (z >> 31)) | 1


def _lasting(value):
    """A config without what is volatile, in nested configs too."""
    if not isinstance(value, dict):
        return value
    return {key: _lasting(each) for key, each in value.items() if key not in VOLATILE}


class _Known:
    """What was read of a model: checksums by tensor, and the hash of all."""

    def __init__(self, model):
        config = json.dumps(_lasting(model.config.to_dict()), sort_keys=True, default=str)
        self.config = hashlib.sha256(f"{type(model).__name__} {config}".encode()).hexdigest()
        self.sums: dict[tuple, tuple[weakref.ref, str]] = {}
        self.seen, self.sample, self.values, self.content, self.found = None, None, None, "", ""

    @classmethod
    def of(cls, model) -> "_Known":
        if model not in _KNOWN:
            _KNOWN[model] = cls(model)
        return _KNOWN[model]

    def state(self, model) -> str:
        tensors, modes = _look(model)
        seen = ([_trace(tensor) for tensor in tensors], modes)
        # an object that died may have left its address, version and storage to another one
        known = seen == self.seen and all(each() is not None for each, _ in self.sums.values())
        sample = self.sample if known else _Sample(tensors, _adapted(model))
        values = sample.read(tensors)
        if known and values == self.values:
            return self.found
        if values != self.values:
            self.sums.clear()
        self.content = self._content(model, modes)
        devices = [str(tensor.device) for tensor in tensors if not tensor.is_meta]
        self.found = hashlib.sha256(f"{self.content} {devices} {modes}".encode()).hexdigest()[:16]
        self.seen, self.sample, self.values = seen, sample, values
        return self.found

    def _content(self, model, modes: list) -> str:
        digest = hashlib.sha256(self.config.encode())
        sums: dict[tuple, tuple[weakref.ref, str]] = {}
        named = [(name, each) for name, module in model.named_modules() for each in _stored(module)]
        for name, tensor in named:
            trace = _trace(tensor)
            ref, checksum = sums.get(trace) or self.sums.get(trace) or (None, "")
            if tensor.is_meta or ref is None or ref() is not tensor:
                ref, checksum = weakref.ref(tensor), _checksum(tensor)
            if not tensor.is_meta:
                sums[trace] = (ref, checksum)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {checksum}\n".encode())
        self.sums = sums
        digest.update(str([mode for mode in modes if isinstance(mode, str)]).encode())
        return digest.hexdigest()[:16]
