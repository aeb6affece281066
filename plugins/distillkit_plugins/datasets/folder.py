"""Pictures in folders."""

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
    """A folder per class with pictures at any depth below (`cat/1.jpg`); class names are sorted.

    Pictures that lie outside a class folder have no label, so a flat folder is one without labels. A folder with
    `train/` inside is split: `val/`, `valid/` or `validation/`, and `test/` beside it are found where they exist.
    Names that start with a dot are passed over; links are followed. A class folder without a picture is no class; it is
    in `empty_classes`.
    Raises: DataError for what is missing, empty, not a folder, or a folder that may not be listed.
    """

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root
        self._keys = sorted(_pictures(root))
        if not self._keys:
            raise DataError(f"folder '{root}' has no pictures ({', '.join(_EXTENSIONS)})")
        classes = sorted({key.partition("/")[0] for key in self._keys if "/" in key})
        for name in classes:
            if not _is_text(name):
                raise DataError(
                    f"folder '{root}' has a class '{name}', whose name is not text in UTF-8; rename that folder"
                )
        self.class_names = tuple(classes) or None
        self.empty_classes = tuple(sorted(_folders(root) - set(classes))) if classes else ()
        self._labels = {name: label for label, name in enumerate(classes)}

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> Folder | None:
        root = _folder_of(argument or "")
        if not root.is_dir():
            hint = f"; for the pictures inside write timm:{argument}" if root.suffix == ".tar" else ""
            raise DataError(f"'{root}' is a file, not a folder of pictures{hint}")
        if _is_split(root):
            return next((cls(root / name) for name in _SPLITS[split] if (root / name).is_dir()), None)
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
    """What the user typed, where it is there.

    Raises: DataError.
    """
    try:
        root = Path(argument).expanduser()
        is_there = root.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long; a home of nobody
        raise DataError(f"'{argument[:200]}' is no folder ({error.__class__.__name__}); give the path of one") from None
    if not is_there:
        raise DataError(f"folder '{root}' does not exist")
    return root


def _is_text(name: str) -> bool:
    return name.encode(errors="replace") == name.encode(errors="surrogateescape")


def _pictures(root: Path) -> list[str]:
    """The pictures below a folder, as relative paths with forward slashes. A link to a folder above it is not followed.

    Raises: DataError for a folder that cannot be listed: its pictures would be missing without a word.
    """
    found: list[str] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        inside, above = waiting.pop()
        folder = root / inside
        try:
            status = folder.stat()
            this = status.st_dev, status.st_ino
            if this in above:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if _is_folder(entry):
                        waiting.append((name, above | {this}))
                    elif name.lower().endswith(_EXTENSIONS):
                        found.append(name)
        except OSError as error:
            raise DataError(f"folder '{folder}' cannot be listed: {error.strerror}") from error
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _folders(root: Path) -> set[str]:
    with os.scandir(root) as entries:
        return {entry.name for entry in entries if _is_folder(entry) and not entry.name.startswith(".")}


def _is_split(root: Path) -> bool:
    """Whether `train/` inside means the training part, and is not a class of pictures of trains."""
    if not (root / "train").is_dir():
        return False
    splits = {name for names in _SPLITS.values() for name in names}
    has_classes = any(child.is_dir() for child in (root / "train").iterdir())
    return has_classes or all(child.name in splits for child in root.iterdir() if child.is_dir())


def _is_training_folder(root: Path, data: Data) -> bool:
    """Whether `data.train` names this very folder, which then has nothing else to measure on."""
    train = Path((data.train or "").removeprefix("folder:")).expanduser()
    return data.train is not None and train.exists() and train.samefile(root)
