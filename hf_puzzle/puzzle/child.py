"""From chosen blocks to an ordinary model: DeciLM config and weights, in memory."""

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..blocks import LINEAR, Block
from ..remote.configuration_decilm import FFN_WIDTH_STEP, DeciLMConfig, block_config
from ..remote.modeling_decilm import DeciLMForCausalLM
from .library import BlockLibrary


def decilm_width(width: int) -> int:
    """The width an FFN has in a DeciLM child: the next multiple of 256; the channels added are zero, which is exact."""
    return -(-width // FFN_WIDTH_STEP) * FFN_WIDTH_STEP


def decilm_config(config, blocks: list[Block]) -> DeciLMConfig:
    """The DeciLM config of a child of a Llama-shaped parent.

    Raises:
        ValueError: a block the format cannot express (KV heads that do not divide, say), with its layer.
    """
    block_configs = []
    for layer_idx, block in enumerate(blocks):
        try:
            ffn = decilm_width(block.ffn) if isinstance(block.ffn, int) else block.ffn
            block_configs.append(block_config(config.num_attention_heads, config.hidden_size, block.attention, ffn))
        except ValueError as error:
            raise ValueError(f"layer {layer_idx}, block {block.id}: {error}") from None
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


def empty_child(
    config, blocks: list[Block], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> DeciLMForCausalLM:
    """A child with random weights: enough to measure speed and memory."""
    child = DeciLMForCausalLM(decilm_config(config, blocks)).to(device)
    return cast_parameters(child, dtype).eval()


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Change the dtype of the parameters, not of the buffers: rotary frequencies stay float32, as in a loaded model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


# our linear blocks carry one tensor `weight`; DeciLM names it by what it replaces
_LINEAR_NAMES = {"attention": "linear_attn.weight", "ffn": "linear_mlp.weight"}


def _padded(name: str, tensor: torch.Tensor, channels: int) -> torch.Tensor:
    """An FFN tensor with `channels` more channels of zeros."""
    if channels == 0 or name == "down_proj.bias":
        return tensor
    return F.pad(tensor, (0, channels) if name == "down_proj.weight" or tensor.ndim == 1 else (0, 0, 0, channels))


def assemble_child(
    parent: PreTrainedModel, library: BlockLibrary, blocks: list[Block], own: Block
) -> DeciLMForCausalLM:
    """The child of `parent` with `blocks`, on the parent's device and dtype.

    Args:
        own: the parent's own block; layers that keep it take the parent's weights.
    """
    state = parent.state_dict()
    weights = {k: v for k, v in state.items() if not k.startswith("model.layers.")}
    for layer_idx, block in enumerate(blocks):
        modules = library.modules(parent, layer_idx, block, own)
        prefix = f"model.layers.{layer_idx}"
        for kind, place, norm, variant, module in (
            ("attention", "self_attn", "input_layernorm", block.attention, modules[0]),
            ("ffn", "mlp", "post_attention_layernorm", block.ffn, modules[1]),
        ):
            tensors = module.state_dict()
            if not tensors:
                continue
            weights[f"{prefix}.{norm}.weight"] = state[f"{prefix}.{norm}.weight"]
            for name, tensor in tensors.items():
                if kind == "ffn" and isinstance(variant, int):
                    tensor = _padded(name, tensor, decilm_width(variant) - variant)
                weights[f"{prefix}.{place}.{_LINEAR_NAMES[kind] if variant == LINEAR else name}"] = tensor
    with torch.device("meta"):
        child = DeciLMForCausalLM(decilm_config(parent.config, blocks))
    missing, unexpected = child.load_state_dict(
        {k: v.detach().clone() for k, v in weights.items()}, strict=False, assign=True
    )
    child.tie_weights()
    missing = [name for name in missing if not (name == "lm_head.weight" and parent.config.tie_word_embeddings)]
    assert not missing, missing
    assert not unexpected, unexpected
    child.model.rotary_emb = type(child.model.rotary_emb)(child.config)  # its buffers were on meta too
    child.generation_config = parent.generation_config
    return child.to(parent.device).eval()
