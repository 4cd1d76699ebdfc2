"""`hf-puzzle plan`: time, memory and disk of every stage of a run, from the recipe and the parent's config alone.

Time is the number of pieces (`timing.py`) that a stage's tasks go through, cut for the workers by the functions that the
run itself uses. Memory is the largest sum of what one process holds at once. In both, the child that is not found yet is
a parent with the share of its blocks that the constraints leave. Bytes, with

    P, C  parameters of parent and child        w   bytes per parameter of the parent (4 while training)
    T     tokens of a batch                     H, V  hidden size, vocabulary
    A(T)  activations of one sub-block on T tokens (`activations`), with a quarter more for the allocator
    D     tokens of all batches of a stage

| stage      | process + ...                                                                       |
|------------|-------------------------------------------------------------------------------------|
| data       | tokenizer and a batch of text, 150 MB                                               |
| importance | P w + A(T)                                                                          |
| library    | P w + 20 per trained parameter (weight, gradient, two moments, best so far) + 8 per |
|            | linear one + moments of the closed forms (8 n (n + H), n inputs) + A(T); `streamed` |
|            | has states, of P w its own layers and one more, and lookahead T H w                 |
| score      | P w + all blocks of one layer w + D H w + T V (2 w + 8) + A(T)                      |
| cost       | P w + all stacks and children, the ends once + KV cache of one + A(T)               |
| solve      | score, or P w + candidates that are timed together, or 2 P w + C w, the most        |
| child      | P w + 2 C w + 6 D H w + 48 I^2 (Gram matrices of the refit, float64) + A(T)         |
| distill    | P w + 4 C + 4 per trained one + optimizer (8 AdamW, 4 Muon), all four over the      |
|            | devices with fsdp, + saved activations + T L H (w + 4) + 24 chunk V + 4 H V (the    |
|            | head's gradient) + rows that judge H w; on a CPU, C w: the child as it came         |
| evaluate   | P w + 2 C w + T V (2 w + 12) + A(T)                                                 |
| speeds     | P w + all networks that are timed + KV cache of one + A(T)                          |
| baselines  | child + T V (2 w + 12), or distill                                                  |

On an accelerator the best weights so far stay in host memory: 16 per trained parameter there.
"""

import dataclasses
import heapq
import math
from dataclasses import dataclass, field
from pathlib import Path

from .. import artifacts
from ..blocks import KINDS as PREFIXES
from ..blocks import LINEAR, NONE, Block, Variant, kv_heads, parse_variant
from ..costs import Timing, Workload
from ..data import LOCAL_TEXT, PYTHON_STDLIB
from ..formats import parent_block
from ..recipe import ParentRecipe, load_recipe
from ..training import num_steps
from .baselines import FINALISTS
from .block_costs import BYTES, calibration_layouts, kv_bytes_per_token, kv_tokens
from .block_distillation import library_jobs, planned_names
from .closed_form import STRENGTHS, calibration_tokens
from .machines import MACHINES, Machine
from .refit import wanted_tokens
from .scoring import ScoreTask, rows_per_batch
from .surgery import KINDS
from .timing import Clock, Measured, Shapes


PROCESS_BYTES = 0.5e9  # Python, torch and transformers; a CUDA context is about as large
KERNEL_BYTES = 40e6  # what torch loads and sets aside at the first forward
TOKENIZER_BYTES = 150e6
START_SECONDS = 6.0  # of a process that imports them
TRAINER_SECONDS = 1.5  # of a Trainer besides its steps: its setup and four checkpoints


@dataclass(frozen=True)
class StagePlan:
    """One stage: `seconds` on the workers, and what the largest of its tasks holds at once."""

    stage: str
    needs: tuple[str, ...]
    tasks: int
    seconds: float
    memory: dict[str, float]
    disk_bytes: float

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    def to_dict(self) -> dict:
        return {**dataclasses.asdict(self), "memory_bytes": self.memory_bytes}


@dataclass(frozen=True)
class Plan:
    """The task graph of a run on a machine; `problems` says what does not fit, and which key helps."""

    machine: Machine
    workers: int
    parent_parameters: int
    child_share: float
    stages: list[StagePlan]
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        return {
            "machine": dataclasses.asdict(self.machine),
            "workers": self.workers,
            "parent_parameters": self.parent_parameters,
            "child_share_of_blocks": self.child_share,
            "seconds": sum(stage.seconds for stage in self.stages),
            "memory_bytes": max(stage.memory_bytes for stage in self.stages),
            "disk_bytes": sum(stage.disk_bytes for stage in self.stages),
            "stages": [stage.to_dict() for stage in self.stages],
            "problems": self.problems,
        }


def disk_still_needed(run) -> float:
    """Bytes that the unfinished stages of a `PuzzleRun` will take beyond what they hold already, at the worst moment.

    Raises:
        NoPlanError: a parent that plans do not know (a mixture of experts).
    """
    # a machine of the table, so that nothing is measured here; it only says how small a target makes the child
    disk = Planner(run, MACHINES["h200"], 1).disk()
    manifest, kept, most = artifacts.Manifest(run.run_dir), 0.0, 0.0
    for stage in run.stages():
        if "finished" not in manifest.stages.get(stage.name, {}):
            left, scratch = disk.get(stage.name, (0.0, 0.0))
            held = sum(artifacts.size_on_disk(run.run_dir / name) for name in (*stage.outputs, *stage.scratch))
            most = max(most, kept + left + scratch - held)
            kept += max(0.0, left - held)
    return most


class Planner:
    """The stages of a `PuzzleRun` on a machine, None for this one; reads no weights."""

    def __init__(self, run, machine: Machine | None, workers: int):
        self.run, self.recipe, self.workers, self.named = run, run.recipe, workers, machine
        self.space, self.own = run.space, parent_block(run.config)
        self.shapes = Shapes(run.config)
        self.length = self.recipe.data.sequence_length
        dtype = self.recipe.parent.dtype
        self.dtype = str(run.config.dtype or "float32").removeprefix("torch.") if dtype == "auto" else dtype
        self.width = BYTES[self.dtype]
        self._clocks: dict[tuple, Clock] = {}
        self.clock = self.clock_for(self.dtype, self._compute(self.recipe.library.args))
        self.machine = self.clock.machine
        self.on_gpu = run.device.type != "cpu" if machine is None else True
        self.parameters, self.ends = self.shapes.parameters, self.shapes.ends
        self.blocks = self.parameters - self.ends
        self.share = self._child_share()

    @staticmethod
    def _compute(args: dict) -> str:
        return "bfloat16" if args.get("bf16") else "float16" if args.get("fp16") else "float32"

    def clock_for(self, dtype: str, compute: str, attention: str | None = None) -> Clock:
        key = (dtype, compute, attention)
        if key not in self._clocks:
            if self.named is not None:
                self._clocks[key] = Clock(self.named, self.shapes, dtype, compute)
            else:
                text = self._text() if not self._clocks else None
                self._clocks[key] = Measured(self.shapes, dtype, compute, self.run.device, text, attention)
        return self._clocks[key]

    def _text(self) -> tuple | None:
        """What the speed of the tokenizer is measured on; None where text or tokenizer are not on this machine."""
        local = (Path(self.run.parent_path) / "tokenizer.json").exists() and self.run.given_config is None
        if local and self.recipe.data.name in (PYTHON_STDLIB, LOCAL_TEXT):
            return self.recipe.data, lambda: self.run.tokenizer
        return None

    def plan(self) -> Plan:
        stages, disk = [], self.disk()
        for stage in self.run.stages():
            tasks = stage.tasks(self.workers)
            seconds, memory = getattr(self, f"_{stage.name}"), getattr(self, f"_{stage.name}_memory")
            stages.append(
                StagePlan(
                    stage.name, stage.needs, len(tasks), self._scheduled([seconds(**task) for task in tasks]),
                    max((memory(**task) for task in tasks), key=lambda parts: sum(parts.values()), default={"process": PROCESS_BYTES}),
                    sum(disk.get(stage.name, (0.0,))),
                )
            )  # fmt: skip
        plan = Plan(self.machine, self.workers, self.parameters, self.share, stages)
        plan.problems.extend(self._problems(plan))
        return plan

    def _scheduled(self, seconds: list[float]) -> float:
        """When the last task ends, each given to the worker that is free first."""
        free = [0.0] * self.workers
        for each in seconds:
            heapq.heappush(free, heapq.heappop(free) + each)
        return max(free)

    # -- what stages share

    def _batches(self, num_tokens: int, batch_size: int, length: int | None = None) -> tuple[int, int]:
        """`(number, rows)` of the batches of a stage, as `data.sequences` cuts them."""
        rows = max(1, num_tokens // (length or self.length))
        return math.ceil(rows / batch_size), min(rows, batch_size)

    def _child_share(self) -> float:
        """Share of the parent's blocks that the constraints leave."""
        asked, cost, shares = self.recipe.constraints, self.recipe.cost, [1.0]
        batch = max(b for b in cost.batch_sizes if b <= (asked.max_batch_size or b))
        workload = Workload(batch, cost.prefill_tokens, cost.decode_tokens)
        ends, blocks = self._generation([], workload), self._generation([self.own] * self.shapes.num_layers, workload)
        blocks = Timing(blocks.prefill_ms - ends.prefill_ms, blocks.decode_ms - ends.decode_ms)
        total = ends.total_ms + blocks.total_ms
        limits = [
            asked.speedup and total / asked.speedup,
            asked.throughput_tokens_per_s and workload.tokens / asked.throughput_tokens_per_s * 1e3,
            asked.latency_ms,
        ]
        shares += [(limit - ends.total_ms) / blocks.total_ms for limit in limits if limit]
        if asked.prefill_ms:
            shares.append((asked.prefill_ms - ends.prefill_ms) / blocks.prefill_ms)
        if asked.num_parameters:
            shares.append((asked.num_parameters - self.ends) / self.blocks)
        if asked.memory_gb:
            kept = batch * self._kv_bytes(self.own, cost.prefill_tokens + cost.decode_tokens) * self.shapes.num_layers
            width = BYTES[cost.dtype]
            shares.append((asked.memory_gb * 1e9 - self.ends * width) / (self.blocks * width + kept))
        return min(1.0, max(0.05, *[min(shares)]))

    def _kv_bytes(self, block: Block, tokens: int) -> float:
        per_token = kv_bytes_per_token(self.run.config, block.attention, self.recipe.cost.dtype)
        return kv_tokens(block.attention, tokens) * per_token

    def _generation(self, blocks: list[Block], workload: Workload) -> Timing:
        """Of a model of `blocks`, in the dtype that is deployed."""
        clock = self.clock_for(self.recipe.cost.dtype, "float32")
        parts = [clock.generation(None, "", workload)]
        parts += [clock.generation(kind, v, workload) for b in blocks for kind, v in zip(KINDS, b, strict=True)]
        return Timing(sum(p.prefill_ms for p in parts), sum(p.decode_ms for p in parts))

    def _generation_seconds(self, blocks: list[Block], workload: Workload) -> float:
        return self._generation(blocks, workload).total_ms / 1e3

    @property
    def _child_parameters(self) -> float:
        return self.ends + self.share * self.blocks

    def _child_forward(self, rows: int, length: int, logits: bool = True) -> float:
        clock = self.clock
        ends = clock.ends(rows, length) + (clock.logits(rows, length) if logits else 0.0)
        return ends + self.share * self.shapes.num_layers * clock.layer(self.own, rows, length)

    def _open(self, children: int = 0) -> float:
        return self.clock.open(self.parameters * self.width) + children * self.clock.open(
            self._child_parameters * self.width
        )

    def activations(self, tokens: int, width: int, training: bool = False) -> float:
        """Bytes that the larger sub-block holds at once: what leaves its first matrices, one and a half times forward
        (a gated FFN keeps gate, up and their product) and four times in training, and some hidden states."""
        sizes = [self.shapes.part(kind, getattr(self.own, kind)).width for kind in KINDS]
        attention, ffn = sizes
        inner = 4 * max(sizes) if training else max(2.5 * attention, 1.5 * ffn)
        return 1.25 * tokens * (inner + 6 * self.shapes.hidden) * width

    def _held(self, **parts: float) -> dict[str, float]:
        """What a device holds that has the parent loaded, or its share of it."""
        spread = self.machine.count if self.recipe.parent.device_map else 1
        parent = self.parameters * self.width / spread
        return {"process": PROCESS_BYTES + KERNEL_BYTES, "parent": parent, **parts}

    # -- stages, in their order: seconds of a task, and bytes that it holds

    def _parent(self) -> float:
        recipe: ParentRecipe = load_recipe(self.run.recipe_dir / self.recipe.parent.recipe)
        rows, length = recipe.batch_size, recipe.data.sequence_length
        steps = num_steps(recipe.num_tokens, rows, length)
        clock = self.clock_for("float32", self._compute(recipe.args))
        step = clock.ends(rows, length) + self.shapes.num_layers * clock.layer(self.own, rows, length, "whole")
        step += 3 * clock.logits(rows, length) + clock.divergence(rows, length)
        return clock.tokenize(recipe.data) + steps * (step + self._muon_step(clock, 1.0))

    def _parent_memory(self) -> dict[str, float]:
        recipe: ParentRecipe = load_recipe(self.run.recipe_dir / self.recipe.parent.recipe)
        tokens, shapes = recipe.batch_size * recipe.data.sequence_length, self.shapes
        return {
            "process": PROCESS_BYTES,
            "weights, gradients, optimizer": self.parameters * 16.0,
            "activations": shapes.num_layers * self._saved(tokens, 4) + 12.0 * tokens * shapes.vocab,
            "tokens": TOKENIZER_BYTES + 4.0 * recipe.data.num_tokens,
        }

    def _data(self) -> float:
        return self.clock.tokenize(self.recipe.data)

    def _data_memory(self) -> dict[str, float]:
        return {"process": PROCESS_BYTES, "tokenizer": TOKENIZER_BYTES}

    def _importance(self) -> float:
        config, ffn = self.recipe.importance, self.shapes.part("ffn", self.own.ffn)
        count, rows = self._batches(config.num_tokens, config.batch_size)
        rank = self.clock.rank(rows, self.length, ffn.out // self.shapes.hidden)
        return self._open() + count * (self.clock.parent(rows, self.length) + self.shapes.num_layers * rank)

    def _importance_memory(self) -> dict[str, float]:
        _, rows = self._batches(self.recipe.importance.num_tokens, self.recipe.importance.batch_size)
        return self._held(activations=self.activations(rows * self.length, self.width))

    def _students(self, start: int, stop: int) -> list[tuple[str, Block, bool]]:
        """`(kind, variants, trained)` of everything that a job makes."""
        rows = []
        for name in planned_names(self.space, self.recipe.library):
            place, _, variant = name.partition("/")
            if start <= int(place.removeprefix("layer_")) < stop:
                kind, _, text = variant.partition(".")
                if kind == "block":
                    block = Block.parse(text)
                else:
                    part: Variant = parse_variant(kind, text)
                    block = Block(*(part if each == kind else NONE for each in PREFIXES))
                rows.append(
                    (kind, block, self.recipe.library.num_tokens > 0 and (kind == "block" or LINEAR not in block))
                )
        return rows

    def _sizes(self, start: int, stop: int) -> tuple[int, int]:
        """Parameters of the students that are trained, and of the others."""
        trained, kept = 0, 0
        for _, block, is_trained in self._students(start, stop):
            size = sum(self.shapes.part(kind, v).parameters for kind, v in zip(KINDS, block, strict=True))
            trained, kept = trained + size * is_trained, kept + size * (not is_trained)
        return trained, kept

    def _closed_forms(self, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Inputs of the moments that a job's closed forms gather, and of the systems that they solve."""
        gathered, solved = [], []
        for layer in self.space.layers[start:stop]:
            widths = [v for v in layer.ffn if isinstance(v, int) and v != self.own.ffn]
            linear = [self.shapes.hidden] * ((LINEAR in layer.attention) + (LINEAR in layer.ffn))
            heads = any(kv_heads(v) and v != self.own.attention for v in layer.attention)
            gathered += [
                *[max(widths)] * bool(widths),
                *linear,
                *[self.shapes.hidden] * (heads and LINEAR not in layer.attention),
            ]
            solved += widths + linear
        return gathered, solved

    def _library(self, start: int, stop: int, **neighbours: str | None) -> float:
        config, clock, hidden = self.recipe.library, self.clock, self.shapes.hidden
        students = self._students(start, stop)
        trained, kept = self._sizes(start, stop)
        gathered, solved = self._closed_forms(start, stop)
        seconds = self._open()

        def all_students(rows: int, mode: str, only_trained: bool) -> float:
            return sum(
                clock.part(kind, variant, rows, self.length, mode) + (clock.frame(rows, self.length, mode) if sort == "block" else 0.0)
                for sort, block, is_trained in students
                if is_trained or not only_trained
                for kind, variant in zip(KINDS, block, strict=True)
            )  # fmt: skip

        if gathered:
            tokens = calibration_tokens(config, hidden, self.space.variants["ffn"])
            count, rows = self._batches(tokens, config.batch_size)
            grams = sum(clock.gram(size, hidden, rows * self.length) for size in gathered)
            seconds += count * (clock.parent(rows, self.length, stop) + grams)
            seconds += (len(STRENGTHS) + 1) * sum(clock.solve(size, hidden) for size in solved)
        count, rows = self._batches(config.eval_tokens, config.batch_size)
        judged = count * (clock.parent(rows, self.length, stop) + all_students(rows, "forward", False))
        seconds += judged * (1 + (config.evals if trained else 0))
        if trained:
            steps = num_steps(config.num_tokens, config.batch_size, self.length)
            batches = steps * config.args.get("gradient_accumulation_steps", 1)
            below = clock.parent(config.batch_size, self.length, stop)
            seconds += batches * (below + all_students(config.batch_size, "local", True))
            seconds += TRAINER_SECONDS + steps * clock.adamw(trained) + 4 * clock.store(16 * trained + 4 * kept)
        if config.states == "streamed":  # the layers below are read again for every few batches
            judgements = count * (1 + (config.evals if trained else 0))
            seconds += (judgements + (batches if trained else 0)) / config.lookahead * clock.store(self._below(start))
        return seconds + clock.store(4 * (trained + kept))

    def _below(self, layers: int) -> float:
        """Bytes of the embeddings and the first layers of the parent."""
        embeddings = self.shapes.hidden * self.shapes.vocab
        return (embeddings + layers * self.blocks / self.shapes.num_layers) * self.width

    def _library_memory(self, start: int, stop: int, **neighbours: str | None) -> dict[str, float]:
        config, layer = self.recipe.library, self.blocks / self.shapes.num_layers * self.width
        trained, kept = self._sizes(start, stop)
        tokens = config.batch_size * self.length
        held = self._held(
            students=(16 if self.on_gpu else 20) * trained + (4 if self.on_gpu else 8) * kept,
            moments=8.0 * sum(size * (size + self.shapes.hidden) for size in self._closed_forms(start, stop)[0]),
            activations=self.activations(tokens, BYTES[self.clock.compute], training=True),
            tokens=4.0 * self.recipe.data.num_tokens,
        )
        if config.states == "streamed":
            held["parent"] = (stop - start) * layer + max(self._below(0), layer)
            held["states"] = float(config.lookahead * tokens * self.shapes.hidden * self.width)
        return held

    def _score_batches(self, num_rows: int) -> tuple[int, int, int]:
        rows = rows_per_batch(self.recipe.score)
        return math.ceil(num_rows / rows), min(rows, num_rows), self.run.metric.rows.input_ids.shape[1]

    def _score(self, **arguments: int) -> float:
        task = ScoreTask(**arguments)
        clock, count_layers = self.clock, self.shapes.num_layers
        count, rows, length = self._score_batches(task.last_row - task.first_row)
        ends = clock.ends(rows, length)
        head, metric = clock.logits(rows, length), clock.divergence(rows, length)
        layer = clock.layer(self.own, rows, length)
        seconds = self._open() + count * task.stop * (ends + layer)
        for i in range(task.start, task.stop):
            target = ends + count_layers * layer + head
            above = ends + (count_layers - 1 - i) * layer + head + metric
            blocks = self.space.layers[i].blocks
            exchanged = sum(clock.layer(block, rows, length) for block in blocks if block != self.own)
            seconds += count * (target + metric + (len(blocks) - 1) * above + exchanged)
            pairs = [
                (kind, v) for b in blocks for kind, v in zip(KINDS, b, strict=True) if v != getattr(self.own, kind)
            ]
            seconds += sum(clock.block(kind, v) for kind, v in pairs if v != NONE)
        return seconds

    def _layer_blocks(self, i: int) -> float:
        """Bytes of all blocks of a layer, each with weights of its own."""
        sizes = {
            (kind, v): self.shapes.part(kind, v).parameters if v != getattr(self.own, kind) else 0
            for kind in KINDS
            for v in self.space.layers[i].variants(kind)
        }
        return float(sum(sizes["attention", b.attention] + sizes["ffn", b.ffn] for b in self.space.layers[i].blocks)) * self.width  # fmt: skip

    def _score_memory(self, **arguments: int) -> dict[str, float]:
        task = ScoreTask(**arguments)
        _, rows, length = self._score_batches(task.last_row - task.first_row)
        stored = (task.last_row - task.first_row) * length * self.shapes.hidden * self.width
        return self._held(
            blocks=max(self._layer_blocks(i) for i in range(task.start, task.stop)),
            states=2.0 * stored,
            logits=rows * length * self.shapes.vocab * (2 * self.width + 8.0),
            activations=self.activations(rows * length, self.width),
        )

    def _stacks(self) -> list[list[Block]]:
        stacks: list[list[Block]] = [[Block(NONE, NONE)]]
        for kind, variants in self.space.variants.items():
            for variant in variants:
                if variant != NONE:
                    block = Block(*(variant if each == kind else NONE for each in KINDS))
                    stacks.append([block] * self.recipe.cost.stack_layers)
        return stacks

    def _layouts(self) -> list[list[Block]]:
        """The parent, the children that the cost model is fitted on, and those that tell its error."""
        fitted, unseen = calibration_layouts(self.space, self.recipe.cost, self.recipe.seed)
        return [[self.own] * self.shapes.num_layers, *fitted, *unseen]

    def _layout_parameters(self, blocks: list[Block]) -> float:
        return self.ends + sum(self.shapes.weights(kind, v) for b in blocks for kind, v in zip(KINDS, b, strict=True))

    def _cost(self, accelerator: str | None = None) -> float:
        config, seconds = self.recipe.cost, self._open()
        models = [*self._stacks(), *self._layouts()]
        clock = self.clock_for(config.dtype, "float32")
        for batch_size in config.batch_sizes:
            workload = Workload(batch_size, config.prefill_tokens, config.decode_tokens)
            seconds += sum(clock.init(self._layout_parameters(blocks)) for blocks in models)
            seconds += (config.rounds + 1) * sum(self._generation_seconds(blocks, workload) for blocks in models)
        return seconds

    def _cost_memory(self, accelerator: str | None = None) -> dict[str, float]:
        config, width = self.recipe.cost, BYTES[self.recipe.cost.dtype]
        timed = [*self._stacks(), *self._layouts()[1 if config.dtype == self.dtype else 0 :]]
        blocks = sum(self._layout_parameters(layout) - self.ends for layout in timed)
        models = (blocks + (0 if config.dtype == self.dtype else self.ends)) * width
        return self._held(models=models, **self._generating())

    def _generating(self) -> dict[str, float]:
        """What one timed generation holds besides weights."""
        config = self.recipe.cost
        tokens, batch = config.prefill_tokens + config.decode_tokens, max(config.batch_sizes)
        layers = max(self.shapes.num_layers, config.stack_layers) + 1  # a layer's cache is copied when it grows
        return {
            "cache": float(batch * self._kv_bytes(self.own, tokens) * layers),
            "activations": self.activations(batch * config.prefill_tokens, BYTES[config.dtype]),
        }

    def _distance(self) -> float:
        """The metric of one whole child."""
        count, rows, length = self._score_batches(len(self.run.metric.rows))
        parent = self.clock.parent(rows, length, logits=True)
        return count * (parent + self._child_forward(rows, length) + self.clock.divergence(rows, length))

    def _timed_rounds(self, rounds: int, children: int) -> float:
        """Generations of both parents and children in turn, and one to warm up."""
        config = self.recipe.cost
        workload = Workload(max(config.batch_sizes), config.prefill_tokens, config.decode_tokens)
        ends, own = (self._generation_seconds(b, workload) for b in ([], [self.own] * self.shapes.num_layers))
        return (rounds + 1) * (2 * own + children * (ends + self.share * (own - ends)))

    def _confirmed(self, rounds: int) -> float:
        """A child timed by fresh processes, which share `rounds`."""
        sessions = self.recipe.solve.sessions
        build = 2 * self.clock.init(self.parameters) + self.clock.init(self._child_parameters)
        return sessions * (START_SECONDS + build + self._timed_rounds(max(2, round(rounds / sessions)), 1))

    @property
    def _is_timed(self) -> bool:
        constraints = self.recipe.constraints
        return any((constraints.speedup, constraints.throughput_tokens_per_s, constraints.latency_ms, constraints.prefill_ms))  # fmt: skip

    @property
    def _searches(self) -> int:
        """Searches of a round: one a margin; one where no time is asked for."""
        return 3 if self._is_timed else 1

    def _judging(self) -> float:
        """Distances of the search's children, and scores around the best ones."""
        config = self.recipe.solve
        # half of the blocks are worth it; layers above the exchanged one are the child's
        whole = ScoreTask(0, len(self.space.layers), 0, len(self.run.metric.rows))
        around = 0.5 * (0.5 + 0.5 * self.share) * (self._score(**dataclasses.asdict(whole)) - self._open())
        candidates = config.num_solutions * len(self.recipe.cost.batch_sizes)
        distances = self._searches * candidates + 2 * config.rescore_rounds
        return distances * self._distance() + config.rescore_rounds * around

    def _rival(self) -> float:
        """A search on the true loss, at the forward tokens of scores and distances."""
        whole = ScoreTask(0, len(self.space.layers), 0, len(self.run.metric.rows))
        return self._score(**dataclasses.asdict(whole)) - self._open() + self._judging()

    def _solve(self) -> float:
        """A round of three candidates, the best of them confirmed: often that is all, sometimes not."""
        config = self.recipe.solve
        candidates = config.num_solutions * len(self.recipe.cost.batch_sizes)
        binaries = sum(len(layer.blocks) for layer in self.space.layers)
        solving = 0.2 + 2e-4 * binaries  # a process each
        seconds = self._open() + (self._searches * candidates + 2 * config.rescore_rounds) * solving + self._judging()
        if config.refine == "swap":
            seconds += self._rival() + (self._confirmed(config.measure_rounds) if self._is_timed else 0.0)
        if self._is_timed:
            rounds = max(2, round(config.measure_rounds / config.sessions))
            seconds += self._timed_rounds(rounds, 3) + self._confirmed(config.measure_rounds)
            seconds += 3 * self.clock.init(self._child_parameters)
        return seconds

    def _solve_memory(self) -> dict[str, float]:
        whole = ScoreTask(0, len(self.space.layers), 0, len(self.run.metric.rows))
        parts = self._score_memory(**dataclasses.asdict(whole))
        parts["blocks"] += self.share * self.blocks * self.width  # of the child that is scored around
        children = 3 * self._child_parameters * BYTES[self.recipe.cost.dtype]
        # a fresh process holds both parents and the child; where it takes the GPU, this one's parent leaves
        children = max(children, (self.parameters + self._child_parameters) * BYTES[self.recipe.cost.dtype])
        timed = self._held(children=children, **self._generating())
        return max(parts, timed, key=lambda each: sum(each.values()))

    def _child(self) -> float:
        child = self._child_parameters * self.width
        return self._open() + 2 * self.clock.store(child) + (self._refit() if self.recipe.child.refit else 0.0)

    def _refit(self) -> float:
        config, clock, shapes = self.recipe.child, self.clock, self.shapes
        count, rows = self._batches(config.refit_tokens or wanted_tokens(self.own.ffn), config.batch_size)
        ends, layer = clock.ends(rows, self.length), clock.layer(self.own, rows, self.length)
        inputs = [shapes.part(kind, getattr(self.own, kind)).out // shapes.hidden for kind in KINDS]
        per_batch = (ends + layer) + (2 * self.share + 1) * (ends + self.share * layer)
        matrices = [(self.share if i else 1.0) * size for i, size in enumerate(inputs)]  # FFNs are narrowed
        grams = sum(clock.gram(int(size), shapes.hidden, rows * self.length) for size in matrices)
        solves = sum(clock.solve(int(size), shapes.hidden) for size in matrices)
        return shapes.num_layers * (count * (per_batch + self.share * grams) + self.share * solves)

    def _child_memory(self) -> dict[str, float]:
        config, hidden = self.recipe.child, self.shapes.hidden
        child = self._child_parameters * self.width
        if not config.refit:
            return self._held(child=2 * child)
        count, rows = self._batches(config.refit_tokens or wanted_tokens(self.own.ffn), config.batch_size)
        size = self.shapes.part("ffn", self.own.ffn).out // hidden
        return self._held(
            child=2 * child,
            states=6.0 * count * rows * self.length * hidden * self.width,
            gram=48.0 * size**2,  # of the widest FFN
            activations=self.activations(rows * self.length, self.width),
        )

    def _trained(self) -> float:
        """Parameters that GKD trains: all, or those of the adapters."""
        lora = self.recipe.distill.lora
        if lora is None:
            return self._child_parameters
        rank = lora.get("r", 8)
        rows = [p for kind in KINDS for p in [self.shapes.part(kind, getattr(self.own, kind))]]
        return (
            self.share * self.shapes.num_layers * rank * sum(p.width + p.matrices / self.shapes.hidden for p in rows)
        )

    def _muon_step(self, clock: Clock, share: float) -> float:
        matrices = [p.shape for p in self.shapes.layer.parameters() if p.ndim == 2]
        return share * self.shapes.num_layers * sum(clock.muon(tuple(shape)) for shape in matrices) + clock.adamw(self.ends)  # fmt: skip

    def _distill(self, num_tokens: int | None = None) -> float:
        config, shapes = self.recipe.distill, self.shapes
        num_tokens = config.num_tokens if num_tokens is None else num_tokens
        child = self._child_parameters * self.width
        if not num_tokens:
            return self._open(1) + self.clock.store(child)
        compute = self._compute(config.args)
        clock = self.clock_for("float32", compute, config.attn_implementation)
        rows, length = config.batch_size, self.length
        steps = num_steps(num_tokens, rows * self._shards, length)
        teacher = self.clock_for(compute if compute != "float32" else self.dtype, compute).parent(rows, length)
        batch = clock.ends(rows, length) + clock.global_loss(rows, length, config.chunk_tokens)
        batch += shapes.num_layers * (clock.cosine(rows, length) + clock.frame(rows, length, "whole"))
        layers = sum(clock.part(kind, getattr(self.own, kind), rows, length, "whole") for kind in KINDS)
        again = 4 / 3 if config.args.get("gradient_checkpointing") else 1.0
        batch += again * self.share * shapes.num_layers * layers
        step = (
            self._muon_step(clock, self.share)
            if config.optimizer == "muon" and config.lora is None
            else clock.adamw(int(self._trained()))
        )
        if (
            self._shards > 1
        ):  # weights are gathered before each pass and gradients scattered after it; the optimizer is cut
            batch += (self.parameters * self.width + 12 * self._child_parameters) / self.machine.link_bandwidth
            step /= self._shards
        batches = steps * config.args.get("gradient_accumulation_steps", 1)
        checkpoints = TRAINER_SECONDS + config.evals * self.clock.store(
            4 * self._child_parameters + 8 * self._trained()
        )
        count, rows = self._batches(config.eval_tokens, rows)
        judged = self._child_forward(rows, length, logits=False) + self.clock.judge(rows, length)
        checkpoints += count * (self.clock.parent(rows, length) + (config.evals + 2) * judged)
        if config.learning_rate == "auto":
            batches, steps = 1.12 * batches, 1.12 * steps  # four rates, 3 % of the steps each
        return self._open(1) + batches * (teacher + batch) + steps * step + checkpoints + self.clock.store(child)

    def _saved(self, tokens: int, width: int) -> float:
        """Activations of one layer that wait for its backward pass."""
        inner = sum(self.shapes.part(kind, getattr(self.own, kind)).width for kind in KINDS)
        scores = self.shapes.part("attention", self.own.attention).heads and self._eager_scores(tokens)
        return tokens * (2 * inner + 10 * self.shapes.hidden) * width + scores

    def _eager_scores(self, tokens: int) -> float:
        """Attention weights that `eager` keeps: scores, probabilities, and their cast."""
        eager = self.recipe.distill.attn_implementation == "eager"
        heads = self.run.config.num_attention_heads
        return 12.0 * tokens * heads * self.length if eager else 0.0

    def _distill_memory(self) -> dict[str, float]:
        config, shapes, trained = self.recipe.distill, self.shapes, self._trained()
        tokens, chunk = config.batch_size * self.length, min(config.chunk_tokens, config.batch_size * self.length)
        width = BYTES[self._compute(config.args)]
        one, layers = self._saved(tokens, width), shapes.num_layers
        saved = layers * 4 * tokens * shapes.hidden + one if config.args.get("gradient_checkpointing") else self.share * layers * one  # fmt: skip
        moments = (4.0 if config.optimizer == "muon" else 8.0) * trained
        if config.optimizer == "muon" and config.lora is None:
            moments += 4.0 * self.ends  # embeddings, head and norms stay with AdamW
        shards = self._shards
        held = self._held(
            child=4.0 * self._child_parameters / shards,
            gradients=4.0 * trained / shards,
            optimizer=moments / shards,
            activations=saved + self.activations(tokens, width, training=True),
            states=tokens * layers * shapes.hidden * (self.width + 4.0),
            logits=24.0 * chunk * shapes.vocab + 4.0 * shapes.hidden * shapes.vocab,
            validation=config.eval_tokens * shapes.hidden * self.width,
            tokens=4.0 * self.recipe.data.num_tokens,
        )
        if not self.on_gpu:
            held["start"] = self._child_parameters * self.width
        return held | {"parent": min(held["parent"], self.parameters * self.width / shards)}

    @property
    def _shards(self) -> int:
        """Processes that GKD's models are cut over: one per device."""
        return self.machine.count if self.recipe.distill.fsdp else 1

    def _compare(self) -> float:
        config = self.recipe.evaluate
        count, rows = self._batches(config.num_tokens, config.batch_size)
        parent = self.clock.parent(rows, self.length, logits=True)
        return count * (parent + self._child_forward(rows, self.length) + self.clock.judge(rows, self.length))

    def _evaluate(self) -> float:
        config = self.recipe.evaluate
        length = config.task_context + config.task_continuation
        rows = 4 * max(1, config.batch_size // 4)
        count = math.ceil(4 * config.task_items / rows)
        task = self.clock.parent(rows, length, logits=True) + self._child_forward(rows, length)
        task += self.clock.divergence(rows, length)
        seconds = self._open(2) + (2 + len(config.quantized)) * self._compare() + count * task
        if config.assisted_prompts:
            # plain, then the draft's tokens and the parent's steps, about half of the tokens
            one = Workload(1, self.length // 2, config.assisted_new_tokens)
            ends, own = (self._generation_seconds(b, one) for b in ([], [self.own] * self.shapes.num_layers))
            seconds += (config.assisted_prompts + 1) * (1.5 * own + ends + self.share * (own - ends))
        return seconds + self._confirmed(config.measure_rounds) + 2 * START_SECONDS

    def _evaluate_memory(self) -> dict[str, float]:
        config = self.recipe.evaluate
        _, rows = self._batches(config.num_tokens, config.batch_size)
        tokens = rows * self.length
        return self._held(
            children=2 * self._child_parameters * self.width,
            logits=tokens * self.shapes.vocab * (2 * self.width + 12.0),
            activations=self.activations(tokens, self.width),
        )

    def _baselines(self, name: str, gkd_tokens: int) -> float:
        layers = self.shapes.num_layers
        dropped = min(layers - 1, max(1, round(layers * (1 - self.share))))
        subsets = math.comb(layers, dropped)
        greedy = sum(range(layers - dropped + 1, layers + 1))
        distances = {"drop_layers": subsets if subsets <= 200 else greedy, "uniform": FINALISTS, "two_blocks": FINALISTS, "random": self.recipe.baselines.num_random}  # fmt: skip
        seconds = self._child() + self._compare() + distances.get(name, 0) * self._distance()
        if name in ("evolution", "projection"):
            seconds += self._rival()
        return seconds + (self._distill(gkd_tokens) if gkd_tokens else 0.0)

    def _baselines_memory(self, name: str, gkd_tokens: int) -> dict[str, float]:
        # what an allocator keeps of the refit stands beside the logits of the comparison
        made = self._child_memory() | {"logits": self._evaluate_memory()["logits"]}
        return max([made, *([self._distill_memory()] if gkd_tokens else [])], key=lambda each: sum(each.values()))

    def _baseline_speeds(self) -> float:
        names = self.recipe.baselines.names
        if not names:
            return 0.0
        rounds = max(6, self.recipe.evaluate.measure_rounds // 3)
        children = 1 + len(names)
        return self._open() + children * self.clock.init(self._child_parameters) + self._timed_rounds(rounds, children)

    def _baseline_speeds_memory(self) -> dict[str, float]:
        children = (1 + len(self.recipe.baselines.names)) * self._child_parameters * BYTES[self.recipe.cost.dtype]
        if not self.recipe.baselines.names:
            return {"process": PROCESS_BYTES}
        return self._held(children=children, **self._generating())

    def _report(self) -> float:
        return 1.0  # figures

    def _report_memory(self) -> dict[str, float]:
        return {"process": PROCESS_BYTES, "figures": 50e6}

    # -- disk, and what does not fit

    def disk(self) -> dict[str, tuple[float, float]]:
        """Bytes that each stage leaves, and has besides at its worst moment: two checkpoints of every job that runs."""
        data, layers = self.recipe.data, range(len(self.space.layers))
        trained, kept = self._sizes(0, len(layers))
        tasks = library_jobs(self.space, self.run.library, self.recipe.library, self.workers)
        jobs = [self._sizes(task.start, task.stop) for task in tasks]
        checkpoints = [16.0 * job_trained + 4.0 * job_kept for job_trained, job_kept in jobs]
        child = self._child_parameters * self.width
        gkd = 4 * self._child_parameters + 8 * self._trained() if self.recipe.distill.num_tokens else 0.0
        tokens = 4.0 * (data.num_tokens + data.heldout_tokens)
        channels = self.shapes.part("ffn", self.own.ffn).out / self.shapes.hidden
        return {
            "parent": (2.0 * self.parameters, 0.0),
            "data": (tokens, tokens),  # parts, then the whole
            "importance": (4.0 * self.shapes.num_layers * channels, 0.0),
            "library": (4.0 * (trained + kept), 2 * self.workers * max(checkpoints, default=0.0)),
            "score": (200.0 * sum(len(layer.blocks) for layer in self.space.layers), 0.0),
            "child": (child, 0.0),
            "distill": (child, 2 * gkd),
            "report": (1e6, 0.0),
        }

    _HELP: dict[str, str] = {
        "data": "lower data.num_tokens",
        "importance": "lower importance.batch_size, or parent.device_map spreads the parent",
        "library": "lower library.layers_per_job or library.batch_size, or set library.states: streamed",
        "score": "lower score.batch_size or score.tokens_per_task, offer fewer blocks, or use parent.device_map",
        "cost": "lower cost.stack_layers, cost.calibration_children or cost.batch_sizes",
        "solve": "lower score.batch_size, or use parent.device_map",
        "child": "set child.refit: false, or lower child.refit_tokens and child.batch_size",
        "distill": "set distill.fsdp, lower distill.batch_size, or set distill.args.gradient_checkpointing or distill.lora",
        "evaluate": "lower evaluate.batch_size",
        "baselines": "lower evaluate.batch_size and distill.batch_size",
        "baseline_speeds": "name fewer baselines.names",
        "parent": "lower batch_size of the parent's recipe",
        "report": "free some memory",
    }

    def _problems(self, plan: Plan) -> list[str]:
        lines, room = [], self.machine.memory_bytes
        for stage in plan.stages:
            over = stage.memory_bytes - room
            if over > 0:
                name, largest = max(stage.memory.items(), key=lambda item: item[1])
                lines.append(
                    f"{stage.stage} does not fit: {gigabytes(stage.memory_bytes)} of {gigabytes(room)} on {self.machine.name}, "
                    f"{gigabytes(over)} too much ({name}: {gigabytes(largest)}); {self._HELP[stage.stage]}"
                )
        disk, limit = sum(stage.disk_bytes for stage in plan.stages), self.machine.disk_gb
        if limit is not None and disk > limit * 1e9:
            lines.append(f"disk: {gigabytes(disk)} of {limit:.1f} GB; --out on a larger disk, or fewer blocks in search_space")  # fmt: skip
        return lines


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} days"
