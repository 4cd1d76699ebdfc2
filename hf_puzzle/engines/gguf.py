"""GGUF files for llama.cpp, written straight from a Hugging Face folder or model, with no limits on the vocabulary.

DeciLM becomes llama.cpp's `deci`, with heads, KV heads and FFN width per layer; Llama, Mistral and Qwen2 stay what they
are. What llama.cpp would run wrong, often without an error, is refused before anything is written.
"""

import contextlib
import json
import logging
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import pre_tokenizers
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from .. import artifacts
from ..blocks import LINEAR, NONE, WEIGHT_TYPES, Block, weight_type
from ..formats import describe, head_is_tied
from ..progress import bar
from ..remote.configuration_decilm import DeciLMConfig
from .check import weight_files
from .llama_library import EXTRA, quantize
from .weight_types import rounded_rows


logger = logging.getLogger(__name__)

TYPES_FILE = "tensor_types.txt"  # as `llama-quantize --tensor-type-file` reads it
CACHE_KEY = "puzzle.cache_type"  # of a file whose child was made for such keys and values; engines do not read it
OutType = Literal["f32", "f16", "bf16", "q8_0", "q4_k_m", "q5_k_m", "q6_k"]
# numbers that share a scale: a row must be a multiple of it
BLOCK_SIZES = {"q8_0": 32, "q4_0": 32, "q4_k_m": 256, "q5_k_m": 256, "q6_k": 256}
# made by llama.cpp itself, of a float32 file
QUANTIZED_BY_LLAMA_CPP = ("q4_k_m", "q5_k_m", "q6_k")
REWRITE = "run `hf-puzzle export DIR --target llama.cpp`, which rewrites it exactly"

# model_type -> config class, GGUF architecture, whether that architecture rotates neighbouring rows of q and k
ARCHITECTURES = {
    "nemotron-nas": (DeciLMConfig, "deci", True),
    "llama": (LlamaConfig, "llama", True),
    "mistral": (MistralConfig, "llama", True),
    "qwen2": (Qwen2Config, "qwen2", False),
}

_GPT2 = "gpt-2"
_DIGITS = "digits"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_TAIL = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+" + _TAIL
_QWEN2 = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + _TAIL
_QWEN35 = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + _TAIL
# how a byte-level tokenizer cuts text into words, and its ignore_merges -> tokenizer.ggml.pre, which implies both
PRE_TOKENIZERS = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
}


class NotExpressible(ValueError):
    """GGUF, or llama.cpp reading it, has no way to say this; the message names it and the way out."""


def _gguf() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise ImportError(f"writing GGUF needs the package gguf: {EXTRA}") from None
    return gguf


def write_gguf(folder: str | Path, out: str | Path, outtype: OutType = "f16", vocabulary: bool = True) -> Path:
    """Write the model of a Hugging Face folder (DeciLM, Llama, Mistral, Qwen2) to `out`, one tensor in memory at a time.

    Args:
        outtype: of the matrices; norms and biases are always float32. q4_k_m and q5_k_m are llama.cpp's mixtures, in
            which some matrices have more bits; they, and q6_k, are quantised by llama.cpp.
        vocabulary: False writes no tokenizer: such a file takes and gives token ids only.

    Tensors that the folder's `tensor_types.txt` names get the types that it says; a cache type in its `puzzle.json` becomes
    the file's `puzzle.cache_type`, by which `hf-puzzle serve` sets the server's flags.

    Raises:
        NotExpressible: the architecture, a layer, the tokenizer, or a matrix whose rows are no multiple of the type's
            block; nothing has been written then.
        ImportError: the package gguf, or llama-cpp-python for the types that it makes, is missing.
    """
    folder = Path(folder)
    config = _read_config(folder)
    with contextlib.ExitStack() as stack:
        weights = _folder_weights(folder, stack)
        words = _vocabulary(folder, config) if vocabulary else None
        return _write(Path(out), config, weights, outtype, words, read_types(folder), _cache_type(folder))


def write_model_gguf(
    model: PreTrainedModel, out: str | Path, outtype: OutType = "f16", types: dict[str, str] | None = None
) -> Path:
    """As `write_gguf`, from a model in memory and without a vocabulary; `types` as of `tensor_types`."""
    if model.config.model_type not in ARCHITECTURES:
        raise NotExpressible(_unknown_type(model.config.model_type))
    weights = {n: Weight(tuple(t.shape), t.detach) for n, t in model.state_dict().items()}
    return _write(Path(out), model.config, weights, outtype, None, types or {})


def tensor_types(blocks: Sequence[Block]) -> dict[str, str]:
    """GGUF type of every tensor for which a child's blocks name one of llama.cpp's number formats, by tensor."""
    types, plain = {}, [block.plain for block in blocks]
    for theirs, _ in _names(plain, tied=True):
        match = re.fullmatch(r"blk\.(\d+)\.(attn|ffn)_(?!norm)\w+", theirs)
        if match:
            block = blocks[int(match[1])]
            name = weight_type(block.attention if match[2] == "attn" else block.ffn)
            if name in WEIGHT_TYPES["llama.cpp"]:
                types[f"{theirs}.weight"] = name
    return types


def rounded_tensors(
    config: PreTrainedConfig, state: dict[str, torch.Tensor], types: dict[str, str]
) -> dict[str, torch.Tensor]:
    """A state dict with what is left of its tensors in these types."""
    sources = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in _names(describe(config), tied=True)}
    kept = {sources[name]: rounded_rows(state[sources[name]], kind) for name, kind in types.items()}
    return {**state, **kept}


def write_types(folder: str | Path, types: dict[str, str]) -> None:
    """`tensor_types.txt` of a model folder; nothing where `types` are none."""
    if types:
        lines = "".join(f"{re.escape(name)}={kind}\n" for name, kind in types.items())
        artifacts.write_text(Path(folder) / TYPES_FILE, lines)


def read_types(folder: str | Path) -> dict[str, str]:
    """What `write_types` wrote; nothing where there is no such file.

    Raises:
        ArtifactError: a line that names no tensor, or no type that is written here.
    """
    path, types = Path(folder) / TYPES_FILE, {}
    if not path.exists():
        return types
    for line in path.read_text(encoding="utf-8").split():
        name, _, kind = line.partition("=")
        name = name.replace("\\.", ".")
        if not re.fullmatch(r"blk\.\d+\.\w+\.weight", name) or kind not in WEIGHT_TYPES["llama.cpp"]:
            known = ", ".join(WEIGHT_TYPES["llama.cpp"])
            raise artifacts.ArtifactError(
                f"{path}: {line[:80]!r} is not `blk\\.0\\.attn_q\\.weight=` and one of {known}"
            )
        types[name] = kind
    return types


def _cache_type(folder: Path) -> str | None:
    """What a child's keys and values were scored in; ArtifactError for a type that llama.cpp has not."""
    path = folder / "puzzle.json"
    name = artifacts.read_json(path).get("cache_type") if path.exists() else None
    if name is not None and name not in (known := [*WEIGHT_TYPES["llama.cpp"]]):
        raise artifacts.ArtifactError(f"{path}: cache_type {str(name)[:40]!r} is none of {', '.join(known)}")
    return name


def read_cache_type(path: str | Path) -> str | None:
    """The cache type that a GGUF file was written with; None where it names none that is known here."""
    try:
        field = _gguf().GGUFReader(path).fields.get(CACHE_KEY)
    except (ValueError, IndexError):  # no GGUF file: whoever opens it says so
        return None
    name = None if field is None else field.contents()
    return name if name in WEIGHT_TYPES["llama.cpp"] else None


def _unknown_type(model_type: str | None) -> str:
    return f"model_type {model_type!r} cannot be written as GGUF here; known: {', '.join(ARCHITECTURES)}"


def _read_config(folder: Path) -> PreTrainedConfig:
    raw = artifacts.read_json(folder / "config.json")
    if raw.get("model_type") not in ARCHITECTURES:
        raise NotExpressible(_unknown_type(raw.get("model_type")))
    for layer_idx, block in enumerate(raw.get("block_configs") or ()):
        if block["attention"].get("window_length") is not None:
            raise NotExpressible(_windowed(layer_idx))
    return ARCHITECTURES[raw["model_type"]][0].from_dict(raw)


def _windowed(layer_idx: int) -> str:
    return (
        f"layer {layer_idx} has a sliding window, which llama.cpp ignores: search without windows, or deploy elsewhere"
    )


class Weight(NamedTuple):
    """A tensor of the source that is not loaded yet."""

    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


def _folder_weights(folder: Path, stack: contextlib.ExitStack) -> dict[str, Weight]:
    files = weight_files(folder)
    if not files:
        raise artifacts.ArtifactError(f"{folder}/model.safetensors is missing: save the model with save_pretrained")
    weights = {}
    for file in files:
        handle = stack.enter_context(safe_open(file, framework="pt"))
        for name in handle.keys():  # noqa: SIM118 (not a dict)
            weights[name] = Weight(tuple(handle.get_slice(name).get_shape()), partial(handle.get_tensor, name))
    return weights


def _check(config: PreTrainedConfig, layers: list[Block]) -> None:
    """Raises NotExpressible for what llama.cpp cannot load, or loads and computes something else from."""
    if config.hidden_act != "silu":
        raise NotExpressible(
            f"hidden_act is {config.hidden_act!r}: llama.cpp computes silu in this architecture whatever the file says; "
            "deploy on another engine"
        )
    rope = config.rope_parameters
    if rope["rope_type"] not in ("default", "llama3") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise NotExpressible(f"RoPE {rope}: this writer knows the full rotation, unscaled or scaled as llama3")
    if config.model_type == "nemotron-nas" and config.head_dim * config.num_attention_heads != config.hidden_size:
        raise NotExpressible(
            f"head_dim {config.head_dim} is not hidden_size / num_attention_heads = "
            f"{config.hidden_size}/{config.num_attention_heads}: llama.cpp does not load such a DeciLM; "
            "deploy on vLLM or transformers"
        )
    windows = [kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()]
    if config.model_type == "mistral":
        windows = [config.sliding_window is not None]
    if any(windows):
        raise NotExpressible(_windowed(windows.index(True)))
    for layer_idx, (attention, ffn) in enumerate(layers):
        why = None
        if layer_idx == 0 and attention == NONE:
            why = "has no attention: llama.cpp takes the sizes of all heads from layer 0 and does not load the file"
        elif ffn == LINEAR:
            why = "has a linear FFN, which llama.cpp does not know"
        elif ffn == NONE and attention != NONE:
            why = "has no FFN behind its attention: llama.cpp throws the attention's output away"
        elif layer_idx == len(layers) - 1 and ffn == NONE:
            why = "is the last and has no FFN: llama.cpp aborts"
        if why:
            raise NotExpressible(f"layer {layer_idx} {why}; {REWRITE}")
    if not any(isinstance(attention, int) for attention, _ in layers):
        raise NotExpressible("no layer has attention: llama.cpp cannot make an empty KV cache; keep one attention")


def _rope_freqs(config: PreTrainedConfig) -> np.ndarray | None:
    """By what llama.cpp divides the angles of the unscaled RoPE; None where they are used as they are."""
    if config.rope_parameters["rope_type"] == "default":
        return None
    scaled = LlamaRotaryEmbedding(config).inv_freq.double()
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    return (config.rope_parameters["rope_theta"] ** -exponents / scaled).float().numpy()


def _names(layers: list[Block], tied: bool) -> Iterator[tuple[str, str]]:
    """(GGUF, source) names without .weight or .bias."""
    yield "token_embd", "model.embed_tokens"
    for i, (attention, ffn) in enumerate(layers):
        ours, theirs = f"model.layers.{i}", f"blk.{i}"
        if attention != NONE:
            yield f"{theirs}.attn_norm", f"{ours}.input_layernorm"
        if attention == LINEAR:
            yield f"{theirs}.attn_output", f"{ours}.self_attn.linear_attn"
        elif attention != NONE:
            for letter in "qkv":
                yield f"{theirs}.attn_{letter}", f"{ours}.self_attn.{letter}_proj"
            yield f"{theirs}.attn_output", f"{ours}.self_attn.o_proj"
        if ffn != NONE:
            yield f"{theirs}.ffn_norm", f"{ours}.post_attention_layernorm"
            for part in ("gate", "up", "down"):
                yield f"{theirs}.ffn_{part}", f"{ours}.mlp.{part}_proj"
    yield "output_norm", "model.norm"
    if not tied:
        yield "output", "lm_head"


def _paired(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of q or k, or their bias, in the order of a RoPE that turns rows 2j and 2j + 1 instead of j and j + half."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _in_halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """The inverse of `_paired`."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def read_gguf(file: str | Path, config: PreTrainedConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors of a file as `write_gguf` makes it, dequantised to `dtype`, named as in a state dict of `config`.

    As in llama.cpp, the token embeddings are the head where the file has no other.
    """
    gguf = _gguf()
    layers, (_, _, paired) = describe(config), ARCHITECTURES[config.model_type]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names, state = dict(_names(layers, tied=False)), {}
    for tensor in gguf.GGUFReader(file).tensors:
        theirs, _, part = tensor.name.rpartition(".")
        if theirs == "rope_freqs":
            continue
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if paired and theirs.endswith((".attn_q", ".attn_k")):
            values = _in_halves(values, head_dim)
        state[f"{names[theirs]}.{part}"] = torch.from_numpy(np.array(values, dtype=np.float32)).to(dtype)
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    return state


def _plan(weights: dict[str, Weight], layers: list[Block], tied: bool, arch: str) -> dict[str, str]:
    """GGUF name -> source name of every tensor; an error for one that is missing or would be left over."""
    plan = {}
    for theirs, ours in _names(layers, tied):
        if f"{ours}.weight" not in weights:
            raise artifacts.ArtifactError(f"the model has no tensor {ours}.weight, which its config.json asks for")
        parts = ("weight",) if theirs == "output" else ("weight", "bias")  # these architectures have no bias there
        plan |= {f"{theirs}.{part}": f"{ours}.{part}" for part in parts if f"{ours}.{part}" in weights}
    unknown = set(weights) - set(plan.values()) - ({"lm_head.weight"} if tied else set())  # then it is a copy
    if unknown := sorted(name for name in unknown if not name.endswith("rotary_emb.inv_freq")):
        raise NotExpressible(f"GGUF's {arch!r} has no place for the tensors {', '.join(unknown[:5])}")
    return plan


def _check_types(plan: dict[str, str], outtype: OutType, types: dict[str, str]) -> None:
    """Raises NotExpressible for types of tensors that are not there, or that somebody else would choose."""
    if strange := sorted(set(types) - set(plan)):
        raise NotExpressible(
            f"{TYPES_FILE} names {strange[0]}, which this model does not have ({len(strange)} such tensors): it was made "
            "for other layers"
        )
    if types and outtype in QUANTIZED_BY_LLAMA_CPP:
        raise NotExpressible(
            f"{outtype} lets llama.cpp choose the types of tensors, and {len(types)} of them have one: use f16, bf16 or q8_0"
        )


def _check_blocks(shapes: dict[str, tuple[int, ...]], outtype: OutType, types: dict[str, str]) -> None:
    """Raises NotExpressible for a matrix that llama.cpp would write in another type, without a word.

    Args:
        types: of those that do not have `outtype`.
    """
    size = BLOCK_SIZES.get(outtype, 1)
    wrong = {
        name: shape[-1]
        for name, shape in shapes.items()
        if len(shape) > 1 and shape[-1] % BLOCK_SIZES.get(types.get(name), size)
    }
    if not wrong:
        return
    rows = set(wrong.values())
    fitting = [n for n, other in BLOCK_SIZES.items() if n in get_args(OutType) and not any(r % other for r in rows)]
    raise NotExpressible(
        f"{next(iter(wrong))} has rows of {next(iter(wrong.values()))}, no multiple of the {size} numbers of a block of "
        f"{outtype} ({len(wrong)} such matrices); use {', '.join([*fitting, 'f16'])}"
    )


def _quantized_by_llama_cpp(source: Path, out: Path, outtype: OutType) -> None:
    quantize(source, out, outtype)
    gguf = _gguf()
    found = {tensor.tensor_type for tensor in gguf.GGUFReader(out).tensors if len(tensor.shape) > 1}
    allowed = {gguf.GGMLQuantizationType[name] for name in ("Q4_K", "Q5_K", "Q6_K")}
    if strange := sorted(kind.name for kind in found - allowed):
        raise NotExpressible(
            f"llama.cpp wrote matrices as {', '.join(strange)} where {outtype} was asked for; use q8_0"
        )


def _write(
    out: Path,
    config: PreTrainedConfig,
    weights: dict[str, Weight],
    outtype: OutType,
    vocabulary: dict | None,
    overrides: dict[str, str],
    cache_type: str | None = None,
) -> Path:
    if outtype not in get_args(OutType):
        raise ValueError(f"outtype {outtype!r}: expected one of {', '.join(get_args(OutType))}")
    gguf = _gguf()
    layers = describe(config)
    _check(config, layers)
    _, arch, paired = ARCHITECTURES[config.model_type]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    plan = _plan(weights, layers, head_is_tied(config, weights, lambda name: weights[name].load()), arch)
    _check_types(plan, outtype, overrides)
    named = {plan[theirs]: kind for theirs, kind in overrides.items()}
    _check_blocks({name: weights[name].shape for name in plan.values()}, outtype, named)
    if outtype in QUANTIZED_BY_LLAMA_CPP:
        with artifacts.replacing(out) as temporary, tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            exact = _write(Path(scratch) / "f32.gguf", config, weights, "f32", vocabulary, {}, cache_type)
            _quantized_by_llama_cpp(exact, temporary, outtype)
        return out
    if (freqs := _rope_freqs(config)) is not None:
        weights = {**weights, "rope_freqs": Weight(freqs.shape, partial(torch.from_numpy, freqs))}
        plan = {"rope_freqs.weight": "rope_freqs", **plan}

    with (
        artifacts.replacing(out) as temporary,
        contextlib.closing(gguf.GGUFWriter(temporary, arch)) as writer,
    ):
        _add_sizes(writer, config, layers, head_dim)
        writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(outtype, f"MOSTLY_{outtype.upper()}")])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_vocabulary(writer, vocabulary)
        if cache_type is not None:
            writer.add_string(CACHE_KEY, cache_type)
        types = {}
        for theirs, ours in plan.items():
            shape = weights[ours].shape
            name = overrides.get(theirs, outtype) if len(shape) > 1 else "f32"
            types[theirs] = gguf.GGMLQuantizationType[name.upper()]
            in_bytes = gguf.quant_shape_to_byte_shape(shape, types[theirs])
            writer.add_tensor_info(theirs, in_bytes, np.dtype(np.uint8), math.prod(in_bytes), types[theirs])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for theirs, ours in bar(plan.items(), desc="write GGUF"):
            values = weights[ours].load().float().cpu().numpy()
            if paired and (".attn_q." in theirs or ".attn_k." in theirs):
                values = _paired(values, head_dim)
            if types[theirs] == gguf.GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > 65504:
                raise NotExpressible(f"{ours} has values beyond float16's range: use outtype='bf16'")
            writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(values), types[theirs]))
    return out


def _add_sizes(writer, config: PreTrainedConfig, layers: list[Block], head_dim: int) -> None:
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(layers))
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if config.model_type == "nemotron-nas":
        writer.add_head_count([0 if b.attention == NONE else heads for b in layers])
        writer.add_head_count_kv([b.attention if isinstance(b.attention, int) else 0 for b in layers])
        writer.add_feed_forward_length([0 if b.ffn == NONE else b.ffn for b in layers])
        return
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def _add_vocabulary(writer, vocabulary: dict | None) -> None:
    if vocabulary is None:
        writer.add_tokenizer_model("no_vocab")
        return
    for key, value in vocabulary.items():
        if value is not None:
            getattr(writer, f"add_{key}")(value)


def _vocabulary(folder: Path, config: PreTrainedConfig) -> dict:
    """What GGUF says of a tokenizer, as arguments of GGUFWriter's `add_...`; NotExpressible names what it cannot say."""
    if not (folder / "tokenizer.json").exists():
        raise NotExpressible(
            f"{folder} has no tokenizer.json: save the tokenizer into it with save_pretrained, or write the file with "
            "vocabulary=False"
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = spec["model"], spec["added_tokens"]
    if model["type"] != "BPE":
        raise _inexpressible(f"a tokenizer of type {model['type']}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _inexpressible(f"a BPE with {key}={model[key]!r}")
    for token in added:
        if flags := [key for key in ("lstrip", "rstrip", "single_word") if token[key]]:
            raise _inexpressible(f"the added token {token['content']!r} with {flags[0]}")

    ids = model["vocab"] | {token["content"]: token["id"] for token in added}
    if len(set(ids.values())) < len(ids) or max(ids.values()) >= config.vocab_size:
        raise _inexpressible(f"{len(ids)} tokens up to id {max(ids.values())} for vocab_size={config.vocab_size}")
    types = _gguf().TokenType
    tokens = {i: (f"[PAD{i}]", types.UNUSED) for i in range(config.vocab_size)}
    tokens |= {i: (text, types.NORMAL) for text, i in ids.items()}
    tokens |= {t["id"]: (t["content"], types.CONTROL if t["special"] else types.USER_DEFINED) for t in added}

    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    steps = _steps(spec["pre_tokenizer"])
    if any(step["type"] == "ByteLevel" for step in steps):
        kind = _byte_level(model, merges, spec["normalizer"], steps)
    elif model["byte_fallback"]:
        kind = _byte_fallback(model, merges, spec["normalizer"], steps, tokens)
    else:
        raise _inexpressible("a BPE that is neither byte-level nor has byte_fallback")
    texts, kinds = zip(*tokens.values(), strict=True)
    return {**kind, "token_list": texts, "token_types": kinds, **_special_ids(folder, config, tokenizer)}


def _inexpressible(what: str) -> NotExpressible:
    return NotExpressible(
        f"GGUF cannot express this tokenizer: {what}. vocabulary=False writes the weights alone, "
        "for a caller that tokenizes with transformers"
    )


def _steps(spec: dict | None) -> list[dict]:
    """The steps of a normalizer or pre-tokenizer, sequences taken apart."""
    if spec is None:
        return []
    parts = spec.get("pretokenizers", spec.get("normalizers"))
    return [spec] if parts is None else [step for part in parts for step in _steps(part)]


def _byte_level(model: dict, merges: list[tuple[str, str]], normalizer: dict | None, steps: list[dict]) -> dict:
    cuts = []
    for step in steps:
        if step["type"] == "ByteLevel" and not step["add_prefix_space"] and step is steps[-1]:
            cuts += [_GPT2] if step["use_regex"] else []
        elif step["type"] == "Split" and "Regex" in step["pattern"]:
            if step["behavior"] != "Isolated" or step["invert"]:
                raise _inexpressible(f"the pre-tokenizer step {step}")
            cuts.append(step["pattern"]["Regex"])
        elif step["type"] == "Digits" and step["individual_digits"]:
            cuts.append(_DIGITS)
        else:
            raise _inexpressible(f"the pre-tokenizer step {step}")
    pre = PRE_TOKENIZERS.get((tuple(cuts), bool(model.get("ignore_merges"))))
    if pre is None:
        raise _inexpressible(
            f"words cut by {cuts} with ignore_merges={bool(model.get('ignore_merges'))}; known are "
            f"{', '.join(PRE_TOKENIZERS.values())}"
        )
    if [step["type"] for step in _steps(normalizer)] == ["NFC"]:
        logger.warning("the tokenizer composes Unicode (NFC), llama.cpp does not: decomposed text gets other tokens")
    elif normalizer is not None:
        raise _inexpressible(f"the normalizer {normalizer}")
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    if (model["unk_token"] or model["byte_fallback"]) and not alphabet <= set(model["vocab"]):
        raise _inexpressible(f"bytes without a token ({len(alphabet - set(model['vocab']))}) beside an unknown token")
    if not merges:
        raise _inexpressible("a BPE without merges")
    return {"tokenizer_model": "gpt2", "tokenizer_pre": pre, "token_merges": [" ".join(pair) for pair in merges]}


def _byte_fallback(
    model: dict, merges: list[tuple[str, str]], normalizer: dict | None, steps: list[dict], tokens: dict
) -> dict:
    prefix = escapes = False
    for step in _steps(normalizer) + steps:
        if step["type"] == "Prepend" and step["prepend"] == "▁" and not escapes:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == "▁":
            escapes = True
        elif step["type"] == "Metaspace" and step["replacement"] == "▁" and not escapes:
            escapes, prefix = True, step["prepend_scheme"] != "never"
            if step["split"] and any("▁" in left[1:] + right for left, right in merges):
                raise _inexpressible("words cut at ▁, but tokens that have one inside")
            if prefix:
                logger.warning(
                    "in front of text that starts with a space llama.cpp puts another, as SentencePiece does; "
                    "this tokenizer.json does not"
                )
        else:
            raise _inexpressible(f"the step {step} of a byte-fallback BPE")
    types = _gguf().TokenType
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if not escapes or model.get("ignore_merges") or any(name not in model["vocab"] for name in names):
        raise _inexpressible("a byte-fallback BPE that keeps spaces, ignores merges or lacks some of <0x00> to <0xFF>")
    for name in names:
        tokens[model["vocab"][name]] = (name, types.BYTE)
    unknown = model["vocab"].get(model["unk_token"])
    if unknown is not None:
        tokens[unknown] = (model["unk_token"], types.UNKNOWN)
    # llama.cpp merges the pair whose result scores best: the rank of the merge, and never a word no merge makes
    ranks = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, -float(rank))
    scores = [
        ranks.get(text, -1e9 if kind == types.NORMAL and len(text) > 1 else 0.0) for text, kind in tokens.values()
    ]
    return {
        "tokenizer_model": "llama",
        "tokenizer_pre": "default",
        "token_scores": scores,
        "add_space_prefix": prefix,
        "unk_token_id": unknown,
    }


def _special_ids(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> dict:
    generation = folder / "generation_config.json"
    generation = artifacts.read_json(generation) if generation.exists() else {}
    ends = []
    for source in (tokenizer.eos_token_id, generation.get("eos_token_id"), config.eos_token_id):
        ends += source if isinstance(source, list) else [source]
    ends = [end for end in dict.fromkeys(ends) if end is not None]
    if not ends:
        raise _inexpressible("no end-of-sequence token, where llama.cpp would stop at token 11; set eos_token")

    encoding = tokenizer.backend_tokenizer.encode("a")
    inside = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    start, end = encoding.ids[: inside[0]], encoding.ids[inside[-1] + 1 :]
    begin = next((b for b in (*start, tokenizer.bos_token_id, config.bos_token_id) if b is not None), ends[0])
    if start not in ([], [begin]) or end not in ([], ends[:1]):
        raise _inexpressible(f"tokens {start} in front of every text and {end} behind it")
    return {
        "bos_token_id": begin,
        "eos_token_id": ends[0],
        # further ends of a turn; llama.cpp stops at these two as well, and at more that it knows by name
        "eot_token_id": ends[1] if len(ends) > 1 else None,
        "eom_token_id": ends[2] if len(ends) > 2 else None,
        "pad_token_id": config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        "add_bos_token": bool(start),
        "add_eos_token": bool(end),
        "chat_template": _chat_template(tokenizer),
    }


def _chat_template(tokenizer: PreTrainedTokenizerFast) -> str | list[dict] | None:
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        return [{"name": name, "template": text} for name, text in templates.items()]
    return templates
