"""What is in a bank: rows and bytes of every shelf; and deleting shelves."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillkit.bank.directory import HEADER, Bank, ShelfHeader, accessible
from distillkit.bank.shelf import CHECK_BYTES, planes
from distillkit.errors import BankError

CHUNK_BYTES = 16 * 2**20
DAY_S = 86_400


@dataclass(frozen=True)
class ShelfContent:
    """A shelf and how full it is: its planes, rows that were written, and bytes on disk."""

    header: ShelfHeader
    planes: int
    rows: int
    bytes: int


def contents(bank: Bank) -> Iterator[ShelfContent]:
    """Every shelf of a bank. Reads its files, and counts a row as written if its check is not zero.

    Raises: BankError for a file that cannot be read.
    """
    for header in bank.headers():
        with accessible(header.path):
            files = [path for _, _, path in planes(header.path)]
            rows = sum(_rows(path, header.row_bytes) for path in files)
            content = ShelfContent(header, len(files), rows, sum(map(_bytes_on_disk, files)))
        yield content


def bytes_on_disk(bank: Bank) -> int:
    """Bytes that the planes of all shelves take on disk.

    Raises: BankError for a folder that cannot be listed.
    """
    total = 0
    for header in bank.headers():
        with accessible(header.path):
            total += sum(_bytes_on_disk(path) for _, _, path in planes(header.path))
    return total


def unused(bank: Bank, days: float) -> list[ShelfHeader]:
    """The shelves that no run has opened for this many days."""
    latest = time.time() - days * DAY_S
    return [header for header in bank.headers() if header.used_at_s <= latest]


def named(bank: Bank, names: list[str]) -> list[ShelfHeader]:
    """The shelves with these names.

    Raises: BankError for an unknown name.
    """
    known = {header.path.name: header for header in bank.headers()}
    for name in names:
        if name not in known:
            raise BankError(f"the bank {bank.path} has no shelf '{name}'; it has: {', '.join(known) or 'none'}")
    return [known[name] for name in names]


def delete(header: ShelfHeader) -> None:
    """Delete the files of a shelf, and its folder if nothing else is in it.

    Raises: BankError if they cannot be deleted.
    """
    with accessible(header.path):
        for _, _, path in planes(header.path):
            path.unlink()
        (header.path / HEADER).unlink()
    with suppress(OSError):
        header.path.rmdir()


def _rows(path: Path, row_bytes: int) -> int:
    """The number of written rows of a plane; the holes of a sparse file are not read."""
    rows, size = 0, max(1, CHUNK_BYTES // row_bytes) * row_bytes
    with path.open("rb", buffering=0) as file:
        while (place := _next_data(file.fileno(), file.tell())) is not None:
            file.seek(place // row_bytes * row_bytes)
            chunk = file.read(size)
            whole = len(chunk) // row_bytes * row_bytes
            if not whole:
                break
            checks = np.frombuffer(chunk[:whole], np.uint8).reshape(-1, row_bytes)[:, -CHECK_BYTES:]  # [rows, 8]
            rows += int(checks.any(axis=1).sum())
            file.seek(place // row_bytes * row_bytes + whole)
    return rows


def _next_data(file: int, place: int) -> int | None:
    """The first position from `place` on that is not in a hole of the file; None at its end."""
    if not hasattr(os, "SEEK_DATA"):  # Windows
        return place
    try:
        return os.lseek(file, place, os.SEEK_DATA)
    except OSError as error:
        return None if error.errno == errno.ENXIO else place  # some file systems do not know holes


def _bytes_on_disk(path: Path) -> int:
    """Bytes that a file takes; rows that were never written take none, where the file system has sparse files."""
    status = path.stat()
    return getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
