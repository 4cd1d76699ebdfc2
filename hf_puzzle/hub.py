"""Every folder that leaves a run is written here: weights, tokenizer, remote code, provenance."""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from . import artifacts
from .formats import DECILM, PER_LAYER, format_of, model_class
from .remote.configuration_decilm import DeciLMConfig


REMOTE = Path(__file__).parent / "remote"
CODE = {
    DECILM: ("configuration_decilm.py", "modeling_decilm.py"),
    PER_LAYER: ("modeling_puzzle.py",),
    None: (),
}


def write_model_folder(
    folder: str | Path, model: PreTrainedModel, tokenizer=None, provenance: dict | None = None
) -> Path:
    """Write an ordinary Hugging Face folder that opens with `trust_remote_code=True` where hf_puzzle is not installed.

    The folder appears under its name only when it is complete.

    Args:
        provenance: what made the model; goes to `puzzle.json`, never into `config.json`, which engines parse strictly.
    """
    folder = Path(folder)
    staging = folder.with_name(f".{folder.name}.tmp")
    artifacts.remove(staging)
    model.save_pretrained(staging)
    for name in CODE[format_of(model.config)]:
        shutil.copyfile(REMOTE / name, staging / name)
    if tokenizer is not None:
        tokenizer.save_pretrained(staging)
    if provenance is not None:
        artifacts.write_json(staging / "puzzle.json", provenance)
    artifacts.remove(folder)
    staging.rename(folder)
    return folder


def read_config(folder: str | Path) -> PretrainedConfig:
    """The config of a local model folder, read without running any code that lies beside it.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: a config that its class refuses; the message names the layer and the field.
    """
    raw = artifacts.read_json(Path(folder) / "config.json")
    if raw.get("model_type") == DeciLMConfig.model_type:
        return DeciLMConfig.from_pretrained(folder)
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def open_model_folder(folder: str | Path, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """A model of a local folder, in the installed code of its format: what lies beside the weights is not run.

    Raises:
        ValueError: tensors that are missing, left over, or of another shape.
    """
    config = read_config(folder)
    model, info = model_class(config).from_pretrained(folder, config=config, dtype=dtype, output_loading_info=True)
    for what, names in (("missing", info["missing_keys"]), ("unexpected", info["unexpected_keys"])):
        if names:
            raise ValueError(f"{folder}: {what} tensors {', '.join(sorted(names)[:3])} ({len(names)} in all)")
    if info["mismatched_keys"]:
        name, found, wanted = sorted(info["mismatched_keys"])[0]
        raise ValueError(f"{folder}: {name} has shape {tuple(found)}, its config asks for {tuple(wanted)}")
    return model
