"""Every folder that leaves a run is written here: weights, tokenizer, remote code, provenance."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

from . import artifacts
from .formats import DECILM, PER_LAYER, FormatError, check_loading, format_of, model_class
from .remote.configuration_decilm import DeciLMConfig


FORMAT_VERSION = 1  # of the folders that this hf_puzzle writes and reads
REMOTE = Path(__file__).parent / "remote"
CODE = {
    DECILM: ("configuration_decilm.py", "modeling_decilm.py"),
    PER_LAYER: ("modeling_puzzle.py",),
    None: (),
}


def check_replaceable(folder: str | Path) -> None:
    """Raises ValueError where writing a model to `folder` would delete what is no model."""
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").exists()):
        raise ValueError(f"{folder} exists and holds no model; name another folder")


def write_model_folder(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer=None,
    provenance: dict | None = None,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Write an ordinary Hugging Face folder that opens with `trust_remote_code=True` where hf_puzzle is not installed.

    The folder appears under its name only when it is complete.

    Args:
        folder: a model that is there is replaced, anything else refused.
        provenance: what made the model; goes to `puzzle.json`, never into `config.json`, which engines parse strictly.
        also: writes what else belongs into the folder, before it appears.

    Raises:
        ValueError: `folder` holds something that is no model.
    """
    folder = Path(folder)
    check_replaceable(folder)
    staging = folder.with_name(f".{folder.name}.tmp")
    artifacts.remove(staging)
    model.save_pretrained(staging)
    for name in CODE[format_of(model.config)]:
        shutil.copyfile(REMOTE / name, staging / name)
    if tokenizer is not None:
        tokenizer.save_pretrained(staging)
    if provenance is not None:
        artifacts.write_json(staging / "puzzle.json", {"puzzle_format_version": FORMAT_VERSION, **provenance})
    if also is not None:
        also(staging)
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
    try:
        check_loading(info)
    except FormatError as error:
        raise FormatError(f"{folder}: {error}") from None
    return model.eval()


def read_model_folder(folder: str | Path) -> tuple[PretrainedConfig, dict[str, torch.Tensor]]:
    """Config and tensors of a local model folder, checked against each other; tied tensors once. No code of it is run."""
    model = open_model_folder(folder)
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        tied = model.get_output_embeddings().weight.data_ptr()
        heads = {name for name, tensor in state.items() if tensor.data_ptr() == tied}
        inputs = {name for name in heads if "embed" in name or "wte" in name}
        state = {name: tensor for name, tensor in state.items() if name not in heads - inputs}
    return model.config, state


def write_custom_generate(folder: str | Path, module: str, generate: str, requirements: str, readme: str) -> Path:
    """Write `custom_generate/` (code and requirements) and a README to `folder`, which may hold a model already.

    In a folder that holds a model, `from_pretrained(..., trust_remote_code=True)` makes this function the model's
    `generate`; a README that is there is kept.

    Args:
        module: file of `remote/` that holds the function; what it imports from its siblings is copied too.
        generate: text of `generate.py`.
    """
    folder, source = Path(folder), REMOTE / f"{module}.py"
    code = folder / "custom_generate"
    code.mkdir(parents=True, exist_ok=True)
    for path in [source, *map(Path, get_relative_import_files(source))]:
        shutil.copyfile(path, code / path.name)
    artifacts.write_text(code / "generate.py", generate)
    artifacts.write_text(code / "requirements.txt", requirements)
    if not (folder / "README.md").exists():
        artifacts.write_text(folder / "README.md", readme)
    return folder
