"""Labelled images of a folder, preprocessed for a bundle, without torch and without a recipe."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.contracts.decoding import Decoding
from distillkit.data.given_image import read_image
from distillkit.data.image_folders import split_folder
from distillkit.errors import DataError
from distillkit_export.bundle.preprocess import prepare
from distillkit_export.images.gate_images import ImageSet
from distillkit_export.images.image_files import image_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit_export.bundle.manifest import InputCard

MOST_NAMED = 3


def labelled_images(folder: Path, card: InputCard, class_names: Sequence[str] | None, most: int | None) -> ImageSet:
    """Up to `most` evenly spaced images below `folder`, which has a folder per class, or of its `test/` or `val/`.

    Raises: DataError for a folder that is missing or has no images, or for classes that the bundle does not have.
    """
    if not folder.is_dir():
        raise DataError(f"folder '{folder}' does not exist; give a folder of images")
    known = {name: index for index, name in enumerate(class_names or ())}
    # A class may have the name of a split.
    root = split_folder(folder, "test", ignored=known) or split_folder(folder, "validation", ignored=known) or folder
    files = image_files([str(root)]).paths
    if known:
        _require_known(files, root, known)
    if most is not None and most < len(files):
        files = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, most).astype(np.int64))]
    labels = np.array([known[_class(file, root)] for file in files], np.int64) if known else None
    pixels = _Files(tuple(files), card)
    return ImageSet(pixels, f"images in {root.name}/", labels=labels)


def _class(file: Path, root: Path) -> str:
    """The class of an image: the name of its folder. For an image directly in `root` it is the file name."""
    return file.relative_to(root).parts[0]


def _require_known(files: Sequence[Path], root: Path, known: Collection[str]) -> None:
    """Refuse images of classes that the bundle does not have, instead of counting them as wrong.

    Raises: DataError.
    """
    found = {_class(file, root) for file in files}
    unknown = sorted(found.difference(known))
    some = f"({', '.join(list(known)[:MOST_NAMED])}, ...)"
    if len(unknown) == len(found):
        raise DataError(f"no folder in '{root}' has the name of a class of the bundle {some}; give a folder per class")
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise DataError(
            f"'{root}' contains {', '.join(unknown[:MOST_NAMED])}{more}, not among the classes of the bundle "
            f"{some}; give a folder per class and nothing else"
        )


@dataclass(frozen=True)
class _Files:
    """Image files, read and preprocessed at every access."""

    files: tuple[Path, ...]
    card: InputCard

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        color = self.card.color or "RGB"
        read = (read_image(self.files[int(place)], color, Decoding.of(self.card)) for place in indices)
        images = [prepare(image, self.card) for image in read]
        return np.stack(images)  # [B, C, H, W], or [B, H, W, C] for a file that normalises
