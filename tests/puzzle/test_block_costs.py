"""Formulas against assembled children, and the cost model against what it was told."""

import dataclasses
import json
import random

import pytest
import torch

from hf_puzzle.artifacts import ArtifactError
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Timing, Workload
from hf_puzzle.formats import DECILM
from hf_puzzle.puzzle.bench import OWN, PARENT, Bench
from hf_puzzle.puzzle.block_costs import (
    RIDGE,
    CostTable,
    Fit,
    _affine,
    _fit,
    _in_order,
    _size,
    calibration_layouts,
    kv_bytes_per_token,
    measure_costs,
    non_block_parameters,
    num_parameters,
    variant_id,
)
from hf_puzzle.puzzle.network import Network
from hf_puzzle.recipe import CostConfig


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "family, changes",
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 24}),
        ("qwen2", {}),
        ("mistral", {}),
    ],
)
@pytest.mark.parametrize("attention", [4, 2, 1, "linear", "none"])
def test_parameters_are_those_of_assembled_children(make_parent, family, changes, tied, attention):
    config = make_parent(family, num_hidden_layers=1, tie_word_embeddings=tied, **changes).config
    for ffn in (768, 256, "linear", "none"):
        child = Network(config, [Block(attention, ffn)]).random(torch.float32)
        formula = num_parameters(config, "attention", attention) + num_parameters(config, "ffn", ffn)
        assert formula + non_block_parameters(config) == child.num_parameters()


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_parameters_of_the_parent(make_parent, family):
    parent = make_parent(family)
    block = num_parameters(parent.config, "attention", 4) + num_parameters(parent.config, "ffn", 768)
    assert 4 * block + non_block_parameters(parent.config) == parent.num_parameters()


def test_kv_bytes(llama, make_parent):
    assert kv_bytes_per_token(llama.config, 4, "bfloat16") == 2 * 4 * 16 * 2
    assert kv_bytes_per_token(llama.config, 1, "float32") == 2 * 1 * 16 * 4
    assert (
        kv_bytes_per_token(llama.config, "linear", "float32")
        == kv_bytes_per_token(llama.config, "none", "float32")
        == 0
    )
    assert kv_bytes_per_token(make_parent(head_dim=24).config, 2, "float16") == 2 * 2 * 24 * 2


@pytest.fixture(scope="module")
def costs(llama, space):
    config = CostConfig(
        batch_sizes=[1, 3], prefill_tokens=4, decode_tokens=2, dtype="float32", rounds=2, stack_layers=2,
        calibration_children=3, unseen_children=1, threads=1,
    )  # fmt: skip
    return measure_costs(Bench(llama, config, DECILM), space)


def test_table_survives_json(costs):
    again = CostTable.from_dict(json.loads(json.dumps(costs.to_dict())))
    assert again == costs
    assert isinstance(again.fits[3]["prefill_ms"], Fit)


def test_several_lengths_are_one_batch_of_each(costs, llama):
    other = dataclasses.replace(costs, workload=costs.workload | {"prefill_tokens": 16})
    both = CostTable.mixed([costs, other])
    assert CostTable.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    assert "lengths" not in costs.to_dict()
    assert (both.workload["prefill_tokens"], both.workload_of(3)) == ([4, 16], Workload(3, 16, 2))
    blocks = [Block(4, 768), Block("none", 256), Block(1, "linear"), Block("linear", "none")]
    one, two = costs.predict(blocks, 3), both.predict(blocks, 3)
    assert (two.prefill_ms, two.decode_ms) == (pytest.approx(2 * one.prefill_ms), pytest.approx(2 * one.decode_ms))
    assert both.children[3][2]["decode_ms"] == 2 * costs.children[3][2]["decode_ms"]
    assert both.fits[3]["prefill_ms"].error_max == pytest.approx(costs.fits[3]["prefill_ms"].error_max)
    each = both.block_costs(blocks[0], 3)
    assert each["4_total_ms"] == each["16_total_ms"] == costs.block_costs(blocks[0], 3)["total_ms"]


@pytest.mark.parametrize("asked", [[4], [4, 16, 64], 16, [16, 4]])
def test_lengths_without_their_tables_are_refused(costs, asked):
    other = dataclasses.replace(costs, workload=costs.workload | {"prefill_tokens": 16})
    raw = json.loads(json.dumps(CostTable.mixed([costs, other]).to_dict()))
    raw["workload"]["prefill_tokens"] = asked
    with pytest.raises(ArtifactError, match="and its tables differ"):
        CostTable.from_dict(raw)


def test_table_is_complete(costs, space, llama):
    keys = {"attention:kv4", "attention:kv2", "attention:kv1", "attention:linear", "attention:none"}
    keys |= {"ffn:w768", "ffn:w512", "ffn:w256", "ffn:linear", "ffn:none"}
    assert set(costs.parameters) == keys
    assert set(costs.times) == set(costs.fits) == set(costs.children) == {1, 3}
    for batch_size in (1, 3):
        assert set(costs.times[batch_size]) == keys
        assert costs.times[batch_size]["ffn:none"] == {"prefill_ms": 0.0, "decode_ms": 0.0}
        names = [child["name"] for child in costs.children[batch_size]]
        assert names == ["parent", "0", "1", "2", "3"]
        assert [child["unseen"] for child in costs.children[batch_size]] == [False] * 4 + [True]
        assert costs.children[batch_size][0]["blocks"] == costs.children[batch_size][1]["blocks"] == ["kv4+w768"] * 4
    assert costs.kv_bytes_per_token["attention:kv2"] == kv_bytes_per_token(llama.config, 2, "float32")


def test_costs_of_a_child_are_sums_over_its_blocks(costs, llama):
    blocks = [Block(4, 768), Block("none", 256), Block(1, "linear"), Block("linear", "none")]
    child = Network(llama.config, blocks).random(torch.float32)
    for batch_size in (1, 3):
        rows = [costs.block_costs(block, batch_size) for block in blocks]
        fixed = costs.non_block_costs(batch_size)
        total = {key: fixed[key] + sum(row[key] for row in rows) for key in fixed}
        assert total["num_parameters"] == child.num_parameters()
        cache = batch_size * (4 + 2) * sum(kv_bytes_per_token(llama.config, b.attention, "float32") for b in blocks)
        assert total["memory_bytes"] == 4 * child.num_parameters() + cache
        predicted = costs.predict(blocks, batch_size)
        assert total["prefill_ms"] == pytest.approx(predicted.prefill_ms)
        assert total["total_ms"] == pytest.approx(predicted.total_ms)


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_affine_recovers_a_line_of_slope_one(offset):
    line = _affine([(x, x + offset) for x in (1.0, 2.0, 10.0, 4.0)])
    assert (line.slope, line.offset_ms) == (pytest.approx(1), pytest.approx(offset))
    assert line(100.0) == pytest.approx(100 + offset)


@pytest.mark.parametrize("slope", [0.8, 1.3])
def test_another_slope_is_pulled_to_one_and_less_where_children_differ_more(slope):
    near = _affine([(x, slope * x + 5) for x in (10.0, 11.0, 12.0)])
    far = _affine([(x, slope * x + 5) for x in (10.0, 30.0, 90.0)])
    assert abs(near.slope - slope) > 0.5 * abs(1 - slope)
    assert abs(far.slope - slope) < 0.2 * abs(1 - slope)


@pytest.mark.parametrize(
    "points", [[(1.0, 1.1), (10.0, 9.0), (100.0, 104.0), (50.0, 51.0)], [(2.0, 6.0)], [(2.0, 1.0), (4.0, 3.5)]]
)
def test_affine_minimises_relative_errors_and_the_distance_of_the_slope_from_one(points):
    line = _affine(points)

    def error(slope, offset):
        return sum((slope * x + offset - y) ** 2 / y**2 for x, y in points) + RIDGE * (slope - 1) ** 2

    best = error(line.slope, line.offset_ms)
    for slope, offset in ((0.01, 0), (-0.01, 0), (0, 0.05), (0, -0.05)):
        if line.offset_ms + offset >= 0:
            assert error(line.slope + slope, line.offset_ms + offset) > best


def test_measured_times_come_back_when_the_machine_is_a_line(monkeypatch, llama, space):
    """A machine on which blocks cost what a table says, whole models 2 ms more, and our code 1.1 times theirs."""
    cost = {4: 5.0, 2: 3.0, 1: 2.0, "linear": 1.0, "none": 0.0, 768: 9.0, 512: 6.0, 256: 4.0}

    def fake(self, layouts, batch_size, rounds, *args, parents=True, **kwargs):
        both = {PARENT: self.own, OWN: self.own} if parents else {}
        measured = {}
        for name, blocks in (both | layouts).items():
            ffns = [0.5 if block.ffn == "linear" else cost[block.ffn] for block in blocks]
            total = 2.0 + 1.1 * (sum(cost[block.attention] for block in blocks) + sum(ffns))
            measured[name] = [Timing(total, 10 * total)] * rounds
        return measured

    monkeypatch.setattr(Bench, "timings", fake)
    config = CostConfig(dtype="float32", rounds=2, stack_layers=3, calibration_children=4)
    table = measure_costs(Bench(llama, config, DECILM), space)
    assert table.times[1]["attention:kv2"]["prefill_ms"] == pytest.approx(1.1 * 3.0)
    assert table.times[1]["ffn:linear"]["decode_ms"] == pytest.approx(11 * 0.5)
    fit = table.fits[1]["prefill_ms"]
    assert (fit.offset_ms, fit.slope) == (pytest.approx(2.0), pytest.approx(1.0))
    assert fit.error_max == pytest.approx(0, abs=1e-9)
    blocks = [Block(1, 512), Block("none", "none"), Block("linear", 256), Block(4, "linear")]
    assert table.predict(blocks, 1).total_ms == pytest.approx(11 * (2 + 1.1 * (8 + 0 + 5 + 5.5)))


def test_fit_leaves_out_the_parent_and_the_unseen(costs):
    children = costs.children[1]
    other = {"prefill_ms": 1e6, "decode_ms": 1e6}
    assert _fit([children[0] | other, *children[1:]], costs.times[1]) == costs.fits[1]
    changed = _fit([*children[:-1], children[-1] | other], costs.times[1])
    for phase, fit in changed.items():
        assert (fit.slope, fit.offset_ms) == (costs.fits[1][phase].slope, costs.fits[1][phase].offset_ms)
        assert fit.error_mean > 0.9
    assert _fit(children[:-1], costs.times[1])["prefill_ms"].error_mean is None


def test_calibration_layouts(space):
    config = CostConfig(calibration_children=7, unseen_children=3)
    layouts, unseen = calibration_layouts(space, config, seed=0)
    assert layouts[0] == [space.parent] * 4
    assert (len(layouts), len(unseen)) == (7, 3)
    assert (layouts, unseen) == calibration_layouts(space, config, seed=0)
    assert (layouts, unseen) != calibration_layouts(space, config, seed=1)
    state = random.getstate()
    calibration_layouts(space, config, seed=0)
    assert random.getstate() == state
    for layout in layouts + unseen:
        assert all(block in layer.blocks for block, layer in zip(layout, space.layers, strict=True))
    sizes = [sum(_size(block, space.parent) for block in layout) for layout in layouts]
    assert sizes[0] == max(sizes)
    assert sizes[1] > sizes[3] > sizes[6]
    words = {variant for layout in layouts for block in layout for variant in block}
    assert {"linear", "none"} <= words  # what the search picks is in the fit


def test_sizes_in_the_wrong_order_share_their_mean_where_noise_explains_it(space):
    names = [f"{kind}:{variant_id(kind, v)}" for kind, variants in space.variants.items() for v in variants]
    times = {name: {"prefill_ms": 1.0, "decode_ms": 1.0} for name in names}
    for phase, widths in {"prefill_ms": (4.0, 3.0, 6.0), "decode_ms": (9.0, 3.0, 6.0)}.items():
        for width, value in zip((256, 512, 768), widths, strict=True):
            times[f"ffn:w{width}"][phase] = value
    noise = {name: {"prefill_ms": 0.4, "decode_ms": 0.4} for name in names}
    found = _in_order(space, times, noise)
    assert [found[f"ffn:w{w}"]["prefill_ms"] for w in (256, 512, 768)] == [3.5, 3.5, 6.0]  # 1.0 <= 2 x .57
    assert [found[f"ffn:w{w}"]["decode_ms"] for w in (256, 512, 768)] == [9.0, 3.0, 6.0]  # the engine's own
    assert _in_order(space, times, {name: dict.fromkeys(row, 0.0) for name, row in noise.items()}) == times
