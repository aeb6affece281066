"""What `export` shows while an exporter takes its time: bars where somebody watches, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from distillkit.contracts.exporter import ReportProgress as Hears
from distillkit_cli.terminal import Terminal

LINE_EVERY_S = 10.0


@contextmanager
def building(terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> Iterator[Hears]:
    """Something that hears of the steps of a build, as long as the build lasts."""
    if not terminal.is_interactive:
        yield _Lines(terminal, clock)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal.notes, transient=True) as bars:
        yield _Bars(bars)


class _Lines:
    """A line when a build begins, and then one in ten seconds."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float]) -> None:
        self._terminal, self._clock = terminal, clock
        self._said: float | None = None

    def __call__(self, phase: str, done: int, steps: int) -> None:
        now = self._clock()
        if self._said is None or now - self._said >= LINE_EVERY_S:
            self._said = now
            self._terminal.note(f"{phase}: {done} of {steps}")


class _Bars:
    """A bar for every phase that is under way."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, done: int, steps: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=steps)
        self._bars.update(self._tasks[phase], completed=done, total=steps)
        if done >= steps:
            self._bars.remove_task(self._tasks.pop(phase))
