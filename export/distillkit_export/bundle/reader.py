"""Reader of untrusted bundles: everything in them is validated before use.

Used by `verify`, `profile`, `predict` and `export BUNDLE`. Needs neither torch nor onnx, and passes no file to a
runtime.
"""

from __future__ import annotations

import os
import stat
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np
from pydantic import ValidationError

from distillkit.contracts.runtime import Servable
from distillkit.errors import BundleError
from distillkit.messages.text import counted, one_line
from distillkit.messages.validation import first_problem, newer_version
from distillkit.storage.untrusted import (
    LARGEST_FILE,
    LARGEST_TEXT,
    open_plain,
    parse_json,
    plain_sha256,
    read_plain_text,
    read_verified,
)
from distillkit_export.bundle.consistency import require_consistent
from distillkit_export.bundle.manifest import (
    MANIFEST,
    REJECTED,
    SCHEMA_VERSION,
    ArtifactCard,
    Bundle,
    FileCard,
)
from distillkit_export.onnx_scan.safety import require_safe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Precision

LARGEST_ARRAYS = 4 * 2**30
"""Size limit in bytes of unpacked arrays, far above the samples of any student."""

EXPLAINING = ("predict.py",)
EXPLAINING_SUFFIXES = (".md", ".txt", ".png", ".jpg", ".svg")
"""Files that explain a bundle and that no action reads. The user may change or delete them."""


def explains(name: str) -> bool:
    """Whether a file of a bundle that is no artifact only explains it.

    >>> [explains(name) for name in ("predict.py", "parity.md", "curve.png", "model.onnx", "parity.json")]
    [True, True, True, False, False]
    """
    return name in EXPLAINING or name.endswith(EXPLAINING_SUFFIXES)


@dataclass(frozen=True)
class OpenBundle:
    """A bundle with a validated manifest. A file is checked before its path is handed out for the first time."""

    folder: Path
    manifest: Bundle
    _checked: set[str] = field(default_factory=set, repr=False, compare=False)

    def path(self, file: str | ArtifactCard) -> Path:
        """The path of a file of the bundle, after the checks that `open_bundle` lists.

        With an artifact that is not ONNX, all files are checked that may belong to it.
        Raises: BundleError for a file that is not listed in `bundle.json`, or that was altered.
        """
        name = file.file if isinstance(file, ArtifactCard) else file
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle '{self.folder}' has no file {name!r}; its {MANIFEST} lists the files that it has"
            )
        whole = isinstance(file, ArtifactCard) and file.format != "onnx"
        artifacts = {card.file for card in self.manifest.artifacts}
        for each in (name, *(other for other in self.manifest.files if whole and other not in artifacts)):
            self._check(each)
        return self.folder / name

    def content(self, name: str) -> bytes:
        """The content of a file of the bundle, checked again: it may have been replaced since the bundle was opened.

        Raises: BundleError for a file that is not listed in `bundle.json` or was changed.
        """
        path = self.path(name)
        card = self.manifest.files[name]
        try:
            return read_verified(path, card.sha256, largest=card.bytes)
        except OSError as error:
            raise BundleError(_unreadable(name, self.folder, error)) from error
        except ValueError as error:
            raise BundleError(f"{name} of bundle '{self.folder}' {error}; copy or export the bundle again") from error

    def servable(self, card: ArtifactCard) -> Servable:
        """An exported file for a runtime, with the SHA-256 that its content must have when it is loaded."""
        path = self.path(card)
        return Servable(card.format, str(path), card.precision, sha256=self.manifest.files[card.file].sha256)

    def check_files(self) -> None:
        """Check every file that an action may read. Raises: BundleError with the first problem."""
        for name in self.manifest.files:
            self._check(name)

    def changed_explanations(self) -> list[str]:
        """The files that only explain the bundle and are no longer as the export wrote them."""
        listed = {name: card for name, card in self.manifest.files.items() if self._only_explains(name)}
        return [name for name, card in listed.items() if not _is_unchanged(self.folder, name, card)]

    def _check(self, name: str) -> None:
        if name in self._checked or self._only_explains(name):
            return
        _require_file(self.folder, name, self.manifest)
        self._checked.add(name)

    def _only_explains(self, name: str) -> bool:
        """Whether no action reads a file. A manifest may give a model the name of such a file."""
        return explains(name) and all(card.file != name for card in self.manifest.artifacts)

    def artifact(self, format: str = "onnx", precision: Precision = "fp32") -> ArtifactCard:  # noqa: A002
        """The exported file of one format and precision.

        Raises: BundleError that lists the existing files.
        """
        for artifact in self.manifest.artifacts:
            if (artifact.format, artifact.precision) == (format, precision):
                return artifact
        files = ", ".join(f"{artifact.format} {artifact.precision}" for artifact in self.manifest.artifacts)
        raise BundleError(
            f"bundle '{self.folder}' has no {format} file in {precision}; it has {files or 'no exported files'}"
        )

    def arrays(self, file: str) -> dict[str, NDArray[Any]]:
        """The arrays of an .npz file of the bundle, of any shape; pickled objects are refused.

        Raises: BundleError if the file is too large or invalid.
        """
        content = BytesIO(self.content(file))
        try:
            # Checked before loading: a small zip file may unpack to any size.
            with zipfile.ZipFile(content) as archive:
                total = sum(entry.file_size for entry in archive.infolist())
            if total > LARGEST_ARRAYS:
                raise BundleError(f"{file} unpacks to {total:,} bytes; the limit is {LARGEST_ARRAYS:,}")
            with np.load(content, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        # Invalid zip files and array headers raise many types of errors.
        except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
            raise BundleError(f"the arrays of {file} cannot be read ({one_line(error)})") from error


def open_bundle(folder: Path, *, every_file: bool = True) -> OpenBundle:
    """Open a bundle after all checks that need no runtime.

    The manifest must be valid, of a known schema and without unknown keys. Every artifact must be a listed file. A file
    must exist, be a regular file inside the folder, and have the listed size and digest; an ONNX file must contain all
    its weights and only operators of ONNX. Without `every_file` a file is checked when `OpenBundle.path` is asked for
    it, so that files which an action does not read do not stop it. Files that only explain the bundle (`explains`) are
    not checked, and unlisted files are never read.
    Raises: BundleError with the first problem, in one sentence.
    """
    manifest = read_manifest(folder)
    require_consistent(manifest)
    opened = OpenBundle(folder, manifest)
    if every_file:
        opened.check_files()
    return opened


def _is_unchanged(folder: Path, name: str, card: FileCard) -> bool:
    try:
        with _open_file(folder, name) as file:
            _require_unaltered(file, name, card)
    except BundleError:
        return False
    return True


def _require_file(folder: Path, name: str, manifest: Bundle) -> None:
    """Check one listed file. Raises: BundleError."""
    with _open_file(folder, name) as file:
        _require_unaltered(file, name, manifest.files[name])
        # By suffix too: a manifest that gives an ONNX file another format must not bypass the check.
        if name.endswith(".onnx") or name in {card.file for card in manifest.artifacts if card.format == "onnx"}:
            require_safe(file, name)  # the file that was hashed: its name may lead to another one by now


def _open_file(folder: Path, name: str) -> BinaryIO:
    """Open a listed file. Raises: BundleError."""
    path, status = _plain_file(folder, name)
    try:
        file = open_plain(path)
    except OSError as error:
        raise BundleError(_unreadable(name, folder, error)) from error
    except ValueError as error:
        raise BundleError(f"{name} of bundle '{folder}' {error}; copy or export the bundle again") from error
    if not os.path.samestat(os.fstat(file.fileno()), status):
        file.close()
        raise BundleError(f"{name} of bundle '{folder}' was replaced while it was opened; open the bundle again")
    return file


def _require_unaltered(file: BinaryIO, name: str, card: FileCard) -> None:
    """Check size and digest of an opened file. Raises: BundleError."""
    size = os.fstat(file.fileno()).st_size
    if size != card.bytes:
        _refuse_altered(name, f"has {size:,} bytes, but {MANIFEST} says {card.bytes:,}")
    if size > LARGEST_FILE:
        raise BundleError(f"{name} has {size:,} bytes; the limit for a file of a bundle is {LARGEST_FILE:,}")
    if plain_sha256(file, size) != card.sha256:
        _refuse_altered(name, f"does not match the SHA-256 in {MANIFEST}")


def read_manifest(folder: Path) -> Bundle:
    """Read and validate `bundle.json` alone, without checking the files that it lists.

    Raises: BundleError.
    """
    _require_finished(folder)
    text = plain_text(folder, MANIFEST)
    try:
        data = parse_json(text, finite=True)
    except ValueError as error:
        reason = one_line(error.__cause__ or error)
        raise BundleError(
            f"{MANIFEST} of '{folder}' is not valid JSON ({reason}); copy or export the bundle again"
        ) from error
    if newer := newer_version(data, "schema_version", SCHEMA_VERSION):
        raise BundleError(
            f"bundle '{folder}' has schema version {newer}, but this distillkit reads version {SCHEMA_VERSION}; "
            "upgrade distillkit"
        )
    try:
        return Bundle.model_validate_json(text, strict=True)
    except ValidationError as error:
        others = error.error_count() - 1
        more = f", and {counted(others, 'more error')}" if others else ""
        raise BundleError(
            f"{MANIFEST} of '{folder}' is invalid: {first_problem(error)}{more}; export the bundle again"
        ) from error


def plain_text(folder: Path, name: str) -> str:
    """Read an untrusted text file, which must be a regular file of limited size.

    Raises: BundleError.
    """
    file, status = _plain_file(folder, name)
    if status.st_size > LARGEST_TEXT:
        raise BundleError(f"{name} of '{folder}' is too large; the limit is {LARGEST_TEXT:,} bytes")
    try:
        return read_plain_text(file)
    except ValueError as error:
        raise BundleError(f"{name} of '{folder}' is not valid UTF-8; copy or export the bundle again") from error


def _require_finished(folder: Path) -> None:
    """Refuse a path that is not a folder, or the folder of an unfinished export."""
    if not folder.exists():
        raise BundleError(f"bundle '{folder}' does not exist; give a folder that `distillkit export` wrote")
    if not folder.is_dir():
        raise BundleError(f"'{folder}' is a file; give the folder of a bundle, which contains {MANIFEST}")
    name = folder.resolve().name
    # The temporary names of `atomic_directory`.
    if name.startswith(".") and name.endswith((".tmp", ".old", ".new")):
        raise BundleError(f"'{folder}' is an unfinished export; export again")
    if name == REJECTED:
        raise BundleError(f"'{folder}' contains files that failed the gate and are not served; export again")
    if not os.path.lexists(folder / MANIFEST):
        raise BundleError(
            f"'{folder}' has no {MANIFEST}: it is not a bundle, or its export did not finish; "
            "give a folder that `distillkit export` wrote"
        )


def _plain_file(folder: Path, name: str) -> tuple[Path, os.stat_result]:
    """The path of a regular file inside the folder, and its status.

    Raises: BundleError if it is missing, a device, a hard link, or if any part of its path is a symbolic link.
    """
    # Every part, because a link in the middle of the path also leaves the folder.
    path = folder
    for part in name.split("/"):
        path = path / part
        try:
            status = path.lstat()
        except FileNotFoundError as error:
            raise BundleError(f"{name} is missing from bundle '{folder}'; copy or export the bundle again") from error
        except OSError as error:
            raise BundleError(_unreadable(name, folder, error)) from error
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(
                f"{name} of bundle '{folder}' is a symbolic link; copy the bundle with the files themselves"
            )
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{name} of bundle '{folder}' is not a regular file; export the bundle again")
    if status.st_nlink > 1:
        raise BundleError(
            f"{name} of bundle '{folder}' is a hard link and can be changed under its other name; copy the bundle"
        )
    _require_readable(path, name, folder)
    return path, status


def _require_readable(path: Path, name: str, folder: Path) -> None:
    """Raises: BundleError for a file that this user may not read, or that the disk does not return."""
    try:
        with open_plain(path) as file:
            file.read(1)
    except OSError as error:
        raise BundleError(_unreadable(name, folder, error)) from error
    except ValueError as error:  # replaced since it was inspected
        raise BundleError(f"{name} of bundle '{folder}' {error}; copy or export the bundle again") from error


def _unreadable(name: str, folder: Path, error: OSError) -> str:
    return f"{name} of bundle '{folder}' cannot be read ({error.strerror}); check its permissions, or copy it again"


def _refuse_altered(name: str, how: str) -> NoReturn:
    raise BundleError(f"{name} {how}: it was altered or truncated after the export; copy or export the bundle again")
