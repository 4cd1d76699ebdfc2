"""The same function in other layers: a DeciLM child cut again so that an engine runs it correctly.

A child is a chain of residual units (attention, linear map, FFN), each x += f(norm(x)) with a norm of its own. Where
the chain is cut into layers is free, a unit of zeros changes nothing, and KV heads may be repeated: every rewrite here
computes what the child computes, exactly. What has no exact rewrite is refused, never written.
"""

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch.nn import functional as F
from transformers import PretrainedConfig

from ..blocks import LINEAR, NONE, Block
from ..formats import as_tied, stock_config
from ..remote.configuration_decilm import FFN_WIDTH_STEP, DeciLMConfig, block_config
from . import ENGINES, check_engines, refuses, refuses_model, runs_directly, splits_heads, why_not_direct
from .check import check_tensors


State = dict[str, torch.Tensor]
Kind = Literal["attention", "linear", "ffn"]
Slot = Literal["attention", "ffn"]

# silu(32) is exactly 32 in float32, and so is the product with 1/32: silu(gate) * up passes on every bit of up
_GATE_BIAS = 32.0
# slot: norm, prefix of the tensors, name of a linear map
_NAMES = {
    "attention": ("input_layernorm.weight", "self_attn.", "linear_attn.weight"),
    "ffn": ("post_attention_layernorm.weight", "mlp.", "linear_mlp.weight"),
}


class CannotRun(ValueError):
    """No exact rewrite makes the child run in an engine; the message names engine, layer, reason and way out."""


class Rewritten(NamedTuple):
    """A child after a rewrite; `changes` says what was done, by the layers of the child before it."""

    config: DeciLMConfig
    state: State
    changes: list[str]


def rewrite(config: DeciLMConfig, state: State, engine: str, tensor_parallel: int = 1) -> Rewritten:
    """The child as `engine` runs it: dummy layers dropped, and whatever else the engine needs.

    Tensors that do not change are shared with `state`.

    Args:
        tensor_parallel: devices that attention heads are split over; KV heads are repeated until they divide.

    Raises:
        CannotRun: no exact rewrite exists.
        FolderError: `state` does not fit `config`.
    """
    check_engines([engine])
    chain = _Chain(config, state)
    if reason := refuses_model(engine, config):
        able = [name for name, row in ENGINES.items() if row.rewritten and refuses_model(name, config) is None]
        raise CannotRun(f"{engine} cannot run this child: {reason}; {_way_out(able)}")
    chain.drop_dummies()
    blocks = chain.blocks()
    for i, block in enumerate(blocks):
        if reason := refuses(engine, i, len(blocks), *block):
            able = [e for e, row in ENGINES.items() if row.rewritten and refuses(e, i, len(blocks), *block) is None]
            raise CannotRun(
                f"{engine} cannot run layer {chain.origin(i)} ({block.id}): {reason}; {_way_out(able)}, or name "
                f"{engine} in the recipe's `deploy`, and the search leaves such blocks out"
            )
    row = ENGINES[engine]
    if chain.qkv_bias and not row.qkv_bias:
        chain.widen_biases()
    if row.rewritten and not _cut_runs(engine, blocks):
        chain.recut(engine)
    chain.repeat_kv_heads(engine, tensor_parallel)
    if not runs_directly(engine, chain.blocks(), config.num_attention_heads):
        raise CannotRun(f"{engine} cannot run this child: no layer has attention; {_way_out(['transformers'])}")
    return chain.written()


def as_plain(config: DeciLMConfig, state: State) -> tuple[PretrainedConfig, State] | None:
    """The child as a stock Llama (with biases on q, k and v only: Qwen2), which every engine opens without our code.

    None unless the chain can be cut into layers of one GQA attention and one FFN, all of them alike.
    """
    chain = _Chain(config, state)
    chain.drop_dummies()
    if any(unit.kind == "linear" for unit in chain.units()):
        return None
    chain.cut()
    blocks = set(chain.blocks())
    if len(blocks) != 1 or NONE in next(iter(blocks)) or (chain.qkv_bias and config.mlp_bias):
        return None
    block, child = blocks.pop(), chain.written()
    return stock_config(child.config, block), child.state


def _way_out(engines: list[str]) -> str:
    return f"{', '.join(engines)} can" if engines else "no engine of the table can"


def _cut_runs(engine: str, blocks: list[Block]) -> bool:
    live = any(isinstance(block.attention, int) for block in blocks)
    return (live or ENGINES[engine].attention_free_model) and all(
        why_not_direct(engine, i, len(blocks), *block) is None for i, block in enumerate(blocks)
    )


@dataclass(frozen=True)
class _Unit:
    """x += f(norm(x)); `layer` is the child's before any rewrite, None for a unit that was put in."""

    kind: Kind
    slot: Slot
    layer: int | None
    norm: torch.Tensor
    tensors: State  # names within the sub-block; a linear map has `weight` alone


class _Chain:
    """A child as layers of units, each layer a dict from slot to unit; methods change it in place."""

    def __init__(self, config: DeciLMConfig, state: State):
        check_tensors(config, {name: tuple(tensor.shape) for name, tensor in state.items()}, "state")
        self.config = copy.deepcopy(as_tied(config, state))
        self.others: State = {}
        self.layers: list[dict[Slot, _Unit]] = [{} for _ in config.block_configs]
        self.notes: dict[str, list[int]] = {}
        tensors: list[State] = [{} for _ in config.block_configs]
        for name, tensor in state.items():
            if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name):
                if not name.endswith("rotary_emb.inv_freq"):  # of old checkpoints
                    tensors[int(match[1])][match[2]] = tensor
            else:
                self.others[name] = tensor
        for i, own in enumerate(tensors):
            for slot, (norm, prefix, linear) in _NAMES.items():
                if norm in own:
                    inner = {n.removeprefix(prefix): t for n, t in own.items() if n.startswith(prefix)}
                    if linear in inner:
                        self.layers[i][slot] = _Unit("linear", slot, i, own[norm], {"weight": inner[linear]})
                    else:
                        self.layers[i][slot] = _Unit(slot, slot, i, own[norm], inner)

    @property
    def qkv_bias(self) -> bool:
        return getattr(self.config, "qkv_bias", False) and not self.config.attention_bias

    def units(self) -> Iterator[_Unit]:
        return (layer[slot] for layer in self.layers for slot in _NAMES if slot in layer)

    def blocks(self) -> list[Block]:
        return [Block(*(self._variant(layer.get(slot)) for slot in _NAMES)) for layer in self.layers]

    def _variant(self, unit: _Unit | None) -> int | str:
        if unit is None:
            return NONE
        if unit.kind == "linear":
            return LINEAR
        if unit.kind == "ffn":
            return unit.tensors["gate_proj.weight"].shape[0]
        return unit.tensors["k_proj.weight"].shape[0] // self.config.head_dim

    def origin(self, layer_idx: int) -> int:
        """The layer of the child before any rewrite that a layer begins with."""
        return next(unit.layer for unit in self.layers[layer_idx].values())

    def note(self, text: str, *layers: int) -> None:
        self.notes.setdefault(text, []).extend(layers)

    def map_units(self, change) -> None:
        self.layers = [{slot: change(unit) for slot, unit in layer.items()} for layer in self.layers]

    def written(self) -> Rewritten:
        config, state = self.config, dict(self.others)
        heads, hidden = config.num_attention_heads, config.hidden_size
        entries = [block_config(heads, hidden, *block) for block in self.blocks()]
        sizes = {"hidden_size": hidden, "num_attention_heads": heads, "head_dim": config.head_dim}
        config.block_configs = DeciLMConfig(block_configs=entries, **sizes).block_configs
        config.num_hidden_layers = len(entries)
        for i, layer in enumerate(self.layers):
            for slot, unit in layer.items():
                norm, prefix, linear = _NAMES[slot]
                state[f"model.layers.{i}.{norm}"] = unit.norm
                for name, tensor in unit.tensors.items():
                    state[f"model.layers.{i}.{prefix}{linear if unit.kind == 'linear' else name}"] = tensor
        changes = []
        for text, noted in self.notes.items():
            layers = sorted(set(noted))
            where = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}: " if layers else ""
            changes.append(where + text)
        return Rewritten(config, state, changes)

    # -- rewrites

    def drop_dummies(self) -> None:
        for i, layer in enumerate(self.layers):
            if not layer:
                self.note("dropped, for it has neither attention nor FFN", i)
        self.layers = [layer for layer in self.layers if layer]

    def widen_biases(self) -> None:
        """From biases on q, k and v to biases on all four."""

        def widen(unit: _Unit) -> _Unit:
            if unit.kind != "attention":
                return unit
            return replace(unit, tensors=unit.tensors | {"o_proj.bias": torch.zeros_like(unit.norm)})

        self.map_units(widen)
        self.config.attention_bias = True
        del self.config.qkv_bias
        self.note("o_proj gets a bias of zeros: the engine knows biases on q, k, v and o, or none")

    def cut(self) -> None:
        """Cut the chain into as few layers as its slots allow."""
        chain, self.layers = list(self.units()), []
        for unit in chain:
            if unit.slot == "attention" or not self.layers or "ffn" in self.layers[-1]:
                self.layers.append({unit.slot: unit})
                continue
            if self.layers[-1]["attention"].layer != unit.layer:
                self.note("joins the layer before it", unit.layer)
            self.layers[-1]["ffn"] = unit

    def recut(self, engine: str) -> None:
        """Cut so that `engine` runs every layer; the blocks must not be refused by it."""
        row = ENGINES[engine]
        if not row.linear_attention:
            self._linear_maps_to_ffns()
        elif not row.linear_ffn:
            self.map_units(self._moved)
        self.cut()
        if not row.attention_free_model and not any(unit.kind == "attention" for unit in self.units()):
            self._put_in_front(self._zero_attention())
        elif first := self.layers[0].get("attention"):
            if first.kind == "linear" and not row.linear_first_layer:
                self._put_in_front(self._zero_attention())
        elif not row.attention_free_first_layer:
            self._put_in_front(self._zero_linear() if row.linear_first_layer else self._zero_attention())
        for i, layer in enumerate(self.layers):
            if "ffn" not in layer and not (
                row.ffn_none_after_attention and (row.ffn_free_last_layer or i < len(self.layers) - 1)
            ):
                layer["ffn"] = self._zero_ffn()
                behind = layer["attention"].layer
                self.note(
                    f"an FFN of zeros, {FFN_WIDTH_STEP} wide, put behind the attention",
                    *([] if behind is None else [behind]),
                )

    def _moved(self, unit: _Unit) -> _Unit:
        if unit.kind != "linear" or unit.slot == "attention":
            return unit
        self.note("linear FFN moved to a linear attention", unit.layer)
        return replace(unit, slot="attention")

    def _linear_maps_to_ffns(self) -> None:
        if not any(unit.kind == "linear" for unit in self.units()):
            return
        biased = self.config.mlp_bias
        self.config.mlp_bias = True

        def change(unit: _Unit) -> _Unit:
            if unit.kind == "linear":
                self.note("linear map written as an FFN with biases", unit.layer)
                return self._linear_as_ffn(unit)
            if unit.kind == "ffn" and not biased:
                return replace(unit, tensors=unit.tensors | self._zero_ffn_biases(unit.tensors))
            return unit

        self.map_units(change)
        if not biased:
            self.note("all other FFNs get biases of zeros")

    def _linear_as_ffn(self, unit: _Unit) -> _Unit:
        """W x as down(silu(gate) * up): gate is a constant, up is W, down is the identity over that constant."""
        weight, hidden = unit.tensors["weight"], self.config.hidden_size
        width = -(-hidden // FFN_WIDTH_STEP) * FFN_WIDTH_STEP
        tensors = {
            "gate_proj.weight": weight.new_zeros(width, hidden),
            "up_proj.weight": F.pad(weight, (0, 0, 0, width - hidden)),
            "down_proj.weight": F.pad(torch.eye(hidden).to(weight) / _GATE_BIAS, (0, width - hidden)),
        }
        tensors |= self._zero_ffn_biases(tensors) | {"gate_proj.bias": weight.new_full((width,), _GATE_BIAS)}
        return replace(unit, kind="ffn", slot="ffn", tensors=tensors)

    def _zero_ffn_biases(self, tensors: State) -> State:
        names = ("gate_proj", "up_proj", "down_proj")
        return {f"{name}.bias": (w := tensors[f"{name}.weight"]).new_zeros(w.shape[0]) for name in names}

    def _put_in_front(self, unit: _Unit) -> None:
        if not self.layers or "attention" in self.layers[0]:
            self.layers.insert(0, {})
        self.layers[0] = {"attention": unit, **self.layers[0]}
        what = "attention of 1 KV head" if unit.kind == "attention" else "a linear map"
        self.note(f"{what}, all zeros, put in front: the engine needs it there")

    def _zeros(self, kind: Kind, slot: Slot, shapes: dict[str, tuple[int, ...]]) -> _Unit:
        like = self.others["model.norm.weight"]
        tensors = {name: like.new_zeros(shape) for name, shape in shapes.items()}
        return _Unit(kind, slot, None, torch.ones_like(like), tensors)

    def _zero_attention(self) -> _Unit:
        hidden, head = self.config.hidden_size, self.config.head_dim
        query = head * self.config.num_attention_heads
        shapes: dict[str, tuple[int, ...]] = {f"{x}_proj.weight": (head, hidden) for x in "kv"}
        shapes |= {"q_proj.weight": (query, hidden), "o_proj.weight": (hidden, query)}
        if self.config.attention_bias or self.qkv_bias:
            shapes |= {"q_proj.bias": (query,), "k_proj.bias": (head,), "v_proj.bias": (head,)}
        if self.config.attention_bias:
            shapes["o_proj.bias"] = (hidden,)
        return self._zeros("attention", "attention", shapes)

    def _zero_linear(self) -> _Unit:
        return self._zeros("linear", "attention", {"weight": (self.config.hidden_size,) * 2})

    def _zero_ffn(self) -> _Unit:
        hidden, width = self.config.hidden_size, FFN_WIDTH_STEP
        shapes = {"gate_proj.weight": (width, hidden), "up_proj.weight": (width, hidden)}
        unit = self._zeros("ffn", "ffn", shapes | {"down_proj.weight": (hidden, width)})
        if not self.config.mlp_bias:
            return unit
        return replace(unit, tensors=unit.tensors | self._zero_ffn_biases(unit.tensors))

    def repeat_kv_heads(self, engine: str, tensor_parallel: int) -> None:
        """Repeat KV heads until they are as many as `engine` wants, on that many devices."""
        row, heads = ENGINES[engine], self.config.num_attention_heads
        if not splits_heads(engine, tensor_parallel, heads) or heads % tensor_parallel:
            raise CannotRun(
                f"{engine} cannot split {heads} heads over {tensor_parallel} devices: use a divisor of {heads}"
                if row.tensor_parallel
                else f"{engine} is not known to split attention heads over {tensor_parallel} devices: use 1"
            )
        counts = [self._variant(unit) for unit in self.units() if unit.kind == "attention"]
        least = {"any": 1, "one": math.lcm(*counts), "all": heads if counts else 1}[row.kv_heads]

        def wanted(count: int) -> int:
            step = math.lcm(count, least)
            multiples = (n for n in range(step, heads + 1, step) if heads % n == 0)
            return next(n for n in multiples if splits_heads(engine, tensor_parallel, n))

        def repeat(unit: _Unit) -> _Unit:
            if unit.kind != "attention" or (target := wanted(count := self._variant(unit))) == count:
                return unit
            self.note(f"{count} KV heads repeated up to {target}", *([] if unit.layer is None else [unit.layer]))
            changed = {
                name: tensor.unflatten(0, (count, -1)).repeat_interleave(target // count, dim=0).flatten(0, 1)
                for name, tensor in unit.tensors.items()
                if name[0] in "kv"
            }
            return replace(unit, tensors=unit.tensors | changed)

        self.map_units(repeat)
