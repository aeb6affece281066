"""Which files of a folder an export wrote: those that may be replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from distillkit.errors import BundleError
from distillkit.storage.atomic_directory import is_not_content
from distillkit.storage.untrusted import read_json
from distillkit_export.bundle.manifest import MANIFEST, PARITY, PROFILE, REJECTED
from distillkit_export.bundle.reader import read_manifest

if TYPE_CHECKING:
    from distillkit_export.bundle.manifest import Bundle

EXPORT_FILES = ("model.onnx", PARITY, "parity.md", "samples.npz", "predict.py")
"""Names of the files that an export writes in any format and precision, besides `bundle.json`."""
PROFILE_FILES = ("profile.json", "profile.md", "best.json", "latency.png", "throughput.png", "accuracy.png")
"""Names of the files that `distillkit profile` writes."""


def readable_manifest(folder: Path) -> tuple[Bundle | None, str]:
    """The manifest of an export; else None, and why there is a manifest that cannot be read, without a remedy."""
    try:
        return read_manifest(folder), ""
    except BundleError as error:
        # A file of that name that another program wrote is valid JSON, too.
        if not os.path.lexists(folder / MANIFEST) or isinstance(error.__cause__, ValidationError):
            return None, ""
        return None, str(error).rpartition("; ")[0]


def is_empty(folder: Path) -> bool:
    """Whether a folder is empty, except for locks, work folders and the `lost+found` of a volume."""
    return not any(_own_entries(folder))


def other_files(folder: Path, manifest: Bundle | None) -> list[str]:
    """Files and empty folders that no export wrote, by relative path, sorted.

    An export wrote the manifest and the files that it lists, the files in `rejected/` that a gate's report lists, and
    those in `profile/` with the name of a file of a profile.
    """
    ours = set() if manifest is None else {MANIFEST, *manifest.files, *(f"{PROFILE}/{name}" for name in PROFILE_FILES)}
    judged = _judged_stems(folder) | _judged_stems(folder / REJECTED)
    return sorted(name for name in _entries(folder) if name not in ours and not _is_rejected(name, judged))


def _own_entries(folder: Path) -> Iterator[Path]:
    resolved = folder.resolve()
    return (path for path in folder.iterdir() if not is_not_content(resolved, path.name))


def _entries(folder: Path) -> Iterator[str]:
    """Files, links and empty folders; links are not followed."""
    for top in _own_entries(folder):
        if not top.is_dir() or top.is_symlink():
            yield top.name
            continue
        for path, folders, files in os.walk(top):
            relative = PurePosixPath(Path(path).relative_to(folder).as_posix())
            links = [name for name in folders if (Path(path) / name).is_symlink()]
            yield from (str(relative / name) for name in (*files, *links))
            if not folders and not files:
                yield f"{relative}/"


def _judged_stems(folder: Path) -> set[str]:
    """The files in the report of the gate, without their extensions."""
    try:
        files: dict[str, Any] = read_json(folder / PARITY)["files"]
        return {str(PurePosixPath(name).with_suffix("")) for name in files}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _is_rejected(name: str, judged: set[str]) -> bool:
    """Whether a file is in `rejected/` and is one that the gate judged, or a companion: `a.json` of `a.plan`."""
    top, _, file = name.partition("/")
    return top == REJECTED and (file in EXPORT_FILES or any(file.startswith(f"{stem}.") for stem in judged))
