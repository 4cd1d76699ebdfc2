"""NVIDIA's published DeciLM models: their layers as run-length strings, and config.json files made from them.

`attention/ffn_mult` with a repeat count: gN has N query heads in a group, L is linear, N none, n no FFN.
"""

from hf_puzzle.remote.configuration_decilm import block_config


LAYOUTS = {
    "51B": """g8/1.3125 g16/2.625 g8/5.25x3 g32/2.625x2 g64/2.625x2 g32/2.625x2 L/2.625 g64/2.625 g32/2.625x2 L/1.3125
        g8/5.25x19 L/2.625 g8/5.25x2 L/2.625 L/5.25 L/2.625x3 N/1.3125 L/1.3125 g8/5.25 N/1.3125 L/1.3125 N/1.3125
        g8/5.25 L/1.3125 N/1.3125 L/1.3125x2 N/1.3125x2 L/1.3125 N/1.3125x2 L/1.3125x4 g8/5.25x17""",
    "49B": """g8/2.625 g8/5.25x5 N/2.625x2 g8/5.25x3 N/3.28125 g8/5.25x30 N/1.3125 N/2.625x2 N/1.3125 N/5.25 N/1.3125
        N/2.625 N/1.3125x3 g8/5.25 N/1.3125 N/1.0x2 N/1.3125 N/1.0x3 N/1.3125x2 N/0.5x2 N/1.0x2 N/0.5x2 N/1.0 N/0.5x2
        g8/5.25x9""",
    "253B": """g16/0.4875 g16/0.975 g16/1.4625x6 g16/1.95 N/nx4 g16/1.95x3 g16/4.875x2 N/nx6 g16/4.875x3 N/nx5
        g16/4.875x3 g16/2.4375 N/nx3 g16/1.95x3 N/1.95 g16/4.875 N/4.875 N/nx5 g16/4.875x4 N/nx5 g16/4.875x4 N/nx5
        g16/4.875x4 N/nx5 g16/4.875x4 N/nx5 g16/4.875 g16/3.4125x3 N/nx2 g16/2.925 g16/2.4375x3 N/2.4375x2 g16/2.4375
        N/n N/2.4375x7 g16/2.4375 N/nx5 g16/2.925 g16/4.875 N/4.875 g16/4.875 N/nx8 N/36.5625 N/nx8 N/39.0 N/nx8
        N/31.40625 N/nx5 N/27.5625 N/1.95 g16/1.95 g16/2.4375 N/n g16/2.4375x2 g16/3.4125 g16/4.875x4 g16/2.4375""",
}
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
