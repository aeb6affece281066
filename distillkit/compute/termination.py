"""SIGTERM and SIGHUP as an exception, so that a command deletes its temporary files before it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """The process received one of `SIGNALS`. Like Ctrl-C, it is not an error of the code that it interrupts."""


_received: list[int] = []


@contextmanager
def raising_terminated() -> Iterator[list[int]]:
    """Raise Terminated in this block for the first of `SIGNALS`; a second one ends the process at once.

    The number of the signal is added to the list that the block gets, since a library may turn the exception into
    another one. Only in the main thread. Handlers that other code has installed stay in place, and forked processes get
    the default.
    """
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield _received
        return
    _reset_in_forks()
    handled = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, raise_terminated)
    try:
        yield _received
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def raise_terminated(number: int, _frame: FrameType | None) -> NoReturn:
    """The signal handler. Raises: Terminated."""
    signal.signal(number, signal.SIG_DFL)
    _received.append(number)
    raise Terminated


@cache
def _reset_in_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset)


def _reset() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is raise_terminated:
            signal.signal(number, signal.SIG_DFL)
