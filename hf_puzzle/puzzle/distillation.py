"""Global knowledge distillation (GKD): the assembled child learns the parent's logits and hidden states end to end.

L = KL(parent || child) + mean over layers of (1 - cos(h_child, h_parent)), no LM loss (Puzzle, arXiv 2411.19146,
section 5 and its ablation).
"""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from .. import artifacts
from ..anatomy import Head, head_of
from ..data import TokenBlocks, given_tokens
from ..evaluation import targets
from ..optim import MuonWithAdamW
from ..recipe import DistillConfig, RecipeError
from ..training import SealingTrainer, num_steps, show_progress, training_arguments
from .child import cast_parameters
from .loading import check_sharded


logger = logging.getLogger(__name__)

SHARES = "shares"  # folder of a checkpoint with every process's part of model and optimizer


class _LinearKL(torch.autograd.Function):
    """`chunked_kl` where the student's head is one matrix: its gradients are taken while the logits are there."""

    @staticmethod
    def forward(ctx, student, weight, bias, head: Head, teacher, teacher_head, chunk: int):
        inputs, wanted = (student, weight, bias), ctx.needs_input_grad[:3]
        grads = [torch.zeros_like(x, dtype=torch.float32) if w else None for x, w in zip(inputs, wanted, strict=True)]
        total = student.new_zeros((), dtype=torch.float32)
        for start in range(0, len(student), chunk):
            place = slice(start, start + chunk)
            log_p = teacher_head(teacher[place]).float().log_softmax(-1)
            raw = F.linear(student[place], weight, bias)
            logits = head.finished(raw.float())
            log_q = logits.log_softmax(-1)
            p = log_p.exp()
            total += torch.linalg.vecdot(p, log_p.sub_(log_q)).sum()
            if not any(wanted):
                continue
            slope = log_q.exp_().sub_(p)  # of the KL by the logits
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
        return *grads, None, None, None, None


def _kl_of_chunk(student: torch.Tensor, teacher: torch.Tensor, student_head, teacher_head) -> torch.Tensor:
    log_p = F.log_softmax(teacher_head(teacher).float(), dim=-1)
    log_q = F.log_softmax(student_head(student).float(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def chunked_kl(student: torch.Tensor, teacher: torch.Tensor, student_head, teacher_head, chunk: int) -> torch.Tensor:
    """Mean KL(teacher || student) per token, from the final hidden states, `chunk` tokens of logits at a time.

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
        return _LinearKL.apply(student, matrix.weight, matrix.bias, student_head, teacher, teacher_head, chunk)
    total = student.new_zeros((), dtype=torch.float32)
    for s, t in zip(student.split(chunk), teacher.split(chunk), strict=True):
        total = total + checkpoint(_kl_of_chunk, s, t, student_head, teacher_head, use_reentrant=False)
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

    KL and cosine look at every position: a child that agrees with its parent there too loses nothing. The LM loss leaves
    out the tokens that inference is `given` (`TokenStream.given`). Works under `torchrun` like any Trainer. Models of `loading.load_sharded` stay sharded, as does the optimizer, and
    checkpoints hold the shares; any others are replicated.
    """

    loss_is_scaled_for_ga = False  # our loss is a mean over the micro-batch: Trainer must divide it

    def __init__(
        self,
        teacher: PreTrainedModel,
        config: DistillConfig,
        args: TrainingArguments,
        given: Sequence[int] = (),
        **kwargs,
    ):
        save_only_model = args.save_only_model
        args.save_only_model |= config.fsdp  # Trainer refuses to save the optimizer of sharded models; we do it
        super().__init__(args=args, **kwargs)
        args.save_only_model = save_only_model
        self.sharded = config.fsdp
        self.teacher = (teacher if self.sharded else teacher.to(self.args.device)).eval().requires_grad_(False)
        self.config, self.given = config, given

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.config.optimizer == "adamw" or self.optimizer is not None:
            return super().create_optimizer(model)
        self.optimizer = MuonWithAdamW((model or self.model).named_parameters(), lr=self.args.learning_rate)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        input_ids = inputs["input_ids"]
        # models are called as a whole, so that DDP and FSDP see their forward; one position of logits is enough
        with torch.no_grad():
            teacher = self.teacher(input_ids=input_ids, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        outputs = model(input_ids=input_ids, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        unwrapped = self.accelerator.unwrap_model(model)
        final = outputs.hidden_states[-1]
        config = self.config
        loss = final.new_zeros((), dtype=torch.float32)
        parts = {}
        if config.kl_weight:
            heads = head_of(unwrapped), head_of(self.teacher)
            with self.accelerator.autocast():  # Trainer's own ends with the model's forward
                parts["kl"] = chunked_kl(final, teacher.hidden_states[-1], *heads, config.chunk_tokens)
            loss = loss + config.kl_weight * parts["kl"]
        if config.cosine_weight:
            parts["cosine"] = cosine_distance(outputs.hidden_states, teacher.hidden_states)
            loss = loss + config.cosine_weight * parts["cosine"]
        if config.lm_weight:
            logits = head_of(unwrapped)(final[:, :-1])
            parts["lm"] = F.cross_entropy(logits.flatten(0, 1).float(), targets(input_ids, self.given).flatten())
            loss = loss + config.lm_weight * parts["lm"]
        self._parts = {name: value.detach() for name, value in parts.items()}
        return (loss, outputs) if return_outputs else loss

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

    def _shares(self) -> dict:
        model, optimizer = get_state_dict(self.model, self.optimizer.optimizer)
        return {"model": model, "optimizer": optimizer}

    def log(self, logs: dict, *args, **kwargs) -> None:
        if "loss" in logs:
            logs = {**logs, **{name: value.item() for name, value in getattr(self, "_parts", {}).items()}}
        super().log(logs, *args, **kwargs)


def distill(
    child: PreTrainedModel,
    parent: PreTrainedModel,
    tokens: torch.Tensor,
    config: DistillConfig,
    sequence_length: int,
    output_dir: str | Path,
    seed: int = 0,
) -> PreTrainedModel:
    """Train `child` (all weights, or LoRA merged at the end) on `config.num_tokens` of the train stream.

    Continues from the last checkpoint below `output_dir` if there is one. Returns the trained child in its own dtype;
    with `config.fsdp`, both models are of `loading.load_sharded`, the child in float32, and so it comes back.
    """
    dtype, output_dir = child.dtype, Path(output_dir)
    processes = num_processes()
    if config.fsdp:
        for model in (child, parent):
            check_sharded(model, processes)
    # float32 master weights; `args: {bf16: true}` computes in bf16
    child = child.train() if config.fsdp else child.float().train()
    implementation = child.config._attn_implementation
    if config.attn_implementation is not None:
        child.set_attn_implementation(config.attn_implementation)
    if config.lora is not None:
        child = _with_lora(child, config.lora)
    steps = num_steps(config.num_tokens, config.batch_size * processes, sequence_length)
    args = training_arguments(
        output_dir,
        "distill",
        config.args,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps // 20),
        max_grad_norm=1.0,
        save_strategy="steps",
        save_steps=max(1, steps // 4),
        save_total_limit=2,
        logging_nan_inf_filter=False,  # or a diverged run would report a finite loss
        use_cpu=parent.device.type == "cpu",
        seed=seed,
    )
    dataset = TokenBlocks(tokens, sequence_length, seed + 7)
    trainer = GKDTrainer(parent, config, args, given_tokens(tokens), model=child, train_dataset=dataset)
    show_progress(trainer, "distill")
    checkpoint = trainer.resume()
    if (
        checkpoint is not None
        and (made_for := artifacts.read_json(f"{checkpoint}/trainer_state.json")["max_steps"]) != steps
    ):
        raise RecipeError(
            f"{checkpoint} is of a training of {made_for} steps, this one has {steps}: start as many processes as before "
            f"(now {processes}), or delete {output_dir}"
        )
    training_loss = trainer.train(resume_from_checkpoint=checkpoint).training_loss
    if not math.isfinite(training_loss):
        raise RuntimeError(f"distillation diverged (loss {training_loss}): lower distill.learning_rate")
    child = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is not None:
        child = child.merge_and_unload()
    child.set_attn_implementation(implementation)
    child.config.use_cache = True  # Trainer turns it off, and it would be published so
    if config.fsdp:
        return child.eval()
    return cast_parameters(child.requires_grad_(True), dtype).eval()


def num_processes() -> int:
    """Processes that `torchrun` started; torch.distributed may not be initialised yet."""
    return int(os.environ.get("WORLD_SIZE", 1))


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
