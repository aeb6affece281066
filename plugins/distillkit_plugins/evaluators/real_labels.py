"""ReaL: the classes that people found in ImageNet's validation images when they looked again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distillkit import DataError

if TYPE_CHECKING:
    from distillkit.data.sources import Source, Stream

Acceptable: TypeAlias = Sequence[frozenset[int]]
"""For each image the classes that are right; none where people saw none of the classes."""


def read_real_labels(path: Path, images: Source | Stream, classes: int) -> Acceptable:
    """The acceptable classes of every image, in the order of `images`; the file has them in that of the file names.

    ImageNet's validation images are numbered in their names, so the order is the same whether they lie in folders or
    in one. Classes are the model's outputs, `classes` of them: ImageNet's, counted from 0.
    Raises: DataError for a file that is missing or of another form, of another number of images or of classes that the
        model lacks, or for a stream.
    Source: Beyer et al. 2020, arXiv:2006.07159; the file is `real.json` of the authors' repository.
    """
    key = getattr(images, "key", None)
    if key is None:
        raise DataError(f"ReaL labels go by file name and '{images.name}' is a stream; name a folder")
    listed = _read(path)
    if len(listed) != len(images):
        raise DataError(
            f"'{path}' has labels for {len(listed):,} images and '{images.name}' has {len(images):,}; "
            "give the whole validation set, or a file for these images"
        )
    beyond = max((label for labels in listed for label in labels), default=-1)
    if beyond >= classes:
        raise DataError(
            f"'{path}' speaks of class {beyond:,} and the model has the classes 0 to {classes - 1:,}; ReaL labels "
            "count ImageNet's classes, so give a model that answers in these"
        )
    by_name = sorted(range(len(images)), key=lambda index: key(index).rpartition("/")[2])
    acceptable: list[frozenset[int]] = [frozenset()] * len(listed)
    for index, labels in zip(by_name, listed, strict=True):
        acceptable[index] = frozenset(labels)
    return acceptable


def real_accuracy(predictions: Sequence[int], acceptable: Acceptable) -> dict[str, float]:
    """The share in percent of the images with an acceptable class for which one was predicted, and their number.

    Raises: DataError where no image has one.
    """
    judged = [(prediction, classes) for prediction, classes in zip(predictions, acceptable, strict=True) if classes]
    if not judged:
        raise DataError("the ReaL labels of these images are all empty, so there is nothing to measure; give others")
    right = sum(prediction in classes for prediction, classes in judged)
    return {"real_top1": 100 * right / len(judged), "real_images": float(len(judged))}


def _read(path: Path) -> list[list[int]]:
    if not path.is_file():
        raise DataError(f"there is no file of ReaL labels '{path}'; check --real")
    try:
        listed: Any = json.loads(path.read_text(encoding="utf-8"))
        is_sound = isinstance(listed, list) and all(
            isinstance(classes, list) and all(isinstance(label, int) for label in classes) for classes in listed
        )
    except (OSError, ValueError, RecursionError):
        is_sound = False
    if not is_sound:
        raise DataError(f"'{path}' is not a JSON list with a list of class numbers for every image; see --real")
    return listed  # type: ignore[no-any-return]
