"""Atomic writes: a file is either complete or absent, even after a crash or with several writers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


LONGEST_STEM = 200
"""Bytes of a file name. With what is added to it, the name of a temporary file stays below 255 bytes."""
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary file in the same directory, flushed to disk, then renamed.

    The temporary name is unique, so that several writers do not mix their content: the last one wins.
    """
    temporary = path.with_name(temporary_name(path.name))
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

    temporary = path.with_name(temporary_name(path.name))
    try:
        # safetensors creates files that only their owner can read, so take the mode of a file that Python creates.
        temporary.touch()
        mode = temporary.stat().st_mode
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
