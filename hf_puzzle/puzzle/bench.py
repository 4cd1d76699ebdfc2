"""The bench: the one place that times models, in turn, and that confirms a speed in processes of its own.

What is timed are layouts of blocks with random weights, and two parents: the stock one, as its user runs it, and the
parent's own blocks in the child's modelling code. A child's gain over the second is its architecture's; a claim must
hold against both.
"""

import contextlib
import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from .. import hub
from ..blocks import Block
from ..costs import (
    Ratio,
    Timing,
    Workload,
    cpu_threads,
    geometric_mean,
    in_dtype,
    measure_interleaved,
    median_timing,
    peak_memory_bytes,
    sessions_ratio,
    summed,
)
from ..engines.measuring import OWN_PROCESS, open_model, process_of, time_elsewhere
from ..formats import PER_LAYER
from ..layers import parent_blocks
from ..progress import bar
from ..recipe import CostConfig
from .bits import pack_bits
from .network import Network, empty_model


PARENT, OWN = "parent", "0"  # the stock parent, and its blocks in the child's code: calibration child 0


START_SECONDS = 6.0  # of a process that imports torch and transformers


class BenchError(RuntimeError):
    """A process that should have timed models died; the message has its last words."""


class Bench:
    """Times layouts of one parent in an engine, by one clock, with one number of threads, in one dtype.

    Args:
        parent: the stock model; a copy is timed where its dtype is another than `config.dtype`.
        fmt: format of the children.
        confidence: of all bounds.
        original: config of the parent with all its tokens, and how many of them it needs for one of `parent`'s, where that
            was trimmed (`vocabulary.size`): this is then the parent that is timed, and it takes so much less a token.
        cache_type: in which children, not the stock parent, keep keys and values, where the engine has it.
    """

    def __init__(
        self,
        parent: PreTrainedModel,
        config: CostConfig,
        fmt: str,
        confidence: float = 0.95,
        original: tuple[PretrainedConfig, float] | None = None,
        cache_type: str | None = None,
    ):
        self._model, self.config, self.fmt, self.confidence = parent, config, fmt, confidence
        self.original, self.cache_type = original, cache_type
        self.dtype = getattr(torch, config.dtype)
        self.parent_config = parent.config
        self.own = parent_blocks(parent.config)
        self._parents: dict[str, PreTrainedModel] = {}
        self._open: dict[tuple[str, Workload], Any] = {}  # parents, in the engine; children come and go
        self._stay = contextlib.ExitStack()
        self._spare: list[_Process] | None = None  # that were started and not asked, where there will be more sessions

    def workload(self, batch_size: int, length: int | None = None) -> Workload:
        """Behind prompts of `length` tokens; default: the longest."""
        return Workload(batch_size, length or max(self.config.lengths), self.config.decode_tokens)

    def timings(
        self,
        layouts: dict[str, list[Block]],
        batch_size: int,
        rounds: int,
        description: str = "measure",
        parents: bool = True,
        tolerance: float = 0.0,
        length: int | None = None,
    ) -> dict[str, list[Timing]]:
        """Rounds of every layout, by its name, after those of both parents (`PARENT`, `OWN`), all in turn.

        Args:
            rounds, tolerance: as of `costs.measure_interleaved`.
            length: as of `workload`.

        Raises:
            rewrites.CannotRun: a child that the engine cannot run.
        """
        makers: dict[str, Callable[[], PreTrainedModel]] = {}
        if parents:
            makers[PARENT] = self._stock
            if self.fmt != PER_LAYER:  # there the parent's blocks are the stock model
                makers[OWN] = self._same_code
        makers |= {name: functools.partial(self._child, blocks) for name, blocks in layouts.items()}
        with cpu_threads(self.config.threads):
            timings = self._timed(makers, layouts, self.workload(batch_size, length), rounds, description, tolerance)
        if not parents:
            return timings
        timings = {PARENT: timings[PARENT], OWN: timings[PARENT]} | timings
        if self.original is None:
            return timings
        share = self.original[1]  # of the same text, the parent reads fewer tokens
        return timings | {
            name: [Timing(share * t.prefill_ms, share * t.decode_ms) for t in timings[name]] for name in (PARENT, OWN)
        }

    def _timed(
        self, makers: dict, layouts: dict, workload: Workload, rounds: int, description: str, tolerance: float
    ) -> dict:
        engine = self.config.engine
        if engine in OWN_PROCESS:  # its own process, one model after the other: each takes the whole device
            with self._parent_elsewhere():
                return {
                    name: time_elsewhere(engine, make(), workload, rounds)
                    for name, make in bar(makers.items(), desc=description)
                }
        with contextlib.ExitStack() as passing:
            models: dict[str, Any] = {}
            for name, make in makers.items():
                kept = (name, workload) if name in (PARENT, OWN) else None
                if kept not in self._open:
                    stack = passing if kept is None else self._stay
                    models[name] = stack.enter_context(
                        open_model(
                            make(),
                            engine,
                            workload,
                            self.config.threads,
                            self.config.gguf_type,
                            layouts.get(name, ()),
                            None if name == PARENT else self.cache_type,
                        )
                    )
                    if kept is not None:
                        self._open[kept] = models[name]
                else:
                    models[name] = self._open[kept]
            return measure_interleaved(models, workload, rounds, self.config.clock, description, tolerance)

    def timings_by_length(
        self, layouts: dict[str, list[Block]], batch_size: int, rounds: int
    ) -> dict[int, dict[str, list[Timing]]]:
        """`timings` behind prompts of every length of the recipe, one length after the other."""
        return {n: self.timings(layouts, batch_size, rounds, length=n) for n in self.config.lengths}

    def confirm(
        self,
        layouts: list[list[Block]],
        batch_size: int,
        sessions: int,
        rounds: int,
        hopeless: Callable[[list[dict]], bool] = lambda speeds: False,
        undecided: Callable[[list[dict]], bool] = lambda speeds: False,
    ) -> list[dict]:
        """Speeds of layouts by `sessions` fresh processes with `rounds` rounds each; bounds are over the processes.

        Args:
            hopeless: told the speeds so far after each session, whether to leave the rest out.
            undecided: told the speeds after `sessions` sessions, whether to have as many more, and so on.

        Raises:
            BenchError: a process failed.
        """
        names = {f"layout {i}": blocks for i, blocks in enumerate(layouts)}
        seen, speeds = [], []
        while not seen or undecided(speeds):
            with self._sessions(sessions) as processes:
                for process in bar(processes, desc="confirm: sessions"):
                    seen.append(process(names, batch_size, rounds))
                    speeds = [self._speed(seen, name, batch_size) for name in names]
                    if hopeless(speeds):
                        return speeds
        return speeds

    def peak_bytes(self, blocks: list[Block], batch_size: int) -> int | None:
        """Peak memory of loading such a child and generating, in a process of its own; None where it cannot be read, or
        where matrices are in fewer bits, which are made of whole ones when they are loaded, or keys and values are."""
        if self.cache_type or any(block != block.plain for block in blocks):
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = hub.write_model_folder(Path(folder) / "child", self._child(blocks))
            return peak_memory_bytes(path, self.workload(batch_size), self.config.dtype, str(self._model.device))

    # -- models

    def _stock(self) -> PreTrainedModel:
        if PARENT not in self._parents:
            self._parents[PARENT] = (
                in_dtype(self._model, self.dtype)
                if self.original is None
                else empty_model(self.original[0], self.dtype, self._model.device)
            )
        return self._parents[PARENT]

    def _same_code(self) -> PreTrainedModel:
        """The parent's blocks in the child's code."""
        if OWN not in self._parents:
            self._parents[OWN] = self._child(self.own, None if self.original is None else self.original[0])
        return self._parents[OWN]

    def _child(self, blocks: list[Block], config: PretrainedConfig | None = None) -> PreTrainedModel:
        device = "cpu" if self.config.engine in OWN_PROCESS else self._model.device
        config = config or self.parent_config
        child = Network(config, blocks, fmt=self.fmt).random(self.dtype, device, self._stock())
        if self.config.engine == "transformers":
            pack_bits(child, blocks)
        return child

    # -- sessions

    @contextlib.contextmanager
    def standing_by(self) -> Iterator[None]:
        """Processes that a confirmation started and did not need wait for the next one."""
        self._spare = []
        try:
            yield
        finally:
            for process in self._spare:
                process.close()
            self._spare = None

    @property
    def _stays(self) -> bool:
        """Whether sessions are of this process: a parent spread over devices cannot be made again beside itself."""
        return len(set(getattr(self._model, "hf_device_map", {"": 0}).values())) > 1

    @contextlib.contextmanager
    def _sessions(self, count: int) -> Iterator[list[Callable]]:
        """Functions that time `(layouts, batch_size, rounds)`, each in a process of its own.

        They all start at once and wait for their turn, so that what a start costs the machine disturbs no timing. vLLM
        and OpenVINO have their own process, which starts again for each.
        """
        if self.config.engine in OWN_PROCESS:
            yield [self._in_fresh_process] * count
            return
        if self._stays:
            yield [self.timings_by_length] * count
            return
        with tempfile.TemporaryDirectory() as folder:
            self.parent_config.save_pretrained(folder)
            config = dataclasses.replace(self.config, threads=self.config.threads or torch.get_num_threads())
            about = {
                "folder": folder,
                "attention": self.parent_config._attn_implementation,
                "device": str(self._model.device),
                "cost": dataclasses.asdict(config),
                "fmt": self.fmt,
                "share": None,
                "cache_type": self.cache_type,
            }
            if self.original is not None:
                self.original[0].save_pretrained(Path(folder) / "original")
                about["share"] = self.original[1]
            spare = self._spare if self._spare is not None else []
            processes = [spare.pop() if spare else _Process() for _ in range(count)]
            try:
                for process in processes:
                    process.wait_until_ready()
                with self._parent_elsewhere():
                    yield [functools.partial(process, about) for process in processes]
            finally:
                for process in processes:
                    if self._spare is not None and process.waits:
                        self._spare.append(process)
                    else:
                        process.close()

    def _in_fresh_process(
        self, layouts: dict[str, list[Block]], batch_size: int, rounds: int
    ) -> dict[int, dict[str, list[Timing]]]:
        process_of(self.config.engine).close()  # the next question starts another
        return self.timings_by_length(layouts, batch_size, rounds)

    @contextlib.contextmanager
    def _parent_elsewhere(self) -> Iterator[None]:
        """Free the GPU of this process's models while others have their turn."""
        device = self._model.device
        if device.type != "cuda" or self._stays:
            yield
            return
        self._stay.close()
        self._open.clear()
        self._parents.clear()
        self._model.to("cpu")
        torch.cuda.empty_cache()
        try:
            yield
        finally:
            self._model.to(device)

    # -- figures

    def _speed(self, sessions: list[dict[int, dict[str, list[Timing]]]], name: str, batch_size: int) -> dict:
        """What sessions, of timings by length, say of a layout: over one batch of every length together.

        Returns:
            As of `_figures`; with several lengths also `by_length`, a list of the same figures for each, with its
            `prefill_tokens`.
        """
        tokens = {n: self.workload(batch_size, n).tokens for n in self.config.lengths}
        together = self._figures([summed(session.values()) for session in sessions], name, sum(tokens.values()))
        if len(tokens) == 1:
            return together
        each = [
            {"prefill_tokens": n, **self._figures([session[n] for session in sessions], name, tokens[n])}
            for n in tokens
        ]
        return together | {"by_length": each}

    def _figures(self, sessions: list[dict[str, list[Timing]]], name: str, tokens: int) -> dict:
        """Of a layout that generates so many `tokens`, prompts included.

        Returns:
            `total`, `prefill`, `decode`: how many times faster than the stock parent, with bounds; `same_code`: than the
            parent's blocks in the child's code; `child_ms` and `child_prefill_ms` with upper bounds `*_at_most`;
            `parent_ms`; `tokens_per_s` with `tokens_per_s_at_least`; `parent_tokens_per_s`.
        """

        def ratio(slow: str, part: str) -> Ratio:
            return sessions_ratio([(s[slow], s[name]) for s in sessions], self.confidence, part)

        def middle(who: str, part: str = "total_ms") -> float:
            return statistics.fmean(getattr(median_timing(s[who]), part) for s in sessions)

        result: dict = {part: ratio(PARENT, f"{part}_ms") for part in ("total", "prefill", "decode")}
        result["same_code"] = ratio(OWN, "total_ms")
        for key, part in (("child_ms", "total_ms"), ("child_prefill_ms", "prefill_ms")):
            value, factor = geometric_mean([[getattr(t, part) for t in s[name]] for s in sessions], self.confidence)
            result[key], result[f"{key}_at_most"] = middle(name, part), value * factor
        parent_ms = middle(PARENT)
        return result | {
            "parent_ms": parent_ms,
            "tokens_per_s": tokens / result["child_ms"] * 1e3,
            "tokens_per_s_at_least": tokens / result["child_ms_at_most"] * 1e3,
            "parent_tokens_per_s": tokens / parent_ms * 1e3,
        }


def least(speed: dict) -> Ratio:
    """The gain that counts: against the stock parent or the same code, whichever has the lower bound."""
    return min((speed["total"], speed["same_code"]), key=lambda ratio: ratio.lower_bound)


def jsonable(speed: dict) -> dict:
    """Ratios as dicts, those of every length too."""
    plain = {k: v.to_dict() if isinstance(v, Ratio) else v for k, v in speed.items()}
    return plain | {"by_length": [jsonable(each) for each in speed["by_length"]]} if "by_length" in speed else plain


class _Process:
    """A fresh interpreter that times layouts of one parent, once.

    Attributes:
        waits: whether it is ready, and was not asked yet.
    """

    def __init__(self):
        # not multiprocessing: its children import the caller's main module, which may be a script without a guard
        program = "from hf_puzzle.puzzle.bench import _answer; _answer()"
        self.waits = False
        # a pipe that nobody reads would stop a talkative process
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def wait_until_ready(self) -> None:
        if not self.waits:
            self._read()
            self.waits = True

    def __call__(
        self, about: dict, layouts: dict[str, list[Block]], batch_size: int, rounds: int
    ) -> dict[int, dict[str, list[Timing]]]:
        names = {name: [block.id for block in blocks] for name, blocks in layouts.items()}
        asked = about | {"layouts": names, "batch_size": batch_size, "rounds": rounds}
        self.waits = False
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading says why
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        return {
            int(length): {name: [Timing(*pair) for pair in rows] for name, rows in timings.items()}
            for length, timings in self._read().items()
        }

    def _read(self) -> Any:
        """The next line that starts with our mark: libraries may print, too."""
        for line in self.process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        self.process.wait()
        self.log.seek(0)
        raise BenchError(f"timing in a fresh process failed:\n{self.log.read()[-2000:]}")

    def close(self) -> None:
        """Whoever was not asked ends here."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


_MARK = "hf_puzzle.bench: "


def _answer() -> None:
    """What a fresh process does: say that it is ready, read one request, time it."""
    _say(None)
    line = sys.stdin.readline()
    if not line:
        return
    asked = json.loads(line)
    cost = CostConfig(**asked["cost"])
    config = AutoConfig.from_pretrained(asked["folder"], attn_implementation=asked["attention"])
    parent = empty_model(config, getattr(torch, cost.dtype), asked["device"])
    layouts = {name: [Block.parse(text) for text in blocks] for name, blocks in asked["layouts"].items()}
    original = None
    if asked["share"] is not None:
        folder = Path(asked["folder"]) / "original"
        full = AutoConfig.from_pretrained(folder, attn_implementation=asked["attention"])
        original = (full, asked["share"])
    timings = Bench(parent, cost, asked["fmt"], original=original, cache_type=asked["cache_type"]).timings_by_length(
        layouts, asked["batch_size"], asked["rounds"]
    )
    _say(
        {
            length: {name: [dataclasses.astuple(timing) for timing in rounds] for name, rounds in each.items()}
            for length, each in timings.items()
        }
    )


def _say(value) -> None:
    sys.stdout.write(f"{_MARK}{json.dumps(value)}\n")
    sys.stdout.flush()


def rounds_per_session(rounds: int, sessions: int) -> int:
    """Of all rounds of a confirmation."""
    return max(1, round(rounds / sessions))


def seconds_of_confirmation(p, rounds: int, children: int = 1) -> float:
    """Children timed by fresh processes, which share `rounds`: generations of both parents and the children in turn, and
    one to warm up."""
    cost, sessions = p.recipe.cost, p.recipe.solve.sessions
    build = 2 * p.clock.init(p.parameters) + children * p.clock.init(p.child_parameters)
    seconds = START_SECONDS
    for length in cost.lengths:
        own, child = p.generations(Workload(max(cost.batch_sizes), length, cost.decode_tokens))
        seconds += build + (rounds_per_session(rounds, sessions) + 1) * (2 * own + children * child)
    return sessions * seconds


def memory_of_confirmation(p, targets: float, children: int = 1) -> dict[str, float]:
    """What is on a GPU when a fresh process times both parents and children: this one's parent has left, its judge's
    `targets` have not."""
    memory = p.timed((p.other_code + children * p.share) * p.blocks, targets=targets)
    return memory | {"process": 2 * memory["process"]}
