"""File lock that one process holds at a time, on Linux, macOS and Windows."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout


class LockedError(Exception):
    """Another process holds the lock; `pid` is its process id, or "" if it has not written it yet."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"locked by process {pid}")
        self.pid = pid


def acquire(file: Path) -> AbstractContextManager[object]:
    """Acquire the lock `file` without waiting; exit the returned context to release it.

    The system releases it when the process ends, even by SIGKILL and even if forked children are still running. The
    file contains the process id and is not deleted, except on Windows.
    Raises: LockedError if another process holds the lock.
    """
    try:
        return FileLock(file, blocking=False, on_acquired=_write_pid).acquire()
    except Timeout:
        raise LockedError(_read_pid(file)) from None


def _write_pid(descriptor: int) -> None:
    # The id starts at the second byte: Windows locks the first one, and other processes cannot read a locked byte.
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f" {os.getpid()}".encode("ascii"))


def _read_pid(file: Path) -> str:
    with file.open("rb", buffering=0) as content:
        content.seek(1)
        return content.read().decode("ascii", errors="replace").strip()
