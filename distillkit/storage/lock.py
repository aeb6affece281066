"""File lock that one process holds at a time, on Linux, macOS and Windows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PID_BYTES = 20


class LockedError(Exception):
    """Another process holds the lock; `pid` is its process id, or "" if it has not written it yet."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"locked by process {pid}")
        self.pid = pid

    @property
    def holder(self) -> str:
        """The holder, as the start of a sentence."""
        return f"process {self.pid}" if self.pid else "another process"


def acquire(file: Path, on_acquired: Callable[[int], None] | None = None) -> AbstractContextManager[object]:
    """Acquire the lock `file` without waiting; exit the returned context to release it.

    The system releases it when the process ends, even by SIGKILL and even if forked children are still running. The
    file contains the process id and is not deleted, except on Windows. `on_acquired` gets its file descriptor.
    Raises: LockedError if another process holds the lock.
    """
    try:
        return FileLock(file, blocking=False, on_acquired=on_acquired or _write_pid).acquire()
    except Timeout:
        raise LockedError(_read_pid(file)) from None


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold the lock `file` during the block, and delete it at the end.

    Raises: LockedError if another process, or another thread of this one, holds the lock.
    """
    locked: list[os.stat_result] = []

    def on_acquired(descriptor: int) -> None:
        _write_pid(descriptor)
        locked[:] = [os.fstat(descriptor)]

    lock = acquire(file, on_acquired)
    # Its last holder may have deleted the file after this process had opened it. Such a lock excludes no other process.
    while not _is_at(file, locked[0]):
        lock.__exit__(None, None, None)
        lock = acquire(file, on_acquired)
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows deletes no open file; filelock deletes it there after the release
                file.unlink()


def _is_at(file: Path, locked: os.stat_result) -> bool:
    """Whether the locked file is the one with this name."""
    try:
        return os.path.samestat(file.stat(), locked)
    except FileNotFoundError:
        return False


def _write_pid(descriptor: int) -> None:
    if os.fstat(descriptor).st_nlink > 1:  # the id is only information, and this may be a file elsewhere
        return
    # The id starts at the second byte: Windows locks the first one, and other processes cannot read a locked byte.
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f" {os.getpid()}".encode("ascii"))


def _read_pid(file: Path) -> str:
    try:
        with file.open("rb", buffering=0) as content:
            content.seek(1)
            return content.read(PID_BYTES).decode("ascii", errors="replace").strip()
    except FileNotFoundError:  # its holder has just deleted it
        return ""
