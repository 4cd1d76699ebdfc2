"""What running a model costs on this machine: generation times measured interleaved, bytes, and honest ratios."""

import contextlib
import copy
import dataclasses
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import DynamicCache, PreTrainedModel

from .progress import bar
from .remote.caches_puzzle import OUTPUT_NAME


@dataclass(frozen=True)
class Workload:
    """What is generated while the clock runs: `batch_size` sequences, greedy, all of the same length."""

    batch_size: int
    prefill_tokens: int
    decode_tokens: int

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens of a batch: what throughput counts, as in the Puzzle paper."""
        return self.batch_size * (self.prefill_tokens + self.decode_tokens)


@dataclass(frozen=True)
class Timing:
    """One generation: milliseconds until the first token, and for all tokens after it."""

    prefill_ms: float
    decode_ms: float

    @property
    def total_ms(self) -> float:
        return self.prefill_ms + self.decode_ms


@contextlib.contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Run with so many torch threads; None leaves them alone."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock_ms(clock: str, device: torch.device) -> Callable[[], float]:
    """A clock that waits for the device first. `cpu` is processor time of this process: other jobs do not count."""
    read = time.process_time if clock == "cpu" else time.perf_counter

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return read() * 1e3

    return now


@torch.inference_mode()
def time_generation(model: PreTrainedModel, workload: Workload, clock: str = "wall") -> Timing:
    """One greedy generation with a KV cache; only the last position's logits are computed in the prefill, which gives the
    first token: a workload of one token is the prefill alone, and its `decode_ms` 0."""
    if hasattr(model, "time_generation"):  # a model in another engine
        return model.time_generation(workload, clock)
    device = model.device
    now = clock_ms(clock, device)
    shape = (workload.batch_size, workload.prefill_tokens)
    tokens = torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    cache = DynamicCache(config=model.config) if not hasattr(model.config, "block_configs") else DynamicCache()
    start = now()
    cached = {"use_cache": True, OUTPUT_NAME: cache}
    logits = model(input_ids=tokens, logits_to_keep=1, **cached).logits
    tokens = logits[:, -1:].argmax(-1)
    first = now()
    for _ in range(workload.decode_tokens - 1):
        logits = model(input_ids=tokens, **cached).logits
        tokens = logits[:, -1:].argmax(-1)
    return Timing(first - start, now() - first if workload.decode_tokens > 1 else 0.0)


def measure_interleaved(
    models: dict[str, PreTrainedModel],
    workload: Workload,
    rounds: int,
    clock: str = "wall",
    description: str = "measure",
    tolerance: float = 0.0,
) -> dict[str, list[Timing]]:
    """Timings of each model, in turn, so that a machine's drift meets all of them alike; one warm-up each.

    Args:
        rounds: at most; fewer, but not below three, where all models' mean times have a relative standard error of at
            most `tolerance` before.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in models}
    # on a CPU the tokens after the first few meet nothing new; a GPU's allocator meets longer caches
    short = dataclasses.replace(workload, decode_tokens=min(4, workload.decode_tokens))
    for round_idx, name in bar(list(itertools.product(range(rounds + 1), models)), desc=description):
        if round_idx > 3 and name == next(iter(models)) and all(_steady(t, tolerance) for t in timings.values()):
            break
        on_cpu = getattr(getattr(models[name], "device", None), "type", None) == "cpu"
        timing = time_generation(models[name], workload if round_idx or not on_cpu else short, clock)
        if round_idx:
            timings[name].append(timing)
    return timings


def _steady(timings: list[Timing], tolerance: float) -> bool:
    totals = [t.total_ms for t in timings]
    return statistics.stdev(totals) / math.sqrt(len(totals)) <= tolerance * statistics.fmean(totals)


def without_drift(timings: dict[str, list[Timing]]) -> dict[str, list[Timing]]:
    """Interleaved timings, each divided by how much slower than usual all models were in its round."""
    usual = {name: statistics.median(t.total_ms for t in rounds) for name, rounds in timings.items()}
    slower = [
        statistics.median(t.total_ms / usual[name] for name, t in zip(timings, row, strict=True))
        for row in zip(*timings.values(), strict=True)
    ]
    return {
        name: [Timing(t.prefill_ms / by, t.decode_ms / by) for t, by in zip(rounds, slower, strict=True)]
        for name, rounds in timings.items()
    }


def summed(workloads: Iterable[dict[str, list[Timing]]]) -> dict[str, list[Timing]]:
    """Rounds of several workloads as if each round ran them all, one after the other."""
    workloads = list(workloads)
    return {
        name: [
            Timing(sum(t.prefill_ms for t in rounds), sum(t.decode_ms for t in rounds))
            for rounds in zip(*(timings[name] for timings in workloads), strict=True)
        ]
        for name in workloads[0]
    }


def median_timing(timings: list[Timing]) -> Timing:
    return Timing(statistics.median(t.prefill_ms for t in timings), statistics.median(t.decode_ms for t in timings))


@dataclass(frozen=True)
class Ratio:
    """A speed ratio over paired rounds with its one-sided lower confidence bound."""

    value: float
    lower_bound: float
    confidence: float
    rounds: int
    sessions: int = 1

    def to_dict(self) -> dict:
        return asdict(self)


def speed_ratio(
    slow: list[Timing], fast: list[Timing], confidence: float = 0.95, part: str = "total_ms", scale: float = 1.0
) -> Ratio:
    """How many times faster `fast` is than `slow`, from rounds of one session, measured in turn.

    `scale` multiplies the ratio (tokens of the two workloads, when they differ).
    """
    return sessions_ratio([(slow, fast)], confidence, part, scale)


def sessions_ratio(
    sessions: Sequence[tuple[list[Timing], list[Timing]]],
    confidence: float = 0.95,
    part: str = "total_ms",
    scale: float = 1.0,
) -> Ratio:
    """`speed_ratio` over the rounds `(slow, fast)` of several sessions, that is processes; 1 of a part that takes no time."""
    ratios = [
        [getattr(s, part) / getattr(f, part) if getattr(f, part) else 1.0 for s, f in zip(*pair, strict=True)]
        for pair in sessions
    ]
    value, factor = geometric_mean(ratios, confidence)
    return Ratio(scale * value, scale * value / factor, confidence, sum(map(len, ratios)), len(sessions))


def geometric_mean(sessions: Sequence[Sequence[float]], confidence: float) -> tuple[float, float]:
    """Mean of positive values over rounds of sessions, and the factor to its one-sided confidence bound.

    Within a session: the mean logarithm of the rounds with the outer tenth on each side trimmed (a preempted round is
    no property of the model), its error from the trimmed count and the winsorized deviation (Tukey and McLaughlin: that
    of the trimmed rounds alone is too small). Over sessions: what a claim must survive is another process, so the bound
    is Student's t over the sessions' means; where these happen to agree, the rounds' own errors count.
    """
    parts = [_trimmed_mean([math.log(value) for value in session]) for session in sessions]
    means, count = [mean for mean, _, _ in parts], len(parts)
    _, error, df = parts[0]
    if count > 1:
        within = math.sqrt(sum(e**2 for _, e, _ in parts)) / count
        error, df = max(within, statistics.stdev(means) / math.sqrt(count)), count - 1
    return math.exp(statistics.fmean(means)), math.exp(student_quantile(confidence, df) * error)


def _trimmed_mean(values: list[float]) -> tuple[float, float, int]:
    """Mean without the outer tenth on each side, its standard error and degrees of freedom."""
    values, count, trim = sorted(values), len(values), len(values) // 10
    values = values[trim : count - trim]
    winsorized = [values[0]] * trim + values + [values[-1]] * trim
    error = statistics.stdev(winsorized) * math.sqrt(count) / len(values) if count > 1 else 0.0
    return statistics.fmean(values), error, max(1, len(values) - 1)


def student_quantile(confidence: float, df: int) -> float:
    """Of Student's t: exact for 1 and 2 degrees of freedom, else by Cornish-Fisher (at 95 % within .3 %)."""
    if df == 1:
        return math.tan(math.pi * (confidence - 0.5))
    if df == 2:
        return (2 * confidence - 1) / math.sqrt(2 * confidence * (1 - confidence))
    z = statistics.NormalDist().inv_cdf(confidence)
    return (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    )


def assisted_generation(
    parent: PreTrainedModel,
    child: PreTrainedModel,
    prompts: torch.Tensor,
    new_tokens: int,
    draft_tokens: int,
    clock: str = "wall",
) -> dict:
    """The child as draft of its parent (assisted generation): plain and assisted take turns on every prompt, greedy.

    Args:
        prompts: `(num_prompts, prompt_tokens)`; generated one at a time, the first one once more to warm up.
        draft_tokens: tokens the child tries per step of the parent.

    Returns:
        `identical`: prompts whose tokens are those of the parent alone; `accepted_per_step`; medians; `speed`.
    """
    child.generation_config.num_assistant_tokens = draft_tokens
    child.generation_config.num_assistant_tokens_schedule = "constant"
    child.generation_config.assistant_confidence_threshold = 0.0
    now, steps = clock_ms(clock, parent.device), []
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None}
    ways: dict[str, dict] = {"plain": {}, "assisted": {"assistant_model": child}}
    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    identical, parent_steps = 0, 0
    handle = parent.register_forward_hook(lambda *_: steps.append(1))
    try:
        for prompt_idx, prompt in enumerate(bar(torch.cat((prompts[:1], prompts)).to(parent.device), desc="assisted")):
            outputs = []
            for name, extra in ways.items():
                steps.clear()
                start, ids = now(), prompt[None]
                outputs.append(parent.generate(ids, attention_mask=torch.ones_like(ids), **settings, **extra))
                if prompt_idx:
                    timings[name].append(Timing(0.0, now() - start))
            if prompt_idx:
                parent_steps += len(steps)
                identical += torch.equal(*outputs)
    finally:
        handle.remove()
    return {
        "draft_tokens": draft_tokens,
        "prompts": len(prompts),
        "identical": identical,
        "accepted_per_step": new_tokens * len(prompts) / parent_steps - 1,
        "median_ms": {name: median_timing(each).total_ms for name, each in timings.items()},
        "speed": speed_ratio(timings["plain"], timings["assisted"]).to_dict(),
    }


def in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """`model` itself if it has that dtype, else a copy: what is timed must be what is deployed."""
    return model if model.dtype == dtype else copy.deepcopy(model).to(dtype)


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes the parameters hold, shared (tied) tensors once."""
    seen = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    return sum(seen.values())


def cache_bytes(cache) -> int:
    """Bytes the keys and values of a cache hold."""
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    )


def _resident_bytes(key: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process; getrusage would carry the peak of whoever started us."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _peak_here(folder: str, workload: list[int], dtype: str, device: str, trust: bool) -> int:
    from transformers import AutoModelForCausalLM

    from . import hub

    torch.set_num_threads(1)
    on_gpu = device.startswith("cuda")
    before = 0 if on_gpu else _resident_bytes("VmRSS")
    if Path(folder).is_dir() and not trust:
        model = hub.open_model_folder(folder, dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust)
    model = model.to(device).eval()
    time_generation(model, Workload(*workload))
    return torch.cuda.max_memory_allocated() if on_gpu else _resident_bytes("VmHWM") - before


def peak_memory_bytes(
    folder: str, workload: Workload, dtype: str, device: str, trust_remote_code: bool = False
) -> int | None:
    """Peak memory of loading a model folder and generating with it, measured in a process of its own.

    On a GPU the allocator's peak; on a CPU the growth of the resident set over the bare interpreter (Linux). None where
    neither can be read.
    """
    if not device.startswith("cuda") and not Path("/proc/self/status").exists():
        return None
    # not multiprocessing: its children import the caller's main module, which may be a script without a guard
    program = "import json, sys; from hf_puzzle.costs import _peak_here; print(_peak_here(*json.loads(sys.argv[1])))"
    shape = [workload.batch_size, workload.prefill_tokens, workload.decode_tokens]
    arguments = json.dumps([str(folder), shape, dtype, device, trust_remote_code])
    done = subprocess.run([sys.executable, "-c", program, arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"measuring the peak memory of {folder} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])
