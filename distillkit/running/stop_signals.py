"""Signals that ask a run to stop: it finishes the step, saves, and says how to continue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; what schedulers and torchrun send before they kill; what SLURM sends beforehand (`--signal=USR1@120`)."""


class StopRequest:
    """The first signal that asked the run to stop. Ctrl-C after that ends the process at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle `SIGNALS` while the block runs, then restore the earlier handlers. Only in the main thread.

        Handlers that other code has installed stay in place.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.getsignal(number) for number in SIGNALS}
        mine = [number for number, handler in former.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
        for number in mine:
            signal.signal(number, self._receive)
        try:
            yield self
        finally:
            for number in mine:
                signal.signal(number, former[number])

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        # torchrun answers Ctrl-C, which reached this process as well, with SIGTERM: that is the same request.
        self.received = self.received or signal.Signals(number)
