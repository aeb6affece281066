"""Which images a run has: for training, for choosing the best checkpoint, and for the final measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distillkit.data.class_names import agreed_names, count_classes, labelled_part
from distillkit.data.resolve_source import SourceOpener, unlabelled_images
from distillkit.data.selection import UNLABELLED, SelectedPart, Selection
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.data.stratified import held_out, kept_labels
from distillkit.data.suspicious_classes import class_oddities
from distillkit.errors import DataError
from distillkit.messages.text import counted
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Data

SHOWN = 3
"""How many names a sentence lists."""

_Key: TypeAlias = Literal["validation", "test"]
_Measured: TypeAlias = Mapping[_Key, Source | Stream | None]


@dataclass(frozen=True)
class DataSets:
    """The images of a run. No pixel is read to make one.

    `labelled` says of each training image whether its label is seen, [n]. `classes` is None where nothing is labelled.
    `notes` are sentences about what was decided. `fingerprint` changes with the names, the order and the labels of the
    training images. `streaming` means that exactness ends at the epoch.
    """

    train: Source | Stream
    labelled: NDArray[np.bool_]
    validation: Source | Stream | None
    test: Source | Stream | None
    class_names: tuple[str, ...] | None
    classes: int | None
    notes: tuple[str, ...]
    fingerprint: str
    streaming: bool = False

    def only_labelled(self) -> DataSets:
        """The same without the unlabelled training images, for a run in which no loss reads a teacher.

        Raises: DataError when nothing is left.
        """
        if not self.labelled.any():
            raise DataError(
                f"no image of '{self.train.name}' has a label and no loss reads a teacher: nothing can be learnt; "
                "name labelled images in data.train or give the recipe a teacher"
            )
        if not isinstance(self.train, Selection) or self.labelled.all():
            return self
        train = self.train.only_labelled()
        note = f"dropped: {counted(len(self.train) - len(train), 'unlabelled image')}, since no loss reads a teacher"
        return replace(
            self,
            train=train,
            labelled=train.labelled(),
            notes=(*self.notes, note),
            fingerprint=fingerprint(train, self.class_names),
        )


def open_datasets(data: Data, plugins: PluginRegistry) -> DataSets:
    """Open what `[data]` names, hold out the validation share, and choose the labels that are kept.

    Raises: DataError; a PluginError where a data set's plugin is unknown, broken or lacks a package.
    """
    opener = SourceOpener(data, plugins)
    name = data.train or (None if data.unlabeled else "digits")
    train = None if name is None else opener.training("train", name)
    unlabelled = None if data.unlabeled is None else opener.training("unlabeled", data.unlabeled)
    notes: list[str] = []
    measured = _measured_on(opener, name, notes)
    if is_stream(train) or is_stream(unlabelled):
        return _streaming(train, measured, data, notes)
    return _indexed(train, unlabelled, measured, data, notes)


def _measured_on(opener: SourceOpener, train: str | None, notes: list[str]) -> dict[_Key, Source | Stream | None]:
    """The sets to measure on: those that the recipe names, or those that the training data comes with."""
    data = opener.data
    measured: dict[_Key, Source | Stream | None] = {"validation": None, "test": None}
    if isinstance(data.validation, str):
        measured["validation"] = opener.measured("validation", data.validation)
    elif train is not None and data.validation > 0:
        measured["validation"] = opener.brought_along("validation", train)
    if data.test is not None:
        measured["test"] = opener.measured("test", data.test)
    elif train is not None:
        measured["test"] = opener.brought_along("test", train)
    for key, source in measured.items():
        if source is not None and unlabelled_images(source):
            notes.append(f"{key}: none, since '{source.name}' has images without a label")
            measured[key] = None
        elif source is not None:
            notes.append(f"{key}: {counted(len(source), 'image')} of '{source.name}'")
    return measured


def _indexed(
    train: Source | None, unlabelled: Source | None, measured: _Measured, data: Data, notes: list[str]
) -> DataSets:
    """Put the training images together; every image has an index."""
    names = agreed_names({"train": train, "validation": measured["validation"], "test": measured["test"]})
    sets = {key: _selection(source, names) for key, source in measured.items()}
    parts: list[SelectedPart] = []
    if train is not None:
        notes += class_oddities(train)
        part = labelled_part(train, names)
        part, held = _hold_out(part, data) if sets["validation"] is None else (part, None)
        if held is not None:
            sets["validation"] = Selection(train.name, names, [held])
            notes.append(f"validation: {counted(len(held.indices), 'image')} held out of train")
        parts.append(part)
    elif data.labels is not None:
        raise DataError(f"data.labels = {data.labels:,} keeps labels of data.train, which is not given; name it")
    if unlabelled is not None:
        parts.append(SelectedPart.whole(unlabelled).without_labels("unlabeled/"))
        notes.append(f"unlabeled: {counted(len(unlabelled), 'image')} of '{unlabelled.name}'")
    name = parts[0].source.name
    # Counted before labels are hidden: a class stays a class when none of its labels is kept.
    indexed = [found for found in sets.values() if isinstance(found, Selection)]
    classes = count_classes(names, [Selection(name, names, parts), *indexed])
    if data.labels is not None:
        parts[0] = _keep_labels(parts[0], data.labels, data.seed)
        notes += _what_is_kept(parts[0], names, classes)
    chosen = Selection(name, names, parts)
    labelled = chosen.labelled()
    notes.insert(0, f"train: {counted(len(chosen), 'image')}, {int(labelled.sum()):,} of them with a label")
    return DataSets(
        train=chosen,
        labelled=labelled,
        validation=sets["validation"],
        test=sets["test"],
        class_names=names,
        classes=classes,
        notes=tuple(notes),
        fingerprint=fingerprint(chosen, names),
    )


def _selection(source: Source | Stream | None, names: tuple[str, ...] | None) -> Source | Stream | None:
    if source is None or is_stream(source):
        return source
    return Selection(source.name, names, [labelled_part(source, names)])


def _hold_out(part: SelectedPart, data: Data) -> tuple[SelectedPart, SelectedPart | None]:
    """Split a part into what is trained on and what is held out, where a share is to be and labels can be measured."""
    if isinstance(data.validation, str) or data.validation == 0 or (part.labels == UNLABELLED).all():
        return part, None
    held = held_out(part.labels, data.validation, data.seed)
    return part.only(np.setdiff1d(np.arange(len(part.labels)), held)), part.only(held)


def _keep_labels(part: SelectedPart, wanted: int, seed: int) -> SelectedPart:
    """Hide all labels but as many as are wanted."""
    kept = kept_labels(part.labels, wanted, seed)
    labels = np.full_like(part.labels, UNLABELLED)
    labels[kept] = part.labels[kept]
    return replace(part, labels=labels)


def _what_is_kept(part: SelectedPart, names: tuple[str, ...] | None, classes: int | None) -> list[str]:
    """How many labels are left, and which classes have none."""
    kept = part.labels[part.labels != UNLABELLED]
    hidden = len(part.labels) - len(kept)
    notes = [f"labels: {len(kept):,} kept, balanced over the classes; {counted(hidden, 'image')} left in as unlabelled"]
    spoken = names or tuple(map(str, range(classes or 0)))
    missing = [spoken[label] for label in np.setdiff1d(np.arange(len(spoken)), kept)]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        have, them = ("has", "it") if len(missing) == 1 else ("have", "them")
        notes.append(
            f"labels: {len(missing):,} of {len(spoken):,} classes {have} no labelled image: {shown}; "
            f"only a teacher can teach {them}"
        )
    return notes


def _streaming(train: Source | Stream | None, measured: _Measured, data: Data, notes: list[str]) -> DataSets:
    """A run on a stream: what needs an index is refused."""
    if not is_stream(train):
        raise DataError(f"data.unlabeled: '{data.unlabeled}' is a stream; name a folder or a data set with an index")
    for key in ("labels", "labeled_fraction", "unlabeled"):
        if getattr(data, key) is not None:
            raise DataError(
                f"data.{key} needs images with an index, and '{train.name}' is a stream; leave it out or name a data "
                "set with an index"
            )
    names = agreed_names({"train": train, "validation": measured["validation"], "test": measured["test"]})
    sets = {key: _selection(source, names) for key, source in measured.items()}
    if sets["validation"] is None:
        notes.append("validation: none, since nothing can be held out of a stream; name a data set in data.validation")
    notes.insert(
        0, f"train: {counted(len(train), 'image')} of the stream '{train.name}'; resuming is exact to the epoch"
    )
    return DataSets(
        train=train,
        labelled=np.ones(len(train), np.bool_),
        validation=sets["validation"],
        test=sets["test"],
        class_names=names,
        classes=len(names) if names else None,
        notes=tuple(notes),
        fingerprint=fingerprint(train, names),
        streaming=True,
    )


def fingerprint(train: Selection | Stream, names: tuple[str, ...] | None) -> str:
    """A digest of class names and of the key and label of every training image, in order. 32 hexadecimal digits."""
    digest = blake2b("\n".join(names or ()).encode(), digest_size=16)
    if is_stream(train):
        digest.update(f"\0{train.name}\0{len(train)}".encode())
        return digest.hexdigest()
    for key in train.all_keys():
        digest.update(f"\0{key}".encode(errors="surrogateescape"))
    digest.update(train.labels.astype("<i8").tobytes())
    return digest.hexdigest()
