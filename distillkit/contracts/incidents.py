"""Incidents of a run that do not end it: unreadable images and skipped optimiser steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from distillkit.messages.text import counted

SHOWN = 3
"""Number of files that a note names."""


class BrokenImage(NamedTuple):
    """An unreadable image: its split (train, validation, test), its key, the kind of fault, and the reason."""

    split: str
    key: str
    kind: str
    reason: str


class Incidents:
    """Incident log of a run. It is saved in every checkpoint, so that a resumed run has the same counts.

    `broken` has every unreadable image once, in order of discovery. `skipped` has the numbers, from 1, of the optimiser
    steps that changed no weight because the loss or a gradient was not finite. `lost_classes` names, by split, the
    classes without a readable image; it is set at the end of the run.
    """

    def __init__(self, broken: Iterable[BrokenImage] = (), skipped: Iterable[int] = ()) -> None:
        self._broken: dict[tuple[str, str], BrokenImage] = {}
        self.skipped = list(skipped)
        self.lost_classes: dict[str, tuple[str, ...]] = {}
        self.add_broken(broken)

    @property
    def broken(self) -> tuple[BrokenImage, ...]:
        return tuple(self._broken.values())

    def __bool__(self) -> bool:
        return bool(self._broken or self.skipped)

    def add_broken(self, images: Iterable[BrokenImage]) -> tuple[BrokenImage, ...]:
        """Record unreadable images. Returns the new ones, in order."""
        new: list[BrokenImage] = []
        for image in images:
            if (image.split, image.key) not in self._broken:
                self._broken[image.split, image.key] = image
                new.append(image)
        return tuple(new)

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of unreadable images by split and kind of fault, both in alphabetical order."""
        kinds = Counter((image.split, image.kind) for image in self.broken)
        table: dict[str, dict[str, int]] = {}
        for (split, kind), count in sorted(kinds.items()):
            table.setdefault(split, {})[kind] = count
        return table

    def summary(self) -> dict[str, Any]:
        """`counts`, the number of skipped steps, and the lost classes, if any."""
        lost = {"lost_classes": {split: list(names) for split, names in self.lost_classes.items()}}
        return {"broken": self.counts(), "skipped_steps": len(self.skipped)} | (lost if self.lost_classes else {})

    def as_dict(self) -> dict[str, Any]:
        """The incident log as plain data, for a checkpoint."""
        return {"broken": [image._asdict() for image in self.broken], "skipped": list(self.skipped)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Incidents:
        """The inverse of `as_dict`."""
        return cls((BrokenImage(**image) for image in data["broken"]), data["skipped"])


def notes_on_broken(images: Iterable[BrokenImage]) -> tuple[str, ...]:
    """A note on the unreadable images of each split.

    >>> notes_on_broken([BrokenImage("train", "cat/1.png", "empty", "it has no bytes")])
    ('1 train image cannot be read and is replaced by another: cat/1.png (empty)',)
    """
    by_split: dict[str, list[BrokenImage]] = {}
    for image in images:
        by_split.setdefault(image.split, []).append(image)
    return tuple(_note_on_split(split, broken) for split, broken in by_split.items())


def _note_on_split(split: str, broken: Sequence[BrokenImage]) -> str:
    named = ", ".join(f"{image.key} ({image.kind})" for image in broken[:SHOWN])
    more = f" and {len(broken) - SHOWN:,} more" if len(broken) > SHOWN else ""
    one = len(broken) == 1
    action = f"replaced by {'another' if one else 'others'}" if split == "train" else "left out"
    verb = "is" if one else "are"
    return f"{counted(len(broken), f'{split} image')} cannot be read and {verb} {action}: {named}{more}"
