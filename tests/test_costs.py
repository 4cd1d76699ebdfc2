"""Bytes against formulas, ratios against simulated clocks."""

import math

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hf_puzzle import costs
from hf_puzzle.blocks import Block
from hf_puzzle.costs import (
    Timing,
    Workload,
    cache_bytes,
    cpu_threads,
    measure_interleaved,
    median_timing,
    speed_ratio,
    time_generation,
    weight_bytes,
    without_drift,
)
from hf_puzzle.puzzle.block_costs import kv_bytes_per_token
from hf_puzzle.puzzle.network import Network
from hf_puzzle.remote.caches_puzzle import OUTPUT_NAME


def timings(totals):
    return [Timing(0.25 * total, 0.75 * total) for total in totals]


def test_ratio_without_noise_is_exact():
    drift = [1.0, 1.1, 3.0, 0.7, 1.0, 2.0]  # the machine's, met by both models alike
    slow, fast = timings([6 * d for d in drift]), timings([2 * d for d in drift])
    for part in ("total_ms", "prefill_ms", "decode_ms"):
        ratio = speed_ratio(slow, fast, part=part)
        assert ratio.value == pytest.approx(3)
        assert ratio.lower_bound == pytest.approx(3)
    assert speed_ratio(slow, fast, scale=0.5).value == pytest.approx(1.5)
    assert speed_ratio(fast, slow).value == pytest.approx(1 / 3)
    assert speed_ratio(slow[:1], fast[:1]).to_dict() == {
        "value": pytest.approx(3), "lower_bound": pytest.approx(3), "confidence": 0.95, "rounds": 1,
        "sessions": 1,
    }  # fmt: skip


def test_what_slows_all_models_of_a_round_is_taken_out():
    drift, alone = [1.0, 1.3, 0.8], [1.0, 1.0, 2.0]  # one model is preempted once: that stays its own
    models = {name: timings([base * d for d in drift]) for name, base in (("a", 10), ("b", 20), ("c", 40))}
    models["d"] = timings([30 * d * x for d, x in zip(drift, alone, strict=True)])
    steady = without_drift(models)
    for name, base in (("a", 10), ("b", 20), ("c", 40)):
        assert [t.total_ms for t in steady[name]] == pytest.approx([base] * 3)
        assert [t.prefill_ms for t in steady[name]] == pytest.approx([0.25 * base] * 3)
    assert [t.total_ms for t in steady["d"]] == pytest.approx([30, 30, 60])


def simulated(rng, rounds, spread=0.1, ratio=2.0):
    noise = np.exp(spread * rng.standard_normal((2, rounds)))
    return timings(10 * ratio * noise[0]), timings(10 * noise[1])


def test_bound_is_below_the_value_and_falls_with_confidence():
    slow, fast = simulated(np.random.default_rng(0), 20)
    bounds = [speed_ratio(slow, fast, confidence).lower_bound for confidence in (0.5, 0.8, 0.95, 0.99)]
    value = speed_ratio(slow, fast).value
    assert bounds[0] == pytest.approx(value)
    assert value > bounds[1] > bounds[2] > bounds[3] > 0


@pytest.mark.parametrize("rounds", [6, 9, 10, 20, 40])
def test_bound_covers_the_truth(rounds):
    rng = np.random.default_rng(1)
    covered = sum(speed_ratio(*simulated(rng, rounds)).lower_bound <= 2.0 for _ in range(1000))
    assert 930 <= covered <= 975


def test_one_preempted_round_in_twenty_moves_the_ratio_little():
    slow, fast = simulated(np.random.default_rng(2), 20, spread=0.01)
    fast[7] = Timing(1000, 1000)
    assert speed_ratio(slow, fast).value == pytest.approx(2.0, rel=0.01)


def test_unpaired_rounds_are_refused():
    with pytest.raises(ValueError, match="zip"):
        speed_ratio(timings([1, 2]), timings([1]))


def test_median_timing():
    assert median_timing([Timing(1, 9), Timing(2, 8), Timing(3, 1)]) == Timing(2, 8)
    assert Timing(2, 8).total_ms == 10
    assert Workload(4, 10, 5).tokens == 60


def test_weight_bytes_count_tied_once(make_parent):
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        tied, untied = make_parent().to(dtype), make_parent(tie_word_embeddings=False).to(dtype)
        assert weight_bytes(tied) == tied.num_parameters() * size
        assert weight_bytes(untied) == untied.num_parameters() * size
        assert weight_bytes(untied) - weight_bytes(tied) == 256 * 64 * size


BLOCKS = [Block(4, 768), Block("none", 256), Block(1, "none"), Block("linear", "linear"), Block(2, 512)]


@pytest.mark.parametrize("head_dim", [None, 24])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_bytes_are_the_formulas(make_parent, head_dim, dtype):
    config = make_parent(**({"head_dim": head_dim} if head_dim else {})).config
    child = Network(config, BLOCKS).random(getattr(torch, dtype))
    cache = DynamicCache()
    with torch.no_grad():
        child(input_ids=torch.zeros(3, 11, dtype=torch.int64), past_key_values=cache, use_cache=True)
    expected = 3 * 11 * sum(kv_bytes_per_token(config, block.attention, dtype) for block in BLOCKS)
    assert cache_bytes(cache) == expected
    assert expected == 3 * 11 * 2 * 7 * (head_dim or 16) * (4 if dtype == "float32" else 2)


@pytest.mark.parametrize("make", ["parent", "child"])
def test_generation_reads_and_writes_the_workload(make, llama):
    model = llama if make == "parent" else Network(llama.config, BLOCKS).random(torch.float32)
    shapes, logits = [], []

    def record(module, args, kwargs, output):
        shapes.append(tuple(kwargs["input_ids"].shape))
        logits.append(output.logits.shape[1])
        lengths.append(kwargs[OUTPUT_NAME].get_seq_length())

    lengths = []
    handle = model.register_forward_hook(record, with_kwargs=True)
    timing = time_generation(model, Workload(3, 7, 5))
    handle.remove()
    assert shapes == [(3, 7)] + [(3, 1)] * 4  # the first of five generated tokens comes from the prefill
    assert logits == [1] * 5
    assert lengths == [7, 8, 9, 10, 11]
    assert timing.prefill_ms > 0
    assert timing.decode_ms > 0


def test_models_are_measured_in_turn_after_a_warm_up(monkeypatch):
    calls = []

    def fake(model, workload, clock):
        calls.append(model)
        return Timing(len(calls), 0)

    monkeypatch.setattr(costs, "time_generation", fake)
    measured = measure_interleaved({"a": "A", "b": "B"}, Workload(1, 1, 1), rounds=3)
    assert calls == ["A", "B"] * 4
    assert [t.prefill_ms for t in measured["a"]] == [3, 5, 7]
    assert [t.prefill_ms for t in measured["b"]] == [4, 6, 8]


def test_threads_come_back_also_after_an_error():
    torch.set_num_threads(1)

    def fail_with_two_threads():
        with cpu_threads(2):
            assert torch.get_num_threads() == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail_with_two_threads()
    assert torch.get_num_threads() == 1
    with cpu_threads(None):
        assert torch.get_num_threads() == 1


def test_lower_bound_has_students_factor():
    logs = [0.1, 0.2, 0.4, 0.5, 0.8]
    ratio = speed_ratio(timings([math.exp(x) for x in logs]), timings([1.0] * 5))
    error = np.std(logs, ddof=1) / math.sqrt(5)
    assert math.log(ratio.value) == pytest.approx(0.4)
    assert math.log(ratio.lower_bound) == pytest.approx(0.4 - 2.132 * error, rel=0.02)
