"""Shelf: the stored targets of one loss and one teacher, for every image, view and repeat.

A shelf is a folder with `shelf.json` and one file per plane, a view and a repeat. Row i of a plane belongs to image i.
A row is the encoded targets and 8 bytes that check them: a keyed BLAKE2b hash of the payload and of the identity of the
image as it was shown. A row that was never written, is damaged, or was written for other pixels fails the check and
counts as missing. So planes need no index, and several processes can fill one shelf at the same time.

Rows are written and read at their position in the file, not through a memory map: a full disk, a file that was cut off
and a network file system that is gone are then errors and short reads, and not a SIGBUS that ends the process.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator
from functools import reduce
from hashlib import blake2b
from operator import or_
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillkit.bank.row_format import RowFormat, Rows
from distillkit.storage.links import require_own

CHECK_BYTES = 8
PLANE = re.compile(r"view-(?P<view>\d{5,18})-repeat-(?P<repeat>\d{5,18})\.rows")
OPEN_PLANES = 64
"""Files that a shelf keeps open; far below the usual limit of 1,024 per process."""

Addresses = NDArray[np.int64]
"""[B, 4]: index of the image, view, repeat, and the hash of the image as shown; see `HostBatch.addresses`."""


class Shelf:
    """Reads and writes the rows of one shelf. `key` is the hash of everything that the targets depend on."""

    def __init__(self, path: Path, key: bytes, row_format: RowFormat, *, writable: bool) -> None:
        self.path = path
        self.key = key
        self.row_format = row_format
        self.writable = writable
        self._planes: OrderedDict[tuple[int, int], int] = OrderedDict()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, with its check."""
        return self.row_format.bytes + CHECK_BYTES

    def read(self, addresses: Addresses) -> tuple[Rows, NDArray[np.bool_]]:
        """The payloads [B, bytes] of the rows at `addresses` [B, 4], and which rows [B] pass their check.

        Raises: OSError if a plane exists and cannot be read.
        """
        found = np.zeros((len(addresses), self.row_format.bytes), np.uint8)
        hits = np.zeros(len(addresses), np.bool_)
        for place, (image, view, repeat, identity) in enumerate(addresses.tolist()):
            try:
                plane = self._plane(view, repeat, create=False)
            except FileNotFoundError:
                continue
            row = _read_at(plane, self.row_bytes, image * self.row_bytes)
            payload = row[:-CHECK_BYTES]
            if len(row) == self.row_bytes and row[-CHECK_BYTES:] == self._check(payload, identity):
                found[place] = np.frombuffer(payload, np.uint8)
                hits[place] = True
        return found, hits

    def write(self, addresses: Addresses, payloads: Rows) -> None:
        """Write the rows [B, bytes] at `addresses` [B, 4].

        Raises: OSError, for example on a full disk, or for a plane with hard links; a row that is written in part fails
        its check.
        """
        for (image, view, repeat, identity), values in zip(addresses.tolist(), payloads, strict=True):
            payload = values.tobytes()
            plane = self._plane(view, repeat, create=True)
            if os.fstat(plane).st_nlink > 1:
                name = str(self.path / plane_name(view, repeat))
                raise OSError(errno.EMLINK, "it would be changed under its other names too; copy the bank", name)
            _write_at(plane, payload + self._check(payload, identity), image * self.row_bytes)

    def close(self) -> None:
        """Close the planes; the next access opens them again."""
        while self._planes:
            os.close(self._planes.popitem()[1])

    def _plane(self, view: int, repeat: int, *, create: bool) -> int:
        """The open file of a plane.

        Raises: FileNotFoundError if it does not exist and is not created; OSError if it cannot be opened.
        """
        if (view, repeat) in self._planes:
            self._planes.move_to_end((view, repeat))
            return self._planes[view, repeat]
        access = (os.O_RDWR if self.writable else os.O_RDONLY) | (os.O_CREAT if create else 0)
        plane = _open_plain(self.path / plane_name(view, repeat), access)
        if len(self._planes) == OPEN_PLANES:
            os.close(self._planes.popitem(last=False)[1])
        self._planes[view, repeat] = plane
        return plane

    def _check(self, payload: bytes, identity: int) -> bytes:
        """The 8 bytes that a row with this payload has for an image shown with this identity."""
        digest = blake2b(identity.to_bytes(8, "little", signed=True), digest_size=CHECK_BYTES, key=self.key)
        digest.update(payload)
        return digest.digest()


def planes(shelf: Path) -> Iterator[tuple[int, int, Path]]:
    """View, repeat and file of every plane of a shelf, in order; nothing for other files."""
    for path in sorted(shelf.iterdir()):
        if (found := PLANE.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            yield int(found["view"]), int(found["repeat"]), path


def plane_name(view: int, repeat: int) -> str:
    """The file of a plane: "view-00003-repeat-00000.rows"."""
    return f"view-{view:05d}-repeat-{repeat:05d}.rows"


def _open_plain(path: Path, access: int) -> int:
    """Open a regular file; a link is not followed, and a pipe is not waited for.

    Raises: OSError.
    """
    if not hasattr(os, "O_NOFOLLOW"):  # Windows
        require_own(path)
    optional = ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")  # not every system has all of them
    flags = access | reduce(or_, (getattr(os, name, 0) for name in optional))
    file = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def _read_at(file: int, size: int, offset: int) -> bytes:
    """The bytes at `offset`, fewer at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(file, size, offset)
    os.lseek(file, offset, os.SEEK_SET)  # Windows; every process has its own position
    return os.read(file, size)


def _write_at(file: int, content: bytes, offset: int) -> None:
    """Write at `offset`; a file that is too short grows.

    Raises: OSError.
    """
    rest = memoryview(content)
    while rest:
        if hasattr(os, "pwrite"):
            written = os.pwrite(file, rest, offset)
        else:
            os.lseek(file, offset, os.SEEK_SET)
            written = os.write(file, rest)
        rest, offset = rest[written:], offset + written
