"""The folder of a bank: one shelf per key, found by what its targets depend on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from distillkit.bank.row_format import RowFormat
from distillkit.bank.shelf import CHECK_BYTES, Shelf
from distillkit.errors import BankError
from distillkit.messages.dotted_keys import by_dotted_key, differences
from distillkit.messages.text import one_line, shortened
from distillkit.storage.atomic import write_json
from distillkit.storage.links import LinkError, require_own
from distillkit.storage.untrusted import read_json

FORMAT = 1
"""Version of the files of a shelf; another version is not read."""
HEADER = "shelf.json"
KEY_BYTES = 16
LARGEST_ROW = 2**30
"""Limit of `row_bytes` in a header, in bytes: above the attention maps of any teacher, and a file cannot ask for more
memory."""
DEEPEST = 16
"""Maximum nesting of a header."""

Facts = Mapping[str, Any]
"""What the targets of a shelf depend on, as JSON data: tables of values."""


@dataclass(frozen=True)
class ShelfHeader:
    """`shelf.json`: the facts that make the key, what made the first rows (versions, device), and bytes per row."""

    path: Path
    facts: Facts
    made_with: Facts
    row_bytes: int

    @property
    def used_at_s(self) -> float:
        """When a run last opened the shelf, in seconds since the epoch."""
        return (self.path / HEADER).stat().st_mtime

    def differences(self, facts: Facts) -> dict[str, tuple[Any, Any]]:
        """The facts that differ, by dotted name: the value of this shelf and the one in `facts`, None if absent."""
        return differences(self.facts, facts)


@dataclass(frozen=True)
class Bank:
    """A bank directory, which need not exist before its first shelf.

    A directory without write permission is only read.
    """

    path: Path

    def shelf(self, facts: Facts, row_format: RowFormat, made_with: Facts) -> tuple[Shelf, ShelfHeader]:
        """Open the shelf of these facts, or begin it.

        Raises: BankError if the directory cannot be made, the shelf is a link, or it was written in another format.
        """
        key = key_of(facts)
        path = self.path / _shelf_name(facts, key)
        try:
            require_own(path)
        except LinkError as error:
            raise BankError(error.sentence()) from None
        header = self._read_header(path) if path.is_dir() else None
        if header is None:
            header = self._begin(path, facts, made_with, row_format.bytes + CHECK_BYTES)
        writable = os.access(path, os.W_OK)
        if writable:
            with suppress(OSError):
                mark_used(path)
        return Shelf(path, key, row_format, writable=writable), header

    def only_fitting(self, facts: Facts, unknown: frozenset[str]) -> Facts:
        """These facts as the only shelf that fits has them, where those named in `unknown` may have any value.

        Raises: BankError if none fits, or several do.
        """
        fitting = [header for header in self.headers() if header.differences(facts).keys() <= unknown]
        if not fitting:
            raise BankError(
                f"the bank {self.path} has no shelf for this run; give the teacher's weights, or fill the bank with "
                "`distillkit bank build`"
            )
        if len(fitting) > 1:
            names = ", ".join(header.path.name for header in fitting)
            raise BankError(
                f"several shelves of the bank {self.path} fit this run ({names}); give the teacher's weights, or "
                "delete all but one with `distillkit bank prune`"
            )
        stored = by_dotted_key(fitting[0].facts)
        return _replaced(facts, {name: stored.get(name) for name in unknown})

    def headers(self) -> Iterator[ShelfHeader]:
        """The headers of all shelves that can be read, by name.

        Raises: BankError for a folder that cannot be listed.
        """
        with accessible(self.path):
            paths = sorted(self.path.iterdir()) if self.path.is_dir() else ()
        for path in paths:
            if path.is_dir() and not path.is_symlink() and (header := self._read_header(path)) is not None:
                yield header

    def nearest(self, facts: Facts) -> tuple[ShelfHeader, dict[str, tuple[Any, Any]]] | None:
        """The shelf with the fewest different facts, and these; None for an empty bank."""
        found = [(header, header.differences(facts)) for header in self.headers()]
        return min(found, key=lambda pair: len(pair[1]), default=None)

    def _begin(self, path: Path, facts: Facts, made_with: Facts, row_bytes: int) -> ShelfHeader:
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Atomic; another process that begins the same shelf at the same time writes the same key.
            content = {"format": FORMAT, "row_bytes": row_bytes, "key": facts, "made_with": made_with}
            write_json(path / HEADER, content)
        except OSError as error:
            raise BankError(
                f"the bank {self.path} has no shelf for this run and cannot be written to ({one_line(error)}); "
                "give a folder that can be written to"
            ) from None
        return ShelfHeader(path, facts, made_with, row_bytes)

    def _read_header(self, path: Path) -> ShelfHeader | None:
        """The header of a shelf; None where it is missing, as after a kill, or damaged.

        Raises: BankError for another format.
        """
        try:
            content = read_json(path / HEADER)
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or not _is_shallow(content, DEEPEST):
            return None
        if content.get("format") != FORMAT:
            raise BankError(
                f"{path} was written in format {shortened(repr(content.get('format')))} of target banks, and this "
                f"version reads format {FORMAT}; use another folder for the bank"
            )
        facts, made_with, row_bytes = content.get("key"), content.get("made_with"), content.get("row_bytes")
        if not isinstance(facts, dict) or not isinstance(made_with, dict) or not isinstance(row_bytes, int):
            return None
        if not CHECK_BYTES <= row_bytes <= LARGEST_ROW:
            return None
        return ShelfHeader(path, facts, made_with, row_bytes)


@contextmanager
def accessible(path: Path) -> Iterator[None]:
    """Raises: BankError in place of an error of the system about a bank or a shelf."""
    try:
        yield
    except OSError as error:
        raise BankError(
            f"{path} cannot be read or changed ({error.strerror}); change its permissions, or those of its folder"
        ) from None


def mark_used(shelf: Path) -> None:
    """Note in the time of the header that a shelf is used now, for `prune`; a link in its place is not followed.

    Raises: OSError.
    """
    os.utime(shelf / HEADER, follow_symlinks=os.utime not in os.supports_follow_symlinks)


def key_of(facts: Facts) -> bytes:
    """The key of a shelf: a hash of its facts."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def _shelf_name(facts: Facts, key: bytes) -> str:
    """A name for people, made unique by the key: "timm-resnet18-soft-1f2e3d4c5b6a7988"."""
    names = (facts["teacher"]["architecture"], facts["loss"]["plugin"])
    readable = re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, names)).lower()).strip("-")[-60:]
    return f"{readable}-{key.hex()[:16]}"


def _replaced(facts: Facts, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts with other values for some dotted names."""
    return {
        name: _replaced(value, values, f"{prefix}{name}.")
        if isinstance(value, Mapping)
        else values.get(prefix + name, value)
        for name, value in facts.items()
    }


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether JSON data has at most this many levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inner)
