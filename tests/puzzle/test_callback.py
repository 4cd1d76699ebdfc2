"""The callback on real Trainers: what it collects, what it writes, and that the training does not notice."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from families import family_model, own_head
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from tiny_run import steady_clock
from tokenizers import Tokenizer, models, processors
from torch.utils.data import Dataset, IterableDataset
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

import hf_puzzle
from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.data import DataError, sequences
from hf_puzzle.puzzle import assess, pipeline
from hf_puzzle.puzzle.callback import PuzzleCallback, apart_from_training, copy_of, token_stream
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.pipeline import load_run
from hf_puzzle.puzzle.solver import InfeasibleError
from hf_puzzle.puzzle.surgery import UnsupportedParentError
from hf_puzzle.recipe import RecipeError, parse_recipe


RECIPE = {
    "search_space": {"attention": [2, "none"], "ffn": [256, "none"]},
    "importance": {"num_tokens": 64},
    "library": {"num_tokens": 128, "batch_size": 4, "eval_tokens": 32, "ridge_tokens": 128, "evals": 1},
    "score": {"num_tokens": 64},
    "cost": {
        "batch_sizes": [2], "prefill_tokens": 8, "decode_tokens": 4, "dtype": "float32", "clock": "cpu", "threads": 1,
        "rounds": 2, "stack_layers": 2, "calibration_children": 3,
    },
    "constraints": {"num_parameters": 250_000},
    "solve": {"num_solutions": 1, "measure_rounds": 2, "time_limit_s": 20, "rescore_rounds": 0},
    "child": {"refit_tokens": 128},
    "distill": {"num_tokens": 128, "batch_size": 4, "learning_rate": 1.0e-3},
    "evaluate": {
        "num_tokens": 128, "task_items": 4, "task_context": 8, "task_continuation": 4, "measure_rounds": 2,
        "assisted_prompts": 0,
    },
}  # fmt: skip


class Rows(Dataset):
    """Rows that count in circles through eight tokens; `lengths` is drawn from 9 to 16 unless it is given."""

    def __init__(self, count, seed, length=None):
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(0, 8, (count,), generator=generator).tolist()
        lengths = torch.randint(9, 17, (count,), generator=generator).tolist()
        self.rows = [
            [3 + (start + i) % 8 for i in range(length or n)] for start, n in zip(starts, lengths, strict=True)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "attention_mask": [1] * len(self.rows[index])}


class Stream(IterableDataset):
    """Rows without end."""

    def __iter__(self):
        rows, index = Rows(64, 0), 0
        while True:
            yield rows[index % 64]
            index += 1


@pytest.fixture(scope="module")
def tokenizer():
    words = {name: i for i, name in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(253))])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<s>")), pad_token="<pad>", eos_token="</s>"
    )


@pytest.fixture(autouse=True)
def steady_times(monkeypatch):
    steady_clock(monkeypatch)
    monkeypatch.setattr(assess, "peak_memory_bytes", lambda *args: None)


@pytest.fixture
def make_trainer(make_parent, tokenizer, tmp_path):
    """A function that gives a Trainer of a trainable tiny Llama with its callbacks."""

    def make(*callbacks, model=None, name="out", trainer_class=Trainer, train=None, **options):
        if model is None:
            model = make_parent("llama", num_hidden_layers=2).requires_grad_(True)
        data = {"train_dataset": Rows(64, 0) if train is None else train, "eval_dataset": Rows(24, 1)}
        own = {key: options.pop(key) for key in list(options) if key in ("eval_dataset", "processing_class")}
        own = {"processing_class": tokenizer} | data | own
        defaults = {
            "max_steps": 4, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-2,
            "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", "logging_steps": 1, "use_cpu": True,
            "disable_tqdm": True, "report_to": "none",
        }  # fmt: skip
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        args = TrainingArguments(str(tmp_path / name), **(defaults | options))
        return trainer_class(model=model, args=args, data_collator=collator, callbacks=list(callbacks), **own)

    return make


class Tracker(TrainerCallback):
    """What a tracker does: notes logs until the training ends."""

    def __init__(self):
        self.open, self.seen = True, []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.open:
            self.seen.append(logs)

    def on_train_end(self, args, state, control, **kwargs):
        self.open = False


def recipe(**changes):
    return {name: section for name, section in (RECIPE | changes).items() if section is not None}


def num_hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


# -- importance


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox", "mixtral", "gpt_oss"])
def test_an_evaluation_ranks_channels_like_a_pass_of_its_own(make_trainer, family):
    model = family_model(family)
    callback = PuzzleCallback(recipe())
    trainer = make_trainer(callback, model=model, eval_dataset=Rows(12, 1, length=8))
    trainer.evaluate()
    rows = torch.tensor(Rows(12, 1, length=8).rows)
    expected = channel_importance(copy.deepcopy(model), rows, batch_size=4)
    found = callback._importance(trainer, copy_of(model))
    assert list(found) == list(expected)
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores, rtol=1e-6, atol=0)
    assert num_hooks(model) == 0


def test_padding_is_left_out(make_trainer, make_parent):
    model, rows = make_parent("llama"), Rows(24, 1)
    callback = PuzzleCallback(recipe())
    trainer = make_trainer(callback, model=model)
    trainer.evaluate()
    found = callback._importance(trainer, copy_of(model))
    tokens = sum(len(row) for row in rows.rows)
    for name, scores in found.items():
        alone = [channel_importance(model, torch.tensor([row]), 1)[name] * len(row) for row in rows.rows]
        torch.testing.assert_close(scores, sum(alone) / tokens, rtol=1e-4, atol=1e-7)


def test_only_an_evaluation_of_these_weights_counts(make_trainer, make_parent, caplog):
    caplog.set_level("INFO", "hf_puzzle")
    model = make_parent("llama")
    callback = PuzzleCallback(recipe(importance={"num_tokens": 200}))
    trainer = make_trainer(callback, model=model)

    def refused(reason):
        assert callback._importance(trainer, model) is None
        assert reason in caplog.messages[-1]

    refused("no evaluation has ended")
    trainer.predict(Rows(24, 1))
    refused("no evaluation has ended")
    trainer.evaluate(Rows(4, 1, length=16))
    refused("64 of importance.num_tokens 200")
    trainer.evaluate()
    assert callback._importance(trainer, model) is not None
    trainer.remove_callback(callback)
    trainer.evaluate(Rows(4, 1, length=16))  # no longer ours
    assert callback._importance(trainer, model) is not None
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1.0
    refused("the weights have changed")


def test_hooks_are_gone_when_an_evaluation_fails(make_trainer):
    callback = PuzzleCallback(recipe())
    trainer = make_trainer(callback)
    trainer.evaluate()
    before = callback._activity

    class Failing(Rows):
        def __getitem__(self, index):
            if index == 20:
                raise KeyError("cut")
            return super().__getitem__(index)

    with pytest.raises(KeyError, match="cut"):
        trainer.evaluate(Failing(24, 2))
    assert num_hooks(trainer.model) == 0
    assert callback._activity is before  # of the last evaluation that ended
    trainer.evaluate()
    assert callback._activity is not before


# -- the search


def test_child_and_report_beside_the_checkpoint(make_trainer, monkeypatch, caplog, tmp_path):
    caplog.set_level("INFO", "hf_puzzle")
    tracker, callback = Tracker(), PuzzleCallback(recipe())
    trainer = make_trainer(tracker, callback)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "channel_importance", lambda *args: pytest.fail("the evaluation knows it already"))
        trainer.train()
    assert callback.error is None
    folder = tmp_path / "out" / "puzzle"
    evaluation = artifacts.read_json(folder / "eval.json")
    expected = {
        "puzzle/top1_kept": evaluation["quality"]["distilled"]["top1_kept"],
        "puzzle/kl": evaluation["quality"]["distilled"]["kl"],
        "puzzle/speedup": evaluation["speed"]["total"]["value"],
        "puzzle/parameters": evaluation["memory"]["child"]["num_parameters"],
    }
    assert expected["puzzle/top1_kept"] is not None
    assert expected["puzzle/parameters"] <= 250_000
    logged = {name: value for name, value in trainer.state.log_history[-1].items() if name.startswith("puzzle/")}
    assert logged == expected
    assert expected.items() <= tracker.seen[-1].items()
    assert (folder / "report.md").read_text().startswith("# out")
    run = load_run(folder)
    assert run.sequence_length == 16  # the longest row
    child = run.load_child("distilled")
    assert child.config.use_cache
    # again, as in a new process, where no evaluation has ended: nothing is left to do
    caplog.clear()
    assert PuzzleCallback(recipe()).search(trainer) == folder
    assert [m for m in caplog.messages if m.endswith("starts")] == []
    assert any(m.startswith("library: reused") for m in caplog.messages)
    # another model: everything but what does not depend on it
    trainer.model.model.norm.weight.data[0] += 1.0
    caplog.clear()
    callback.search(trainer)
    assert "library: starts" in caplog.messages


def settings(model):
    """What a search must leave alone besides the weights."""
    modes = [module.training for module in model.modules()]
    flags = [(p.requires_grad, p.dtype, p.device, p.data_ptr()) for p in model.parameters()]
    return modes, flags, model.config.to_dict(), num_hooks(model)


class AtStepTwo(TrainerCallback):
    """A search on demand in the middle of training."""

    def __init__(self, callback):
        self.callback, self.trainer, self.searched = callback, None, False

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            before = settings(self.trainer.model)
            self.callback.search(self.trainer)
            assert settings(self.trainer.model) == before
            self.searched = True


def test_training_goes_on_as_if_nothing_had_happened(make_trainer, make_parent, assert_bit_equal, state_of):
    """A search after step 2, whose trainings use another precision and other seeds, then two more steps."""
    library = RECIPE["library"] | {"args": {"bf16": True, "gradient_accumulation_steps": 2}}
    callback = PuzzleCallback(recipe(library=library), search_at=None)
    on_demand = AtStepTwo(callback)
    histories, states = [], []
    for name, callbacks in (("without", ()), ("with", (callback, on_demand))):
        model = make_parent("llama", attention_dropout=0.2, num_hidden_layers=2).requires_grad_(True)
        model.model.embed_tokens.requires_grad_(False)
        trainer = make_trainer(*callbacks, model=model, name=name, gradient_accumulation_steps=2)
        on_demand.trainer = trainer
        trainer.train()
        rows = [row for row in trainer.state.log_history if "loss" in row or "eval_loss" in row]
        histories.append([{k: v for k, v in row.items() if k in ("loss", "eval_loss", "grad_norm")} for row in rows])
        states.append(state_of(trainer.model))
    assert on_demand.searched
    assert any("puzzle/kl" in row for row in trainer.state.log_history)
    assert histories[0] == histories[1]
    assert_bit_equal(*states)


def test_adapters_are_merged_into_a_copy(make_trainer, make_parent, state_of, assert_bit_equal):
    torch.manual_seed(0)
    options = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(make_parent("llama", num_hidden_layers=2), LoraConfig(**options))
    callback = PuzzleCallback(recipe())
    trainer = make_trainer(callback, model=model)
    trainer.train()
    assert callback.error is None
    merged = copy.deepcopy(model).merge_and_unload()
    assert_bit_equal(state_of(copy_of(model)), state_of(merged))
    tokens = torch.tensor(Rows(8, 1, length=12).rows)
    assert torch.equal(copy_of(model)(tokens).logits, merged.eval()(tokens).logits)
    found = callback._importance(trainer, copy_of(model))
    rows = [torch.tensor([row]) for row in Rows(24, 1).rows]
    alone = [channel_importance(merged, row, 1)["layer_1"] * row.numel() for row in rows]
    torch.testing.assert_close(found["layer_1"], sum(alone) / sum(r.numel() for r in rows), rtol=1e-3, atol=1e-6)
    child = load_run(Path(trainer.args.output_dir) / "puzzle").load_child("distilled")
    assert not any("lora" in name for name in child.state_dict())
    # the adapters are still there, and learn on
    before = state_of(model)
    trainer.remove_callback(callback)
    trainer.train()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed
    assert all("lora" in name for name in changed)


LORA = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "lm_head"]}
ADAPTERS = {
    "head": (LoraConfig(**LORA), False),
    "embeddings": (LoraConfig(**LORA | {"target_modules": ["q_proj", "embed_tokens"]}), False),
    "both": (LoraConfig(**LORA | {"target_modules": ["embed_tokens", "lm_head"]}), False),
    "both as one": (LoraConfig(**LORA | {"target_modules": ["embed_tokens"]}, ensure_weight_tying=True), True),
    "rsLoRA": (LoraConfig(**LORA, use_rslora=True), False),
    "DoRA": (LoraConfig(**LORA, use_dora=True), False),
    "parameters": (LoraConfig(**LORA | {"target_modules": []}, target_parameters=["lm_head.weight"]), False),
    "whole ends": (LoraConfig(**LORA | {"target_modules": ["q_proj"]}, modules_to_save=["embed_tokens", "lm_head"]), False),
    "whole head": (LoraConfig(**LORA | {"target_modules": ["q_proj"]}, modules_to_save=["lm_head"]), False),
    "tokens": (LoraConfig(**LORA | {"target_modules": ["q_proj"]}, trainable_token_indices=[5, 200]), True),
    "inside only": (LoraConfig(**LORA | {"target_modules": ["q_proj"]}), True),
    "IA3": (IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"], feedforward_modules=[]), False),
    "LoHa": (LoHaConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "lm_head"]), False),
    "LoKr": (LoKrConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "lm_head"]), False),
}  # fmt: skip


def trained(model, config):
    """`model` in training mode with adapters that do something."""
    torch.manual_seed(1)
    model = get_peft_model(model, copy.deepcopy(config)).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def difference(model, other):
    """Relative difference of the logits over the whole vocabulary, each in its own arithmetic."""
    modes = [(module, module.training) for module in model.modules()]
    rows = torch.arange(other.config.vocab_size).view(-1, 16)
    one, two = model.eval()(rows).logits, other(rows).logits
    for module, mode in modes:
        module.training = mode
    return ((one - two).norm() / one.norm()).item()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_on_the_ends_of_a_tied_model(make_parent, state_of, assert_bit_equal, name, dtype, tolerance):
    config, tied = ADAPTERS[name]
    model = trained(make_parent("llama", num_hidden_layers=2).to(dtype), config)
    before, random = state_of(model), torch.get_rng_state()
    parent = copy_of(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert difference(model, parent) < tolerance
    assert parent.config.tie_word_embeddings == (parent.lm_head.weight is parent.model.embed_tokens.weight)
    if dtype == torch.float32 or not tied:
        assert parent.config.tie_word_embeddings == tied
    # the model in training is what it was, and learns on
    assert_bit_equal(state_of(model), before)
    assert model.training
    assert model.get_base_model().config.tie_word_embeddings
    model(torch.arange(16)[None], labels=torch.arange(16)[None]).loss.backward()


def test_the_active_adapters_are_merged(make_parent):
    model = trained(make_parent("llama", num_hidden_layers=2), LoraConfig(**LORA))
    model.add_adapter(
        "other", LoraConfig(**LORA | {"target_modules": ["v_proj", "embed_tokens"], "init_lora_weights": False})
    )
    alone = copy_of(model)
    model.base_model.set_adapter(["default", "other"])
    both = copy_of(model)
    assert difference(alone, both) > 0.1
    assert difference(model, both) < 1e-5
    model.base_model.set_adapter("other")
    assert difference(model, copy_of(model)) < 1e-5


@pytest.mark.parametrize(
    "config, message",
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "PROMPT_TUNING cannot be merged"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "PREFIX_TUNING cannot be merged"),
        (PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=8), "P_TUNING cannot"),
        (AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=2, adapter_layers=1), "ADAPTION_PROMPT cannot"),
        (LoraConfig(**LORA, alora_invocation_tokens=[5]), r"LORA cannot be merged .*aLoRA"),
    ],
    ids=lambda value: getattr(value, "peft_type", None),
)
def test_what_is_no_change_of_weights_is_refused(make_parent, config, message):
    with pytest.raises(UnsupportedParentError, match=message):
        copy_of(get_peft_model(make_parent("llama", num_hidden_layers=2), config))


def test_a_copy_that_computes_something_else_is_refused(make_parent):
    model = trained(make_parent("llama", num_hidden_layers=2), LoraConfig(**LORA))
    model.base_model.disable_adapter_layers()  # peft merges them all the same
    with pytest.raises(
        UnsupportedParentError, match=r"merged adapters \(LORA\) differ from the trained model's by \d"
    ):
        copy_of(model)
    plain = make_parent("llama", num_hidden_layers=2)
    plain.model.norm.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(UnsupportedParentError, match="the logits of the copy differ from the trained model's by 0.5 "):
        copy_of(plain)


def test_a_head_of_its_own_that_the_config_calls_tied(make_parent):
    model = own_head(make_parent("llama", num_hidden_layers=2))
    parent = copy_of(model)
    assert torch.equal(parent.lm_head.weight, model.lm_head.weight)
    assert not parent.config.tie_word_embeddings
    assert model.config.tie_word_embeddings  # the trainer's own


def test_every_checkpoint_gets_a_search(make_trainer, monkeypatch):
    searched = []
    monkeypatch.setattr(PuzzleCallback, "search", lambda self, trainer: searched.append(trainer.state.global_step))
    make_trainer(PuzzleCallback(recipe(), search_at="save"), save_strategy="steps", save_steps=2).train()
    make_trainer(PuzzleCallback(recipe(), search_at=None)).train()
    trial = TrainerState(is_hyper_param_search=True)
    PuzzleCallback(recipe()).on_train_end(None, trial, None)
    assert searched == [2, 4]


def test_a_search_that_fails_does_not_take_the_training_with_it(make_trainer, caplog, tmp_path):
    callback = PuzzleCallback(recipe(constraints={"speedup": 1000.0}))
    trainer = make_trainer(callback)
    assert trainer.train().global_step == 4
    assert isinstance(callback.error, InfeasibleError)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "speedup" in message
    assert "callback.search(trainer)" in message
    assert str(tmp_path / "out" / "puzzle") in message
    with pytest.raises(InfeasibleError, match="speedup"):
        callback.search(trainer)


def test_two_processes(tmp_path):
    """The main process searches while the other waits; both see all of the evaluation, and both go on training."""
    script = Path(__file__).with_name("ddp_callback.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        script,
        tmp_path,
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["log"]["puzzle/parameters"] <= 20_000
    assert first["tokens"] == 16 * 8
    assert first["steps"] == 4
    assert "UnsupportedParentError" in first["refused"]
    assert "InfeasibleError" in first["failed"]
    assert (tmp_path / "out" / "puzzle" / "report.md").exists()


# -- text


def test_streams_hold_what_is_trained_on():
    rows = [
        {"input_ids": [1, 5, 6, 0, 0], "attention_mask": [1, 1, 1, 0, 0]},
        {"input_ids": torch.tensor([0, 1, 7]), "attention_mask": torch.tensor([0, 1, 1])},
        {"input_ids": [1, 8, 2, 9, 2, 2, 2], "labels": [-100, -100, -100, 9, 2, -100, -100]},
        {"input_ids": [2, 2, 4], "labels": [-100, -100, 4]},
        {"input_ids": [2, 2], "labels": [-100, -100]},
        {"input_ids": [3, 2]},
    ]
    stream, longest = token_stream([iter(rows)], 100, "train_dataset", pad_token_id=2)
    assert stream.tolist() == [1, 5, 6, 1, 7, 1, 8, 2, 9, 2, 4, 3, 2]
    assert stream.dtype == torch.int32
    assert longest == 5
    assert token_stream([Stream()], 21, "train_dataset")[0].shape == (21,)
    assert token_stream([[]], 5, "train_dataset")[1] == 0


@pytest.mark.parametrize(
    "tokens, ends, text",
    [
        ([5, 6, 7, 1] + [2] * 12, None, [5, 6, 7, 1]),
        ([2] * 3 + [5, 6], None, [5, 6]),
        ([5, 2], None, [5, 2]),  # padding or an end
        ([5, 2], (0, 1), [5]),  # padding: texts end with 1
        ([2, 5, 2, 6, 2, 2], (0, 1), [5, 2, 6]),
        ([5, 6, 2, 2, 2], (0, 2), [5, 6, 2]),  # an end, and padding
        ([2, 2, 2, 5, 6], (2, 2), [2, 5, 6]),
        ([2, 5, 6], (2, 2), [2, 5, 6]),
        ([2, 2, 2], (2, 2), []),
        ([5, 6, 7], (0, 2), [5, 6, 7]),
    ],
)
def test_rows_padded_without_a_mask_lose_their_padding(tokens, ends, text):
    rows = [{"input_ids": tokens}] * 50
    stream, longest = token_stream([rows], 10**6, "train_dataset", pad_token_id=2, ends=ends)
    assert stream.tolist() == text * 50
    assert longest == len(text)
    labelled = [{"input_ids": tokens, "labels": tokens}]  # nobody masked the padding there, either
    assert token_stream([labelled], 10**6, "train_dataset", pad_token_id=2, ends=ends)[0].tolist() == text


def test_padding_that_nothing_names_is_refused():
    rows = [{"input_ids": [5, 6, 7, 8] + [0] * 12} for _ in range(10)]
    for pad in (None, 2):
        with pytest.raises(
            DataError, match="runs of token 0, 120 tokens of 160, .*attention_mask, or set tokenizer.pad"
        ):
            token_stream([rows], 10**6, "train_dataset", pad_token_id=pad)
    masked = [row | {"attention_mask": [1] * 16} for row in rows]  # then it is text
    assert len(token_stream([masked], 10**6, "train_dataset")[0]) == 160
    rare = [*rows[:1], *({"input_ids": list(range(3, 60))} for _ in range(10))]
    assert len(token_stream([rare], 10**6, "train_dataset")[0]) == 16 + 570


def test_importance_leaves_out_padding_without_a_mask(make_trainer, make_parent):
    class Padded(Rows):
        def __getitem__(self, index):
            tokens = self.rows[index]
            return {"input_ids": tokens + [0] * (20 - len(tokens)) if index % 2 else [0] * 3 + tokens}

    model = make_parent("llama")
    found = []
    for data in (Padded(24, 1), Rows(24, 1)):
        callback = PuzzleCallback(recipe())
        make_trainer(callback, model=model, eval_dataset=data).evaluate()
        found.append(callback._activity[1].num_tokens)
    assert found == [found[1] + 24, sum(map(len, Rows(24, 1).rows))]  # one a row may be its end


def test_streams_begin_as_prompts_where_the_rows_do(make_trainer, make_parent, tokenizer, caplog):
    marked = copy.deepcopy(tokenizer)
    marked.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    assert marked("w3")["input_ids"] == [1, 6]

    class Begun(Rows):
        def __getitem__(self, index):
            return {"input_ids": [1, *self.rows[index]]}

    callback = PuzzleCallback(recipe())
    for data, prefix in ((Begun, (1,)), (Rows, ())):
        trainer = make_trainer(callback, train=data(64, 0), eval_dataset=data(24, 1), processing_class=marked)
        found, streams = callback._streams(trainer, make_parent("llama"))
        assert {stream.prefix for stream in streams.values()} == {prefix}
        rows = sequences(streams["heldout"], found.data.sequence_length, 200, 0)
        assert bool((rows[:, 0] == 1).all()) == bool(prefix)
        assert ("has no ['<s>'], which the tokenizer puts" in caplog.text) == (not prefix)


def test_map_style_data_is_read_in_a_seeded_order():
    rows = Rows(40, 0)
    stream, longest = token_stream([rows], 10**6, "train_dataset", seed=3)
    assert longest == 16
    assert len(stream) == sum(len(row) for row in rows.rows)
    assert torch.equal(stream, token_stream([rows], 10**6, "train_dataset", seed=3)[0])
    assert not torch.equal(stream, token_stream([rows], 10**6, "train_dataset", seed=4)[0])
    assert torch.equal(stream[:50], token_stream([rows], 50, "train_dataset", seed=3)[0])
    both, _ = token_stream([rows, Rows(4, 1)], 10**6, "eval_dataset", seed=3)
    assert torch.equal(both[: len(stream)], stream)
    assert len(both) > len(stream)


def test_endless_and_several_datasets(make_trainer, make_parent):
    callback = PuzzleCallback(recipe(data={"num_tokens": 320, "heldout_tokens": 10**6}))
    trainer = make_trainer(callback, train=Stream(), eval_dataset={"a": Rows(8, 1), "b": Rows(8, 2)})
    found, streams = callback._streams(trainer, make_parent("llama"))
    assert len(streams["train"]) == 320
    assert len(streams["heldout"]) == sum(len(row) for seed in (1, 2) for row in Rows(8, seed).rows)
    assert found.data.sequence_length == 16
    fixed = PuzzleCallback(recipe(data={"sequence_length": 12}))
    assert fixed._streams(make_trainer(fixed), make_parent("llama"))[0].data.sequence_length == 12
    tiny = PuzzleCallback(recipe())
    with pytest.raises(DataError, match="eval_dataset has 9 tokens, at least 48"):
        tiny._streams(make_trainer(tiny, eval_dataset=Rows(1, 1, length=9)), make_parent("llama"))


def test_a_corpus_of_the_recipe_needs_no_eval_dataset(make_trainer):
    data = {"name": "python-stdlib", "sequence_length": 16}
    callback = PuzzleCallback(recipe(data=data), search_at=None)
    make_trainer(callback, eval_dataset=None, eval_strategy="no").train()


# -- recipes and mistakes


def test_recipes_in_every_form(tmp_path, caplog):
    caplog.set_level("INFO", "hf_puzzle")
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    first, second = PuzzleCallback(RECIPE), PuzzleCallback(tmp_path / "recipe.yaml")
    assert first.recipe == second.recipe
    assert PuzzleCallback(str(tmp_path / "recipe.yaml")).recipe == first.recipe
    given = parse_recipe(RECIPE | {"parent": {"name": "x"}, "data": {"name": "text", "sequence_length": 8}})
    assert PuzzleCallback(given).recipe == given
    assert not caplog.messages
    assert PuzzleCallback(RECIPE | {"parent": {"name": "x"}}).recipe == first.recipe
    assert "parent is ignored" in caplog.messages[-1]
    assert hf_puzzle.PuzzleCallback is PuzzleCallback


@pytest.mark.parametrize(
    "given, message",
    [
        (recipe(constraint={}), "did you mean 'constraints'"),
        (recipe(library=None), "missing key 'library'"),
        (recipe(data=3), "data: expected a mapping"),
        (recipe(system="pcw"), "PuzzleCallback takes|unknown key|missing key"),
        ("nowhere.yaml", "cannot read recipe nowhere.yaml"),
        (None, "expected a dict of keys, a path or a PuzzleRecipe, got NoneType"),
    ],
)
def test_wrong_recipes(given, message):
    with pytest.raises(RecipeError, match=message):
        PuzzleCallback(given)


def test_wrong_moment():
    with pytest.raises(RecipeError, match="search_at: 'end' is not one of train_end, save, None"):
        PuzzleCallback(RECIPE, search_at="end")
    with pytest.raises(RuntimeError, match=r"transformers\.Trainer"):
        PuzzleCallback(RECIPE).on_train_begin(None, None, None)


def prompt_tuned(make_parent):
    return get_peft_model(make_parent("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


def with_loose_adapter(make_parent):
    model = make_parent("llama")
    try:
        model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    except ValueError as error:  # transformers 5.24.0 wants a peft that is not released
        pytest.skip(str(error))
    return model


def quantised(make_parent):
    model = make_parent("llama").requires_grad_(True)
    model.config.quantization_config = {"quant_method": "fp8"}
    return model


def encoder_decoder(make_parent):
    return T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def child_already(make_parent):
    return Network(make_parent("llama").config, [Block(2, 768)] * 4).random(torch.float32)


class NoIds(Rows):
    def __getitem__(self, index):
        return {"text": "abc"}


@pytest.mark.parametrize(
    "make_model, changes, options, error, message",
    [
        (prompt_tuned, {}, {}, UnsupportedParentError, "PROMPT_TUNING cannot be merged"),
        (with_loose_adapter, {}, {}, UnsupportedParentError, "peft.get_peft_model"),
        (quantised, {}, {}, UnsupportedParentError, "quantised"),
        (encoder_decoder, {}, {}, UnsupportedParentError, "encoder-decoder"),
        (child_already, {}, {}, UnsupportedParentError, "Puzzle child already"),
        (None, {"constraints": {"num_parameters": 10}}, {}, InfeasibleError, "num_parameters 10 is impossible"),
        (None, {"deploy": ["vlm"]}, {}, ValueError, "did you mean 'vllm'"),
        (None, {}, {"eval_dataset": None, "eval_strategy": "no"}, DataError, "no eval_dataset"),
        (None, {}, {"eval_dataset": NoIds(8, 0)}, DataError, r"eval_dataset has no input_ids \(columns: text\)"),
    ],
)
def test_mistakes_are_found_before_the_first_step(
    make_trainer, make_parent, make_model, changes, options, error, message
):
    model = None if make_model is None else make_model(make_parent)
    trainer = make_trainer(PuzzleCallback(recipe(**changes)), model=model, **options)
    with pytest.raises(error, match=message):
        trainer.train()
    assert trainer.state.global_step == 0
    assert not list(Path(trainer.args.output_dir).glob("puzzle/*"))


def test_a_trainer_without_a_tokenizer(make_trainer):
    trainer = make_trainer(PuzzleCallback(recipe()), processing_class=None)
    trainer.data_collator = None
    with pytest.raises(RecipeError, match="processing_class"):
        trainer.train()


def test_what_a_search_changes_in_the_process_returns(monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    state, gradients = Accelerator(cpu=True, mixed_precision="bf16").state, GradientState()
    gradients.sync_gradients = False
    monkeypatch.setenv("WORLD_SIZE", "7")
    expected = torch.random.get_rng_state(), os.environ["WORLD_SIZE"]
    with pytest.raises(KeyError), apart_from_training():  # noqa: PT012 (what is done inside must be undone)
        assert "WORLD_SIZE" not in os.environ
        os.environ["RANK"] = "3"
        torch.manual_seed(5)
        TrainingArguments("unused", use_cpu=True).device  # noqa: B018 (sets the shared state)
        GradientState().sync_gradients = True
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), expected[0])
    assert os.environ["WORLD_SIZE"] == expected[1]
    assert "RANK" not in os.environ
    assert state.mixed_precision == "bf16"
    assert not gradients.sync_gradients
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
