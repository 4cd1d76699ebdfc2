"""The block library of a run: one safetensors file per trained variant, one line in `index.jsonl` when it is done."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from .. import artifacts
from ..blocks import NONE, Block, Variant, variant_id
from .surgery import KINDS, empty_block, layers_of, load_block, sub_block


class BlockLibrary:
    """Blocks on disk, by layer and variant; the parent's own blocks are never copied.

    Sub-blocks are `layer_07/ffn.w512`; a pair trained together is `layer_07/block.kv2+w512`, and is preferred over its
    two sub-blocks when that block is asked for.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.index = {row["name"]: row for row in artifacts.read_jsonl(self.folder / "index.jsonl")}

    @staticmethod
    def name(layer_idx: int, kind: str, variant: Variant | Block) -> str:
        text = variant.id if kind == "block" else variant_id(kind, variant)
        return f"layer_{layer_idx:02d}/{kind}.{text}"

    def put(self, name: str, weights: dict[str, torch.Tensor], **facts) -> None:
        """Store a finished variant; `facts` (losses, tokens, ...) go to its line of the index."""
        artifacts.write_tensors(self.folder / f"{name}.safetensors", {k: v.cpu() for k, v in weights.items()})
        row = {"name": name, **facts}
        artifacts.append_jsonl(self.folder / "index.jsonl", row)
        self.index[name] = row

    def drop(self, name: str, reason: str) -> None:
        """Record that a variant could not be trained; the search leaves it out."""
        row = {"name": name, "dropped": reason}
        artifacts.append_jsonl(self.folder / "index.jsonl", row)
        self.index[name] = row

    def is_dropped(self, layer_idx: int, block: Block) -> bool:
        names = [self.name(layer_idx, "attention", block.attention), self.name(layer_idx, "ffn", block.ffn)]
        return any("dropped" in self.index.get(name, {}) for name in names)

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return artifacts.read_tensors(self.folder / f"{name}.safetensors")

    def modules(
        self, model: PreTrainedModel, layer_idx: int, block: Block, parent: Block
    ) -> tuple[nn.Module, nn.Module]:
        """The attention and FFN of `block` for `layer_idx`, on the model's device and dtype."""
        layer = layers_of(model)[layer_idx]
        pair = self.name(layer_idx, "block", block)
        tensors = self.weights(pair) if pair in self.index and "dropped" not in self.index[pair] else {}
        modules = []
        for kind, variant, own in zip(KINDS, block, parent, strict=True):
            prefix = f"{kind}."
            weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if not weights and variant == own:
                modules.append(sub_block(layer, kind))
            elif variant == NONE:
                modules.append(empty_block(layer, kind, NONE, model.config, layer_idx))
            else:
                weights = weights or self.weights(self.name(layer_idx, kind, variant))
                module = load_block(empty_block(layer, kind, variant, model.config, layer_idx), weights)
                modules.append(module.to(device=model.device, dtype=model.dtype))
        return tuple(modules)

    def swaps(self, model: PreTrainedModel, blocks: list[Block], parent: Block) -> dict[int, tuple]:
        """What `surgery.swapped` takes, for a whole child."""
        return {i: self.modules(model, i, block, parent) for i, block in enumerate(blocks) if block != parent}
