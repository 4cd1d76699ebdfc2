"""What each deployment engine runs correctly of a child: a constraint of the search, not a surprise after it.

One row per engine, measured (`measured.json` says with which versions) or read off its sources. Linear blocks, missing
sub-blocks and mixed KV-head counts each break some of them, a few silently; where `rewrites` re-cuts the layers exactly,
a block may stay. Variants that few engines run say so themselves (`blocks.Row.engines`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..blocks import LINEAR, NONE, WEIGHT_TYPES, Block, Variant, kv_heads, plain, weight_type
from ..recipe import RecipeError, did_you_mean


@dataclass(frozen=True)
class Engine:
    """What an engine runs as it is; block kinds and settings are those of the DeciLM format unless said otherwise.

    Attributes:
        formats: folders it opens: `decilm`, `per_layer`, `plain` (a stock architecture).
        per_layer_families: model types of per-layer folders that it runs right; None for all of them.
        graphs: runs no model folder, but a graph that an export makes of any.
        dummy_layers: layers with neither attention nor FFN; `dummy_first_layer`: layer 0 too, where the first other
            layer has attention.
        linear_first_layer: layer 0 may have a linear map for attention; only where `linear_attention`.
        attention_free_model: not one layer needs attention.
        kv_heads: `any` counts, `one` for all layers, or `all`: as many as query heads.
        wide_head_dim: head_dim other than hidden_size / num_attention_heads.
        qkv_bias: biases on q, k and v only; `attention_bias`: on o too.
        any_activation: others than silu.
        ropes: kinds of RoPE it computes as transformers does; None for all of them.
        assumed_rope_theta: what it takes where config.json has rope_theta inside the scaling only, as DeciLMConfig
            writes it; None if it looks there.
        rope_parameters: stock architectures of which it reads transformers 5's rope_parameters; None for all of them.
        cpu_head_dims: sizes that the attention of its CPU build has; None for all of them.
        remote_code: executes the folder's configuration (trust_remote_code).
        biased_ffn_for_linear: may get an FFN with biases in the place of a linear map.
        rewritten: whether `rewrites` makes folders for it.
        tensor_parallel: `split`: KV heads must divide by the devices; `replicate`: or devices by KV heads.
    """

    formats: tuple[str, ...] = ("decilm", "plain")
    per_layer_families: tuple[str, ...] | None = None
    graphs: bool = False
    linear_attention: bool = False
    linear_ffn: bool = False
    ffn_none_after_attention: bool = True
    dummy_layers: bool = True
    dummy_first_layer: bool = False
    attention_free_first_layer: bool = False
    linear_first_layer: bool = False
    ffn_free_last_layer: bool = True
    attention_free_model: bool = False
    kv_heads: Literal["any", "one", "all"] = "any"
    wide_head_dim: bool = False
    qkv_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    any_activation: bool = False
    ropes: tuple[str, ...] | None = ("default",)
    assumed_rope_theta: float | None = None
    rope_parameters: tuple[str, ...] | None = None
    cpu_head_dims: tuple[int, ...] | None = None
    remote_code: bool = False
    biased_ffn_for_linear: bool = False
    rewritten: bool = True
    tensor_parallel: Literal["split", "replicate"] | None = None


_TRANSFORMERS = {
    "formats": ("decilm", "per_layer", "plain"),
    "linear_attention": True,
    "linear_ffn": True,
    "attention_free_first_layer": True,
    "linear_first_layer": True,
    "attention_free_model": True,
    "wide_head_dim": True,
    "qkv_bias": True,
    "attention_bias": True,
    "mlp_bias": True,
    "any_activation": True,
    "ropes": None,
    "remote_code": True,
    "tensor_parallel": "split",
}
_SCALED_ROPES = ("default", "linear", "llama3", "yarn")
_GRAPHS = _TRANSFORMERS | {"graphs": True, "ropes": _SCALED_ROPES, "remote_code": False, "tensor_parallel": None}

ENGINES = {
    "transformers": Engine(**_TRANSFORMERS),
    # per-layer folders run through its Transformers backend
    "vllm": Engine(
        formats=("decilm", "per_layer", "plain"),
        per_layer_families=(
            *(
                "gemma2",
                "gemma3_text",
                "granite",
                "llama",
                "mixtral",
                "olmo2",
                "phi3",
                "qwen3",
                "qwen3_moe",
                "smollm3",
            ),
        ),
        dummy_first_layer=True,
        wide_head_dim=True,
        qkv_bias=True,
        attention_bias=True,
        mlp_bias=True,
        ropes=_SCALED_ROPES,
        cpu_head_dims=(32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512),
        remote_code=True,
        biased_ffn_for_linear=True,
        tensor_parallel="replicate",
    ),
    # qkv_bias: its o_proj would get a bias too, which no tensor fills
    "sglang": Engine(
        kv_heads="one",
        wide_head_dim=True,
        attention_bias=True,
        ropes=_SCALED_ROPES,
        remote_code=True,
        tensor_parallel="replicate",
    ),
    "tensorrt-llm": Engine(
        linear_attention=True,
        linear_ffn=True,
        attention_free_first_layer=True,
        linear_first_layer=True,
        wide_head_dim=True,
        ropes=_SCALED_ROPES,
        remote_code=True,
        tensor_parallel="replicate",
    ),
    # FFN none behind attention runs and is wrong: the graph leaves the layer before adding the attention's output
    "llama.cpp": Engine(
        linear_attention=True,
        ffn_none_after_attention=False,
        linear_first_layer=True,
        ffn_free_last_layer=False,
        qkv_bias=True,
        attention_bias=True,
        mlp_bias=True,
        ropes=("default", "llama3"),
    ),
    "mlx-lm": Engine(
        attention_free_first_layer=True,
        attention_bias=True,
        mlp_bias=True,
        ropes=("default", "linear", "llama3"),
        assumed_rope_theta=500_000.0,
        rope_parameters=("Qwen3ForCausalLM",),
        biased_ffn_for_linear=True,
    ),
    "exllamav3": Engine(
        attention_free_first_layer=True,
        wide_head_dim=True,
        qkv_bias=True,
        attention_bias=True,
        mlp_bias=True,
        ropes=_SCALED_ROPES,
    ),
    "exllamav2": Engine(
        linear_attention=True,
        ffn_none_after_attention=False,
        dummy_layers=False,
        ffn_free_last_layer=False,
        wide_head_dim=True,
        ropes=("default", "llama3"),
        assumed_rope_theta=10_000.0,
    ),
    "transformers-serve": Engine(**_TRANSFORMERS),
    # its paged cache has one shape, from config.num_key_value_heads, which DeciLM's config.json has as null
    "continuous-batching": Engine(**(_TRANSFORMERS | {"kv_heads": "all"})),
    "onnxruntime": Engine(**_GRAPHS),
    "openvino": Engine(**_GRAPHS),
    "onnxruntime-genai": Engine(**_GRAPHS),
    # what all of them run as it is, but for one KV count and, with scaled RoPE, exllamav2
    "portable": Engine(
        ffn_none_after_attention=False,
        dummy_layers=False,
        ffn_free_last_layer=False,
        ropes=("default", "llama3"),
        assumed_rope_theta=500_000.0,
        rewritten=False,
        tensor_parallel="split",
    ),
}


def check_engines(names: Iterable[str]) -> None:
    """Raises RecipeError for an engine without a row in the table."""
    for name in names:
        if name not in ENGINES:
            raise RecipeError(
                f"deploy: unknown engine {name!r}{did_you_mean(name, ENGINES)}; known: {', '.join(ENGINES)}"
            )


def check_format(names: Iterable[str], fmt: str, config: Any = None) -> None:
    """Raises RecipeError for an engine that does not open folders of format `fmt`, made of a parent with `config`."""
    names = list(names)
    for name in names:
        if fmt not in ENGINES[name].formats:
            others = [other for other, row in ENGINES.items() if fmt in row.formats]
            raise RecipeError(
                f"deploy: {name} opens {' and '.join(ENGINES[name].formats)} folders, not {fmt}; "
                f"take it out of `deploy` (these open {fmt}: {', '.join(others)}), or compress a Llama-shaped parent"
            )
        if fmt == "per_layer" and config is not None and (reason := refuses_family(name, config)):
            raise RecipeError(
                f"deploy: {name} cannot run children of this parent: {reason}; take it out of `deploy`, or compress "
                "another parent"
            )


def rope_kinds(config: Any) -> list[str]:
    """Kinds of RoPE of a config, which may have one for each type of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [str(each.get("rope_type", "default")) for each in (rope, *rope.values()) if isinstance(each, dict)]


def refuses_family(engine: str, config: Any) -> str | None:
    """Why `engine` runs no per-layer child of this family, whatever its blocks; None if it does."""
    families = ENGINES[engine].per_layer_families
    if families is None:
        return None
    if getattr(config, "logits_scaling", 1.0) != 1.0:
        return f"drops logits_scaling {config.logits_scaling:g}, and gives other logits without an error"
    if wrong := next((kind for kind in rope_kinds(config) if kind not in (ENGINES[engine].ropes or (kind,))), None):
        return f"RoPE scaling {wrong!r} depends on the longest sequence of a batch there"
    if config.model_type not in families:
        return f"family {config.model_type!r} was not measured there (only {', '.join(families)})"
    return None


# -- blocks


def _obstacles(
    engine: str, layer_idx: int, num_layers: int, attention: Variant, ffn: Variant
) -> list[tuple[str, str | None]]:
    """What keeps a block from running as it is, each with the exact rewrite that removes it or None."""
    row, sorts = ENGINES[engine], Block(attention, ffn).rows
    found = [(s.refusal, None) for s in sorts if s.engines is not None and engine not in s.engines]
    kept = {weight_type(attention), weight_type(ffn)} - {None, *WEIGHT_TYPES.get(engine, ())}
    found += [(f"no weights in {name}", None) for name in sorted(kept)]
    attention, ffn = plain(attention), plain(ffn)
    as_ffn = "linear map written as an FFN with biases" if row.biased_ffn_for_linear else None
    if attention == LINEAR and not row.linear_attention:
        found.append(("no linear attention", as_ffn))
    if ffn == LINEAR and not row.linear_ffn:
        moved = "linear FFN moved to a linear attention" if row.linear_attention else as_ffn
        found.append(("no linear FFN", moved))
    dummy = attention == ffn == NONE
    if dummy and not row.dummy_layers:
        found.append(("no layers without attention and FFN", None))
    if ffn == NONE and not dummy and not row.ffn_none_after_attention:
        found.append(("drops the attention output of a layer without FFN", "FFN of zeros behind the attention"))
    first_runs = row.linear_first_layer if attention == LINEAR else row.attention_free_first_layer
    first_runs |= dummy and row.dummy_first_layer
    if layer_idx == 0 and kv_heads(attention) is None and not first_runs:
        zeros = "linear map" if row.linear_first_layer else "attention"
        found.append(("needs attention in layer 0", f"{zeros} of zeros put in front"))
    if layer_idx == num_layers - 1 and ffn == NONE and not row.ffn_free_last_layer:
        found.append(("needs an FFN in the last layer", "FFN of zeros behind the attention"))
    if dummy:
        found = [(reason, "dummy layer dropped") for reason, _ in found]
    return found if row.rewritten else [(reason, None) for reason, _ in found]


def why_not_direct(engine: str, layer_idx: int, num_layers: int, attention: Variant, ffn: Variant) -> str | None:
    """Why `engine` does not run this block in this layer as it is, or None if it does."""
    found = _obstacles(engine, layer_idx, num_layers, attention, ffn)
    return found[0][0] if found else None


def refuses(engine: str, layer_idx: int, num_layers: int, attention: Variant, ffn: Variant) -> str | None:
    """Why `engine` can run this block in this layer neither as it is nor after an exact rewrite; None if it can."""
    found = _obstacles(engine, layer_idx, num_layers, attention, ffn)
    return next((reason for reason, rewrite in found if rewrite is None), None)


def rewritten(engine: str, layer_idx: int, num_layers: int, attention: Variant, ffn: Variant) -> str | None:
    """The exact rewrite that makes this block run in `engine`; None if it needs none or has none."""
    found = [rewrite for _, rewrite in _obstacles(engine, layer_idx, num_layers, attention, ffn)]
    return None if None in found else ", ".join(dict.fromkeys(found)) or None


def first_live(blocks: list[Block]) -> int:
    """The first layer that has an attention or an FFN: what an engine asks of layer 0, it asks of this one."""
    return next((i for i, block in enumerate(blocks) if block != Block(NONE, NONE)), 0)


def needs_one_kv_count(names: Iterable[str]) -> bool:
    """Whether an engine wants the same number of KV heads in all layers that have attention."""
    return any(ENGINES[name].kv_heads != "any" for name in names)


def runs_directly(engine: str, blocks: Iterable[Block], num_attention_heads: int) -> bool:
    """Whether `engine` runs a whole model of these blocks as it is."""
    row, blocks = ENGINES[engine], list(blocks)
    counts = {heads for block in blocks if (heads := kv_heads(block.attention)) is not None}
    first = first_live(blocks)
    return (
        (bool(counts) or row.attention_free_model)
        and (row.kv_heads == "any" or len(counts) <= 1)
        and (row.kv_heads != "all" or counts <= {num_attention_heads})
        and all(
            why_not_direct(engine, 0 if i == first else i, len(blocks), *block) is None
            for i, block in enumerate(blocks)
        )
    )


# -- what holds for all layers


def refuses_model(engine: str, config: Any, rope_theta_beside_scaling: bool = False) -> str | None:
    """Why `engine` runs no child of this parent, whatever its blocks; None if it does.

    Args:
        config: of a Llama-shaped stock model or of a DeciLM child.
        rope_theta_beside_scaling: config.json has a top-level rope_theta, also where RoPE is scaled.
    """
    row, head_dim = ENGINES[engine], config.hidden_size // config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or head_dim
    if head_dim * config.num_attention_heads != config.hidden_size and not row.wide_head_dim:
        return (
            f"head_dim {head_dim} must be hidden_size / num_attention_heads = "
            f"{config.hidden_size / config.num_attention_heads:g}"
        )
    if config.hidden_act != "silu" and not row.any_activation:
        return f"hidden_act {config.hidden_act!r} is not 'silu'"
    rope = getattr(config, "rope_parameters", None) or {}
    kind, theta = rope.get("rope_type", "default"), rope.get("rope_theta", 10_000.0)
    if row.ropes is not None and kind not in row.ropes:
        return f"RoPE scaling {kind!r} is not computed as transformers does (only {', '.join(row.ropes)})"
    if kind != "default" and not rope_theta_beside_scaling and row.assumed_rope_theta not in (None, theta):
        return f"takes rope_theta {row.assumed_rope_theta:g} for {theta:g} where RoPE is scaled ({kind})"
    attention_bias = getattr(config, "attention_bias", False)
    qkv_bias = getattr(config, "qkv_bias", False) or getattr(config, "model_type", None) == "qwen2"
    if attention_bias and not row.attention_bias:
        return "no attention biases"
    # biases on q, k and v become attention biases whose fourth is zero
    if qkv_bias and not attention_bias and not row.qkv_bias and not (row.attention_bias and row.rewritten):
        return "no biases on q, k and v"
    if getattr(config, "mlp_bias", False) and not row.mlp_bias:
        return "no FFN biases"
    return None


# -- tensor parallelism


def splits_heads(engine: str, size: int, heads: int) -> bool:
    """Whether `engine` splits an attention of `heads` KV heads over `size` devices."""
    kind = ENGINES[engine].tensor_parallel
    return size == 1 or (kind is not None and (heads % size == 0 or (kind == "replicate" and size % heads == 0)))


def check_tensor_parallel(size: int, kv_heads: int, engines: Iterable[str] = ("transformers",)) -> None:
    """Raises RecipeError for an engine that cannot split `kv_heads` KV heads over `size` devices, or that is not known."""
    check_engines(engines := list(engines))
    for engine in engines:
        if splits_heads(engine, size, kv_heads):
            continue
        if (kind := ENGINES[engine].tensor_parallel) is None:
            raise RecipeError(
                f"tensor parallelism over {size} devices: {engine} is not known to split attention heads"
            )
        allowed = f"multiples of {size}" + (f", or divisors of {size}" if kind == "replicate" else "")
        raise RecipeError(
            f"tensor parallelism over {size} devices: {engine} cannot split {kv_heads} KV heads; "
            f"it needs {allowed}: offer other search_space.attention, or fewer devices"
        )
