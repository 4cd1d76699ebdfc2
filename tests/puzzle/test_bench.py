"""Models are made where and as they are timed; sessions are processes; a bound is over them."""

import dataclasses
import math
import os

import pytest
import torch
from families import family_model
from torch.utils._python_dispatch import TorchDispatchMode

from hf_puzzle import costs
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Timing, geometric_mean, student_quantile
from hf_puzzle.formats import DECILM, PER_LAYER
from hf_puzzle.puzzle import bench as bench_module
from hf_puzzle.puzzle.bench import OWN, PARENT, Bench, BenchError, jsonable
from hf_puzzle.puzzle.network import Network
from hf_puzzle.recipe import CostConfig


CONFIG = CostConfig(prefill_tokens=4, decode_tokens=2, dtype="float32", threads=1, clock="cpu")
BLOCKS = [Block(2, 256), Block("none", 256), Block(1, "linear"), Block("linear", "none")]


class Largest(TorchDispatchMode):
    """The most elements that a float32 tensor, and one on the CPU, had."""

    def __init__(self):
        super().__init__()
        self.float32 = self.cpu = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.float32 = max(self.float32, out.numel() * (out.dtype == torch.float32))
            self.cpu = max(self.cpu, out.numel() * (out.device.type == "cpu"))
        return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_child_is_made_in_its_dtype(llama, dtype):
    with Largest() as largest:
        child = Network(llama.config, BLOCKS).random(dtype)
    assert {p.dtype for p in child.parameters()} == {dtype}
    assert child.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
    assert all(torch.isfinite(p).all() for p in child.parameters())
    matrix = 64 * 64
    assert largest.float32 < matrix or dtype == torch.float32


def test_a_child_is_made_on_its_device(llama):
    with Largest() as largest:
        child = Network(llama.config, BLOCKS).random(torch.bfloat16, "meta")
    assert {p.device.type for p in child.parameters()} == {"meta"}
    assert largest.cpu < 64 * 64


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_head_are_shared_where_they_are_alike(make_parent, tied):
    parent = make_parent(tie_word_embeddings=tied)
    child = Network(parent.config, BLOCKS).random(torch.float32, like=parent)
    assert child.get_input_embeddings().weight is parent.get_input_embeddings().weight
    assert child.lm_head.weight is parent.lm_head.weight
    assert not {p.data_ptr() for p in child.model.layers.parameters()} & {p.data_ptr() for p in parent.parameters()}
    other = Network(parent.config, BLOCKS).random(torch.bfloat16, like=parent)
    assert other.lm_head.weight.dtype == torch.bfloat16
    tokens = torch.randint(3, 256, (2, 5))
    assert torch.isfinite(child(tokens).logits).all()


@pytest.fixture
def fake_time(monkeypatch):
    """Every generation takes a time by the model's size; the calls are listed."""
    calls = []

    def fake(model, workload, clock):
        calls.append(model)
        return Timing(1.0, model.num_parameters() / 1e4)

    monkeypatch.setattr(costs, "time_generation", fake)
    return calls


def test_both_parents_and_all_children_take_turns(llama, fake_time):
    bench = Bench(llama, CONFIG, DECILM)
    timings = bench.timings({"a": BLOCKS, "b": BLOCKS[::-1]}, 2, 3)
    assert list(timings) == [PARENT, OWN, "a", "b"]
    assert {len(each) for each in timings.values()} == {3}
    assert len(set(map(id, fake_time[:4]))) == 4
    assert fake_time == fake_time[:4] * 4
    assert fake_time[0] is llama  # of the right dtype: no copy
    before = fake_time[:2]
    fake_time.clear()
    bench.timings({"c": BLOCKS}, 2, 1)
    assert fake_time[:2] == before  # parents stay
    half = Bench(llama, CostConfig(dtype="bfloat16"), DECILM)
    fake_time.clear()
    half.timings({"a": BLOCKS}, 1, 1)
    assert {m.dtype for m in fake_time} == {torch.bfloat16}
    assert llama.dtype == torch.float32


def test_per_layer_children_have_one_parent(fake_time):
    parent = family_model("qwen3")
    bench = Bench(parent, CONFIG, PER_LAYER)
    timings = bench.timings({}, 1, 2)
    assert timings[OWN] == timings[PARENT]
    assert fake_time == [parent] * 3


def test_a_machine_that_is_steady_needs_three_rounds(llama, fake_time):
    bench = Bench(llama, CONFIG, DECILM)
    assert len(bench.timings({}, 1, 9, tolerance=0.01)[PARENT]) == 3
    assert len(bench.timings({}, 1, 2, tolerance=0.01)[PARENT]) == 2
    assert len(bench.timings({}, 1, 5)[PARENT]) == 3  # no spread at all


def test_fresh_processes_time_the_same_models(llama):
    bench = Bench(llama, CONFIG, DECILM)
    asked = []
    layouts = [[Block(2, 256)] * 4, BLOCKS]
    speeds = bench.confirm(layouts, 2, 2, 2, lambda speeds: asked.append(speeds) or False)
    assert [len(seen) for seen in asked] == [2, 2]
    for speed in speeds:
        assert (speed["total"].sessions, speed["total"].rounds) == (2, 4)
        assert 0 < speed["same_code"].lower_bound <= speed["same_code"].value
        assert speed["child_ms_at_most"] > 0
        assert jsonable(speed)["total"]["rounds"] == 4
    (first,) = bench.confirm(layouts[:1], 2, 2, 1, lambda speeds: True)
    assert first["total"].sessions == 1  # hopeless: the second is not asked
    (more,) = bench.confirm(layouts[:1], 2, 1, 1, undecided=lambda speeds: speeds[0]["total"].sessions < 3)
    assert more["total"].sessions == 3


def test_several_lengths_are_timed_in_every_session(llama):
    bench = Bench(llama, dataclasses.replace(CONFIG, prefill_tokens=[4, 12]), DECILM)
    (speed,) = bench.confirm([BLOCKS], 2, 2, 2)
    assert [each["prefill_tokens"] for each in speed["by_length"]] == [4, 12]
    assert speed["child_ms"] < sum(each["child_ms"] for each in speed["by_length"]) * 1.5
    assert speed["child_ms"] > max(each["child_ms"] for each in speed["by_length"])
    assert speed["parent_tokens_per_s"] == pytest.approx(2 * (4 + 2 + 12 + 2) / speed["parent_ms"] * 1e3)
    assert jsonable(speed)["by_length"][1]["total"]["sessions"] == 2
    assert bench.workload(2).prefill_tokens == 12


@pytest.mark.parametrize("engine", ["vllm", "openvino"])
def test_sessions_in_an_engine_of_its_own_are_its_own_processes(llama, monkeypatch, engine):
    """One model after the other, none of this process's on the device; the parent as it is, children rewritten."""
    asked = []

    def time_elsewhere(name, model, workload, rounds):
        assert name == engine
        asked.append((type(model).__name__, model.device.type))
        return [Timing(1.0, float(len(asked)))] * rounds

    class Process:
        def close(self):
            asked.append("a fresh process")

    monkeypatch.setattr(bench_module, "time_elsewhere", time_elsewhere)
    monkeypatch.setattr(bench_module, "process_of", lambda name: Process())
    config = dataclasses.replace(CONFIG, engine=engine)
    (speed,) = Bench(llama, config, DECILM).confirm([BLOCKS], 2, 3, 2)
    models = [("LlamaForCausalLM", "cpu"), ("DeciLMForCausalLM", "cpu"), ("DeciLMForCausalLM", "cpu")]
    assert asked == ["a fresh process", *models] * 3
    assert (speed["total"].sessions, speed["total"].rounds) == (3, 6)


def test_a_process_that_dies_says_why(llama, monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'out of memory' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(bench_module.sys, "executable", os.fspath(script))
    with pytest.raises(BenchError, match="(?s)fresh process failed.*out of memory"):
        Bench(llama, CONFIG, DECILM).confirm([BLOCKS], 1, 1, 1)


def test_the_bound_over_sessions():
    sessions = [[math.exp(x), math.exp(x)] for x in (0.1, 0.2, 0.6)]
    mean, factor = geometric_mean(sessions, 0.95)
    assert math.log(mean) == pytest.approx(0.3)
    assert math.log(factor) == pytest.approx(2.920 * 0.264575 / math.sqrt(3), rel=1e-3)
    # sessions that agree by chance do not hide what rounds differ by
    agree = [[math.exp(-0.1), math.exp(0.1)]] * 3
    assert math.log(geometric_mean(agree, 0.95)[1]) == pytest.approx(2.920 * 0.1 / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize("df, value", [(1, 6.3138), (2, 2.9200), (3, 2.3534), (4, 2.1318), (9, 1.8331), (30, 1.6973)])
def test_students_t(df, value):
    assert student_quantile(0.95, df) == pytest.approx(value, rel=3e-3)
