"""ReaL labels: the reassessed, possibly multiple classes of ImageNet's validation images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distillkit import DataError

if TYPE_CHECKING:
    from distillkit.data.sources import Source, Stream

Acceptable: TypeAlias = Sequence[frozenset[int]]
"""The acceptable classes of each image; empty if the annotators saw none of the classes."""


def read_real_labels(path: Path, images: Source | Stream, classes: int) -> Acceptable:
    """Acceptable classes of every image, in the order of `images`; the file lists them in the order of file names.

    ImageNet's validation images are numbered in their file names, so this order does not depend on their folders.
    A class is an output of the model, which has `classes` outputs: ImageNet's classes, counted from 0.
    Raises: DataError for a file that is missing or malformed, has another number of images or classes unknown to the
        model, or for a stream.
    Source: Beyer et al. 2020, arXiv:2006.07159; the file is `real.json` of the authors' repository.
    """
    key = getattr(images, "key", None)
    if key is None:
        raise DataError(f"ReaL labels are matched by file name, and '{images.name}' is a stream; use a folder")
    listed = _read(path)
    if len(listed) != len(images):
        raise DataError(
            f"'{path}' has labels for {len(listed):,} images and '{images.name}' has {len(images):,}; "
            "give the complete validation set, or a file for these images"
        )
    beyond = max((label for labels in listed for label in labels), default=-1)
    if beyond >= classes:
        raise DataError(
            f"'{path}' contains class {beyond:,}, and the model has classes 0 to {classes - 1:,}; ReaL labels are for "
            "ImageNet's classes, so use a model with these"
        )
    by_name = sorted(range(len(images)), key=lambda index: key(index).rpartition("/")[2])
    acceptable: list[frozenset[int]] = [frozenset()] * len(listed)
    for index, labels in zip(by_name, listed, strict=True):
        acceptable[index] = frozenset(labels)
    return acceptable


def real_accuracy(predictions: Sequence[int], acceptable: Acceptable) -> dict[str, float]:
    """ReaL accuracy in percent, over the images that have an acceptable class, and their number.

    Raises: DataError if no image has one.
    """
    counted = [(prediction, classes) for prediction, classes in zip(predictions, acceptable, strict=True) if classes]
    if not counted:
        raise DataError("the ReaL labels of these images are all empty; check --real and --data")
    right = sum(prediction in classes for prediction, classes in counted)
    return {"real_top1": 100 * right / len(counted), "real_images": float(len(counted))}


def _read(path: Path) -> list[list[int]]:
    if not path.is_file():
        raise DataError(f"ReaL label file '{path}' does not exist; check --real")
    try:
        listed: Any = json.loads(path.read_text(encoding="utf-8"))
        is_valid = isinstance(listed, list) and all(
            isinstance(classes, list) and all(isinstance(label, int) for label in classes) for classes in listed
        )
    except (OSError, ValueError, RecursionError):
        is_valid = False
    if not is_valid:
        raise DataError(f"'{path}' is not a JSON list with one list of class numbers per image; see --real")
    return listed  # type: ignore[no-any-return]
