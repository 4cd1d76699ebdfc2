"""Quantised children stay near their logits and hold the bytes that they should."""

import pytest
import torch

from hf_puzzle.blocks import Block
from hf_puzzle.costs import weight_bytes
from hf_puzzle.engines import quanto
from hf_puzzle.engines.quanto import quantized, weight_bytes_of
from hf_puzzle.puzzle.network import Network


BLOCKS = [Block("none", 256), Block(2, "linear"), Block("linear", "none"), Block(4, 512)]
# root mean square of the logits' error over their standard deviation
BOUNDS = {"int8": 0.05, "int4": 0.5}
BITS = {"int8": 8, "int4": 4}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def child(request, make_parent):
    config = make_parent("llama", tie_word_embeddings=request.param).config
    torch.manual_seed(0)
    return Network(config, BLOCKS).random(torch.float32)


@pytest.fixture(scope="module")
def folder(child, tmp_path_factory):
    pytest.importorskip("optimum.quanto")
    folder = tmp_path_factory.mktemp("child")
    child.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("weights", BOUNDS)
@torch.no_grad()
def test_quantised_children_stay_near(child, folder, calibration, weights):
    model = quantized(folder, weights)
    expected, got = child(calibration[:16]).logits, model(calibration[:16]).logits
    assert 0 < (got - expected).pow(2).mean().sqrt() < BOUNDS[weights] * expected.std()
    assert not model.training
    tokens = model.generate(
        calibration[:2], attention_mask=torch.ones(2, 16).long(), max_new_tokens=3, eos_token_id=-1
    )
    assert tokens.shape == (2, 19)


@pytest.mark.parametrize("weights", BOUNDS)
def test_bytes_are_counted_as_they_are_stored(child, folder, weights):
    linears = [m.weight for m in child.model.modules() if isinstance(m, torch.nn.Linear)]
    elements = sum(w.numel() for w in linears)
    # int8: one float32 scale per row; int4: a scale and a shift per row and 128 columns
    scales = sum(w.shape[0] * (1 if weights == "int8" else 2 * max(1, w.shape[1] // 128)) for w in linears)
    expected = weight_bytes(child) - 4 * elements + elements * BITS[weights] // 8 + 4 * scales
    assert weight_bytes_of(quantized(folder, weights)) == expected
    assert weight_bytes_of(child) == weight_bytes(child)


def test_wrong_weights_and_missing_packages_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="weights='int3': expected int8 or int4"):
        quantized(tmp_path, "int3")
    monkeypatch.setattr(quanto, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'hf_puzzle\[quanto\]'"):
        quantized(tmp_path)
