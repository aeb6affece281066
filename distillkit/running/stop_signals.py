"""Stopping when asked to: finish the step, save, and say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; what schedulers and torchrun send before they kill; what SLURM sends beforehand (`--signal=USR1@120`)."""


class Interruption:
    """Remembers a signal that asked for an end. Ctrl-C after that ends the process at once."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Listen while the block runs; the handlers of before are put back. Outside the main thread nothing is heard.

        Handlers of SIGUSR1 that somebody else installed are left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.getsignal(number) for number in ASKING}
        mine = [number for number, handler in former.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
        for number in mine:
            signal.signal(number, self._hear)
        try:
            yield self
        finally:
            for number in mine:
                signal.signal(number, former[number])

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        # torchrun answers Ctrl-C, which reached this process as well, with SIGTERM: that is the same request.
        self.asked = self.asked or signal.Signals(number)
