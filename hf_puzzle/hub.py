"""Every folder that leaves a run is written here: weights, tokenizer, remote code, provenance."""

import shutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from . import artifacts
from .conversions import check_same, probe_logits, tolerance_of
from .formats import (
    FormatError,
    check_config,
    check_loading,
    describe,
    format_of,
    model_class,
    tell_tie,
)
from .remote.configuration_decilm import DeciLMConfig


FORMAT_VERSION = 1  # of the folders that this hf_puzzle writes and reads
REMOTE = Path(__file__).parent / "remote"
GENERATE = "custom_generate/generate.py"


def located(name: str, base: Path) -> str:
    """Where a model is: a path below `base`, else a folder of an installed package (`package/folder`), else its Hub id.

    The package is not imported: those that carry models often want more than their files.
    """
    if (base / name).exists():
        return str(base / name)
    package, _, rest = name.partition("/")
    if package.isidentifier() and (spec := find_spec(package)) is not None:
        for folder in spec.submodule_search_locations or ():
            if (Path(folder) / rest).exists():
                return str(Path(folder) / rest)
    return name


def named_modules(folder: str | Path) -> dict[str, str]:
    """Code files that a folder names itself, as paths in it, each with what names it; those of other repositories apart.

    They are those of `auto_map` and `custom_pipelines` in its JSON files, and of the function in `custom_generate/`.

    Raises:
        ValueError: a name that is not `module.Class`, or a JSON file of another form.
    """
    folder, named = Path(folder), {}
    references = []
    for name in ("config.json", "tokenizer_config.json"):
        config = artifacts.read_json(folder / name) if (folder / name).exists() else {}
        try:
            for each in (config.get("auto_map") or {}).values():
                references += [("auto_map", one) for one in (each if isinstance(each, list) else [each]) if one]
            pipelines = (config.get("custom_pipelines") or {}).values()
            references += [("custom_pipelines", each["impl"]) for each in pipelines]
        except (AttributeError, KeyError, TypeError):
            raise ValueError(f"{name} is not as transformers writes it: save the model again") from None
    for who, reference in references:
        module, _, class_name = str(reference).split("--")[-1].partition(".")
        if not (module.isidentifier() and class_name.isidentifier()):
            raise ValueError(f"{who} names {reference!r}: expected `module.Class`")
        if "--" not in reference:
            named[f"{module}.py"] = who
    if (folder / GENERATE).exists():
        named[GENERATE] = "custom_generate"
    return named


def write_code(
    folder: str | Path, named: dict[str, str] | None = None, replace: bool = True
) -> tuple[list[str], list[str]]:
    """Put into `folder` what it needs of `remote/`: the files that it names, and those that these take names from.

    Args:
        named: default: all of `named_modules`.
        replace: also files that are there and differ from those of this hf_puzzle.

    Returns: (files written, files that are missing and not ours, each with what names it)
    """
    folder = Path(folder)
    queue = list((named_modules(folder) if named is None else named).items())
    seen, written, missing = set(), [], []
    while queue:
        name, who = queue.pop(0)
        if name in seen:
            continue
        seen.add(name)
        path, source = folder / name, REMOTE / Path(name).name
        if source.exists() and (not path.exists() or (replace and path.read_bytes() != source.read_bytes())):
            shutil.copyfile(source, path)
            written.append(name)
        if path.exists():
            queue += [(str(Path(name).with_name(f"{each}.py")), name) for each in sorted(get_relative_imports(path))]
        else:
            missing.append(f"{name} (named by {who})")
    return written, missing


def check_replaceable(folder: str | Path) -> None:
    """Raises ValueError where writing a model to `folder` would delete what is no model."""
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").exists()):
        raise ValueError(f"{folder} exists and holds no model; name another folder")


def _name_for_all_versions(path: Path, tokenizer) -> None:
    """Give a tokenizer without a class of its own the name that transformers 4 knows, too, where its default inputs differ."""
    if not path.exists():
        return
    config = artifacts.read_json(path)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config |= {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": list(tokenizer.model_input_names),
        }
        artifacts.write_json(path, config)


def write_model_folder(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer=None,
    provenance: dict | None = None,
    also: Callable[[Path], None] | None = None,
    weights: Iterable[dict[str, torch.Tensor]] | None = None,
    expected: torch.Tensor | None = None,
) -> Path:
    """Write an ordinary Hugging Face folder that opens with `trust_remote_code=True` where hf_puzzle is not installed.

    The folder appears under its name only when it is complete, and gives the logits that it should.

    Args:
        folder: a model that is there is replaced, anything else refused.
        provenance: what made the model; goes to `puzzle.json`, never into `config.json`, which engines parse strictly.
        also: writes what else belongs into the folder, before it appears.
        weights: `model`'s tensors a piece (a layer, say) at a time, in place of its own; it may be on the meta device.
            Names and shapes of all, and the config's word on a tied head, are checked then instead of logits: the model
            may be larger than the memory.
        expected: `probe_logits` of the model that this one was converted from; default: `model`'s own.

    Raises:
        ValueError: `folder` holds something that is no model.
        NotTheSame: what was written gives other logits.
    """
    folder = Path(folder)
    check_replaceable(folder)
    staging = folder.with_name(f".{folder.name}.tmp")
    artifacts.remove(staging)
    tell_tie(model)
    try:
        if weights is None:
            if expected is None:
                expected = probe_logits(model)
            model.save_pretrained(staging)
        else:
            model.save_pretrained(staging, state_dict={})  # config and generation settings
            write_shards(staging, model, weights)
        write_code(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
            _name_for_all_versions(staging / "tokenizer_config.json", tokenizer)
        if provenance is not None:
            artifacts.write_json(staging / "puzzle.json", {"puzzle_format_version": FORMAT_VERSION, **provenance})
        if also is not None:
            also(staging)
        if weights is None:
            check_same(expected, probe_logits(open_model_folder(staging)), str(folder), tolerance_of(model))
        artifacts.remove(folder)
        staging.rename(folder)
    finally:
        artifacts.remove(staging)
    return folder


def write_shards(
    folder: Path, model: PreTrainedModel, weights: Iterable[dict[str, torch.Tensor]], max_shard_size: int = 5 * 10**9
) -> None:
    """Write tensors as they come, named and split as `save_pretrained` does it; no more than one shard is held.

    Args:
        model: whose tensors they are; on the meta device.
        weights: pieces of its state dict, tied tensors once.
        max_shard_size: bytes of a shard, unless one tensor is larger.

    Raises:
        FormatError: tensors that are missing, left over, or of another shape.
    """
    expected = {name: t.shape for name, t in model.state_dict().items() if name not in model.all_tied_weights_keys}
    shard: dict[str, torch.Tensor] = {}
    names: list[list[str]] = []
    held = total_size = total_parameters = 0

    def write() -> None:
        nonlocal held
        save_file(shard, folder / f"shard-{len(names)}.safetensors", metadata={"format": "pt"})
        names.append(list(shard))
        shard.clear()
        held = 0

    for piece in weights:
        for name, tensor in piece.items():
            if name not in expected:
                raise FormatError(f"unexpected tensor {name}")
            if tensor.shape != (shape := expected.pop(name)):
                raise FormatError(f"{name} has shape {tuple(tensor.shape)}, its config asks for {tuple(shape)}")
            if shard and held + tensor.nbytes > max_shard_size:
                write()
            shard[name] = tensor.detach().cpu().contiguous()
            held, total_size = held + tensor.nbytes, total_size + tensor.nbytes
            total_parameters += tensor.numel()
    if expected:
        raise FormatError(f"missing tensors {', '.join(sorted(expected)[:3])} ({len(expected)} in all)")
    write()
    if len(names) == 1:
        (folder / "shard-0.safetensors").rename(folder / SAFE_WEIGHTS_NAME)
        return
    weight_map = {}
    for i, held_names in enumerate(names):
        file = f"model-{i + 1:05d}-of-{len(names):05d}.safetensors"
        (folder / f"shard-{i}.safetensors").rename(folder / file)
        weight_map |= dict.fromkeys(held_names, file)
    metadata = {"total_parameters": total_parameters, "total_size": total_size}
    artifacts.write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": metadata, "weight_map": weight_map})


def read_config(folder: str | Path) -> PretrainedConfig:
    """The config of a local model folder, read without running any code that lies beside it.

    Raises:
        FileNotFoundError: no config.json.
        ValueError: a config that its class refuses; the message names the layer and the field.
    """
    path = Path(folder) / "config.json"
    raw = artifacts.read_json(path, finite=False)
    check_config(raw, path)
    try:
        own = raw.get("model_type") == DeciLMConfig.model_type
        if own:
            config = DeciLMConfig.from_pretrained(folder)
        else:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if format_of(config) is not None:
            describe(config)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from None
    except (TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, StrictDataclassError) as error:
        raise FormatError(f"{path}: {type(error).__name__}: {error}") from None
    return config


def open_model_folder(folder: str | Path, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """A model of a local folder, in the installed code of its format: what lies beside the weights is not run.

    Its config says of a tied head what its tensors say, whatever the folder's does.

    Raises:
        ValueError: tensors that are missing, left over, or of another shape.
    """
    config = read_config(folder)
    model, info = model_class(config).from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
    )
    quanto = _by_quanto(config)
    if quanto:  # scales of activations, which are not quantised here
        own = (".input_scale", ".output_scale")
        info["missing_keys"] = {name for name in info["missing_keys"] if not name.endswith(own)}
    try:
        check_loading(info)
    except FormatError as error:
        raise FormatError(f"{folder}: {error}") from None
    tell_tie(model)
    if quanto:
        _freeze(model)
    return model.eval()


def _by_quanto(config: PretrainedConfig) -> bool:
    quantization = getattr(config, "quantization_config", None) or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    return method == "quanto"


def _freeze(model: PreTrainedModel) -> None:
    """Pack what transformers left as it was in the file: optimum-quanto's matrices are rounded at every step until then."""
    from optimum.quanto import freeze

    freeze(model)


def read_model_folder(folder: str | Path) -> tuple[PretrainedConfig, dict[str, torch.Tensor]]:
    """Config and tensors of a local model folder, checked against each other; tied tensors once. No code of it is run."""
    return parts_of(open_model_folder(folder))


def parts_of(model: PreTrainedModel) -> tuple[PretrainedConfig, dict[str, torch.Tensor]]:
    """Config and tensors of a model from a folder; tied tensors once."""
    tied = model.all_tied_weights_keys  # those that are, not those that the config names
    return model.config, {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def write_custom_generate(folder: str | Path, generate: str, requirements: str, readme: str) -> Path:
    """Write `custom_generate/` (code and requirements) and a README to `folder`, which may hold a model already.

    In a folder that holds a model, `from_pretrained(..., trust_remote_code=True)` makes this function the model's
    `generate`; a README that is there is kept.

    Args:
        generate: text of `generate.py`; the files of `remote/` that it imports are copied too.
    """
    folder = Path(folder)
    artifacts.write_text(folder / GENERATE, generate)
    artifacts.write_text(folder / "custom_generate" / "requirements.txt", requirements)
    write_code(folder, {GENERATE: "custom_generate"})
    if not (folder / "README.md").exists():
        artifacts.write_text(folder / "README.md", readme)
    return folder
