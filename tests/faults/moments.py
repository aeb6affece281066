"""Moments at which a run is killed, drawn from a seed, and what the run was doing, from the files it left."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.victim import START_LIMIT_S, Victim

POLL_S = 0.0005
KINDS = ("start", "steps", "checkpoint", "checkpoint-operation", "best-operation", "results", "results-operation")
PATHS = {
    "checkpoint-operation": ("/checkpoints",),
    "best-operation": ("/best", "/.best"),
    "results-operation": ("/student.", "/.student.", "/ema", "/.ema", "/result", "/.result", "/report", "/curves"),
}
OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree"}


@dataclass(frozen=True)
class Moment:
    """A moment at which to kill a process of a run.

    `start` is `after_s` seconds after its start; `steps` is `after_s` after its `count`-th new checkpoint (0: after it
    locked the directory); `checkpoint` and `results` are `after_s` after such files were seen being written for the
    `count`-th time. At an `-operation` the process kills itself before its `count`-th operation on files of that kind.
    """

    kind: str
    after_s: float = 0.0
    count: int = 1

    @property
    def inside(self) -> bool:
        """Whether the process kills itself."""
        return self.kind.endswith("-operation")

    def arm(self, out: Path) -> Callable[[], None]:
        """The function that the process calls first, so that it kills itself at this moment if it has to."""
        return (lambda: _end_before(self, out)) if self.inside else (lambda: None)

    def strike(self, victim: Victim, out: Path) -> bool:
        """Wait for the moment and kill the process, or wait for its end; returns whether it was killed."""
        limit = time.monotonic() + START_LIMIT_S
        due = time.monotonic() + self.after_s if self.kind == "start" else None
        seen: set[str] = set()
        before = {path.name for path in (out / "checkpoints").glob("step-*")}
        while victim.poll() is None:
            if time.monotonic() > limit:
                victim.send(signal.SIGKILL)
                raise TimeoutError(f"a start of {out} did not end in {START_LIMIT_S:.0f} s")
            if due is not None and time.monotonic() >= due:
                victim.send(signal.SIGKILL)
            elif due is None and self._has_started(victim, out, seen, before):
                due = time.monotonic() + self.after_s
                continue
            time.sleep(POLL_S)
        return victim.code == -signal.SIGKILL

    def _has_started(self, victim: Victim, out: Path, seen: set[str], before: set[str]) -> bool:
        """Whether the event that this moment waits for has started; `seen` collects file names since the start."""
        if self.kind == "steps":
            seen |= {path.name for path in (out / "checkpoints").glob("step-*")} - before
            return trains(out, victim.pid) and len(seen) >= self.count
        if self.kind == "checkpoint":
            seen |= {path.name for path in (out / "checkpoints").glob(".step-*.tmp")}
            return trains(out, victim.pid) and len(seen) >= self.count
        return self.kind == "results" and any(out.glob(".ema.*.tmp"))  # "never" waits until the run ends


NEVER = Moment("never")


def drawn(random_of: random.Random, *, start_s: float, warm_s: float) -> list[Moment]:
    """The moments of one run, in a possible order.

    `start_s` is the time from the first start to the first step, `warm_s` that of later starts.
    """
    kinds = random_of.choices(KINDS[:5], (3, 4, 4, 4, 3), k=4) + random_of.sample(KINDS[5:], random_of.randint(0, 2))
    return [_draw(random_of, kind, warm_s if number else start_s) for number, kind in enumerate(kinds)]


def _draw(random_of: random.Random, kind: str, start_s: float) -> Moment:
    match kind:
        case "start":
            return Moment(kind, after_s=random_of.uniform(0, start_s))
        case "steps":
            return Moment(kind, after_s=random_of.uniform(0, 0.15), count=random_of.randint(0, 3))
        case "checkpoint":
            return Moment(kind, after_s=random_of.uniform(0, 0.02), count=random_of.randint(1, 4))
        case "results":
            return Moment(kind, after_s=random_of.uniform(0, 0.2))
        case _:
            return Moment(kind, count=random_of.randint(1, {"best-operation": 24}.get(kind, 60)))


def trains(out: Path, pid: int) -> bool:
    """Whether this process holds the run's lock: it restores, trains or writes its results."""
    try:
        return (out / ".lock").read_text(encoding="utf-8").strip() == str(pid)
    except OSError:
        return False


def place(out: Path, pid: int, *, earlier: set[str]) -> str:
    """What a killed process was doing, from the files it left; `earlier` is `left_behind` before its start."""
    new = left_behind(out) - earlier
    if any(name.startswith("checkpoints/.step-") for name in new):
        return "writing a checkpoint"
    if any(name.startswith(".best") for name in new):
        return "exchanging best/"
    if not trains(out, pid):
        return "before training"
    if (out / "result.json").exists() or any(name.startswith((".ema", ".student", ".result")) for name in new):
        return "writing results"
    return "writing results" if (out / "student.safetensors").exists() else "training"


def left_behind(out: Path) -> set[str]:
    """Names of temporary files in a run directory, with inodes, so that a file that was created again differs."""
    found = [*out.glob(".*"), *(out / "checkpoints").glob(".*")]
    return {f"{path.relative_to(out)}#{path.stat().st_ino}" for path in found if path.name != ".lock"}


def _end_before(moment: Moment, out: Path) -> None:
    """Make this process kill itself right before an operation on the run's files."""
    below, count = str(out), 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in OPERATIONS or not isinstance(details[0], str | os.PathLike):
            return
        path = os.fspath(details[0])
        if isinstance(path, str) and path.startswith(below) and path[len(below) :].startswith(PATHS[moment.kind]):
            count += 1
            if count == moment.count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
