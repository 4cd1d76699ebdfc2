"""What needs no language model, by its definitions."""

import pytest
import torch
from torch.nn import functional as F

from hf_puzzle.pcw import baselines


SHOTS = [
    ("my card was lost", 0), ("I lost the card", 0), ("the transfer is late", 1), ("money sent, not received", 1),
    ("what is the rate", 2),
]  # fmt: skip
TEXTS = ["a lost card", "transfer not received", "which rate"]


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_similar_texts_get_their_label(name):
    found = baselines.scores(name, SHOTS, TEXTS, 4)
    assert found.argmax(1).tolist() == [0, 1, 2]
    assert torch.allclose(found.exp().sum(1), torch.ones(3))
    assert found[:, 3].exp().max() < found[:, :3].exp().min()  # a label that no shot shows
    again = baselines.scores(name, SHOTS[::-1], TEXTS, 4)
    assert torch.allclose(found, again, atol=1e-3)


def test_nearest_is_the_most_similar_shot_of_each_label():
    known, weights = baselines.features([text for text, _ in SHOTS])
    asked, _ = baselines.features(TEXTS, weights)
    similar = asked @ known.T
    best = torch.stack(
        [similar[:, [i for i, (_, own) in enumerate(SHOTS) if own == label]].max(1).values for label in range(3)], 1
    )
    expected = (10 * torch.cat([best, -torch.ones(3, 1)], 1)).log_softmax(1)
    assert torch.allclose(baselines.scores("nearest", SHOTS, TEXTS, 4), expected, atol=1e-6)


def test_linear_is_where_its_loss_is_least():
    """Against gradient descent on the weights themselves, not in the span of the shots."""
    known, idf = baselines.features([text for text, _ in SHOTS])
    asked, _ = baselines.features(TEXTS, idf)
    right = torch.tensor([label for _, label in SHOTS])
    weights, bias = torch.zeros(baselines.FEATURES, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias], lr=0.05)
    for _ in range(800):
        optimizer.zero_grad()
        penalty = baselines.RIDGE / len(SHOTS) * weights.square().sum()
        (F.cross_entropy(known @ weights + bias, right) + penalty).backward()
        optimizer.step()
    expected = (asked @ weights + bias).log_softmax(1)
    assert torch.allclose(baselines.scores("linear", SHOTS, TEXTS, 3), expected.detach(), atol=0.03)
