"""Labelled images in a folder, prepared as a bundle takes them, where there is neither torch nor a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.errors import DataError
from distillkit_export.image_files import image_files
from distillkit_export.pictures import Pictures
from distillkit_export.preprocess import prepare, read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit_export.bundle import InputCard

MEASURED = ("test", "val", "valid", "validation")
"""The parts of a split folder that were not trained on, in the order in which they are looked for."""


def labelled_pictures(folder: Path, card: InputCard, class_names: Sequence[str] | None, most: int | None) -> Pictures:
    """The images below `folder`, a folder per class, spread evenly; of a folder with `test/` inside the images there.

    Raises: DataError for a folder that is missing or has no images, or no folder of a class that the bundle knows.
    """
    if not folder.is_dir():
        raise DataError(f"folder '{folder}' does not exist; give a folder of images")
    root = next((folder / name for name in MEASURED if (folder / name).is_dir()), folder)
    files = image_files([str(root)])
    if most is not None and most < len(files):
        files = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, most).astype(np.int64))]
    known = {name: index for index, name in enumerate(class_names or ())}
    labels = np.array([known.get(file.relative_to(root).parts[0], -1) for file in files], np.int64)
    if known and not (labels >= 0).any():
        raise DataError(
            f"no folder in '{root}' is called like a class of the bundle ({', '.join(list(known)[:3])}, ...); "
            "give a folder per class"
        )
    pixels = _Files(tuple(files), card)
    return Pictures(pixels, f"images in {root.name}/", labels=labels if known else None)


@dataclass(frozen=True)
class _Files:
    """Image files that are read and prepared whenever they are asked for."""

    files: tuple[Path, ...]
    card: InputCard

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        color = self.card.color or "RGB"
        return np.stack([prepare(read_image(self.files[int(place)], color), self.card) for place in indices])
