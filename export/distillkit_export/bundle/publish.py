"""Atomic creation of a bundle's folder: it appears complete or not at all, and has one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distillkit.errors import GateError, RunDirectoryError
from distillkit.running.system_faults import causes, is_disk_full
from distillkit.storage.atomic_directory import Place, atomic_directory, replacing, reserved
from distillkit.storage.links import LinkError, require_own
from distillkit.storage.lock import LockedError
from distillkit.storage.places import reason
from distillkit_export.bundle.contents import is_empty, other_files, readable_manifest
from distillkit_export.bundle.manifest import MANIFEST, REJECTED

SHOWN = 3
"""Names in a message."""


def require_free(target: Path, *, force: bool) -> None:
    """Refuse a non-empty folder, unless it is an earlier export and `force` is given.

    A folder that only contains the `rejected/` of an export counts as empty. With `force` too, a folder with any file
    that no export wrote is refused, because replacing the folder would delete the file.
    Raises: RunDirectoryError with what to do.
    """
    if target.exists() and not target.is_dir():
        raise RunDirectoryError(f"'{target}' is a file; give a folder for the export")
    if not target.exists() or is_empty(target):
        return
    manifest, why = readable_manifest(target)
    others = other_files(target, manifest)
    if manifest is None and not others:
        return
    if manifest is None:
        if why:
            raise RunDirectoryError(
                f"folder '{target}' is not empty, and which of its files an export wrote is unknown: {why}; restore "
                f"its {MANIFEST}, or give another folder"
            )
        if (target / MANIFEST).exists():
            raise RunDirectoryError(
                f"folder '{target}' is not empty, and its {MANIFEST} is not that of an export; give another folder"
            )
        raise RunDirectoryError(f"folder '{target}' is not empty and is not an export; give another folder")
    if not force:
        raise RunDirectoryError(
            f"folder '{target}' already contains an export; give another folder, or --force to replace it"
        )
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise RunDirectoryError(
            f"--force replaces only what an export wrote, and folder '{target}' also has "
            f"{', '.join(others[:SHOWN])}{more}; move that away, or give another folder"
        )


def unlinked(folder: Path) -> Path:
    """`folder`, which an export writes to inside a run or bundle, unless it is a link. Raises: RunDirectoryError."""
    try:
        return require_own(folder)
    except LinkError as error:
        raise RunDirectoryError(error.sentence()) from None


@contextmanager
def reserved_folder(target: Path, *, force: bool) -> Iterator[Place]:
    """Lock the folder of an export, after checking that it is free and can be written to.

    Raises: RunDirectoryError, also if another process is writing the folder.
    """
    with ExitStack() as stack:
        try:
            require_free(target, force=force)
            place = stack.enter_context(locked_folder(target))
            require_free(target, force=force)  # again: another process may have finished in between
        except OSError as error:
            raise _not_writable(target, error) from error
        yield place


@contextmanager
def locked_folder(target: Path) -> Iterator[Place]:
    """Lock the folder of a bundle, which need not exist.

    Raises: RunDirectoryError if it cannot be written to, or if another process is writing it.
    """
    with ExitStack() as stack:
        try:
            # Resolved, because work folders have names derived from the folder's, and "." has none.
            place = stack.enter_context(reserved(target.resolve()))
        except LockedError as error:
            raise RunDirectoryError(
                f"{error.holder} is writing an export to '{target}'; wait until it ends, or give another folder"
            ) from None
        except OSError as error:
            raise _not_writable(target, error) from error
        yield place


@contextmanager
def published(target: Path, place: Place, *, force: bool) -> Iterator[Path]:
    """Context manager with a temporary folder to build in, which becomes `target` at the end.

    After a GateError the built files are kept in `target/rejected/`, and an earlier export in `target` stays. After any
    other error nothing is left.
    Raises: RunDirectoryError for a full disk, and for files that appeared in `target` in the meantime.
    """
    with building_in(place) as building:
        try:
            yield building
            require_free(target, force=force)
        except GateError as error:
            with atomic_directory(place.final / REJECTED) as rejected:
                for entry in building.iterdir():
                    entry.rename(rejected / entry.name)
            raise GateError(f"{error}; the files are kept in '{target / REJECTED}'") from error


@contextmanager
def building_in(place: Place) -> Iterator[Path]:
    """A temporary folder that replaces the bundle of a locked folder at the end; an error deletes it.

    Raises: RunDirectoryError for a full disk.
    """
    try:
        with replacing(place, last=MANIFEST) as building:
            yield building
    except Exception as error:
        if any(map(is_disk_full, causes(error))):  # an exporter's error is its plugin's, caused by the system's
            raise RunDirectoryError(
                f"no space left for the export in '{place.base}'; free some space, or give another folder"
            ) from error
        raise


def _not_writable(target: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(f"cannot write to folder '{target}' ({reason(target, error)}); give another folder")
