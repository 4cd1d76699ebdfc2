"""Seconds of the pieces that stages are made of: by a roofline over a machine's data sheet, or timed here.

Every piece has three numbers: FLOPs of its matrix products, bytes that it moves, operations that it starts. On a data
sheet it takes max(FLOPs / (peak x utilisation), bytes / bandwidth) + operations x start. `Measured` runs the piece on
random tensors of the parent's shapes instead, with fewer tokens where that would take long, and scales by the FLOPs.
"""

import copy
import functools
import itertools
import math
import os
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import DynamicCache

from .. import artifacts, data
from ..anatomy import Head, frozen, head_of
from ..blocks import NONE, Block, Variant, kv_heads, plain, sizes_of, window
from ..corpora import asks, open_corpus
from ..costs import Timing, Workload, clock_ms, weight_bytes
from ..evaluation import QUANTITIES, Answer
from ..formats import choose_format
from ..layers import may_differ, mixture_attributes, parent_blocks, stock_class, stock_value, with_layers
from ..optim import MuonWithAdamW
from ..recipe import DataConfig, RecipeError
from ..remote.caches_puzzle import OUTPUT_NAME
from .block_costs import BYTES, kv_bytes_per_token, kv_tokens, state_bytes
from .block_loss import normalized_mse
from .distillation import chunked_kl, cosine_distance
from .experts import expert_width, experts_of
from .machines import Machine
from .network import Network
from .surgery import (
    KINDS,
    count_parameters,
    empty_block,
    hidden_states_of,
    layer_for,
    layers_of,
    meta_parent,
    only_layers,
    output_projection,
    sub_blocks,
    swapped,
)


Mode = Literal["forward", "local", "whole"]  # no gradients; gradients of weights alone; of weights and inputs
QUESTION_SECONDS = 6e-3  # of a decision request, until it is a row


@dataclass(frozen=True)
class Part:
    """A sub-block's sizes, read off its modules on the meta device.

    Attributes:
        parameters: with biases, without the norms before it.
        matrices: weights of its matrices that a token passes, of experts those that it is routed to; 2 FLOPs for each.
        out: of these, those of the matrix that writes to the residual stream.
        width: what leaves its other matrices, per token.
        heads: query heads x head size; 0 without attention.
        window: tokens an attention sees at most.
        experts: weights of all experts together; 0 without.
        routed: share of the experts that a token passes.
    """

    parameters: int
    matrices: int
    out: int
    width: int
    heads: int
    window: int | None
    experts: int = 0
    routed: float = 1.0

    def read(self, tokens: float) -> float:
        """Weights that so many tokens pass together, their experts drawn at random."""
        hit = 1 - (1 - self.routed) ** tokens if self.routed < 1 else 1.0
        return self.matrices + self.experts * (hit - self.routed)


class Shapes:
    """Everything about a parent that time and memory depend on; from its config alone.

    Of a recurrent mixer the matrices are counted, not the update of its state; of experts, those that a token passes.
    """

    def __init__(self, config):
        self.config, self.own = config, parent_blocks(config)
        parent = meta_parent(config)
        self.layers = layers_of(parent)
        self.hidden, self.vocab, self.num_layers = config.hidden_size, config.vocab_size, config.num_hidden_layers
        self.tied = bool(config.tie_word_embeddings)
        blocks = sum(p.numel() for p in layers_of(parent).parameters())
        self.parameters = sum(p.numel() for p in parent.parameters())
        self.ends = self.parameters - blocks

    @functools.cache  # noqa: B019 (lives as long as its plan)
    def part(self, kind: str, variant: Variant) -> Part:
        variant = plain(variant)
        if variant == NONE:
            return Part(0, 0, 0, 0, 0, None)
        host = layer_for(self.config, kind, variant)
        block = empty_block(self.layers[host], kind, variant, self.config, host)
        output, experts = output_projection(block), experts_of(block)
        matrices = {name: p for name, p in block.named_parameters() if p.ndim == 2 and not name.startswith("experts.")}
        width = sum(p.shape[0] for p in matrices.values() if output is None or p is not output.weight)
        parameters, dense = sum(p.numel() for p in block.parameters()), sum(p.numel() for p in matrices.values())
        if experts is not None:
            per_token = sizes_of("ffn", variant).get("experts_per_tok") or min(
                stock_value(self.config, mixture_attributes(self.config)["experts_per_tok"]), experts.num_experts
            )
            stacked, routed = (
                sum(p.numel() for p in experts.parameters() if p.ndim == 3),
                per_token / experts.num_experts,
            )
            width += per_token * (2 if experts.has_gate else 1) * expert_width(experts)
            out = round(routed * experts.down_proj.numel())
            return Part(parameters, round(dense + routed * stacked), out, width, 0, None, stacked, routed)
        heads = output.in_features if kind == "attention" and kv_heads(variant) else 0
        return Part(
            parameters, dense, output.weight.numel(), width, heads, window(variant) if kind == "attention" else None
        )

    def kept_bytes(self, attention: Variant, tokens: int, dtype: str) -> int:
        """What an attention keeps of a sequence of so many tokens: keys and values, or states."""
        per_token = kv_bytes_per_token(self.config, attention, dtype)
        return kv_tokens(attention, tokens) * per_token + state_bytes(self.config, attention, dtype)

    def mean(self, value: Callable[[Block], float]) -> float:
        """Over the parent's layers, of what depends on a layer's block."""
        counts = Counter(self.own)
        if len(counts) == 1:
            return value(self.own[0])
        return sum(count * value(block) for block, count in counts.items()) / len(self.own)

    @functools.cache  # noqa: B019
    def weights(self, kind: str, variant: Variant) -> int:
        """Parameters of a sub-block with the norms that only it passes through."""
        return count_parameters(self.config, kind, plain(variant))

    def flops(
        self, kind: str, variant: Variant, rows: int, length: int, mode: Mode = "forward", past: int = 0
    ) -> float:
        """FLOPs of a sub-block on `rows x length` tokens behind `past` others: 2 per weight and token; queries times
        keys and weights times values take 4 x heads x tokens seen, of which a causal mask leaves half."""
        part = self.part(kind, variant)
        seen = min(past + length / 2, part.window or past + length)
        forward = rows * length * (2 * part.matrices + 4 * part.heads * seen)
        # backward takes as much for the weights and as much for the inputs, which the first matrices do not need here
        without = 2 * (part.matrices - part.out) * rows * length
        return {"forward": forward, "whole": 3 * forward, "local": 3 * forward - without}[mode]


class Clock:
    """Seconds by a machine's data sheet; `Measured` overrides `_seconds`.

    Args:
        dtype: of the parent's weights.
        compute: dtype that trainings compute in (`bf16: true`).
    """

    def __init__(self, machine: Machine, shapes: Shapes, dtype: str, compute: str):
        self.machine, self.shapes, self.dtype, self.compute = machine, shapes, dtype, compute
        self.width, self.compute_width = BYTES[dtype], BYTES[compute]

    def _seconds(self, name: tuple, flops: float, moved: float, ops: int, dtype: str, shape: tuple = ()) -> float:
        """`name` is a method of `_Pieces` with its first arguments, `shape` the rows and length that may be cut."""
        machine = self.machine
        rate = machine.flops.get(dtype) or max(machine.flops.values())
        return max(flops / (rate * machine.utilisation), moved / machine.memory_bandwidth) + ops * machine.op_seconds

    # -- parts of a model's pass; `rows` sequences of `length` tokens

    def part(self, kind: str, variant: Variant, rows: int, length: int, mode: Mode = "forward") -> float:
        """A sub-block; with a gradient, also its local loss (`local`)."""
        variant = plain(variant)
        if variant == NONE:
            return 0.0
        part, passes = self.shapes.part(kind, variant), 1 if mode == "forward" else 3
        width = self.width if mode == "forward" else self.compute_width
        moved = passes * (part.read(rows * length) + rows * length * (3 * part.width + 4 * self.shapes.hidden)) * width
        flops = self.shapes.flops(kind, variant, rows, length, mode)
        dtype = self.dtype if mode == "forward" else self.compute
        return self._seconds(("part", kind, variant, mode), flops, moved, 12 * passes, dtype, (rows, length))

    def frame(self, rows: int, length: int, mode: Mode = "forward") -> float:
        """A layer without its sub-blocks: norms and residual sums."""
        passes = 1 if mode == "forward" else 3
        moved = passes * 16 * rows * length * self.shapes.hidden * 4
        return self._seconds(("frame", mode), 0.0, moved, 16 * passes, self.dtype, (rows, length))

    def ends(self, rows: int, length: int) -> float:
        """What a decoder does besides its layers: embeddings, positions, masks, final norm."""
        moved = 10 * rows * length * self.shapes.hidden * 4
        return self._seconds(("ends",), 0.0, moved, 60, self.dtype, (rows, length))

    def logits(self, rows: int, length: int) -> float:
        tokens, shapes = rows * length, self.shapes
        flops = 2.0 * tokens * shapes.hidden * shapes.vocab
        moved = (shapes.hidden * (shapes.vocab + tokens) + tokens * shapes.vocab) * self.width
        return self._seconds(("logits",), flops, moved, 2, self.dtype, (rows, length))

    def layer(self, block: Block, rows: int, length: int, mode: Mode = "forward") -> float:
        parts = sum(self.part(kind, v, rows, length, mode) for kind, v in zip(KINDS, block, strict=True))
        return parts + self.frame(rows, length, mode)

    def parent(self, rows: int, length: int, layers: int | None = None, logits: bool = False) -> float:
        """A forward of the parent's first `layers` layers."""
        seconds = self.ends(rows, length)
        for own, count in Counter(self.shapes.own[:layers]).items():
            seconds += count * self.layer(own, rows, length)
        return seconds + (self.logits(rows, length) if logits else 0.0)

    # -- what is done with logits and activations

    def divergence(self, rows: int, length: int) -> float:
        """A metric of two logits per token, and their distributions in float32."""
        moved = 10 * rows * length * self.shapes.vocab * 4
        return self._seconds(("divergence",), 0.0, moved, 14, "float32", (rows, length))

    def judge(self, rows: int, length: int) -> float:
        """What `evaluation.compare` reads off two logits."""
        moved = 20 * rows * length * self.shapes.vocab * 4
        return self._seconds(("judge",), 0.0, moved, 60, "float32", (rows, length))

    def rank(self, rows: int, length: int, channels: int) -> float:
        """|activation| of each channel, summed."""
        moved = 4 * rows * length * channels * 4
        return self._seconds(("rank", channels), 0.0, moved, 5, "float32", (rows, length))

    def global_loss(self, rows: int, length: int, chunk: int) -> float:
        """KL of two heads over the vocabulary and its gradient; chunks of logits are computed twice."""
        tokens, shapes = rows * length, self.shapes
        heads = 2.0 * tokens * shapes.hidden * shapes.vocab
        flops = heads * (6 if tokens > chunk else 4)
        moved = 30 * tokens * shapes.vocab * 4
        ops = 60 * -(-tokens // chunk)
        return self._seconds(("global_loss", chunk), flops, moved, ops, self.compute, (rows, length))

    def cosine(self, rows: int, length: int) -> float:
        """1 - cosine of one layer's states, with its gradient."""
        moved = 30 * rows * length * self.shapes.hidden * 4
        return self._seconds(("cosine",), 0.0, moved, 40, "float32", (rows, length))

    # -- per weight

    def adamw(self, parameters: int) -> float:
        """One step with clipping: read weight, gradient and two moments, write three of them."""
        largest = max(self.shapes.part(kind, getattr(own, kind)).out for own in set(self.shapes.own) for kind in KINDS)
        tensor = max(1, min(parameters, largest))
        step = self._seconds(("adamw", tensor), 0.0, 36.0 * tensor, 15, "float32")
        return step * parameters / tensor

    def init(self, parameters: float) -> float:
        """Random weights of a model that is timed."""
        tensor = 2**20
        return parameters / tensor * self._seconds(("init",), 0.0, 8.0 * tensor, 3, "float32")

    def muon(self, shape: tuple[int, int]) -> float:
        """One step on a matrix: five Newton-Schulz iterations in bfloat16."""
        small, large = sorted(shape)
        flops = 5 * (4 * small**2 * large + 2.0 * small**3)
        return self._seconds(("muon", *shape), flops, 60.0 * prod(shape), 40, "bfloat16")

    def gram(self, size: int, out: int, tokens: int) -> float:
        """X^T X and Y^T X in float32, added up in float64."""
        flops, moved = 2.0 * tokens * size * (size + out), 28.0 * size * (size + out)
        return self._seconds(("gram", size, out), flops, moved, 8, "float32", (1, tokens))

    def solve(self, size: int, columns: int) -> float:
        """A linear system in float64; data-centre cards do these at an eighth of TF32, others slower."""
        small = min(size, 768)
        share = (2 / 3 * size**3 + 2.0 * size**2 * columns) / (2 / 3 * small**3 + 2.0 * small**2 * columns)
        flops = (2 / 3 * small**3 + 2.0 * small**2 * columns) * 8
        return share * self._seconds(("solve", small, columns), flops, 24.0 * small**2, 6, "float32")

    # -- generation

    def generation(self, kind: str | None, variant: Variant, workload: Workload) -> Timing:
        """A sub-block's share of a greedy generation; kind None: what a model without layers takes.

        A decoded token reads all weights, and the keys and values that are kept.
        """
        batch, prompt, steps = workload.batch_size, workload.prefill_tokens, workload.decode_tokens - 1
        past = prompt + workload.decode_tokens // 2
        variant = plain(variant)
        if kind is None:
            prefill = self.ends(batch, prompt) + self.logits(batch, 1)
        else:
            prefill = self.part(kind, variant, batch, prompt)
        return Timing(prefill * 1e3, steps * self.decode(kind, variant, batch, past) * 1e3)

    def decode(self, kind: str | None, variant: Variant, batch: int, past: int) -> float:
        """A sub-block on one more token of each sequence, `past` tokens in the cache."""
        if variant == NONE:
            return 0.0
        shapes = self.shapes
        if kind is None:
            weights, kept, ops = shapes.hidden * shapes.vocab, 0, 70
            flops = 2.0 * batch * weights
        else:
            weights, ops = shapes.part(kind, variant).read(batch), 20
            kept = shapes.kept_bytes(variant, past, self.dtype) if kind == "attention" else 0
            flops = shapes.flops(kind, variant, batch, 1, past=past)
        moved = weights * self.width + batch * (kept + 12 * shapes.hidden * self.width)
        return self._seconds(("decode", kind, variant, batch, past), flops, moved, ops, self.dtype)

    # -- files and text

    def store(self, size: float) -> float:
        """Writing a file and hashing it."""
        return size / self.machine.disk_bandwidth

    def block(self, kind: str, variant: Variant) -> float:
        """Making the modules of a sub-block and reading its weights: Python's work, the same on every machine."""
        variant = plain(variant)
        size = self.shapes.part(kind, variant).parameters * 4
        return self._seconds(("block", kind, variant), 0.0, 0.0, 1000, "float32") + self.store(size) / 2

    def open(self, size: float) -> float:
        """Loading a model."""
        return 1.0 + size / self.machine.disk_bandwidth

    def tokenize(self, config: DataConfig) -> float:
        """Both streams of a recipe's text."""
        return (config.num_tokens + config.heldout_tokens) / self.machine.tokens_per_s


class Measured(Clock):
    """Seconds that this machine takes, measured when they are asked for and remembered as long as the plan.

    Args:
        device: where the run would compute.
        text: `data` section of the recipe, and what loads the parent's tokenizer, where both are at hand.
        attention: implementation, where it is not the parent's default.
    """

    MAX_FLOPS = 4e9  # of a piece that is run; more tokens than that are scaled
    MAX_BYTES = 4e9
    MAX_PARAMETERS = 6e8  # of the parent with one layer

    def __init__(
        self,
        shapes: Shapes,
        dtype: str,
        compute: str,
        device: torch.device,
        text: tuple | None = None,
        attention: str | None = None,
    ):
        super().__init__(this_machine(device), shapes, dtype, compute)
        self.text = text
        one_layer = shapes.ends + (shapes.parameters - shapes.ends) / shapes.num_layers
        if one_layer > self.MAX_PARAMETERS:
            raise RecipeError(
                f"machine this: one layer and the embeddings of this parent are {one_layer / 1e9:.1f} B parameters, too "
                "many to be timed here in seconds; name a machine of the table, or a FILE.yaml"
            )
        self.pieces = _Pieces(shapes, getattr(torch, dtype), getattr(torch, compute), device, attention)
        # processor time does not count other jobs; with several threads it counts all of them
        cpu = device.type == "cpu" and torch.get_num_threads() == 1
        self.now = clock_ms("cpu" if cpu else "wall", device)
        self._known: dict[tuple, float] = {}

    def _seconds(self, name: tuple, flops: float, moved: float, ops: int, dtype: str, shape: tuple = ()) -> float:
        if (name, shape) not in self._known:
            cut, share = shape, max(flops / self.MAX_FLOPS, moved / self.MAX_BYTES)
            if shape and share > 1:
                tokens = max(16, int(prod(shape) / share))
                cut = (max(1, tokens // shape[1]), min(shape[1], tokens))
            scale = prod(shape) / prod(cut)
            self._known[name, shape] = scale * self._timed(getattr(self.pieces, name[0])(*name[1:], *cut))
        return self._known[name, shape]

    def _timed(self, call: Callable[[], object]) -> float:
        """Median seconds of a call: three at least, for a tenth of a second."""
        call()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < 100 and len(times) < 50):
            start = self.now()
            call()
            times.append(self.now() - start)
        return statistics.median(times) / 1e3

    def decode(self, kind: str | None, variant: Variant, batch: int, past: int) -> float:
        seconds = super().decode(kind, variant, batch, past)
        ends = 0.0 if kind is None or variant == NONE else super().decode(None, "", batch, past)
        return max(0.0, seconds - ends)

    def store(self, size: float) -> float:
        if "store" not in self._known:
            with tempfile.TemporaryDirectory() as folder:
                tensors, file = {"x": torch.zeros(2**22)}, Path(folder) / "x.safetensors"
                write = self._timed(lambda: artifacts.write_tensors(file, tensors))
                self._known["store"] = (write + self._timed(lambda: artifacts.file_sha256(file))) / 2**24
        return size * self._known["store"]

    def open(self, size: float) -> float:
        if "open" not in self._known:
            model, read = self.pieces.model, self.store(1.0)
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                start = self.now()
                type(model).from_pretrained(folder, dtype=model.dtype)
                seconds = (self.now() - start) / 1e3
            self._known["open"] = max(0.0, seconds - read * weight_bytes(model))
        return self._known["open"] + self.store(size)

    def tokenize(self, config: DataConfig) -> float:
        if self.text is None:
            return super().tokenize(config)
        corpus, load = self.text
        start = self.now()
        if asks(corpus):  # rendering a question and finding its answer is what takes time
            return (config.num_tokens + config.heldout_tokens) / config.sequence_length * QUESTION_SECONDS
        tokenizer, documents = load(), iter(open_corpus(corpus))
        texts = [next(documents)[1]]  # lists all files first
        listed = self.now()
        texts += [
            text for _, text in itertools.islice(documents, 63)
        ]  # with the first a batch, as `tokenize_to` takes them
        opened = self.now()
        batch = sum(len(ids) for ids in data.as_used(texts, tokenizer))
        reading, tokenizing = (opened - listed) / batch, (self.now() - opened) / batch
        # whole batches of documents are tokenized; those of a side that is full already are read and passed over
        train, heldout = (math.ceil(n / batch) * batch for n in (config.num_tokens, config.heldout_tokens))
        fraction = min(0.999, max(0.001, config.heldout_fraction))
        read = max(train / (1 - fraction), heldout / fraction)
        return (listed - start + reading * read + tokenizing * (train + heldout)) / 1e3


def this_machine(device: torch.device) -> Machine:
    """Memory and disk of this machine, for what does not fit; its speed is measured piece by piece."""
    if device.type == "cuda":
        memory, count = torch.cuda.get_device_properties(device).total_memory, torch.cuda.device_count()
    else:
        memory, count = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 1
    room = shutil.disk_usage(".").free
    return Machine({"float32": 1e11}, 2e10, memory / 1e9, "this", count, disk_gb=room / 1e9)


class _Pieces:
    """The pieces of `Clock` on random tensors: every method sets one up and returns a function that does it once."""

    def __init__(
        self, shapes: Shapes, dtype: torch.dtype, compute: torch.dtype, device: torch.device, attention: str | None
    ):
        self.shapes, self.dtype, self.compute, self.device = shapes, dtype, compute, device
        config = copy.deepcopy(shapes.config)
        sources = sorted({shapes.own.index(block) for block in shapes.own})  # a layer of each sort
        if len(sources) < config.num_hidden_layers:
            config = with_layers(config, sources)
        self.model = frozen(stock_class(config)(config).to(device, dtype))
        if attention is not None:
            self.model.set_attn_implementation(attention)

    def _states(self, rows: int, length: int, channels: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(rows, length, channels, device=self.device, dtype=dtype or self.dtype)

    def _ids(self, rows: int, length: int) -> torch.Tensor:
        return torch.randint(0, self.shapes.vocab, (rows, length), device=self.device)

    @torch.no_grad()
    def _calls(self, rows: int, length: int) -> dict[tuple[str, int], tuple]:
        """What the layers and their sub-blocks are called with."""
        calls = {}
        handles = [
            module.register_forward_pre_hook(
                lambda module, args, kwargs, name=(name, i): calls.__setitem__(name, (args, kwargs)), with_kwargs=True
            )
            for i, layer in enumerate(layers_of(self.model))
            for name, module in {"layer": layer, **sub_blocks(layer)}.items()
        ]
        self.model.get_decoder()(input_ids=self._ids(rows, length), use_cache=False)
        for handle in handles:
            handle.remove()
        return calls

    def _training(self, call: Callable[[], torch.Tensor], parameters, inputs: torch.Tensor) -> Callable:
        target = torch.randn_like(inputs)

        def run() -> None:
            for tensor in (*parameters, inputs):
                tensor.grad = None
            with torch.autocast(self.device.type, self.compute, enabled=self.compute != torch.float32):
                output = call()
            normalized_mse(output, target).backward()

        return run

    def part(self, kind: str, variant: Variant, mode: Mode, rows: int, length: int) -> Callable:
        host = layer_for(self.model.config, kind, variant)
        args, kwargs = self._calls(rows, length)[kind, host]
        block = empty_block(layers_of(self.model)[host], kind, variant, self.model.config, host)
        dtype = self.dtype if mode == "forward" else torch.float32
        block = block.to_empty(device=self.device).to(dtype).requires_grad_(mode != "forward")
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.02)
        inputs = (args[0] if args else kwargs.pop("hidden_states")).detach().clone().requires_grad_(mode == "whole")

        def call() -> torch.Tensor:
            return hidden_states_of(block(inputs, *args[1:], **kwargs))

        return torch.no_grad()(call) if mode == "forward" else self._training(call, list(block.parameters()), inputs)

    def block(self, kind: str, variant: Variant) -> Callable:
        host = layer_for(self.model.config, kind, variant)
        layer = layers_of(self.model)[host]
        return lambda: empty_block(layer, kind, variant, self.model.config, host).to_empty(device=self.device)

    def frame(self, mode: Mode, rows: int, length: int) -> Callable:
        (args, kwargs), layer = self._calls(rows, length)["layer", 0], layers_of(self.model)[0]
        nothing = tuple(empty_block(layer, kind, NONE, self.model.config, 0) for kind in KINDS)
        inputs = (args[0] if args else kwargs.pop("hidden_states")).detach().clone().requires_grad_(mode != "forward")

        def call() -> torch.Tensor:
            with swapped(self.model, {0: nothing}):
                return hidden_states_of(layer(inputs, *args[1:], **kwargs))

        return torch.no_grad()(call) if mode == "forward" else self._training(call, [], inputs)

    def ends(self, rows: int, length: int) -> Callable:
        ids = self._ids(rows, length)

        @torch.no_grad()
        def call() -> None:
            with only_layers(self.model, 0, 0):
                self.model.get_decoder()(input_ids=ids, use_cache=False)

        return call

    def logits(self, rows: int, length: int) -> Callable:
        states, head = self._states(rows, length, self.shapes.hidden), head_of(self.model)
        return torch.no_grad()(lambda: head(states))

    def divergence(self, rows: int, length: int) -> Callable:
        return self._answers(rows, length, ("kl",))

    def judge(self, rows: int, length: int) -> Callable:
        return self._answers(rows, length, QUANTITIES)

    @torch.no_grad()
    def _answers(self, rows: int, length: int, wanted) -> Callable:
        parent, child = (self._states(rows, length, self.shapes.vocab).flatten(0, 1).float() for _ in range(2))
        following = self._ids(rows, length).flatten()
        return torch.no_grad()(lambda: Answer(parent, following).against(Answer(child, following), wanted))

    def rank(self, channels: int, rows: int, length: int) -> Callable:
        states = self._states(rows, length, channels)
        return lambda: states.detach().float().abs().flatten(0, -2).sum(0).double()

    def global_loss(self, chunk: int, rows: int, length: int) -> Callable:
        student, teacher = (self._states(rows, length, self.shapes.hidden) for _ in range(2))
        own = nn.Linear(self.shapes.hidden, self.shapes.vocab, bias=False, device=self.device, dtype=torch.float32)
        head = head_of(self.model)

        def call() -> None:
            student.requires_grad_(True)
            own.weight.grad = student.grad = None
            with torch.autocast(self.device.type, self.compute, enabled=self.compute != torch.float32):
                loss = chunked_kl(student, teacher, Head(own), head, chunk)
            loss.backward()

        return call

    def cosine(self, rows: int, length: int) -> Callable:
        student, teacher = (self._states(rows, length, self.shapes.hidden) for _ in range(2))
        student.requires_grad_(True)

        def call() -> None:
            student.grad = None
            cosine_distance((student, student), (teacher, teacher)).backward()

        return call

    def adamw(self, parameters: int) -> Callable:
        parameter = nn.Parameter(torch.randn(parameters, device=self.device))
        parameter.grad = torch.randn_like(parameter)
        optimizer = torch.optim.AdamW([parameter], lr=1e-4)

        def call() -> None:
            nn.utils.clip_grad_norm_([parameter], 1.0)
            optimizer.step()

        return call

    def init(self) -> Callable:
        tensor = torch.empty(2**20, device=self.device)
        return lambda: nn.init.normal_(tensor)

    def muon(self, rows: int, columns: int) -> Callable:
        parameter = nn.Parameter(torch.randn(rows, columns, device=self.device))
        parameter.grad = torch.randn_like(parameter)
        return MuonWithAdamW([("matrix", parameter)], lr=1e-4).step

    def gram(self, size: int, out: int, rows: int, length: int) -> Callable:
        x, y = self._states(1, rows * length, size, torch.float32)[0], self._states(1, rows * length, out, torch.float32)[0]  # fmt: skip
        gram, cross = (torch.zeros(n, size, device=self.device, dtype=torch.float64) for n in (size, out))

        def call() -> None:
            gram.add_((x.T @ x).double())
            cross.add_((y.T @ x).double())

        return call

    def solve(self, size: int, columns: int) -> Callable:
        x = torch.randn(size, size, device=self.device, dtype=torch.float64)
        matrix, right = x @ x.T + size * torch.eye(size, device=self.device), torch.randn_like(x[:, :1]).repeat(1, columns)  # fmt: skip
        return lambda: torch.linalg.solve(matrix, right)

    def decode(self, kind: str | None, variant: Variant, batch: int, past: int) -> Callable:
        block = Block(*(variant if each == kind else NONE for each in KINDS))
        config, layers = self.shapes.config, [block]
        if may_differ(config) and not kv_heads(block.attention):  # something must count the tokens
            layers = [Block(NONE, NONE), block]
        fmt = choose_format(config, layers, "auto")
        model = Network(config, layers, fmt=fmt).random(self.dtype, self.device)
        ids, heads = self._ids(batch, 1), kv_heads(block.attention)
        head_dim = kv_bytes_per_token(config, 1, "float32") // 8
        keys = torch.randn(batch, heads or 1, kv_tokens(block.attention, past), head_dim, device=self.device, dtype=self.dtype)  # fmt: skip

        @torch.inference_mode()
        def call() -> None:
            cache = DynamicCache()
            if heads:
                cache.update(keys, keys, 0)
            model(input_ids=ids, use_cache=True, **{OUTPUT_NAME: cache})

        return call
