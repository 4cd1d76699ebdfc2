"""Model folders opened with their linear weights in 8 or 4 bits, by optimum-quanto through transformers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from .. import hub
from ..formats import model_class


WEIGHTS = ("int8", "int4")


def quantized(folder: str | Path, weights: Literal["int8", "int4"] = "int8") -> PreTrainedModel:
    """The model of a folder, in eval mode, every linear map but the head in `weights`; runs none of the code in `folder`.

    Linear replacements of attention and FFN are quantised too; embeddings, norms and activations keep their dtype.

    Raises:
        ImportError: a package of the extra `quanto` is missing.
        ValueError: other `weights`.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r}: expected {' or '.join(WEIGHTS)}")
    if find_spec("optimum") is None or find_spec("optimum.quanto") is None:
        raise ImportError("quantised weights need optimum-quanto: pip install 'hf_puzzle[quanto]'")
    from transformers import QuantoConfig

    config = hub.read_config(folder)
    model = model_class(config).from_pretrained(
        folder, config=config, dtype="auto", use_safetensors=True, quantization_config=QuantoConfig(weights=weights)
    )
    return model.eval()


def _held_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor; a quantised one calls itself float, but consists of packed integers, scales and shifts."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_held_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def weight_bytes_of(model: PreTrainedModel) -> int:
    """Bytes the parameters of a quantised model really hold, shared (tied) ones once."""
    return sum(_held_bytes(parameter) for parameter in model.parameters())
