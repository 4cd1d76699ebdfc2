"""Parent and child in llama.cpp against what transformers says of them."""

import pytest
import torch

from hf_puzzle.blocks import Block
from hf_puzzle.costs import Workload
from hf_puzzle.evaluation import Rows, Targets
from hf_puzzle.puzzle.network import Network


pytest.importorskip("llama_cpp")

from hf_puzzle.puzzle.deployed import in_llama_cpp  # noqa: E402


@pytest.fixture(scope="module")
def child(llama, space, library):
    blocks = [Block(2, 512), Block(1, "none"), Block("linear", 256), space.parent]
    return Network(llama.config, blocks, library, "decilm").assembled(llama)


@pytest.mark.parametrize("outtype", ["f32", "q8_0"])
def test_quality_is_that_of_the_same_networks_in_transformers(llama, child, tokens, sequence_length, outtype):
    rows = Rows.draw(tokens["test"] if "test" in tokens else tokens["validation"], sequence_length, 128, 0)
    found = in_llama_cpp(llama, child, rows, outtype, 2, 1, Workload(1, 8, 4), "cpu")
    expected = Targets(llama, rows, 2).compare(child).to_dict()
    tolerance = 2e-3 if outtype == "f32" else 0.05
    assert found["quality"]["child"]["kl"] == pytest.approx(expected["kl"], abs=tolerance)
    assert found["quality"]["child"]["parent_loss"] == pytest.approx(expected["parent_loss"], abs=1e-4)
    assert found["quality"]["parent"]["kl"] == pytest.approx(0, abs=tolerance)
    assert found["file_bytes"]["child"] < found["file_bytes"]["parent"]
    assert found["speed"]["total"]["rounds"] == 2
    assert torch.isfinite(torch.tensor(found["median_ms"]["child"]["decode_ms"]))
