"""ONNX graphs of Llama-shaped models, written operator by operator: in no time and no more memory than the weights.

What transformers' exporter traces in ten to twenty seconds for three small layers. Other families go through it (`onnx.py`).
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from ..blocks import LINEAR, NONE, Block
from ..formats import DECILM, FormatError, convert, describe
from ..hub import parts_of
from ..remote.configuration_decilm import DeciLMConfig


OPSET, IR_VERSION = 18, 10
ROPES = ("default", "linear", "llama3", "yarn")  # the angles of any other depend on the text


def decilm_parts(model: PreTrainedModel) -> tuple[DeciLMConfig, dict[str, torch.Tensor]] | None:
    """Config and tensors of what `decilm_graph` can write; None for all else."""
    try:
        config, state = convert(*parts_of(model), DECILM)
    except FormatError:
        return None
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    return (config, state) if config.hidden_act == "silu" and rope in ROPES else None


def decilm_graph(model: PreTrainedModel, config: DeciLMConfig, state: dict[str, torch.Tensor]) -> ir.Model:
    """The graph of a model whose `decilm_parts` are `config` and `state`, in float32."""
    return _Graph(model, config, state).written()


class _Graph:
    def __init__(self, model: PreTrainedModel, config: DeciLMConfig, state: dict[str, torch.Tensor]):
        self.config, self.state, self.blocks = config, state, describe(config)
        rotary = model.get_decoder().rotary_emb
        self.angles = rotary.inv_freq.float().numpy(), float(rotary.attention_scaling)
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}
        whole = ir.TensorType(ir.DataType.INT64)
        self.ids, self.mask, self.positions = (
            ir.Value(name=name, shape=ir.Shape(["batch", length]), type=whole)
            for name, length in (("input_ids", "tokens"), ("attention_mask", "total"), ("position_ids", "tokens"))
        )
        self.past: list[ir.Value] = []
        self.present: list[ir.Value] = []

    def written(self) -> ir.Model:
        self.embedding = self._weight("model.embed_tokens.weight", turned=False)
        hidden = self._("Gather", self.embedding, self.ids)
        if any(isinstance(block.attention, int) for block in self.blocks):
            self._prepare()
        for i, block in enumerate(self.blocks):
            hidden = self._layer(i, block, hidden)
        hidden = self._norm(hidden, "model.norm.weight")
        if self.config.tie_word_embeddings:  # stored once
            head = self._("Transpose", self.embedding, perm=[1, 0])
        else:
            head = self._weight("lm_head.weight")
        logits = self._("MatMul", hidden, head)
        logits.name = "logits"
        logits.shape, logits.type = ir.Shape(["batch", "tokens", self.config.vocab_size]), _FLOAT
        graph = ir.Graph(
            [self.ids, self.mask, self.positions, *self.past],
            [logits, *self.present],
            nodes=self.nodes,
            initializers=list(self.constants.values()),
            opset_imports={"": OPSET},
            name="decoder",
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="hf_puzzle")

    # -- pieces

    def _(self, kind: str, *inputs: ir.Value, **attributes) -> ir.Value:
        node = ir.node(kind, inputs, attributes=attributes)
        self.nodes.append(node)
        node.outputs[0].name = f"{kind}_{len(self.nodes)}"
        return node.outputs[0]

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        if name not in self.constants:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.constants[name] = value
        return self.constants[name]

    def _number(self, value: float) -> ir.Value:
        return self._constant(f"number_{value!r}", np.array(value, np.float32))

    def _ints(self, values: Iterable[int]) -> ir.Value:
        values = list(values)
        return self._constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def _weight(self, name: str, turned: bool = True) -> ir.Value:
        """A tensor of the model; matrices from the right, as MatMul takes them."""
        tensor = self.state[name].float()
        array = tensor.T.contiguous().numpy() if turned and tensor.ndim == 2 else tensor.contiguous().numpy()
        return self._constant(name, array)

    def _map(self, hidden: ir.Value, name: str) -> ir.Value:
        found = self._("MatMul", hidden, self._weight(f"{name}.weight"))
        return self._("Add", found, self._weight(f"{name}.bias")) if f"{name}.bias" in self.state else found

    def _norm(self, hidden: ir.Value, name: str) -> ir.Value:
        squares = self._("ReduceMean", self._("Mul", hidden, hidden), self._ints([-1]), keepdims=1)
        size = self._("Sqrt", self._("Add", squares, self._number(self.config.rms_norm_eps)))
        return self._("Mul", self._("Div", hidden, size), self._weight(name))

    # -- what all layers share

    def _prepare(self) -> None:
        """Angles (batch, 1, tokens, head_dim) and the mask (batch, 1, tokens, total) that is added to scores."""
        frequencies, scaling = self.angles
        times = self._("Unsqueeze", self._("Cast", self.positions, to=_FLOAT.dtype), self._ints([1, 3]))
        turns = self._constant(
            "frequencies", np.concatenate([frequencies, frequencies])[None, None, None].astype(np.float32)
        )
        turns = self._("Mul", times, turns)
        self.turned = [self._(kind, turns) for kind in ("Cos", "Sin")]
        if scaling != 1.0:
            self.turned = [self._("Mul", each, self._number(scaling)) for each in self.turned]
        total, tokens = (self._("Gather", self._("Shape", x), self._whole(1)) for x in (self.mask, self.ids))
        every = self._("Range", self._whole(0), total, self._whole(1))
        own = self._(
            "Unsqueeze", self._("Range", self._("Sub", total, tokens), total, self._whole(1)), self._ints([1])
        )
        seen = self._("LessOrEqual", self._("Unsqueeze", every, self._ints([0])), own)
        real = self._("Unsqueeze", self._("Cast", self.mask, to=ir.DataType.BOOL), self._ints([1, 2]))
        lowest = self._number(float(np.finfo(np.float32).min))
        self.bias = self._("Where", self._("And", seen, real), self._number(0.0), lowest)

    def _whole(self, value: int) -> ir.Value:
        return self._constant(f"whole_{value}", np.array(value, np.int64))

    # -- layers

    def _layer(self, i: int, block: Block, hidden: ir.Value) -> ir.Value:
        place = f"model.layers.{i}"
        if block.attention != NONE:
            normed = self._norm(hidden, f"{place}.input_layernorm.weight")
            if block.attention == LINEAR:
                update = self._map(normed, f"{place}.self_attn.linear_attn")
            else:
                update = self._attention(f"{place}.self_attn", block.attention, normed)
            hidden = self._("Add", hidden, update)
        if block.ffn != NONE:
            normed = self._norm(hidden, f"{place}.post_attention_layernorm.weight")
            if block.ffn == LINEAR:
                update = self._map(normed, f"{place}.mlp.linear_mlp")
            else:
                gate, up = (self._map(normed, f"{place}.mlp.{name}_proj") for name in ("gate", "up"))
                gate = self._("Mul", gate, self._("Sigmoid", gate))
                update = self._map(self._("Mul", gate, up), f"{place}.mlp.down_proj")
            hidden = self._("Add", hidden, update)
        return hidden

    def _attention(self, place: str, heads: int, hidden: ir.Value) -> ir.Value:
        size, all_heads, slot = self.config.head_dim, self.config.num_attention_heads, len(self.past) // 2
        query, key, value = (
            self._("Transpose", self._("Reshape", self._map(hidden, f"{place}.{name}_proj"), self._ints([0, 0, n, size])), perm=[0, 2, 1, 3])
            for name, n in (("q", all_heads), ("k", heads), ("v", heads))
        )  # fmt: skip
        query, key = self._turn(query), self._turn(key)
        key, value = self._remember(slot, "key", heads, key), self._remember(slot, "value", heads, value)
        if heads != all_heads:
            key, value = self._repeated(key, heads), self._repeated(value, heads)
        query = self._("Mul", query, self._number(size**-0.5))
        scores = self._("MatMul", query, self._("Transpose", key, perm=[0, 1, 3, 2]))
        weights = self._("Softmax", self._("Add", scores, self.bias), axis=-1)
        mixed = self._("Transpose", self._("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self._map(self._("Reshape", mixed, self._ints([0, 0, all_heads * size])), f"{place}.o_proj")

    def _turn(self, states: ir.Value) -> ir.Value:
        half = self.config.head_dim // 2
        first, second = (
            self._("Slice", states, self._ints([start]), self._ints([end]), self._ints([3]))
            for start, end in ((0, half), (half, 2 * half))
        )
        other = self._("Concat", self._("Neg", second), first, axis=3)
        return self._("Add", self._("Mul", states, self.turned[0]), self._("Mul", other, self.turned[1]))

    def _remember(self, slot: int, name: str, heads: int, states: ir.Value) -> ir.Value:
        shape = ["batch", heads, "past", self.config.head_dim]
        past = ir.Value(name=f"past_key_values.{slot}.{name}", shape=ir.Shape(shape), type=_FLOAT)
        self.past.append(past)
        whole = self._("Concat", past, states, axis=2)
        whole.name = f"present.{slot}.{name}"
        whole.shape, whole.type = ir.Shape(["batch", heads, "total", self.config.head_dim]), _FLOAT
        self.present.append(whole)
        return whole

    def _repeated(self, states: ir.Value, heads: int) -> ir.Value:
        """(batch, heads, total, head_dim), each head as often as queries share it."""
        times, size = self.config.num_attention_heads // heads, self.config.head_dim
        apart = self._("Unsqueeze", states, self._ints([2]))
        wide = self._("Expand", apart, self._ints([1, 1, times, 1, 1]))
        total = self._("Slice", self._("Shape", states), self._ints([2]), self._ints([3]))
        shape = self._("Concat", self._ints([0, heads * times]), total, self._ints([size]), axis=0)
        return self._("Reshape", wide, shape)


_FLOAT = ir.TensorType(ir.DataType.FLOAT)
