"""What went wrong in a run without ending it: images that could not be read, and steps that were skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from distillkit.messages.text import counted

SHOWN = 3
"""How many files a sentence names."""


class BrokenImage(NamedTuple):
    """An image that could not be read: of which set (train, validation, test), its key, the kind of fault, and why."""

    split: str
    key: str
    kind: str
    reason: str


class Incidents:
    """The ledger of a run. It goes into every checkpoint, so that a resumed run counts as one that never stopped.

    `broken` has every unreadable image once, in the order in which they were met. `skipped` are the numbers of the
    optimiser steps, from 1, that moved no weight because loss or gradient was not finite.
    """

    def __init__(self, broken: Iterable[BrokenImage] = (), skipped: Iterable[int] = ()) -> None:
        self._broken: dict[tuple[str, str], BrokenImage] = {}
        self.skipped = list(skipped)
        self.add_broken(broken)

    @property
    def broken(self) -> tuple[BrokenImage, ...]:
        return tuple(self._broken.values())

    def __bool__(self) -> bool:
        return bool(self._broken or self.skipped)

    def add_broken(self, images: Iterable[BrokenImage]) -> tuple[BrokenImage, ...]:
        """Enter unreadable images. Returns those that were not known, in order."""
        new: list[BrokenImage] = []
        for image in images:
            if (image.split, image.key) not in self._broken:
                self._broken[image.split, image.key] = image
                new.append(image)
        return tuple(new)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many images of each set have which kind of fault; sets and kinds by name."""
        kinds = Counter((image.split, image.kind) for image in self.broken)
        table: dict[str, dict[str, int]] = {}
        for (split, kind), count in sorted(kinds.items()):
            table.setdefault(split, {})[kind] = count
        return table

    def summary(self) -> dict[str, Any]:
        """`counts` and how many steps were skipped."""
        return {"broken": self.counts(), "skipped_steps": len(self.skipped)}

    def as_dict(self) -> dict[str, Any]:
        """The whole ledger as plain data."""
        return {"broken": [image._asdict() for image in self.broken], "skipped": list(self.skipped)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Incidents:
        """The inverse of `as_dict`."""
        return cls((BrokenImage(**image) for image in data["broken"]), data["skipped"])


def notes_on_broken(images: Iterable[BrokenImage]) -> tuple[str, ...]:
    """A sentence for each set of which images could not be read.

    >>> notes_on_broken([BrokenImage("train", "cat/1.png", "empty", "it has no bytes")])
    ('1 image of train cannot be read and is replaced by another: cat/1.png (empty)',)
    """
    of_split: dict[str, list[BrokenImage]] = {}
    for image in images:
        of_split.setdefault(image.split, []).append(image)
    return tuple(_note_on_split(split, found) for split, found in of_split.items())


def _note_on_split(split: str, found: Sequence[BrokenImage]) -> str:
    named = ", ".join(f"{image.key} ({image.kind})" for image in found[:SHOWN])
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    one = len(found) == 1
    fate = f"replaced by {'another' if one else 'others'}" if split == "train" else "left out"
    return (
        f"{counted(len(found), 'image')} of {split} cannot be read and {'is' if one else 'are'} {fate}: {named}{more}"
    )
