"""Atomic writes: a file or directory is either complete or absent, even after a crash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Lone surrogates, which UTF-8 cannot encode, become escapes that JSON reads."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary file in the same directory, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            # Before the rename: otherwise a power failure could leave an empty file under the final name.
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, with keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape to a safetensors file atomically, with the permissions that the umask allows."""
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # safetensors creates files that only their owner can read, so take the mode of a file that Python creates.
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
        temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as a hexadecimal string. Reads it in chunks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def recover_directory(final: Path) -> None:
    """Restore the directory that `atomic_directory` was replacing, if the process ended between its two renames."""
    old = final.with_name(f".{final.name}.old")
    if old.is_dir() and not final.exists():
        old.rename(final)


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """A temporary directory that replaces `final` at the end of the block; an error deletes it."""
    recover_directory(final)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            _flush(path)
        _flush(temporary)
        # A rename cannot replace a directory that is not empty, so the old one is moved away first.
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        _flush(final.parent)  # makes the renames durable
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
