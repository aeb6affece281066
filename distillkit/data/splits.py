"""The splits of a run: training images, validation images for choosing the best checkpoint, and test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distillkit.data.class_names import agreed_names, count_classes, evaluation_class_notes, labelled_part
from distillkit.data.resolve_source import SourceOpener, unlabelled_images
from distillkit.data.selection import UNLABELLED, SelectedPart, Selection
from distillkit.data.sources import Source, Stream, is_stream
from distillkit.data.stratified import held_out, kept_labels
from distillkit.data.suspicious_classes import class_warnings, left_out_files, one_sided, unread_folders
from distillkit.errors import DataError
from distillkit.messages.text import counted
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.image_tables import Data

SHOWN = 3
"""Number of names listed in a note."""

_Key: TypeAlias = Literal["validation", "test"]
_EvaluationSets: TypeAlias = Mapping[_Key, Source | Stream | None]


@dataclass(frozen=True)
class DataSets:
    """The training, validation and test images of a run. Opening them reads no pixels.

    `labelled` [n] tells which training images have a visible label. `classes` is None if nothing is labelled. `notes`
    describe the choices made. `fingerprint` changes with the keys, order and labels of the training images.
    `streaming` means that resuming is exact to the epoch only. `hidden` is the number of images of `data.train` that
    have no visible label because of `data.labels`.
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
    hidden: int = 0

    @property
    def evaluation_fingerprints(self) -> dict[str, str]:
        """The fingerprints of the validation and test images, by split, as far as there are any."""
        sources = {"validation": self.validation, "test": self.test}
        return {
            split: fingerprint(source, self.class_names)
            for split, source in sources.items()
            if isinstance(source, Selection) or is_stream(source)
        }

    def only_labelled(self) -> DataSets:
        """The same without unlabelled training images, for a run in which no loss reads a teacher.

        Raises: DataError if nothing is left.
        """
        if not self.labelled.any():
            raise DataError(
                f"no image of '{self.train.name}' has a label and no loss reads a teacher, so there is nothing to "
                "learn from; name labelled images in data.train or add a teacher"
            )
        if not isinstance(self.train, Selection) or self.labelled.all():
            return self
        train = self.train.only_labelled()
        return replace(
            self,
            train=train,
            labelled=train.labelled(),
            notes=_notes_without_teacher(self.notes, len(self.train) - len(train), self.hidden),
            hidden=0,
            fingerprint=fingerprint(train, self.class_names),
        )


def open_datasets(data: Data, plugins: PluginRegistry) -> DataSets:
    """Open the data sets of `[data]`, hold out the validation share, and choose the labels to keep.

    Raises: DataError; a PluginError if a data set's plugin is unknown, broken or lacks a package.
    """
    opener = SourceOpener(data, plugins)
    name = data.train or (None if data.unlabeled else "digits")
    train = None if name is None else opener.training("train", name)
    unlabelled = None if data.unlabeled is None else opener.training("unlabeled", data.unlabeled)
    notes: list[str] = []
    evaluation = _evaluation_sets(opener, name, notes)
    opened = [source for source in (train, unlabelled, *evaluation.values()) if source is not None]
    notes += [note for source in opened for find in (unread_folders, left_out_files) if (note := find(source))]
    if is_stream(train) or is_stream(unlabelled):
        return _streaming(train, evaluation, data, notes)
    return _indexed(train, unlabelled, evaluation, data, notes)


def _evaluation_sets(opener: SourceOpener, train: str | None, notes: list[str]) -> dict[_Key, Source | Stream | None]:
    """The validation and test sets: those named in the recipe, else those that come with the training data."""
    data = opener.data
    evaluation: dict[_Key, Source | Stream | None] = {"validation": None, "test": None}
    if isinstance(data.validation, str):
        evaluation["validation"] = opener.evaluation("validation", data.validation)
    elif train is not None and data.validation > 0:
        evaluation["validation"] = opener.bundled("validation", train)
    if data.test is not None:
        evaluation["test"] = opener.evaluation("test", data.test)
    elif train is not None:
        evaluation["test"] = opener.bundled("test", train)
    for key, source in evaluation.items():
        # Only bundled sets: `opener.evaluation` rejects unlabelled images of a set that the recipe names.
        if source is not None and unlabelled_images(source):
            notes.append(f"{key}: none, because '{source.name}' has unlabelled images")
            evaluation[key] = None
        elif source is not None:
            notes.append(f"{key}: {counted(len(source), 'image')} of '{source.name}'")
    return evaluation


def _indexed(
    train: Source | None, unlabelled: Source | None, evaluation: _EvaluationSets, data: Data, notes: list[str]
) -> DataSets:
    """The data sets of a run on indexed images."""
    names = agreed_names({"train": train, "validation": evaluation["validation"], "test": evaluation["test"]})
    sets = {key: _selection(source, names) for key, source in evaluation.items()}
    notes += _evaluation_class_notes(evaluation, names)
    if train is None and data.labels is not None:
        raise DataError(f"data.labels = {data.labels:,} needs data.train, which is not set; name a labelled data set")
    parts = [] if train is None else [labelled_part(train, names)]
    parts += [] if unlabelled is None else [SelectedPart.whole(unlabelled).without_labels("unlabeled/")]
    name, hidden = parts[0].source.name, 0
    # Counted before images are held out and labels are hidden: a class still counts if none of its labels is kept.
    indexed = [found for found in sets.values() if isinstance(found, Selection)]
    classes = count_classes(names, [Selection(name, names, parts), *indexed])
    if train is not None:
        notes += class_warnings(train)
        # Kept labels are balanced.
        notes += [note] if data.labels is None and (note := one_sided(train)) else []
        parts[0], held = _split_held_out(parts[0], data) if sets["validation"] is None else (parts[0], None)
        if held is not None:
            sets["validation"] = Selection(name, names, [held])
            notes.append(f"validation: {counted(len(held.indices), 'image')} held out of train")
    if unlabelled is not None:
        notes.append(f"unlabeled: {counted(len(unlabelled), 'image')} of '{unlabelled.name}'")
    if data.labels is not None:
        parts[0] = _keep_labels(parts[0], data.labels, data.seed)
        hidden = len(parts[0].labels) - data.labels
        notes += _kept_label_notes(parts[0], names, classes, hidden)
    chosen = Selection(name, names, parts)
    labelled = chosen.labelled()
    notes.insert(0, f"train: {counted(len(chosen), 'image')}, {int(labelled.sum()):,} labelled")
    return DataSets(
        train=chosen,
        labelled=labelled,
        validation=sets["validation"],
        test=sets["test"],
        class_names=names,
        classes=classes,
        notes=tuple(notes),
        fingerprint=fingerprint(chosen, names),
        hidden=hidden,
    )


def _selection(source: Source | Stream | None, names: tuple[str, ...] | None) -> Source | Stream | None:
    if source is None or is_stream(source):
        return source
    return Selection(source.name, names, [labelled_part(source, names)])


def _evaluation_class_notes(evaluation: _EvaluationSets, names: tuple[str, ...] | None) -> Iterator[str]:
    for split, source in evaluation.items():
        if source is not None:
            yield from evaluation_class_notes(split, source, names)


def _split_held_out(part: SelectedPart, data: Data) -> tuple[SelectedPart, SelectedPart | None]:
    """The training part and the held-out part; None for the latter without a share to hold out or without labels."""
    if isinstance(data.validation, str) or data.validation == 0 or (part.labels == UNLABELLED).all():
        return part, None
    held = held_out(part.labels, data.validation, data.seed)
    return part.only(np.setdiff1d(np.arange(len(part.labels)), held)), part.only(held)


def _keep_labels(part: SelectedPart, wanted: int, seed: int) -> SelectedPart:
    """Hide all labels except `wanted` of them."""
    kept = kept_labels(part.labels, wanted, seed)
    labels = np.full_like(part.labels, UNLABELLED)
    labels[kept] = part.labels[kept]
    return replace(part, labels=labels)


def _notes_without_teacher(notes: tuple[str, ...], dropped: int, hidden: int) -> tuple[str, ...]:
    """The notes of a run in which no loss reads a teacher, so that `dropped` images are not used.

    `hidden` of them are those of `DataSets.hidden`, the others have no label at all.
    """
    reason = "because no loss reads a teacher"
    are = "is" if hidden == 1 else "are"
    unused = f"; the other {counted(hidden, 'image')} {are} not used, {reason}"
    used = _used_unlabelled(hidden)
    notes = tuple(note.removesuffix(used) + unused if hidden and note.endswith(used) else note for note in notes)
    unlabelled = dropped - hidden
    return (*notes, f"dropped: {counted(unlabelled, 'unlabelled image')}, {reason}") if unlabelled else notes


def _used_unlabelled(hidden: int) -> str:
    return f"; {counted(hidden, 'image')} used as unlabelled" if hidden else ""


def _kept_label_notes(
    part: SelectedPart, names: tuple[str, ...] | None, classes: int | None, hidden: int
) -> Iterator[str]:
    """Notes on the number of labels that are kept, and on the classes left without one."""
    kept = part.labels[part.labels != UNLABELLED]
    yield f"labels: {len(kept):,} kept, balanced over the classes{_used_unlabelled(hidden)}"
    class_labels = names or tuple(map(str, range(classes or 0)))
    missing = [class_labels[label] for label in np.setdiff1d(np.arange(len(class_labels)), kept)]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        have = "has" if len(missing) == 1 else "have"
        yield (
            f"labels: {len(missing):,} of {len(class_labels):,} classes {have} no labelled image and can only be "
            f"learnt from a teacher: {shown}"
        )


def _streaming(train: Source | Stream | None, evaluation: _EvaluationSets, data: Data, notes: list[str]) -> DataSets:
    """The data sets of a run on a stream; options that need an index are rejected."""
    if not is_stream(train):
        raise DataError(f"data.unlabeled: '{data.unlabeled}' is a stream; name a folder or an indexed data set")
    for key in ("labels", "labeled_fraction", "unlabeled"):
        if getattr(data, key) is not None:
            raise DataError(
                f"data.{key} does not work with a stream, and '{train.name}' is one; leave it out or name an indexed "
                "data set"
            )
    names = agreed_names({"train": train, "validation": evaluation["validation"], "test": evaluation["test"]})
    sets = {key: _selection(source, names) for key, source in evaluation.items()}
    notes += _evaluation_class_notes(evaluation, names)
    if sets["validation"] is None:
        notes.append(
            "validation: none, because images cannot be held out of a stream; name a data set in data.validation"
        )
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
    """A digest of the class names and of the key and label of every training image, in order; 32 hex digits."""
    digest = blake2b("\n".join(names or ()).encode(), digest_size=16)
    if is_stream(train):
        digest.update(f"\0{train.name}\0{len(train)}".encode())
        return digest.hexdigest()
    for key in train.all_keys():
        # File names that are not valid UTF-8 contain surrogates.
        digest.update(f"\0{key}".encode(errors="surrogateescape"))
    digest.update(train.labels.astype("<i8").tobytes())  # little-endian, for the same digest on every machine
    return digest.hexdigest()
