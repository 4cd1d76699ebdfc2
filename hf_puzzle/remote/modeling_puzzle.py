"""Any decoder family of transformers with layers that differ: the stock classes, rebuilt where a layer's config says so.

`config.per_layer_config[i]` (transformers' own schema) overrides sizes (`num_key_value_heads`, `intermediate_size`,
expert counts); `skip` removes a sub-block, `replace_with_linear` makes it one linear map, `replace_with` one of
`SUB_BLOCKS`, and `attention_window` narrows a full attention to the last tokens. `PuzzleQwen3ForCausalLM` is
Qwen3ForCausalLM with such layers, and so for every class that transformers has: they are made when asked for. Needs
transformers >= 5.23. What a cache is called there is left to the stock classes; hooks know it by what it is.
"""

import contextlib
import copy
import functools
import re

import torch
import transformers
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from .caches_puzzle import CacheName, find_cache, prove_first_step
from .lowrank_puzzle import LowRank
from .recurrent_puzzle import GatedLinearAttention, Padding


try:
    import transformers.integrations.heterogeneity  # noqa: F401 (without it, configs drop what differs per layer)
except ImportError:
    raise ImportError(
        f"this model's layers differ, which transformers {transformers.__version__} cannot read: install transformers >= 5.23"
    ) from None

PREFIX = "Puzzle"
AUTO_CLASSES = {
    "AutoModel": "Model",
    "AutoModelForCausalLM": "ForCausalLM",
    "AutoModelForDecision": "ForCausalLM",  # what `transformers serve` looks up
    "AutoModelForSequenceClassification": "ForSequenceClassification",
}
# the stock class must not load such a checkpoint silently: this value differs on every changed layer, and reading it
# globally, as stock constructors do, is an error
GUARDS = ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon", "norm_eps")
ATTENTION_NAMES = ("self_attn", "attention", "attn", "self_attention")
RECURRENT_NAMES = ("linear_attn", "mamba", "conv")  # what stands for attention in some layers of a hybrid
FFN_NAMES = ("mlp", "block_sparse_moe", "feed_forward", "shared_mlp")
MIXER_NAMES = ("mixer",)  # layers with one sub-block, of either kind
LAYER_LISTS = ("layers", "h", "blocks")
# families whose layers unpack `hidden_states, router_scores` from their FFN
FFN_ANSWERS_PAIR = ("gpt_oss",)


# -- the anatomy of a stock model, by attribute discovery


def _first(module, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(getattr(module, name, None), nn.Module)), None)


def recurs(block: nn.Module) -> bool:
    """Whether a sub-block carries a state of fixed size instead of keys and values: gated delta nets, Mamba, convolutions."""
    return any(isinstance(child, nn.Conv1d) for child in block.children())


def places_of(layer: nn.Module) -> dict[str, str]:
    """`{kind: attribute}` of the sub-blocks of a layer, `attention` and `ffn`; layers of some hybrids have one only.

    Raises:
        ValueError: it has neither, or something beside them that is neither a sub-block nor a norm.
    """
    found = {
        "attention": _first(layer, ATTENTION_NAMES) or _first(layer, RECURRENT_NAMES),
        "ffn": _first(layer, FFN_NAMES),
    }
    if not any(found.values()) and (mixer := _first(layer, MIXER_NAMES)) is not None:
        block = getattr(layer, mixer)
        is_ffn = hasattr(block, "experts") or hasattr(block, "down_proj") or getattr(block, "stands_for", "") == "ffn"
        found["ffn" if is_ffn else "attention"] = mixer
    return {kind: place for kind, place in found.items() if place is not None}


def place_of(layer: nn.Module, kind: str) -> str:
    """Attribute of `layer` that holds its `attention` or its `ffn`; ValueError if it has none."""
    found = places_of(layer).get(kind)
    if found is None:
        names = (*ATTENTION_NAMES, *RECURRENT_NAMES) if kind == "attention" else FFN_NAMES
        raise ValueError(f"{type(layer).__name__} has no {kind}: looked for {', '.join((*names, *MIXER_NAMES))}")
    return found


def answers_pair(block: nn.Module, kind: str, model_type: str) -> bool:
    """Whether a layer unpacks two values from what stands in the place of this sub-block."""
    return not recurs(block) if kind == "attention" else model_type in FFN_ANSWERS_PAIR


def layer_list(decoder: nn.Module) -> str:
    """Attribute of a decoder that holds its layers; ValueError if it has none."""
    found = _first(decoder, LAYER_LISTS)
    if found is None:
        raise ValueError(f"{type(decoder).__name__} has no decoder layers: looked for {', '.join(LAYER_LISTS)}")
    return found


def norms_of(layer: nn.Module, kind: str) -> list[str]:
    """Norms of `layer` that only its attention, or only its FFN, passes through; parallel layers may share one."""

    def present(*names: str) -> list[str]:
        return [name for name in names if isinstance(getattr(layer, name, None), nn.Module)]

    places = places_of(layer)
    if len(places) == 1:  # a mixer
        return present("norm") if kind in places else []
    around_ffn = present("pre_feedforward_layernorm", "post_feedforward_layernorm")
    ffn = around_ffn or present("post_attention_layernorm", "ffn_norm")
    attention = present("input_layernorm", "post_attention_layernorm") if around_ffn else present("input_layernorm", "operator_norm")  # fmt: skip
    if kind == "attention":
        return attention if ffn else []
    # experts beside an FFN that all tokens pass (Granite): the norm is that one's, too
    return ffn if places.get("ffn") == "shared_mlp" or _first(layer, ("shared_mlp",)) is None else []


# -- the sub-blocks that stock models do not have


def _answer(hidden_states: torch.Tensor, pair: bool):
    return (hidden_states, None) if pair else hidden_states


class LinearMap(nn.Module):
    """A sub-block replaced by one linear map; named as in DeciLM checkpoints."""

    template, sizes = "linear", ()

    def __init__(self, config, kind: str, pair: bool):
        super().__init__()
        self.name, self.pair = "linear_attn" if kind == "attention" else "linear_mlp", pair
        self.add_module(self.name, nn.Linear(config.hidden_size, config.hidden_size, bias=False))

    def forward(self, hidden_states: torch.Tensor, **kwargs):
        return _answer(getattr(self, self.name)(hidden_states), self.pair)

    @staticmethod
    def from_map(weight: torch.Tensor, kind: str, inputs: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Its weights, from a linear map `(hidden_size, hidden_size)`, whatever goes in."""
        return {f"linear_{'attn' if kind == 'attention' else 'mlp'}.weight": weight}


class NoNorm(nn.Identity):
    """A norm that nothing passes through any more; some layers ask it for its dtype."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        like = getattr(norm, "weight", torch.empty(0))
        self.register_buffer("weight", like.new_zeros(0), persistent=False)


class Nothing(nn.Module):
    """A removed sub-block: adds zero to the residual stream."""

    def __init__(self, pair: bool, stands_for: str = ""):
        super().__init__()
        self.pair, self.stands_for = pair, stands_for

    def forward(self, hidden_states: torch.Tensor, **kwargs):
        return _answer(hidden_states.new_zeros(1).expand_as(hidden_states), self.pair)


# what may take the place of a sub-block, by the id in `replace_with`: templates are tried in this order
SUB_BLOCKS = (LinearMap, LowRank, GatedLinearAttention)


class WindowMask:
    """Forward pre-hook of an attention: narrows its mask to the last `window` tokens, the query's own included."""

    def __init__(self, window: int):
        self.window = window

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict):
        states = args[0] if args else kwargs["hidden_states"]
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim != 4:
            raise ValueError("attention_window needs attn_implementation 'sdpa' or 'eager'")
        cache = find_cache(args, kwargs)
        length, layer_idx = states.shape[1], module.layer_idx
        seen = cache.get_seq_length(layer_idx) if cache is not None else 0
        keys, offset = cache.get_mask_sizes(length, layer_idx) if cache is not None else (length, 0)
        queries = torch.arange(length, device=states.device)[:, None] + seen
        distance = queries - torch.arange(offset, offset + keys, device=states.device)[None]
        allowed = ((distance >= 0) & (distance < self.window))[None, None]
        if mask is None:
            mask = allowed
            if module.config._attn_implementation == "eager":
                mask = torch.where(allowed, 0.0, torch.finfo(states.dtype).min).to(states.dtype)
        else:
            if mask.shape[-1] != keys:  # made for the longer cache of a layer with full attention
                mask = mask[..., offset : offset + keys]
            mask = (
                mask & allowed if mask.dtype == torch.bool else mask.masked_fill(~allowed, torch.finfo(mask.dtype).min)
            )
        return args, {**kwargs, "attention_mask": mask}


# -- building


def replaced(overrides: dict) -> dict[str, str]:
    """`{kind: id of what takes its place}` for one layer's overrides."""
    return dict.fromkeys(overrides.get("replace_with_linear", ()), "linear") | overrides.get("replace_with", {})


def sub_block_of(text: str, config, kind: str, pair: bool) -> nn.Module:
    """The sub-block with the id `text`; ValueError if this code has none."""
    for module in SUB_BLOCKS:
        if match := re.fullmatch(module.template.replace("{}", "([1-9][0-9]*)"), text):
            return module(config, kind, pair, *map(int, match.groups()))
    known = ", ".join(module.template.format("<number>") for module in SUB_BLOCKS)
    raise ValueError(f"replace_with: unknown {kind} {text!r:.80}; this code has {known}: take a newer copy of it")


@contextlib.contextmanager
def global_values(config):
    """Stock constructors see the parent's config, in which no attribute differs per layer."""
    spec = config.__dict__.pop("_heterogeneity_spec", None)
    try:
        yield
    finally:
        if spec is not None:
            config.__dict__["_heterogeneity_spec"] = spec


def stock_value(config, name: str, default=None):
    """The parent's value of an attribute, whether or not it differs per layer."""
    return config._getattr_without_heterogeneous_validation(name, default)


def build_layer(layer_class: type, config, overrides: dict, layer_idx: int) -> nn.Module:
    """One layer of a family, with `overrides` as `per_layer_config` holds them."""
    layer_config = copy.copy(config)
    layer_config.__dict__.pop("_heterogeneity_spec", None)
    for name, value in overrides.items():
        if name not in ("skip", *GUARDS):
            setattr(layer_config, name, value)
    layer = layer_class(layer_config, layer_idx)
    for kind, place in places_of(layer).items():
        pair = answers_pair(getattr(layer, place), kind, config.model_type)
        if ("attention" if kind == "attention" else "mlp") in overrides.get("skip", ()):
            norms = norms_of(layer, kind)
            setattr(layer, place, Nothing(pair, kind))
            for norm in norms:
                setattr(layer, norm, NoNorm(getattr(layer, norm)))
        elif text := replaced(overrides).get(kind):
            block = sub_block_of(text, layer_config, kind, pair)
            block.stands_for, block.layer_idx = kind, layer_idx
            setattr(layer, place, block)
        elif kind == "attention" and overrides.get("attention_window"):
            getattr(layer, place).register_forward_pre_hook(
                WindowMask(overrides["attention_window"]), with_kwargs=True
            )
    for module in layer.modules():
        if getattr(module, "config", None) is layer_config:
            module.config = config  # so that set_attn_implementation reaches it
    return layer


def layer_overrides(config) -> dict[int, dict]:
    """`{layer_idx: overrides}` of a heterogeneous config; empty for a stock one."""
    spec = getattr(config, "_heterogeneity_spec", None)
    return dict(spec.per_layer_overrides) if spec is not None else {}


def rebuild(decoder: nn.Module, config) -> "CacheLayers | None":
    """Exchange the layers of a stock decoder that `config` overrides; what prepares its caches, if something must."""
    layers = getattr(decoder, layer_list(decoder))
    overrides = layer_overrides(config)
    for layer_idx, own in overrides.items():
        layers[layer_idx] = build_layer(type(layers[layer_idx]), config, own, layer_idx)
    windows, free = {}, set()
    for layer_idx, own in overrides.items():
        if "attention" in (*own.get("skip", ()), *replaced(own)):
            free.add(layer_idx)
        elif own.get("attention_window"):
            windows[layer_idx] = own["attention_window"]
    states = [m for m in decoder.modules() if isinstance(m, GatedLinearAttention)]
    if states:
        decoder.register_forward_pre_hook(Padding(states), with_kwargs=True)
    if free:
        config.kv_sharing_modes = None  # of a config that was saved
    native = DynamicCache(config=config).layers
    stores = [i for i, layer in enumerate(native) if isinstance(layer, CacheLayerMixin)]
    if free and free.issuperset(stores):
        # one that would keep keys and values keeps its place in the cache, to count tokens in
        counter = min(set(stores) - {block.layer_idx for block in states} or stores, default=0)
        free.discard(counter)
        decoder.register_forward_hook(functools.partial(count_tokens, counter), with_kwargs=True)
    if free:
        config.kv_sharing_modes = ["reuse" if i in free else None for i in range(len(layers))]
    if not (free or windows) and len(stores) == len(layers):
        return None
    cache_layers = CacheLayers(config, windows)
    decoder.register_forward_pre_hook(cache_layers, with_kwargs=True)
    return cache_layers


def count_tokens(layer_idx: int, module: nn.Module, args: tuple, kwargs: dict, output) -> None:
    """Forward hook of a decoder in which no layer attends: callers ask its cache how many tokens went by."""
    values = dict(output.items()) if isinstance(output, dict) else dict(enumerate(output))
    cache = find_cache((*values.values(), *args), kwargs)
    if cache is not None:
        tick = output[0].new_zeros(output[0].shape[0], 1, output[0].shape[1], 1)
        cache.update(tick, tick, layer_idx)


class CacheLayers:
    """Forward pre-hook of a decoder: a dynamic cache learns which layers store nothing, and which only a window.

    Without it, a cache made without the config would stay at length 0 where layer 0 has no attention, and positions
    would be wrong without an error.
    """

    def __init__(self, config, windows: dict[int, int]):
        self.config = config
        # a sliding layer of one token would keep the last 0, which a slice takes for all
        windows = {i: window for i, window in windows.items() if window > 1}
        # stock masks are sized by the first sliding or the first full layer: only where both kinds stay what they were
        native = DynamicCache(config=config)
        full = [i for i, layer in enumerate(native.layers) if type(layer) is DynamicLayer]
        self.windows = windows if not any(native.is_sliding) and set(full) - set(windows) else {}

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.prepare(find_cache(args, kwargs))

    def prepare(self, cache) -> None:
        """Give an empty dynamic cache its layers."""
        if not isinstance(cache, DynamicCache):
            return
        if not cache.layers:
            cache.layers.extend(DynamicCache(config=self.config).layers)
        for i, window in self.windows.items():
            if type(cache.layers[i]) is DynamicLayer and not cache.layers[i].is_initialized:
                cache.layers[i] = DynamicSlidingWindowLayer(window)


class _Heterogeneous:
    """Mixin in front of a stock class: builds it, then exchanges the layers that its config overrides."""

    _auto_class = "AutoModelForCausalLM"

    def __init__(self, config, *args, **kwargs):
        # sequence classification builds its base model through AutoModel, which would ask for trust again
        auto_map = config.__dict__.pop("auto_map", None)
        try:
            with global_values(config):
                super().__init__(config, *args, **kwargs)
        finally:
            if auto_map is not None:
                config.auto_map = auto_map
        decoder = self.get_decoder()
        for model in {self, decoder}:
            CacheName(model)
        self._cache_layers = rebuild(decoder, config)
        if any(isinstance(module, GatedLinearAttention) for module in decoder.modules()):
            self._is_stateful = True  # drafted tokens cannot be taken back
        self.post_init()
        if self.can_generate():
            prove_first_step(self)

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: checkpoints name their tensors as the stock class does (of custom code, expert tensors would be lost)."""
        return False

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = find_cache((), model_kwargs)
        if self._cache_layers is not None and isinstance(cache, DynamicCache):
            # before assisted decoding asks the layers to remember what it may roll back
            self._cache_layers.prepare(cache)
            if generation_config.is_assistant:
                cache.activate_past_recording()

    def save_pretrained(self, *args, **kwargs):
        self.config.auto_map = auto_map(type(self).__name__.removeprefix(PREFIX))
        return super().save_pretrained(*args, **kwargs)


def auto_map(stock_name: str) -> dict[str, str]:
    """`auto_map` of a config.json for a family, from the name of any of its stock classes."""
    family = stock_name
    for ending in ("ForCausalLM", "ForSequenceClassification", "TextModel", "Model"):
        family = family.removesuffix(ending)
    found = {}
    for auto_class, ending in AUTO_CLASSES.items():
        # multimodal families call their text decoder FamilyTextModel
        endings = ("TextModel", "Model") if ending == "Model" else (f"Text{ending}", ending)
        name = next((family + e for e in endings if hasattr(transformers, family + e)), None)
        if name is not None:
            found[auto_class] = f"modeling_puzzle.{PREFIX}{name}"
    return found


_classes: dict[str, type] = {}


def __getattr__(name: str) -> type:
    """`PuzzleXForCausalLM` for any X that transformers has."""
    if not name.startswith(PREFIX) or not hasattr(transformers, name.removeprefix(PREFIX)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _classes:
        stock = getattr(transformers, name.removeprefix(PREFIX))
        # transformers reads off a class's source file what it may switch: off the stock one's, whoever asks first
        for ask in ("_can_set_attn_implementation", "_can_set_experts_implementation"):
            getattr(stock, ask, bool)()
        _classes[name] = type(name, (_Heterogeneous, stock), {"__module__": __name__, "__qualname__": name})
    return _classes[name]
