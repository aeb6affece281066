"""Copy a bundle to the folder that replaces it: the files of the manifest are copied, all others are moved along."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.errors import BundleError
from distillkit.messages.text import one_line
from distillkit.storage.atomic import replaced
from distillkit.storage.atomic_directory import Place, is_not_content
from distillkit.storage.links import is_link
from distillkit.storage.untrusted import CHUNK, LARGEST_TEXT, open_plain
from distillkit_export.bundle.manifest import MANIFEST

if TYPE_CHECKING:
    from distillkit_export.bundle.manifest import Bundle

PERMISSIONS = 0o777


def copy_bundle(place: Place, building: Path, bundle: Bundle) -> set[Path]:
    """Copy the bundle in `place` to `building`; returns the files there that are not part of the bundle.

    Files that the manifest lists are copied, up to the size that it gives, or that of a text if it is changed. Other
    regular files get a second name in `building`, so that no byte of them is read; links stay links. Pipes, sockets and
    devices are left out.
    Raises: BundleError for a file that cannot be copied.
    """
    foreign = set()
    for path in _entries(place):
        name = path.relative_to(place.final).as_posix()
        target, status = building / name, path.lstat()
        card = bundle.files.get(name)
        try:
            if stat.S_ISDIR(status.st_mode):
                target.mkdir()
            elif is_link(path):
                target.symlink_to(path.readlink(), target_is_directory=path.is_dir())
            elif stat.S_ISREG(status.st_mode):
                largest = max(card.bytes, LARGEST_TEXT) if card else LARGEST_TEXT
                if name != MANIFEST and (card is None or status.st_size > largest):
                    _name_again(path, target, largest)
                else:
                    _copy(path, target, largest)
                    continue
            else:
                continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            raise BundleError(f"{name} of bundle '{place.final}' cannot be copied ({reason}); move it away") from error
        foreign.add(target)
    return foreign


def _entries(place: Place) -> Iterator[Path]:
    """Files, links and folders, each folder before its entries; without locks and work folders. Follows no link."""
    for path, folders, files in os.walk(place.final):
        if Path(path) == place.final:
            for names in (folders, files):
                names[:] = [name for name in names if not is_not_content(place.final, name)]
        yield from (Path(path) / name for name in (*folders, *files))


def _name_again(path: Path, target: Path, largest: int) -> None:
    """Give a file a second name; where the file system has no hard links, copy it. Raises: OSError, ValueError."""
    try:
        os.link(path, target)
    except OSError:
        _copy(path, target, largest)


def _copy(path: Path, target: Path, largest: int) -> None:
    """Copy a regular file of at most `largest` bytes, also if it grows meanwhile. Raises: OSError, ValueError."""
    left = largest
    with open_plain(path) as source, replaced(target) as copy:
        while part := source.read(min(CHUNK, left + 1)):
            left -= len(part)
            if left < 0:
                raise ValueError(f"it has more than {largest:,} bytes")
            copy.write(part)
        mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode) & PERMISSIONS
    target.chmod(mode)
