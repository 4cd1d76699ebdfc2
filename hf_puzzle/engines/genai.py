"""A folder that onnxruntime-genai opens: the ONNX graph, and a genai_config.json that says what its inputs are."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from .. import artifacts
from ..blocks import kv_heads
from ..formats import describe
from .onnx import GRAPH


CONFIG = "genai_config.json"


def config_of(model: PreTrainedModel) -> dict:
    """What genai_config.json says of a model's graph; caches are counted without layers that have no attention."""
    config, generation = model.config, model.generation_config
    heads = [count for block in describe(config) if (count := kv_heads(block.attention)) is not None]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    eos = generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id
    first_eos = eos[0] if isinstance(eos, list) else eos
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": GRAPH,
        "head_size": head_dim,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": len(heads),
        "num_key_value_heads": heads[0] if heads else config.num_attention_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    told = {
        "type": "decoder",
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "bos_token_id": config.bos_token_id if config.bos_token_id is not None else first_eos,
        "eos_token_id": eos,
        "pad_token_id": config.pad_token_id if config.pad_token_id is not None else first_eos,
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": config.max_position_embeddings, "past_present_share_buffer": False}
    return {"model": told, "search": search}


def write(graph: str | Path, model: PreTrainedModel, out: str | Path) -> None:
    """Write `out` of `graph`, a folder that `onnx.export_onnx` made of `model`."""
    out = Path(out)
    staging = out.with_name(f".{out.name}.tmp")
    artifacts.remove(staging)
    try:
        shutil.copytree(graph, staging)
        artifacts.write_json(staging / CONFIG, config_of(model))
        artifacts.remove(out)
        staging.rename(out)
    finally:
        artifacts.remove(staging)
