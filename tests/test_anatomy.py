"""The head in float32, also where products are taken in bfloat16."""

import pytest
import torch
from families import family_model

from hf_puzzle.anatomy import final_states, float_head_of, head_of


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
