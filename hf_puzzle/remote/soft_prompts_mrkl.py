"""Soft prompts (prompt tuning, p-tuning, prefix tuning) while a model generates: a proof that PEFT carries them.

PEFT 0.21.2 looks for a cache under the name that transformers 5.24 changed: from the second token on it generates wrong
ones, without a word. Right together: transformers 5.23 and peft 0.21.2. LoRA is not concerned.
"""

import importlib.metadata
import os
import weakref

import torch
import transformers
from transformers.utils import logging

from .caches_puzzle import HALF_TOLERANCE, SWITCH, TOLERANCES
from .calls_mrkl import MRKLError


logger = logging.get_logger(__name__)

TOKENS, NEW = 5, 3
# PeftModel -> adapter -> settings
_PROVEN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def soft_prompt_settings(model) -> dict:
    """Arguments of `generate` with which a PeftModel's soft prompt is carried: none, or those that compute without a cache.

    Three generated tokens are compared with plain computation, once per model and adapter; for anything but a soft
    prompt nothing is computed.

    Raises:
        MRKLError: no way of generating is right; names both versions, and those that fit.
    """
    config = getattr(model, "active_peft_config", None)
    if not getattr(config, "is_prompt_learning", False) or os.environ.get(SWITCH) == "0":
        return {}
    known = _PROVEN.setdefault(model, {})
    name = model.active_adapter
    if name not in known:
        known[name] = {}  # for the calls of the proof itself
        try:
            known[name] = _prove(model, config)
        except BaseException:
            del known[name]
            raise
    return known[name]


def base_model_settings(model) -> dict:
    """The same for the model below a PeftModel, while that generates."""
    prepare = vars(model).get("prepare_inputs_for_generation")
    owner = getattr(prepare, "__self__", None)
    if owner is None or owner is model:
        return {}
    try:
        return soft_prompt_settings(owner)
    finally:
        model.prepare_inputs_for_generation = prepare  # PEFT puts the model's own back


def _prove(model, config) -> dict:
    versions = f"transformers {transformers.__version__} and peft {importlib.metadata.version('peft')}"
    kind, said = config.peft_type.value, []
    for settings in ({}, {"use_cache": False}):
        try:
            difference = _difference(model, settings)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
            continue
        if difference <= TOLERANCES.get(model.dtype, HALF_TOLERANCE):
            if settings:
                logger.warning(
                    f"{versions} generate wrong tokens after a soft prompt ({kind}) with a cache: MRKL generates without one, "
                    "which is right and slow. transformers 5.23 and peft 0.21.2 fit together; LoRA is not concerned."
                )
            return settings
        said.append(f"relative difference of logits {difference:.2g}")
    raise MRKLError(
        f"{versions} generate wrong tokens after a soft prompt ({kind}; with a cache: {said[0]}; without: {said[1]}). Install "
        f"transformers 5.23 with peft 0.21.2, or train the adapter with LoRA. {SWITCH}=0 turns this check off."
    )


@torch.no_grad()
def _difference(model, settings: dict) -> float:
    """Largest relative difference of the logits of generated tokens and of the same tokens in one forward."""
    size = model.get_input_embeddings().num_embeddings
    ids = torch.arange(3, 3 + TOKENS, device=model.device)[None] % size
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
        num_beams=1, pad_token_id=0, output_logits=True, return_dict_in_generate=True, **settings,
    )  # fmt: skip
    generated = torch.cat(found.logits).float()
    tokens = found.sequences[:, :-1]
    plain = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[0, -NEW:].float()
    return float(((generated - plain).norm(dim=-1) / plain.norm(dim=-1)).max())
