"""Parallel Context Windows (PCW, Ratner et al. 2023, arXiv 2212.10947) for any decoder with a key-value cache.

B windows are encoded side by side from the same first positions, none seeing another; the task attends to all of them
and continues at the position after the longest (section 2 of the paper). The modelling code is stock: windows are one
padded batch, their caches are concatenated, a shared prefix (BOS or a prompt) is kept once. This file is `generate` behind
them, and where the public names of masks, caches, modes and scores are found together. Needs transformers >= 5.23.
"""

import copy
import functools
import threading
import weakref
from collections.abc import Callable, Sequence

import torch
import transformers
from transformers import AutoTokenizer, DynamicCache, GenerationMixin

from .cache_pcw import (
    CHECKS,
    Context,
    EncodedWindows,
    check_encoded,
    check_read,
    encode_windows,
    filled_cache,
    held_tokens,
    window_ids,
)
from .caches_puzzle import (
    HALF_TOLERANCE,
    NAMES,
    OUTPUT_NAME,
    SWITCH,
    TOLERANCES,
    is_cache,
    remedy,
    self_checks,
)
from .masks_pcw import (
    PCWError,
    accepts,
    cache_name,
    check_length,
    check_model,
    column_names,
    listed,
    plain_model,
    position_limit,
    scale_switch,
    token_ids,
)
from .modes_pcw import MODES, Mixture, least_entropy
from .scoring_pcw import Plan, Reader, check_knobs, score_labels, task_logits


__all__ = [
    "MODES", "EncodedWindows", "PCWError", "check_encoded", "check_knobs", "check_model", "column_names", "encode_windows",
    "generate", "plain_model", "scale_switch", "score_labels", "task_logits",
]  # fmt: skip

STOCK_NEW_TOKENS = 20
# of a generation config: how a cache is made and filled, of no consequence where one is given; and what reads without it
CACHE_SETTINGS = ("cache_implementation", "cache_config", "prefill_chunk_size")
ALTERING_SETTINGS = ("guidance_scale", "prompt_lookup_num_tokens")
NOT_WITH_WINDOWS = (
    *NAMES, *CACHE_SETTINGS, *ALTERING_SETTINGS, "inputs_embeds", "assistant_model", "negative_prompt_ids",
)  # fmt: skip


class _StreamCache(DynamicCache):
    """One cache per context behind the face of one, for generation from combined distributions."""

    def __init__(self, caches: list[DynamicCache]):
        super().__init__()
        self.caches = caches

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.caches[0].get_seq_length()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        for cache in self.caches:
            cache.reorder_cache(beam_idx)


def _combining(plan: Plan, indices, contexts: list[Context], task_positions: torch.Tensor):
    """A shallow copy of the model whose forward reads every context and combines the logits of the last token."""
    model = plan.reader.model
    offsets = [len(context.positions) for context in contexts]
    name, chosen = cache_name(model), None

    @functools.wraps(model.forward)
    def forward(input_ids, attention_mask=None, position_ids=None, **kwargs):
        nonlocal chosen
        given = {key: kwargs.pop(key) for key in [key for key, value in kwargs.items() if is_cache(value)]}
        merged = next(iter(given.values()), None)
        if len(given) != 1 or not isinstance(merged, _StreamCache):
            raise PCWError(f"generate passed {', '.join(given) or 'no cache'} where the windows were. {remedy()}")
        task_mask = None if attention_mask is None else attention_mask[:, offsets[0] :]
        streams = []
        for context, cache in zip(contexts, merged.caches, strict=True):
            inputs = dict(kwargs)
            if task_mask is not None:
                seen = task_mask.new_ones(task_mask.shape[0], len(context.positions))
                inputs["attention_mask"] = torch.cat([seen, task_mask], dim=1)
            if position_ids is not None:
                inputs["position_ids"] = position_ids + context.next_position
            with plan.reader.seeing(context, task_positions + context.next_position):
                before = held_tokens(cache)
                output = model(input_ids=input_ids, **{name: cache}, **inputs)
            check_read(model, cache, before, input_ids.shape[1])
            streams.append(output.logits[:, -1:])
        streams = torch.stack(streams)
        if plan.mixture.mode.chooses and chosen is None:
            chosen = least_entropy(streams.float().log_softmax(-1))
        output.logits = plan.mixture.combine(streams, indices, chosen)
        output[OUTPUT_NAME] = merged
        return output

    combining = copy.copy(model)
    combining.__dict__["forward"] = forward
    return combining


def _texts_to_ids(model, tokenizer, contexts, prefix):
    """(contexts, prefix, BOS id that must not be read again at the start of a task or None) from texts."""
    if tokenizer is None:
        if not (name := model.config._name_or_path):
            raise PCWError("contexts are texts and the model does not know where it came from: give tokenizer=")
        tokenizer = AutoTokenizer.from_pretrained(name)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    if prefix is None:
        prefix = [bos] if adds_bos else []
    elif isinstance(prefix, str):
        prefix = tokenizer(prefix)["input_ids"]
    contexts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in contexts]
    return contexts, prefix, bos if adds_bos and len(prefix) and prefix[0] == bos else None


def _task_mask(ids: torch.Tensor, mask: torch.Tensor | None, setting: Callable) -> torch.Tensor:
    """(Q, L) int64, 0 on padding: as given, or as stock `generate` infers it."""
    if mask is None:
        pad, eos = setting("pad_token_id"), setting("eos_token_id")
        eos = eos if isinstance(eos, (list, tuple)) else [eos]
        mask = torch.ones_like(ids) if pad is None or pad in eos else (ids != pad).long()
    if mask.shape != ids.shape:
        raise PCWError(f"attention_mask is {tuple(mask.shape)}: expected that of the task ids, {tuple(ids.shape)}")
    if not mask[:, -1].all():
        raise PCWError("a task ends with padding: pad on the left (tokenizer.padding_side='left')")
    return mask.to(ids.device).long()


def _check_arguments(model, ids, stock: dict, generation_config, contexts, prefix, encoded) -> None:
    """PCWError for what stock `generate` takes and windows do not, wherever it is said, and for arguments that conflict."""
    if wrong := [name for name, value in stock.items() if name in NOT_WITH_WINDOWS or is_cache(value)]:
        raise PCWError(f"{wrong[0]} cannot be given together with parallel windows")
    for config, where in (
        (generation_config, "generation_config"),
        (model.generation_config, "model.generation_config"),
    ):
        own = () if config is model.generation_config else CACHE_SETTINGS
        for name in (*own, *ALTERING_SETTINGS):
            if (value := getattr(config, name, None)) not in (None, 1.0):
                raise PCWError(f"{where}.{name} is {value!r}: not with parallel windows, set it to None")
    if stock.get("use_cache") is False or (generation_config is not None and generation_config.use_cache is False):
        raise PCWError("use_cache=False: parallel windows are a cache")
    if (contexts is None) == (encoded is None) or (prefix is not None and encoded is not None):
        raise PCWError("give either contexts, with or without a prefix, or encoded windows, which have theirs")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or not ids.numel():
        raise PCWError("inputs must be a tensor of task ids, (tasks, length), without embeddings")


@torch.no_grad()
def generate(
    inputs: torch.Tensor | None = None,
    generation_config=None,
    *,
    model,
    contexts: Sequence | None = None,
    prefix: Sequence[int] | str | None = None,
    encoded: EncodedWindows | None = None,
    tokenizer=None,
    alignment: str = "left",
    mode: str = "pcw",
    attention_temperature: float = 1.0,
    self_weight: float = 1.0,
    top_k_windows: int | None = None,
    weights: Sequence[float] | None = None,
    beta: float = 0.25,
    **kwargs,
):
    """`model.generate` after parallel windows; the function of the `custom_generate` folder.

    Takes all of stock `generate`'s arguments but those of `NOT_WITH_WINDOWS`: greedy, sampling, beams,
    `num_return_sequences`, streamers, stopping criteria, logits processors, left-padded batches of tasks.

    Args:
        inputs: (Q, L) task ids, also as `input_ids`.
        contexts: texts, or lists of token ids; or give `encoded` windows instead.
        prefix: read before every context and kept once: text or ids; by default BOS where contexts are texts and the
            tokenizer adds one. A BOS that also begins a task is then masked out of it.
        tokenizer: for texts; by default the one of the model's folder.
        mode, attention_temperature, self_weight, top_k_windows, weights, beta: as in `task_logits`, whose
            `temperature` is `attention_temperature` here; top-k needs a single task.

    Returns: what stock `generate` returns; sequences hold the task ids as given, then the new ones.
    Raises PCWError as `encode_windows` and `task_logits`, for `use_cache=False` and for arguments that conflict.
    """
    model = plain_model(model)
    stock = {name: value for name, value in kwargs.items() if value is not None}
    ids = stock.pop("input_ids", inputs)
    _check_arguments(model, ids, stock, generation_config, contexts, prefix, encoded)
    stock.pop("use_cache", None)
    kind, again = check_model(model), None
    _check_generates(model)
    if contexts is not None:
        contexts = listed(contexts, "contexts", "text or list of token ids")
        if all(isinstance(context, str) for context in contexts):
            contexts, prefix, again = _texts_to_ids(model, tokenizer, contexts, prefix)
        elif isinstance(prefix, str) or any(isinstance(context, str) for context in contexts):
            raise PCWError("contexts and prefix must be all texts or all token ids")

    def setting(name: str):
        for source in (stock, generation_config, model.generation_config):
            value = source.get(name) if isinstance(source, dict) else getattr(source, name, None)
            if value is not None:
                return value

    mask = _task_mask(ids, stock.pop("attention_mask", None), setting)
    if again is not None:
        starts = torch.nn.functional.one_hot(mask.argmax(1), ids.shape[1]).bool() & (ids == again)
        # a task that is BOS alone keeps it
        mask = mask.masked_fill(starts & (mask.sum(1, keepdim=True) > 1), 0)
    if kind == "alibi" and model.config.model_type == "mpt" and not mask.all():
        raise PCWError("mpt has one bias for all rows of a batch: give tasks of one length, or one at a time")
    if ids.min() < 0 or ids.max() >= model.get_input_embeddings().num_embeddings:
        raise PCWError("inputs hold token ids outside the model's vocabulary")
    if encoded is not None:
        check_encoded(model, encoded)
        prefix, windows = encoded.prefix, encoded.windows
    else:
        prefix = token_ids(model, () if prefix is None else prefix, "prefix")
        windows = window_ids(model, kind, contexts, prefix)
    knobs = (mode, attention_temperature, self_weight, top_k_windows, weights, beta)
    knobs = check_knobs(model, kind, len(windows), *knobs)
    if top_k_windows is not None and len(ids) > 1:
        raise PCWError("top_k_windows chooses windows for one task: generate one at a time")
    first, longest = len(prefix) + max(map(len, windows)), int(mask.sum(1).max())
    # rotary positions go on past the trained ones, as in stock generate; tables of positions and scales end
    config = model.config.get_text_config(decoder=True)
    scaled = scale_switch(config)[1] is not None
    tables = scaled or getattr(config, "rope_parameters", None) is None
    if scaled:  # Phi-3's code counts padding, too
        longest = max(longest, ids.shape[1])
    new = setting("max_new_tokens")
    if new is None and setting("max_length") is not None:
        new = setting("max_length") - ids.shape[1]
    check_length(model, kind, first, longest, new - 1 if tables and new else 0, "the longest task")
    if tables and new is None:
        stock["max_new_tokens"] = int(min(STOCK_NEW_TOKENS, position_limit(model, kind)[0] - first - longest + 1))
    if tokenizer is not None and setting("stop_strings"):
        stock["tokenizer"] = tokenizer
    plan = Plan(encoded or encode_windows(model, windows, prefix, alignment), **knobs)
    indices = next(iter(plan.groups([tuple(ids[0, mask[0].bool()].tolist())])))
    rows = max(setting("num_beams") or 1, setting("num_return_sequences") or 1)
    return _generate(plan, indices, ids, mask, rows, generation_config, stock)


def _generate(plan: Plan, indices, ids, mask, rows: int, generation_config, stock: dict):
    """Stock generation of `rows` sequences per task behind the merged cache."""
    model = plan.reader.model
    contexts = plan.mixture.contexts(plan.encoded, indices, plan.temperature)
    rows = rows * len(ids)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    caches = [filled_cache(model, context.layers, rows) for context in contexts]
    stock["attention_mask"] = torch.cat([mask.new_ones(len(ids), len(contexts[0].positions)), mask], dim=1)
    if generation_config is not None:
        generation_config = copy.copy(generation_config)
        generation_config.use_cache = True
    else:
        stock["use_cache"] = True
    stock |= {"inputs": ids, "generation_config": generation_config}
    takes_positions = accepts(model, "position_ids")
    if plan.mixture.mode.together:
        positions = positions + contexts[0].next_position
        if takes_positions:
            stock["position_ids"] = positions
        before = held_tokens(caches[0])
        with plan.reader.seeing(contexts[0], positions):
            output = GenerationMixin.generate(_with_given_cache(model), **{OUTPUT_NAME: caches[0]}, **stock)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        if before is not None and held_tokens(caches[0]) < before + sequences.shape[1] - 1:
            raise PCWError(
                f"{type(model).__name__} began a cache of its own while it generated: what it wrote has not read the windows. "
                f"{remedy()}"
            )
        return output
    if takes_positions:
        stock["position_ids"] = positions
    combining = _with_given_cache(_combining(plan, indices, contexts, positions))
    return GenerationMixin.generate(combining, **{OUTPUT_NAME: _StreamCache(caches)}, **stock)


def _with_given_cache(model):
    """`model`, or a shallow copy that makes no cache of its own where its generation config asks for one."""
    if all(getattr(model.generation_config, name, None) is None for name in CACHE_SETTINGS):
        return model
    model = copy.copy(model)
    model.generation_config = copy.copy(model.generation_config)
    for name in CACHE_SETTINGS:
        setattr(model.generation_config, name, None)
    return model


def _check_generates(model) -> None:
    """PCWError if this version's `generate` would not hand the windows to the model, or something stands before them."""
    name = model.config.model_type
    if not accepts(model, OUTPUT_NAME):
        raise PCWError(
            f"the code of {name} takes its cache as {cache_name(model)}, but generate of transformers "
            f"{transformers.__version__} passes it as {OUTPUT_NAME}: the windows would be lost; update that code"
        )
    peft = getattr(vars(model).get("prepare_inputs_for_generation"), "__self__", None)
    if peft is not None and getattr(getattr(peft, "active_peft_config", None), "is_prompt_learning", False):
        raise PCWError("a soft prompt stands before all else, which windows do too: generate without it, or use LoRA")


# -- versions that this code was not tested with


_PROVEN: weakref.WeakSet = weakref.WeakSet()
_PROOF = threading.RLock()


@torch.no_grad()
def _prove(model, kind: str) -> None:
    """On versions that this code was not tested with, compare windows with plain computation, once per model.

    Raises:
        PCWError: they differ, or cannot be read at all.
    """
    if model.training or not self_checks():
        return
    with _PROOF:
        if model in _PROVEN:
            return
        _PROVEN.add(model)
        try:
            _check_generates(model)
            difference = _window_difference(model, kind)
        except Exception as error:
            _PROVEN.discard(model)
            if isinstance(error, PCWError):
                raise
            raise PCWError(f"windows cannot be read ({type(error).__name__}: {error}). {remedy()}") from error
        tolerance = TOLERANCES.get(model.dtype, HALF_TOLERANCE)
        if not difference <= tolerance:
            _PROVEN.discard(model)
            raise PCWError(
                f"{type(model).__name__} computes other logits behind windows than without (relative difference "
                f"{difference:.2g}, at most {tolerance:g} is rounding). {remedy()} {SWITCH}=0 turns this check off."
            )


def _window_difference(model, kind: str) -> float:
    """Largest relative difference of logits: one window and the joined text; two windows, read in two ways and orders."""
    size = model.get_input_embeddings().num_embeddings
    first, second, task = (tuple((7 * i + n) % size for i in range(n)) for n in (6, 3, 2))
    ids = torch.tensor([task], device=model.device)
    config = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "num_beams": 1, "pad_token_id": 0}
    config |= {"output_logits": True, "return_dict_in_generate": True}

    def plan(windows, mode: str = "pcw") -> Plan:
        return Plan(encode_windows(model, windows), Reader(model, kind), Mixture(mode), 1.0, None)

    def generated(plan: Plan):
        found = _generate(plan, range(len(plan.encoded.windows)), ids, torch.ones_like(ids), 1, None, dict(config))
        return tuple(found.sequences[0, :-1].tolist()), torch.cat(found.logits)

    pairs = []
    for mode in ("pcw", "ensemble"):
        tokens, logits = generated(plan([first], mode))
        plain = model(input_ids=torch.tensor([first + tokens], device=model.device), use_cache=False).logits[0]
        pairs.append((logits, plain[-len(logits) :]))
    both = plan([first, second])
    tokens, logits = generated(both)
    for each in (both, plan([second, first])):
        pairs.append((each.logits((0, 1), [tokens])[0][-len(logits) :], logits))
    centred = [[(x.float() - x.float().mean(-1, keepdim=True)) for x in pair] for pair in pairs]
    return max(float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max()) for a, b in centred)


CHECKS.append(_prove)
