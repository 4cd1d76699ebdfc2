"""A recipe for a hybrid and one for a mixture, from a parent that is trained here to the report."""

import pytest
import torch
import yaml
from tiny_run import HYBRID_PARENTS, HYBRID_SPACES, write_recipes

from hf_puzzle import artifacts, costs, hub
from hf_puzzle.blocks import RECURRENT, Block, num_experts
from hf_puzzle.cli import main
from hf_puzzle.costs import Timing, weight_bytes
from hf_puzzle.layers import parent_blocks
from hf_puzzle.puzzle.bench import Bench
from hf_puzzle.puzzle.pipeline import load_run


@pytest.fixture(scope="module", autouse=True)
def steady_clock():
    """As of test_pipeline: tiny models drown in noise."""

    def fake(model, workload, clock="wall"):
        total = 1.0 + model.num_parameters() / 20_000
        return Timing(0.2 * total, 0.8 * total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "time_generation", fake)
        patch.setattr(Bench, "_stays", property(lambda self: True))
        yield


@pytest.fixture(scope="module", params=list(HYBRID_PARENTS))
def finished(request, tmp_path_factory):
    folder = write_recipes(tmp_path_factory.mktemp(request.param))
    parent = yaml.safe_load((folder / "tiny_parent.yaml").read_text())
    parent |= {"model_type": request.param, "config": HYBRID_PARENTS[request.param]}
    (folder / "tiny_parent.yaml").write_text(yaml.safe_dump(parent))
    recipe = yaml.safe_load((folder / "tiny.yaml").read_text())
    recipe |= {
        "search_space": HYBRID_SPACES[request.param],
        "baselines": {"names": ["drop_layers"], "num_tokens": [0]},
    }
    recipe["constraints"] = {"num_parameters": 120_000}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    out = folder / "run"
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(out)]) == 0
    return load_run(out, recipe_dir=folder)


def test_the_run_ends_with_a_report_and_a_child_that_opens(finished):
    out = finished.run_dir
    report, chosen = (out / "report.md").read_text(), artifacts.read_json(out / "solutions.json")["chosen"]
    blocks = [Block.parse(text) for text in chosen["blocks"]]
    for i, text in enumerate(chosen["blocks"]):
        assert f"| {i} | {' | '.join(text.split('+'))} |" in report
    own = parent_blocks(finished.config)
    assert len(set(own)) > 1
    assert all(b.attention in (o.attention, 1, "none") for b, o in zip(blocks, own, strict=True))
    child = hub.open_model_folder(out / "distilled")
    assert child.num_parameters() <= 120_000
    tokens = torch.arange(12)[None]
    cached = child.generate(tokens, max_new_tokens=4, do_sample=False)
    assert torch.equal(cached, child.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=False))


def test_what_is_kept_of_mixers_and_experts_is_what_the_solution_says(finished):
    chosen = artifacts.read_json(finished.run_dir / "solutions.json")["chosen"]
    child = finished.load_child("child")
    for text, layer in zip(chosen["blocks"], child.model.layers, strict=True):
        block = Block.parse(text)
        if block.attention == RECURRENT:
            assert type(layer.linear_attn).__name__ == "Qwen3_5GatedDeltaNet"
        if (count := num_experts(block.ffn)) is not None:
            assert layer.mlp.experts.num_experts == count
            assert layer.mlp.gate.weight.shape[0] == count
            assert layer.mlp.gate.top_k == (1 if "top1" in str(block.ffn) else 2)


def test_predicted_bytes_are_bytes_held(finished):
    chosen = artifacts.read_json(finished.run_dir / "solutions.json")["chosen"]
    costs = finished.costs
    blocks = [Block.parse(text) for text in chosen["blocks"]]
    counted = costs.non_block_parameters + sum(costs.block_costs(b, 2)["num_parameters"] for b in blocks)
    child = finished.load_child("child")
    assert counted == child.num_parameters() == weight_bytes(child) // 4
    if any(b.attention == RECURRENT for b in blocks):
        assert costs.state_bytes["attention:recurrent"] > 0
