"""Number formats in which engines keep matrices: what they leave of a weight, how many bytes it takes, where they fit.

`q8_0` and `q4_0` are llama.cpp's: groups of 32 weights of a row share a scale. `int8` (a scale for each row) and `int4`
(scale and shift for up to 128 weights of a row) are optimum-quanto's, which transformers opens. Every engine keeps
embeddings, head, norms and biases as they are.
"""

import copy
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..blocks import WEIGHT_TYPES
from .llama_library import EXTRA


GGUF_GROUP = 32
_QUANTO_GROUP = 128
_PACKAGES = {
    "llama.cpp": ("gguf", EXTRA),
    "transformers": ("optimum.quanto", "pip install 'hf_puzzle[quanto]'"),
}


class WeightTypeError(ValueError):
    """A number format cannot hold these weights, or its package is missing; the message says which, and the way out."""


def engine_of(name: str) -> str:
    """The engine whose format it is; WeightTypeError for one that nobody has."""
    for engine, types in WEIGHT_TYPES.items():
        if name in types:
            return engine
    known = ", ".join(name for types in WEIGHT_TYPES.values() for name in types)
    raise WeightTypeError(f"weights in {name!r}: known formats are {known}")


def missing_package(name: str) -> str | None:
    """What to install before weights can be kept in a format; None if nothing."""
    package, how = _PACKAGES[engine_of(name)]
    parts = package.split(".")
    there = all(find_spec(".".join(parts[: i + 1])) is not None for i in range(len(parts)))
    return None if there else f"weights in {name} need {package}: {how}"


def linear_maps(module: nn.Module) -> Iterator[nn.Linear]:
    """The matrices of a sub-block that may be kept in fewer bits."""
    return (each for each in module.modules() if isinstance(each, nn.Linear))


def does_not_fit(module: nn.Module, name: str) -> str | None:
    """Why a sub-block cannot be kept in a format; None if it can."""
    maps = list(linear_maps(module))
    held = sum(each.weight.numel() for each in maps)
    if 2 * held < sum(p.numel() for p in module.parameters()):
        return "most of its weights in no linear map"
    if engine_of(name) != "llama.cpp":
        return None
    rows = [each.in_features for each in maps if each.in_features % GGUF_GROUP]
    return f"rows of {rows[0]} weights, no multiple of the {GGUF_GROUP} of a group" if rows else None


def held_bytes(shape: tuple[int, int], name: str, width: int) -> int:
    """Bytes of a matrix `(out_features, in_features)` in a format; quanto's scales have the model's `width` in bytes."""
    rows, columns = shape
    if engine_of(name) == "llama.cpp":
        return rows * columns // GGUF_GROUP * {"q8_0": 34, "q4_0": 18}[name]
    if name == "int8":
        return rows * columns + rows * width
    return rows * columns // 2 + 2 * width * rows * columns // _quanto_group(columns)


def _quanto_group(columns: int) -> int:
    """As `optimum.quanto.nn.QModuleMixin` chooses it."""
    group = min(_QUANTO_GROUP, columns)
    while columns > _QUANTO_GROUP and columns % group and group > GGUF_GROUP:
        group -= GGUF_GROUP
    return columns if columns % group else group


@torch.no_grad()
def rounded(module: nn.Module, name: str) -> nn.Module:
    """A copy of a sub-block with the weights that a format keeps, in the dtype that they had."""
    module = copy.deepcopy(module)
    for each in linear_maps(module):
        each.weight = nn.Parameter(rounded_weight(each, name), requires_grad=False)
    return module


def rounded_weight(linear: nn.Linear, name: str) -> torch.Tensor:
    """The weights of a linear map that are left of it in a format, in its dtype, on its device."""
    weight = linear.weight
    return rounded_rows(weight, name) if engine_of(name) == "llama.cpp" else _of_quanto(linear, name)


def rounded_rows(weight: torch.Tensor, name: str) -> torch.Tensor:
    """What is left of a matrix in one of llama.cpp's formats, in its dtype, on its device."""
    import gguf

    columns = weight.shape[1]
    # an engine's file has such rows filled up with zeros, which no scale depends on
    rows = F.pad(weight.detach().float().cpu(), (0, -columns % GGUF_GROUP)).numpy()
    kind = gguf.GGMLQuantizationType[name.upper()]
    kept = gguf.dequantize(gguf.quantize(np.ascontiguousarray(rows), kind), kind)
    return torch.from_numpy(np.array(kept[:, :columns])).to(weight)


def _of_quanto(linear: nn.Linear, name: str) -> torch.Tensor:
    return _packed(linear, name).weight.dequantize().to(linear.weight)


def _packed(linear: nn.Linear, name: str) -> nn.Linear:
    from optimum.quanto import QLinear, qtypes

    packed = QLinear.from_module(copy.deepcopy(linear), weights=qtypes[f"q{name}"])
    packed.freeze()
    return packed.requires_grad_(False).eval()


@torch.no_grad()
def pack(module: nn.Module, name: str) -> None:
    """Replace the linear maps of a sub-block, in place, by optimum-quanto's, which hold and compute with fewer bits."""
    for path, linear in [(path, m) for path, m in module.named_modules() if isinstance(m, nn.Linear)]:
        module.set_submodule(path, _packed(linear, name))
