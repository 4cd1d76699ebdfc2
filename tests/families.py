"""Tiny configurations of every family that the tests know; sizes are shared where the family allows it."""

import torch
import transformers

from hf_puzzle import formats
from hf_puzzle.blocks import Block, num_experts, windowed


SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,  # spread enough for every block to matter
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
HYBRID = ["linear_attention", "full_attention"] * 2
DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8}
FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral_windowed": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "phi3": ("Phi3", {"sliding_window": None}),
    "gemma2": (
        "Gemma2",
        {"head_dim": 16, "sliding_window": 8, "layer_types": ALTERNATING, "query_pre_attn_scalar": 16},
    ),
    "gemma3": (
        "Gemma3Text",
        {"head_dim": 16, "sliding_window": 8, "layer_types": ALTERNATING, "query_pre_attn_scalar": 16},
    ),
    "granite": (
        "Granite",
        {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 2.0},
    ),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 1, 0, 1]}),
    "olmo2": ("Olmo2", {}),
    "gpt_neox": ("GPTNeoX", {}),
    "stablelm": ("StableLm", {}),
    "starcoder2": ("Starcoder2", {"sliding_window": None}),
    "cohere": ("Cohere", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
    ),
    "gpt_oss": (
        "GptOss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ALTERNATING,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
}
# parents whose layers differ: every other mixer recurs, or the first FFN is dense
HYBRIDS = {
    "qwen3_next": (
        "Qwen3Next",
        {"head_dim": 16, "layer_types": HYBRID, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
         "shared_expert_intermediate_size": 48, "mlp_only_layers": [1], **DELTA_NET},
    ),
    "qwen3_5": ("Qwen3_5Text", {"head_dim": 16, "layer_types": HYBRID, **DELTA_NET}),
    "nemotron_h": (
        "NemotronH",
        {"head_dim": 8, "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"], "n_routed_experts": 4,
         "num_experts_per_tok": 2, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 48, "n_group": 1,
         "topk_group": 1, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8},
    ),
    "granite_hybrid": (
        "GraniteMoeHybrid",
        {"layer_types": HYBRID, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32,
         "shared_intermediate_size": 48, **MAMBA, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    ),
    "granite_hybrid_dense": (
        "GraniteMoeHybrid",
        {"layer_types": HYBRID, "num_local_experts": 0, "shared_intermediate_size": 64, **MAMBA},
    ),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2, "intermediate_size": 96, "block_multiple_of": 8}),
    "glm4_moe": (
        "Glm4Moe",
        {"head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1,
         "topk_group": 1, "first_k_dense_replace": 1},
    ),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1,
         "moe_layer_start_index": 1},
    ),
}  # fmt: skip


def family_config(name: str, **overrides):
    """The tiny configuration of a family."""
    stock, own = (FAMILIES | HYBRIDS)[name]
    return getattr(transformers, f"{stock}Config")(**(SIZES | own | overrides))


def spread(model):
    """`model` ready to compute, its biases and norms away from their trivial values."""
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
        elif "experts" in parameter_name or "router" in parameter_name:
            parameter.data.normal_(0.0, 0.1)
    return model.eval().requires_grad_(False)


def family_model(name: str, seed: int = 0, **overrides):
    """A tiny parent of a family; biases and norms are not at their trivial values."""
    config = family_config(name, **overrides)
    torch.manual_seed(seed)
    return spread(transformers.AutoModelForCausalLM.from_config(config))


def own_head(model):
    """`model` with a head of its own, and the config that still calls it tied: transformers 5 opens such a folder so."""
    torch.manual_seed(1)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(0.1 * torch.randn_like(head.weight), requires_grad=False)
    model.config.tie_word_embeddings = True
    return model


def family_child(name: str, blocks: list[Block], seed: int = 0, fmt: str = formats.PER_LAYER, **overrides):
    """A tiny child of a family with random weights and `blocks`."""
    config = formats.child_config(family_config(name, **overrides), blocks, fmt)
    torch.manual_seed(seed)
    return spread(formats.model_class(config)(config))


def block_kinds(name: str, window: int = 6) -> dict[str, Block]:
    """One block of every kind that a family knows; each differs from the parent's block in one sub-block."""
    own = formats.parent_block(family_config(name))
    smaller = f"e{num_experts(own.ffn) // 2}" if num_experts(own.ffn) else own.ffn // 2
    return ({} if name == "gpt_neox" else {"kv_heads": Block(own.attention // 2, own.ffn)}) | {
        "ffn_width" if own.ffn == SIZES["intermediate_size"] else "experts": Block(own.attention, smaller),
        "linear_attention": Block("linear", own.ffn),
        "linear_ffn": Block(own.attention, "linear"),
        "no_attention": Block("none", own.ffn),
        "no_ffn": Block(own.attention, "none"),
        "window": Block(windowed(own.attention, window), own.ffn),
    }


def own_block(name: str) -> Block:
    """The block of a family's parent."""
    return formats.parent_block(family_config(name))
