"""What `distillkit data check` shows while it reads: a bar where somebody watches, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from distillkit_cli.counting_bar import counting_bar
from distillkit_cli.terminal import Terminal

Clock = Callable[[], float]

LINE_EVERY_S = 10.0


def progress_on(terminal: Terminal, clock: Clock = time.monotonic) -> CheckLines:
    """The display that fits the terminal."""
    return CheckBar(terminal, clock) if terminal.is_interactive else CheckLines(terminal, clock)


class CheckLines:
    """How many images are read, at which rate, and the time left: at most one line in ten seconds."""

    def __init__(self, terminal: Terminal, clock: Clock = time.monotonic) -> None:
        self._terminal, self._clock = terminal, clock
        self._started = self._spoken = clock()

    def done(self, images: int, of: int) -> None:
        """Say it if nothing was said for a while."""
        if self._clock() - self._spoken >= LINE_EVERY_S:
            self._spoken = self._clock()
            self._terminal.note(f"{images:,} of {of:,} images read; {self._pace(images, of)}")

    def close(self) -> None:
        """Take away what is not a plain line."""

    def _pace(self, images: int, of: int) -> str:
        seconds = max(self._clock() - self._started, 1e-9) / max(images, 1)
        return f"{1 / seconds:,.0f} images/s, {timedelta(seconds=round(seconds * (of - images)))} left"


class CheckBar(CheckLines):
    """A bar that moves with every few images. It begins with the first, when the processes that read have begun."""

    def __init__(self, terminal: Terminal, clock: Clock = time.monotonic) -> None:
        super().__init__(terminal, clock)
        self._bar, self._task = counting_bar(terminal, "image")

    def done(self, images: int, of: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=images, total=of, description=self._pace(images, of))
        self._bar.start()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
