"""Folders of images: which files are images, which folders are splits, and which belong to other programs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.errors import DataError

if TYPE_CHECKING:
    from distillkit.data.sources import Split

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Names of the folders of a split, in any case."""

_FOREIGN = frozenset(
    {
        "@eadir",  # thumbnails of a Synology NAS
        "#recycle",
        "@recycle",  # QNAP
        "#snapshot",
        "__macosx",  # archives made on a Mac
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
    }
)
_SHOWN = 3


def is_ignored(name: str) -> bool:
    """Whether a folder is hidden or belongs to another program, such as `@eaDir` or `__MACOSX`."""
    return name.startswith(".") or name.lower() in _FOREIGN


def subfolders(root: Path) -> set[str]:
    """Names of the folders in a folder, without the ignored ones.

    Raises: DataError for a folder that cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            return {entry.name for entry in entries if _is_folder(entry) and not is_ignored(entry.name)}
    except OSError as error:
        raise DataError(f"folder '{root}' cannot be listed: {error.strerror}") from error


def split_of(name: str) -> Split | None:
    """The split that a folder's name means, in any case; None for another name."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def split_folder(root: Path, split: Split, *, ignored: Collection[str] = ()) -> Path | None:
    """The folder of a split in `root`, None without one. Names in `ignored` are not splits.

    Raises: DataError if there are several.
    """
    found = sorted(name for name in subfolders(root) if split_of(name) == split and name not in ignored)
    if len(found) > 1:
        raise DataError(f"folder '{root}' has several folders of {split} images ({', '.join(found)}); keep one of them")
    return root / found[0] if found else None


def list_images(root: Path) -> list[str]:
    """Images below a folder, sorted, as relative paths with forward slashes.

    Symbolic links are followed, except a link to a parent folder. Hidden files and ignored folders are left out.
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
                    name = f"{relative}/{entry.name}" if relative else entry.name
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        pending += [] if is_ignored(entry.name) else [(name, parents | {this})]
                    elif name.lower().endswith(EXTENSIONS):
                        paths.append(name)
        except OSError as error:
            raise DataError(f"folder '{folder}' cannot be listed: {error.strerror}") from error
    return sorted(paths)


def wrong_root(root: Path, keys: Iterable[str]) -> str | None:
    """Why the folders in `root` are no classes, and the folder to give instead; None if they may be classes.

    `keys` are the images as relative paths. The folders are no classes if none has an image itself and they have the
    same sub-folders, two or more, as in `root/fold1/cat` and `root/fold2/cat`; or if a single one has several. One
    shared sub-folder is no sign: in some data sets every class has its images in `images/`.
    """
    inside = _folders_inside(keys)
    if len(inside) == 1:
        return _wrong_single_folder(root, keys)
    shared = set.intersection(*inside.values()) if inside else set()
    if len(shared) < 2 or 2 * len(shared) < len(set.union(*inside.values())):
        return None
    names = sorted(inside)
    return (
        f"every folder in '{root}' ({_listed(names)}) has no image, only folders ({_listed(sorted(shared))}), so they "
        f"are not classes; give one of them, such as '{root / names[0]}', name the folder of training images 'train', "
        "or, if they are classes, move the images of each into it"
    )


def _wrong_single_folder(root: Path, keys: Iterable[str]) -> str | None:
    """`wrong_root` for the images of a single folder, which is followed down to the first one with several folders."""
    given, folder, inside = root, root, _folders_inside(keys)
    while len(inside) == 1:
        ((name, folders),) = inside.items()
        folder = folder / name
        if len(folders) > 1 or any(split_of(each) == "train" for each in folders):
            return (
                f"the only folder in '{given}', '{folder.relative_to(given)}', has no image, only folders "
                f"({_listed(sorted(folders))}), so it is not a class; give '{folder}'"
            )
        keys = [key.partition("/")[2] for key in keys]
        inside = _folders_inside(keys)
    return None


def _folders_inside(keys: Iterable[str]) -> dict[str, set[str]]:
    """The folders in each folder of a root; empty if a folder has an image itself. Images in the root do not count."""
    inside: dict[str, set[str]] = {}
    for key in keys:
        folder, *rest = key.split("/")
        if len(rest) == 1:
            return {}
        if rest:
            inside.setdefault(folder, set()).add(rest[0])
    return inside


def _listed(names: list[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
