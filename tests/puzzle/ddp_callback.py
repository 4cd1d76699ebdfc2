"""A Trainer with the callback on however many processes torchrun starts: `ddp_callback.py OUT`."""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from hf_puzzle import costs
from hf_puzzle.puzzle import assess
from hf_puzzle.puzzle.bench import Bench
from hf_puzzle.puzzle.callback import PuzzleCallback


torch.set_num_threads(1)
# the machine is busy with the other process: a speed by size
assess.peak_memory_bytes = lambda *args: None
Bench._stays = property(lambda self: True)
costs.time_generation = lambda model, workload, clock="wall": costs.Timing(1.0, 1.0 + model.num_parameters() / 2e3)

RECIPE = {
    "search_space": {"attention": ["none"], "ffn": ["none"]},
    "importance": {"num_tokens": 64},
    "library": {"num_tokens": 0, "eval_tokens": 32, "ridge_tokens": 64},
    "score": {"num_tokens": 32},
    "cost": {
        "batch_sizes": [1], "prefill_tokens": 4, "decode_tokens": 2, "dtype": "float32", "clock": "cpu", "threads": 1,
        "rounds": 1, "stack_layers": 2, "calibration_children": 3,
    },
    "constraints": {"num_parameters": 20_000},
    "solve": {"num_solutions": 1, "measure_rounds": 1, "rescore_rounds": 0},
    "child": {"refit": False},
    "distill": {"num_tokens": 64, "batch_size": 4, "args": {"use_cpu": True}},
    "evaluate": {
        "num_tokens": 64, "task_items": 4, "task_context": 4, "task_continuation": 2, "measure_rounds": 1,
        "assisted_prompts": 0,
    },
}  # fmt: skip


def error_of(function) -> str:
    try:
        function()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}" if "on the main process" not in str(error) else str(error)
    return "none"


def main(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.1}
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    words = {f"w{i}": i for i in range(64)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w2", pad_token="w0"
    )
    rows = torch.randint(3, 64, (48, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in rows]
    callback = PuzzleCallback(RECIPE)
    args = TrainingArguments(
        str(folder / "out"), max_steps=4, per_device_train_batch_size=4, per_device_eval_batch_size=4, use_cpu=True,
        eval_strategy="steps", eval_steps=2, save_strategy="no", report_to="none", ddp_backend="gloo", ddp_timeout=5,
    )  # fmt: skip
    trainer = Trainer(
        model, args, default_data_collator, data[16:], data[:16], processing_class=tokenizer, callbacks=[callback]
    )
    trainer.train()
    if callback.error is not None:
        raise callback.error
    result = {"log": trainer.state.log_history[-1], "tokens": callback._activity[1].num_tokens}
    result["sums"] = [sums.tolist() for sums in callback._activity[1].sums.values()]
    callback.search_at = None
    trainer.train()  # the processes are still together
    result["steps"] = trainer.state.global_step
    result["weights"] = [p.double().sum().item() for p in model.parameters()]
    failing = PuzzleCallback(RECIPE | {"constraints": {"speedup": 1000.0}}, search_at=None)
    result["failed"] = error_of(lambda: failing.search(trainer)).replace(
        "InfeasibleError on the main process", "InfeasibleError"
    )
    model.config.quantization_config = {"quant_method": "fp8"}
    result["refused"] = error_of(trainer.train).replace(
        "UnsupportedParentError on the main process", "UnsupportedParentError"
    )
    for name in ("failed", "refused"):
        result[name] = result[name].removeprefix("RuntimeError: ")
    (folder / f"{trainer.args.process_index}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
