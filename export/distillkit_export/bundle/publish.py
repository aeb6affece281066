"""Atomic creation of a bundle's folder: it appears complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distillkit.errors import GateError, RunDirectoryError
from distillkit.storage.atomic import atomic_directory
from distillkit_export.bundle.manifest import MANIFEST, REJECTED


def require_free(target: Path, *, force: bool) -> None:
    """Refuse a non-empty folder, unless it is an earlier export and `force` is given.

    A folder that only contains `rejected/` counts as empty.
    Raises: RunDirectoryError with what to do.
    """
    if target.exists() and not target.is_dir():
        raise RunDirectoryError(f"'{target}' is a file; give a folder for the export")
    if not target.exists() or {entry.name for entry in target.iterdir()} <= {REJECTED}:
        return
    if not (target / MANIFEST).is_file():
        raise RunDirectoryError(f"folder '{target}' is not empty and is not an export; give another folder")
    if not force:
        raise RunDirectoryError(
            f"folder '{target}' already contains an export; give another folder, or --force to replace it"
        )


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Context manager with a temporary folder to build in, which is renamed to `target` at the end.

    After a GateError the built files are kept in `target/rejected/`, and an earlier export in `target` stays. After any
    other error nothing is left.
    """
    # Resolved, because the temporary folder is a sibling of `target`, and "." has no name to derive its name from.
    with atomic_directory(target.resolve()) as building:
        try:
            yield building
        except GateError as error:
            with atomic_directory(target / REJECTED) as rejected:
                for entry in building.iterdir():
                    entry.rename(rejected / entry.name)
            raise GateError(f"{error}; the files are kept in '{target / REJECTED}'") from error
