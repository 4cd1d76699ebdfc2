"""vLLM's benchmark, by an executable of that name that writes the documented JSON."""

import json
import os
import sys

import pytest

from hf_puzzle.costs import Timing, Workload
from hf_puzzle.engines.vllm import VllmError, latency_command, measure, read_latencies


# as vLLM 0.33 writes it
RECORDED = {
    "avg_latency": 0.25,
    "std_latency": 0.041,
    "latencies": [0.2, 0.25, 0.3],
    "percentiles": {"10": 0.21, "25": 0.225, "50": 0.25, "75": 0.275, "90": 0.29, "99": 0.299},
}
FAKE = """#!{python}
import json, sys
from pathlib import Path
a = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(a) + "\\n")
value = dict(zip(a, a[1:]))
{behaviour}
n, tokens = int(value["--num-iters"]), int(value["--output-len"])
latencies = [0.1 + 0.01 * (tokens - 1) + 0.001 * i for i in range(n)]
Path(value["--output-json"]).write_text(json.dumps({{"avg_latency": sum(latencies) / n, "latencies": latencies}}))
"""


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    """A function that puts a `vllm` on PATH, and gives back the function that lists its calls."""

    def install(behaviour=""):
        folder = tmp_path / "bin"
        folder.mkdir()
        log = tmp_path / "calls.jsonl"
        script = folder / "vllm"
        script.write_text(FAKE.format(python=sys.executable, log=str(log), behaviour=behaviour))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return install


def test_recorded_output_is_read(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(RECORDED))
    assert read_latencies(path) == RECORDED["latencies"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"latencies": ["a"]}', '{"latencies": 3}'])
def test_other_output_is_named(tmp_path, text):
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(VllmError, match="latency.json is no result of `vllm bench latency`.*list of seconds"):
        read_latencies(path)


def test_prefill_and_decode_are_told_apart(fake_vllm):
    calls = fake_vllm()
    timings = measure("child", Workload(4, 128, 11), 3, ["--dtype", "bfloat16"])
    # 100, 101, 102 ms to the first token; 200, 201, 202 ms in all, of which the median prefill is 101 ms
    assert [t.prefill_ms for t in timings] == pytest.approx([100, 101, 102])
    assert [t.decode_ms for t in timings] == pytest.approx([99, 100, 101])
    first, second = calls()
    assert " ".join(first[: first.index("--output-json")]) == (
        "bench latency --model child --load-format dummy --trust-remote-code --input-len 128 --output-len 1 "
        "--batch-size 4 --num-iters 3"
    )
    assert first[-2:] == ["--dtype", "bfloat16"]
    assert [second[i] for i, word in enumerate(first) if word != second[i]][0] == "11"


def test_one_token_is_all_prefill(fake_vllm):
    calls = fake_vllm()
    assert measure("child", Workload(1, 8, 1), 2) == [Timing(pytest.approx(100), 0.0), Timing(pytest.approx(101), 0.0)]
    assert len(calls()) == 1


def test_command_names_the_folder_and_the_output():
    command = latency_command("a", Workload(1, 2, 3), 4, "b.json")
    assert command[:3] == ["vllm", "bench", "latency"]
    assert command[-2:] == ["--output-json", "b.json"]


def test_missing_executable(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VllmError, match="no executable `vllm` on PATH: `pip install vllm`"):
        measure("child", Workload(1, 8, 8), 2)


@pytest.mark.parametrize(
    "behaviour, message",
    [
        ("sys.exit('CUDA out of memory')", "(?s)output-len 1 .*failed with 1:\nCUDA out of memory"),
        ("sys.exit(0)", "is no result of"),
        ("value['--num-iters'] = '1'", "gave 1 latencies for 2 iterations"),
        (
            "value['--output-len'] = 9 - int(value['--output-len'])",
            "less than the median prefill .*decode more tokens",
        ),
    ],
)
def test_failures_are_named(fake_vllm, behaviour, message):
    fake_vllm(behaviour)
    with pytest.raises(VllmError, match=message):
        measure("child", Workload(1, 8, 8), 2)
