"""Read text and JSON from untrusted sources: only regular files of limited size, and only unambiguous JSON.

Reading a pipe or a device in place of a file may never end, and a short text can be nested too deeply for its parser.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

LARGEST_TEXT = 64 * 2**20
"""Size limit in bytes. The metrics of a million steps, or the class names of ImageNet-21k, are far below it."""


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


def read_plain_text(path: Path, *, largest: int = LARGEST_TEXT) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises: OSError for a file that cannot be opened; ValueError with the end of a sentence ("is not text in UTF-8"),
    with the decoder's error as its cause.
    """
    require_plain(path)  # before it is opened, as opening a pipe waits for a writer
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"has {size:,} bytes, more than the limit of {largest:,}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not text in UTF-8") from error


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
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_not_finite if finite else None)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("it has a duplicate key")
    return table


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
