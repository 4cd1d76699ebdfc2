"""Folders and files that an engine opens, made from a child by exact rewrites, or a refusal that says why not."""

import shutil
import tempfile
from pathlib import Path

import torch
from transformers import PretrainedConfig

from .. import artifacts, hub
from ..conversions import EXACT, check_same, probe_logits
from ..formats import (
    DECILM,
    DECILM_FAMILIES,
    PER_LAYER,
    UNIFORM,
    FormatError,
    build_model,
    convert,
    format_of,
    simplify,
)
from ..recipe import RecipeError, did_you_mean
from . import ENGINES, measured, openvino, per_layer, rewrites
from .check import NO, FolderError, by_quanto, check_folder


# what travels with the weights as it is: tokenizer, generation settings, licence
_OURS = ("config.json", "model.safetensors.index.json", "puzzle.json", "README.md")
TARGETS = (*ENGINES, "onnx")
# one rounding of every weight, of logits that have nothing in common 1.4
_SAME_TENSORS = (UNIFORM, "written as DeciLM")  # changes that leave every matrix in its layer
GGUF_TOLERANCE = {"f32": EXACT, "f16": 2e-2, "bf16": 1e-1, "q8_0": 1e-1, "q6_k": 2e-1, "q5_k_m": 3e-1, "q4_k_m": 5e-1}


def export(
    folder: str | Path,
    target: str,
    out: str | Path,
    tensor_parallel: int = 1,
    outtype: str = "f16",
    as_folder: bool = False,
) -> list[str]:
    """Write the model of `folder` as `target` runs it: same logits, other layers where the engine needs them.

    Args:
        target: an engine, or `onnx`: the graph that `onnxruntime` runs.
        out: a GGUF file for `llama.cpp`, else a folder.
        tensor_parallel: devices that attention heads are split over; KV heads are repeated until they divide.
        outtype: of a GGUF file's matrices, as of `gguf.write_gguf`.
        as_folder: for `llama.cpp`, the rewritten folder for the stock converter instead of a GGUF file.

    Returns:
        What was changed, one line each.

    Raises:
        ValueError: a named subclass; what the target cannot express, with the layer and the way out, or logits other than
            the child's. Nothing is written.
    """
    folder, out = Path(folder), Path(out)
    if target not in TARGETS:
        raise RecipeError(f"unknown target {target!r}{did_you_mean(target, TARGETS)}; known: {', '.join(TARGETS)}")
    if out.resolve() == folder.resolve():
        raise FolderError(f"--out {out} is the folder itself; name another one")
    is_file = target == "llama.cpp" and not as_folder
    if is_file and out.is_dir():
        raise FolderError(f"--out {out} is a folder, and {target} gets a file; name one that ends in .gguf")
    if not is_file:
        hub.check_replaceable(out)
    check_folder(folder)  # malformed folders end here, with the layer and field
    _check_whole(folder)
    try:
        return _export(folder, target, out, tensor_parallel, outtype, is_file)
    except rewrites.CannotRun as error:
        if (known := measured.told(target)) is None:
            raise
        raise rewrites.CannotRun(f"{error} ({target} was {known})") from None


def _export(folder: Path, target: str, out: Path, tensor_parallel: int, outtype: str, is_file: bool) -> list[str]:
    if target == "onnx" or ENGINES[target].graphs:
        return _export_graph(folder, "onnxruntime" if target == "onnx" else target, out)
    model = hub.open_model_folder(folder)
    expected = probe_logits(model)
    config, state, changes = as_engine_reads_it(folder, *hub.parts_of(model), target, tensor_parallel)
    if is_file:
        from .gguf import QUANTIZED_BY_LLAMA_CPP, read_gguf, rounded_tensors, write_gguf

        types, kept = _types_after(folder, changes), expected
        if types:
            kept = probe_logits(build_model(config, rounded_tensors(config, state, types)))

        with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as scratch:
            source = _write(Path(scratch) / "model", folder, config, state, expected)
            # what few bits leave of the logits would hide a mistake: the same file is proven in float32 first
            for kind in (*["f32"] * (outtype in QUANTIZED_BY_LLAMA_CPP), outtype):
                with artifacts.replacing(out if kind == outtype else Path(scratch) / "exact.gguf") as temporary:
                    write_gguf(source, temporary, kind)
                    found = probe_logits(build_model(config, read_gguf(temporary, config, model.dtype)))
                    check_same(kept, found, str(out), GGUF_TOLERANCE[kind])
        return changes
    _write(out, folder, config, state, expected, code=ENGINES[target].remote_code)
    return changes


def _check_whole(folder: Path) -> None:
    """Raises CannotRun for a folder whose matrices another format would keep otherwise."""
    if reason := by_quanto(artifacts.read_json(folder / "config.json")):
        raise rewrites.CannotRun(
            f"{folder}: {reason}; without quantization_config in its config.json, it is a child of whole weights"
        )


def _types_after(folder: Path, changes: list[str]) -> dict[str, str]:
    """Types of single tensors that a folder asks for; CannotRun where its layers were cut again."""
    from .gguf import TYPES_FILE, read_types

    types = read_types(folder)
    if types and (recut := [change for change in changes if change not in _SAME_TENSORS]):
        raise rewrites.CannotRun(
            f"{TYPES_FILE} gives types to tensors of layers that were cut again ({'; '.join(recut)}); search with "
            "llama.cpp in `deploy`, or delete that file"
        )
    return types


def _export_graph(folder: Path, engine: str, out: Path) -> list[str]:
    from .onnx import export_onnx

    verdict = next(v for v in check_folder(folder) if v.engine == engine)
    if verdict.status == NO:
        raise rewrites.CannotRun(f"{engine} cannot run this child: {verdict.reason}; transformers can")
    if engine == "onnxruntime":
        return _told(export_onnx(folder, out))
    if engine == "openvino":
        openvino.interpreter()  # before anything is computed
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as scratch:
        graph = Path(scratch) / "graph"
        found = export_onnx(folder, graph, check=engine != "openvino")
        return _told(from_graph(graph, engine, out, folder) or found)


def from_graph(graph: Path, engine: str, out: Path, folder: Path) -> dict[str, float]:
    """What `engine` opens, made of what `onnx.export_onnx` wrote of `folder`; logit differences where it was run.

    Raises:
        ValueError: the engine is absent, cannot express the graph, or computes something else; nothing is written.
    """
    from . import genai

    model = hub.open_model_folder(folder, torch.float32)
    if engine != "openvino":
        genai.write(graph, model, out)
        return {}
    staging = out.with_name(f".{out.name}.made")
    try:
        openvino.shared().convert(graph, staging)
        found = openvino.shared().differences(model, staging)
        artifacts.remove(out)
        staging.rename(out)
    finally:
        artifacts.remove(staging)
    return found


def _told(differences: dict[str, float]) -> list[str]:
    return [f"{name}: {value:.1e}" for name, value in differences.items()]


def as_engine_reads_it(
    folder: Path, config: PretrainedConfig, state: rewrites.State, engine: str, tensor_parallel: int = 1
) -> tuple[PretrainedConfig, rewrites.State, list[str]]:
    """Config, tensors and changes: stock architecture where the child is uniform, else rewritten for the engine.

    Raises:
        rewrites.CannotRun: no exact rewrite exists.
    """
    if format_of(config) is None:
        return config, state, []
    changes: list[str] = []
    if format_of(config) == PER_LAYER:
        config, state, changes = simplify(config, state)
        if format_of(config) is None:
            return config, state, changes
        if ENGINES[engine].per_layer_families is not None and config.model_type not in DECILM_FAMILIES:
            return _for_transformers_backend(folder, config, state, engine, changes)
        if ENGINES[engine].per_layer_families is None and PER_LAYER in ENGINES[engine].formats:
            verdict = next(v for v in check_folder(folder) if v.engine == engine)
            if verdict.status == NO:
                raise rewrites.CannotRun(f"{engine} cannot run this child: {verdict.reason}")
            return config, state, changes
        try:
            config, state = convert(config, state, DECILM)
        except FormatError as error:
            how = (
                "gets such a child as DeciLM"
                if ENGINES[engine].per_layer_families
                else "reads no per-layer checkpoints"
            )
            raise rewrites.CannotRun(f"{engine} {how}; {error}; transformers can run it as it is") from None
        changes.append("written as DeciLM")
    if tensor_parallel == 1 and (plain := rewrites.as_plain(config, state)) is not None:
        return (*plain, [*changes, UNIFORM])
    done = rewrites.rewrite(config, state, engine, tensor_parallel)
    return done.config, done.state, [*changes, *done.changes]


def _for_transformers_backend(
    folder: Path, config: PretrainedConfig, state: rewrites.State, engine: str, changes: list[str]
) -> tuple[PretrainedConfig, rewrites.State, list[str]]:
    verdict = next(v for v in check_folder(folder) if v.engine == engine)
    if verdict.status == NO:
        raise rewrites.CannotRun(f"{engine} cannot run this child: {verdict.reason}; transformers can")
    try:
        config, state, more = per_layer.with_attention_everywhere(config, state)
    except per_layer.NoRoom as error:
        raise rewrites.CannotRun(f"{engine} cannot run this child: {error}; transformers can") from None
    return config, state, [*changes, *more]


def convert_folder(folder: str | Path, to: str, out: str | Path) -> Path:
    """Write a child in the other format; dummy layers and all are kept, and converting back gives the same tensors.

    Raises:
        FormatError: the other format cannot express a layer, which is named; or the result computes something else.
        FolderError: `folder` is malformed.
    """
    check_folder(folder)
    _check_whole(Path(folder))
    if Path(out).resolve() == Path(folder).resolve():
        raise FolderError(f"--out {out} is the folder itself; name another one")
    hub.check_replaceable(out)
    model = hub.open_model_folder(folder)
    expected = probe_logits(model)
    return _write(Path(out), Path(folder), *convert(*hub.parts_of(model), to), expected)


def _write(
    out: Path,
    source: Path,
    config: PretrainedConfig,
    state: rewrites.State,
    expected: torch.Tensor,
    code: bool = True,
) -> Path:
    """A model folder with the tokenizer files of `source`, byte for byte; it gives the logits `expected`.

    Without `code`, for an engine that knows the architecture itself: transformers would ask whether to run it.
    """
    model = build_model(config, state)
    generation = source / "generation_config.json"
    if generation.exists():
        model.generation_config = type(model.generation_config).from_pretrained(source)
    notes = source / "puzzle.json"
    provenance = artifacts.read_json(notes) if notes.exists() else {}

    def copy_rest(staging: Path) -> None:
        if not code:
            _drop_code(staging)
        if format_of(config) is None:
            _rope_for_all_readers(staging / "config.json")
        for path in source.iterdir():
            ours = path.name in _OURS or path.suffix in (".safetensors", ".py", ".gguf")
            if path.is_file() and not ours and not (staging / path.name).exists():
                # a link to a file of yours would be copied into what you publish
                shutil.copyfile(artifacts.inside(source, path.name), staging / path.name)

    return hub.write_model_folder(out, model, provenance=provenance, also=copy_rest, expected=expected)


def _rope_for_all_readers(path: Path) -> None:
    """Beside transformers 5's rope_parameters, the keys before them: who knows only those would take its own defaults."""
    raw = artifacts.read_json(path)
    rope = raw.get("rope_parameters") or {}
    if "full_attention" in rope:  # one for each type of layer
        if local := rope.get("sliding_attention"):
            raw["rope_local_base_freq"] = local["rope_theta"]
        rope = rope["full_attention"]
    if "rope_theta" not in rope:
        return
    raw["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        raw["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    artifacts.write_json(path, raw)


def _drop_code(folder: Path) -> None:
    raw = artifacts.read_json(folder / "config.json")
    raw.pop("auto_map", None)
    artifacts.write_json(folder / "config.json", raw)
    for path in folder.glob("*.py"):
        path.unlink()
