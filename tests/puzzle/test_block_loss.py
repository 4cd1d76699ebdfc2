"""A loss that no single token decides."""

import pytest
import torch

from hf_puzzle.puzzle.block_loss import normalized_mse, token_weights


@pytest.fixture
def target():
    return torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))


def test_normalized_mse(target):
    assert normalized_mse(target, target) == 0
    assert normalized_mse(torch.zeros_like(target), target) == 1
    torch.testing.assert_close(normalized_mse(1.5 * target, target), torch.tensor(0.25))
    torch.testing.assert_close(normalized_mse(1.5 * target, target), normalized_mse(150 * target, 100 * target))
    assert normalized_mse(10 * target.bfloat16(), 10 * target.bfloat16()).dtype == torch.float32
    assert normalized_mse(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)) == 0


def test_one_massive_token_does_not_hide_the_others():
    target = torch.nn.functional.normalize(torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    target[0] *= 100
    output = 1.5 * target
    output[0] = target[0]  # the massive one is right, all others are wrong by a quarter of their power
    plain = (output - target).square().mean() / target.square().mean()
    assert plain < 0.01
    torch.testing.assert_close(normalized_mse(output, target), torch.tensor(0.25 * 399 / 499), rtol=1e-3, atol=0)


def test_nearly_empty_tokens_do_not_count(target):
    target[:, 0] *= 1e-3
    output = target.clone()
    output[:, 0] += 1e-3
    assert normalized_mse(output, target) < 1e-5
    assert token_weights(target)[:, 0].max() == token_weights(target).max()
