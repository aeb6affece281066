"""Folders of images: which files are images, which folders are splits, and which belong to other programs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distillkit.errors import DataError
from distillkit.messages.text import counted
from distillkit.storage.untrusted import open_plain

if TYPE_CHECKING:
    from distillkit.data.sources import Split

# Every extension of a format that Pillow decodes by itself. Written down, because the images of a folder must not
# depend on the version of Pillow or its plugins. Left out: eps and wmf, which need another program, and mpeg, grib and
# hdf, which Pillow identifies but does not decode.
_EXTENSIONS = """
    apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli ftc ftu gbr gif icb icns ico iim im j2c j2k jfif jp2 jpc
    jpe jpeg jpf jpg jpx mpo msp pbm pcd pcx pfm pgm png pnm ppm psd pxr qoi ras rgb rgba sgi tga tif tiff vda vst webp
    xbm xpm
"""
IMAGE_EXTENSIONS = frozenset(f".{name}" for name in _EXTENSIONS.split())

UNREAD_FORMATS = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JPEG XL"}
"""Formats of images that Pillow does not read by itself, by extension."""

NO_EXTENSION = "without extension"
"""Name in `ImageListing.left_out` of files without an extension."""

_EXTENSION = re.compile(r"\.(?=\d*[a-z])[a-z0-9]{1,8}$")
# The first bytes of the formats that are common without an extension, as in the cache of a browser.
_FIRST_BYTES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|....ftypavi[fs]|\0\0\0\x0cjP  "
    rb"|BM....\0\0\0\0",
    re.DOTALL,
)

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Names of the folders of a split, in any case, the preferred one first."""

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
_SHOWN_KINDS = 5


class ImageListing(NamedTuple):
    """The images below a folder, and the number of the other files by extension, the most frequent first."""

    images: list[str]
    left_out: dict[str, int]


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
    """The folder of a split in `root`, None without one; of several, the first in the order of SPLIT_NAMES.

    Names in `ignored` are not splits.
    """
    found = [name for name in subfolders(root) if split_of(name) == split and name not in ignored]
    names = SPLIT_NAMES[split]
    # Lower case before other cases, because earlier versions found no others.
    best = min(found, key=lambda name: (names.index(name.lower()), name != name.lower(), name), default=None)
    return None if best is None else root / best


def list_images(root: Path) -> ImageListing:
    """Images below a folder, sorted, as relative paths with forward slashes.

    An image has one of IMAGE_EXTENSIONS in any case, or no extension and the first bytes of an image. Symbolic links
    are followed, except a link to a parent folder. Hidden files and ignored folders are not counted.
    Raises: DataError for a folder that cannot be listed; skipping it would lose its images silently.
    """
    paths: list[str] = []
    left_out: Counter[str] = Counter()
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
                    elif _is_image(entry):
                        paths.append(name)
                    else:
                        left_out[_extension(entry.name) or NO_EXTENSION] += 1
        except OSError as error:
            raise DataError(f"folder '{folder}' cannot be listed: {error.strerror}") from error
    return ImageListing(sorted(paths), dict(left_out.most_common()))


def no_images(root: Path, left_out: Mapping[str, int]) -> str:
    """The sentence for a folder without images."""
    others = shown_left_out(left_out)
    return f"folder '{root}' contains no images that Pillow reads{f', only {others}' if others else ''}"


def require_image_file(path: Path) -> None:
    """Raise DataError where there is no file at a path that the user gave."""
    if not path.exists():
        raise DataError(f"there is no image '{path}'; check the path")
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; name the images in it, such as {path / '*.png'}")


def shown_left_out(left_out: Mapping[str, int]) -> str:
    """The files that are not read as images, in words; empty without any.

    >>> shown_left_out({".txt": 2, ".csv": 1})
    '3 files that are not images (2 .txt, 1 .csv)'
    >>> shown_left_out({".heic": 2, ".txt": 1})
    '2 HEIF images (2 .heic), which Pillow cannot read: convert them to JPEG; 1 file that is not an image (1 .txt)'
    """
    parts = []
    for name in sorted({UNREAD_FORMATS[extension] for extension in left_out if extension in UNREAD_FORMATS}):
        unread = {extension: count for extension, count in left_out.items() if UNREAD_FORMATS.get(extension) == name}
        images, them = counted(sum(unread.values()), f"{name} image"), "it" if sum(unread.values()) == 1 else "them"
        parts.append(f"{images} ({_kinds(unread)}), which Pillow cannot read: convert {them} to JPEG")
    others = {extension: count for extension, count in left_out.items() if extension not in UNREAD_FORMATS}
    if others:
        files = sum(others.values())
        are = "file that is not an image" if files == 1 else "files that are not images"
        parts.append(f"{files:,} {are} ({_kinds(others)})")
    return "; ".join(parts)


def _kinds(counts: Mapping[str, int]) -> str:
    kinds = [f"{count:,} {extension}" for extension, count in counts.items()]
    more = [f"{len(kinds) - _SHOWN_KINDS:,} more kinds"] if len(kinds) > _SHOWN_KINDS else []
    return ", ".join([*kinds[:_SHOWN_KINDS], *more])


def wrong_root(root: Path, keys: Iterable[str]) -> str | None:
    """Why the folders in `root` are not classes, and the folder to give instead; None if they may be classes.

    `keys` are the images as relative paths. The folders are not classes if none has an image itself and they have the
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


def _is_image(entry: os.DirEntry[str]) -> bool:
    extension = _extension(entry.name)
    if extension:
        return extension in IMAGE_EXTENSIONS
    try:
        with open_plain(Path(entry.path)) as file:
            return _FIRST_BYTES.match(file.read(16)) is not None
    except (OSError, ValueError):
        return False


def _extension(name: str) -> str:
    """The extension in lower case; empty for a name without one, or with a number in its place, such as "img.01"."""
    found = _EXTENSION.search(name.lower())
    return found.group() if found else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
