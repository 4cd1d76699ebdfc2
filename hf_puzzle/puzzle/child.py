"""From chosen blocks to an ordinary model in either published format: config and weights, in memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from ..anatomy import frozen
from ..blocks import Block
from ..conversions import check_same, probe_logits, tolerance_of
from ..formats import DECILM, build_model, child_config, decilm_width, model_class, padded
from ..progress import bar
from ..remote.modeling_puzzle import norms_of, place_of
from .library import BlockLibrary
from .loading import Shards, load_layers
from .surgery import KINDS, layers_of, swapped


def empty_child(
    config,
    blocks: list[Block],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    fmt: str = DECILM,
    like: PreTrainedModel | None = None,
) -> PreTrainedModel:
    """A child with random weights: enough to measure speed and memory.

    Args:
        like: a model whose embeddings and head become the child's, too, where they are equal in shape, dtype and place.
    """
    child = empty_model(child_config(config, blocks, fmt), dtype, device)
    if like is not None:
        for ends in ("get_input_embeddings", "get_output_embeddings"):
            own, theirs = (getattr(model, ends)() for model in (child, like))
            if own is not None and theirs is not None and _place(own.weight) == _place(theirs.weight):
                own.weight = theirs.weight
    return child


def empty_model(config, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A model of any config with random weights, made in `dtype` on `device`: never in float32, never elsewhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = model_class(config)(config)
    finally:
        torch.set_default_dtype(before)
    return frozen(cast_parameters(model, dtype))


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


def assemble_child(
    parent: PreTrainedModel, library: BlockLibrary, blocks: list[Block], own: Block, fmt: str = DECILM
) -> PreTrainedModel:
    """The child of `parent` with `blocks` in format `fmt`, on the parent's device and dtype.

    Args:
        own: the parent's own block; layers that keep it take the parent's weights.

    Raises:
        NotTheSame: the child computes something else than the parent with its blocks in place.
    """
    with swapped(parent, library.swaps(parent, blocks, own)):
        expected = probe_logits(parent)
    config = child_config(parent.config, blocks, fmt)
    prefix = layers_prefix(parent)
    weights = {name: tensor for name, tensor in parent.state_dict().items() if not name.startswith(prefix)}
    for layer_idx, block in enumerate(bar(blocks, desc="child: layers")):
        for name, tensor in _layer_weights(parent, library, layer_idx, block, own, fmt).items():
            weights[f"{prefix}{layer_idx}.{name}"] = tensor
    child = build_model(config, {name: tensor.detach().clone() for name, tensor in weights.items()}, parent.dtype)
    child.generation_config = parent.generation_config
    child = child.to(parent.device)
    check_same(expected, probe_logits(child), "the assembled child", tolerance_of(parent))
    return child


def meta_child(
    config, dtype: torch.dtype, source: str | Path | None = None, revision: str | None = None
) -> PreTrainedModel:
    """The architecture of a child's `config`, on the meta device; with the generation settings of `source`, if any."""
    with torch.device("meta"):
        child = model_class(config)(config).to(dtype)
    if source is not None:
        with contextlib.suppress(OSError):  # the file is optional
            child.generation_config = GenerationConfig.from_pretrained(source, revision=revision)
    return child


def child_weights(
    shards: Shards,
    config,
    library: BlockLibrary,
    blocks: list[Block],
    own: Block,
    fmt: str = DECILM,
    dtype: torch.dtype | str = "auto",
) -> Iterator[dict[str, torch.Tensor]]:
    """What `assemble_child` puts together, layer by layer: the parent's layers are read one at a time and dropped.

    Yields:
        Pieces of the child's state dict; a tied head is left out, as in a checkpoint.
    """
    ends = load_layers(shards, config, 0, 0, with_embeddings=True, with_head=True, dtype=dtype)
    prefix = layers_prefix(ends)
    tied = ends.all_tied_weights_keys
    yield {name: tensor for name, tensor in ends.state_dict().items() if name not in tied}
    del ends
    for layer_idx, block in enumerate(bar(blocks, desc="child: layers")):
        part = load_layers(shards, config, layer_idx, layer_idx + 1, dtype=dtype)
        weights = _layer_weights(part, library, layer_idx, block, own, fmt)
        yield {f"{prefix}{layer_idx}.{name}": tensor.detach() for name, tensor in weights.items()}


def _layer_weights(
    parent, library: BlockLibrary, layer_idx: int, block: Block, own: Block, fmt: str
) -> dict[str, torch.Tensor]:
    """Tensors of one layer, named as below it: those of its sub-blocks, and the norms that are still passed through."""
    layer = layers_of(parent)[layer_idx]
    modules = library.modules(parent, layer_idx, block, own)
    places = {place_of(layer, kind): kind for kind in KINDS}
    dropped = {
        name
        for kind, module in zip(KINDS, modules, strict=True)
        if not module.state_dict()
        for name in norms_of(layer, kind)
    }
    weights = {
        name: tensor for name, tensor in layer.state_dict().items() if name.split(".")[0] not in dropped | set(places)
    }
    for place, module, variant in zip(places, modules, block, strict=True):
        for name, tensor in module.state_dict().items():
            if fmt == DECILM and places[place] == "ffn" and isinstance(variant, int):
                tensor = padded(name, tensor, decilm_width(variant) - variant)
            weights[f"{place}.{name}"] = tensor
    return weights
