"""The block library of a run: one safetensors file per trained variant, one line in `index.jsonl` when it is done."""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from .. import artifacts
from ..anatomy import device_of
from ..blocks import NONE, Block, Variant, variant_id, weight_type
from ..engines.weight_types import rounded
from .surgery import KINDS, empty_block, layers_of, load_block, sub_block


class BlockLibrary:
    """Blocks on disk, by layer and variant; the parent's own blocks are never copied.

    Sub-blocks are `layer_07/ffn.w512`; a pair trained together is `layer_07/block.kv2+w512`, and is preferred over its
    two sub-blocks when that block is asked for.

    Args:
        part: name of the job that writes, where several write at once: its lines go to `parts/<part>.jsonl` until `merge`.
    """

    def __init__(self, folder: str | Path, part: str | None = None):
        self.folder = Path(folder)
        self._index_path = self.folder / (f"parts/{part}.jsonl" if part else "index.jsonl")
        paths = [self.folder / "index.jsonl", *sorted((self.folder / "parts").glob("*.jsonl"))]
        with artifacts.reading(self.folder / "index.jsonl"):
            rows = [row for path in paths for row in artifacts.read_jsonl(path)]
            self.index = {row["name"]: row for row in rows if "dropped" in row or self._is_whole(row)}
            self.index |= self._rows_of_files()

    def _rows_of_files(self) -> dict[str, dict]:
        """Lines of blocks that the index lacks, because a kill or a disk lost them: every file carries its own."""
        rows = {}
        for path in sorted(self.folder.glob("layer_*/*.safetensors")):
            name = path.relative_to(self.folder).as_posix().removesuffix(".safetensors")
            if name not in self.index and (facts := artifacts.tensors_metadata(path).get("facts")) is not None:
                rows[name] = {"name": name, "bytes": path.stat().st_size, **artifacts.parse_json(facts, path)}
        return rows

    def _is_whole(self, row: dict) -> bool:
        """Whether a block's tensors are all there: what a disk lost is trained again."""
        path = artifacts.inside(self.folder, f"{row['name']}.safetensors")
        return path.is_file() and path.stat().st_size == row["bytes"]

    def merge(self, order: list[str]) -> None:
        """One index of what all jobs wrote, in the order of these names."""
        rows = [self.index[name] for name in order if name in self.index]
        artifacts.write_text(self.folder / "index.jsonl", "".join(artifacts.json_line(row) for row in rows))
        for path in (self.folder / "parts", *self.folder.glob("job_*")):
            artifacts.remove(path)

    @staticmethod
    def name(layer_idx: int, kind: str, variant: Variant | Block) -> str:
        text = variant.id if kind == "block" else variant_id(kind, variant)
        return f"layer_{layer_idx:02d}/{kind}.{text}"

    def put(self, name: str, weights: dict[str, torch.Tensor], **facts) -> None:
        """Store a finished variant; `facts` (losses, tokens, ...) go to its line of the index."""
        path = self.folder / f"{name}.safetensors"
        artifacts.write_tensors(path, {k: v.cpu() for k, v in weights.items()}, {"facts": json.dumps(facts)})
        self._add({"name": name, "bytes": path.stat().st_size, **facts})

    def drop(self, name: str, reason: str) -> None:
        """Record that a variant could not be trained; the search leaves it out."""
        self._add({"name": name, "dropped": reason})

    def _add(self, row: dict) -> None:
        artifacts.append_jsonl(self._index_path, row)
        self.index[row["name"]] = row

    def is_dropped(self, layer_idx: int, block: Block) -> bool:
        names = [self.name(layer_idx, kind, variant) for kind, variant in zip(KINDS, block.plain, strict=True)]
        return any("dropped" in self.index.get(name, {}) for name in names)

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return artifacts.read_tensors(artifacts.inside(self.folder, f"{name}.safetensors"))

    def modules(
        self, model: PreTrainedModel, layer_idx: int, block: Block, parent: Block, loaded: dict | None = None
    ) -> tuple[nn.Module, nn.Module]:
        """The attention and FFN of `block` for `layer_idx`, whose own is `parent`, on the layer's device and in the model's
        dtype; where `block` names a number format, with the weights that it keeps.

        Args:
            loaded: sub-blocks of this layer that are in memory already; blocks that share one then hold it once.
        """
        loaded = {} if loaded is None else loaded
        if block != block.plain:
            modules = self.modules(model, layer_idx, block.plain, parent, loaded)
            return tuple(self._rounded(*each, loaded) for each in zip(modules, KINDS, block, strict=True))
        layer = layers_of(model)[layer_idx]
        pair = self.name(layer_idx, "block", block)
        tensors = self.weights(pair) if pair in self.index and "dropped" not in self.index[pair] else {}
        modules = []
        for kind, variant, own in zip(KINDS, block, parent, strict=True):
            prefix = f"{kind}."
            weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if not weights and variant == own != NONE:
                modules.append(sub_block(layer, kind))
            elif variant == NONE:
                modules.append(empty_block(layer, kind, NONE, model.config, layer_idx))
            elif not weights and (kind, variant) in loaded:
                modules.append(loaded[kind, variant])
            else:
                shared = not weights
                weights = weights or self.weights(self.name(layer_idx, kind, variant))
                module = load_block(empty_block(layer, kind, variant, model.config, layer_idx), weights)
                modules.append(module.to(device=device_of(layer), dtype=model.dtype))
                if shared:
                    loaded[kind, variant] = modules[-1]
        return tuple(modules)

    @staticmethod
    def _rounded(module: nn.Module, kind: str, variant: Variant, loaded: dict) -> nn.Module:
        if (name := weight_type(variant)) is None:
            return module
        known = loaded.get((kind, variant))
        if known is None or known[0] is not module:  # that of a pair is another
            loaded[kind, variant] = known = (module, rounded(module, name))
        return known[1]
