"""Image files named by command-line arguments: files, folders and glob patterns."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from distillkit.data.image_folders import EXTENSIONS, list_images
from distillkit.errors import DataError


def image_files(arguments: Sequence[str]) -> list[Path]:
    """Image files of the arguments: files as given, all images below folders, and matches of patterns.

    The order is that of the arguments; files of a folder or pattern are sorted. The images of a folder are those of a
    training folder. Files are not opened, so they may be missing or not be images.
    Raises: DataError for a folder or pattern without images.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            inside = list_images(path)
            if not inside:
                raise DataError(f"folder '{argument}' has no images ({', '.join(EXTENSIONS)})")
            found += [path / name for name in inside]
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
