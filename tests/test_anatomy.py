"""The head in float32, also where products are taken in bfloat16."""

import copy

import pytest
import torch
from families import family_model

from hf_puzzle.anatomy import final_states, float_head_of, frozen, head_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
def test_logits_are_those_of_float64(family, dtype):
    model = family_model(family).to(dtype)
    states = final_states(model, torch.randint(3, 128, (2, 16)))
    before = torch.backends.mkldnn.matmul.fp32_precision
    found = float_head_of(model)(states)
    assert found.dtype == torch.float32
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    exact = head_of(model.double())(states.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_frozen_head_reads_last_positions_that_lie_together(llama):
    model = frozen(frozen(copy.deepcopy(llama)))
    head, seen = model.get_output_embeddings(), []
    assert len(head._forward_pre_hooks) == 1
    assert not any(parameter.requires_grad for parameter in model.parameters())
    head.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    ids = torch.arange(24).view(3, 8)
    with torch.no_grad():
        logits = model(ids, logits_to_keep=1).logits
        torch.testing.assert_close(logits, llama(ids, logits_to_keep=1).logits)
    assert [each.shape[1] for each in seen] == [1]
    assert seen[0].is_contiguous()
