"""Matrices in fewer bits inside a run: what a recipe may not ask for with them, and a child as its engine will have it."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, QuantoConfig

from .. import artifacts
from ..blocks import WEIGHT_TYPES, Block, weight_type
from ..conversions import probe_logits
from ..engines import weight_types
from ..engines.gguf import tensor_types, write_types
from ..recipe import PuzzleRecipe, RecipeError
from ..remote.modeling_puzzle import places_of
from .network import layers_prefix
from .search_space import SearchSpace
from .surgery import KINDS, layers_of, sub_blocks


logger = logging.getLogger(__name__)


def check_bits(recipe: PuzzleRecipe, space: SearchSpace) -> None:
    """Say what is not measured of blocks in fewer bits, and refuse what would be a wrong number.

    Raises:
        RecipeError: costs of files in which all matrices are in few bits; a parent that is never whole on one device.
    """
    if not (types := space.weight_types):
        return
    if recipe.cost.gguf_type != "auto":
        raise RecipeError(
            f"cost.gguf_type: {recipe.cost.gguf_type} is the type of all matrices, search_space.weight_bits gives each its "
            "own; leave it at `auto`"
        )
    if recipe.parent.device_map is not None:
        raise RecipeError("search_space.weight_bits: blocks are rounded in memory; leave parent.device_map out")
    if recipe.solve.iterations > 1:
        raise RecipeError(
            "search_space.weight_bits: blocks of a second iteration are cut from whole weights; leave solve.iterations at 1"
        )
    if recipe.evaluate.quantized:
        raise RecipeError("evaluate.quantized: this child's matrices are in fewer bits already; leave it out")
    if any(weight_types.engine_of(name) != recipe.cost.engine for name in types):
        logger.info(
            "cost: %s does not run %s: such blocks take the time of blocks in %s here; their bytes count in full",
            recipe.cost.engine, " and ".join(types), recipe.cost.dtype,
        )  # fmt: skip


def keep_bits(child: PreTrainedModel, blocks: Sequence[Block]) -> None:
    """Give a child, in place, the weights that the number formats of its blocks keep."""
    for sub_block, name in _formats(child, blocks):
        for linear in weight_types.linear_maps(sub_block):
            linear.weight = nn.Parameter(weight_types.rounded_weight(linear, name), requires_grad=False)


def pack_bits(child: PreTrainedModel, blocks: Sequence[Block]) -> None:
    """Put a child's matrices, in place, into the formats of optimum-quanto that its blocks name; other formats stay out."""
    for sub_block, name in _formats(child, blocks):
        if name in WEIGHT_TYPES["transformers"]:
            weight_types.pack(sub_block, name)


def _formats(child: PreTrainedModel, blocks: Sequence[Block]) -> list[tuple[nn.Module, str]]:
    """Sub-blocks of a child whose blocks name a number format."""
    found = []
    for layer, block in zip(layers_of(child), blocks, strict=True):
        parts = sub_blocks(layer) if block != block.plain else {}
        found += [(parts[kind], weight_type(v)) for kind, v in zip(KINDS, block, strict=True) if weight_type(v)]
    return found


def write_formats(folder: Path, child: PreTrainedModel, blocks: Sequence[Block]) -> None:
    """Say in a child's folder which matrices have which format, in the words of the engines that read it: `tensor_types.txt`
    of llama.cpp, `quantization_config` of transformers."""
    write_types(folder, tensor_types(blocks))
    if (config := quanto_config(child, blocks)) is not None:
        raw = artifacts.read_json(folder / "config.json")
        artifacts.write_json(folder / "config.json", raw | {"quantization_config": config.to_dict()})


def quanto_config(child: PreTrainedModel, blocks: Sequence[Block]) -> QuantoConfig | None:
    """What converts exactly the matrices of the blocks that name a format of optimum-quanto; None where none does."""
    names = {weight_type(v) for block in blocks for v in block} & {*WEIGHT_TYPES["transformers"]}
    if not names:
        return None
    prefix, (name,) = layers_prefix(child), names  # the search space has one of them
    paths: dict[str, bool] = {}
    for i, (layer, block) in enumerate(zip(layers_of(child), blocks, strict=True)):
        for kind, place in places_of(layer).items():
            paths[f"{prefix}{i}.{place}"] = weight_type(getattr(block, kind)) == name
    matrices = [path for path, module in child.named_modules() if isinstance(module, nn.Linear)]
    left = [
        path for path, converted in paths.items() if not converted and any(m.startswith(f"{path}.") for m in matrices)
    ]
    others = [path for path in matrices if not any(path.startswith(f"{each}.") for each in paths)]
    return QuantoConfig(weights=name, modules_to_not_convert=left + others)


@torch.no_grad()
def kept_logits(child: PreTrainedModel, blocks: Sequence[Block]) -> torch.Tensor | None:
    """`probe_logits` of a child with the weights that transformers keeps of it; None where it keeps them all, or where there
    are none to look at."""
    if quanto_config(child, blocks) is None or any(p.is_meta for p in child.parameters()):
        return None
    kept = copy.deepcopy(child)
    keep_bits(kept, blocks)
    return probe_logits(kept)
