"""Places to write to, checked before the work whose result they get: writable, not full, no file in the way."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distillkit.storage.atomic import temporary_name
from distillkit.storage.deletion import delete
from distillkit.storage.links import LinkError, is_link

PROBE, PROBE_BYTES = "probe", 4096
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PLACE_ERRNOS = {
    *DISK_FULL_ERRNOS,
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO, errno.EBUSY),
    *(errno.ELOOP, errno.EEXIST),
}


def require_writable(folder: Path) -> None:
    """Check that a folder, which need not exist, can be made and written to. Leaves nothing behind.

    Raises: OSError; see `reason`.
    """
    with made_folder(folder):
        probe(folder)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; at the end of the block, delete those that were missing and are empty.

    Raises: OSError if the folder cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in missing:  # the innermost one first
            with suppress(OSError):
                each.rmdir()


def require_writable_file(file: Path) -> None:
    """Check that a file can be written. Leaves nothing behind, and an existing file as it is.

    Raises: OSError; see `reason`.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(file))
    require_writable(file.parent)


def probe(folder: Path, *, moved_to: Path | None = None, name: str = PROBE) -> None:
    """Write a folder with a small file, and move it, as publishing does. Leaves nothing behind.

    `name` is that of the directory to be written: what a killed process leaves is deleted with its work folders.
    Raises: OSError.
    """
    made = folder / temporary_name(name)
    moved = None if moved_to is None else moved_to / made.name
    made.mkdir()
    try:
        with (made / "file").open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # some file systems notice only now that they are full
        if moved is not None:
            made.rename(moved)  # fails across mount points, even of one file system
    except FileNotFoundError:
        # The process that has locked the directory took it for the remains of a killed one, so the folder is writable.
        if made.exists() or not folder.is_dir():
            raise
    finally:
        for path in filter(None, (made, moved)):
            delete(path)


def is_probe(name: str) -> bool:
    """Whether a name is that of a probe, which a killed process may leave behind."""
    return re.fullmatch(rf"\.{PROBE}\.[0-9a-f]{{8}}\.tmp", name) is not None


def delete_probes(folder: Path) -> None:
    """Delete probes of killed processes; only for a folder that this process has locked."""
    for path in folder.iterdir():
        if is_probe(path.name) and not is_link(path):
            delete(path)


def reason(place: Path, error: OSError) -> str:
    """Why a place cannot be written to, for the parentheses of a message."""
    for folder in (place, *place.parents):
        with suppress(OSError):  # a name that is too long
            if folder.is_file():
                return f"'{folder}' is a file"
    return error.strerror or type(error).__name__


def fault_of_place(error: BaseException) -> str | None:
    """The message for an error of the file system that the user can repair: permissions, space, names; else None."""
    if isinstance(error, LinkError):
        return error.sentence()
    if not isinstance(error, OSError) or error.errno not in _PLACE_ERRNOS:
        return None
    why = error.strerror or type(error).__name__
    if error.filename is None or isinstance(error.filename, int):
        return f"a file cannot be written ({why}); free some space, or write elsewhere"
    remedy = (
        "free some space, or write elsewhere"
        if error.errno in DISK_FULL_ERRNOS
        else "check the path and its permissions"
    )
    return f"{os.fsdecode(error.filename)} cannot be used ({why}); {remedy}"
