"""What is odd about the classes of a data set, found without reading a pixel.

A run says it before its first step; `distillkit data check` lists it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from distillkit.data.selection import UNLABELLED, labels_of
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.messages.text import counted, visible

SHOWN = 5
"""How many names a sentence lists."""


def class_oddities(source: Source | Stream) -> Iterator[str]:
    """A sentence for what is likely a mistake: classes without an image, and names that differ in case alone."""
    if is_stream(source):
        return
    empty = empty_classes(source)
    if empty:
        have = "has no image" if len(empty) == 1 else "have no image"
        yield f"{_numbered(len(empty), 'class', 'classes')} of '{source.name}' {have}: {_listed(empty)}"
    for names in alike(source.class_names or ()):
        yield f"the classes {_listed(names)} of '{source.name}' differ in case alone; are they one?"


def unlabelled_beside_classes(source: Source | Stream) -> str | None:
    """A sentence about images without a label in a data set that names classes; None where there are none."""
    if is_stream(source) or not source.class_names:
        return None
    missing = int(np.sum(labels_of(source) == UNLABELLED))
    if not missing:
        return None
    verb, place = ("has", "it lies") if missing == 1 else ("have", "they lie")
    return f"{counted(missing, 'image')} of '{source.name}' {verb} no label: {place} beside the class folders"


def fewer_than_a_batch(images: int, batch_size: int) -> str | None:
    """A sentence where a step sees all images at once."""
    if images >= batch_size:
        return None
    return (
        f"training.batch_size = {batch_size:,} is more than the {counted(images, 'training image')}, so every step "
        "sees them all; lower it for more steps"
    )


def empty_classes(source: Source) -> tuple[str, ...]:
    """The classes that a data set names and has no image of, those of empty folders among them."""
    named = source.class_names or ()
    seen = set(labels_of(source).tolist())
    of_labels = [name for label, name in enumerate(named) if label not in seen]
    of_folders: Sequence[str] = getattr(source, "empty_classes", ())
    return tuple(sorted({*of_labels, *of_folders}))


def alike(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The names that differ in case, or in how a letter with an accent is written, alone.

    >>> alike(["Cat", "dog", "cat"])
    (('Cat', 'cat'),)
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _numbered(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{visible(name)}'" for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else shown
