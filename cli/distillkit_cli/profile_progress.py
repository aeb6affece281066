"""What a profile shows while it goes on: a bar where somebody watches, a line now and then where nobody does."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from distillkit_cli.counting_bar import counting_bar
from distillkit_cli.terminal import Terminal

Clock = Callable[[], float]

LINE_EVERY_S = 10.0


def progress_on(terminal: Terminal, clock: Clock = time.monotonic) -> ProfileLines:
    """The display that fits the terminal."""
    return ProfileBar(terminal, clock) if terminal.is_interactive else ProfileLines(terminal, clock)


class ProfileLines:
    """What is measured, how many steps are done, at which rate, and the time left: at most one line in ten seconds."""

    def __init__(self, terminal: Terminal, clock: Clock = time.monotonic) -> None:
        self._terminal, self._clock = terminal, clock
        self._what, self._started = "", clock()
        self._spoken = self._started

    def begin(self, what: str) -> None:
        """Remember what is measured."""
        self._what = what

    def done(self, steps: int, of: int) -> None:
        """Say it if nothing was said for a while."""
        if self._clock() - self._spoken >= LINE_EVERY_S:
            self._spoken = self._clock()
            self._terminal.note(f"step {steps}/{of}: {self._what}; {self._pace(steps, of)}")

    def close(self) -> None:
        """Take away what is not a plain line."""

    def _pace(self, steps: int, of: int) -> str:
        seconds = (self._clock() - self._started) / max(steps, 1)
        left = timedelta(seconds=round(seconds * (of - steps)))
        return f"{60 / max(seconds, 1e-9):.0f} steps/min, {left} left"


class ProfileBar(ProfileLines):
    """A bar that moves with every step."""

    def __init__(self, terminal: Terminal, clock: Clock = time.monotonic) -> None:
        super().__init__(terminal, clock)
        self._bar, self._task = counting_bar(terminal, "step")
        self._bar.start()

    def begin(self, what: str) -> None:
        """Show what is measured."""
        super().begin(what)
        self._bar.update(self._task, description=what)

    def done(self, steps: int, of: int) -> None:
        """Move the bar."""
        pace = self._pace(steps, of)
        self._bar.update(self._task, completed=steps, total=of, description=f"{pace}; {self._what}")

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
