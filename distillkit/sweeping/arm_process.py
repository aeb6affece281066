"""The process of an arm: `distillkit run` in an interpreter of its own, its log, and how it ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Literal

from distillkit.compute.interpreters import environment, module_command
from distillkit.compute.launcher_process import LAUNCHER
from distillkit.messages.text import shortened
from distillkit.storage.atomic import appended
from distillkit.storage.untrusted import open_plain

LONGEST_LOG_READ = 2**16
"""Bytes at the end of a log in which the error is looked for."""
STOPS = tuple(
    128 + getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
"""Exit codes of a run that a signal stopped."""
ERROR = "error: "


@dataclass(frozen=True)
class Ended:
    """How the process of an arm ended; `why` is the error of a failed one, as one line."""

    state: Literal["done", "failed", "stopped"]
    why: str = ""


class ArmProcess:
    """A started arm. It is stopped when the process that started it ends, even if that one is killed (Linux)."""

    def __init__(self, words: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
        self._log = log
        self._is_asked_to_stop = False
        with appended(log) as file:
            self._from = os.fstat(file.fileno()).st_size
            self._process = Popen(  # noqa: S603 - our own command
                module_command("distillkit", *words),
                # A session of its own: Ctrl-C reaches the sweep alone, which then stops the arms.
                env={**environment(), **variables, LAUNCHER: str(os.getpid())},
                stdin=DEVNULL,
                stdout=file,
                stderr=STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ask the arm to finish its step and save a checkpoint. Only the first call counts."""
        if not self._is_asked_to_stop:
            self._is_asked_to_stop = True
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End the arm at once and wait for that."""
        self._send(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        self._process.wait()

    def ended(self) -> Ended | None:
        """How the process ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if code == 0:
            return Ended("done")
        if self._is_asked_to_stop and (code in STOPS or code == -signal.SIGTERM):
            return Ended("stopped")
        if code < 0:
            number = signal.Signals(-code)
            killed = ", probably out of memory" if number.name == "SIGKILL" else ""
            return Ended("failed", f"killed by {number.name}{killed}")
        return Ended("failed", error_in(self._new_text()) or f"exit code {code}")

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _new_text(self) -> str:
        """The end of what this process has written to the log."""
        try:
            with open_plain(self._log) as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(self._from, size - LONGEST_LOG_READ))
                return file.read(LONGEST_LOG_READ).decode(errors="replace")
        except (OSError, ValueError):
            return ""


def error_in(text: str) -> str:
    r"""The error that a run printed last, with the items of its list on the same line; else its last line.

    >>> error_in("note\nerror: 2 problems\n  unknown key 'tua'\n  'tau' is -1\n")
    "2 problems; unknown key 'tua'; 'tau' is -1"
    >>> error_in("Traceback (most recent call last):\n  File x\nValueError: no\n")
    'ValueError: no'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith(ERROR)]
    if not starts:
        return shortened(lines[-1].strip(), most=500) if lines else ""
    first, *rest = lines[starts[-1] :]
    items = []
    for line in rest:
        if not line.startswith("  "):
            break
        items.append(line.strip())
    return shortened("; ".join([first.removeprefix(ERROR), *items]), most=500)
