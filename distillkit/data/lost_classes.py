"""Classes without a readable image: a rare class can disappear below the limit `data.broken`."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from distillkit.data.class_names import listed
from distillkit.data.selection import UNLABELLED, labels_of
from distillkit.data.sources import Source, Stream, is_stream, load_image
from distillkit.errors import DataError, UnreadableImageError
from distillkit.messages.text import visible


def lost_classes(
    source: Source | Stream | None, broken: Collection[str], *, try_others: bool = False
) -> tuple[str, ...]:
    """The classes that have images, none of them readable; `broken` are the visible keys of the unreadable ones.

    With `try_others`, not every image was tried: where half of a class is broken, the others are read until one can be.
    """
    if source is None or is_stream(source) or not broken:
        return ()
    labels = labels_of(source)
    is_broken = np.array([visible(source.key(index)) in broken for index in range(len(source))])
    lost = []
    for label in np.unique(labels[is_broken & (labels != UNLABELLED)]).tolist():
        others = np.flatnonzero((labels == label) & ~is_broken).tolist()
        is_suspect = try_others and len(others) <= np.count_nonzero(is_broken & (labels == label))
        if not others or (is_suspect and not any(_is_readable(source, index) for index in others)):
            lost.append(source.class_names[label] if source.class_names else str(label))
    return tuple(lost)


def _is_readable(source: Source, index: int) -> bool:
    try:
        load_image(source, index)
    except UnreadableImageError:
        return False
    except DataError:  # a system error says nothing about the image
        return True
    return True


def lost_class_note(split: str, lost: Collection[str]) -> str:
    """A sentence on `lost_classes`.

    >>> lost_class_note("train", ["rare"])
    "train: no image of class 'rare' can be read"
    """
    return f"{split}: no image of {'class' if len(lost) == 1 else 'classes'} {listed([*lost])} can be read"
