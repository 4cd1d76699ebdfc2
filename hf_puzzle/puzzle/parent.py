"""A small parent trained from scratch, so that the whole pipeline can be shown and tested without a download."""

import logging
import os
import tempfile
from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from .. import artifacts, data
from ..corpora import asks
from ..decision_data import tokenize_requests
from ..evaluation import Rows, Targets, token_losses
from ..optim import MuonWithAdamW
from ..preflight import check_folder
from ..recipe import ParentRecipe, RecipeError, did_you_mean
from ..remote.decisions_pcw import Decider
from ..stages import Estimate
from ..training import SealingTrainer, num_steps, resolve_device, show_progress, training_arguments
from .estimates import PROCESS_BYTES, TOKENIZER_BYTES, Pieces


logger = logging.getLogger(__name__)

HELDOUT_TOKENS = 16_384  # of the loss that the folder's training.json states


class ParentTrainer(SealingTrainer):
    """LM training on token blocks."""

    # causal LMs divide by num_items_in_batch themselves
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, answers = inputs["input_ids"], inputs.pop("answers", None)
        if answers is not None:
            labels, num_items_in_batch = labels.masked_fill(~answers, -100), answers.sum()
        outputs = model(**inputs, labels=labels, num_items_in_batch=num_items_in_batch)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def config_of(recipe: ParentRecipe, **vocabulary) -> PretrainedConfig:
    """The config of the parent that a recipe trains.

    Raises:
        RecipeError: a family without a causal LM in transformers, or values that it refuses.
    """
    if recipe.model_type not in CONFIG_MAPPING:
        raise RecipeError(
            f"model_type {recipe.model_type!r} is unknown{did_you_mean(recipe.model_type, CONFIG_MAPPING)}"
        )
    family = CONFIG_MAPPING[recipe.model_type]
    if family not in AutoModelForCausalLM._model_mapping:
        raise RecipeError(f"model_type {recipe.model_type!r}: transformers has no causal LM of this family")
    try:
        return family(**recipe.config, **vocabulary)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"config: {error}") from None


def planned_config(recipe: ParentRecipe, recipe_dir: Path) -> PretrainedConfig:
    """The config of the parent that a recipe will make; RecipeError as of `config_of` and for a start that cannot be opened."""
    if recipe.start is None:
        return config_of(recipe, vocab_size=recipe.vocab_size)
    try:
        return AutoConfig.from_pretrained(_start_of(recipe, recipe_dir))
    except (OSError, ValueError) as error:
        raise RecipeError(f"start {recipe.start!r} cannot be opened: {error}") from None


def _start_of(recipe: ParentRecipe, recipe_dir: Path) -> str:
    """Folder or Hub id of the model that training starts from."""
    beside = recipe_dir / recipe.start
    return str(beside) if (beside / "config.json").exists() else recipe.start


def _start(recipe: ParentRecipe, recipe_dir: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model before training, and its tokenizer.

    Raises:
        RecipeError: keys of a model from scratch beside `start`, or requests without it.
    """
    if recipe.start is None:
        if asks(recipe.data):
            raise RecipeError(
                f"data.name {recipe.data.name}: a model learns decisions from another; name it in `start`"
            )
        tokenizer = data.train_tokenizer(recipe.data, recipe.vocab_size)
        config = config_of(
            recipe,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return AutoModelForCausalLM.from_config(config), tokenizer
    if recipe.config:
        raise RecipeError("config: a model that is trained further has its own; leave the key out, or `start`")
    source = _start_of(recipe, recipe_dir)
    try:
        # eager: on short prompts in bf16, a CPU takes half the time (the folder does not say it)
        model = AutoModelForCausalLM.from_pretrained(source, dtype="float32", attn_implementation="eager")
        return model, AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise RecipeError(f"start {recipe.start!r} cannot be opened: {error}") from None


def _streams(recipe: ParentRecipe, model: PreTrainedModel, tokenizer) -> dict[str, data.TokenStream]:
    if not asks(recipe.data):
        return data.tokenize(recipe.data, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.safetensors"
        tokenize_requests(path, recipe.data, Decider(model, tokenizer), data.end_tokens(model.config)[0], answers=True)
        return {side: stream.copied() for side, stream in data.read_streams(path).items()}


def train_parent(recipe: ParentRecipe, output_dir: str | Path, recipe_dir: str | Path = ".") -> Path:
    """Train tokenizer and model, or `start` further; write an ordinary bf16 Hugging Face folder with the text's fingerprint in
    it. Of decision requests only the answers count.

    A rerun after an interruption continues from the last checkpoint in `<output_dir>-checkpoints`, which stays. Under `torchrun`, the batch is
    divided among the processes.
    """
    output_dir = Path(output_dir)
    check_folder(output_dir.parent)
    set_seed(recipe.seed)
    device = resolve_device(recipe.device)
    model, tokenizer = _start(recipe, recipe_dir)
    tokens = _streams(recipe, model, tokenizer)
    logger.info("training a parent of %.2f M parameters on %s", model.num_parameters() / 1e6, device)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    steps = num_steps(recipe.num_tokens, recipe.batch_size, recipe.data.sequence_length, recipe.args)
    checkpoints = output_dir.with_name(output_dir.name + "-checkpoints")
    args = training_arguments(
        checkpoints,
        "",
        recipe.args,
        max_steps=steps,
        per_device_train_batch_size=max(1, recipe.batch_size // processes),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=min(100, steps // 10),
        max_grad_norm=1.0,
        save_strategy="steps",
        save_steps=max(1, steps // 5),
        save_total_limit=2,
        use_cpu=device.type == "cpu",
        seed=recipe.seed,
    )
    optimizer = MuonWithAdamW(model.named_parameters(), lr=recipe.learning_rate)
    trainer = ParentTrainer(
        model=model,
        args=args,
        train_dataset=data.TokenBlocks(tokens["train"], recipe.data.sequence_length, recipe.seed),
        optimizers=(optimizer, None),
    )
    show_progress(trainer, "parent")
    trainer.train(resume_from_checkpoint=trainer.resume())
    if not trainer.is_world_process_zero():
        return output_dir
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    rows = data.sequences(tokens["heldout"], recipe.data.sequence_length, HELDOUT_TOKENS, recipe.seed)
    with torch.no_grad():
        if asks(recipe.data):
            rows = Rows.draw(tokens["heldout"], recipe.data.sequence_length, HELDOUT_TOKENS, recipe.seed)
            verdict = Targets(model, rows, recipe.batch_size).compare(model)
            facts = {"heldout_loss": verdict.mean("loss")[0], "heldout_accuracy": verdict.mean("hit")[0]}
        else:
            batches = rows.to(model.device).split(recipe.batch_size)
            losses = [token_losses(model(batch).logits, batch) for batch in batches]
            facts = {"heldout_loss": torch.cat(losses).double().mean().item()}
    model = model.to("cpu", torch.bfloat16)
    model.config.use_cache = True  # Trainer turns it off
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    artifacts.write_json(
        output_dir / "training.json",
        {
            "tokens": steps * recipe.batch_size * recipe.data.sequence_length,
            "text_fingerprint": artifacts.fingerprint(tokens["train"].sum().item(), len(tokens["train"])),
            **{name: round(value, 4) for name, value in facts.items()},
            "environment": artifacts.environment(),
        },
    )
    return output_dir


def estimate_parent(p: Pieces) -> Estimate:
    """16 bytes a parameter (weight, gradient, two moments), the activations of all layers, float32 logits."""
    recipe: ParentRecipe = p.run.source.recipe
    rows, length, layers = recipe.batch_size, recipe.data.sequence_length, p.shapes.num_layers
    clock = p.clock_for("float32", p.compute(recipe.args))
    step = clock.ends(rows, length) + layers * p.shapes.mean(lambda own: clock.layer(own, rows, length, "whole"))
    step += 3 * clock.logits(rows, length) + clock.divergence(rows, length) + p.muon_step(clock, 1.0)
    memory = {
        "process": PROCESS_BYTES,
        "weights, gradients, optimizer": 16.0 * p.parameters,
        "activations": layers * p.saved(rows, length, 4) + 12.0 * rows * length * p.shapes.vocab,
        "tokens": TOKENIZER_BYTES + (0.0 if p.on_gpu else 4.0 * recipe.data.num_tokens),
    }
    return Estimate(
        clock.tokenize(recipe.data) + num_steps(recipe.num_tokens, rows, length, recipe.args) * step,
        memory, "lower batch_size of the parent's recipe", 2.0 * p.parameters,
    )  # fmt: skip
