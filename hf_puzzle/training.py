"""What all trainings share: strict `TrainingArguments`, devices, one quiet progress bar."""

import contextlib
import dataclasses
import logging
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from . import artifacts
from .progress import bar
from .recipe import RecipeError, did_you_mean


logger = logging.getLogger(__name__)

TRAINER_SECONDS = 1.5  # of a Trainer besides its steps: its setup and four checkpoints


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise RecipeError(f"device: {device!r} is not a device; use auto, cpu, cuda or cuda:N") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"device: {device!r}, but torch sees no GPU; use auto or cpu")
    return resolved


def training_arguments(output_dir: str | Path, where: str, args: dict, **defaults) -> TrainingArguments:
    """`TrainingArguments` from ours (`defaults`) and the recipe's `args`, which win.

    Raises:
        RecipeError: `args` has a key that `TrainingArguments` does not know, or values it refuses.
    """
    known = [f.name for f in dataclasses.fields(TrainingArguments)]
    for name in args:
        if name not in known:
            raise RecipeError(f"unknown key '{where}.args.{name}'{did_you_mean(name, known)}")
    base = {
        "output_dir": str(output_dir),
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 25,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
    }
    try:
        return TrainingArguments(**{**base, **defaults, **args})
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where}.args: {error}") from None


def check_trackers(names: list[str]) -> None:
    """Raises RecipeError for a tracker of `report_to` that transformers does not know, or that is not installed."""
    try:
        for callback in get_reporting_integration_callbacks([name for name in names if name != "none"]):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise RecipeError(f"report_to: {error}") from None


SEAL = "sealed.json"


def seal(checkpoint: Path) -> None:
    """Write the last file of a checkpoint: size and sha256 of the others, by which a rerun knows that it is whole."""
    artifacts.write_json(checkpoint / SEAL, _facts(checkpoint))


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint below `output_dir` that is whole; those that a crash cut are deleted."""
    by_step = sorted(output_dir.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for path in by_step:
        with contextlib.suppress(artifacts.ArtifactError):
            if artifacts.read_json(path / SEAL) == _facts(path):
                return path
        logger.warning("checkpoint %s is not whole; the one before it is used", path.name)
        artifacts.remove(path)
    return None


class SealingTrainer(Trainer):
    """`Trainer` whose checkpoints end with a seal; resume from `last_checkpoint`, not by their names."""

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.accelerator.wait_for_everyone()  # every process writes its own random state
        if self.is_world_process_zero():
            self.save_more(folder)
            seal(folder)

    def resume(self) -> str | None:
        """The checkpoint to train on from: one process looks (and deletes what is not whole), all get its answer."""
        found = [str(last_checkpoint(Path(self.args.output_dir)) or "") if self.is_world_process_zero() else ""]
        return broadcast_object_list(found)[0] or None

    def save_more(self, folder: Path) -> None:
        """What a subclass keeps in a checkpoint besides the Trainer's own state."""


def _facts(folder: Path) -> dict[str, list]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return {file.relative_to(folder).as_posix(): artifacts.file_facts(file) for file in files}


class _Progress(TrainerCallback):
    """One bar with the loss beside it, gone when the training is over; main process only."""

    def __init__(self, description: str):
        self.description = description
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.bar = bar(total=state.max_steps, initial=state.global_step, desc=self.description)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.bar is not None and "loss" in (logs or {}):
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.bar is not None:
            self.bar.close()


def show_progress(trainer: Trainer, description: str) -> None:
    """Replace Trainer's printed dictionaries by one progress bar."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Progress(description))


def num_steps(num_tokens: int, batch_size: int, sequence_length: int, args: dict | None = None) -> int:
    """Optimizer steps that consume `num_tokens`, at least one; `args` may say how many batches make a step."""
    batches = (args or {}).get("gradient_accumulation_steps", 1)
    return max(1, round(num_tokens / (batches * batch_size * sequence_length)))
