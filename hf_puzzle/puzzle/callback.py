"""Puzzle as a callback: fine-tune with any `Trainer`, and find a cheaper child beside the checkpoint afterwards."""

import contextlib
import copy
import dataclasses
import functools
import logging
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sized
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft import PeftConfig, PeftModel
from torch import distributed, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback

from .. import artifacts
from ..cards import is_hub_id
from ..conversions import ROUNDED, probe_logits, probe_tokens, relative_difference, tolerance_of
from ..corpora import TRAINERS_DATA, DataError
from ..data import TokenStream, around_prompt
from ..formats import build_model
from ..recipe import ParentConfig, PuzzleRecipe, RecipeError, load_recipe, parse_recipe, read_yaml
from .importance import FFNActivity
from .pipeline import PuzzleRun
from .surgery import UnsupportedParentError, check_parent, meta_parent


logger = logging.getLogger(__name__)

SEARCH_AT = ("train_end", "save", None)
# repeated tokens at the ends of rows that are padding by all appearances, from this share of all tokens on
PADDING_RUN, PADDED_SHARE = 8, 0.1
# what torchrun and accelerate tell their processes; the search is one process
LAUNCHER = ("ACCELERATE_", "FSDP_", "GROUP_", "LOCAL_", "MASTER_", "RANK", "ROLE_", "TORCHELASTIC_", "WORLD_SIZE")


class PuzzleCallback(TrainerCallback):
    """Searches a cheaper child of the model that a `Trainer` fine-tunes; child and report go to `<output_dir>/puzzle`.

    The search works on a copy of the model (adapters of peft are merged into the copy), so that training may go on
    afterwards as if nothing had happened. What every evaluation computes anyway also ranks the FFN channels. The
    results go to the Trainer's log, and so to every tracker: `puzzle/top1_kept`, `puzzle/kl`, `puzzle/speedup`,
    `puzzle/parameters`. Under torchrun the main process searches while the others wait.

    Args:
        recipe: keys of a Puzzle recipe (a dict, or a file), or a parsed one. `parent` is the model in training.
            Without `data.name` the token streams are made of `input_ids` of the Trainer's `train_dataset` and
            `eval_dataset`; `data.sequence_length` is then by default the longest training example among them.
        search_at: `train_end`; `save`, at every checkpoint, each time replacing the last child; or None, only
            `search(trainer)`. Trials of a hyperparameter search are left alone.

    Attributes:
        error: why the last search at `search_at` failed, or None. It is logged and not raised: the trained model is
            worth more than its child, and `search(trainer)` continues.

    Raises:
        RecipeError: a wrong key or value, here; when training begins, also UnsupportedParentError, InfeasibleError or
            DataError for what no search could work with.
    """

    def __init__(self, recipe: PuzzleRecipe | dict | str | Path, search_at: str | None = "train_end"):
        if search_at not in SEARCH_AT:
            raise RecipeError(f"search_at: {search_at!r} is not one of {', '.join(map(str, SEARCH_AT))}")
        self.recipe, self._length_given = _read(recipe)
        self.search_at = search_at
        self.error: Exception | None = None
        self._trainer: Trainer | None = None
        self._watching = False
        self._activity: tuple[tuple[float, ...], FFNActivity] | None = None

    # -- events

    def on_init_end(self, args, state, control, **kwargs) -> None:
        self._attach(_calling_trainer())

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        trainer = _calling_trainer()
        self._attach(trainer)
        on_main_process(trainer, lambda: self._check(trainer))

    def on_save(self, args, state, control, **kwargs) -> None:
        if self.search_at == "save" and not state.is_hyper_param_search:
            self._search_or_log()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.search_at == "train_end" and not state.is_hyper_param_search:
            self._search_or_log()

    def _attach(self, trainer: Trainer) -> None:
        if trainer is self._trainer:
            return
        self._trainer = trainer
        # no event says that an evaluation starts, or that it failed
        trainer.evaluation_loop = functools.partial(self._evaluation_loop, trainer, trainer.evaluation_loop)
        # some trackers close their run when training ends: what we log then must come before
        callbacks = trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)

    # -- importance

    def _evaluation_loop(self, trainer: Trainer, loop: Callable, *args, **kwargs):
        """The Trainer's own loop, with hooks while it runs; replicas and compiled code would trip over them."""
        options = trainer.args
        description = kwargs.get("description", args[1] if len(args) > 1 else None)
        unsuitable = options.n_gpu > 1 or options.torch_compile or _sharded(trainer)
        if self._watching or unsuitable or description == "Prediction" or not _attached(self, trainer):
            return loop(*args, **kwargs)
        if not trainer.is_in_train:  # nobody has looked at the model yet
            check_parent(_checked_model(trainer).config)
        activity = FFNActivity(_base_model(trainer), getattr(_tokenizer_or_none(trainer), "pad_token_id", None))
        self._watching = True
        try:
            with activity.watched():
                output = loop(*args, **kwargs)
        finally:
            self._watching = False
        activity.reduce(trainer)
        self._activity = _weights_mark(trainer), activity
        return output

    def _importance(self, trainer: Trainer, parent: PreTrainedModel) -> dict[str, torch.Tensor] | None:
        """What the last evaluation saw, if it ran these weights on as many tokens as the recipe wants."""
        wanted = self.recipe.importance.num_tokens
        if self._activity is None:
            reason = "no evaluation has ended"
        elif self._activity[0] != _weights_mark(trainer):
            reason = "the weights have changed since the last evaluation"
        elif self._activity[1].num_tokens < wanted:
            reason = f"the last evaluation had {self._activity[1].num_tokens} of importance.num_tokens {wanted}"
        else:
            return self._activity[1].importance(parent, self.recipe.importance.experts)
        logger.info("importance takes a pass of its own: %s", reason)
        return None

    # -- the search

    def search(self, trainer: Trainer) -> Path:
        """Search a child of the Trainer's model as it is now; an interrupted search of the same model goes on.

        Returns:
            The run folder, `<output_dir>/puzzle`: the child is in `distilled/`, the report in `report.md`.

        Raises:
            ValueError: named subclasses; on all processes but the main one RuntimeError.
        """
        run_dir = Path(trainer.args.output_dir) / "puzzle"
        numbers = on_main_process(trainer, lambda: self._search(trainer, run_dir))
        should_log = trainer.control.should_log  # of this step's loss; our log would count as it
        trainer.log({f"puzzle/{name}": value for name, value in numbers.items() if value is not None})
        trainer.control.should_log = should_log
        return run_dir

    def _search_or_log(self) -> None:
        self.error = None
        try:
            self.search(self._trainer)
        except Exception as error:  # whatever it is, the training must not be lost to it
            self.error = error
            known = isinstance(error, (ValueError, OSError, RuntimeError))
            logger.error(
                "the search for a child failed: %s. The model in training is not affected. Save it, then call "
                "callback.search(trainer): finished stages in %s are reused",
                error,
                Path(self._trainer.args.output_dir) / "puzzle",
                exc_info=not known,
            )

    def _check(self, trainer: Trainer) -> None:
        model = _checked_model(trainer)
        with apart_from_training():
            self._run(trainer, model, self.recipe, Path(trainer.args.output_dir) / "puzzle").check()
            if not isinstance(_unwrapped(trainer), PeftModel):  # adapters are only known once they are merged
                _check_names(model)
            if self.recipe.data.name == TRAINERS_DATA:
                for name, datasets in _datasets(trainer).items():
                    for dataset in datasets:
                        if isinstance(dataset, Sized) and len(dataset):  # reading from a stream could take a row away
                            _row_tokens(dataset[0], name)

    def _search(self, trainer: Trainer, run_dir: Path) -> dict[str, float | None]:
        model = _checked_model(trainer)
        with apart_from_training():
            recipe, streams = self.recipe, None
            if recipe.data.name == TRAINERS_DATA:
                recipe, streams = self._streams(trainer, model)
            parent = copy_of(_unwrapped(trainer))
            run = self._run(trainer, parent, recipe, run_dir, streams, self._importance(trainer, parent))
            run.run()
            evaluation = artifacts.read_json(run_dir / "eval.json")
        quality = evaluation["quality"]["distilled"]
        return {
            "top1_kept": quality["top1_kept"],
            "kl": quality["kl"],
            "speedup": evaluation["speed"]["total"]["value"],
            "parameters": evaluation["memory"]["child"]["num_parameters"],
        }

    def _run(
        self,
        trainer: Trainer,
        parent: PreTrainedModel,
        recipe: PuzzleRecipe,
        run_dir: Path,
        streams=None,
        importance=None,
    ) -> PuzzleRun:
        # the base model's name where it has one on the Hub: its licence holds for the child, too
        base = getattr(_base_model(trainer).config, "_name_or_path", "")
        name = trainer.args.hub_model_id or (base if is_hub_id(base) else Path(trainer.args.output_dir).resolve().name)
        recipe = dataclasses.replace(recipe, parent=ParentConfig(name), device=str(parent.device))
        tokenizer = _tokenizer(trainer)
        return PuzzleRun(recipe, run_dir, parent=parent, tokenizer=tokenizer, tokens=streams, importance=importance)

    def _streams(self, trainer: Trainer, model: PreTrainedModel) -> tuple[PuzzleRecipe, dict[str, torch.Tensor]]:
        """The recipe with its sequence length, and the streams `train` and `heldout` of the Trainer's datasets."""
        data, datasets, tokenizer = self.recipe.data, _datasets(trainer), _tokenizer(trainer)
        padding = {"pad_token_id": tokenizer.pad_token_id, "ends": (tokenizer.bos_token_id, tokenizer.eos_token_id)}
        read = functools.partial(token_stream, seed=self.recipe.seed, **padding)
        train, longest = read(datasets["train_dataset"], data.num_tokens, "train_dataset")
        heldout, _ = read(datasets["eval_dataset"], data.heldout_tokens, "eval_dataset")
        if not self._length_given:
            most = min(data.sequence_length, getattr(model.config, "max_position_embeddings", data.sequence_length))
            data = dataclasses.replace(data, sequence_length=min(longest, most))
        # the first third of the held-out tokens chooses blocks, the rest is the test
        for name, stream, sequences in (("train_dataset", train, 2), ("eval_dataset", heldout, 3)):
            if len(stream) < sequences * data.sequence_length:
                raise DataError(
                    f"the Trainer's {name} has {len(stream)} tokens, at least {sequences * data.sequence_length} "
                    f"needed ({sequences} sequences of data.sequence_length); give more text, a shorter "
                    "sequence_length, or a corpus in the recipe's `data`"
                )
        prefix = _prefix_in(train, tokenizer)
        streams = {"train": train, "heldout": heldout}
        return dataclasses.replace(self.recipe, data=data), {
            name: TokenStream.of(stream, prefix, tokenizer.eos_token_id) for name, stream in streams.items()
        }


def _read(recipe: PuzzleRecipe | dict | str | Path) -> tuple[PuzzleRecipe, bool]:
    """The recipe with a stand-in for its parent, and whether it says a sequence length itself."""
    if isinstance(recipe, PuzzleRecipe):
        return recipe, True
    if isinstance(recipe, (str, Path)):
        load_recipe(recipe, ["parent.name=model", f"data.name={TRAINERS_DATA}"])  # its errors are the right ones
        recipe = read_yaml(Path(recipe).read_text(encoding="utf-8"), f"recipe {recipe}")
    if not isinstance(recipe, dict):
        raise RecipeError(f"recipe: expected a dict of keys, a path or a PuzzleRecipe, got {type(recipe).__name__}")
    if "parent" in recipe:
        logger.info("the recipe's parent is ignored: the model in training is the parent")
    data = recipe.get("data")
    if data is None or isinstance(data, dict):
        data = {"name": TRAINERS_DATA} | (data or {})
    parsed = parse_recipe({**recipe, "parent": {"name": "the model in training"}, "data": data})
    if not isinstance(parsed, PuzzleRecipe):
        raise RecipeError(f"system: {recipe['system']!r} is no Puzzle recipe; PuzzleCallback takes `system: puzzle`")
    return parsed, "sequence_length" in data


# -- the Trainer


def _calling_trainer() -> Trainer:
    """The Trainer whose event is handled: it hands callbacks its model and data, but not itself."""
    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(owner := frame.f_locals.get("self"), Trainer):
            return owner
        frame = frame.f_back
    raise RuntimeError("PuzzleCallback is for transformers.Trainer and its subclasses: no Trainer called this event")


def _attached(callback: PuzzleCallback, trainer: Trainer) -> bool:
    return any(other is callback for other in trainer.callback_handler.callbacks)


def _sharded(trainer: Trainer) -> bool:
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def _unwrapped(trainer: Trainer):
    return trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)


def _base_model(trainer: Trainer):
    """The transformers model that is trained, without the wrappers around it; adapters are still in its layers."""
    model = _unwrapped(trainer)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _checked_model(trainer: Trainer) -> PreTrainedModel:
    """The model that is trained, if it can be copied.

    Raises:
        UnsupportedParentError: sharded, quantised, no transformers model, or adapters that cannot be merged.
    """
    after = "save it, and search in a process of its own with hf-puzzle run"
    if _sharded(trainer):
        raise UnsupportedParentError(f"the model in training is sharded (FSDP or DeepSpeed); {after}")
    wrapped, model = _unwrapped(trainer), _base_model(trainer)
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedParentError(f"{type(model).__name__} is no model of transformers; pass a causal LM")
    check_copyable(wrapped)
    return model


def _check_names(model: PreTrainedModel) -> None:
    """Raises UnsupportedParentError where the weights are not those that transformers has for the config."""
    stray = set(model.state_dict()) ^ set(meta_parent(model.config).state_dict())
    if stray:
        raise UnsupportedParentError(
            f"{type(model).__name__} has other weights than transformers builds from its config ({min(stray)}, "
            f"{len(stray)} in all); wrap adapters with peft.get_peft_model, and pass a stock causal LM"
        )


def _tokenizer(trainer: Trainer):
    """Raises RecipeError without one: a child's folder has its tokenizer."""
    tokenizer = _tokenizer_or_none(trainer)
    if tokenizer is None:
        raise RecipeError("the Trainer has no tokenizer, which the child's folder needs: pass it processing_class=...")
    return tokenizer


def _tokenizer_or_none(trainer: Trainer):
    return trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)


def _datasets(trainer: Trainer) -> dict[str, list]:
    """Raises DataError for a Trainer without the two datasets that make the token streams."""
    found = {}
    for name, dataset in (("train_dataset", trainer.train_dataset), ("eval_dataset", trainer.eval_dataset)):
        if dataset is None:
            raise DataError(f"the Trainer has no {name}: pass one, or name a corpus in the recipe's `data`")
        found[name] = list(dataset.values()) if isinstance(dataset, dict) else [dataset]
    return found


def on_main_process(trainer: Trainer, function: Callable):
    """The result of `function`, called on the main process only, on all of them; they wait, however long it takes.

    Raises:
        Exception: what `function` raises; RuntimeError with its message on the other processes.
    """
    if trainer.args.world_size == 1:
        return function()
    # a group of its own: the default one gives up after `ddp_timeout`; gloo still notices a process that died
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    outcome, error = [None, None], None
    try:
        if trainer.is_world_process_zero():
            try:
                outcome = [function(), None]
            except Exception as caught:
                outcome, error = [None, f"{type(caught).__name__} on the main process: {caught}"], caught
        distributed.broadcast_object_list(outcome, src=0, group=group)
    finally:
        distributed.destroy_process_group(group)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise RuntimeError(outcome[1])
    return outcome[0]


@contextlib.contextmanager
def apart_from_training() -> Iterator[None]:
    """Run trainings of our own inside another one: random states, and what accelerate shares between Trainers, return.

    Inside, this process is the only one, whatever launched it.
    """
    shared = [state._shared_state for state in (AcceleratorState, PartialState, GradientState)]
    kept = [{k: copy.copy(v) if isinstance(v, list) else v for k, v in state.items()} for state in shared]
    environment = {name: value for name, value in os.environ.items() if name.startswith(LAUNCHER)}
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.enable_grad())
        if devices:
            stack.enter_context(torch.cuda.device(torch.cuda.current_device()))
        try:
            for name in environment:
                del os.environ[name]
            for state in shared:
                state.clear()
            yield
        finally:
            for state, content in zip(shared, kept, strict=True):
                state.clear()
                state.update(content)
            for name in [name for name in os.environ if name.startswith(LAUNCHER)]:
                del os.environ[name]
            os.environ.update(environment)
            random.setstate(python)
            np.random.set_state(numpy)


# -- weights


def copy_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A stock model with copies of the weights, adapters merged: no hooks, wrappers or settings of a training.

    Where an adapter changes one end of a tied model, the copy is untied. `model` is as before afterwards.

    Raises:
        UnsupportedParentError: adapters that cannot be merged, a quantised model, or a copy with other logits.
        FormatError: weights that the config's stock class does not have.
    """
    check_copyable(model)
    original = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        if isinstance(model, PeftModel):
            weights = _merged(model)
        else:
            weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        config = copy.deepcopy(original.config)
        config.use_cache = True  # Trainer turns it off, and it would be published so
        parent = build_model(config, weights, original.dtype)
        parent.generation_config = copy.deepcopy(original.generation_config)
        parent = parent.to(original.device)
        _check_copy(model, parent)
    return parent


def check_copyable(model: PreTrainedModel | PeftModel) -> None:
    """Raises UnsupportedParentError for adapters that are no change of weights, and for quantised models."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    packed = any(not p.is_floating_point() for p in base.parameters())
    if packed or getattr(base.config, "quantization_config", None) is not None:
        raise UnsupportedParentError("the model in training is quantised; train it in bfloat16 or float32")
    if isinstance(model, PeftModel):
        for name in model.active_adapters:
            if (adapter := model.peft_config[name]).is_prompt_learning or not hasattr(model, "merge_and_unload"):
                raise UnsupportedParentError(
                    f"adapters of type {adapter.peft_type.value} cannot be merged into the weights; use LoRA"
                )


def _merged(model: PeftModel) -> dict[str, torch.Tensor]:
    """The weights of the base model with the active adapters merged."""
    # with `ensure_weight_tying` peft keeps views of weights that are in a graph, which torch does not copy
    options = [vars(module).get("kwargs") or {} for module in model.modules()]
    views = [view for each in options for view in (each.get("tied_adapter") or {}).values()]
    merged = copy.deepcopy(model, {id(view): view.detach() for view in views})
    base = merged.get_base_model()
    _untie(base.get_input_embeddings(), base.get_output_embeddings())
    try:
        return merged.merge_and_unload().state_dict()
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        kinds = ", ".join(model.peft_config[name].peft_type.value for name in model.active_adapters)
        raise UnsupportedParentError(
            f"adapters of type {kinds} cannot be merged into the weights ({error}); use LoRA"
        ) from error


def _untie(inputs: nn.Module, head: nn.Module) -> None:
    """Give the head tensors of its own: peft would merge what it has for one end of a tied model into both."""
    shared = {id(p) for p in inputs.parameters()}
    for module in head.modules():
        for name, p in module._parameters.items():
            if p is not None and id(p) in shared:
                module._parameters[name] = nn.Parameter(p.detach().clone(), p.requires_grad)


def _check_copy(model: PreTrainedModel | PeftModel, parent: PreTrainedModel) -> None:
    """Raises UnsupportedParentError where the copy computes something else than the model in training."""
    configs = [model.peft_config[name] for name in model.active_adapters] if isinstance(model, PeftModel) else []
    tokens = probe_tokens(parent.config.vocab_size, [i for config in configs for i in _trained_tokens(config)])
    difference = relative_difference(probe_logits(model, tokens), probe_logits(parent, tokens))
    allowed = max(ROUNDED[parent.dtype], tolerance_of(parent))
    if not difference <= allowed:
        kinds = ", ".join(config.peft_type.value for config in configs)
        raise UnsupportedParentError(
            f"the logits of the copy{f' with merged adapters ({kinds})' if kinds else ''} differ from the trained model's "
            f"by {difference:.2g} (relative, at most {allowed:.0e} allowed); merge and save the model, and search in a "
            "process of its own with hf-puzzle run"
        )


def _trained_tokens(config: PeftConfig) -> list[int]:
    """Ids whose embeddings an adapter replaces one by one."""
    found = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    return [i for each in (found.values() if isinstance(found, dict) else [found]) for i in each]


def _weights_mark(trainer: Trainer) -> tuple[float, ...]:
    """Sums that change with the weights: cheap enough to take at every evaluation."""
    return tuple(p.detach().sum(dtype=torch.float32).item() for p in _unwrapped(trainer).parameters())


# -- text


def _row_tokens(
    row: Mapping, name: str, pad_token_id: int | None = None, ends: tuple[int | None, ...] | None = None
) -> torch.Tensor:
    """Tokens of a dataset's row without padding, shape `(num_tokens,)`, int32.

    Raises:
        DataError: no `input_ids`, or not one list of them.
    """
    if not isinstance(row, Mapping) or row.get("input_ids") is None:
        columns = (
            f"columns: {', '.join(map(str, row))}" if isinstance(row, Mapping) else f"rows are {type(row).__name__}"
        )
        raise DataError(
            f"the Trainer's {name} has no input_ids ({columns}): tokenize it, or name a corpus in the recipe's `data`"
        )
    tokens = torch.as_tensor(row["input_ids"])
    if tokens.ndim != 1 or tokens.is_floating_point():
        raise DataError(
            f"the Trainer's {name}: input_ids of a row have shape {tuple(tokens.shape)}, one list expected"
        )
    if row.get("attention_mask") is not None:
        tokens = tokens[torch.as_tensor(row["attention_mask"]).bool()]
    elif pad_token_id is not None:
        if row.get("labels") is not None:
            # prompts have no labels either: only what is also the padding token, and at the ends
            text = ((torch.as_tensor(row["labels"]) != -100) | (tokens != pad_token_id)).nonzero().flatten()
            tokens = tokens[text[0] : text[-1] + 1] if len(text) else tokens[:0]
        tokens = _without_padding(tokens, pad_token_id, ends)
    return tokens.int()


def _without_padding(tokens: torch.Tensor, pad_token_id: int, ends: tuple[int | None, ...] | None) -> torch.Tensor:
    """A row without the padding tokens at its ends; one is left where it may be the text's own begin or end.

    Args:
        ends: tokens that texts begin or end with; None: not known, then a single padding token is taken for one.
    """
    text = (tokens != pad_token_id).nonzero().flatten()
    if not len(text):
        return tokens[:0]
    before, behind = int(text[0]), len(tokens) - 1 - int(text[-1])
    if ends is None:
        before, behind = (n if n == 1 else 0 for n in (before, behind))
    else:
        before, behind = (min(n, int(pad_token_id in ends)) for n in (before, behind))
    return tokens[int(text[0]) - before : int(text[-1]) + 1 + behind]


def token_stream(
    datasets: list,
    num_tokens: int,
    name: str,
    pad_token_id: int | None = None,
    seed: int = 0,
    ends: tuple[int | None, ...] | None = None,
) -> tuple[torch.Tensor, int]:
    """Rows one after another, as they are trained on: a seeded random order, or a stream's own, as far as needed.

    Padding is what `attention_mask` says; in rows without one, the padding tokens at their ends.

    Args:
        ends: BOS and EOS, which a text may begin and end with although they are the padding token, too.

    Returns:
        At most `num_tokens` tokens, int32, and the length of the longest row among them.

    Raises:
        DataError: rows without `input_ids`, or with what looks like padding that neither mask nor tokenizer names.
    """
    rows: list[torch.Tensor] = []
    runs: Counter[int] = Counter()
    missing = num_tokens
    for dataset in datasets:
        order = (
            torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
            if isinstance(dataset, Sized)
            else None
        )
        for row in dataset if order is None else (dataset[i] for i in order.tolist()):
            rows.append(_row_tokens(row, name, pad_token_id, ends))
            if row.get("attention_mask") is None:
                runs += _end_run(rows[-1]) + _end_run(rows[-1].flip(0))
            missing -= len(rows[-1])
            if missing <= 0:
                break
    stream = torch.cat(rows)[:num_tokens] if rows else torch.zeros(0, dtype=torch.int32)
    for token, count in runs.most_common(1):
        if count > PADDED_SHARE * sum(map(len, rows)):
            raise DataError(
                f"the Trainer's {name}: many rows end in runs of token {token}, {count} tokens of "
                f"{sum(map(len, rows))}, as padding does, and the tokenizer's pad_token_id is {pad_token_id}: give rows "
                "their attention_mask, or set tokenizer.pad_token"
            )
    return stream, max((len(row) for row in rows), default=0)


def _end_run(tokens: torch.Tensor) -> Counter[int]:
    """How often a row's last token is repeated at its end, where no text would."""
    others = (tokens != tokens[-1:]).nonzero().flatten()
    length = len(tokens) - 1 - int(others[-1]) if len(others) else 0
    return Counter({int(tokens[-1]): length}) if length >= PADDING_RUN else Counter()


def _prefix_in(stream: torch.Tensor, tokenizer) -> tuple[int, ...]:
    """What the tokenizer puts in front of prompts, if the rows that are trained on have it."""
    prefix, _ = around_prompt(tokenizer)
    if not prefix or (stream.unfold(0, len(prefix), 1) == torch.tensor(prefix)).all(-1).any():
        return prefix
    logger.warning(
        "the Trainer's train_dataset has no %s, which the tokenizer puts in front of prompts: the search sees text as the "
        "training does, without",
        tokenizer.convert_ids_to_tokens(list(prefix)),
    )
    return ()
