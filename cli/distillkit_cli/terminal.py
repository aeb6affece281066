"""Terminal output: streams, colour and verbosity, in one place.

Results go to stdout, everything else to stderr. Rich omits colour in pipes and if NO_COLOR is set.
"""

from __future__ import annotations

import os
import stat
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillkit.errors import UserError
from distillkit.messages.progress import LINE_EVERY_S, ProgressDisplay
from distillkit.messages.text import printable_json, printable_lines, visible

UNLIMITED = 10_000
"""The width of a pipe: rows are not wrapped there, for grep and for files."""


class Results(Console):
    """A console on stdout. A reader may stop early, as in `distillkit predict ... | head`: it has what it wanted."""

    def on_broken_pipe(self) -> None:
        _discard_stdout()
        raise typer.Exit(0)


class Notes(Console):
    """A console on stderr. If its reader stops, the work continues without notes."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def console(*, stderr: bool) -> Console:
    """A console on stdout or stderr. Lines are not wrapped unless it is a terminal or COLUMNS is set."""
    stream = sys.stderr if stderr else sys.stdout
    # Notes are not worth an error, and a closed stdout is reported by `main`.
    if stream is None or (stderr and why_unwritable(stream)):
        stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - used until the process ends
    bounded = stream.isatty() or os.environ.get("COLUMNS")
    # Look the stream up now: while a command runs, `sys.stdout` is redirected to stderr.
    kind = Notes if stderr else Results
    return kind(file=stream, width=None if bounded else UNLIMITED, highlight=False, emoji=False)


@dataclass
class Terminal:
    """Output of the commands. `quiet` prints results and errors only; `verbose` adds tracebacks to errors.

    `arguments` are those of the command line. `is_first` is true for rank 0; other ranks print errors only.
    `only_plans` is set by a command that only shows a plan, so that its process can end at once.
    """

    arguments: tuple[str, ...] = ()
    is_first: bool = True
    quiet: bool = False
    verbose: bool = False
    only_plans: bool = False
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
        try:
            self.results.print(text if styled else printable_lines(text), markup=False, soft_wrap=True)
        except OSError as error:
            _discard_stdout()
            raise UserError(
                f"the result cannot be written to stdout ({error.strerror}); free some space, or redirect it elsewhere"
            ) from error

    def show_json(self, value: Mapping[str, Any]) -> None:
        """Write a result as JSON."""
        self.show(printable_json(value))

    def show_table(self, table: Table) -> None:
        """Write a table; without trailing blanks unless stdout is a terminal. Cells are text: one line, no markup."""
        for column in table.columns:
            cells = [Text(visible(cell)) if isinstance(cell, str) else cell for cell in column.cells]
            column._cells[:] = cells  # noqa: SLF001 - rich has no public way to change a cell
        if self.is_first and self.results.is_terminal:
            self.results.print(table)  # a terminal is never full
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
            table.add_row(heading, Text(visible(text)))
        self.show_table(table)

    def note(self, text: str) -> None:
        """Write a note to stderr."""
        if not self.is_silent:
            with suppress(OSError):  # a full disk behind stderr does not stop the work
                self.notes.print(printable_lines(text), markup=False, soft_wrap=True)

    def error(self, error: BaseException | str) -> None:
        """Write an error to stderr, with its traceback if `verbose`."""
        with suppress(OSError):
            if self.verbose and isinstance(error, BaseException):
                self.notes.print("".join(traceback.format_exception(error)).rstrip(), markup=False, soft_wrap=True)
            else:
                for note in getattr(error, "__notes__", ()):
                    self.note(note)
            self.notes.print(Text.assemble(("error: ", "bold red"), printable_lines(str(error))), soft_wrap=True)


def why_unwritable(stream: TextIO | None) -> str | None:
    """Why nothing can be written to a stream that the system provides; None if nothing is known against it."""
    if stream is None:
        return "is closed"
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream in memory
        return None
    try:
        status = os.fstat(descriptor)
    except OSError:
        return "is closed"
    return "is on a full disk" if sys.platform != "win32" and _is_full(descriptor, status) else None


def _is_full(descriptor: int, status: os.stat_result) -> bool:
    if stat.S_ISCHR(status.st_mode):
        with suppress(OSError):
            return Path("/dev/full").stat().st_rdev == status.st_rdev
        return False
    if not stat.S_ISREG(status.st_mode):
        return False
    disk = os.fstatvfs(descriptor)
    free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    return free == 0 and disk.f_blocks > 0  # some file systems count no blocks


def _discard_stdout() -> None:
    """Send what is still in the buffer nowhere: Python would fail again when it writes it at the end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
