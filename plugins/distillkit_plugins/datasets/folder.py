"""`folder`: images in one folder per class, or unlabelled images in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit import DataError
from distillkit.data import open_rgb

if TYPE_CHECKING:
    from PIL import Image

    from distillkit.data.sources import Split
    from distillkit.recipe.schema import Data

_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}


class Folder:
    """One folder per class, with images at any depth below (`cat/1.jpg`); class names are sorted.

    Images outside a class folder have no label, so a flat folder is an unlabelled data set. If the folder contains
    `train/`, the splits are `train/`, `val/` (or `valid/`, `validation/`) and `test/`, as far as they exist. Names that
    start with a dot are ignored; symbolic links are followed. A class folder without images is not a class; it is
    listed in `empty_classes`.
    Raises: DataError if the folder is missing, empty, not a folder, or not readable.
    """

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root
        self._keys = sorted(_image_paths(root))
        if not self._keys:
            raise DataError(f"folder '{root}' contains no images ({', '.join(_EXTENSIONS)})")
        classes = sorted({key.partition("/")[0] for key in self._keys if "/" in key})
        for name in classes:
            if not _is_text(name):
                raise DataError(f"folder '{root}' has a class folder '{name}' whose name is not valid UTF-8; rename it")
        self.class_names = tuple(classes) or None
        self.empty_classes = tuple(sorted(_folders(root) - set(classes))) if classes else ()
        self._labels = {name: label for label, name in enumerate(classes)}

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> Folder | None:
        root = _folder_of(argument or "")
        if not root.is_dir():
            hint = f"; to read the images in it, use timm:{argument}" if root.suffix == ".tar" else ""
            raise DataError(f"'{root}' is a file, not a folder of images{hint}")
        if _is_split(root):
            return next((cls(root / name) for name in _SPLITS[split] if (root / name).is_dir()), None)
        # The same images must not be used for training and evaluation.
        if split != "train" and _is_training_folder(root, data):
            return None
        return cls(root)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        return self._keys[index]

    def label(self, index: int) -> int | None:
        folder, slash, _ = self._keys[index].partition("/")
        return self._labels[folder] if slash else None

    def image(self, index: int) -> Image.Image:
        return open_rgb(self._root / self._keys[index])


def _folder_of(argument: str) -> Path:
    """The existing path that the user gave.

    Raises: DataError if it does not exist.
    """
    try:
        root = Path(argument).expanduser()
        exists = root.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long; ~user of an unknown user
        raise DataError(
            f"'{argument[:200]}' is not a folder ({error.__class__.__name__}); give the path of one"
        ) from None
    if not exists:
        raise DataError(f"folder '{root}' does not exist")
    return root


def _is_text(name: str) -> bool:
    # Python decodes bytes of a file name that are not UTF-8 to surrogates, which cannot be encoded as UTF-8.
    return name.encode(errors="replace") == name.encode(errors="surrogateescape")


def _image_paths(root: Path) -> list[str]:
    """Images below a folder, as relative paths with forward slashes. A link to a parent folder is not followed.

    Raises: DataError for a folder that cannot be listed; skipping it would lose its images silently.
    """
    paths: list[str] = []
    # Each folder with the (device, inode) of its parents, which detects links that form a cycle.
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        relative, parents = pending.pop()
        folder = root / relative
        try:
            status = folder.stat()
            this = status.st_dev, status.st_ino
            if this in parents:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = f"{relative}/{entry.name}" if relative else entry.name
                    if _is_folder(entry):
                        pending.append((name, parents | {this}))
                    elif name.lower().endswith(_EXTENSIONS):
                        paths.append(name)
        except OSError as error:
            raise DataError(f"folder '{folder}' cannot be listed: {error.strerror}") from error
    return paths


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _folders(root: Path) -> set[str]:
    with os.scandir(root) as entries:
        return {entry.name for entry in entries if _is_folder(entry) and not entry.name.startswith(".")}


def _is_split(root: Path) -> bool:
    """Whether `train/` inside is the training split, and not a class of images of trains."""
    if not (root / "train").is_dir():
        return False
    splits = {name for names in _SPLITS.values() for name in names}
    has_classes = any(child.is_dir() for child in (root / "train").iterdir())
    return has_classes or all(child.name in splits for child in root.iterdir() if child.is_dir())


def _is_training_folder(root: Path, data: Data) -> bool:
    """Whether `data.train` is this same folder, which then has no images left for evaluation."""
    train = Path((data.train or "").removeprefix("folder:")).expanduser()
    return data.train is not None and train.exists() and train.samefile(root)
