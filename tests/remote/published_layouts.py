"""config.json files of NVIDIA's published DeciLM models, made from the run-length strings of their layers."""

from hf_puzzle.puzzle.published import LAYOUTS
from hf_puzzle.remote.configuration_decilm import block_config


NUM_LAYERS = {"51B": 80, "49B": 80, "253B": 162}
SIZES = {"51B": (8192, 64), "49B": (8192, 64), "253B": (16384, 128)}  # hidden_size, num_attention_heads
# the smallest heads that every group divides, and an even head_dim
REDUCED = {"51B": (128, 64), "49B": (64, 16), "253B": (64, 16)}


def block_configs(layout: str) -> list[dict]:
    """The published JSON of every layer."""
    blocks = []
    for item in layout.split():
        kind, _, count = item.partition("x")
        attention, ffn = kind.split("/")
        for _ in range(int(count or 1)):
            block = block_config(1, 256, "none" if attention == "N" else "linear", "none" if ffn == "n" else "linear")
            if attention.startswith("g"):
                block["attention"] |= {"n_heads_in_group": int(attention[1:]), "replace_with_linear": False}
            if ffn != "n":
                block["ffn"] |= {"ffn_mult": float(ffn), "replace_with_linear": False}
            blocks.append(block)
    return blocks


def config_json(name: str, reduced: bool = False) -> dict:
    """config.json as NVIDIA published it; `reduced` to a width of 64 or 128 with the same ffn_mults."""
    hidden, heads = (REDUCED if reduced else SIZES)[name]
    scaling = {"factor": 16.0 if name == "253B" else 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {
        "architectures": ["DeciLMForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_decilm.DeciLMConfig",
            "AutoModelForCausalLM": "modeling_decilm.DeciLMForCausalLM",
        },
        "block_configs": block_configs(LAYOUTS[name]),
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "nemotron-nas",
        "num_attention_heads": heads,
        "num_hidden_layers": NUM_LAYERS[name],
        "num_key_value_heads": None,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {**scaling, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.48.3",
        "use_cache": True,
        "vocab_size": 96 if reduced else 128256,
    }
