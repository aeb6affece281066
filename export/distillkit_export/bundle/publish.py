"""The folder of a bundle: it appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distillkit.errors import GateError, RunDirectoryError
from distillkit.storage.atomic import atomic_directory
from distillkit_export.bundle.manifest import MANIFEST, REJECTED


def require_free(target: Path, *, force: bool) -> None:
    """Refuse a folder that holds something, unless that is an earlier export and `force` is given.

    What an earlier export left in `rejected/` alone does not count.
    Raises: RunDirectoryError naming the way out.
    """
    if target.exists() and not target.is_dir():
        raise RunDirectoryError(f"'{target}' is a file; give a folder for the export")
    if not target.exists() or {entry.name for entry in target.iterdir()} <= {REJECTED}:
        return
    if not (target / MANIFEST).is_file():
        raise RunDirectoryError(f"folder '{target}' is not empty and holds no export; give another for the export")
    if not force:
        raise RunDirectoryError(f"folder '{target}' holds an export already; give another, or --force to replace it")


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `target` at the end.

    After a GateError what was built is kept in `target/rejected/` and an earlier export in `target` stays; after any
    other error nothing is left.
    """
    # Resolved, since "." has no name to put a neighbour beside.
    with atomic_directory(target.resolve()) as building:
        try:
            yield building
        except GateError as error:
            with atomic_directory(target / REJECTED) as rejected:
                for entry in building.iterdir():
                    entry.rename(rejected / entry.name)
            raise GateError(f"{error}; what was built is kept in '{target / REJECTED}'") from error
