"""The one place that knows the terminal: where lines go, whether in colour, and how much is said.

Results go to stdout, everything else to stderr. Rich leaves colour out for pipes and where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillkit.messages.progress import LINE_EVERY_S, ProgressDisplay
from distillkit.messages.text import printable_lines

UNLIMITED = 10_000
"""The width of a pipe: rows stay whole there, for grep and for files."""


def console(*, stderr: bool) -> Console:
    """A console on one of the two streams. Where it is no terminal and COLUMNS says nothing, lines have no end."""
    stream = sys.stderr if stderr else sys.stdout
    bounded = stream.isatty() or os.environ.get("COLUMNS")
    # The stream of now: while a verb runs, `sys.stdout` is another.
    return Console(file=stream, width=None if bounded else UNLIMITED, highlight=False, emoji=False)


@dataclass
class Terminal:
    """What verbs write to. `quiet` leaves out all but results and errors; `verbose` adds tracebacks to errors.

    `arguments` are those of the command line. Of several processes of one run, one alone `speaks`; the others have
    nothing to say but errors.
    """

    arguments: tuple[str, ...] = ()
    speaks: bool = True
    quiet: bool = False
    verbose: bool = False
    results: Console = field(default_factory=lambda: console(stderr=False))
    notes: Console = field(default_factory=lambda: console(stderr=True))

    @property
    def is_silent(self) -> bool:
        """Whether errors are all that is written beside results."""
        return self.quiet or not self.speaks

    def progress(self, first_line_s: float = LINE_EVERY_S) -> ProgressDisplay:
        """A display of progress beside the results; to be closed."""
        return ProgressDisplay(self.notes, silent=self.is_silent, first_line_s=first_line_s)

    def show(self, text: str, *, styled: bool = False) -> None:
        """Write a result, as it is; what is `styled` has colours of its own."""
        if not self.speaks:
            return
        self.results.print(text if styled else printable_lines(text), markup=False, soft_wrap=True)

    def show_json(self, value: Mapping[str, Any]) -> None:
        """Write a result for programs."""
        self.show(json.dumps(value, indent=2, ensure_ascii=False))

    def show_table(self, table: Table) -> None:
        """Write a table; without the blanks that fill its last column where nobody would see them."""
        if self.speaks and self.results.is_terminal:
            self.results.print(table)
            return
        with self.results.capture() as captured:
            self.results.print(table)
        self.show("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def show_rows(self, rows: Iterable[tuple[str, str]]) -> None:
        """Write headings with a text each, in two columns."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for heading, text in rows:
            table.add_row(heading, Text(printable_lines(text)))
        self.show_table(table)

    def note(self, text: str) -> None:
        """Say something that is no result."""
        if not self.is_silent:
            self.notes.print(printable_lines(text), markup=False, soft_wrap=True)

    def error(self, error: BaseException | str) -> None:
        """Say why nothing more will come."""
        if self.verbose and isinstance(error, BaseException):
            self.notes.print("".join(traceback.format_exception(error)).rstrip(), markup=False, soft_wrap=True)
        else:
            for note in getattr(error, "__notes__", ()):
                self.note(note)
        self.notes.print(Text.assemble(("error: ", "bold red"), printable_lines(str(error))), soft_wrap=True)
