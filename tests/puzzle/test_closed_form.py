"""Closed forms find what is there, and are taken only where they beat the training-free weights on other tokens."""

import copy

import pytest
import torch
from transformers import LlamaConfig

from hf_puzzle.data import sequences
from hf_puzzle.puzzle.closed_form import Moments, best_map, calibration_tokens, closed_form
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.surgery import empty_block, layers_of, load_block
from hf_puzzle.recipe import LibraryConfig
from hf_puzzle.remote.modeling_puzzle import LinearMap


SMALL = LibraryConfig(num_tokens=512, batch_size=4, ridge_tokens=256, eval_tokens=128, evals=4)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plan(kind, variant, layer_idx=0):
    return (f"layer_{layer_idx:02d}/{kind}.{variant}", layer_idx, kind, variant)


def test_error_is_what_the_weighted_loss_is():
    from hf_puzzle.puzzle.block_loss import normalized_mse

    x, y, weight = draw(200, 6), draw(200, 5, seed=1), draw(5, 6, seed=2)
    moments = Moments.of(x, y)
    assert moments.error(weight) == pytest.approx(normalized_mse(x @ weight.T, y).item(), rel=1e-4)
    assert Moments.of(x[:, :4], y).error(weight[:, :4]) == pytest.approx(moments.leading(4).error(weight[:, :4]))


def test_ridge_is_the_weighted_regression_of_all_tokens():
    from hf_puzzle.puzzle.block_loss import token_weights

    x, y, prior = draw(300, 6), draw(300, 5, seed=1), draw(5, 6, seed=2)
    fit, heldout = Moments.of(x[:200], y[:200]), Moments.of(x[200:], y[200:])
    weights = torch.cat([token_weights(y[:200]), token_weights(y[200:])])[:, None]
    xx = x.T @ (weights * x)
    penalty = 0.1 * xx.diagonal().mean() * torch.eye(6)
    expected = torch.linalg.solve(xx + penalty, (y.T @ (weights * x)).T + penalty @ prior.T).T
    torch.testing.assert_close((fit + heldout).ridge(0.1, prior), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((fit + heldout).ridge(1e9, prior), prior, rtol=1e-4, atol=1e-5)


def test_a_map_that_is_no_better_on_other_tokens_is_refused():
    true, x = draw(5, 6, seed=2), draw(20, 6)
    fit, heldout = Moments.of(x, draw(20, 5, seed=1)), Moments.of(draw(100, 6, seed=3), draw(100, 6, seed=3) @ true.T)
    assert best_map(fit, heldout, true, torch.zeros(5, 6)) is None
    assert best_map(heldout, heldout, torch.zeros(5, 6), torch.zeros(5, 6)) is not None


@torch.no_grad()
def test_a_linear_sub_block_is_recovered(make_parent, tokens, sequence_length, importance):
    parent = make_parent()
    linear = LinearMap(LlamaConfig(hidden_size=64), "ffn", pair=False).requires_grad_(False)
    layer = layers_of(parent)[0]

    class Wrapped(type(layer.mlp)):  # a parent whose FFN happens to be linear
        def forward(self, x):
            return linear(x)

    layer.mlp.__class__ = Wrapped
    calibration = sequences(tokens["train"], sequence_length, 4096, 0)
    starts = closed_form(parent, [plan("ffn", "linear")], importance, calibration, SMALL)
    weights, init = starts[0, "ffn", "linear"]
    assert init == "ridge"
    torch.testing.assert_close(weights["linear_mlp.weight"], linear.linear_mlp.weight, rtol=0, atol=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"mlp_bias": True, "attention_bias": True}])
def test_heads_and_channels_that_are_not_needed_are_cut_exactly(make_parent, calibration, importance, options):
    parent = make_parent(**options)
    layer = layers_of(parent)[0]
    size = layer.self_attn.head_dim
    # each key is the first one under another rotation and length; all values lie in one head's subspace
    for name in ("k_proj", "v_proj"):
        projection = getattr(layer.self_attn, name)
        rows = [projection.weight] + ([projection.bias[:, None]] if projection.bias is not None else [])
        matrix = torch.cat(rows, dim=1)
        first = matrix[:size].clone()
        for head in range(1, 4):
            if name == "k_proj":
                factor = torch.polar(draw(size // 2, seed=head).abs() + 0.1, draw(size // 2, seed=9 + head))
                turned = factor[:, None] * torch.complex(first[: size // 2], first[size // 2 :])
                matrix[head * size : (head + 1) * size] = torch.cat([turned.real, turned.imag])
            else:
                matrix[head * size : (head + 1) * size] = draw(size, size, seed=head) @ first
        projection.weight.copy_(matrix[:, : projection.in_features])
        if projection.bias is not None:
            projection.bias.copy_(matrix[:, -1])
    starts = closed_form(parent, [plan("attention", 1), plan("attention", 2)], importance, calibration, SMALL)
    seen = {}
    handle = layer.self_attn.register_forward_hook(lambda m, a, k, o: seen.update(a=a, k=k, o=o[0]), with_kwargs=True)
    parent(calibration[:4], use_cache=False)
    handle.remove()
    for heads in (1, 2):
        weights, init = starts[0, "attention", heads]
        assert init == "shared_subspace"
        block = load_block(empty_block(layer, "attention", heads, parent.config, 0), weights)
        answer = block(*seen["a"], **seen["k"])[0]
        error = (answer - seen["o"]).square().mean() / seen["o"].square().mean()
        assert error < 1e-6


@torch.no_grad()
def test_channels_that_follow_from_others_are_made_up_for(make_parent, calibration, importance):
    parent = make_parent()
    mlp = layers_of(parent)[0].mlp
    for projection in (mlp.gate_proj, mlp.up_proj):  # three times the same 256 channels
        projection.weight[256:512] = projection.weight[:256]
        projection.weight[512:] = projection.weight[:256]
    flat = {**importance, "layer_0": -torch.arange(768.0)}
    (start,) = closed_form(parent, [plan("ffn", 256)], flat, calibration, SMALL).values()
    block = load_block(empty_block(layers_of(parent)[0], "ffn", 256, parent.config, 0), start[0])
    x = draw(2, 16, 64)
    assert start[1] == "channels+ridge"
    assert (block(x) - mlp(x)).square().mean() < 1e-3 * mlp(x).square().mean()


def test_one_sequence_chooses_nothing(llama, calibration, importance):
    (start,) = closed_form(llama, [plan("ffn", 256)], importance, calibration[:1], SMALL).values()
    expected = initial_weights(layers_of(llama)[0], "ffn", 256, llama.config, (-importance["layer_0"]).argsort())
    assert start[1] == "channels"
    assert start[0]["down_proj.weight"].shape == expected["down_proj.weight"].shape


def test_tokens_follow_from_the_widest_regression():
    config = LibraryConfig(num_tokens=512)
    assert calibration_tokens(config, 64, [768, 512, "linear"]) == 32 * 512
    assert calibration_tokens(config, 64, [768, "linear"]) == 32 * 64
    assert calibration_tokens(SMALL, 64, [768, 512]) == 256


def test_parent_is_left_as_it_was(llama, calibration, importance, state_of, assert_bit_equal):
    before, hooks = state_of(llama), copy.copy(layers_of(llama)[0].self_attn._forward_hooks)
    closed_form(llama, [plan("attention", 1), plan("ffn", 256)], importance, calibration, SMALL)
    assert_bit_equal(before, state_of(llama))
    assert layers_of(llama)[0].self_attn._forward_hooks == hooks
