"""Class names: the order of the classes, and whether all splits agree on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from distillkit.data.selection import UNLABELLED, SelectedPart, Selection
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.errors import DataError

_SHOWN = 5


def agreed_names(sources: Mapping[str, Source | Stream | None]) -> tuple[str, ...] | None:
    """The class names of the first source that has any, in its order.

    Raises: DataError if another source has other classes, or a stream has the same ones in another order.
    """
    named = {key: source for key, source in sources.items() if source is not None and source.class_names is not None}
    if not named:
        return None
    first, *others = named
    names = named[first].class_names or ()
    for key in others:
        source = named[key]
        other = source.class_names or ()
        if set(other) != set(names):
            raise DataError(
                f"data.{key}: the classes of '{source.name}' differ from those of '{named[first].name}'; "
                f"{_listed('missing', set(names) - set(other))}{_listed('unknown', set(other) - set(names))}"
                "give every split the same class folders"
            )
        # `labelled_part` renumbers the labels of an indexed source; those of a stream stay as they are.
        if is_stream(source) and other != names:
            raise DataError(
                f"data.{key}: the stream '{source.name}' lists the classes of '{named[first].name}' in a different "
                "order; use the same order in both"
            )
    return names


def labelled_part(source: Source, names: tuple[str, ...] | None) -> SelectedPart:
    """All images of a source, with labels renumbered to the order of `names`."""
    part = SelectedPart.whole(source)
    if not names or not source.class_names or source.class_names == names:
        return part
    places = np.array([names.index(name) for name in source.class_names])
    labels = np.where(part.labels == UNLABELLED, UNLABELLED, places[part.labels])
    return SelectedPart(source, part.indices, labels)


def count_classes(names: tuple[str, ...] | None, selections: Iterable[Selection]) -> int | None:
    """The number of classes, None if nothing is labelled.

    Raises: DataError for a single class, and for a label without a name.
    """
    found = list(selections)
    highest = max((int(selection.labels.max()) for selection in found if len(selection)), default=UNLABELLED)
    if names is None and highest == UNLABELLED:
        return None
    classes = len(names) if names is not None else highest + 1
    if highest >= classes:
        raise DataError(f"'{found[0].name}' has the label {highest}, but only {classes} class names")
    if classes == 1:
        only = f"'{names[0]}'" if names else "0"
        raise DataError(
            f"'{found[0].name}' has a single class, {only}; give every class a folder, or use --unlabeled DIR for "
            "unlabelled images"
        )
    return classes


def _listed(what: str, names: set[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{what}: {shown}{more}; "
