"""Configuration of DeciLM (`nemotron-nas`) checkpoints: a Llama whose blocks differ from layer to layer.

The JSON is NVIDIA's published format, generation v1, which vLLM, SGLang, TensorRT-LLM, llama.cpp, MLX-LM and
ExLlama read. Each layer has one attention and one ffn entry in `block_configs`; either may be a single linear map
(`replace_with_linear`) or absent (`no_op`). Runs on transformers 4.57 and 5.x.
"""

from typing import Literal

from transformers import PretrainedConfig


ATTENTION_DEFAULTS = {
    "n_heads_in_group": None,
    "no_op": False,
    "replace_with_linear": False,
    "sparsify": None,
    "window_length": None,
    "num_sink_tokens": None,
    "use_prefill_window_in_sink_attention": False,
    "unshifted_sink": False,
}
FFN_DEFAULTS = {"ffn_mult": None, "no_op": False, "replace_with_linear": False, "sparsify": None}
FFN_WIDTH_STEP = 256


def ffn_width(ffn_mult: float, hidden_size: int) -> int:
    """Rows of gate_proj: the smallest multiple of 256 that is at least trunc(2 * ffn_mult * hidden_size / 3)."""
    return -(-int(2 * ffn_mult * hidden_size / 3) // FFN_WIDTH_STEP) * FFN_WIDTH_STEP


def ffn_mult(width: int, hidden_size: int) -> float:
    """The inverse of `ffn_width`, at the format's 6 decimals; ValueError for a width the format cannot express."""
    mult = round(1.5 * width / hidden_size, 6)
    if width <= 0 or ffn_width(mult, hidden_size) != width:
        raise ValueError(
            f"DeciLM cannot express an FFN of width {width} at hidden size {hidden_size}: widths are positive "
            f"multiples of {FFN_WIDTH_STEP}; prune to one, or pad gate/up rows and down columns with zeros"
        )
    return mult


def block_config(
    num_attention_heads: int,
    hidden_size: int,
    attention: int | Literal["linear", "none"],
    ffn: int | Literal["linear", "none"],
) -> dict:
    """One entry of `block_configs` as plain JSON, from `attention` = number of KV heads and `ffn` = width.

    ValueError if the KV heads do not divide the query heads or the width cannot be expressed.
    """
    attention_entry, ffn_entry = dict(ATTENTION_DEFAULTS), dict(FFN_DEFAULTS)
    for name, value, entry in (("attention", attention, attention_entry), ("ffn", ffn, ffn_entry)):
        if isinstance(value, str):
            if value not in ("linear", "none"):
                raise ValueError(f"{name}={value!r}: expected a positive integer, 'linear' or 'none'")
            entry["replace_with_linear" if value == "linear" else "no_op"] = True
    if not isinstance(attention, str):
        if attention < 1 or num_attention_heads % attention:
            raise ValueError(f"attention={attention}: KV heads must divide num_attention_heads={num_attention_heads}")
        attention_entry["n_heads_in_group"] = num_attention_heads // attention
    if not isinstance(ffn, str):
        ffn_entry["ffn_mult"] = ffn_mult(ffn, hidden_size)
    return {"attention": attention_entry, "ffn": ffn_entry}


class Block(dict):
    """A JSON object whose keys are attributes too: vLLM, SGLang and TensorRT-LLM read `block.attention.no_op`."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self[name] = value


def _filled(entry, defaults: dict, where: str) -> Block:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r}: expected an object with the keys {sorted(defaults)}")
    if unknown := sorted(set(entry) - set(defaults)):
        raise ValueError(f"{where} has unknown keys {unknown}: the keys of this format are {sorted(defaults)}")
    return Block({**defaults, **entry})


def _validated_block(block, layer_idx: int, num_attention_heads: int) -> Block:
    """A complete `Block` from one entry of `block_configs`; ValueError naming the layer and field if it is wrong."""
    where = f"block_configs[{layer_idx}]"
    block = _filled(block, {"attention": None, "ffn": None}, where)
    for name, defaults, size in (
        ("attention", ATTENTION_DEFAULTS, "n_heads_in_group"),
        ("ffn", FFN_DEFAULTS, "ffn_mult"),
    ):
        entry = block[name] = _filled(block[name], defaults, f"{where}.{name}")
        value = entry[size]
        if entry.no_op and entry.replace_with_linear:
            raise ValueError(f"{where}.{name}: no_op and replace_with_linear exclude each other")
        if entry.no_op or entry.replace_with_linear:
            # llama.cpp and ExLlama decide by null-ness, not by the flags
            if given := [key for key in (size, "window_length", "num_sink_tokens") if entry.get(key) is not None]:
                raise ValueError(
                    f"{where}.{name}.{given[0]} must be null where {name} is no_op or replace_with_linear"
                )
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f"{where}.{name}.{size} is {value!r}: expected a positive number, or set no_op")

    groups, mult = block.attention.n_heads_in_group, block.ffn.ffn_mult
    if groups is not None and (groups != int(groups) or num_attention_heads % groups):
        raise ValueError(
            f"{where}.attention.n_heads_in_group is {groups}: it must divide num_attention_heads={num_attention_heads}"
        )
    for key in ("window_length", "num_sink_tokens", "use_prefill_window_in_sink_attention", "unshifted_sink"):
        if block.attention[key]:
            raise ValueError(f"{where}.attention.{key} is {block.attention[key]!r}: this code has full attention only")
    if mult is not None:
        block.ffn.ffn_mult = round(float(mult), 6)
    return block


def _standard_rope(
    rope_theta: float | None, rope_scaling: dict | None, rope_parameters: dict | None, max_position_embeddings: int
) -> dict:
    """transformers 5's `rope_parameters`, from any of the layouts found in published config.json files."""
    rope = {**(rope_parameters or {}), **(rope_scaling or {})}
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", 10000.0 if rope_theta is None else rope_theta)
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        rope.setdefault("original_max_position_embeddings", max_position_embeddings)
    return rope


class DeciLMConfig(PretrainedConfig):
    """Configuration of a DeciLM model; `num_hidden_layers` may be left out, it is `len(block_configs)`.

    `attention_bias` puts a bias on q, k, v and o; `qkv_bias` on q, k and v only (Qwen2-like parents). ValueError
    naming the layer and the field for `block_configs` that the model could not be built from.
    """

    model_type = "nemotron-nas"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=128256,
        hidden_size=8192,
        num_hidden_layers=None,
        num_attention_heads=64,
        block_configs=None,
        head_dim=None,
        hidden_act="silu",
        max_position_embeddings=131072,
        initializer_range=0.02,
        rms_norm_eps=1e-5,
        use_cache=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        pretraining_tp=1,
        tie_word_embeddings=False,
        rope_theta=None,
        rope_scaling=None,
        rope_parameters=None,
        attention_bias=False,
        qkv_bias=False,
        attention_dropout=0.0,
        mlp_bias=False,
        **kwargs,
    ):
        # per-layer sizes live in block_configs; the published files carry these two keys as null
        kwargs.pop("intermediate_size", None)
        kwargs.pop("num_key_value_heads", None)
        super().__init__(**kwargs)
        block_configs = list(block_configs or ())
        if num_hidden_layers not in (None, len(block_configs)):
            raise ValueError(
                f"block_configs has {len(block_configs)} entries for num_hidden_layers={num_hidden_layers}"
            )
        if head_dim is None and (num_attention_heads < 1 or hidden_size % num_attention_heads):
            raise ValueError(f"num_attention_heads={num_attention_heads} must divide hidden_size={hidden_size}")

        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = len(block_configs)
        self.num_attention_heads = num_attention_heads
        self.block_configs = [_validated_block(block, i, num_attention_heads) for i, block in enumerate(block_configs)]
        self.intermediate_size = None
        self.num_key_value_heads = None
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pretraining_tp = pretraining_tp
        self.tie_word_embeddings = tie_word_embeddings
        self.rope_parameters = _standard_rope(rope_theta, rope_scaling, rope_parameters, max_position_embeddings)
        self.attention_bias = attention_bias
        # vLLM lets a qkv_bias that is present, even a false one, overrule attention_bias
        if qkv_bias:
            self.qkv_bias = True
        self.attention_dropout = attention_dropout
        self.mlp_bias = mlp_bias

    @property
    def rope_theta(self) -> float:
        return self.rope_parameters["rope_theta"]

    @rope_theta.setter
    def rope_theta(self, value: float):
        self.rope_parameters["rope_theta"] = value

    @property
    def rope_scaling(self) -> dict | None:
        return None if self.rope_parameters["rope_type"] == "default" else dict(self.rope_parameters)

    @rope_scaling.setter
    def rope_scaling(self, value: dict | None):
        self.rope_parameters = _standard_rope(self.rope_theta, value, None, self.max_position_embeddings)

    @property
    def torch_dtype(self):
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, value):
        self.dtype = value

    def to_dict(self) -> dict:
        """The published JSON: legacy keys beside the new ones, so that every engine finds its own.

        With scaled RoPE, `rope_theta` is inside both dicts and not beside them: transformers 5's AutoTokenizer
        crashes on the pair of a top-level `rope_theta` and a scaled `rope_scaling` when it does not trust this code.
        """
        output = super().to_dict()
        output["block_configs"] = [{name: dict(entry) for name, entry in b.items()} for b in self.block_configs]
        output["num_key_value_heads"] = None
        output["rope_parameters"] = dict(self.rope_parameters)
        output["rope_scaling"] = self.rope_scaling
        if self.rope_scaling is None:
            output["rope_theta"] = self.rope_theta
        if self.head_dim * self.num_attention_heads == self.hidden_size:
            output.pop("head_dim", None)
        if output.get("dtype") is not None:
            output["torch_dtype"] = output["dtype"]
        return output


DeciLMConfig.register_for_auto_class()
