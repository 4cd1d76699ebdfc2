"""A small parent trained from scratch, so that the whole pipeline can be shown and tested without a download."""

import logging
import os
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, set_seed

from .. import artifacts, data
from ..evaluation import token_losses
from ..optim import MuonWithAdamW
from ..preflight import check_folder
from ..recipe import ParentRecipe, RecipeError, did_you_mean
from ..stages import Estimate
from ..training import SealingTrainer, num_steps, resolve_device, show_progress, training_arguments
from .estimates import PROCESS_BYTES, TOKENIZER_BYTES, Pieces


logger = logging.getLogger(__name__)

HELDOUT_TOKENS = 16_384  # of the loss that the folder's training.json states


class ParentTrainer(SealingTrainer):
    """LM training on token blocks."""

    # causal LMs divide by num_items_in_batch themselves
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs, labels=inputs["input_ids"], num_items_in_batch=num_items_in_batch)
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


def train_parent(recipe: ParentRecipe, output_dir: str | Path) -> Path:
    """Train tokenizer and model; write an ordinary bf16 Hugging Face folder with the text's fingerprint in it.

    A rerun after an interruption continues from the last checkpoint in `<output_dir>-checkpoints`, which stays. Under `torchrun`, the batch is
    divided among the processes.
    """
    output_dir = Path(output_dir)
    check_folder(output_dir.parent)
    set_seed(recipe.seed)
    device = resolve_device(recipe.device)
    tokenizer = data.train_tokenizer(recipe.data, recipe.vocab_size)
    tokens = data.tokenize(recipe.data, tokenizer)
    config = config_of(
        recipe,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
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
        losses = [token_losses(model(batch).logits, batch) for batch in rows.to(model.device).split(recipe.batch_size)]
    loss = round(torch.cat(losses).double().mean().item(), 4)
    model = model.to("cpu", torch.bfloat16)
    model.config.use_cache = True  # Trainer turns it off
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    artifacts.write_json(
        output_dir / "training.json",
        {
            "tokens": steps * recipe.batch_size * recipe.data.sequence_length,
            "text_fingerprint": artifacts.fingerprint(tokens["train"].sum().item(), len(tokens["train"])),
            "heldout_loss": loss,
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
