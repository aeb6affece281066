"""Reading text and JSON that a stranger may have written: plain files of modest size alone, and JSON with one meaning.

A pipe or a device in a file's place may never end, and a short text can be nested deeper than its parser can go.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST_TEXT = 64 * 2**20
"""Bytes. The metrics of a million steps, or the class names of ImageNet-21k, are a fraction of it."""


def require_plain(path: Path) -> None:
    """Refuse what is there and is no file: a folder, a pipe, a socket, a device.

    Raises: OSError where it cannot be looked at; ValueError that says what it is, as the end of a sentence.
    """
    if "\0" in str(path):
        raise ValueError("has a NUL in its name")
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def read_plain_text(path: Path, *, largest: int = LARGEST_TEXT) -> str:
    """The text of a file, without the byte order mark that some editors put before it.

    Raises: OSError where it cannot be opened; ValueError that says what is wrong with it, as the end of a
    sentence: "is not text in UTF-8".
    """
    require_plain(path)
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"has {size:,} bytes, and {largest:,} are the most that are read")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not text in UTF-8") from None


def read_json(path: Path) -> Any:
    """What a JSON file says. NaN and Infinity are read, as Python writes them.

    Raises: as `read_plain_text`, and as `parse_json`.
    """
    return parse_json(read_plain_text(path))


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises: ValueError, as above, for what is no JSON, nested too deeply, or has a key twice, of which another reader
    might take the other one.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error})") from None


def _once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("has a key twice")
    return found
