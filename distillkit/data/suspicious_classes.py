"""Warnings about the classes of a data set, found without reading pixels.

A run shows them before its first step; `distillkit data check` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distillkit.data.class_names import listed, normal_form
from distillkit.data.image_folders import shown_left_out
from distillkit.data.selection import UNLABELLED, labels_of
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.messages.text import counted, visible

MOST = 0.8
"""Share of the labelled images above which one class dominates."""
FEWEST = 10
"""Number of labelled images from which a share means something."""


def class_warnings(source: Source | Stream) -> Iterator[str]:
    """Warnings about likely mistakes: classes without images, and names that differ only in case."""
    if is_stream(source):
        return
    empty = empty_classes(source)
    if empty:
        have = "has no image" if len(empty) == 1 else "have no image"
        yield f"{_numbered(len(empty), 'class', 'classes')} of '{source.name}' {have}: {listed(empty)}"
    for names in near_duplicates(source.class_names or ()):
        yield f"the classes {listed(names)} of '{source.name}' differ only in case; merge them if they are the same"


def unlabelled_next_to_classes(source: Source | Stream) -> str | None:
    """A warning about unlabelled images in a data set with classes; None without any."""
    if is_stream(source) or not source.class_names:
        return None
    missing = int(np.sum(labels_of(source) == UNLABELLED))
    if not missing:
        return None
    verb, place = ("has", "it is") if missing == 1 else ("have", "they are")
    return f"{counted(missing, 'image')} of '{source.name}' {verb} no label: {place} outside the class folders"


def one_sided(source: Source | Stream) -> str | None:
    """A note about a class with most of the labelled images; None without one."""
    if is_stream(source):
        return None
    labels = labels_of(source)
    counts = np.bincount(labels[labels != UNLABELLED])
    if counts.sum() < FEWEST or np.count_nonzero(counts) < 2 or counts.max() <= MOST * counts.sum():
        return None
    label = int(counts.argmax())
    name = visible(source.class_names[label]) if source.class_names else str(label)
    return (
        f"class '{name}' has {100 * counts.max() / counts.sum():.0f} % of the labelled images of '{source.name}': "
        "top-1 says little about the others, which `distillkit evaluate --per-class` shows"
    )


def unread_folders(source: Source | Stream) -> str | None:
    """A note about folders next to the splits that are not read; None without any."""
    unread: Sequence[str] = getattr(source, "unread", ())
    if not unread:
        return None
    folders, verb = ("folder", "is") if len(unread) == 1 else ("folders", "are")
    return f"{len(unread):,} {folders} next to '{source.name}' {verb} not read: {listed(unread)}"


def left_out_files(source: Source | Stream) -> str | None:
    """A note about files of a folder that are not images; None without any."""
    shown = shown_left_out(getattr(source, "left_out", {}))
    return f"left out of '{source.name}': {shown}" if shown else None


def fewer_than_a_batch(images: int, batch_size: int) -> str | None:
    """A warning that a batch holds all images; None if it does not."""
    if images >= batch_size:
        return None
    return (
        f"training.batch_size = {batch_size:,} is more than the {counted(images, 'training image')}, so every step "
        "uses all of them; lower it for more steps per epoch"
    )


def empty_classes(source: Source) -> tuple[str, ...]:
    """The classes without images, those of empty folders included."""
    named = source.class_names or ()
    seen = set(labels_of(source).tolist())
    unused_names = [name for label, name in enumerate(named) if label not in seen]
    # A folder data set does not number the classes of empty folders, so it reports them separately.
    empty_folders: Sequence[str] = getattr(source, "empty_classes", ())
    return tuple(sorted({*unused_names, *empty_folders}))


def near_duplicates(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of names that differ only in case or in the Unicode form of an accented letter.

    >>> near_duplicates(["Cat", "dog", "cat"])
    (('Cat', 'cat'),)
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(normal_form(name), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _numbered(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
