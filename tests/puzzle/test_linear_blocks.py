"""Ridge regression finds the linear map that is there."""

import copy
import dataclasses

import torch

from hf_puzzle.puzzle.linear_blocks import closed_form_linear
from hf_puzzle.puzzle.surgery import layers_of
from hf_puzzle.recipe import LibraryConfig


SMALL = LibraryConfig(num_tokens=512, batch_size=4, ridge_tokens=256, eval_tokens=128, evals=4)


@torch.no_grad()
def test_closed_form_is_the_ridge_solution(make_parent, calibration):
    parent = make_parent()
    layer = layers_of(parent)[0]
    seen = []
    handle = layer.mlp.register_forward_hook(lambda m, a, o: seen.append((a[0].flatten(0, 1), o.flatten(0, 1))))
    half = calibration[: len(calibration) // 2]
    for batch in half.split(4):
        parent(batch)
    handle.remove()
    x, y = (torch.cat(parts).double() for parts in zip(*seen, strict=True))
    penalty = 1e-4 * (x.T @ x).diagonal().mean() * torch.eye(64, dtype=torch.float64)
    expected = torch.linalg.solve(x.T @ x + penalty, x.T @ y).T
    wanted = [("layer_00/ffn.linear", 0, "ffn", "linear"), ("layer_00/ffn.w256", 0, "ffn", 256)]
    config = dataclasses.replace(SMALL, batch_size=4)
    solved = closed_form_linear(parent, wanted, calibration, config)
    if (0, "ffn") in solved:  # it beat the product on the other half
        torch.testing.assert_close(solved[0, "ffn"].double(), expected, rtol=1e-3, atol=1e-4)
    assert closed_form_linear(parent, wanted[1:], calibration, config) == {}


@torch.no_grad()
def test_closed_form_recovers_a_linear_sub_block(make_parent, tokens, sequence_length):
    from hf_puzzle.data import sequences
    from hf_puzzle.remote.modeling_puzzle import LinearMap

    parent = make_parent()
    linear = LinearMap(64, "ffn", pair=False).requires_grad_(False)
    layer = layers_of(parent)[0]
    own = copy.deepcopy(layer.mlp)

    class Wrapped(type(own)):  # a parent whose FFN happens to be linear
        def forward(self, x):
            return linear(x)

    layer.mlp.__class__ = Wrapped
    wanted = [("layer_00/ffn.linear", 0, "ffn", "linear")]
    solved = closed_form_linear(parent, wanted, sequences(tokens["train"], sequence_length, 4096, 0), SMALL)
    torch.testing.assert_close(solved[0, "ffn"], linear.linear_mlp.weight, rtol=0, atol=2e-3)
