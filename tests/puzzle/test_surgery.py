"""Cutting and swapping blocks: what must be the identity is, and the parent comes back bit by bit."""

import pytest
import torch
from torch import nn
from transformers import (
    AwqConfig,
    BitsAndBytesConfig,
    DeepseekV3Config,
    GPTQConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    QuantoConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from hf_puzzle.puzzle.importance import channel_ranking
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.surgery import (
    UnsupportedParentError,
    check_parent,
    empty_block,
    layers_of,
    load_block,
    only_layers,
    run_layer,
    swapped,
)
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
from hf_puzzle.remote.modeling_puzzle import Nothing


@pytest.fixture(params=["llama", "qwen2", "biased_llama", "grouped"])
def parent(request, make_parent):
    if request.param == "biased_llama":
        return make_parent(attention_bias=True, mlp_bias=True)
    if request.param == "grouped":
        return make_parent(num_attention_heads=8, num_key_value_heads=4, head_dim=12)
    return make_parent(request.param)


def sub_block(parent, kind, layer_idx=1):
    layer = layers_of(parent)[layer_idx]
    return layer.self_attn if kind == "attention" else layer.mlp


def cut(parent, kind, variant, channels=None):
    """A variant of layer 1's sub-block, ready to run."""
    own = layers_of(parent)[1]
    weights = initial_weights(own, kind, variant, parent.config, channels)
    return load_block(empty_block(own, kind, variant, parent.config, 1), weights), weights


def test_pooling_to_the_same_number_of_heads_is_the_identity(parent):
    own = sub_block(parent, "attention").state_dict()
    pooled = initial_weights(layers_of(parent)[1], "attention", 4, parent.config)
    assert set(pooled) == set(own)
    assert all(torch.equal(own[name], tensor) for name, tensor in pooled.items())


def test_keeping_all_channels_is_the_identity(parent):
    own = sub_block(parent, "ffn").state_dict()
    channels = torch.randperm(768, generator=torch.Generator().manual_seed(0))
    kept = initial_weights(layers_of(parent)[1], "ffn", 768, parent.config, channels)
    assert set(kept) == set(own)
    assert all(torch.equal(own[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("heads", [1, 2])
def test_pooled_heads_are_means_of_neighbours_biases_included(parent, heads):
    own = sub_block(parent, "attention").state_dict()
    module, weights = cut(parent, "attention", heads)
    group = 4 // heads
    for name, tensor in own.items():
        if name[0] in "kv":
            head_dim = tensor.shape[0] // 4
            for h in range(heads):
                rows = [tensor[i * head_dim : (i + 1) * head_dim] for i in range(h * group, (h + 1) * group)]
                expected = sum(rows) / group
                torch.testing.assert_close(weights[name][h * head_dim : (h + 1) * head_dim], expected)
        else:
            assert torch.equal(weights[name], tensor)
    assert sum(p.numel() for p in module.parameters()) == sum(t.numel() for t in weights.values())


@torch.no_grad()
def test_pooling_equal_heads_changes_no_output(parent, calibration):
    own = sub_block(parent, "attention")
    for projection in (own.k_proj, own.v_proj):
        for tensor in projection.parameters():
            heads = tensor.view(2, 2, -1)
            heads[:, 1] = heads[:, 0]
    before = parent(calibration).logits
    module, _ = cut(parent, "attention", 2)
    with swapped(parent, {1: (module, sub_block(parent, "ffn"))}):
        torch.testing.assert_close(parent(calibration).logits, before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_narrow_ffn_is_the_parent_with_the_other_channels_silent(parent):
    own = sub_block(parent, "ffn")
    channels = torch.randperm(768, generator=torch.Generator().manual_seed(0))
    module, weights = cut(parent, "ffn", 256, channels)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    got = module(x)
    silent = own.down_proj.weight
    silent[:, channels[256:]] = 0
    torch.testing.assert_close(got, own(x), rtol=1e-4, atol=1e-5)
    assert weights["gate_proj.weight"].shape == (256, 64)


def test_narrower_ffns_are_nested(llama, importance):
    channels = channel_ranking(importance["layer_1"])
    own = layers_of(llama)[1]
    rows = [
        {tuple(row.tolist()) for row in initial_weights(own, "ffn", width, llama.config, channels)["up_proj.weight"]}
        for width in (256, 512, 768)
    ]
    assert rows[0] < rows[1] < rows[2]


@torch.no_grad()
def test_linear_attention_is_attention_that_sees_one_token(parent):
    if any(name.endswith("bias") for name, _ in sub_block(parent, "attention").named_parameters()):
        for name, parameter in sub_block(parent, "attention").named_parameters():
            if name.endswith("bias"):
                parameter.zero_()  # a linear block carries no bias
    module, _ = cut(parent, "attention", "linear")
    one_token = torch.arange(3, 9)[:, None]
    before = parent(one_token).logits
    with swapped(parent, {1: (module, sub_block(parent, "ffn"))}):
        torch.testing.assert_close(parent(one_token).logits, before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_linear_ffn_is_down_times_up(parent):
    own = sub_block(parent, "ffn")
    module, weights = cut(parent, "ffn", "linear")
    x = torch.randn(2, 5, 64)
    torch.testing.assert_close(module(x), x @ own.up_proj.weight.T @ own.down_proj.weight.T, rtol=1e-4, atol=1e-4)
    assert set(weights) == {"linear_mlp.weight"}


def test_no_block_adds_nothing(llama):
    x = torch.randn(2, 5, 64)
    assert torch.equal(Nothing(False)(x), torch.zeros_like(x))
    output, weights = Nothing(True)(x, attention_mask=None)
    assert torch.equal(output, torch.zeros_like(x))
    assert weights is None
    assert initial_weights(layers_of(llama)[1], "ffn", "none", llama.config) == {}


@torch.no_grad()
def test_layer_without_blocks_is_a_model_without_that_layer(llama, calibration):
    with swapped(llama, {1: (Nothing(True), Nothing(False))}):
        without = llama(calibration).logits
    layers = llama.model.layers
    llama.model.layers = nn.ModuleList(layer for i, layer in enumerate(layers) if i != 1)
    try:
        torch.testing.assert_close(llama(calibration, use_cache=False).logits, without, rtol=0, atol=0)
    finally:
        llama.model.layers = layers


@pytest.mark.parametrize("fails", [False, True])
def test_swapped_gives_the_parent_back(llama, fails, state_of, assert_bit_equal):
    before, modules = state_of(llama), [(layer.self_attn, layer.mlp) for layer in layers_of(llama)]
    try:
        with swapped(llama, {0: (Nothing(True), Nothing(False)), 3: (Nothing(True), modules[3][1])}):
            assert isinstance(layers_of(llama)[0].mlp, Nothing)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [(layer.self_attn, layer.mlp) for layer in layers_of(llama)] == modules
    assert_bit_equal(before, state_of(llama))


@torch.no_grad()
def test_layers_one_by_one_are_the_model(parent, calibration):
    full = parent(calibration, use_cache=False, output_hidden_states=True)
    state = parent.get_input_embeddings()(calibration)
    for i in range(4):
        torch.testing.assert_close(state, full.hidden_states[i], rtol=0, atol=1e-5)
        with only_layers(parent, i, states=state):
            torch.testing.assert_close(
                parent(inputs_embeds=state, use_cache=False).logits, full.logits, rtol=0, atol=1e-5
            )
        state = run_layer(parent, i, state)
    assert len(layers_of(parent)) == 4


def test_only_layers_comes_back_after_an_error(llama):
    layers = layers_of(llama)
    with pytest.raises(KeyError), only_layers(llama, 2):
        raise KeyError
    assert layers_of(llama) is layers


def test_supported_parents(make_parent):
    for family in ("llama", "qwen2", "mistral"):
        check_parent(make_parent(family).config, "decilm")


SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    "config, message",
    [
        (Qwen3Config(**SMALL), "family 'qwen3'.*per_layer"),
        (MistralConfig(**SMALL, sliding_window=128), "sliding window of 128 tokens"),
        (
            Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=64, max_window_layers=1),
            "sliding window of 64",
        ),
        (Qwen2Config(**SMALL, hidden_act="gelu"), "hidden_act is 'gelu'"),
    ],
)
def test_what_decilm_cannot_express_is_named_and_fits_the_other_format(config, message):
    with pytest.raises(UnsupportedParentError, match=message):
        check_parent(config, "decilm")
    check_parent(config)


@pytest.mark.parametrize(
    "config, message",
    [
        (
            OPTConfig(hidden_size=64, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4),
            r"layer 0: fc1 \(Linear\), fc2 .* `self_attn` could be",
        ),
        (T5Config(), "encoder-decoder"),
        (MambaConfig(hidden_size=32, num_hidden_layers=2), "'mamba' is not supported"),
        (DeepseekV3Config(**SMALL), "multi-head latent attention"),
        (DeciLMConfig(64, 64, num_attention_heads=4, block_configs=[block_config(4, 64, 2, 256)]), "child already"),
    ],
)
def test_unsupported_parents_are_refused_by_what_stands_in_the_way(config, message):
    with pytest.raises(UnsupportedParentError, match=message):
        check_parent(config)


@pytest.mark.parametrize(
    "quantization, name",
    [
        ({"quant_method": "fp8"}, "fp8"),
        (BitsAndBytesConfig(load_in_4bit=True), "bitsandbytes"),
        (GPTQConfig(4), "gptq"),
        (AwqConfig(), "awq"),
        (QuantoConfig("int8"), "quanto"),
    ],
)
def test_quantised_parents_are_refused_by_name(quantization, name):
    config = Qwen2Config(**SMALL, quantization_config=quantization)
    with pytest.raises(UnsupportedParentError, match=rf"quantization_config: {name}\).*dequantise"):
        check_parent(config)


def test_qwen2_without_its_window_is_fine():
    check_parent(Qwen2Config(**SMALL, use_sliding_window=False, sliding_window=64))
