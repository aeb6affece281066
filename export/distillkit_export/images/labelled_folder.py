"""Labelled images in a folder, prepared as a bundle takes them, where there is neither torch nor a recipe."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.errors import DataError
from distillkit_export.bundle.preprocess import prepare, read_image
from distillkit_export.images.gate_images import Pictures
from distillkit_export.images.image_files import image_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit_export.bundle.manifest import InputCard

MEASURED = ("test", "val", "valid", "validation")
"""The parts of a split folder that were not trained on, in the order in which they are looked for."""

MOST_NAMED = 3


def labelled_pictures(folder: Path, card: InputCard, class_names: Sequence[str] | None, most: int | None) -> Pictures:
    """The images below `folder`, a folder per class, spread evenly; of a folder with `test/` inside the images there.

    Raises: DataError for a folder that is missing or has no images, or that holds images of other classes than the
    bundle's.
    """
    if not folder.is_dir():
        raise DataError(f"folder '{folder}' does not exist; give a folder of images")
    root = next((folder / name for name in MEASURED if (folder / name).is_dir()), folder)
    files = image_files([str(root)])
    known = {name: index for index, name in enumerate(class_names or ())}
    if known:
        _require_known(files, root, known)
    if most is not None and most < len(files):
        files = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, most).astype(np.int64))]
    labels = np.array([known[_class(file, root)] for file in files], np.int64) if known else None
    pixels = _Files(tuple(files), card)
    return Pictures(pixels, f"images in {root.name}/", labels=labels)


def _class(file: Path, root: Path) -> str:
    """The folder of an image, which is its class; an image in none has its own name."""
    return file.relative_to(root).parts[0]


def _require_known(files: Sequence[Path], root: Path, known: Collection[str]) -> None:
    """Refuse images whose class the bundle cannot answer, rather than count them as wrong.

    Raises: DataError.
    """
    found = {_class(file, root) for file in files}
    unknown = sorted(found.difference(known))
    some = f"({', '.join(list(known)[:MOST_NAMED])}, ...)"
    if len(unknown) == len(found):
        raise DataError(f"no folder in '{root}' is called like a class of the bundle {some}; give a folder per class")
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise DataError(
            f"'{root}' holds {', '.join(unknown[:MOST_NAMED])}{more}, which no class of the bundle is called "
            f"{some}; give a folder per class and nothing else"
        )


@dataclass(frozen=True)
class _Files:
    """Image files that are read and prepared at every access."""

    files: tuple[Path, ...]
    card: InputCard

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        color = self.card.color or "RGB"
        return np.stack([prepare(read_image(self.files[int(place)], color), self.card) for place in indices])
