"""How far a long step is: a bar on a terminal; elsewhere a line in the log every half minute.

The lines come from a thread, so that one also comes while a single unit of work takes long. `HF_PUZZLE_LOG_EVERY` is the
seconds between two; 0 switches them off.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from tqdm.auto import tqdm


logger = logging.getLogger(__name__)

EVERY = "HF_PUZZLE_LOG_EVERY"
SECONDS = 30.0

_open: list["Step"] = []  # what is under way, outermost first
_thread: threading.Thread | None = None


class Step:
    """Counts like a `tqdm` bar and shows nothing itself: `line` speaks of it.

    Args:
        total: units of work; None where they are not known.
        initial: units that were done before.
    """

    def __init__(
        self,
        description: str,
        iterable: Iterable | None = None,
        total: int | None = None,
        initial: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.description, self.iterable, self.total, self.n = description, iterable, total, initial
        self.clock, self.initial, self.began, self.postfix = clock, initial, clock(), ""
        _open.append(self)

    def __iter__(self) -> Iterator:
        try:
            for item in self.iterable:
                yield item
                self.n += 1
        finally:
            self.close()

    def update(self, n: int = 1) -> None:
        self.n += n

    def set_postfix(self, **values) -> None:
        self.postfix = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        if self in _open:
            _open.remove(self)

    def __str__(self) -> str:
        spent = self.clock() - self.began
        if self.total is None:
            return f"{self.description}, {tqdm.format_interval(spent)} so far{self.postfix}"
        done, left = self.n - self.initial, "?"
        if done > 0:
            left = tqdm.format_interval(max(0.0, spent / done * (self.total - self.n)))
        return f"{self.description} {self.n} of {self.total}, {left} left{self.postfix}"


def bar(
    iterable: Iterable | None = None, *, desc: str, total: int | None = None, initial: int = 0, **options
) -> "tqdm | Step":
    """A `tqdm` bar that leaves nothing behind, or a `Step` where there is no terminal.

    Args:
        options: of `tqdm`.
    """
    if sys.stderr.isatty():
        return tqdm(iterable, desc=desc, total=total, initial=initial, leave=False, **options)
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    _speak()
    return Step(desc, iterable, total, initial)


@contextlib.contextmanager
def under_way(name: str) -> Iterator[None]:
    """Name what is done, for the lines; what was begun in it ends with it."""
    if sys.stderr.isatty():
        yield
        return
    _speak()
    step = Step(name)
    try:
        yield
    finally:
        del _open[_open.index(step) :]


def line() -> str:
    """All that is under way, outermost first; empty where nothing is."""
    steps = list(_open)
    if len(steps) > 1 and steps[1].description.startswith(steps[0].description):
        del steps[0]  # `score` in the stage `score`
    return " | ".join(map(str, steps))


def seconds_between() -> float:
    """What `HF_PUZZLE_LOG_EVERY` says.

    Raises:
        ValueError: no number of seconds.
    """
    text = os.environ.get(EVERY, str(SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < threading.TIMEOUT_MAX:
        raise ValueError(f"{EVERY} is {text!r}: give seconds between two lines, 30 for example, or 0 for none")
    return seconds


def _speak() -> None:
    """Start the thread that says `line`, where there is none yet: a forked process has none."""
    global _thread
    if (_thread is None or not _thread.is_alive()) and (seconds := seconds_between()):
        _thread = threading.Thread(target=_say_lines, args=(seconds,), name="hf_puzzle progress", daemon=True)
        _thread.start()


def _say_lines(seconds: float) -> None:
    while threading.current_thread() is _thread:
        time.sleep(seconds)
        if text := line():
            logger.info(text)
