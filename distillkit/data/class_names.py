"""Class names: the order of the classes, and how the classes of other splits are matched to it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from distillkit.data.selection import UNLABELLED, SelectedPart, Selection
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.errors import DataError
from distillkit.messages.text import visible

_SHOWN = 5


def agreed_names(sources: Mapping[str, Source | Stream | None]) -> tuple[str, ...] | None:
    """The class names of the first source that has any, in its order.

    Another source may lack some of the classes, and write a name in another case.
    Raises: DataError if another source has further classes, or a stream does not list the same ones in the same order.
    """
    named = {key: source for key, source in sources.items() if source is not None and source.class_names is not None}
    if not named:
        return None
    first, *others = named
    names = named[first].class_names or ()
    for key in others:
        source = named[key]
        other = source.class_names or ()
        unknown = [name for name, place in zip(other, places_of(other, names), strict=True) if place is None]
        if unknown:
            have, them = ("class", "it") if len(unknown) == 1 else ("classes", "them")
            raise DataError(
                f"data.{key}: '{source.name}' has {len(unknown):,} {have} that '{named[first].name}' lacks: "
                f"{listed(unknown)}; rename or remove {them} there, or add images of {them} to '{named[first].name}'"
            )
        # `labelled_part` renumbers the labels of an indexed source; those of a stream stay as they are.
        if is_stream(source) and other != names:
            raise DataError(
                f"data.{key}: the stream '{source.name}' does not list the classes of '{named[first].name}' in the "
                "same order; use the same list in both"
            )
    return names


def places_of(other: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """The place in `names` of each name in `other`, None for an unknown one.

    A name that is not in `names` stands for the one that differs only in case or in the Unicode form of an accented
    letter, unless either side has several of these.
    >>> places_of(["Dog", "bird"], ["cat", "dog"])
    [1, None]
    """
    exact = {name: place for place, name in enumerate(names)}
    forms, theirs = (Counter(map(normal_form, each)) for each in (names, other))
    alike = {normal_form(name): place for place, name in enumerate(names) if forms[normal_form(name)] == 1}
    return [exact.get(name, alike.get(normal_form(name)) if theirs[normal_form(name)] == 1 else None) for name in other]


def normal_form(name: str) -> str:
    """The name without case, and with one form of accented letters."""
    return unicodedata.normalize("NFC", name).casefold()


def labelled_part(source: Source, names: tuple[str, ...] | None) -> SelectedPart:
    """All images of a source, with labels renumbered to the order of `names`."""
    part = SelectedPart.whole(source)
    if not names or not source.class_names or source.class_names == names:
        return part
    places = np.array([UNLABELLED if place is None else place for place in places_of(source.class_names, names)])
    labels = np.where(part.labels == UNLABELLED, UNLABELLED, places[part.labels])
    return SelectedPart(source, part.indices, labels)


def evaluation_class_notes(split: str, source: Source | Stream, names: tuple[str, ...] | None) -> Iterator[str]:
    """Notes on the classes that validation or test images lack, and on names that are written differently."""
    if names is None or is_stream(source):
        return
    own = source.class_names or ()
    renamed = [
        f"'{visible(name)}' as '{visible(names[place])}'"
        for name, place in zip(own, places_of(own, names), strict=True)
        if place is not None and names[place] != name
    ]
    if renamed:
        yield f"{split}: classes of '{source.name}' that differ only in case are matched: {', '.join(renamed[:_SHOWN])}"
    missing = np.setdiff1d(np.arange(len(names)), labelled_part(source, names).labels)
    if len(missing):
        have = "has" if len(missing) == 1 else "have"
        lacking = listed([names[label] for label in missing])
        yield f"{split}: {len(missing):,} of {len(names):,} classes {have} no image in '{source.name}': {lacking}"


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
            f"'{found[0].name}' has a single class, {only}; give every class a folder; to train on images without "
            "labels, use `distillkit run --unlabeled DIR`"
        )
    return classes


def listed(names: Sequence[str]) -> str:
    """Names in quotes, the first five and the number of the others."""
    shown = ", ".join(f"'{visible(name)}'" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else shown
