"""Channel importance against its definition: remove a channel and see how far the output moves."""

import torch

from hf_puzzle.puzzle.importance import channel_importance, channel_ranking
from hf_puzzle.puzzle.surgery import layers_of


@torch.no_grad()
def test_importance_is_the_brute_force_mean(llama, calibration):
    inputs, handles = {}, []
    for i, layer in enumerate(layers_of(llama)):
        handles.append(layer.mlp.register_forward_hook(lambda m, a, o, i=i: inputs.update({i: (a[0], o)})))
    llama(input_ids=calibration)
    for handle in handles:
        handle.remove()
    importance = channel_importance(llama, calibration, batch_size=7)
    assert set(importance) == {f"layer_{i}" for i in range(4)}
    for i, layer in enumerate(layers_of(llama)):
        x, output = inputs[i]
        for channel in (0, 13, 767):
            weight = layer.mlp.down_proj.weight
            column = weight[:, channel].clone()
            weight[:, channel] = 0
            moved = (layer.mlp(x) - output).norm(dim=-1).mean()
            weight[:, channel] = column
            torch.testing.assert_close(importance[f"layer_{i}"][channel], moved, rtol=1e-4, atol=1e-6)


def test_batches_do_not_matter(llama, calibration):
    first, second = (channel_importance(llama, calibration, size) for size in (1, 32))
    for name, scores in first.items():
        torch.testing.assert_close(scores, second[name], rtol=1e-6, atol=0)
        assert scores.dtype == torch.float32
        assert scores.shape == (768,)


def test_model_is_left_as_it_was(llama, calibration, state_of, assert_bit_equal):
    before = state_of(llama)
    channel_importance(llama, calibration, 8)
    assert_bit_equal(before, state_of(llama))
    assert not any(layer.mlp.down_proj._forward_pre_hooks for layer in layers_of(llama))


def test_ranking_is_falling_and_ties_keep_their_order():
    assert channel_ranking(torch.tensor([1.0, 3.0, 1.0, 2.0, 3.0])).tolist() == [1, 4, 3, 0, 2]
    scores = torch.rand(500, generator=torch.Generator().manual_seed(0))
    order = channel_ranking(scores)
    assert torch.equal(scores[order], scores.sort(descending=True).values)
    # rankings are nested: the best n are among the best m > n
    assert set(order[:100].tolist()) < set(order[:200].tolist())
