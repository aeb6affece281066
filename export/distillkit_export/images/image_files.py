"""Which image files the arguments of a command mean."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from distillkit.errors import DataError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Those of a folder of training images."""


def image_files(arguments: Sequence[str]) -> list[Path]:
    """Files as they are given, all images below folders, and what patterns match, in that order and sorted inside.

    Names that start with a dot are passed over in folders. A file is not opened, so it may be none.
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
            # Path.glob takes no absolute pattern.
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
