"""Folders with images for evaluation only: val/ or test/, and no train/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillkit.data.image_folders import split_folder, split_of, subfolders
from distillkit.data.sources import Split
from distillkit.errors import DataError
from distillkit.storage.user_dirs import expanded


@dataclass(frozen=True)
class EvaluationSplit:
    """A split of a folder that has no training images, and the folder of its classes."""

    split: Split
    folder: Path


def has_no_training_split(root: Path) -> bool:
    """Whether all folders in `root` are splits with class folders, and none is the training split.

    Raises: DataError for a folder that cannot be listed.
    """
    splits = {name: split_of(name) for name in subfolders(root)}
    return bool(splits) and all(
        split not in (None, "train") and subfolders(root / name) for name, split in splits.items()
    )


def evaluation_split(data: str, split: Split | None) -> EvaluationSplit | None:
    """The split to measure of a folder that has no training images: test, else validation; None for other data.

    Raises: DataError if the folder does not have `split`.
    """
    root = expanded(data.removeprefix("folder:"))
    if not root.is_dir() or not has_no_training_split(root):
        return None
    found: dict[Split, Path] = {}
    for name in ("test", "validation"):
        folder = split_folder(root, name)
        if folder is not None:
            found[name] = folder
    chosen = split or next(iter(found))
    if chosen not in found:
        raise DataError(
            f"'{root}' has no {chosen} images, only {' and '.join(found)}; give --split {next(iter(found))}"
        )
    return EvaluationSplit(chosen, found[chosen])
