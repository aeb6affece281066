"""Stop signals: on SIGINT, SIGTERM or SIGUSR1 a run finishes its step, saves a checkpoint and exits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from distillkit.compute.termination import raise_terminated

if TYPE_CHECKING:
    from distillkit.compute.distributed import Processes

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; the signal of schedulers and torchrun before SIGKILL; the early warning of SLURM (`--signal=USR1@120`)."""


class StopRequest:
    """The first stop signal that was received. Ctrl-C after that ends the process at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle `SIGNALS` in the `with` block, then restore the previous handlers. Only in the main thread.

        Handlers that other code has installed stay in place.
        """
        # Python allows signal handlers to be set only in the main thread.
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        defaults = (signal.SIG_DFL, signal.default_int_handler, raise_terminated)
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        handled = [number for number, handler in previous.items() if handler in defaults]
        for number in handled:
            signal.signal(number, self._receive)
        try:
            yield self
        finally:
            for number in handled:
                signal.signal(number, previous[number])

    def agreed(self, processes: Processes) -> bool:
        """Whether any process received a stop signal; then all stop after the same step. All processes call this."""
        number = processes.max(self.received or 0)
        # Otherwise unchanged: a signal may have arrived since it was read, and counts from the next step on.
        if number:
            self.received = signal.Signals(number)
        return number > 0

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Ctrl-C reaches this process and torchrun, which then sends SIGTERM: both are the same request.
        self.received = self.received or signal.Signals(number)
