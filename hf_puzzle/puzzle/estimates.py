"""What the stages' estimates are made of: shapes, a clock, the share of the parent that is left to the child.

Every stage has its formula beside it, `estimate_*(p: Pieces, **task) -> Estimate`; plans only add up. Memory is the
largest sum of what one process holds at once, of the device where there is one, in bytes, with

    P, C  parameters of parent and child        w   bytes per parameter of the parent (4 while training)
    T     tokens of a batch                     H, V  hidden size, vocabulary
    D     tokens of all batches of a stage
"""

import math
from collections.abc import Callable
from pathlib import Path

from ..blocks import Block
from ..corpora import LOCAL_TEXT, PYTHON_STDLIB
from ..costs import Timing, Workload
from ..evaluation import CHUNK
from ..formats import PER_LAYER
from ..layers import meta_parent
from ..stages import Estimate
from .block_costs import BYTES, bytes_of_fewest_bits
from .machines import Machine
from .surgery import KINDS
from .timing import Clock, Measured, Part, Shapes


PROCESS_BYTES = 0.5e9  # Python, torch and transformers; a CUDA context is about as large
KERNEL_BYTES = 40e6  # what torch loads and sets aside at the first forward
TOKENIZER_BYTES = 150e6


class Pieces:
    """The parts that stages of a `PuzzleRun` share on a machine, None for this one; reads no weights.

    Attributes:
        share: of the parent's blocks that the constraints leave; the child that is not found yet is a parent with it.
        own: the parent's block of each layer.
    """

    def __init__(self, run, machine: Machine | None, workers: int, on_gpu: bool | None = None):
        self.run, self.recipe, self.workers, self._named = run, run.each, workers, machine
        self.shapes = Shapes(run.config)
        self.space, self.own = run.space, self.shapes.own
        self.length = self.recipe.data.sequence_length
        dtype = self.recipe.parent.dtype
        self.dtype = str(run.config.dtype or "float32").removeprefix("torch.") if dtype == "auto" else dtype
        self.width = BYTES[self.dtype]
        self._clocks: dict[tuple, Clock] = {}
        self.clock = self.clock_for(self.dtype, self.compute(self.recipe.library.args))
        self.machine = self.clock.machine
        self.on_gpu = on_gpu if on_gpu is not None else machine is not None or run.device.type != "cpu"
        self.parameters, self.ends = self.shapes.parameters, self.shapes.ends
        self.blocks = self.parameters - self.ends
        # of what children are measured against; a narrowed parent's is the whole one
        narrowed = run.source.narrowed
        self.teacher_parameters = (
            meta_parent(run.source.original_config).num_parameters() if narrowed else self.parameters
        )
        self.share = self._child_share()
        self.child_parameters = self.ends + self.share * self.blocks
        self.child_bytes = self.child_parameters * self.width

    @property
    def other_code(self) -> int:
        """1 where the parent's blocks are timed in the child's code, too, else 0."""
        return int(self.run.fmt != PER_LAYER)

    @staticmethod
    def compute(args: dict) -> str:
        """The dtype that a training with these arguments computes in."""
        return "bfloat16" if args.get("bf16") else "float16" if args.get("fp16") else "float32"

    def clock_for(self, dtype: str, compute: str, attention: str | None = None) -> Clock:
        key = (dtype, compute, attention)
        if key not in self._clocks:
            if self._named is not None:
                self._clocks[key] = Clock(self._named, self.shapes, dtype, compute)
            else:
                text = self._text() if not self._clocks else None
                self._clocks[key] = Measured(self.shapes, dtype, compute, self.run.device, text, attention)
        return self._clocks[key]

    def _text(self) -> tuple | None:
        """What the speed of the tokenizer is measured on; None where text or tokenizer are not on this machine."""
        if self.recipe.data.name in (PYTHON_STDLIB, LOCAL_TEXT) and (Path(self.run.parent_path) / "tokenizer.json").exists():  # fmt: skip
            return self.recipe.data, lambda: self.run.tokenizer
        return None

    def _child_share(self) -> float:
        asked, cost, shares = self.recipe.constraints, self.recipe.cost, [1.0]
        batch = max(b for b in cost.batch_sizes if b <= (asked.max_batch_size or b))
        workloads = [Workload(batch, length, cost.decode_tokens) for length in cost.lengths]
        timed = [self._ends_and_blocks(workload) for workload in workloads]
        ends_ms, blocks_ms = (sum(times[i].total_ms for times in timed) for i in range(2))
        if asked.speedup:
            shares.append(((ends_ms + blocks_ms) / asked.speedup - ends_ms) / blocks_ms)
        if asked.throughput_tokens_per_s:
            most = sum(workload.tokens for workload in workloads) / asked.throughput_tokens_per_s * 1e3
            shares.append((most - ends_ms) / blocks_ms)
        for ends, blocks in timed:
            if asked.latency_ms:
                shares.append((asked.latency_ms - ends.total_ms) / blocks.total_ms)
            if asked.prefill_ms:
                shares.append((asked.prefill_ms - ends.prefill_ms) / blocks.prefill_ms)
        if asked.num_parameters:
            shares.append((asked.num_parameters - self.ends) / self.blocks)
        if asked.memory_gb:
            kept = batch * self._kv_bytes(max(cost.lengths) + cost.decode_tokens) * self.shapes.num_layers
            width = BYTES[cost.dtype]
            blocks = self.blocks * min(width, bytes_of_fewest_bits(self.space))
            shares.append((asked.memory_gb * 1e9 - self.ends * width) / (blocks + kept))
        return min(1.0, max(0.05, *[min(shares)]))

    def _ends_and_blocks(self, workload: Workload) -> tuple[Timing, Timing]:
        """What the parent's embeddings and head take, and its layers."""
        ends, whole = self.generation([], workload), self.generation(self.own, workload)
        return ends, Timing(whole.prefill_ms - ends.prefill_ms, whole.decode_ms - ends.decode_ms)

    # -- time

    def batches(self, num_tokens: int, batch_size: int) -> tuple[int, int]:
        """`(number, rows)` of the batches of a stage, as `data.sequences` cuts them."""
        rows = max(1, num_tokens // self.length)
        return math.ceil(rows / batch_size), min(rows, batch_size)

    def generation(self, blocks: list[Block], workload: Workload) -> Timing:
        """Of a model of `blocks`, in the dtype that is deployed."""
        clock = self.clock_for(self.recipe.cost.dtype, "float32")
        parts = [clock.generation(None, "", workload)]
        parts += [clock.generation(kind, v, workload) for b in blocks for kind, v in zip(KINDS, b, strict=True)]
        return Timing(sum(p.prefill_ms for p in parts), sum(p.decode_ms for p in parts))

    def generations(self, workload: Workload) -> tuple[float, float]:
        """Seconds that parent and child take."""
        ends, own = (self.generation(b, workload).total_ms / 1e3 for b in ([], self.own))
        return own, ends + self.share * (own - ends)

    def child_forward(self, rows: int, length: int, logits: bool = True) -> float:
        clock = self.clock
        ends = clock.ends(rows, length) + (clock.logits(rows, length) if logits else 0.0)
        return ends + self.share * self.shapes.num_layers * self.layer(rows, length)

    def layer(self, rows: int, length: int) -> float:
        """A forward of a layer of the parent, on average."""
        return self.shapes.mean(lambda own: self.clock.layer(own, rows, length))

    def largest_part(self, of: Callable[[Part], float]) -> float:
        """Of all sub-blocks of the parent."""
        return max(of(self.shapes.part(kind, getattr(own, kind))) for own in set(self.own) for kind in KINDS)

    def open(self, children: int = 0) -> float:
        """Loading the parent, and children."""
        return self.clock.open(self.parameters * self.width) + children * self.clock.open(self.child_bytes)

    def muon_step(self, clock: Clock, share: float) -> float:
        matrices = [p.shape for p in self.shapes.layers.parameters() if p.ndim == 2]
        return share * sum(clock.muon(tuple(shape)) for shape in matrices) + clock.adamw(self.ends)

    # -- memory

    def held(self, **parts: float) -> dict[str, float]:
        """What a device holds that has the parent loaded, or its share of it."""
        spread = self.machine.count if self.recipe.parent.device_map else 1
        parent = self.parameters * self.width / spread
        teacher = (
            {"teacher": self.teacher_parameters * self.width} if self.teacher_parameters > self.parameters else {}
        )
        return {"process": PROCESS_BYTES + KERNEL_BYTES, "parent": parent, **teacher, **parts}

    @property
    def teacher_share(self) -> float:
        """How many times as much as the parent its teacher takes."""
        return self.teacher_parameters / self.parameters

    def activations(self, tokens: int, width: int, training: bool = False) -> float:
        """What the larger sub-block holds at once: what leaves its first matrices, one and a half times forward (a gated
        FFN keeps gate, up and their product) and four times in training, and some hidden states; with a quarter more for
        the allocator."""
        attention, ffn = (
            max(self.shapes.part(kind, v).width for v in {getattr(own, kind) for own in self.own}) for kind in KINDS
        )
        inner = 4 * max(attention, ffn) if training else max(2.5 * attention, 1.5 * ffn)
        return 1.25 * tokens * (inner + 6 * self.shapes.hidden) * width

    def saved(self, rows: int, length: int, width: int, attention: str | None = None) -> float:
        """Activations of a layer, on average, that wait for its backward pass; `eager` attention keeps scores,
        probabilities, and their cast."""
        inner = self.shapes.mean(lambda own: sum(self.shapes.part(kind, getattr(own, kind)).width for kind in KINDS))
        scores = 12.0 * self.run.config.num_attention_heads * length if attention == "eager" else 0.0
        return rows * length * ((2 * inner + 10 * self.shapes.hidden) * width + scores)

    def judging(self, num_tokens: int, tokens: int, heads: int = 1) -> dict[str, float]:
        """What `evaluation.Targets` hold of D = `num_tokens`: final states, and float32 copies of heads in half precision;
        and what they make of a chunk of the `tokens` of a batch: logits of both, the parent's distribution, a temporary."""
        hidden, vocab = self.shapes.hidden, self.shapes.vocab
        copies = 4.0 * heads * hidden * vocab if self.width < 4 else 0.0
        return {"targets": num_tokens * hidden * self.width + copies, "logits": 16.0 * min(CHUNK, tokens) * vocab}

    def generating(self) -> dict[str, float]:
        """What one timed generation holds besides weights."""
        config = self.recipe.cost
        tokens, batch = max(config.lengths) + config.decode_tokens, max(config.batch_sizes)
        layers = max(self.shapes.num_layers, config.stack_layers) + 1  # a layer's cache is copied when it grows
        return {
            "cache": float(batch * self._kv_bytes(tokens) * layers),
            "activations": self.activations(batch * max(config.lengths), BYTES[config.dtype]),
        }

    def timed(self, blocks: float, **parts: float) -> dict[str, float]:
        """What a bench holds that times models with so many parameters in all their layers: they share their ends, with
        the parent where its dtype is theirs."""
        width = BYTES[self.recipe.cost.dtype]
        if self.recipe.cost.dtype != self.dtype:
            blocks += self.parameters
        return self.held(models=blocks * width, **parts, **self.generating())

    def _kv_bytes(self, tokens: int) -> float:
        """What a layer keeps of a sequence, on average."""
        return self.shapes.mean(lambda own: self.shapes.kept_bytes(own.attention, tokens, self.recipe.cost.dtype))


def largest(*moments: dict[str, float]) -> dict[str, float]:
    """Of several moments of a task, the one that holds most."""
    return max(moments, key=lambda parts: sum(parts.values()))


def estimate_data(p: Pieces) -> Estimate:
    data = p.recipe.data
    tokens = 4.0 * (data.num_tokens + data.heldout_tokens)
    memory = {"process": PROCESS_BYTES, "tokenizer": TOKENIZER_BYTES}
    return Estimate(p.clock.tokenize(data), memory, "lower data.num_tokens", tokens, tokens)  # parts, then the whole
