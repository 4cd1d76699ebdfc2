"""From a description of blocks to a model's config and back: the two published formats, and the plain architecture.

`decilm` is NVIDIA's `nemotron-nas` (one Llama-shaped family, read by most engines); `per_layer` is transformers' own
`per_layer_config` on the parent's `model_type` (every decoder family). Tensor names are the same in both for
Llama-shaped parents, so converting is a matter of configs and of channels of zeros.
"""

import copy
import itertools
import logging
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from .blocks import (
    KINDS,
    LINEAR,
    NONE,
    Block,
    Variant,
    kv_heads,
    num_experts,
    parse_variant,
    row_of,
    sizes_of,
    variant_id,
    window,
    with_sizes,
)
from .layers import (
    FormatError,
    expert_attribute,
    first_attention,
    fits_layer,
    has_kv_heads,
    may_differ,
    mixture_attributes,
    parent_block,
    parent_blocks,
    stock_class,
    stock_value,
    with_layers,
    without_overrides,
)
from .remote import modeling_puzzle
from .remote.configuration_decilm import FFN_WIDTH_STEP, DeciLMConfig, block_config, ffn_width
from .remote.modeling_decilm import DeciLMForCausalLM


logger = logging.getLogger(__name__)

DECILM, PER_LAYER = "decilm", "per_layer"
FORMATS = (DECILM, PER_LAYER)
# Llama-shaped families: pre-norm, gated, rotary, one head size
DECILM_FAMILIES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
_SHARED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "hidden_act"),
    *("max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "pad_token_id", "bos_token_id"),
    *("eos_token_id", "tie_word_embeddings", "attention_dropout", "dtype"),
)
MAX_LAYERS = 10_000
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
_HEADS = ("lm_head.weight", "embed_out.weight")  # checkpoints of GPT-NeoX have the second
_SKIP_NAMES = {"attention": "attention", "ffn": "mlp"}  # transformers' words in `skip`


# -- per-layer


def variant_overrides(config: PretrainedConfig, kind: str, variant: Variant, layer_idx: int = 0) -> dict:
    """What `per_layer_config` says of a sub-block of a layer; empty for the parent's own."""
    own = getattr(parent_blocks(config)[layer_idx], kind)
    if variant == own:
        return {}
    if variant == NONE:
        return {"skip": [_SKIP_NAMES[kind]]}
    if variant == LINEAR:
        return {"replace_with_linear": [kind]}
    if row_of(kind, variant).module is not None:
        return {"replace_with": {kind: variant}}
    sizes = sizes_of(kind, own)
    changed = {name: size for name, size in sizes_of(kind, variant).items() if size != sizes.get(name)}
    names = mixture_attributes(config) if num_experts(variant) else {}
    changed = {names.get(name, name): size for name, size in changed.items()}
    if kind == "ffn" and not names and (width := changed.pop("intermediate_size", None)) is not None:
        changed |= _width(config, width)
    per_token = names.get("experts_per_tok")
    if names and per_token not in changed and num_experts(variant) < stock_value(config, per_token):
        changed[per_token] = num_experts(variant)
    return changed


def _width(config: PretrainedConfig, width: int) -> dict:
    """What makes a dense FFN so wide: Granite's hybrids have another name for it, LFM2 rounds it unless told not to."""
    if config.model_type == "granitemoehybrid":
        return {"shared_intermediate_size": width}
    exact = {"block_auto_adjust_ff_dim": False} if hasattr(config, "block_auto_adjust_ff_dim") else {}
    return {"intermediate_size": width} | exact


def block_overrides(config: PretrainedConfig, block: Block, layer_idx: int = 0) -> dict:
    """One entry of `per_layer_config`, guarded against stock classes; empty for the parent's block."""
    merged: dict = {}
    for kind, variant in zip(("attention", "ffn"), block, strict=True):
        for name, value in variant_overrides(config, kind, variant, layer_idx).items():
            if name in merged:  # lists and dictionaries of both sub-blocks
                value = merged[name] + value if isinstance(value, list) else merged[name] | value
            merged[name] = value
    if merged:
        guard = next((name for name in modeling_puzzle.GUARDS if hasattr(config, name)), None)
        if guard is None:
            raise FormatError(f"{config.model_type}: no norm epsilon in its config to guard the checkpoint with")
        merged[guard] = 0.0
    return merged


def does_not_fit(config: PretrainedConfig, kind: str, variant: Variant) -> str | None:
    """What a parent's size says against a variant, with the way out; None if nothing, ValueError if it is no variant."""
    module, sizes = row_of(kind, variant).module, sizes_of(kind, variant)
    if hasattr(module, "why_not") and (reason := module.why_not(config, *sizes.values())):
        return reason
    if hasattr(module, "from_attention"):
        try:
            module.from_attention(first_attention(config), config, *sizes.values())
        except ValueError as error:
            return str(error)
    return _mixture_misfit(config, sizes) if "experts" in sizes and expert_attribute(config) else None


def _mixture_misfit(config: PretrainedConfig, sizes: dict[str, int]) -> str | None:
    names = mixture_attributes(config)
    per_token = stock_value(config, names["experts_per_tok"])
    for name, size in sizes.items():
        if size > (most := stock_value(config, names[name])):
            return f"{names[name]} {size} is more than the parent's {most}"
    if sizes.get("experts_per_tok", 1) > sizes["experts"]:
        return f"{sizes['experts_per_tok']} of {sizes['experts']} experts for each token: take as many or fewer"
    groups = stock_value(config, "n_group") or 1
    if sizes["experts"] % groups or sizes["experts"] // groups < 2 <= groups:
        return f"{sizes['experts']} experts do not fall into the router's {groups} groups of two or more: take a multiple of {groups}"
    chosen = stock_value(config, "topk_group") or groups
    if sizes["experts"] * chosen // groups < min(sizes.get("experts_per_tok", per_token), sizes["experts"]):
        return f"the router takes experts of {chosen} of {groups} groups: {sizes['experts']} leave it fewer than {per_token}; take more"
    return None


def _check_block(config: PretrainedConfig, layer_idx: int, block: Block) -> None:
    own = parent_blocks(config)[layer_idx]
    where = f"layer {layer_idx}, block {block.id}"
    for kind, variant in zip(KINDS, block, strict=True):
        try:
            if variant == 0:
                raise ValueError(f"{kind} of size 0; use {NONE}")
            if reason := does_not_fit(config, kind, variant):
                raise ValueError(reason)
        except ValueError as error:
            raise FormatError(f"{where}: {error}") from None
    heads = kv_heads(block.attention)
    if heads is not None and heads != own.attention and kv_heads(own.attention) is not None:
        if not has_kv_heads(config):
            raise FormatError(
                f"{where}: {config.model_type} has no grouped KV heads; use kv{own.attention}, linear or none"
            )
        queries = stock_value(config, "num_attention_heads")
        if queries % heads:
            divisors = ", ".join(str(n) for n in range(1, queries + 1) if queries % n == 0)
            raise FormatError(f"{where}: {heads} KV heads do not divide {queries} heads; use one of {divisors}")
    if isinstance(block.ffn, int) and num_experts(own.ffn):
        raise FormatError(f"{where}: the parent's FFN is a mixture of experts; use e<number>, linear or none")
    if num_experts(block.ffn) is not None and not num_experts(own.ffn):
        raise FormatError(f"{where}: the parent's FFN is dense; use w<width>, linear or none")
    for kind, variant in zip(KINDS, block, strict=True):
        if not fits_layer(getattr(own, kind), kind, variant):
            raise FormatError(
                f"{where}: the parent's {kind} there is {variant_id(kind, getattr(own, kind))}, of which {variant_id(kind, variant)} is no cut"
            )


def per_layer_config(config: PretrainedConfig, blocks: list[Block]) -> PretrainedConfig:
    """The config of a per-layer child: the parent's, with what differs.

    Raises:
        FormatError: a block the family does not know, with its layer.
    """
    config = _with_layers(config, blocks)
    child = copy.deepcopy(config)
    for layer_idx, block in enumerate(blocks):
        _check_block(config, layer_idx, block)
    windows = {size: i for i, block in reversed(list(enumerate(blocks))) if (size := window(block.attention))}
    if len(windows) > 1:
        found = " and ".join(f"{size} tokens (layer {i})" for size, i in sorted(windows.items()))
        raise FormatError(f"windows of {found} in one model: masks and caches know one size; choose one")
    child.replace_with_linear, child.attention_window, child.kv_sharing_modes = [], None, None
    overrides = {i: own for i, block in enumerate(blocks) if (own := block_overrides(config, block, i))}
    if not overrides:
        return config
    if any("replace_with" in own for own in overrides.values()):
        child.replace_with = {}
    child.per_layer_config = overrides
    name = modeling_puzzle.PREFIX + stock_class(config).__name__
    child.architectures = [name]
    child.auto_map = modeling_puzzle.auto_map(name.removeprefix(modeling_puzzle.PREFIX))
    return child


def _with_layers(config: PretrainedConfig, blocks: list[Block]) -> PretrainedConfig:
    """A copy of a stock config whose layers may have these blocks: its own where they fit one by one, else such as do."""
    child = copy.deepcopy(config)
    child.per_layer_config = None
    if not may_differ(config) and len(blocks) == config.num_hidden_layers:
        return child
    own = parent_blocks(config)
    fits = [[all(itertools.starmap(_may_fit, zip(KINDS, o, block, strict=True))) for o in own] for block in blocks]
    if len(blocks) == len(own) and all(row[i] for i, row in enumerate(fits)):
        return child
    sources = []
    for i, (block, row) in enumerate(zip(blocks, fits, strict=True)):
        if not any(row):
            if may_differ(config):
                raise FormatError(f"layer {i}, block {block.id}: no layer of this {config.model_type} can have it")
            row = [True] * len(own)  # what is wrong with it is said of its layer
        near = i % len(own)
        # one that keeps keys and values where any would do: something must count the tokens in a cache
        keeps = [j for j, fit in enumerate(row) if fit and kv_heads(own[j].attention) is not None]
        sources.append(
            near if row[near] and (near in keeps or not keeps) else (keeps or [j for j, f in enumerate(row) if f])[0]
        )
    return with_layers(child, sources)


def _may_fit(kind: str, own: Variant, variant: Variant) -> bool:
    """As `fits_layer`; what is no variant at all is refused elsewhere, with its layer."""
    try:
        return fits_layer(own, kind, variant)
    except (TypeError, ValueError):
        return True


# -- DeciLM


def decilm_refuses(config: PretrainedConfig) -> str | None:
    """Why a parent cannot be written as DeciLM, or None if it can."""
    if config.model_type not in DECILM_FAMILIES:
        return f"family {config.model_type!r} is none of {', '.join(DECILM_FAMILIES)}"
    if config.hidden_act != "silu":
        return f"hidden_act is {config.hidden_act!r}, not 'silu'"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"the parent attends within a sliding window of {config.sliding_window} tokens"
    return None


def decilm_width(width: int) -> int:
    """The width an FFN has in a DeciLM child: the next multiple of 256; the channels added are zero, which is exact."""
    return -(-width // FFN_WIDTH_STEP) * FFN_WIDTH_STEP


def _decilm_entry(config: PretrainedConfig, block: Block) -> dict:
    """One entry of `block_configs`; ValueError for what the format cannot express."""
    for kind, variant in zip(KINDS, block, strict=True):
        if isinstance(variant, str) and (reason := row_of(kind, variant).not_decilm):
            raise ValueError(f"{reason}; use the per_layer format")
    ffn = decilm_width(block.ffn) if isinstance(block.ffn, int) else block.ffn
    return block_config(config.num_attention_heads, config.hidden_size, block.attention, ffn)


def decilm_config(config: PretrainedConfig, blocks: list[Block]) -> DeciLMConfig:
    """The DeciLM config of a child of a Llama-shaped parent.

    Raises:
        FormatError: a parent or a block that the format cannot express, with its layer.
    """
    if (reason := decilm_refuses(config)) is not None:
        raise FormatError(f"DeciLM cannot express this parent: {reason}; use the per_layer format")
    block_configs = []
    for layer_idx, block in enumerate(blocks):
        try:
            block_configs.append(_decilm_entry(config, block))
        except ValueError as error:
            raise FormatError(f"layer {layer_idx}, block {block.id}: {error}") from None
    attention_bias = getattr(config, "attention_bias", False)
    return DeciLMConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        block_configs=block_configs,
        head_dim=getattr(config, "head_dim", None),
        hidden_act=config.hidden_act,
        max_position_embeddings=config.max_position_embeddings,
        initializer_range=config.initializer_range,
        rms_norm_eps=config.rms_norm_eps,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
        rope_parameters=dict(config.rope_parameters),
        attention_bias=attention_bias,
        qkv_bias=config.model_type == "qwen2" and not attention_bias,
        mlp_bias=getattr(config, "mlp_bias", False),
        dtype=config.dtype,
    )


def stock_config(config: DeciLMConfig, block: Block) -> PretrainedConfig:
    """The Llama (with biases on q, k and v only: Qwen2) whose every layer is `block`, otherwise as a DeciLM model."""
    qkv_bias = getattr(config, "qkv_bias", False)
    if qkv_bias and config.mlp_bias:
        raise FormatError("qkv_bias together with mlp_bias: no stock architecture has both")
    shared = {name: getattr(config, name) for name in _SHARED}
    shared |= {"rope_parameters": dict(config.rope_parameters)}
    shared |= {"num_key_value_heads": block.attention, "intermediate_size": block.ffn}
    if qkv_bias:
        return Qwen2Config(**shared, architectures=["Qwen2ForCausalLM"])
    shared["architectures"] = ["LlamaForCausalLM"]
    return LlamaConfig(**shared, attention_bias=config.attention_bias, mlp_bias=config.mlp_bias)


# -- reading


def check_config(raw: object, where: str | Path) -> None:
    """Refuse a config.json by a stranger that would fill the memory before any class looks at its values.

    Raises:
        FormatError: no JSON object, or more layers than `MAX_LAYERS`.
    """
    if not isinstance(raw, dict):
        raise FormatError(f"{where} holds {type(raw).__name__}, not a JSON object")
    for config in (raw, *(value for value in raw.values() if isinstance(value, dict))):
        for name in _LAYER_COUNTS:
            count = config.get(name)
            if isinstance(count, int | float) and not 0 <= count <= MAX_LAYERS:
                raise FormatError(f"{where}: {name} is {count!r:.40}: expected 0 to {MAX_LAYERS}")


def describe(config: PretrainedConfig) -> list[Block]:
    """The blocks of a model in either format, or of a stock model."""
    if isinstance(config, DeciLMConfig):
        return [_decilm_block(config, entry) for entry in config.block_configs]
    own, overrides = parent_blocks(config), modeling_puzzle.layer_overrides(config)
    try:
        return [_per_layer_block(config, own[i], overrides.get(i, {})) for i in range(config.num_hidden_layers)]
    except (TypeError, ValueError) as error:  # `replace_with` of a stranger, or of a newer hf_puzzle
        raise FormatError(f"per_layer_config: {error}") from None


def _decilm_block(config: DeciLMConfig, entry) -> Block:
    attention, ffn = entry.attention, entry.ffn
    return Block(
        NONE if attention.no_op else LINEAR if attention.replace_with_linear
        else config.num_attention_heads // int(attention.n_heads_in_group),
        NONE if ffn.no_op else LINEAR if ffn.replace_with_linear else ffn_width(ffn.ffn_mult, config.hidden_size),
    )  # fmt: skip


def _per_layer_block(config: PretrainedConfig, own: Block, overrides: dict) -> Block:
    replaced, variants, known = modeling_puzzle.replaced(overrides), [], dict(overrides)
    names = mixture_attributes(config) if num_experts(own.ffn) else {}
    known |= {name: overrides[attribute] for name, attribute in names.items() if attribute in overrides}
    if not names and (width := overrides.get("shared_intermediate_size")):
        known["intermediate_size"] = width
    fewer = (
        min(known.get("experts") or num_experts(own.ffn), stock_value(config, names["experts_per_tok"]))
        if names
        else 0
    )
    if known.get("experts_per_tok") == fewer:  # said only where the number of experts does not
        del known["experts_per_tok"]
    for kind, optional in (
        ("attention", ["attention_window"]),
        ("ffn", [name for name in names if name != "experts"]),
    ):
        sizes = sizes_of(kind, getattr(own, kind))
        sizes |= {name: known[name] for name in (*sizes, *optional) if known.get(name)}
        skipped = _SKIP_NAMES[kind] in overrides.get("skip", ())
        word = NONE if skipped else replaced.get(kind, None if sizes else getattr(own, kind))
        variants.append(with_sizes(kind, sizes) if word is None else parse_variant(kind, word))
    return Block(*variants)


# -- models


def format_of(config: PretrainedConfig) -> str | None:
    """`decilm`, `per_layer`, or None for a stock model."""
    if isinstance(config, DeciLMConfig):
        return DECILM
    return PER_LAYER if getattr(config, "is_heterogeneous", False) else None


def _check_format(fmt: str, *others: str) -> None:
    if fmt not in (*FORMATS, *others):
        raise FormatError(f"unknown format {fmt!r}; known: {', '.join((*FORMATS, *others))}")


def child_config(config: PretrainedConfig, blocks: list[Block], fmt: str) -> PretrainedConfig:
    """The config of a child of a stock parent in format `fmt`."""
    _check_format(fmt)
    return decilm_config(config, blocks) if fmt == DECILM else per_layer_config(config, blocks)


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The causal LM of a config of either format, or of a stock one; ours, not the copy beside a checkpoint."""
    fmt = format_of(config)
    if fmt == DECILM:
        return DeciLMForCausalLM
    stock = stock_class(config)
    return getattr(modeling_puzzle, modeling_puzzle.PREFIX + stock.__name__) if fmt == PER_LAYER else stock


def head_is_tied(
    config: PretrainedConfig, names: Collection[str], read: Callable[[str], torch.Tensor] | None = None
) -> bool:
    """Whether the head of a checkpoint or state dict is its embedding matrix: what the tensors say, not what the config says.

    A config that says "tied" is wrong where the tensors hold a head with other values: transformers 5 keeps such a head,
    and everything that obeys the config loses it. One that says "untied" is wrong where both are one tensor in memory;
    two equal ones are left as they are.

    Args:
        names: of all tensors.
        read: gives the tensor of a name; needed where both matrices are there.

    Raises:
        FormatError: untied, and there is no head.
    """
    says = bool(getattr(config, "tie_word_embeddings", False))
    try:
        known = model_class(config)._tied_weights_keys
    except FormatError:  # a class of somebody else's: its own business
        return says
    if not isinstance(known, dict) or len(known) != 1:
        return says
    ((own_head, inner),) = known.items()
    head = next((name for name in (own_head, *_HEADS) if name in names), None)
    # old checkpoints leave the model's prefix away
    inputs = next((name for name in names if name == inner or (name and inner.endswith(f".{name}"))), None)
    if head is None and inputs is not None and not says:
        raise FormatError(
            f"config.json says tie_word_embeddings: false, and there is no {own_head}: set it to true if the head is the "
            "embedding matrix, else fetch the model again"
        )
    if head is None or inputs is None:
        return says
    one, other = read(head), read(inputs)
    if one.is_meta or other.is_meta:
        return says
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = one.device == other.device and one.data_ptr() == other.data_ptr()
    return same or (says and torch.equal(one, other.to(one.device)))


def model_is_tied(model: PreTrainedModel) -> bool:
    """Whether the head of a model is its embedding matrix, one tensor for both."""
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is inputs.weight


def tell_tie(model: PreTrainedModel) -> None:
    """Make a model's config say whether its head is tied."""
    if model.get_output_embeddings() is not None and model.config.tie_word_embeddings != model_is_tied(model):
        model.config.tie_word_embeddings = model_is_tied(model)


def with_tie(config: PretrainedConfig, tied: bool) -> PretrainedConfig:
    """`config` saying `tied`; a copy where it says otherwise."""
    if bool(getattr(config, "tie_word_embeddings", False)) != tied:
        config = copy.deepcopy(config)
        config.tie_word_embeddings = tied
    return config


def as_tied(config: PretrainedConfig, state: dict[str, torch.Tensor]) -> PretrainedConfig:
    """`config` saying of the head what its tensors say (`head_is_tied`)."""
    return with_tie(config, head_is_tied(config, state, state.__getitem__))


def build_model(
    config: PretrainedConfig, state: dict[str, torch.Tensor], dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """The model of a config with tensors as its state dict names them, on the CPU or where the tensors are.

    Whether its head is tied is read off the tensors.

    Raises:
        FormatError: tensors that are missing, left over, or of another shape.
    """
    config = as_tied(config, state)
    dtype = dtype or next(iter(state.values())).dtype
    model, info = model_class(config).from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_loading(info)
    return model.eval()


def check_loading(info: dict) -> None:
    """Raises FormatError where `from_pretrained`, told to `ignore_mismatched_sizes`, made up, left out or reshaped a tensor."""
    for what, names in (("missing", info["missing_keys"]), ("unexpected", info["unexpected_keys"])):
        if names:
            raise FormatError(f"{what} tensors {', '.join(sorted(names)[:3])} ({len(names)} in all)")
    if info["mismatched_keys"]:
        name, found, wanted = sorted(info["mismatched_keys"])[0]
        raise FormatError(f"{name} has shape {tuple(found)}, its config asks for {tuple(wanted)}")


def choose_format(config: PretrainedConfig, blocks: Iterable[Block], wanted: str = "auto") -> str:
    """`wanted`, or for `auto` DeciLM wherever it can express the parent and all `blocks`.

    Raises:
        FormatError: `wanted` cannot.
    """
    _check_format(wanted, "auto")
    if wanted == PER_LAYER:
        return PER_LAYER
    if wanted == DECILM:
        for block in blocks:
            decilm_config(config, [block])
        decilm_config(config, [])
        return DECILM
    if decilm_refuses(config) is not None:
        return PER_LAYER
    own, obstacles = parent_block(config), []  # a Llama-shaped parent
    for kind, variant in dict.fromkeys(pair for block in blocks for pair in zip(KINDS, block, strict=True)):
        try:
            _decilm_entry(config, own._replace(**{kind: variant}))
        except ValueError as error:
            obstacles.append(f"{kind} {variant_id(kind, variant)}: {error}")
    if not obstacles:
        return DECILM
    logger.info(
        "child.format: auto writes per_layer, which transformers and, for some families, vLLM open; DeciLM but for %s",
        " and ".join(obstacles),
    )
    return PER_LAYER


# -- simplifying and converting


def is_stock(block: Block) -> bool:
    """Whether a stock model, all of whose layers are alike, may have this block: windows of ours are not its own."""
    return window(block.attention) is None and all(row.stock for row in block.rows)


UNIFORM = "uniform: a stock architecture, without remote code"
_LAYER = re.compile(r"(.*?\b(?:layers|h|blocks)\.)(\d+)(\..*)")


def simplify(
    config: PretrainedConfig, state: dict[str, torch.Tensor]
) -> tuple[PretrainedConfig, dict[str, torch.Tensor], list[str]]:
    """A per-layer child without its dummy layers (neither attention nor FFN); a stock model where all others are alike.

    Returns:
        Config, tensors, and what was changed.
    """
    config = as_tied(config, state)
    blocks = describe(config)
    # of some families, more than both sub-blocks: an FFN beside the experts
    holding = {int(match[2]) for name in state if (match := _LAYER.fullmatch(name))}
    kept = [i for i, block in enumerate(blocks) if block != Block(NONE, NONE) or i in holding]
    changes = []
    if len(kept) < len(blocks):
        changes.append(f"dummy layers dropped: {', '.join(str(i) for i in range(len(blocks)) if i not in kept)}")
        place = {old: new for new, old in enumerate(kept)}
        renamed = {}
        for name, tensor in state.items():
            match = _LAYER.fullmatch(name)
            renamed[f"{match[1]}{place[int(match[2])]}{match[3]}" if match else name] = tensor
        state = renamed
    stock = stock_of(config, kept)
    blocks = [blocks[i] for i in kept]
    plain = _as_stock(stock, blocks)
    if plain is None:
        return per_layer_config(stock, blocks), state, changes
    return plain, state, [*changes, UNIFORM]


def _as_stock(config: PretrainedConfig, blocks: list[Block]) -> PretrainedConfig | None:
    """The stock config whose layers are `blocks`, cuts of those of `config`; None where layers that were alike are not."""
    own, plain, chosen = parent_blocks(config), copy.deepcopy(config), {}
    for layer_idx, block in enumerate(blocks):
        for kind, variant in zip(KINDS, block, strict=True):
            of = getattr(own[layer_idx], kind)
            if chosen.setdefault((kind, of), variant) != variant:
                return None
            if variant != of:
                if window(variant) is not None or not row_of(kind, variant).stock:
                    return None
                for name, value in variant_overrides(config, kind, variant, layer_idx).items():
                    setattr(plain, name, value)
    counted = [b if num_experts(b.ffn) is None else b._replace(ffn=f"e{num_experts(b.ffn)}") for b in blocks]
    return plain if parent_blocks(plain) == counted else None


def stock_of(config: PretrainedConfig, kept: list[int] | None = None) -> PretrainedConfig:
    """The parent's config of a per-layer child, of its `kept` layers."""
    stock = without_overrides(config)
    return stock if kept is None or len(kept) == config.num_hidden_layers else with_layers(stock, kept)


def padded(name: str, tensor: torch.Tensor, channels: int) -> torch.Tensor:
    """An FFN tensor (`gate_proj.weight`, ...) with `channels` more channels of zeros; fewer where negative."""
    if channels == 0 or name == "down_proj.bias":
        return tensor
    return F.pad(tensor, (0, channels) if name == "down_proj.weight" or tensor.ndim == 1 else (0, 0, 0, channels))


def convert(
    config: PretrainedConfig, state: dict[str, torch.Tensor], to: str
) -> tuple[PretrainedConfig, dict[str, torch.Tensor]]:
    """A child in the other format: the same function, and the same tensors but for channels of zeros.

    Args:
        config: of a DeciLM, per-layer or stock model.
        state: its tensors, names as in its checkpoint.

    Raises:
        FormatError: what the target cannot express, with the layer.
    """
    _check_format(to)
    config = as_tied(config, state)
    if format_of(config) == to or (to == PER_LAYER and decilm_refuses(config) and format_of(config) is None):
        return config, state  # a stock model is its own per-layer child
    blocks = describe(config)
    if to == DECILM:
        source = stock_of(config)
        target, widths = (
            decilm_config(source, blocks),
            [decilm_width(b.ffn) if isinstance(b.ffn, int) else None for b in blocks],
        )
    else:
        widths = [_needed_width(state, i) if isinstance(b.ffn, int) else None for i, b in enumerate(blocks)]
        blocks = [Block(b.attention, w or b.ffn) for b, w in zip(blocks, widths, strict=True)]
        live = [b.attention for b in blocks if isinstance(b.attention, int)]
        own = Block(
            max(live, default=config.num_attention_heads), max((w for w in widths if w), default=FFN_WIDTH_STEP)
        )
        target = per_layer_config(stock_config(config, own), blocks)
    converted = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[:2] == ["model", "layers"] and parts[3] == "mlp" and widths[int(parts[2])] is not None:
            channels = tensor.shape[1 if parts[4] == "down_proj" and tensor.ndim == 2 else 0]
            tensor = padded(".".join(parts[4:]), tensor, widths[int(parts[2])] - channels)
        converted[name] = tensor
    return target, converted


def _needed_width(state: dict[str, torch.Tensor], layer_idx: int) -> int:
    """Channels of a gated FFN without the zeros that pad it to a multiple of 256."""
    used = None
    for name, channel_dim in (("down_proj.weight", 1), ("up_proj.weight", 0), ("gate_proj.weight", 0)):
        nonzero = (state[f"model.layers.{layer_idx}.mlp.{name}"] != 0).any(1 - channel_dim)
        used = nonzero if used is None else used | nonzero
    for name in ("up_proj.bias", "gate_proj.bias"):
        if (bias := state.get(f"model.layers.{layer_idx}.mlp.{name}")) is not None:
            used = used | (bias != 0)
    # more zeros than pad to the next multiple are channels of the model: without them, the way back would be another
    least = max(1, len(used) - FFN_WIDTH_STEP + 1)
    return max(least, int(used.nonzero().max()) + 1) if used.any() else least
