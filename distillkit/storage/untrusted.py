"""Read files from untrusted sources: only regular files of limited size, and only unambiguous JSON of limited depth.

Reading a pipe or a device in place of a file may never end, and a short text can be nested too deeply for its parser or
for what walks through its value.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

LARGEST_TEXT = 64 * 2**20
"""Size limit in bytes. The metrics of a million steps, or the class names of ImageNet-21k, are far below it."""
LARGEST_FILE = 8 * 2**30
"""Size limit in bytes of a model file, far above any student: RegNetY-16GF has 0.3 GiB of weights."""
CHUNK = 2**20
DEEPEST = 100
"""Nesting limit of JSON; what distillkit writes is nested less than 20 levels deep."""
MOST_DOTS = 256
"""Limit on the dots in a line of TOML: reading a key takes time in proportion to the square of its parts."""
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def require_plain(path: Path) -> None:
    """Accept only a regular file: no directory, pipe, socket or device.

    Raises: OSError for a path that cannot be inspected; ValueError with the end of a sentence ("is a pipe, not a
    file").
    """
    if "\0" in str(path):
        raise ValueError("has a NUL character in its name")
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file to read. Waits for nothing, also if the file is replaced by a pipe at this moment.

    Raises: as `require_plain`; OSError for a file that cannot be opened.
    """
    require_plain(path)  # before it is opened, which some devices react to
    descriptor = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("was replaced while it was opened")
    return os.fdopen(descriptor, "rb")


def read_plain_bytes(path: Path, *, largest: int = LARGEST_TEXT) -> bytes:
    """The content of a file. A file that grows while it is read, or has no size, as in /proc, is limited too.

    Raises: OSError for a file that cannot be opened; ValueError with the end of a sentence ("is a pipe, not a file").
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"has {size:,} bytes, more than the limit of {largest:,}")
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"has more than the limit of {largest:,} bytes")
    return content


def plain_sha256(file: BinaryIO, size: int) -> str | None:
    """The SHA-256 of an opened file of `size` bytes; None for another size, also of a file that grows meanwhile."""
    digest, left = hashlib.sha256(), size
    while left > 0 and (part := file.read(min(left, CHUNK))):
        digest.update(part)
        left -= len(part)
    return None if left or file.read(1) else digest.hexdigest()


def read_verified(path: Path, sha256: str, *, largest: int) -> bytes:
    """The content of a file with a known SHA-256: the bytes that were hashed, not those under its name later.

    Raises: as `read_plain_bytes`; ValueError for another content.
    """
    content = read_plain_bytes(path, largest=largest)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("was changed after its SHA-256 was checked")
    return content


@contextmanager
def verified(path: Path, sha256: str) -> Iterator[str | bytes]:
    """What to load of a file with a known SHA-256: the file that was hashed, whatever its name leads to by now.

    It is a path that leads to the opened file, or, where the system has none, the content.
    Raises: as `open_plain`; ValueError for another content.
    """
    with open_plain(path) as file:
        if plain_sha256(file, os.fstat(file.fileno()).st_size) != sha256:
            raise ValueError("was changed after its SHA-256 was checked")
        file.seek(0)
        yield opened_path(file) or file.read()


def opened_path(file: BinaryIO) -> str | None:
    """A path that leads to an opened file, whatever its name leads to by now; None where the system has none."""
    link = Path(f"/proc/self/fd/{file.fileno()}")
    return str(link) if link.exists() and os.path.samestat(link.stat(), os.fstat(file.fileno())) else None


def read_plain_text(path: Path, *, largest: int = LARGEST_TEXT) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises: OSError for a file that cannot be opened; ValueError with the end of a sentence ("is not text in UTF-8"),
    with the decoder's error as its cause.
    """
    content = read_plain_bytes(path, largest=largest)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not text in UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Accepts NaN and Infinity, which Python writes.

    Raises: as `read_plain_text` and `parse_json`.
    """
    return parse_json(read_plain_text(path))


def parse_json(text: str, *, finite: bool = False) -> Any:
    """The value of a JSON text; with `finite`, NaN and Infinity are refused.

    Raises: ValueError with the end of a sentence, with the parser's error as its cause, for a text that is not JSON, is
    nested too deeply, or has a duplicate key, for which another reader may choose the other value.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_finite if finite else None)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from error
    # The parser's own limit is Python's recursion limit: its value would be too deep for all others.
    if _is_deep(value):
        raise ValueError("is nested too deeply")
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises: tomllib.TOMLDecodeError; ValueError with the end of a sentence; RecursionError.
    """
    if any(line.count(".") > MOST_DOTS for line in text.split("\n")):
        raise ValueError(f"has a line with more than {MOST_DOTS} dots")
    return tomllib.loads(text)


def _is_deep(value: Any) -> bool:
    """Whether a value of JSON is nested more than DEEPEST levels deep."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inner = (each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer))
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("it has a duplicate key")
    return table


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
