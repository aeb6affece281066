"""A lock that one process holds at a time, on Linux, macOS and Windows."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout


class LockedError(Exception):
    """Another process holds the lock; `pid` is its process id, or "" where it has not written it yet."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"locked by process {pid}")
        self.pid = pid


def acquire(file: Path) -> AbstractContextManager[object]:
    """Take the lock `file` without waiting; the context that is returned releases it.

    The system releases it when the process ends, even by SIGKILL, and even where forked children of it live on. The
    file holds the process id and stays there, except on Windows. Raises: LockedError where the lock is taken.
    """
    try:
        return FileLock(file, blocking=False, on_acquired=_write_pid).acquire()
    except Timeout:
        raise LockedError(_read_pid(file)) from None


def _write_pid(descriptor: int) -> None:
    # Behind the first byte: Windows locks that one, and other processes cannot read what is locked.
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f" {os.getpid()}".encode("ascii"))


def _read_pid(file: Path) -> str:
    with file.open("rb", buffering=0) as content:
        content.seek(1)
        return content.read().decode("ascii", errors="replace").strip()
