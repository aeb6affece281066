"""Reading text and JSON of third parties: regular files of limited size only, and JSON with one meaning.

A pipe or a device in a file's place may never end, and a short text can be nested deeper than its parser can go.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

LARGEST_TEXT = 64 * 2**20
"""Bytes. The metrics of a million steps, or the class names of ImageNet-21k, are a fraction of it."""


def require_plain(path: Path) -> None:
    """Refuse anything but a regular file: a directory, a pipe, a socket, a device.

    Raises: OSError for a path that cannot be inspected; ValueError that says what it is, as the end of a sentence.
    """
    if "\0" in str(path):
        raise ValueError("has a NUL in its name")
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def read_plain_text(path: Path, *, largest: int = LARGEST_TEXT) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises: OSError for a file that cannot be opened; ValueError that says what is wrong with it, as the end of a
    sentence ("is not text in UTF-8"), with the decoder's own error as its cause.
    """
    require_plain(path)
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"has {size:,} bytes, and {largest:,} are the most that are read")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not text in UTF-8") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file. NaN and Infinity are read, as Python writes them.

    Raises: as `read_plain_text` and `parse_json`.
    """
    return parse_json(read_plain_text(path))


def parse_json(text: str, *, finite: bool = False) -> Any:
    """The value of a JSON text; with `finite`, NaN and Infinity are refused.

    Raises: ValueError, as the end of a sentence with the parser's own error as its cause, for what is no JSON, is
    nested too deeply, or has a key twice, of which another reader might take the other value.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_not_finite if finite else None)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
