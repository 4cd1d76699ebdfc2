"""Every folder that leaves a run is written here: weights, tokenizer, remote code, provenance."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from . import artifacts


REMOTE = Path(__file__).parent / "remote"
DECILM_FILES = ("configuration_decilm.py", "modeling_decilm.py")


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
    for name in DECILM_FILES:
        shutil.copyfile(REMOTE / name, staging / name)
    if tokenizer is not None:
        tokenizer.save_pretrained(staging)
    if provenance is not None:
        artifacts.write_json(staging / "puzzle.json", provenance)
    artifacts.remove(folder)
    staging.rename(folder)
    return folder
