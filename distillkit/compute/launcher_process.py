"""End with the process that started this one, even if that one is killed."""

from __future__ import annotations

import os
import signal
import sys

LAUNCHER = "DISTILLKIT_LAUNCHER"
"""Environment variable of a process that ends with another one: the id of that process."""
PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that this process receives when its parent ends."""


def end_with_parent() -> None:
    """Receive SIGTERM when the parent process ends. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with_launcher() -> None:
    """Receive SIGTERM when the process named in the environment ends, or now if it has ended already. Linux only."""
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is None:
        return
    end_with_parent()
    # It may have ended before the call; then another process is the parent by now, and the signal never comes.
    if sys.platform == "linux" and str(os.getppid()) != launcher:
        os.kill(os.getpid(), signal.SIGTERM)
