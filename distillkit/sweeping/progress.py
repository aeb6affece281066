"""Progress of a sweep: arms done and running, and the time left at the rate of steps so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from distillkit.messages.progress import ProgressDisplay
from distillkit.messages.text import counted
from distillkit.running.metrics import read_metrics
from distillkit.sweeping.drive import Running

LOOK_EVERY_S = 2.0
"""Seconds between two readings of the metrics of the running arms."""

LEAST_SHARE = 0.02
"""Share of the steps that must be made before a time is estimated: at first the processes only import torch."""


class SweepProgress:
    """Shows the progress of a sweep; `steps` are those of every arm from the start to the end.

    The time left counts steps: arms of different students or lengths take different times, so it is an estimate.
    """

    def __init__(self, display: ProgressDisplay, steps: Mapping[str, int], *, done: int = 0) -> None:
        self._display = display
        self._steps = dict(steps)
        self._ended = done
        self._failed = 0
        self._total = done + len(steps)
        self._began: dict[str, int] = {}
        self._made = 0
        self._next_s = 0.0
        display.restart()

    def started(self, arm: str, directory: Path) -> None:
        """An arm has started, or continues after the steps that its directory has."""
        self._began[arm] = last_step(directory)

    def ended(self, arm: str, directory: Path, *, failed: bool = False) -> None:
        """An arm has ended; its steps count as made, or as left out if it failed."""
        began = self._began.pop(arm, 0)
        steps = self._steps.pop(arm, 0)
        reached = last_step(directory) if failed else steps
        self._made += max(0, reached - began)
        self._ended += 1
        self._failed += failed

    def show(self, running: Sequence[Running]) -> None:
        """Update the display, at most every `LOOK_EVERY_S` seconds."""
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + LOOK_EVERY_S
        at = {each.job.arm.name: last_step(each.job.directory) for each in running}
        made = self._made + sum(max(0, step - self._began.get(arm, 0)) for arm, step in at.items())
        left = sum(self._steps.values()) - sum(at.get(arm, 0) for arm in self._steps)
        parts = [f"{len(running)} running"] + [f"{self._failed} failed"] * bool(self._failed)
        if made > LEAST_SHARE * left:
            parts.append(f"{self._display.time_left(made, left)} left")
        text = "; ".join(parts)
        line = f"{self._ended} of {counted(self._total, 'arm')} ended; {text}"
        arms = "; ".join(f"{arm} {step:,}/{self._steps.get(arm, 0):,}" for arm, step in at.items())
        self._display.show("arm", self._ended, self._total, text, line=line, below=arms)


def last_step(directory: Path) -> int:
    """The last step in the metrics of a run; 0 if there is none yet."""
    if not directory.is_dir():
        return 0
    steps = [row["step"] for row in read_metrics(directory) if isinstance(row.get("step"), int | float)]
    return int(steps[-1]) if steps else 0
