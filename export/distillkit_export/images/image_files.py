"""Image files named by command-line arguments: files, folders and glob patterns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from distillkit.errors import DataError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The extensions of a folder of training images."""


def image_files(arguments: Sequence[str]) -> list[Path]:
    """Image files of the arguments: files as given, all images below folders, and matches of patterns.

    The order is that of the arguments; files of a folder or pattern are sorted. In folders, names that start with a dot
    are skipped. Files are not opened, so they may be missing or not be images.
    Raises: DataError for a folder or pattern without images.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            inside = _below(path)
            if not inside:
                raise DataError(f"folder '{argument}' has no images ({', '.join(EXTENSIONS)})")
            found += inside
        elif has_magic(argument) and not path.exists():
            # Path.glob accepts no absolute pattern.
            matches = map(Path, glob(str(path), recursive=True))  # noqa: PTH207
            matched = sorted(match for match in matches if match.is_file())
            if not matched:
                raise DataError(f"no file matches '{argument}'")
            found += matched
        else:
            found.append(path)
    return found


def _below(root: Path) -> list[Path]:
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith("."))
        found += [Path(folder) / name for name in names]
    return found
