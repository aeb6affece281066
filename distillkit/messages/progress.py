"""Progress display: bars on an interactive terminal, elsewhere one line every ten seconds."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from distillkit.messages.text import printable_lines

LINE_EVERY_S = 10.0


LINE_WIDTH = 80


def in_columns(start: str, parts: Sequence[str], width: int = LINE_WIDTH) -> str:
    """`start` and the parts, separated by semicolons, on indented lines of at most `width` columns.

    >>> print(in_columns("step 2/9:", ["loss 2.3", "a long remark", "0:01 left"], width=22))
    step 2/9: loss 2.3;
      a long remark;
      0:01 left
    """
    lines = [start]
    for index, part in enumerate(parts):
        text = part if index == len(parts) - 1 else f"{part};"
        if len(lines[-1]) + 1 + len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def show_images_measured(display: ProgressDisplay, split: str, images: int, total: int) -> None:
    """Show an evaluation: the images of a split measured so far. The bar is removed once all are done."""
    display.show(split, images, total, "images", line=f"{split}: {images:,} of {total:,} images measured")
    if images >= total:
        display.remove(split)


class ProgressDisplay:
    """Shows progress counts. `close` removes the bars and may be called more than once.

    `console` is stderr by default. A `silent` display shows nothing. The first line is due after `first_line_s`.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        silent: bool = False,
        first_line_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False, emoji=False)
        self._silent, self._clock = silent, clock
        self.is_interactive = not silent and self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = _Bars(console=self._console, transient=True, expand=True, refresh_per_second=4)
        self._tasks: dict[str, TaskID] = {}
        self.restart(first_line_s)

    def restart(self, first_line_s: float = LINE_EVERY_S) -> None:
        """Restart the clock."""
        self._started = self._clock()
        self._next_line = self._started + first_line_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, at least a nanosecond, so that a rate can divide by it."""
        return max(self._clock() - self._started, 1e-9)

    @property
    def is_line_due(self) -> bool:
        """Whether it is time for a line: there are no bars, and none was written for ten seconds."""
        return not self.is_interactive and self._clock() >= self._next_line

    def time_left(self, done: float, remaining: float) -> timedelta:
        """Estimated time for the remaining work, at the mean rate since the start."""
        return timedelta(seconds=round(self.elapsed_s / max(done, 1) * remaining))

    def note(self, text: str) -> None:
        """Write a permanent line, above the bars; it does not delay the next line of progress."""
        if not self._silent:
            # On a terminal words are not broken at its edge; in a file or a pipe a line stays one line.
            self._console.print(printable_lines(text), markup=False, soft_wrap=not self._console.is_terminal)

    def line(self, text: str) -> None:
        """Write a line of progress; the next one is due in ten seconds."""
        self.note(text)
        self._next_line = self._clock() + LINE_EVERY_S

    def show(
        self, label: str, done: int, total: int | None, text: str = "", *, line: str = "", below: str = ""
    ) -> None:
        """Update the bar with this label, or write `line` if one is due.

        `text` is shown after the bar, `below` below all bars. `total` is None if unknown.
        """
        if self.is_interactive:
            text, self._bars.below = printable_lines(text), printable_lines(below)
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(label, total=total, text=text)
            self._bars.update(self._tasks[label], completed=done, total=total, text=text)
            self._bars.start()
        elif line and self.is_line_due:
            self.line(line)

    def remove(self, label: str) -> None:
        """Remove one bar."""
        if label in self._tasks:
            self._bars.remove_task(self._tasks.pop(label))

    def close(self) -> None:
        """Remove all bars."""
        if self.is_interactive:
            self._bars.stop()


class _Bars(Progress):
    """Bars that fill the width of the terminal, and a dim line below them."""

    below = ""

    @classmethod
    def get_default_columns(cls) -> tuple[ProgressColumn, ...]:
        # Without markup, file names with square brackets are shown unchanged.
        label, text = (TextColumn(key, markup=False) for key in ("{task.description}", "{task.fields[text]}"))
        return label, MofNCompleteColumn(), BarColumn(bar_width=None), text, TimeElapsedColumn()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, style="dim")
