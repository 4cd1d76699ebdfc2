"""Part of a model: some layers and nothing else (`load_layers`), or a share of every layer (`load_sharded`).

Tensors are read one by one from safetensors; the model is never whole in memory.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.distributed import DistributedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .. import artifacts
from ..anatomy import frozen
from ..formats import check_loading, head_is_tied, model_class, with_tie
from ..remote.modeling_puzzle import layer_list
from .surgery import layers_of, meta_parent


logger = logging.getLogger(__name__)

# the layer in a tensor's name, whatever the family calls its list of layers
_LAYER = re.compile(r"(?:.*?\.)?(?:layers|h|blocks)\.(\d+)\..+")
_HEADS = ("lm_head", "embed_out")  # checkpoints of a family may call its head otherwise than its class does
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class LoadingError(ValueError):
    """A checkpoint whose tensors cannot be read one by one; the message says why."""


class Shards:
    """The tensors of a checkpoint in safetensors, by name; a shard is fetched when one of its tensors is asked for.

    Args:
        source: model folder, or Hub id.
        revision: of the Hub repository.

    Attributes:
        bytes_read: sum of the sizes of all tensors that were handed out.

    Raises:
        LoadingError: no safetensors, a truncated shard, or an index that points out of its folder.
    """

    def __init__(self, source: str | Path, revision: str | None = None):
        self.source, self.revision = str(source), revision
        self.bytes_read = 0
        self._files: dict[str, safe_open] = {}
        # as transformers opens a folder that holds both: one file first, whichever an earlier save left behind
        index = None if Path(source, SAFE_WEIGHTS_NAME).is_file() else self._find(SAFE_WEIGHTS_INDEX_NAME)
        if index is not None:
            self._shard_of = artifacts.read_json(index).get("weight_map", {})
            for shard in set(self._shard_of.values()):
                if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
                    raise LoadingError(f"{index}: {shard!r} is not the name of a safetensors file of that folder")
        else:
            if self._find(SAFE_WEIGHTS_NAME) is None:
                raise LoadingError(f"{self.source} holds no safetensors: convert it with save_pretrained first")
            self._shard_of = dict.fromkeys(self._open(SAFE_WEIGHTS_NAME).keys(), SAFE_WEIGHTS_NAME)

    @property
    def names(self) -> list[str]:
        return list(self._shard_of)

    def layer_of(self, name: str) -> int | None:
        """Index of the layer that a tensor belongs to; None for embeddings, final norm and head."""
        match = _LAYER.fullmatch(name)
        return int(match[1]) if match else None

    def size_of(self, name: str) -> int:
        """Bytes of a tensor; only the header is read."""
        found = self._slice(name)
        return prod(found.get_shape()) * DTYPES[found.get_dtype()].itemsize

    def dtype_of(self, name: str) -> str:
        return self._slice(name).get_dtype()

    def __getitem__(self, name: str):
        """A slice object of safetensors: `[...]` reads the tensor."""
        self.bytes_read += self.size_of(name)
        return self._slice(name)

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor, of which no more is read than is looked at."""
        self._slice(name)  # its errors
        return self._open(self._shard_of[name]).get_tensor(name)

    def _slice(self, name: str):
        try:
            return self._open(self._shard_of[name]).get_slice(name)
        except (KeyError, SafetensorError) as error:
            raise LoadingError(f"{self.source}: tensor {name} is missing ({error}); fetch the model again") from None

    def _find(self, file: str) -> str | None:
        """Local path of a file, fetched if need be; None where the folder or repository has none of that name."""
        return cached_file(self.source, file, revision=self.revision, _raise_exceptions_for_missing_entries=False)

    def _open(self, shard: str) -> safe_open:
        if shard not in self._files:
            path = self._find(shard)
            if path is None:
                raise LoadingError(f"{self.source}: {shard} of its index is missing; fetch the model again")
            try:
                self._files[shard] = safe_open(path, framework="pt").__enter__()
            except (SafetensorError, OSError) as error:
                raise LoadingError(
                    f"{path} is truncated or not safetensors ({error}); fetch the model again"
                ) from None
        return self._files[shard]


class NotLoaded(nn.Module):
    """Stands for a part of the model that was not read; running it is an error."""

    def __init__(self, what: str):
        super().__init__()
        self.what = what

    def forward(self, *args, **kwargs):
        raise RuntimeError(f"this model was loaded without {self.what}: ask load_layers for it")


def load_layers(
    source: str | Path | Shards,
    config: PretrainedConfig,
    start: int,
    stop: int,
    with_embeddings: bool = False,
    with_head: bool = False,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The parent with layers `start..stop` and its final norm; other layers are `NotLoaded` and take no memory.

    Run it with `surgery.only_layers(model, start, stop, states)`. Layers keep their place in the full-size model, so
    masks, positions and per-layer attention types are the parent's own. A checkpoint with tied embeddings holds one
    matrix for both ends: `with_head` then brings the embeddings along.

    Args:
        source: model folder, Hub id, or an open `Shards` of either.
        config: of the whole parent.
        dtype: of the parameters; `auto` is the config's, else the checkpoint's.

    Raises:
        LoadingError: a range that the parent does not have, or a checkpoint that cannot be read in parts.
        FormatError: tensors that are missing, left over, or of another shape.
    """
    if not 0 <= start <= stop <= config.num_hidden_layers:
        raise LoadingError(
            f"layers {start}..{stop} of a parent with {config.num_hidden_layers}: name a range within it"
        )
    shards = source if isinstance(source, Shards) else Shards(source)
    ends = _Ends(config, with_embeddings, with_head)
    wanted = {
        name: shards[name]
        for name in shards.names
        if ((i := shards.layer_of(name)) is None and ends.holds(name)) or (i is not None and start <= i < stop)
    }
    dtype = resolve_dtype(dtype, config, shards)
    cls = _partial_class(model_class(config), range(start, stop), ends)
    model, info = cls.from_pretrained(
        None,
        config=config,
        state_dict=wanted,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
    )
    check_loading(info)
    return frozen(model.to(device))


def with_true_tie(config: PretrainedConfig, shards: Shards) -> PretrainedConfig:
    """`config` saying whether the head is tied as the checkpoint's tensors have it; at most these two are read.

    Raises:
        FormatError: untied, and there is no head.
    """
    return with_tie(config, head_is_tied(config, shards.names, shards.tensor))


def resolve_dtype(dtype: torch.dtype | str, config: PretrainedConfig, shards: Shards) -> torch.dtype:
    """As `from_pretrained` does it: `auto` is the config's dtype, else that of the first tensor."""
    if dtype == "auto":
        return config.dtype or DTYPES[shards.dtype_of(shards.names[0])]
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


class _Ends:
    """Which of the embeddings and the head are read, by the names that they have in the family."""

    def __init__(self, config: PretrainedConfig, with_embeddings: bool, with_head: bool):
        parent = meta_parent(config)
        modules = {id(module): name for name, module in parent.named_modules()}
        tied = with_head and config.tie_word_embeddings
        self.absent = {}
        for what, module, loaded in (
            ("the embeddings", parent.get_input_embeddings(), with_embeddings or tied),
            ("the head", parent.get_output_embeddings(), with_head),
        ):
            if not loaded:
                self.absent[modules[id(module)]] = what
        self._names = {*self.absent, *(_HEADS if "the head" in self.absent.values() else ())}

    def holds(self, tensor: str) -> bool:
        """Whether a tensor outside the layers is read; checkpoints may leave the model's prefix away."""
        place = tensor.rpartition(".")[0]
        return not any(name == place or name.endswith(f".{place}") for name in self._names)


def _partial_class(stock: type[PreTrainedModel], layers: range, ends: _Ends) -> type[PreTrainedModel]:
    """A class that builds the whole architecture and takes away what is not read, before weights are asked for."""

    def init(self, config, *args, **kwargs):
        super(cls, self).__init__(config, *args, **kwargs)
        decoder = self.get_decoder()
        modules = getattr(decoder, layer_list(decoder))
        for i in set(range(len(modules))) - set(layers):
            modules[i] = NotLoaded(f"layer {i}")
        for name, what in ends.absent.items():
            self.set_submodule(name, NotLoaded(what))
        if ends.absent:  # one end alone is tied to nothing
            self.all_tied_weights_keys = {}

    # named as the stock class, which transformers looks conversions of old checkpoints up by
    cls = type(stock.__name__, (stock,), {"__init__": init, "__module__": stock.__module__})
    return cls


def layer_bytes(shards: Shards, layers: Iterable[int]) -> int:
    """Bytes that some layers have in a checkpoint, read off its headers."""
    wanted = set(layers)
    return sum(shards.size_of(name) for name in shards.names if shards.layer_of(name) in wanted)


# -- a share of every layer: FSDP2


def load_sharded(
    source: str | Path,
    config: PretrainedConfig,
    processes: int,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
) -> PreTrainedModel:
    """A model of which each process of `torchrun` holds and reads 1/`processes` (`fully_shard`).

    Layers are gathered one at a time while they run. Embeddings, final norm and head are one more group, which stays
    whole from a forward to the end of its backward: a loss may use the head outside the model's forward.

    Raises:
        RuntimeError: parameters that are not sharded after all.
    """
    stock = model_class(config)

    def init_parallel_plans(self):
        super(cls, self).init_parallel_plans()
        self._fsdp_plan = {}  # families shard embeddings and head apart, which frees them after the forward

    cls = type(stock.__name__, (stock,), {"init_parallel_plans": init_parallel_plans, "__module__": stock.__module__})
    with torch.device("meta"):
        empty = stock(config)
    layers = next(name for name, module in empty.named_modules() if module is layers_of(empty))
    plan = DistributedConfig(fsdp_size=processes, fsdp_plan={f"{layers}.*": "free_full_weight"})
    model, info = cls.from_pretrained(
        source, config=config, revision=revision, dtype=dtype, distributed_config=plan, output_loading_info=True
    )
    check_loading(info)
    here = check_sharded(model, processes)
    total = sum(p.nbytes for p in model.parameters())
    logger.info("%s: %.1f of %.1f MB here, sharded over %d processes", source, here / 1e6, total / 1e6, processes)
    return model


def check_sharded(model: nn.Module, processes: int) -> int:
    """Bytes of the parameters that this process holds.

    Raises:
        RuntimeError: a parameter that is not split over `processes`; training would be replicated without a word.
    """
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor) or parameter.device_mesh.size() != processes:
            raise RuntimeError(
                f"{name} is not sharded over {processes} processes: this torch or transformers ignores FSDP2"
            )
    return sum(parameter.to_local().nbytes for parameter in model.parameters())


def gathered(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
    """Pieces of a sharded model's state dict, gathered one after the other; all processes must go through them.

    Yields:
        One whole tensor at a time, in `dtype`; tied ones once.
    """
    for name, parameter in model.named_parameters():
        yield {name: parameter.detach().full_tensor().to(dtype)}
