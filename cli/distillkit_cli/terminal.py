"""Terminal output: streams, colour and verbosity, in one place.

Results go to stdout, everything else to stderr. Rich omits colour in pipes and if NO_COLOR is set.
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
"""The width of a pipe: rows are not wrapped there, for grep and for files."""


def console(*, stderr: bool) -> Console:
    """A console on stdout or stderr. Lines are not wrapped unless it is a terminal or COLUMNS is set."""
    stream = sys.stderr if stderr else sys.stdout
    bounded = stream.isatty() or os.environ.get("COLUMNS")
    # Look the stream up now: while a verb runs, `sys.stdout` is redirected to stderr.
    return Console(file=stream, width=None if bounded else UNLIMITED, highlight=False, emoji=False)


@dataclass
class Terminal:
    """Output of the verbs. `quiet` prints results and errors only; `verbose` adds tracebacks to errors.

    `arguments` are those of the command line. `is_first` is true for rank 0; other ranks print errors only.
    """

    arguments: tuple[str, ...] = ()
    is_first: bool = True
    quiet: bool = False
    verbose: bool = False
    results: Console = field(default_factory=lambda: console(stderr=False))
    notes: Console = field(default_factory=lambda: console(stderr=True))

    @property
    def is_silent(self) -> bool:
        """Whether notes and progress are left out."""
        return self.quiet or not self.is_first

    def progress(self, first_line_s: float = LINE_EVERY_S) -> ProgressDisplay:
        """A progress display on stderr; the caller closes it."""
        return ProgressDisplay(self.notes, silent=self.is_silent, first_line_s=first_line_s)

    def show(self, text: str, *, styled: bool = False) -> None:
        """Write a result. Text that is `styled` already contains colours."""
        if not self.is_first:
            return
        self.results.print(text if styled else printable_lines(text), markup=False, soft_wrap=True)

    def show_json(self, value: Mapping[str, Any]) -> None:
        """Write a result as JSON."""
        self.show(json.dumps(value, indent=2, ensure_ascii=False))

    def show_table(self, table: Table) -> None:
        """Write a table; without trailing blanks unless stdout is a terminal."""
        if self.is_first and self.results.is_terminal:
            self.results.print(table)
            return
        with self.results.capture() as captured:
            self.results.print(table)
        self.show("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def show_rows(self, rows: Iterable[tuple[str, str]]) -> None:
        """Write headings and texts in two columns."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for heading, text in rows:
            table.add_row(heading, Text(printable_lines(text)))
        self.show_table(table)

    def note(self, text: str) -> None:
        """Write a note to stderr."""
        if not self.is_silent:
            self.notes.print(printable_lines(text), markup=False, soft_wrap=True)

    def error(self, error: BaseException | str) -> None:
        """Write an error to stderr, with its traceback if `verbose`."""
        if self.verbose and isinstance(error, BaseException):
            self.notes.print("".join(traceback.format_exception(error)).rstrip(), markup=False, soft_wrap=True)
        else:
            for note in getattr(error, "__notes__", ()):
                self.note(note)
        self.notes.print(Text.assemble(("error: ", "bold red"), printable_lines(str(error))), soft_wrap=True)
