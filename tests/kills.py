"""A run that is killed, cut and starved on purpose, and what it must leave in the end: the files of an undisturbed one.

Attempts are forked off a process that has imported everything, so that hundreds of them are affordable. A kill is
SIGKILL, either after a random time or right before the k-th file operation in the run folder (audit hooks see opening,
renaming, removing), which hits every place where files change.
"""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from tiny_run import write_recipes


FILE_EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "shutil.rmtree",
    "shutil.copyfile",
    "os.truncate",
}
# the smallest evaluation: what it measures in time is not compared
SETTINGS = {
    "threads": 1, "evaluate.assisted_prompts": 0, "solve.measure_rounds": 1, "evaluate.measure_rounds": 1,
    "baselines.names": "[drop_layers]",
}  # fmt: skip
SAME_FILES = ("tokens.safetensors", "importance.safetensors", "scores.jsonl", "recipe.yaml")
SAME_FOLDERS = ("parent", "library", "child", "distilled")


def said(out: Path) -> Path:
    """What the last attempt at a run printed."""
    return out.with_name(f"{out.name}.said")


class Lab:
    """A folder with recipes, an undisturbed run, and the means to disturb others."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder = write_recipes(folder)
        self.random = random.Random(seed)
        self.kills, self.cuts = [], []
        # forks need a process with one thread, which a test's own is not
        command = [sys.executable, str(Path(__file__).resolve())]
        self._forks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        undisturbed = self.folder / "undisturbed"
        assert self.attempt(undisturbed) == 0, said(undisturbed).read_text()
        self.expected = fingerprint(self.folder / "undisturbed")
        self.stages = list(json.loads((self.folder / "undisturbed" / "manifest.json").read_text()))

    def attempt(self, out: Path, after_s: float | None = None, at_event: int | None = None, **weather) -> int:
        """Run the recipe in a forked process; its exit code, or minus the signal that ended it.

        Args:
            after_s: kill it after so many seconds.
            at_event: kill it before this file operation.
            weather: `full_at=BYTES`, `jumping_clock=True`.
        """
        order = {"recipe": str(self.folder / "tiny.yaml"), "out": str(out), "after_s": after_s, "at_event": at_event}
        self._forks.stdin.write(json.dumps(order | weather) + "\n")
        self._forks.stdin.flush()
        return int(self._forks.stdout.readline())

    def close(self) -> None:
        self._forks.stdin.close()
        self._forks.wait()

    def up_to(self, stage: str, out: Path) -> Path:
        """A copy of the undisturbed run as it was before `stage`, so that deaths do not all fall into the first ones."""
        shutil.copytree(self.folder / "undisturbed", out)
        manifest = json.loads((out / "manifest.json").read_text())
        names = list(manifest)
        for name in names[names.index(stage) :]:
            for file in manifest.pop(name)["files"]:
                top = out / file.split("/")[0]
                shutil.rmtree(top) if top.is_dir() else top.unlink(missing_ok=True)
        (out / "manifest.json").write_text(json.dumps(manifest))
        (out / "events.jsonl").unlink()
        return out

    def stage(self, out: Path) -> str:
        """The stage that was under way, by the run's events."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return json.loads((out / "events.jsonl").read_text().splitlines()[-1])["stage"]
        return "start"

    def killed_once(self, out: Path, max_s: float = 1.5, max_events: int = 60) -> bool:
        """One disturbed attempt; False when it finished before its death."""
        by_event = self.random.random() < 0.5
        after_s = None if by_event else self.random.uniform(0.0, max_s)
        at_event = self.random.randint(1, max_events) if by_event else None
        code = self.attempt(out, after_s, at_event)
        if code == 0:
            return False
        assert code == -signal.SIGKILL, (code, self.stage(out), self.cuts[-3:], said(out).read_text())
        self.kills.append(self.stage(out))
        return True

    def cut_a_file(self, out: Path) -> Path | None:
        """Lose the end of a random file of the run, as a power failure may."""
        files = [p for p in sorted(out.rglob("*")) if p.is_file() and p.stat().st_size and p.name != ".lock"]
        if not files:
            return None
        path = self.random.choice(files)
        os.truncate(path, self.random.randrange(path.stat().st_size))
        self.cuts.append(path.relative_to(out).as_posix())
        return path

    def life(self, out: Path, kills: int, cut_share: float = 0.0) -> int:
        """Disturb a run up to `kills` times, let it finish, and compare; the number of kills."""
        died = 0
        while died < kills and self.killed_once(out):
            died += 1
            if self.random.random() < cut_share:
                self.cut_a_file(out)
        assert self.attempt(out) == 0, (self.kills[-3:], self.cuts[-3:], said(out).read_text())
        self.compare(out)
        return died

    def compare(self, out: Path) -> None:
        found = fingerprint(out)
        wrong = sorted(
            name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)
        )
        assert not wrong, f"{wrong} differ after kills in {self.kills[-5:]} and cuts of {self.cuts[-5:]}"


def serve() -> None:
    """For each line of stdin, an order of `Lab.attempt`: fork, run, watch, and answer with how it ended."""
    import matplotlib.pyplot  # noqa: F401 (imported once, before the forks, as all that follows)

    from hf_puzzle.puzzle import pipeline, report  # noqa: F401

    assert threading.active_count() == 1
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            run_forked(order)
        deadline = None if order["after_s"] is None else time.monotonic() + order["after_s"]
        done = 0
        while not done:
            done, status = os.waitpid(process, os.WNOHANG)
            if deadline is not None and time.monotonic() >= deadline and not done:
                os.kill(process, signal.SIGKILL)
                deadline = None
            time.sleep(0.002)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run_forked(order: dict) -> None:
    """`hf-puzzle run`, with what the order does to it; never returns."""
    code, out = 70, Path(order["out"])
    try:
        sys.stdout = sys.stderr = open(said(out), "w")  # noqa: SIM115 (until the process ends)
        import torch

        from hf_puzzle.cli import main
        from hf_puzzle.puzzle import assess
        from hf_puzzle.puzzle.bench import Bench

        torch.set_num_threads(1)
        # processes that only measure memory and time, which are not compared
        assess.peak_memory_bytes = lambda *args: 1
        Bench._stays = property(lambda self: True)
        if order.get("full_at"):
            fill_disk_at(order["full_at"])
        if order.get("jumping_clock"):
            jumping_clock()
        if order["at_event"] is not None:
            kill_at_event(out, order["at_event"])
        settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        code = main(["run", order["recipe"], "--out", str(out), *settings])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def kill_at_event(out: Path, number: int) -> None:
    """SIGKILL this process before the `number`-th operation on a file below `out`."""
    root, seen = str(out), 0

    def hook(event, args):
        nonlocal seen
        if event in FILE_EVENTS and any(
            str(a).startswith(root) for a in args[:2] if isinstance(a, str | Path | bytes)
        ):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def fill_disk_at(size: int) -> None:
    """No file of this process may grow beyond `size` bytes: writing fails half-way, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def jumping_clock() -> None:
    """The wall clock goes back or forth by up to a year at every look."""
    now, generator = time.time, random.Random(0)
    time.time = lambda: now() + generator.uniform(-3e7, 3e7)
    gmtime = time.gmtime
    time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)


def fingerprint(out: Path) -> dict[str, object]:
    """What a run must leave whatever happened to it: hashes of all that holds no time, blocks, qualities."""
    files = [out / name for name in SAME_FILES]
    files += [p for name in SAME_FOLDERS for p in sorted((out / name).rglob("*")) if p.is_file()]
    # provenance holds predicted times; training.json of the parent its environment only
    found: dict[str, object] = {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.name != "puzzle.json"
    }
    found["blocks"] = json.loads((out / "solutions.json").read_text())["chosen"]["blocks"]
    found["quality"] = json.loads((out / "eval.json").read_text())["quality"]
    rows = [json.loads(line) for line in (out / "baselines.jsonl").read_text().splitlines()]
    # which blocks they have depends on measured times
    found["baselines"] = [(row["name"], row["gkd_tokens"], sorted(row["quality"])) for row in rows]
    left = [p.name for p in out.iterdir() if "checkpoint" in p.name or p.name.endswith((".tmp", ".parts"))]
    found["scratch"] = sorted(left)
    return found


if __name__ == "__main__":
    serve()
