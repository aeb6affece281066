"""Image files named by command-line arguments: files, folders and glob patterns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from distillkit.data.image_folders import list_images, no_images
from distillkit.errors import DataError
from distillkit.storage.user_dirs import expanded


@dataclass(frozen=True)
class FoundFiles:
    """Image files, and the number of other files in the folders by extension."""

    paths: list[Path]
    left_out: dict[str, int]


def image_files(arguments: Sequence[str]) -> FoundFiles:
    """Image files of the arguments: files as given, all images below folders, and matches of patterns.

    The order is that of the arguments; files of a folder or pattern are sorted. The images of a folder are those of a
    training folder. Files are not decoded, so they may be missing or not be images.
    Raises: DataError for a folder or pattern without images, a URL, or "-".
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for argument in arguments:
        _require_path(argument)
        path = expanded(argument)
        if path.is_dir():
            inside = list_images(path)
            if not inside.images:
                raise DataError(no_images(path, inside.left_out))
            found += [path / name for name in inside.images]
            left_out += Counter(inside.left_out)
        elif has_magic(argument) and not path.exists():
            # Path.glob accepts no absolute pattern.
            matches = map(Path, glob(str(path), recursive=True))  # noqa: PTH207
            matched = sorted(match for match in matches if match.is_file())
            if not matched:
                raise DataError(f"no file matches '{argument}'")
            found += matched
        else:
            found.append(path)
    return FoundFiles(found, dict(left_out.most_common()))


def _require_path(argument: str) -> None:
    """Refuse what other commands accept in place of a file. Raises: DataError."""
    if argument == "-":
        raise DataError("images are not read from stdin; save the image to a file and give its path")
    if "://" in argument:
        raise DataError(f"'{argument}' is a URL, and images are read from files; download it and give its path")
