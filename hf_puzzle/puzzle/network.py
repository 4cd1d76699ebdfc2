"""A network of blocks, and every way to make it real: random, assembled in memory, layer by layer, inside its parent."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from ..anatomy import frozen
from ..blocks import Block
from ..conversions import check_same, probe_logits, tolerance_of
from ..formats import DECILM, build_model, child_config, decilm_width, model_class, padded
from ..layers import parent_blocks
from ..progress import bar
from ..remote.modeling_puzzle import norms_of, places_of
from .library import BlockLibrary
from .loading import Shards, load_layers
from .surgery import KINDS, layers_of, swapped


@dataclass(frozen=True)
class Network:
    """A layout of blocks for one parent's shapes, and where its weights come from: nothing is in memory until it is asked for.

    Attributes:
        parent_config: of the parent.
        blocks: one for each layer; number formats of weights (`kv4@q8_0`) count only inside a parent.
        library: trained blocks; layers that keep the parent's own block take the parent's weights. None: for shapes only.
        fmt: published format of the child.
        parents: the block of each layer of the model whose weights the library goes with; default: the stock parent's.
    """

    parent_config: PretrainedConfig
    blocks: Sequence[Block]
    library: BlockLibrary | None = None
    fmt: str = DECILM
    parents: Sequence[Block] | None = None

    @property
    def own(self) -> Sequence[Block]:
        """The parent's block of each layer."""
        return parent_blocks(self.parent_config) if self.parents is None else self.parents

    @property
    def structure(self) -> list[Block]:
        """The blocks in the model's dtype."""
        return [block.plain for block in self.blocks]

    @property
    def config(self) -> PretrainedConfig:
        """The child's."""
        return child_config(self.parent_config, self.structure, self.fmt)

    def inside(self, parent: PreTrainedModel) -> contextlib.AbstractContextManager:
        """The parent computes what this network does, as long as the context lasts."""
        return swapped(parent, self.swaps(parent))

    def swaps(self, parent: PreTrainedModel) -> dict[int, tuple[nn.Module, nn.Module]]:
        """Attention and FFN of the layers that do not keep the parent's block, as `surgery.swapped` takes them."""
        return {
            i: self.library.modules(parent, i, block, own)
            for i, (block, own) in enumerate(zip(self.blocks, self.own, strict=True))
            if block != own
        }

    def random(
        self, dtype: torch.dtype, device: torch.device | str = "cpu", like: PreTrainedModel | None = None
    ) -> PreTrainedModel:
        """Random weights, made in `dtype` on `device`: enough to measure speed and memory.

        Args:
            like: a model whose embeddings and head become the child's, too, where they are equal in shape, dtype and place.
        """
        child = empty_model(self.config, dtype, device)
        if like is not None:
            for ends in ("get_input_embeddings", "get_output_embeddings"):
                own, theirs = (getattr(model, ends)() for model in (child, like))
                if own is not None and theirs is not None and _place(own.weight) == _place(theirs.weight):
                    own.weight = theirs.weight
        return child

    def assembled(self, parent: PreTrainedModel) -> PreTrainedModel:
        """The child with the library's weights and copies of the parent's, on the parent's device and in its dtype.

        Raises:
            NotTheSame: the child computes something else than the parent with its blocks in place.
        """
        with replace(self, blocks=self.structure).inside(parent):
            expected = probe_logits(parent)
        prefix = layers_prefix(parent)
        weights = {name: tensor for name, tensor in parent.state_dict().items() if not name.startswith(prefix)}
        for layer_idx in bar(range(len(self.blocks)), desc="child: layers"):
            weights |= {f"{prefix}{layer_idx}.{n}": tensor for n, tensor in self._layer(parent, layer_idx).items()}
        child = build_model(
            self.config, {name: tensor.detach().clone() for name, tensor in weights.items()}, parent.dtype
        )
        child.generation_config = parent.generation_config
        child = child.to(parent.device)
        check_same(expected, probe_logits(child), "the assembled child", tolerance_of(parent))
        return child

    def weights(self, shards: Shards, dtype: torch.dtype | str = "auto") -> Iterator[dict[str, torch.Tensor]]:
        """What `assembled` puts together, layer by layer: the parent's layers are read one at a time and dropped.

        Yields:
            Pieces of the child's state dict; a tied head is left out, as in a checkpoint.
        """
        ends = load_layers(shards, self.parent_config, 0, 0, with_embeddings=True, with_head=True, dtype=dtype)
        prefix = layers_prefix(ends)
        tied = ends.all_tied_weights_keys
        yield {name: tensor for name, tensor in ends.state_dict().items() if name not in tied}
        del ends
        for layer_idx in bar(range(len(self.blocks)), desc="child: layers"):
            part = load_layers(shards, self.parent_config, layer_idx, layer_idx + 1, dtype=dtype)
            yield {
                f"{prefix}{layer_idx}.{name}": tensor.detach() for name, tensor in self._layer(part, layer_idx).items()
            }

    def _layer(self, parent: PreTrainedModel, layer_idx: int) -> dict[str, torch.Tensor]:
        """Tensors of one layer, named as below it: those of its sub-blocks, and the norms that are still passed through."""
        layer = layers_of(parent)[layer_idx]
        block = self.structure[layer_idx]
        modules = self.library.modules(parent, layer_idx, block, self.own[layer_idx])
        places = {place: kind for kind, place in places_of(layer).items()}
        dropped = {
            name
            for kind, module in zip(KINDS, modules, strict=True)
            if not module.state_dict()
            for name in norms_of(layer, kind)
        }
        weights = {
            name: tensor
            for name, tensor in layer.state_dict().items()
            if name.split(".")[0] not in dropped | set(places)
        }
        for place, kind in places.items():
            module, variant = modules[KINDS.index(kind)], getattr(block, kind)
            for name, tensor in module.state_dict().items():
                if self.fmt == DECILM and places[place] == "ffn" and isinstance(variant, int):
                    tensor = padded(name, tensor, decilm_width(variant) - variant)
                weights[f"{place}.{name}"] = tensor
        return weights


def empty_model(config: PretrainedConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A model of any config with random weights, made in `dtype` on `device`: never in float32, never elsewhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = model_class(config)(config)
    finally:
        torch.set_default_dtype(before)
    return frozen(cast_parameters(model, dtype))


def meta_model(
    config: PretrainedConfig, dtype: torch.dtype, source: str | Path | None = None, revision: str | None = None
) -> PreTrainedModel:
    """The architecture of any config, on the meta device; with the generation settings of `source`, if any."""
    with torch.device("meta"):
        model = model_class(config)(config).to(dtype)
    if source is not None:
        with contextlib.suppress(OSError):  # the file is optional
            model.generation_config = GenerationConfig.from_pretrained(source, revision=revision)
    return model


def _place(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.dtype, tensor.device


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Change the dtype of the parameters, not of the buffers: rotary frequencies stay float32, as in a loaded model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def layers_prefix(model: PreTrainedModel) -> str:
    """Name of the list of layers in the model's state dict, with its dot."""
    layers = layers_of(model)
    return next(name for name, module in model.named_modules() if module is layers) + "."
