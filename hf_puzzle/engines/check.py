"""What opens a model folder: one verdict per engine, from its JSON and tensor headers. Nothing in it is executed."""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig

from .. import artifacts
from ..blocks import LINEAR, NONE, Block
from ..formats import DECILM_FAMILIES, FormatError, check_config, describe, head_is_tied, is_stock, stock_of
from ..formats import decilm_config as as_decilm
from ..hub import FORMAT_VERSION
from ..hub import read_config as read_model_config
from ..remote.configuration_decilm import DeciLMConfig
from . import (
    ENGINES,
    Engine,
    first_live,
    measured,
    per_layer,
    refuses,
    refuses_family,
    refuses_model,
    rewritten,
    rope_kinds,
    why_not_direct,
)


GRAPHS = "as a graph, in float32"
# what else it takes to run one as it was exported
_GRAPH_NOTES = {"openvino": "with INFERENCE_PRECISION_HINT f32: bfloat16 is its own choice where the processor has it"}
OPENS, AFTER_EXPORT, NO = "opens", "opens after export", "no"
# what the classes of transformers raise at a config of another form
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, StrictDataclassError)
# stock architectures that every engine of the table has
_EVERYWHERE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
# they skip a checkpoint's head, or have no place for it, where config.json says it is tied; in llama.cpp's converter it
# depends on the family
_OBEY_THE_FLAG = ("vllm", "sglang", "mlx-lm")
_TRANSFORMERS_ENGINES = ("transformers", "transformers-serve", "continuous-batching")
# stock converters of llama.cpp take any other size of vocabulary for Llama 2's
_LLAMA3_VOCABULARY = 128_256


class FolderError(ValueError):
    """A model folder is malformed: the message names the file, and the layer and field or the tensor."""


class Verdict(NamedTuple):
    """Whether an engine opens a folder; `reason` says why not, or what an export changes, with layers. May be empty.

    `source` is how that is known: with which version of the engine it was measured, or read from its sources.
    """

    engine: str
    status: Literal["opens", "opens after export", "no"]
    reason: str = ""
    source: str = measured.READ


def check_folder(folder: str | Path) -> list[Verdict]:
    """A verdict for every engine. Weights are looked at if they are there: safetensors headers, and a head that the
    config calls tied.

    Raises:
        FolderError: no model of hf_puzzle or transformers is in the folder, or config and tensors disagree.
    """
    folder = Path(folder)
    raw = read_config(folder)
    config = _config_of(folder)
    verdicts = [v._replace(source=measured.source(v.engine, config)) for v in _verdicts(folder, raw)]
    if (reason := by_quanto(raw)) is not None:
        return [_without_quanto(verdict, reason) for verdict in verdicts]
    if "quantization_config" not in raw and (reason := wrong_tie(folder)) is not None:
        return [_with_wrong_tie(verdict, reason) for verdict in verdicts]
    return verdicts


def _config_of(folder: Path) -> PretrainedConfig | None:
    """The config as this library's classes read it; None where they do not: what is wrong with it is said elsewhere."""
    try:
        return read_model_config(folder)
    except _MALFORMED:
        return None


def _verdicts(folder: Path, raw: dict) -> list[Verdict]:
    architectures = raw.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if "per_layer_config" in raw and "block_configs" in raw:
        raise FolderError(f"{folder}/config.json has both block_configs and per_layer_config: no reader takes both")
    if architecture == "DeciLMForCausalLM":
        return _check_decilm(folder, raw)
    if "block_configs" in raw:
        raise FolderError(
            f"{folder}/config.json: block_configs of {architecture} are another generation of the format; "
            "hf_puzzle reads DeciLMForCausalLM's"
        )
    if raw.get("per_layer_config"):
        return _check_per_layer(folder, raw, architecture)
    return _check_plain(folder, raw, architecture)


def by_quanto(raw: dict) -> str | None:
    """What engines other than transformers do not read of a folder's matrices; None where they are as they lie there."""
    quantization = raw.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "quanto":
        return None
    return f"matrices in {quantization.get('weights')} by optimum-quanto (quantization_config), which only transformers reads"


def _without_quanto(verdict: Verdict, reason: str) -> Verdict:
    if verdict.engine != "transformers":
        return verdict._replace(status=NO, reason=reason)
    return verdict._replace(reason="; ".join(filter(None, [verdict.reason, "needs optimum-quanto"])))


def _with_wrong_tie(verdict: Verdict, reason: str) -> Verdict:
    if verdict.status == NO:
        return verdict
    effect = "may lose the head to the flag"
    if verdict.engine in _OBEY_THE_FLAG:
        effect = f"{verdict.engine} obeys the flag and loses the head"
    elif verdict.engine in _TRANSFORMERS_ENGINES:
        effect = "transformers 5 keeps the head, older versions lose it"
    notes = [verdict.reason] if verdict.reason else []
    told = "; ".join([f"{reason}: {effect}; `hf-puzzle export` rewrites it", *notes])
    return verdict._replace(status=AFTER_EXPORT, reason=told)


def wrong_tie(folder: str | Path) -> str | None:
    """How the config's word on a tied head contradicts the weights of a folder, or None; two matrices are read at most.

    Raises:
        FolderError: untied, and there is no head.
    """
    files = weight_files(folder)
    try:
        config = read_model_config(folder)
    except FormatError:  # what is wrong with it is said elsewhere
        return None
    with contextlib.ExitStack() as stack:
        try:
            handles = [stack.enter_context(safe_open(path, framework="pt")) for path in files]
            places = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118
            tied = head_is_tied(config, places, lambda name: places[name].get_tensor(name))
        except SafetensorError as error:
            raise FolderError(f"{folder}: weights are truncated or not safetensors: {error}") from None
        except FormatError as error:
            raise FolderError(f"{folder}: {error}") from None
    if tied or not config.tie_word_embeddings:
        return None
    return "config.json says tie_word_embeddings: true, and the weights have a head of their own"


# -- reading folders


def read_config(folder: str | Path) -> dict:
    """config.json as plain JSON.

    Raises:
        FolderError: it is missing, no JSON object, or written by a newer hf_puzzle.
    """
    folder = Path(folder)
    raw = _read_object(folder / "config.json")
    if raw is None:
        raise FolderError(f"{folder} has no config.json: name a folder with a model, or the `child` folder of a run")
    try:
        check_config(raw, folder / "config.json")
    except FormatError as error:
        raise FolderError(str(error)) from None
    notes = _read_object(folder / "puzzle.json") or {}
    version = notes.get("puzzle_format_version", raw.get("puzzle_format_version", FORMAT_VERSION))
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise FolderError(
            f"{folder} has puzzle_format_version {version!r}, and this hf_puzzle knows {FORMAT_VERSION}: "
            "upgrade with pip install --upgrade hf_puzzle"
        )
    return raw


def _read_object(path: Path) -> dict | None:
    if not path.parent.is_dir() and path.parent.exists():
        raise FolderError(f"{path.parent} is not readable as JSON: it is a file, not the folder of a model")
    if not path.exists():
        return None
    try:
        value = artifacts.read_json(path, finite=False)
    except artifacts.ArtifactError as error:
        raise FolderError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise FolderError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def decilm_config(raw: Mapping, where: str | Path) -> DeciLMConfig:
    """The config object of a DeciLM config.json, by our own class.

    Raises:
        FolderError: naming `where`, the layer and the field.
    """
    for name in ("vocab_size", "hidden_size", "num_attention_heads"):
        if type(raw.get(name)) is not int or raw[name] < 1:
            raise FolderError(f"{where}: {name} is {raw.get(name)!r}: expected a positive integer")
    if not isinstance(raw.get("block_configs"), list):
        raise FolderError(f"{where}: block_configs is {raw.get('block_configs')!r}: expected a list, one per layer")
    if raw.get("head_dim") is not None and (type(raw["head_dim"]) is not int or raw["head_dim"] < 1):
        raise FolderError(f"{where}: head_dim is {raw['head_dim']!r}: expected a positive integer, or none")
    try:
        config = DeciLMConfig.from_dict(dict(raw))
        describe(config)
    except _MALFORMED as error:
        raise FolderError(f"{where}: {error}") from None
    if type(config.rope_theta) not in (int, float):
        raise FolderError(f"{where}: rope_theta is {config.rope_theta!r}: expected a number")
    return config


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files that transformers would load; empty if there are none.

    Raises:
        FolderError: the index names a file that is missing or outside the folder, or one file lies beside shards.
    """
    folder = Path(folder)
    one, index = folder / "model.safetensors", _read_object(folder / "model.safetensors.index.json")
    if one.is_file():
        named = index.get("weight_map") if index is not None else None
        if isinstance(named, dict) and set(named.values()) != {one.name}:
            raise FolderError(
                f"{folder} has {one.name} and an index of other files, and engines differ in which they read: one is left "
                "over from an earlier save; delete it"
            )
        return [one]
    if index is None:
        return []
    weight_map, files = index.get("weight_map"), []
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FolderError(f"{folder}/model.safetensors.index.json: weight_map must name a file for every tensor")
    for name in sorted(set(weight_map.values())):
        try:
            path = artifacts.inside(folder, name)
        except artifacts.ArtifactError as error:
            raise FolderError(f"model.safetensors.index.json points outside the folder: {error}") from None
        if not path.is_file():
            raise FolderError(f"{folder} lacks {name}, which model.safetensors.index.json names: download it again")
        files.append(path)
    return files


def _shapes_in(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise FolderError(f"{path} is truncated or not safetensors: {error}") from None
    return shapes


# -- what a DeciLM config says


def tensor_shapes(config: DeciLMConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a child's tensors; `lm_head.weight` is among them also where it is tied."""
    d, query = config.hidden_size, config.num_attention_heads * config.head_dim
    qkv_bias = config.attention_bias or getattr(config, "qkv_bias", False)
    vocabulary = (config.vocab_size, d)
    shapes = {"model.embed_tokens.weight": vocabulary, "model.norm.weight": (d,), "lm_head.weight": vocabulary}
    for i, block in enumerate(describe(config)):
        maps = {}  # name: rows, columns, bias
        if block.attention == LINEAR:
            maps["self_attn.linear_attn"] = d, d, False
        elif block.attention != NONE:
            rows = {"q": query, "k": block.attention * config.head_dim, "v": block.attention * config.head_dim}
            maps = {f"self_attn.{x}_proj": (n, d, qkv_bias) for x, n in rows.items()}
            maps["self_attn.o_proj"] = d, query, config.attention_bias
        if block.attention != NONE:
            shapes[f"model.layers.{i}.input_layernorm.weight"] = (d,)
        if block.ffn == LINEAR:
            maps["mlp.linear_mlp"] = d, d, False
        elif block.ffn != NONE:
            maps |= {f"mlp.{x}_proj": (block.ffn, d, config.mlp_bias) for x in ("gate", "up")}
            maps["mlp.down_proj"] = d, block.ffn, config.mlp_bias
        if block.ffn != NONE:
            shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (d,)
        for name, (rows, columns, bias) in maps.items():
            shapes[f"model.layers.{i}.{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"model.layers.{i}.{name}.bias"] = (rows,)
    return shapes


def check_tensors(config: DeciLMConfig, shapes: Mapping[str, tuple[int, ...]], where: str | Path) -> None:
    """Raises FolderError for the first tensor that is missing, too many or of another shape than the config says."""
    expected = tensor_shapes(config)
    for name, shape in expected.items():
        if name not in shapes and not (name == "lm_head.weight" and config.tie_word_embeddings):
            raise FolderError(f"{where}: {_layer(name)}tensor {name} of shape {list(shape)} is missing")
        if name in shapes and tuple(shapes[name]) != shape:
            raise FolderError(
                f"{where}: {_layer(name)}tensor {name} has shape {list(shapes[name])}, the config says {list(shape)}"
            )
    for name in shapes:
        if name not in expected and not name.endswith("rotary_emb.inv_freq"):
            raise FolderError(f"{where}: {_layer(name)}tensor {name} has no place in the blocks of the config")


def _layer(name: str) -> str:
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return f"layer {match[1]}: " if match else ""


# -- DeciLM


def _check_decilm(folder: Path, raw: dict) -> list[Verdict]:
    if "block_configs" not in raw and "num_key_value_heads_per_layer" in raw:
        # another generation of the format, which nothing here reads
        reason = "DeciLM-7B's generation of the format: num_key_value_heads_per_layer"
        return [Verdict(e, OPENS if e in ("llama.cpp", "exllamav2") else NO, reason) for e in _engines()]
    config = decilm_config(raw, folder / "config.json")
    quantized = "quantization_config" in raw or (folder / "hf_quant_config.json").exists()
    files = weight_files(folder)
    if files and not quantized:
        check_tensors(config, _shapes_in(files), folder)
    blocks = describe(config)
    return [_decilm_verdict(engine, folder, raw, config, blocks) for engine in _engines()]


def _engines() -> list[str]:
    return [name for name, row in ENGINES.items() if row.rewritten]


def _decilm_verdict(engine: str, folder: Path, raw: dict, config: DeciLMConfig, blocks: list[Block]) -> Verdict:
    text, note = OPENS, "with trust_remote_code" if ENGINES[engine].remote_code else ""
    if engine in _TRANSFORMERS_ENGINES and "dynamic" in rope_kinds(config):
        # keys in the cache keep the angles of a shorter text
        note = f"{note}; RoPE 'dynamic' gives other logits with a cache than without in long texts, in any model there"
    if (sizes := ENGINES[engine].cpu_head_dims) is not None and config.head_dim not in sizes:
        note = f"{note}; not in its CPU build, whose attention has no head_dim {config.head_dim}"
    if ENGINES[engine].graphs:
        return _graphs_verdict(engine, config)
    if engine == "mlx-lm" and raw.get("auto_map"):
        note = "asks whether to run the folder's code, and needs none: an export has none"
    if engine == "llama.cpp":
        text, note = _llama_cpp_text(folder, config)
    exports, reason = _exports(engine, folder, raw, config, blocks)
    if text == NO:
        return Verdict(engine, NO, note)
    exports += [note] * (text == AFTER_EXPORT)
    if reason is None and not exports:
        return Verdict(engine, OPENS, note)
    if (stock := _stock(config, blocks)) is not None:
        why = "; ".join([*exports, *([reason] * (reason is not None))])
        return Verdict(engine, AFTER_EXPORT, f"as {stock}, for all layers are alike (as it is: {why})")
    # an export has rope_theta inside RoPE's scaling only
    if (reason := reason or refuses_model(engine, config)) is not None:
        return Verdict(engine, NO, reason)
    return Verdict(engine, AFTER_EXPORT, "; ".join(exports))


def _exports(
    engine: str, folder: Path, raw: dict, config: DeciLMConfig, blocks: list[Block]
) -> tuple[list[str], str | None]:
    """What an export as DeciLM changes for `engine`, and why there can be none, or None."""
    if reason := refuses_model(engine, config, "rope_theta" in raw):
        return [], reason
    changes, why_not = _block_changes(engine, blocks)
    if why_not is not None:
        return [], why_not
    if getattr(config, "qkv_bias", False) and not config.attention_bias and not ENGINES[engine].qkv_bias:
        changes.append("biases on q, k and v only (o_proj gets one of zeros)")
    changes += _whole_model(ENGINES[engine], config, blocks)
    return changes + _json_layout(engine, raw, config) + _remote_code(engine, folder, raw), None


def _block_changes(engine: str, blocks: list[Block]) -> tuple[list[str], str | None]:
    """What is rewritten, with layers, and the first block that has no rewrite, or None."""
    last, first = len(blocks), first_live(blocks)
    found: dict[str, list[int]] = {}
    for i, block in enumerate(blocks):
        place = 0 if i == first else i
        if reason := refuses(engine, place, last, *block):
            return [], f"layer {i} ({block.id}): {reason}"
        if reason := why_not_direct(engine, place, last, *block):
            found.setdefault(f"{reason} ({rewritten(engine, place, last, *block)})", []).append(i)
    exports = [f"layer{'s' * (len(layers) > 1)} {_some(layers)}: {text}" for text, layers in found.items()]
    return exports, None


def _stock(config: DeciLMConfig, blocks: list[Block]) -> str | None:
    """The stock architecture whose every layer is the one block of this child, if it is and engines agree on the rest."""
    units = [(kind, v) for block in blocks for kind, v in zip(("attention", "ffn"), block, strict=True) if v != NONE]
    alike = len(set(units[::2])) == len(set(units[1::2])) == 1 and len(units) % 2 == 0
    if not alike or units[0][0] != "attention" or units[1][0] != "ffn" or LINEAR in (units[0][1], units[1][1]):
        return None
    qkv_bias = getattr(config, "qkv_bias", False) and not config.attention_bias
    if config.hidden_act != "silu" or (qkv_bias and config.mlp_bias):
        return None
    if config.rope_parameters["rope_type"] not in ("default", "llama3"):
        return None
    return "Qwen2ForCausalLM" if qkv_bias else "LlamaForCausalLM"


def _some(layers: list[int]) -> str:
    shown = ", ".join(map(str, layers[:4]))
    return f"{shown} and {len(layers) - 4} more" if len(layers) > 4 else shown


def _whole_model(row: Engine, config: DeciLMConfig, blocks: list[Block]) -> list[str]:
    counts = sorted({block.attention for block in blocks if isinstance(block.attention, int)})
    if not counts and not row.attention_free_model:
        return ["no layer has attention (attention of zeros put in front)"]
    if row.kv_heads == "one" and len(counts) > 1:
        return [f"layers have {', '.join(map(str, counts))} KV heads (repeated up to {math.lcm(*counts)})"]
    if row.kv_heads == "all" and counts not in ([], [config.num_attention_heads]):
        wanted = config.num_attention_heads
        return [f"layers have {', '.join(map(str, counts))} KV heads (repeated up to all {wanted})"]
    return []


def _json_layout(engine: str, raw: dict, config: DeciLMConfig) -> list[str]:
    """What an engine that reads config.json by its own lights would misread, and our own layout has right."""
    row, found = ENGINES[engine], []
    if raw.get("model_type") != "nemotron-nas" and engine in ("vllm", "sglang", "mlx-lm"):
        found.append(f"model_type is {raw.get('model_type')!r}, not 'nemotron-nas'")
    scaled = config.rope_scaling is not None
    if engine == "mlx-lm" and scaled and "rope_theta" in raw:
        found.append("loading the tokenizer stops at a top-level rope_theta beside RoPE's scaling")
    if row.assumed_rope_theta is not None:
        if scaled and not raw.get("rope_scaling"):
            found.append("RoPE's scaling is in rope_parameters only, not in rope_scaling")
        if not scaled and "rope_theta" not in raw and config.rope_theta != row.assumed_rope_theta:
            found.append("rope_theta is not at the top level of config.json")
    for i, (block, parsed) in enumerate(zip(raw["block_configs"], config.block_configs, strict=True)):
        if engine == "llama.cpp":
            keys = {"attention": ("n_heads_in_group", "replace_with_linear"), "ffn": ("ffn_mult",)}
            absent = [f"{part}.{name}" for part, names in keys.items() for name in names if name not in block[part]]
            found += [f"layer {i}: {name} is absent" for name in absent]
            if i == 0 and isinstance(block["ffn"].get("ffn_mult"), int):
                found.append("layer 0: ffn_mult is an integer, not a float")
        if engine == "exllamav3" and (parsed.attention.sparsify or parsed.ffn.sparsify):
            found.append(f"layer {i}: sparsify is set")
    return found


def _remote_code(engine: str, folder: Path, raw: dict) -> list[str]:
    if not ENGINES[engine].remote_code:
        return []
    wanted = ["AutoConfig"]
    if engine in _TRANSFORMERS_ENGINES:
        wanted.append("AutoModelForDecision" if engine == "transformers-serve" else "AutoModelForCausalLM")
    for name in wanted:
        path = _code_file(folder, raw, name)
        if path is None:
            return [f"config.json has no auto_map.{name}"]
        if not path.is_file():
            return [f"{path.name}, which auto_map.{name} names, is not in the folder"]
        # the published code, of 2024
        if engine in _TRANSFORMERS_ENGINES and "transformers_4_44_2" in path.read_text(errors="replace"):
            return [f"{path.name} does not run on transformers 5"]
    return []


def _code_file(folder: Path, raw: dict, auto_class: str) -> Path | None:
    auto_map = raw.get("auto_map")
    reference = auto_map.get(auto_class) if isinstance(auto_map, dict) else None
    module = reference.split(".")[0] if isinstance(reference, str) else ""
    return folder / f"{module}.py" if module.isidentifier() else None


def _llama_cpp_text(folder: Path, config: DeciLMConfig) -> tuple[str, str]:
    """Whether llama.cpp's converter takes the tokenizer: its status, and what to say."""
    tokenizer = _read_object(folder / "tokenizer.json")
    stock = config.vocab_size == _LLAMA3_VOCABULARY
    if tokenizer is None:
        if stock:
            return OPENS, "convert_hf_to_gguf.py wants a tokenizer.json of Llama 3, which is not in the folder"
        return AFTER_EXPORT, f"its converter takes a vocabulary of {config.vocab_size} for Llama 2's"
    model = tokenizer.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "BPE":
        return NO, f"tokenizer.json is of type {kind!r}: only BPE is converted"
    if model.get("byte_fallback"):
        return AFTER_EXPORT, "its converter merges the tokens of a byte-fallback BPE in a wrong order"
    if not stock:
        return AFTER_EXPORT, f"its converter takes a vocabulary of {config.vocab_size} for Llama 2's"
    return OPENS, "convert_hf_to_gguf.py knows the tokenizer of Llama 3 by its hash, and no changed one"


# -- other folders


def _check_per_layer(folder: Path, raw: dict, architecture: str) -> list[Verdict]:
    where, num_layers = folder / "config.json", raw.get("num_hidden_layers")
    layers = raw["per_layer_config"]
    if not isinstance(layers, dict):
        raise FolderError(f"{where}: per_layer_config is {layers!r}: expected an object with a key per layer")
    for key, overrides in layers.items():
        if not key.isdecimal() or (isinstance(num_layers, int) and int(key) >= num_layers):
            raise FolderError(f"{where}: per_layer_config names layer {key!r}; the model has {num_layers} layers")
        if not isinstance(overrides, dict):
            raise FolderError(f"{where}: per_layer_config[{key}] is {overrides!r}: expected an object")
        skip = overrides.get("skip", [])
        if not isinstance(skip, list) or any(word not in ("attention", "mlp") for word in skip):
            raise FolderError(f"{where}: per_layer_config[{key}].skip is {skip!r}: expected 'attention' and 'mlp'")
    if not re.fullmatch(r"Puzzle\w+ForCausalLM", architecture):
        reason = f"{architecture} has no code for per_layer_config: stock classes ignore `skip`"
        return [Verdict(engine, NO, reason) for engine in _engines()]
    config = _config_of(folder)
    return [_per_layer_verdict(engine, folder, raw, layers, config) for engine in _engines()]


def _per_layer_verdict(
    engine: str, folder: Path, raw: dict, layers: dict[str, dict], config: PretrainedConfig | None
) -> Verdict:
    reads_it = ENGINES[engine].graphs or "per_layer" in ENGINES[engine].formats
    if reads_it and config is not None and (reason := _refused_block(engine, config)) is not None:
        return Verdict(engine, NO, reason)
    if ENGINES[engine].graphs:
        return _graphs_verdict(engine, config)
    if ENGINES[engine].per_layer_families is not None:
        return _in_transformers_backend(engine, folder, raw, config)
    if "per_layer" not in ENGINES[engine].formats:
        return _uniform_verdict(engine, config) or _as_decilm_verdict(engine, folder, raw)
    wanted = "AutoModelForDecision" if engine == "transformers-serve" else "AutoModelForCausalLM"
    path = _code_file(folder, raw, wanted)
    if path is None or not path.is_file():
        return Verdict(engine, NO, f"config.json has no auto_map.{wanted}, or its file is not in the folder")
    if engine == "continuous-batching":
        for key, overrides in sorted(layers.items(), key=lambda item: int(item[0])):
            if "num_key_value_heads" in overrides:
                return Verdict(engine, NO, f"layer {key}: other KV heads than the paged cache, which has one count")
    return Verdict(engine, OPENS, "with trust_remote_code")


def _refused_block(engine: str, config: PretrainedConfig) -> str | None:
    """The first block that an engine does not run, whatever is exported, with its layer; None if there is none."""
    for i, block in enumerate(describe(config)):
        if reason := next((r.refusal for r in block.rows if r.engines is not None and engine not in r.engines), None):
            return f"layer {i} ({block.id}): {reason}"
    return None


def _uniform_verdict(engine: str, config: PretrainedConfig | None) -> Verdict | None:
    """Of a child whose layers are all alike, but for dummies: an export writes the stock architecture."""
    live = set() if config is None else {block for block in describe(config) if block != Block(NONE, NONE)}
    if len(live) != 1 or not is_stock(next(iter(live))):
        return None
    stock = stock_of(config).architectures[0]
    reason = f"as {stock}, for all layers are alike"
    if stock not in _EVERYWHERE:
        reason += f", where {engine} itself has it"
        if engine == "llama.cpp":
            reason += " (--as-folder, for its own converter)"
    return Verdict(engine, AFTER_EXPORT, reason)


def _in_transformers_backend(engine: str, folder: Path, raw: dict, config: PretrainedConfig | None) -> Verdict:
    """What vLLM says to a per-layer folder, which it runs by the folder's own code."""
    if (verdict := _uniform_verdict(engine, config)) is not None:
        return verdict
    if config is None:
        return Verdict(engine, NO, "config.json is none that transformers reads")
    if (reason := _refused_block(engine, config)) is not None:
        return Verdict(engine, NO, reason)
    blocks = describe(config)
    if (reason := refuses_family(engine, config)) is not None:
        return Verdict(engine, NO, f"reads per_layer_config by its Transformers backend; {reason}")
    path = _code_file(folder, raw, "AutoModelForCausalLM")
    absent = path is None or not path.is_file()
    changes = [f"layer {i}: {text}" for i, block in enumerate(blocks) if (text := per_layer.needs(block))]
    if (changes or absent) and config.model_type in DECILM_FAMILIES:
        return _as_decilm_verdict(engine, folder, raw)
    if absent:
        changes.append("config.json has no auto_map.AutoModelForCausalLM, or its file is not in the folder")
    how = "with trust_remote_code, through its Transformers backend"
    return Verdict(engine, AFTER_EXPORT if changes else OPENS, "; ".join([*changes, how]))


def _as_decilm_verdict(engine: str, folder: Path, raw: dict) -> Verdict:
    """What an engine of the other format says to this child once `hf-puzzle export` has written it so."""
    reason = "reads no per_layer_config"
    if str(raw.get("model_type")) not in DECILM_FAMILIES:
        return Verdict(engine, NO, reason)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = as_decilm(stock_of(config), describe(config))
    except (*_MALFORMED, RuntimeError) as error:
        return Verdict(engine, NO, f"{reason}; as DeciLM: {error}")
    row, blocks = ENGINES[engine], describe(config)
    if stock := _stock(config, blocks):
        return Verdict(engine, AFTER_EXPORT, f"as {stock}, for all layers are alike")
    if reason := refuses_model(engine, config):
        return Verdict(engine, NO, reason)
    changes, why_not = _block_changes(engine, blocks)
    if why_not is not None:
        return Verdict(engine, NO, why_not)
    text, note = _llama_cpp_text(folder, config) if engine == "llama.cpp" else (OPENS, "")
    if text == NO:
        return Verdict(engine, NO, note)
    return Verdict(
        engine, AFTER_EXPORT, "; ".join(["written as DeciLM", *changes, *_whole_model(row, config, blocks)])
    )


def _graphs_verdict(engine: str, config: PretrainedConfig | None) -> Verdict:
    if config is None:
        return Verdict(engine, NO, "config.json is none that transformers reads")
    known = ENGINES[engine].ropes
    if wrong := next((kind for kind in rope_kinds(config) if known is not None and kind not in known), None):
        return Verdict(engine, NO, f"a graph keeps the angles of RoPE {wrong!r} that it was made with")
    return Verdict(engine, AFTER_EXPORT, "; ".join(filter(None, [GRAPHS, _GRAPH_NOTES.get(engine)])))


def _check_plain(folder: Path, raw: dict, architecture: str) -> list[Verdict]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        reason = f"{architecture or 'a model without architectures'} is no causal LM of transformers or hf_puzzle"
        return [Verdict(engine, NO, reason) for engine in _engines()]
    config = _config_of(folder)
    return [_plain_verdict(engine, raw, architecture, config) for engine in _engines()]


def _plain_verdict(engine: str, raw: dict, architecture: str, config: PretrainedConfig | None) -> Verdict:
    if ENGINES[engine].graphs:
        return _graphs_verdict(engine, config)
    note = (
        ""
        if architecture in _EVERYWHERE or engine in _TRANSFORMERS_ENGINES
        else f"where {engine} itself has {architecture}"
    )
    known = ENGINES[engine].rope_parameters
    if known is not None and architecture not in known and raw.get("rope_parameters") and "rope_theta" not in raw:
        reason = f"rope_theta is in rope_parameters only, where {engine}'s {architecture} does not look"
        return Verdict(engine, AFTER_EXPORT, "; ".join(filter(None, [reason, note])))
    return Verdict(engine, OPENS, note)
