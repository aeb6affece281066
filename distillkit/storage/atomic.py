"""Atomic writes: a file is either complete or absent, even after a crash or with several writers.

All files are written here. A file gets a random name of its own, which must not exist yet, in a folder that is opened
first; then it is renamed. So no link, planted under any name, leads a write out of its folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from distillkit.storage.links import require_own
from distillkit.storage.untrusted import read_plain_bytes

if TYPE_CHECKING:
    from torch import Tensor


LONGEST_STEM = 200
"""Bytes of a file name. With what is added to it, the name of a temporary file stays below 255 bytes."""
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
LARGEST_COPY = 2**30
"""Size limit in bytes of a file with hard links that is replaced by a copy."""
MODE = 0o666
"""Permissions of a new file, of which the umask removes some."""
# Windows lacks most of these flags, and there only administrators can make symbolic links.
_FRESH = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_APPEND = os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# O_PATH, so that a folder need not be readable.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_HAS_FOLDERS = os.open in os.supports_dir_fd and os.unlink in os.supports_dir_fd


def stem_of(name: str) -> str:
    """The part of a temporary name that stands for the file `name`: the name itself, unless it is too long."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_STEM:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    # Cut as text and not as bytes: half a character is not a valid name on every system.
    kept = next(name[:end] for end in range(LONGEST_STEM, 0, -1) if len(os.fsencode(name[:end])) <= LONGEST_STEM - 17)
    return f"{kept}-{digest}"


def temporary_name(name: str) -> str:
    """A name for a temporary file or folder next to `name`; no two calls return the same one."""
    return f".{stem_of(name)}.{secrets.token_hex(4)}.tmp"


def delete_temporary_files(folder: Path) -> None:
    """Delete temporary files of killed processes; only for a folder that this process has locked."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            with suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Lone surrogates, which UTF-8 cannot encode, become escapes that JSON reads."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes, *, mode: int = MODE) -> None:
    """Write a file atomically: to a temporary file in the same directory, flushed to disk, then renamed.

    The temporary name is unique, so that several writers do not mix their content: the last one wins.
    Raises: OSError that names `path`.
    """
    with replaced(path, mode=mode) as file:
        file.write(content)


@contextmanager
def replaced(path: Path, *, mode: int = MODE) -> Iterator[BinaryIO]:
    """A temporary file that becomes `path` at the end of the block; an error deletes it.

    Raises: OSError that names `path`.
    """
    with _naming(path), _opened_folder(path.parent) as folder:
        name, final = (_in_folder(folder, path.with_name(each)) for each in (temporary_name(path.name), path.name))
        descriptor = os.open(name, _FRESH | os.O_RDWR, mode, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                # Before the rename: otherwise a power failure could leave an empty file under the final name.
                os.fsync(file.fileno())
            os.replace(name, final, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            raise


def append_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Append to a text file, or create it; `durable` flushes it to disk.

    Raises: as `appended`.
    """
    with appended(path) as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def appended(path: Path) -> Iterator[TextIO]:
    """A text file to append to, created if it is missing.

    A file with hard links is replaced by a copy first, since its content may also be a file elsewhere.
    Raises: OSError that names `path`; LinkError for a link; FileExistsError for a pipe or a device.
    """
    require_own(path)
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise FileExistsError(errno.EEXIST, "it is not a regular file", str(path))
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            _copy_over(path)
    with _naming(path), os.fdopen(os.open(path, _APPEND, MODE), "a", encoding="utf-8") as file:
        yield file


def _copy_over(path: Path) -> None:
    """Replace a file with hard links by a copy of it. Raises: FileExistsError if it is too large."""
    try:
        write_bytes(path, read_plain_bytes(path, largest=LARGEST_COPY))
    except ValueError as error:
        raise FileExistsError(errno.EEXIST, f"it is a hard link and {error}", str(path)) from error


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int | None]:
    """A descriptor of a folder, so that a write cannot be moved to another one; None on Windows, which has none."""
    if not _HAS_FOLDERS:
        yield None
        return
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _in_folder(folder: int | None, path: Path) -> str:
    """How the functions of `os` name a path in an opened folder."""
    return str(path) if folder is None else path.name


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system name the file, not its temporary name in an opened folder."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, with keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape to a safetensors file atomically, with the permissions that the umask allows."""
    from safetensors.torch import save_file

    temporary = path.with_name(temporary_name(path.name))
    try:
        # safetensors replaces the file by one of its own that only the owner can read, so keep the mode of this one.
        os.close(os.open(temporary, _FRESH | os.O_WRONLY, MODE))
        mode = temporary.lstat().st_mode
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
        temporary.chmod(mode)
        flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as a hexadecimal string. Reads it in chunks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
