"""Global knowledge distillation (GKD): the assembled child learns the parent's logits and hidden states end to end.

L = KL(parent || child) + mean over layers of (1 - cos(h_child, h_parent)), no LM loss (Puzzle, arXiv 2411.19146,
section 5 and its ablation).

Nothing is taken on trust: held-out text says which step is kept, that before the first one included.
"""

import gc
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from .. import artifacts
from ..anatomy import Head, final_states, float_head_of, frozen, head_of
from ..data import TokenBlocks, given_tokens
from ..evaluation import Rows, Targets, mean_and_error, surely_lower, targets
from ..optim import MuonWithAdamW
from ..recipe import DistillConfig, RecipeError
from ..stages import Estimate
from ..training import TRAINER_SECONDS, SealingTrainer, num_steps, show_progress, training_arguments
from .document_masks import check_document_masks
from .learning_rate import RateSearch
from .loading import check_sharded
from .network import cast_parameters
from .surgery import KINDS


logger = logging.getLogger(__name__)

REVERSE = {"forward": 0.0, "mixed": 0.5, "reverse": 1.0}  # share of KL(child || parent)
SHARES = "shares"  # folder of a checkpoint with every process's part of model and optimizer


class _LinearKL(torch.autograd.Function):
    """`chunked_kl` where the student's head is one matrix: its gradients are taken while the logits are there."""

    @staticmethod
    def forward(ctx, student, weight, bias, head: Head, teacher, teacher_head, chunk: int, reverse: float):
        inputs, wanted = (student, weight, bias), ctx.needs_input_grad[:3]
        grads = [torch.zeros_like(x, dtype=torch.float32) if w else None for x, w in zip(inputs, wanted, strict=True)]
        total = student.new_zeros((), dtype=torch.float32)
        for start in range(0, len(student), chunk):
            place = slice(start, start + chunk)
            log_p = teacher_head(teacher[place]).float().log_softmax(-1)
            raw = F.linear(student[place], weight, bias)
            logits = head.finished(raw.float())
            log_q = logits.log_softmax(-1)
            p, q, behind = log_p.exp(), log_q.exp(), log_p.sub_(log_q)
            total += (1 - reverse) * torch.linalg.vecdot(p, behind).sum()
            backwards = torch.linalg.vecdot(q, behind) if reverse else None  # -KL(student || teacher)
            if reverse:
                total -= reverse * backwards.sum()
            if not any(wanted):
                continue
            # of the divergence by the logits
            further = reverse * q * (behind - backwards[:, None]) if reverse else 0.0
            slope = q.sub_(p).mul_(1 - reverse).sub_(further)
            if head.cap:
                slope *= 1 - (logits / head.cap).square()
            half = slope.to(raw.dtype)
            if wanted[0]:
                grads[0][place] = half @ weight.to(raw.dtype)
            if wanted[1]:
                grads[1] += half.T @ student[place].to(raw.dtype)
            if wanted[2]:
                grads[2] += slope.sum(0)
        ctx.scale, ctx.dtypes = head.scale / len(student), [None if x is None else x.dtype for x in inputs]
        ctx.save_for_backward(*grads)
        return total / len(student)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        # scaled here only: in half precision (softmax(q) - p) / tokens would vanish
        grads = [
            None if g is None else (g * (grad * ctx.scale)).to(dtype)
            for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None, None, None


def _kl_of_chunk(student: torch.Tensor, teacher: torch.Tensor, student_head, teacher_head, reverse: float):
    log_p = F.log_softmax(teacher_head(teacher).float(), dim=-1)
    log_q = F.log_softmax(student_head(student).float(), dim=-1)
    return (((1 - reverse) * log_p.exp() - reverse * log_q.exp()) * (log_p - log_q)).sum()


def chunked_kl(
    student: torch.Tensor, teacher: torch.Tensor, student_head, teacher_head, chunk: int, reverse: float = 0.0
) -> torch.Tensor:
    """Mean divergence per token, from the final hidden states, `chunk` tokens of logits at a time:
    (1 - reverse) KL(teacher || student) + reverse KL(student || teacher).

    Memory holds `chunk x vocabulary`, never all tokens. Where the student's head is a plain matrix, the gradients of its
    states and weights come out of the forward pass; of any other (adapters, quantised) the backward pass makes the logits
    again.

    Args:
        student, teacher: final hidden states, `(batch, length, hidden_size)`.
        student_head, teacher_head: their maps to the vocabulary; gradients of the teacher's are not taken.
    """
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    if isinstance(student_head, Head) and type(student_head.matrix) is nn.Linear:
        matrix = student_head.matrix
        return _LinearKL.apply(
            student, matrix.weight, matrix.bias, student_head, teacher, teacher_head, chunk, reverse
        )
    total = student.new_zeros((), dtype=torch.float32)
    for s, t in zip(student.split(chunk), teacher.split(chunk), strict=True):
        total = total + checkpoint(_kl_of_chunk, s, t, student_head, teacher_head, reverse, use_reentrant=False)
    return total / len(student)


def _cosine_of_layer(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()


def cosine_distance(student: tuple[torch.Tensor, ...], teacher: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Mean over layers and tokens of 1 - cosine; the embeddings (first entry) are left out.

    Nothing of a layer's float32 copies waits for the backward pass, which makes them again.
    """
    pairs = zip(student[1:], teacher[1:], strict=True)
    return torch.stack([checkpoint(_cosine_of_layer, s, t, use_reentrant=False) for s, t in pairs]).mean()


class GKDTrainer(SealingTrainer):
    """`Trainer` of a child (`model`) against its parent (`teacher`), both with heads over the same vocabulary.

    KL and cosine look at every position: a child that agrees with its parent there too loses nothing; with `answers` in the
    inputs, at those in front of what assistants wrote. The LM loss leaves out the tokens that inference is `given`
    (`TokenStream.given`). Works under `torchrun` like any Trainer. Models of `loading.load_sharded` stay sharded, as does the optimizer, and
    checkpoints hold the shares; any others are replicated.
    """

    loss_is_scaled_for_ga = False  # our loss is a mean over the micro-batch: Trainer must divide it

    def __init__(
        self,
        teacher: PreTrainedModel,
        config: DistillConfig,
        args: TrainingArguments,
        given: Sequence[int] = (),
        gate: "Gate | None" = None,
        kept: torch.Tensor | None = None,
        **kwargs,
    ):
        save_only_model = args.save_only_model
        args.save_only_model |= config.fsdp  # Trainer refuses to save the optimizer of sharded models; we do it
        super().__init__(args=args, **kwargs)
        args.save_only_model = save_only_model
        self.sharded = config.fsdp
        self.teacher = frozen(teacher if self.sharded else teacher.to(self.args.device))
        self.config, self.given, self.gate, self.kept = config, given, gate, kept

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.config.optimizer == "adamw" or self.optimizer is not None:
            return super().create_optimizer(model)
        self.optimizer = MuonWithAdamW((model or self.model).named_parameters(), lr=self.args.learning_rate)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        input_ids, answers = inputs["input_ids"], inputs.get("answers")
        read = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        # models are called as a whole, so that DDP and FSDP see their forward; one position of logits is enough
        with torch.no_grad():
            teacher = self.teacher(**read, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        outputs = model(**read, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        unwrapped = self.accelerator.unwrap_model(model)
        final = outputs.hidden_states[-1]
        config = self.config
        loss = final.new_zeros((), dtype=torch.float32)
        parts: dict[str, torch.Tensor] = {}
        students, teachers, following = outputs.hidden_states, teacher.hidden_states, targets(input_ids, self.given)
        if answers is not None:  # of chats: positions whose next token an assistant wrote
            counted = answers[:, 1:]
            if not counted.any():
                self._parts = {}
                return (0.0 * final.sum(), outputs) if return_outputs else 0.0 * final.sum()
            students, teachers = (tuple(h[:, :-1][counted] for h in states) for states in (students, teachers))
            following = following.masked_fill(~counted, -100)
        if config.kl_weight:
            heads = head_of(unwrapped), head_of(self.teacher)
            with self.accelerator.autocast():  # Trainer's own ends with the model's forward
                parts["kl"] = chunked_kl(
                    students[-1], teachers[-1], *heads, config.chunk_tokens, REVERSE[config.divergence]
                )
            loss = loss + config.kl_weight * parts["kl"]
        if config.cosine_weight:
            shared = teachers if self.kept is None else tuple(states[..., self.kept] for states in teachers)
            parts["cosine"] = cosine_distance(students, shared)
            loss = loss + config.cosine_weight * parts["cosine"]
        if config.lm_weight:
            logits = head_of(unwrapped)(final[:, :-1])
            parts["lm"] = F.cross_entropy(logits.flatten(0, 1).float(), following.flatten())
            loss = loss + config.lm_weight * parts["lm"]
        self._parts = {name: value.detach() for name, value in parts.items()}
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """KL(parent || child) on the gate's text; only steps that are below that of step 0 count as good ones."""
        kl, error = self.gate.kl(self.model) if self.state.global_step else self.gate.before
        if self.state.global_step == 0:
            self.state.best_metric = kl
        metrics = {f"{metric_key_prefix}_kl": kl, f"{metric_key_prefix}_kl_stderr": error}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control.should_training_stop |= not math.isfinite(kl)
        return metrics

    # -- checkpoints of sharded models: transformers would write the whole model, and the optimizer of one process

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.sharded:
            return super()._save(output_dir, state_dict)
        return dcp.save(self._shares(), checkpoint_id=Path(output_dir) / SHARES)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if not self.sharded:  # else together with the optimizer
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        shares = self._shares()
        dcp.load(shares, checkpoint_id=Path(checkpoint) / SHARES)
        set_state_dict(
            self.model,
            self.optimizer.optimizer,
            model_state_dict=shares["model"],
            optim_state_dict=shares["optimizer"],
        )
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _load_best_model(self) -> None:
        if not self.sharded:
            super()._load_best_model()
            return
        shares = {"model": get_model_state_dict(self.model)}
        dcp.load(shares, checkpoint_id=Path(self.state.best_model_checkpoint) / SHARES)
        set_model_state_dict(self.model, shares["model"])

    def _shares(self) -> dict:
        model, optimizer = get_state_dict(self.model, self.optimizer.optimizer)
        return {"model": model, "optimizer": optimizer}

    def log(self, logs: dict, *args, **kwargs) -> None:
        if "loss" in logs:
            logs = {**logs, **{name: value.item() for name, value in getattr(self, "_parts", {}).items()}}
        super().log(logs, *args, **kwargs)


@dataclass(frozen=True)
class Distilled:
    """What GKD did, judged on held-out rows.

    Attributes:
        steps: optimizer steps that were made.
        step: the one that is kept; 0 is the child as it came.
        learning_rate: at its peak.
        rates: KL after a short try of each learning rate; None where it diverged.
        kl_before, kl_after, kl_last: KL(parent || child) per token in nats without GKD, of what is kept, and of the last
            step (None where it diverged).
    """

    steps: int
    step: int
    learning_rate: float
    rates: dict[str, float | None]
    kl_before: float
    kl_after: float
    kl_last: float | None


class Gate:
    """KL(parent || child) on held-out rows: what chooses the learning rate and the step of GKD.

    All processes measure the same rows and take the first one's numbers, so that they decide alike.

    Attributes:
        before: KL of the child as it came, and its standard error.
    """

    def __init__(self, parent: PreTrainedModel, rows: Rows, batch_size: int, child: PreTrainedModel):
        self.dtype = child.dtype
        self.targets = Targets(parent, rows, batch_size, "distill: parent")
        self.rows: torch.Tensor | None = None  # KL of each row, of the last child that was asked for on all of them
        self.before = self.kl(child)
        self.rows_before = self.rows

    @torch.no_grad()
    def kl(self, child: PreTrainedModel, share: int = 1) -> tuple[float, float]:
        """Mean per token in nats and its standard error by document, on one in `share` of the batches; inf for no number.

        The float32 weights of a child of half precision compute in half precision.
        """
        child.eval()
        head, half = float_head_of(child), self.dtype != torch.float32 and child.dtype == torch.float32
        values = []
        for index, batch in enumerate(self.targets.batches[: math.ceil(len(self.targets.batches) / share)]):
            with torch.autocast(batch.device.type, self.dtype if half else None, enabled=half):
                states = final_states(child, batch)
            values.append(self.targets.per_row(index, self.targets.tokens(index, [states], head, ["kl"])[0]["kl"]))
        if isinstance(child, FSDPModule):
            child.reshard()  # a forward without a backward leaves its ends gathered
        kl = torch.cat(values)
        self.rows = kl if share == 1 else self.rows
        mean, error = broadcast_object_list(list(mean_and_error(kl, self.targets.rows.documents[: len(kl)])))
        return (mean, error) if math.isfinite(mean) else (math.inf, math.inf)

    def is_better(self, child: PreTrainedModel) -> tuple[bool, float]:
        """Whether `child` is nearer to the parent than the one that came, beyond chance; and its KL."""
        kl = self.kl(child)[0]
        sure = math.isfinite(kl) and surely_lower(self.rows, self.rows_before, self.targets.rows.documents)
        return broadcast_object_list([sure])[0], kl


def validation_rows(tokens: torch.Tensor, config: DistillConfig, sequence_length: int, seed: int) -> Rows:
    """What `distill` is judged on: `distill.eval_tokens` of a held-out stream."""
    return Rows.draw(tokens, sequence_length, config.eval_tokens, seed + 13)


def distill(
    child: PreTrainedModel,
    parent: PreTrainedModel,
    tokens: torch.Tensor,
    config: DistillConfig,
    sequence_length: int,
    output_dir: str | Path,
    validation: Rows,
    seed: int = 0,
    kept: torch.Tensor | None = None,
) -> tuple[PreTrainedModel, Distilled]:
    """Train `child` (all weights, or LoRA merged at the end) on `config.num_tokens` of the train stream.

    Continues from the last checkpoint below `output_dir` if there is one. Returns the child in its own dtype as it was at
    the step that is nearest to the parent on `validation`, bit by bit what came in where no step is nearer; with
    `config.fsdp`, both models are of `loading.load_sharded`, the child in float32, and so it comes back.

    Args:
        kept: the parent's channels that the child's stream has, where it has fewer; the cosine is of them.

    Raises:
        RecipeError: fewer than two rows to choose by, a checkpoint of a training of another length, or as of
            `check_document_masks`.
        RuntimeError: a child whose KL is no number before the first step.
    """
    if len(validation) < 2:
        raise RecipeError(_too_few(len(validation), sequence_length))
    output_dir, processes = Path(output_dir), num_processes()
    if config.fsdp:
        for model in (child, parent):
            check_sharded(model, processes)
    dtype, implementation = child.dtype, child.config._attn_implementation

    def arguments(**changes) -> TrainingArguments:
        return gkd_arguments(config, sequence_length, output_dir, parent.device.type == "cpu", seed, **changes)

    args = arguments()
    if not config.fsdp:
        for model in (child, parent):
            model.to(args.device)
    gate = Gate(parent, validation, config.batch_size, child)
    before = gate.before[0]
    if not math.isfinite(before):
        raise RuntimeError("the child's KL is no number before GKD: its blocks have diverged, build the library again")
    start = _copies(child.parameters())
    if config.attn_implementation is not None:
        child.set_attn_implementation(config.attn_implementation)
    if config.lora is not None:
        torch.manual_seed(seed)
        child = _with_lora(child, config.lora)
        start += _copies(p for p in child.parameters() if p.requires_grad)
    elif not config.fsdp:
        child.float().requires_grad_(True)  # master weights; `args: {bf16: true}` computes in bf16
    masks = config.document_masks
    for model in (child, parent) if masks and not config.fsdp else ():
        check_document_masks(model, config.batch_size)
    dataset, given = TokenBlocks(tokens, sequence_length, seed + 7, positions=masks), given_tokens(tokens)

    def tried(rate: float, steps: int) -> float:
        """KL after a short training from the start, which is put back."""
        short = arguments(
            learning_rate=rate, max_steps=steps, warmup_steps=1, save_strategy="no", eval_strategy="no",
            eval_on_start=False, load_best_model_at_end=False, report_to="none",
        )  # fmt: skip
        trainer = GKDTrainer(parent, config, short, given, kept=kept, model=child, train_dataset=dataset)
        show_progress(trainer, f"distill: rate {rate:.1e}")
        trainer.train()
        kl = gate.kl(child, share=4)[0]
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        trainer.accelerator.free_memory()
        del trainer
        gc.collect()  # DDP's hooks on the parameters go with it
        _put_back(start)
        return kl

    search = None
    if config.learning_rate == "auto" and "learning_rate" not in config.args:
        hidden_size = child.config.get_text_config().hidden_size
        search = RateSearch(before, hidden_size, config.lora is not None, args.max_steps, output_dir)
        args.learning_rate = search.rate(tried)
    trainer = GKDTrainer(
        parent, config, args, given, gate, kept, model=child, train_dataset=dataset, eval_dataset=validation
    )
    show_progress(trainer, "distill")
    checkpoint = trainer.resume()
    if (
        checkpoint is not None
        and (made_for := artifacts.read_json(f"{checkpoint}/trainer_state.json")["max_steps"]) != args.max_steps
    ):
        raise RecipeError(
            f"{checkpoint} is of a training of {made_for} steps, this one has {args.max_steps}: start as many processes as "
            f"before (now {processes}), or delete {output_dir}"
        )
    args.eval_on_start &= checkpoint is None
    trainer.train(resume_from_checkpoint=checkpoint)
    state = trainer.state
    step = state.global_step if not args.load_best_model_at_end else state.best_global_step or 0
    last = next((row["eval_kl"] for row in reversed(state.log_history) if "eval_kl" in row), math.inf)
    child = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if config.lora is not None:
        child = child.merge_and_unload()
    child.set_attn_implementation(implementation)
    child.config.use_cache = True  # Trainer turns it off, and it would be published so
    if not config.fsdp:
        cast_parameters(child.requires_grad_(True), dtype)
    better, after = gate.is_better(child) if step else (False, before)
    if not better:  # by chance alone, or rounding to its dtype has eaten what was won
        step, after = 0, before
        _put_back(start)
    if search is not None and search.falls_back(after, gate.before[1] if better else 0.0):
        _put_back(start)
        del trainer
        return distill(child, parent, tokens, config, sequence_length, output_dir, validation, seed)
    logger.info(
        "GKD: KL on held-out text %.4f before, %.4f after the last step (learning rate %.1e): %s",
        before, last, args.learning_rate,
        f"step {step} of {state.max_steps} is kept, with {after:.4f}" if step else "step 0 is kept, the child as it came; "
        "lower distill.learning_rate, or set distill.num_tokens: 0",
    )  # fmt: skip
    facts = Distilled(
        state.global_step, step, args.learning_rate, search.rates if search else {}, before, after,
        last if math.isfinite(last) else None,
    )  # fmt: skip
    return child.eval(), facts


def gkd_arguments(
    config: DistillConfig,
    sequence_length: int,
    output_dir: str | Path,
    use_cpu: bool,
    seed: int = 0,
    **changes,
) -> TrainingArguments:
    """Trainer's arguments of GKD: ours, then the recipe's `args`, then `changes`.

    Raises:
        RecipeError: `args` that Trainer refuses, or that choose by another metric.
    """
    steps = num_steps(config.num_tokens, config.batch_size * num_processes(), sequence_length, config.args)
    steps = config.args.get("max_steps", steps)
    every = config.args.get("eval_steps", config.args.get("save_steps", math.ceil(steps / max(1, config.evals))))
    args = training_arguments(
        output_dir,
        "distill",
        {**config.args, **changes},
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate if config.learning_rate != "auto" else 0.0,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps // 20),
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=True,
        metric_for_best_model="kl",
        greater_is_better=False,
        load_best_model_at_end=True,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_nan_inf_filter=False,  # or a diverged run would report a finite loss
        use_cpu=use_cpu,
        seed=seed,
    )
    if args.metric_for_best_model not in ("kl", "eval_kl"):
        raise RecipeError(f"distill.args.metric_for_best_model: {args.metric_for_best_model!r}: GKD measures kl only")
    return args


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copies(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Parameters with a copy of what this process holds of them, on the CPU."""
    return [(p, _local(p.detach()).to("cpu", copy=True)) for p in parameters]


@torch.no_grad()
def _put_back(copies: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
    for parameter, copy in copies:
        _local(parameter).copy_(copy)


def _too_few(rows: int, sequence_length: int) -> str:
    return (
        f"distill: {rows} held-out sequences of {sequence_length} tokens cannot choose a step: raise data.heldout_tokens "
        f"(a third of them is there to choose by) to {6 * sequence_length} or more, and distill.eval_tokens to "
        f"{2 * sequence_length} or more"
    )


def num_processes() -> int:
    """Processes that `torchrun` started; torch.distributed may not be initialised yet."""
    return int(os.environ.get("WORLD_SIZE", 1))


def check_validation(config: DistillConfig, validation_tokens: int, sequence_length: int) -> None:
    """Raises RecipeError where the text that chooses the step of GKD has less than two sequences."""
    rows = min(config.eval_tokens, validation_tokens) // sequence_length
    if config.num_tokens and rows < 2:
        raise RecipeError(_too_few(rows, sequence_length))


def check_fsdp(config: DistillConfig) -> None:
    """Raises RecipeError where `distill.fsdp` meets what it cannot shard."""
    if config.fsdp and config.lora is not None:
        raise RecipeError("distill.lora: adapters are not sharded; leave out distill.fsdp")
    if config.fsdp and config.optimizer != "adamw":
        raise RecipeError(f"distill.optimizer: {config.optimizer} needs whole matrices; with distill.fsdp use adamw")


def _with_lora(child: PreTrainedModel, options: dict):
    import peft

    try:
        config = peft.LoraConfig(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"distill.lora: {error}") from None
    return peft.get_peft_model(child, config)


def _trained(p) -> float:
    """Parameters that GKD trains: all, or those of the adapters."""
    lora = p.recipe.distill.lora
    if lora is None:
        return p.child_parameters
    parts = [[p.shapes.part(kind, getattr(own, kind)) for kind in KINDS] for own in p.own]
    rows = sum(part.width + part.matrices / p.shapes.hidden for pair in parts for part in pair) / len(p.own)
    return p.share * p.shapes.num_layers * lora.get("r", 8) * rows


def _moments(p) -> float:
    """Bytes of the optimizer's state."""
    config, trained = p.recipe.distill, _trained(p)
    if config.optimizer == "muon":  # embeddings, head and norms stay with AdamW
        return 4.0 * trained + (4.0 * p.ends if config.lora is None else 0.0)
    return 0.0 if config.args.get("optim") == "adafactor" else 8.0 * trained  # there a row and a column for a matrix


def estimate_distill(p, num_tokens: int | None = None, alone: bool = False) -> Estimate:
    """P w + 4 C (adapters: C w) + 4 a trained parameter + optimizer (8 AdamW, 4 Muon, 0 Adafactor), all four over the
    devices with fsdp, + 2 a parameter that autocast keeps + saved activations + T L H (w + 4) + 24 chunk V + 4 H V (the
    head's gradient) + targets that judge; on a CPU, C w: the child as it came. `alone`: without fsdp, as baselines do."""
    config, shapes, length, trained = p.recipe.distill, p.shapes, p.length, _trained(p)
    num_tokens = config.num_tokens if num_tokens is None else num_tokens
    help = "set distill.fsdp, lower distill.batch_size or distill.eval_tokens, or set distill.args.gradient_checkpointing, distill.args.optim: adafactor or distill.lora"  # fmt: skip
    if not num_tokens:
        return Estimate(p.open(1) + p.clock.store(p.child_bytes), p.held(child=p.child_bytes), help, p.child_bytes)
    compute, shards = p.compute(config.args), p.machine.count if config.fsdp and not alone else 1
    checkpointing = config.args.get("gradient_checkpointing")
    half, rows, tokens = compute != "float32", config.batch_size, config.batch_size * length
    clock = p.clock_for("float32", compute, config.attn_implementation)
    teacher = p.teacher_share * p.clock_for(compute if half else p.dtype, compute).parent(rows, length)
    batch = clock.ends(rows, length) + clock.global_loss(rows, length, config.chunk_tokens)
    batch += shapes.num_layers * (clock.cosine(rows, length) + clock.frame(rows, length, "whole"))
    layers = shapes.mean(lambda own: sum(clock.part(k, getattr(own, k), rows, length, "whole") for k in KINDS))
    batch += (4 / 3 if checkpointing else 1.0) * p.share * shapes.num_layers * layers
    muon = config.optimizer == "muon" and config.lora is None
    step = p.muon_step(clock, p.share) if muon else clock.adamw(int(trained))
    if shards > 1:  # weights are gathered before each pass and gradients scattered after it; the optimizer is cut
        batch += (p.parameters * p.width + 12 * p.child_parameters) / p.machine.link_bandwidth
        step /= shards
    steps = num_steps(num_tokens, rows * shards, length, config.args)
    batches = steps * config.args.get("gradient_accumulation_steps", 1)
    if config.learning_rate == "auto":
        batches, steps = 1.12 * batches, 1.12 * steps  # four rates, 3 % of the steps each
    saved = 4.0 * p.child_parameters + _moments(p)
    count, eval_rows = p.batches(config.eval_tokens, rows)
    judged = p.child_forward(eval_rows, length, logits=False) + p.clock.judge(eval_rows, length)
    evaluations = count * (p.teacher_share * p.clock.parent(eval_rows, length) + (config.evals + 2) * judged)
    seconds = p.open(1) + batches * (teacher + batch) + steps * step + evaluations
    seconds += TRAINER_SECONDS + config.evals * p.clock.store(saved) + p.clock.store(p.child_bytes)

    width = 2 if half else 4
    one = p.saved(rows, length, width, config.attn_implementation)
    # with checkpointing, what enters each layer waits: the hidden states that the loss takes, too
    waiting = one if checkpointing else p.share * shapes.num_layers * one
    judging, head = p.judging(config.eval_tokens, tokens), 4.0 * shapes.hidden * shapes.vocab
    logits = max(judging["logits"], 24.0 * min(config.chunk_tokens, tokens) * shapes.vocab + head)
    activations = waiting + p.activations(tokens, width, training=True)
    # autocast keeps its copies of weights until the forward ends; with checkpointing, nothing saved for backward does longer
    casts = 2.0 * p.child_parameters / shards if half and config.lora is None else 0.0
    memory = p.held(
        child=(4.0 if config.lora is None else p.width) * p.child_parameters / shards,
        gradients=4.0 * trained / shards,
        optimizer=_moments(p) / shards,
        casts=max(0.0, casts - activations - logits) if checkpointing else casts,
        activations=activations,
        states=tokens * shapes.num_layers * shapes.hidden * (p.width + 4.0),
        logits=logits,
        targets=judging["targets"],
        tokens=0.0 if p.on_gpu else 4.0 * p.recipe.data.num_tokens,
        start=0.0 if p.on_gpu else p.child_bytes,
    )
    memory["parent"] = min(memory["parent"], p.parameters * p.width / shards)
    return Estimate(seconds, memory, help, p.child_bytes, 2 * saved)
