"""Blockwise local distillation (BLD): every cheaper block learns its parent block's output on the parent's own inputs.

(Puzzle, arXiv 2411.19146, section 3.) Gradients never cross blocks, so one streamed forward of the parent feeds all
students of a job; activations are used inside the hook that sees them and never stored.
"""

import copy
import itertools
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from .. import artifacts
from ..blocks import LINEAR, NONE, Block, Variant, kv_heads, parse_variant, row_of, sizes_of
from ..data import TokenBlocks, sequences
from ..progress import bar
from ..recipe import LibraryConfig, RecipeError
from ..stages import Estimate
from ..training import (
    TRAINER_SECONDS,
    SealingTrainer,
    last_checkpoint,
    num_steps,
    show_progress,
    training_arguments,
)
from .block_loss import normalized_mse
from .closed_form import STRENGTHS, calibration_tokens, closed_form
from .estimates import Pieces
from .library import BlockLibrary
from .search_space import SearchSpace
from .states import Channel, LayerStream, StateSource
from .surgery import KINDS, empty_block, hidden_states_of, layers_of, place_of, sub_block


logger = logging.getLogger(__name__)


@dataclass
class Student:
    """One block that is trained or judged: where it sits, what it replaces, and its best weights so far."""

    name: str
    layer_idx: int
    kind: str  # attention | ffn | block
    modules: dict[str, nn.Module]  # attention and/or ffn
    trained: bool
    init: str
    losses: list[float] = field(default_factory=list)  # held-out, one per evaluation
    best_loss: float = float("inf")
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    dead: str | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]

    def weights(self) -> dict[str, torch.Tensor]:
        """Tensors as the library stores them: prefixed by sub-block for a pair, bare for a single sub-block."""
        prefix = self.kind == "block"
        return {
            f"{kind}.{name}" if prefix else name: tensor.detach().cpu().clone()
            for kind, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }

    def keep_best(self, loss: float) -> None:
        self.losses.append(loss)
        if loss < self.best_loss:
            self.best_loss, self.best_weights = loss, self.weights()


class StudentBank(nn.Module):
    """The trainable blocks of one job, as one module for the Trainer to place, optimise and checkpoint."""

    def __init__(self, students: list[Student]):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict(s.modules) for s in students if s.trained)


class ParentStream(LayerStream):
    """Hooks on a parent that hand each student its inputs and targets while the parent's forward runs.

    Use as a context manager; `on_student(student, loss)` is called with every student's loss.
    """

    def __init__(self, parent: PreTrainedModel, students: list[Student], **kwargs):
        super().__init__(parent, **kwargs)
        self.students = students
        self.on_student = None

    def __enter__(self) -> "ParentStream":
        self.handles = []
        by_place: dict[tuple[int, str], list[Student]] = {}
        for student in self.students:
            by_place.setdefault((student.layer_idx, student.kind), []).append(student)
        for (layer_idx, kind), students in by_place.items():
            layer = layers_of(self.parent)[layer_idx]
            place = layer if kind == "block" else sub_block(layer, kind)
            self.handles.append(place.register_forward_hook(self._hook(layer, kind, students), with_kwargs=True))
        return self

    def __exit__(self, *exc) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, layer: nn.Module, kind: str, students: list[Student]):
        # a shell shares the layer's norms, not its hooks; the students' sub-blocks are put into it
        shell = copy.copy(layer)
        shell._modules, shell._forward_hooks, shell._forward_hooks_with_kwargs = (
            dict(layer._modules),
            OrderedDict(),
            {},
        )

        def hook(module, args, kwargs, output):
            inputs = (args[0] if args else kwargs["hidden_states"]).detach()
            kwargs = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            target = hidden_states_of(output).detach()
            if kind == "block":
                target = target - inputs
            for student in students:
                if student.dead is None:
                    self.on_student(student, lambda s=student: self._loss(s, kind, shell, inputs, kwargs, target))

        return hook

    def _loss(self, student: Student, kind: str, shell: nn.Module, inputs, kwargs, target) -> torch.Tensor:
        # students hold float32 weights: a half-precision parent's inputs need autocast even when none was asked for
        dtype = self.autocast or (inputs.dtype if inputs.dtype != torch.float32 else None)
        with torch.autocast(inputs.device.type, dtype, enabled=dtype is not None):
            if kind == "block":
                for name, module in student.modules.items():
                    shell._modules[place_of(shell, name)] = module
                output = shell.forward(inputs, **kwargs)
                output = hidden_states_of(output) - inputs
            else:
                output = hidden_states_of(student.modules[kind](inputs, **kwargs))
        return normalized_mse(output, target)


class BLDTrainer(SealingTrainer):
    """`Trainer` of the students of one job over one parent.

    Every student's backward runs as soon as the parent's forward reaches its layer, which frees its graph at once:
    peak memory is the parent plus one student's activations.

    Args:
        parent: frozen model.
        students: their modules must be on the parent's device.
        heldout: sequences that choose each student's best step, shape `(num_sequences, sequence_length)`.
        stream: `LayerStream`'s options: which layers run, from which states, and to whom they are handed on.
    """

    def __init__(
        self,
        parent: PreTrainedModel,
        students: list[Student],
        heldout: torch.Tensor,
        config: LibraryConfig,
        stream: dict | None = None,
        **kwargs,
    ):
        super().__init__(model=StudentBank(students), **kwargs)
        self.parent, self.students, self.heldout, self.config = parent, students, heldout, config
        self.autocast_dtype = torch.bfloat16 if self.args.bf16 else None
        self.stream = ParentStream(parent, students, **(stream or {})).__enter__()
        self._ahead: list[dict] = []
        self.add_callback(_BestOfEachStudent(self))

    def close(self) -> None:
        self.stream.__exit__()

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        rates = {"attention": self.config.attention_learning_rate, "ffn": self.config.ffn_learning_rate}
        groups = [
            {"params": [p for p in module.parameters() if p.requires_grad], "lr": rates[kind]}
            for student in self.students
            if student.trained
            for kind, module in student.modules.items()
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=self.args.weight_decay)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator, num_batches, device) -> tuple[list[dict], None]:
        """As Trainer's, with the states that enter the job's first layer beside the tokens."""
        source = self.stream.source
        if source is not None and len(self._ahead) < num_batches:
            left = (self.state.max_steps - self.state.global_step) * self.args.gradient_accumulation_steps
            wanted = max(num_batches, min(source.lookahead, left)) - len(self._ahead)
            batches, _ = super().get_batch_samples(epoch_iterator, wanted, device)
            self.stream.autocast = self.autocast_dtype
            states = self.stream.states([batch["input_ids"] for batch in batches])
            self._ahead += [{**batch, "states": s} for batch, s in zip(batches, states, strict=True)]
        if source is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        taken, self._ahead = self._ahead[:num_batches], self._ahead[num_batches:]
        return taken, None

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        losses = []

        def backward(student: Student, loss_of) -> None:
            if not student.trained:
                return
            with torch.enable_grad():
                loss = loss_of()
                if not torch.isfinite(loss):
                    self._drop(student, f"loss became {loss.item()} at step {self.state.global_step}")
                    return
                (loss / self.args.gradient_accumulation_steps).backward()
            losses.append(loss.detach())

        self.stream.on_student, self.stream.autocast = backward, self.autocast_dtype
        self.stream.run(inputs["input_ids"], inputs.get("states"))
        if not losses:
            return torch.zeros((), device=self.parent.device)
        return torch.stack(losses).mean() / self.args.gradient_accumulation_steps

    def _drop(self, student: Student, reason: str) -> None:
        logger.warning("%s is dropped: %s", student.name, reason)
        student.dead = reason
        for parameter in student.parameters:  # they stay in the optimizer: a checkpoint must fit a rerun's groups
            parameter.grad = None

    @torch.no_grad()
    def judge(self) -> None:
        """Held-out loss of every student; each keeps its best weights. Those that are not trained are judged once, whoever
        else is trained in their job."""
        students = [student for student in self.students if student.trained or not student.losses]
        totals = {student.name: 0.0 for student in students}

        def add(student: Student, loss_of) -> None:
            if student.name in totals:
                totals[student.name] += loss_of().item()

        self.stream.on_student, self.stream.autocast = add, None
        batches = self.heldout.split(self.config.batch_size)
        for batch, states in bar(self.stream.with_states(batches), total=len(batches), desc="judge"):
            self.stream.run(batch, states)
        for student in students:
            loss = totals[student.name] / len(batches)
            if student.dead is None and not math.isfinite(loss):
                self._drop(student, f"held-out loss became {loss}")
            if student.dead is None:
                student.keep_best(loss)

    def hand_on(self, steps: int) -> None:
        """Run `steps` steps and their evaluations without training, for a job above that needs the states."""
        self.stream.on_student = lambda student, loss: None
        heldout, accumulation = self.heldout.split(self.config.batch_size), self.args.gradient_accumulation_steps
        every = _eval_steps(self.args.max_steps, self.config)
        loader, step, epoch = self.get_train_dataloader(), 0, 0
        handed = bar(total=steps, desc="hand states on")
        self._run_all(heldout, None)
        while step < steps:
            loader.set_epoch(epoch)  # the order of Trainer's own epochs
            batches = (batch["input_ids"] for batch in loader)
            while step < steps and (group := list(itertools.islice(batches, accumulation))):
                step += 1
                self._run_all(group, self.autocast_dtype)
                if step % every == 0 or step == self.args.max_steps:
                    self._run_all(heldout, None)
                handed.update()
            epoch += 1
        handed.close()

    def _run_all(self, batches, autocast: torch.dtype | None) -> None:
        self.stream.autocast = autocast
        for batch, states in self.stream.with_states(batches):
            self.stream.run(batch, states)

    # -- checkpoints: the students' best weights and losses travel with the Trainer's own state

    def save_more(self, folder: Path) -> None:
        best = {f"{s.name}:{k}": v for s in self.students for k, v in s.best_weights.items()}
        artifacts.write_tensors(folder / "best.safetensors", best)
        artifacts.write_json(
            folder / "students.json",
            {s.name: {"losses": s.losses, "dead": s.dead} for s in self.students},
        )

    def restore_students(self, folder: Path) -> None:
        best = artifacts.read_tensors(folder / "best.safetensors")
        saved = artifacts.read_json(folder / "students.json")
        for student in self.students:
            state, prefix = saved[student.name], f"{student.name}:"
            student.losses, student.dead = state["losses"], state["dead"]
            student.best_loss = min(student.losses, default=float("inf"))
            student.best_weights = {k.removeprefix(prefix): v for k, v in best.items() if k.startswith(prefix)}
            if student.dead is not None:
                self._drop(student, student.dead)


class _BestOfEachStudent(TrainerCallback):
    """Clips each student's gradient on its own and judges all students a few times during the job."""

    def __init__(self, trainer: BLDTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        # per student: a global norm would couple jobs that must not depend on how they are grouped
        for student in self.trainer.students:
            if student.trained and student.dead is None:
                nn.utils.clip_grad_norm_(student.parameters, self.trainer.config.max_grad_norm)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        every = _eval_steps(state.max_steps, self.trainer.config)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self.trainer.judge()


def _eval_steps(max_steps: int, config: LibraryConfig) -> int:
    return max(1, max_steps // config.evals)


# -- the library stage


def check_precision(config: LibraryConfig) -> None:
    """Raises RecipeError for fp16: one loss scale for all students of a job would skip their steps together."""
    if config.args.get("fp16"):
        raise RecipeError(
            "library.args.fp16: true would tie the steps of all blocks to one loss scale; leave it out (float32), or set "
            "bf16: true where the device has bfloat16"
        )


def build_library(
    parent: PreTrainedModel,
    space: SearchSpace,
    importance: dict[str, torch.Tensor],
    tokens: dict[str, torch.Tensor],
    library: BlockLibrary,
    config: LibraryConfig,
    sequence_length: int,
    seed: int = 0,
) -> BlockLibrary:
    """Initialise and distil every variant that `library` does not hold yet, in this process.

    Args:
        importance: as `channel_importance` returns it.
        tokens: `train` and `validation` streams.
    """
    for job in library_jobs(space, library, config):
        build_layers(parent, space, job, importance, tokens, library, config, sequence_length, seed)
    return merge_library(space, library, config)


def library_jobs(space: SearchSpace, library: BlockLibrary, config: LibraryConfig, workers: int = 1) -> list[range]:
    """Layers of each job that is left: `layers_per_job` of them, or as many as make a job for every worker."""
    num_layers = len(space.layers)
    group = config.layers_per_job or math.ceil(num_layers / workers)
    jobs = [range(start, min(start + group, num_layers)) for start in range(0, num_layers, group)]
    return [
        job for job in jobs if any(plan[0] not in library.index for i in job for plan in _planned(space, i, config))
    ]


def planned_names(space: SearchSpace, config: LibraryConfig) -> list[str]:
    """Names of everything that the finished library holds, in order."""
    return [plan[0] for i in range(len(space.layers)) for plan in _planned(space, i, config)]


def merge_library(space: SearchSpace, library: BlockLibrary, config: LibraryConfig) -> BlockLibrary:
    """One index of what all jobs wrote.

    Raises:
        ArtifactError: a block that should be there is not.
    """
    names = planned_names(space, config)
    if missing := [name for name in names if name not in library.index]:
        raise artifacts.ArtifactError(f"the library lacks {missing[0]}: run the stage again")
    library.merge(names)
    return library


def build_layers(
    parent: PreTrainedModel,
    space: SearchSpace,
    layers: range,
    importance: dict[str, torch.Tensor],
    tokens: dict[str, torch.Tensor],
    library: BlockLibrary,
    config: LibraryConfig,
    sequence_length: int,
    seed: int = 0,
    source: StateSource | None = None,
    hand_on: Channel | None = None,
) -> None:
    """One job: what `library` lacks of these layers. A killed one continues at its last checkpoint.

    Args:
        parent: whole, or with a `source` of states just these layers (`loading.load_layers`).
        source: of the states that enter the first of these layers; default: the parent runs the layers below, too.
        hand_on: gets the states that leave the last of these layers, for the job above (its `states.Upstream`), also
            where nothing is left to train here.
    """
    plans = [plan for i in layers for plan in _planned(space, i, config)]
    folder = library.folder / f"job_{layers.start:02d}_{layers.stop - 1:02d}"
    missing = {plan[0] for plan in plans if plan[0] not in library.index}
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:  # it holds all students of its job, those that are written already too
        names = set(artifacts.read_json(checkpoint / "students.json"))
        if missing <= names:
            missing = names
        else:  # a disk lost blocks of an older job since
            artifacts.remove(folder)
    plans = [plan for plan in plans if plan[0] in missing]
    stream = {"layers": layers, "source": source, "hand_on": hand_on}
    try:
        if plans or hand_on is not None:
            _run_job(parent, space, plans, importance, tokens, library, config, sequence_length, seed, folder, stream)
    finally:
        if hand_on is not None:
            hand_on.put(None)
        if source is not None:
            source.close()
    artifacts.remove(folder)


def _planned(
    space: SearchSpace, layer_idx: int, config: LibraryConfig
) -> Iterator[tuple[str, int, str, Variant | Block]]:
    """`(name, layer, kind, variant)` of everything the library must hold for one layer."""
    layer = space.layers[layer_idx]
    for kind in ("attention", "ffn"):
        for variant in layer.variants(kind):
            if variant not in (NONE, getattr(space.parents[layer_idx], kind)):
                yield BlockLibrary.name(layer_idx, kind, variant), layer_idx, kind, variant
    for block in dict.fromkeys(block.plain for block in layer.blocks):
        under_none = config.ffn_under_no_attention and block.attention == NONE and block.ffn != NONE
        under_none = under_none and space.parents[layer_idx].attention != NONE
        coupled = config.coupling == "coupled" and (config.coupled_blocks is None or block.id in config.coupled_blocks)
        trainable = [v for v, own in zip(block, space.parents[layer_idx], strict=True) if v not in (own, NONE)]
        if under_none or (coupled and trainable and NONE not in block):
            yield BlockLibrary.name(layer_idx, "block", block), layer_idx, "block", block


def _run_job(
    parent, space, wanted, importance, tokens, library, config, sequence_length, seed, folder, stream
) -> None:
    began = time.perf_counter()
    count = calibration_tokens(config, parent.config.hidden_size, space.variants["ffn"])
    if count > len(tokens["train"]):
        logger.warning(
            "library: closed forms ask for %d tokens (library.ridge_tokens), the data stage has %d: raise data.num_tokens",
            *(count, len(tokens["train"])),
        )
    calibration = sequences(tokens["train"], sequence_length, count, seed + 1)
    starts = closed_form(parent, wanted, importance, calibration, config, LayerStream(parent, **stream))
    students = [_student(parent, space, plan, starts, config) for plan in wanted]
    heldout = sequences(tokens["validation"], sequence_length, config.eval_tokens, seed + 2)
    steps = num_steps(config.num_tokens, config.batch_size, sequence_length, config.args)
    args = training_arguments(
        folder,
        "library",
        config.args,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        max_grad_norm=0.0,
        save_strategy="steps",
        save_steps=max(1, steps // 4),
        save_total_limit=2,  # the older one stands until the newer one is complete
        use_cpu=parent.device.type == "cpu",
        seed=seed,
    )
    dataset = TokenBlocks(tokens["train"], sequence_length, seed)
    trainer = BLDTrainer(parent, students, heldout, config, stream, args=args, train_dataset=dataset)
    show_progress(trainer, f"library: {len(students)} blocks")
    try:
        checkpoint = last_checkpoint(folder)
        if checkpoint is not None:
            trainer.restore_students(checkpoint)
            if stream["hand_on"] is not None:  # the job above may have been cut earlier
                trainer.hand_on(int(checkpoint.name.rpartition("-")[2]))
        elif students:
            trainer.judge()
        for student in students:  # what is right already only gets worse in the first steps
            student.trained = student.trained and not (student.losses and student.losses[0] < config.skip_below)
        if any(student.trained for student in students):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        elif stream["hand_on"] is not None:
            trainer.hand_on(steps)
    finally:
        trainer.close()
    for student in bar(students, desc="write library"):
        if student.name in library.index:  # written before a kill
            continue
        if student.dead is not None:
            library.drop(student.name, student.dead)
        else:
            library.put(
                student.name,
                student.best_weights,
                loss_before=student.losses[0],
                loss_after=student.best_loss,
                losses=student.losses,
                init=student.init,
                trained_tokens=config.num_tokens if student.trained else 0,
            )
    logger.info("library: %d blocks in %.0f s", len(students), time.perf_counter() - began)


def _student(parent, space: SearchSpace, plan, starts, config: LibraryConfig) -> Student:
    name, layer_idx, kind, variant = plan
    layer = layers_of(parent)[layer_idx]
    wanted = dict(zip(KINDS, variant, strict=True)) if kind == "block" else {kind: variant}
    modules, init = {}, "parent"
    for part, part_variant in wanted.items():
        if part_variant == NONE:
            modules[part] = empty_block(layer, part, NONE, parent.config, layer_idx)
        elif part_variant == getattr(space.parents[layer_idx], part):
            # a frozen copy under `coupled`; under attention `none` the full-width FFN learns to stand alone
            modules[part] = copy.deepcopy(sub_block(layer, part)).requires_grad_(NONE in wanted.values())
        else:
            weights, init = starts[layer_idx, part, part_variant]
            modules[part] = _trainable(layer, part, part_variant, parent, layer_idx, weights)
    trained = config.num_tokens > 0 and (kind == "block" or row_of(kind, variant).trained)
    return Student(name, layer_idx, kind, modules, trained, init)


def _trainable(parent_layer, kind, variant, parent, layer_idx, weights) -> nn.Module:
    module = empty_block(parent_layer, kind, variant, parent.config, layer_idx)
    # float32 master weights whatever the parent's dtype; autocast does the rest
    module.load_state_dict({k: v.to(parent.device, torch.float32, copy=True) for k, v in weights.items()}, assign=True)
    return module.requires_grad_(True)


# -- what a job takes


def _foreseen(p: Pieces, start: int, stop: int) -> list[tuple[str, Block, bool]]:
    """`(kind, variants, trained)` of everything that a job makes."""
    rows = []
    for name in planned_names(p.space, p.recipe.library):
        place, _, variant = name.partition("/")
        if start <= int(place.removeprefix("layer_")) < stop:
            kind, _, text = variant.partition(".")
            if kind == "block":
                block = Block.parse(text)
            else:
                part: Variant = parse_variant(kind, text)
                block = Block(*(part if each == kind else NONE for each in KINDS))
            trained = p.recipe.library.num_tokens > 0 and (kind == "block" or LINEAR not in block)
            rows.append((kind, block, trained))
    return rows


def _closed_forms(p: Pieces, start: int, stop: int) -> tuple[list[int], list[int]]:
    """Inputs of the moments that a job's closed forms gather, and of the systems that they solve."""
    gathered, solved, hidden = [], [], p.shapes.hidden
    for layer, own in zip(p.space.layers[start:stop], p.own[start:stop], strict=True):
        widths = [v for v in layer.ffn if isinstance(v, int) and v != own.ffn]
        linear = [hidden] * ((LINEAR in layer.attention) + (LINEAR in layer.ffn))
        heads = any(kv_heads(v) and v != own.attention for v in layer.attention)
        states = [2 * hidden for v in layer.attention if "state_heads" in sizes_of("attention", v)]
        gathered += [
            *[max(widths, default=0)] * bool(widths),
            *linear,
            *[hidden] * (heads and LINEAR not in layer.attention),
            *states,
        ]
        solved += widths + linear + states
    return gathered, solved


def estimate_library(p: Pieces, start: int, stop: int, **neighbours: str | None) -> Estimate:
    """P w + 16 bytes a trained parameter (weight, gradient, two moments) + 4 a linear one, as much again as the weights for
    the best so far where there is no device beside the host + moments of the closed forms (8 n (n + H), n inputs) + A(T).
    `streamed` has states, of P w its own layers and one more, and lookahead T H w."""
    config, clock, hidden, length = p.recipe.library, p.clock, p.shapes.hidden, p.length
    students, (gathered, solved) = _foreseen(p, start, stop), _closed_forms(p, start, stop)
    sizes = {True: 0, False: 0}
    for _, block, is_trained in students:
        sizes[is_trained] += sum(p.shapes.part(kind, v).parameters for kind, v in zip(KINDS, block, strict=True))
    trained, kept = sizes[True], sizes[False]

    def all_students(rows: int, mode: str, only_trained: bool) -> float:
        return sum(
            clock.part(kind, variant, rows, length, mode) + (clock.frame(rows, length, mode) if sort == "block" else 0.0)
            for sort, block, is_trained in students
            if is_trained or not only_trained
            for kind, variant in zip(KINDS, block, strict=True)
        )  # fmt: skip

    seconds = p.open()
    if gathered:
        tokens = calibration_tokens(config, hidden, p.space.variants["ffn"])
        count, rows = p.batches(tokens, config.batch_size)
        grams = sum(clock.gram(size, hidden, rows * length) for size in gathered)
        seconds += count * (clock.parent(rows, length, stop) + grams)
        seconds += (len(STRENGTHS) + 1) * sum(clock.solve(size, hidden) for size in solved)
    count, rows = p.batches(config.eval_tokens, config.batch_size)
    judgements, batches = count * (1 + (config.evals if trained else 0)), 0
    seconds += judgements * (clock.parent(rows, length, stop) + all_students(rows, "forward", False))
    if trained:
        steps = num_steps(config.num_tokens, config.batch_size, length, config.args)
        batches = steps * config.args.get("gradient_accumulation_steps", 1)
        below = clock.parent(config.batch_size, length, stop)
        seconds += batches * (below + all_students(config.batch_size, "local", True))
        seconds += TRAINER_SECONDS + steps * clock.adamw(trained) + 4 * clock.store(16 * trained + 4 * kept)
    tokens = config.batch_size * length
    memory = p.held(
        students=(16 if p.on_gpu else 20) * trained + (4 if p.on_gpu else 8) * kept,
        moments=8.0 * sum(size * (size + hidden) for size in gathered),
        activations=p.activations(tokens, clock.compute_width, training=True),
        tokens=0.0 if p.on_gpu else 4.0 * p.recipe.data.num_tokens,
    )
    if config.states == "streamed":  # the layers below are read again for every few batches
        layer, embeddings = p.blocks / p.shapes.num_layers * p.width, hidden * p.shapes.vocab * p.width
        seconds += (judgements + batches) / config.lookahead * clock.store(embeddings + start * layer)
        memory["parent"] = (stop - start) * layer + max(embeddings, layer)
        memory["states"] = float(config.lookahead * tokens * hidden * p.width)
    stored = 4.0 * (trained + kept)
    return Estimate(
        seconds + clock.store(stored), memory,
        "lower library.layers_per_job or library.batch_size, or set library.states: streamed",
        stored, 2 * (16.0 * trained + 4.0 * kept),
    )  # fmt: skip
