"""`folder`: images in one folder per class, or unlabelled images in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distillkit import DataError
from distillkit.data import (
    AS_STORED,
    SPLIT_NAMES,
    Decoding,
    expanded,
    has_no_training_split,
    list_images,
    no_images,
    open_rgb,
    split_folder,
    split_of,
    subfolders,
    wrong_root,
)

if TYPE_CHECKING:
    from PIL import Image

    from distillkit.data.sources import Split
    from distillkit.recipe.image_tables import Data


class Folder:
    """One folder per class, with images at any depth below (`cat/1.jpg`); class names are sorted.

    Images outside a class folder have no label, so a flat folder is an unlabelled data set. If the folder contains
    `train/` (or `training/`), the splits are `train/`, `val/` (or `valid/`, `validation/`, `dev/`, `eval/`,
    `evaluation/`) and `test/` (or `testing/`), in any case and as far as they exist; without `train/` they are for
    evaluation only. Names that start with a dot and folders of other programs (`@eaDir`, `__MACOSX`, `lost+found`) are
    ignored; symbolic links are followed. A class folder without images is not a class; it is listed in `empty_classes`.
    Images are the files that Pillow reads, see `distillkit.data.list_images`; the others are counted by extension in
    `left_out`. `unread` are the folders next to the splits that are not read. `wrong_root` is the reason why the
    folders are not classes, None if they may be.
    Raises: DataError if the folder is missing, empty, not a folder, or not readable.
    """

    def __init__(self, root: Path, unread: tuple[str, ...] = (), decoding: Decoding = AS_STORED) -> None:
        self.name = str(root)
        self._decoding = decoding
        self.unread = unread
        self._root = root
        self._keys, self.left_out = list_images(root)
        if not self._keys:
            expected = "expected DIR/class/image.jpg, or DIR/image.jpg without labels"
            raise DataError(f"{no_images(root, self.left_out)}; {expected}; check the path")
        classes = sorted({key.partition("/")[0] for key in self._keys if "/" in key})
        for name in classes:
            if not _is_text(name):
                raise DataError(f"folder '{root}' has a class folder '{name}' whose name is not valid UTF-8; rename it")
        self.class_names = tuple(classes) or None
        self.empty_classes = tuple(sorted(subfolders(root) - set(classes))) if classes else ()
        self.wrong_root = wrong_root(root, self._keys)
        self._labels = {name: label for label, name in enumerate(classes)}

    @classmethod
    def open(cls, argument: str | None, data: Data, split: Split) -> Folder | None:
        root = _folder_of(argument or "")
        if not root.is_dir():
            hint = f"; to read the images in it, use timm:{argument}" if root.suffix == ".tar" else ""
            raise DataError(f"'{root}' is a file, not a folder of images{hint}")
        decoding = Decoding.of(data)
        train = split_folder(root, "train")
        if train is not None and _is_split(root, train):
            chosen = split_folder(root, split)
            unread = _unread(root) if split == "train" else ()
            return None if chosen is None else cls(chosen, unread, decoding)
        # Without train/ a folder with splits alone has images for evaluation only.
        if split != "train" and has_no_training_split(root):
            chosen = split_folder(root, split)
            return None if chosen is None else cls(chosen, decoding=decoding)
        # The same images must not be used for training and evaluation.
        if split != "train" and _is_training_folder(root, data):
            return None
        return cls(root, decoding=decoding)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        return self._keys[index]

    def label(self, index: int) -> int | None:
        folder, slash, _ = self._keys[index].partition("/")
        return self._labels[folder] if slash else None

    def file_size(self, index: int) -> int:
        """Bytes of an image file; a target bank notices by it that a file was replaced."""
        return self.file(index).stat().st_size

    def file(self, index: int) -> Path:
        """The file of an image."""
        return self._root / self._keys[index]

    def image(self, index: int) -> Image.Image:
        return open_rgb(self.file(index), self._decoding)


def _folder_of(argument: str) -> Path:
    """The existing path that the user gave.

    Raises: DataError if it does not exist.
    """
    try:
        root = expanded(argument)
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


def _is_split(root: Path, train: Path) -> bool:
    """Whether the folder `train` inside is the training split, and not a class of images of trains."""
    return bool(subfolders(train)) or all(split_of(name) for name in subfolders(root))


def _unread(root: Path) -> tuple[str, ...]:
    """Folders next to the splits that are not splits, or are passed over because another one is preferred."""
    splits = {split_folder(root, split) for split in SPLIT_NAMES}
    return tuple(sorted(name for name in subfolders(root) if root / name not in splits))


def _is_training_folder(root: Path, data: Data) -> bool:
    """Whether `data.train` is this same folder, which then has no images left for evaluation."""
    train = expanded((data.train or "").removeprefix("folder:"))
    return data.train is not None and train.exists() and train.samefile(root)
