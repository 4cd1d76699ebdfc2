"""vLLM's process, by a stand-in that answers as the worker does; with vLLM itself where HF_PUZZLE_VLLM_PYTHON names it."""

import json
import os
import sys

import pytest
import torch
from families import family_model

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Timing, Workload
from hf_puzzle.engines import process, vllm, worker
from hf_puzzle.engines.vllm import PYTHON, Vllm, VllmError


FAKE = """#!{python}
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    with open({log!r}, "a") as log:
        log.write(line)
    answer = {{"version": "0.1"}} if "version" in asked else {{"open": asked.get("open")}}
    if "time" in asked:
        batch, prefill, decode = asked["time"]
        answer = {{"times": [[100 + i, 100 + 2 * i + 10 * (decode - 1)] for i in range(asked["rounds"])]}}
    {behaviour}
    print("INFO loading", flush=True)
    print("\\x02hf_puzzle " + json.dumps(answer), flush=True)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A function that makes an interpreter whose worker answers at once, and gives back one that lists the questions."""

    def install(behaviour="pass"):
        log, script = tmp_path / "asked.jsonl", tmp_path / "python"
        script.write_text(FAKE.format(python=sys.executable, log=str(log), behaviour=behaviour))
        script.chmod(0o755)
        monkeypatch.setenv(PYTHON, str(script))
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return install


def test_models_are_exchanged_in_one_process(fake):
    asked = fake()
    with Vllm() as engine:
        timings = engine.time("a", Workload(4, 128, 11), 3, {"dtype": "bfloat16"})
        process = engine._process.pid
        engine.time("b", Workload(1, 8, 2), 1)
        assert engine._process.pid == process
    # the time to the first token, and what the rest took beyond it
    assert timings == [Timing(100, 100), Timing(101, 101), Timing(102, 102)]
    assert asked() == [
        {"open": "a", "tokens": 139, "sequences": 4, "options": {"dtype": "bfloat16"}},
        {"time": [4, 128, 11], "rounds": 3},
        {"open": "b", "tokens": 10, "sequences": 1, "options": {}},
        {"time": [1, 8, 2], "rounds": 1},
    ]


def test_one_token_is_all_prefill(fake):
    fake()
    with Vllm() as engine:
        assert engine.time("child", Workload(1, 8, 1), 2) == [Timing(100, 0.0), Timing(101, 0.0)]


def test_a_restarted_process_is_another(fake):
    fake()
    assert vllm.shared().version() == "0.1"
    first = vllm.shared()._process
    vllm.shared().close()
    assert first.returncode == 0
    assert vllm.shared().version() == "0.1"
    assert vllm.shared()._process is not first
    vllm.shared().close()


def test_no_vllm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(VllmError, match=f"vLLM is not installed here: `pip install vllm` .*{PYTHON}"):
        Vllm().time("child", Workload(1, 8, 8), 2)
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    with pytest.raises(VllmError, match=f"{PYTHON} is '/nowhere/python', which is no executable"):
        vllm.interpreter()


def test_the_interpreter_beside_the_executable(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(PYTHON, raising=False)
    for name in ("vllm", "python"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert vllm.interpreter() == str(tmp_path / "python")


@pytest.mark.parametrize(
    "behaviour, message",
    [
        ("sys.exit('out of memory')", "(?s)process ended with 1:\n.*out of memory"),
        ("answer = {'error': 'ValueError: no such architecture'}", "vllm: ValueError: no such architecture"),
        (
            "answer = {'times': [[100.0, 90.0]]} if 'time' in asked else answer",
            "took no longer than the first .*decode more tokens",
        ),
    ],
)
def test_failures_are_named(fake, behaviour, message):
    fake(behaviour)
    with Vllm() as engine, pytest.raises(VllmError, match=message):
        engine.time("child", Workload(1, 8, 8), 1)


def test_the_worker_survives_what_it_cannot_open(fake, monkeypatch):
    """The real worker where vLLM is not: the import error is an answer, and the process goes on."""
    monkeypatch.setenv(PYTHON, sys.executable)
    monkeypatch.setitem(os.environ, "PYTHONPATH", "/nowhere")
    with Vllm() as engine:
        for _ in range(2):
            with pytest.raises(VllmError, match="vllm: ModuleNotFoundError: No module named 'vllm'"):
                engine.version()
    assert process._MARK == worker.MARK


@pytest.mark.slow
@pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no vLLM")
def test_half_the_layers_in_vllm_itself(tmp_path):
    """A child of half the depth is timed faster, in the process that timed its parent."""
    parent = family_model("llama", hidden_size=256, intermediate_size=1024, num_hidden_layers=8, vocab_size=512)
    times = {}
    with Vllm() as engine:
        for layers in (8, 4):
            config = formats.decilm_config(parent.config, [Block(4, 1024)] * (layers - 1) + [Block(2, 512)])
            folder = hub.write_model_folder(tmp_path / str(layers), formats.model_class(config)(config))
            rounds = engine.time(folder, Workload(2, 32, 8), 5, {"dtype": "float32"})
            times[layers] = min(t.total_ms for t in rounds)
    assert torch.cuda.is_available() or times[4] < times[8]
