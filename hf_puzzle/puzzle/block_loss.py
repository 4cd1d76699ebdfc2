"""How far a block's output is from the parent block's, token by token."""

import torch


def token_weights(target: torch.Tensor) -> torch.Tensor:
    """What the squared error of each token of `(..., hidden_size)` counts, shape `(...)`: 1 / its norm.

    Language models write activations of hundreds of times the usual norm on a few tokens, the sinks of their attention.
    By plain squares such a token is the whole loss, by errors relative to each token it is one of many, though all others
    look at it: counting by the norm leaves blocks that are nearer to the parent, by their KL, than either. Below the
    median, tokens count by their power, or noise on nearly empty ones would.
    """
    power = target.float().square().mean(-1)
    return power.clamp_min(power.median()).clamp_min(1e-24).rsqrt()


def normalized_mse(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared error over power of the target, both weighted by `token_weights`, in float32; 1 is what a no-op reaches."""
    output, target, weights = output.float(), target.float(), token_weights(target)
    error, power = (output - target).square().mean(-1), target.square().mean(-1)
    return (weights * error).sum() / (weights * power).sum().clamp_min(1e-24)
