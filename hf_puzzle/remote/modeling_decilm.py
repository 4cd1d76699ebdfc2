"""DeciLM (`nemotron-nas`) in PyTorch: a Llama whose attention and FFN differ from layer to layer.

Every sub-block that exists is pre-norm and residual, x += f(norm(x)); one that does not exist has no norm either.
An all-GQA model computes exactly what transformers' Llama computes. Runs on transformers 4.57 and 5.x.
Shapes: B batch, L length, D hidden_size, H query heads, K key-value heads, E head_dim.
"""

import inspect

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GenericForSequenceClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
    rotate_half,
)
from transformers.utils import can_return_tuple

from .caches_puzzle import OUTPUT_NAME, check_not_lost, is_cache, is_paged, one_cache, prove_first_step
from .configuration_decilm import DeciLMConfig, ffn_width


_MASK_ARGUMENTS = inspect.signature(create_causal_mask).parameters
_EMBEDS = "inputs_embeds" if "inputs_embeds" in _MASK_ARGUMENTS else "input_embeds"
_CACHE = "cache" if "cache" in _MASK_ARGUMENTS else "past_key_values"
# transformers 4.57's masks and static caches are addressed by cache_position; 5.x caches count for themselves
_USES_CACHE_POSITION = "cache_position" in _MASK_ARGUMENTS

AUTO_MAP = {
    "AutoModel": "modeling_decilm.DeciLMModel",
    "AutoModelForCausalLM": "modeling_decilm.DeciLMForCausalLM",
    # `transformers serve` loads remote code through this auto class only; the decision pipeline scores options by the
    # logits of any causal LM
    "AutoModelForDecision": "modeling_decilm.DeciLMForCausalLM",
    "AutoModelForSequenceClassification": "modeling_decilm.DeciLMForSequenceClassification",
}


class DeciLMRMSNorm(nn.Module):
    """RMSNorm in float32, bit-equal to LlamaRMSNorm."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.dtype == self.weight.dtype == torch.float32:
            return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
        # the fused kernel rounds half precision once, Llama twice
        upcast = hidden_states.to(torch.float32)
        upcast = upcast * torch.rsqrt(upcast.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * upcast.to(hidden_states.dtype)


# Spelled torch.nn.Module: transformers greps sources for attention classes of nn.Module and then wants a literal
# call in them to allow set_attn_implementation, a different literal in 4.57 and in 5.x.
class DeciLMAttention(torch.nn.Module):
    """Grouped-query attention with `num_attention_heads / n_heads_in_group` key-value heads.

    `cache_slot` counts live attentions only: generation takes the cache's length from slot 0, which must be filled.
    """

    def __init__(self, config: DeciLMConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.cache_slot = sum(
            block.attention.n_heads_in_group is not None for block in config.block_configs[:layer_idx]
        )
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.block_configs[layer_idx].attention.n_heads_in_group
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True

        query_size = config.num_attention_heads * self.head_dim
        key_value_size = query_size // self.num_key_value_groups
        qkv_bias = config.attention_bias or getattr(config, "qkv_bias", False)
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        cache=None,
        cache_kwargs: dict | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states: (B, L, D); position_embeddings: cos and sin, each (B or 1, L, E)."""
        shape = hidden_states.shape[:-1]
        cos, sin = position_embeddings
        query, key = self.q_proj(hidden_states), self.k_proj(hidden_states)
        if shape[-1] == 1:
            # queries and keys turn by the same angles: when the overhead of operations counts, turn both at once
            heads = (query.shape[-1] // self.head_dim, key.shape[-1] // self.head_dim)
            both = torch.cat((query, key), dim=-1).view(*shape, -1, self.head_dim).transpose(1, 2)
            both = both * cos.unsqueeze(1) + rotate_half(both) * sin.unsqueeze(1)
            query, key = both.split(heads, dim=1)
        else:
            query = query.view(*shape, -1, self.head_dim).transpose(1, 2)
            key = key.view(*shape, -1, self.head_dim).transpose(1, 2)
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
        value = self.v_proj(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)

        if cache is not None and _CACHE == "cache":
            key, value = cache.update(key, value, self.cache_slot, kwargs=kwargs)
        elif is_paged(cache):
            kwargs["cache"] = cache  # up to 5.23 attention functions fill it
        elif cache is not None:
            key, value = cache.update(key, value, self.cache_slot, cache_kwargs)
        attend = ALL_ATTENTION_FUNCTIONS.get(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*shape, -1)), weights


class DeciLMLinearAttention(torch.nn.Module):
    """One linear map in the place of attention; it mixes no positions."""

    def __init__(self, config: DeciLMConfig):
        super().__init__()
        self.linear_attn = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, None]:
        return self.linear_attn(hidden_states), None


class DeciLMGatedMLP(nn.Module):
    def __init__(self, config: DeciLMConfig, layer_idx: int):
        super().__init__()
        width = ffn_width(config.block_configs[layer_idx].ffn.ffn_mult, config.hidden_size)
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class DeciLMLinearMLP(nn.Module):
    """One linear map in the place of the FFN."""

    def __init__(self, config: DeciLMConfig):
        super().__init__()
        self.linear_mlp = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.linear_mlp(hidden_states)


class DeciLMDecoderLayer(GradientCheckpointingLayer):
    """One layer, called as a Llama layer is; `self_attn` and `mlp` are None where the block has none."""

    def __init__(self, config: DeciLMConfig, layer_idx: int):
        super().__init__()
        attention, ffn = config.block_configs[layer_idx].attention, config.block_configs[layer_idx].ffn
        self.self_attn = self.mlp = None
        if not attention.no_op:
            linear = attention.replace_with_linear
            self.self_attn = DeciLMLinearAttention(config) if linear else DeciLMAttention(config, layer_idx)
            self.input_layernorm = DeciLMRMSNorm(config.hidden_size, config.rms_norm_eps)
        if not ffn.no_op:
            self.mlp = DeciLMLinearMLP(config) if ffn.replace_with_linear else DeciLMGatedMLP(config, layer_idx)
            self.post_attention_layernorm = DeciLMRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, attentions: list | None = None, **kwargs) -> torch.Tensor:
        """(B, L, D) to (B, L, D); `kwargs` go to the attention, its weights or None are appended to `attentions`."""
        weights = None
        if self.self_attn is not None:
            update, weights = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
            hidden_states = hidden_states + update
        if self.mlp is not None:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        if attentions is not None:
            attentions.append(weights)
        return hidden_states


class DeciLMPreTrainedModel(PreTrainedModel):
    config_class = DeciLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeciLMDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def save_pretrained(self, *args, **kwargs):
        """As usual, and the folder opens as any of this file's models: upstream would name the saved class only."""
        self.config.auto_map = dict(AUTO_MAP)
        return super().save_pretrained(*args, **kwargs)


class DeciLMModel(DeciLMPreTrainedModel):
    """The decoder without a head."""

    def __init__(self, config: DeciLMConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(DeciLMDecoderLayer(config, i) for i in range(len(config.block_configs)))
        self.norm = DeciLMRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.has_attention = any(block.attention.n_heads_in_group is not None for block in config.block_configs)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache=None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """As Llama's: attention_mask (B, cached + L) or 4D and used as it is, position_ids (B or 1, L).

        `cache` is transformers' name for `past_key_values` from 5.24 on; either will do on every version.
        `hidden_states` holds the embeddings, each layer's output, and in the last place the normed one.
        `attentions` has one entry per layer, None where there is no attention.

        Raises:
            CacheError: a cache under another name, or a mask over tokens whose cache is missing.
        """
        cache = one_cache({"past_key_values": past_key_values, "cache": cache}, kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        config = self.config
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = config.use_cache if use_cache is None else use_cache
        batch, length, _ = hidden_states.shape
        check_not_lost(cache, use_cache, length, attention_mask)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            if is_paged(cache) or (cache is not None and cache.get_seq_length() > 0):
                raise ValueError(
                    "gradient checkpointing runs layers twice, which would fill the cache twice: give none"
                )
            cache = None
        elif use_cache and cache is None:
            cache = DynamicCache()
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states

        positions = kwargs.pop("cache_position", None)
        if positions is None and (position_ids is None or _USES_CACHE_POSITION):
            positions = torch.arange(length, device=hidden_states.device)
            if is_cache(cache):
                positions = positions + cache.get_seq_length()
        if position_ids is None:
            position_ids = positions.unsqueeze(0)
        cache_kwargs = {"cache_position": positions} if _USES_CACHE_POSITION else None

        if self.has_attention:
            kwargs.update(
                attention_mask=create_causal_mask(
                    config=config,
                    attention_mask=attention_mask,
                    position_ids=position_ids,
                    **{_EMBEDS: hidden_states, _CACHE: cache},
                    **(cache_kwargs or {}),
                ),
                position_embeddings=self.rotary_emb(hidden_states, position_ids),
                position_ids=position_ids,
                cache=cache,
                cache_kwargs=cache_kwargs,
            )
        elif is_cache(cache):
            # nobody else writes to the cache, and its length is how callers know how many tokens went by
            tick = hidden_states.new_zeros(batch, 1, length, 1)
            cache.update(tick, tick, 0, cache_kwargs)

        all_hidden_states = [] if output_hidden_states else None
        attentions = [] if output_attentions else None
        for layer in self.layers:
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            hidden_states = layer(hidden_states, attentions=attentions, **kwargs)
        hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            hidden_states=(*all_hidden_states, hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            **{OUTPUT_NAME: cache},
        )


class DeciLMForCausalLM(DeciLMPreTrainedModel, GenerationMixin):
    """The decoder with a language-model head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DeciLMConfig):
        super().__init__(config)
        self.model = DeciLMModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
        prove_first_step(self)

    def _get_static_cache_init_shape(self):
        """None: a static cache takes its shapes from the first keys, since KV heads differ from slot to slot."""

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache=None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """As Llama's: logits (B, kept, vocab_size), and with labels (B, L), -100 ignored, the mean loss."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        # one behind the other: of a frozen head, matmul would make a copy for each row
        logits = self.lm_head(outputs.last_hidden_state[:, kept].contiguous())
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{OUTPUT_NAME: getattr(outputs, OUTPUT_NAME)},
        )


class DeciLMForSequenceClassification(GenericForSequenceClassification, DeciLMPreTrainedModel):
    """The decoder with a linear map from its state at each row's last token, padding aside, to `num_labels` logits."""

    def __init__(self, config: DeciLMConfig):
        # past the generic __init__: it makes the decoder with AutoModel, which asks once more whether to trust this file
        DeciLMPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = DeciLMModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


DeciLMModel.register_for_auto_class("AutoModel")
DeciLMForCausalLM.register_for_auto_class("AutoModelForCausalLM")
DeciLMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
