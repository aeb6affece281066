"""Reader of untrusted bundles: everything in them is validated before use.

Used by `verify`, `profile`, `predict` and `export BUNDLE`. Needs neither torch nor onnx, and passes no file to a
runtime.
"""

from __future__ import annotations

import math
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from pydantic import ValidationError

from distillkit.errors import BundleError
from distillkit.messages.text import counted, one_line
from distillkit.messages.validation import first_problem, newer_version
from distillkit.storage.atomic import sha256
from distillkit.storage.untrusted import LARGEST_TEXT, parse_json, read_plain_text
from distillkit_export.bundle.manifest import (
    MANIFEST,
    REJECTED,
    SCHEMA_VERSION,
    ArtifactCard,
    Bundle,
    InputCard,
)
from distillkit_export.onnx_scan.safety import require_safe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Precision

LARGEST_FILE = 8 * 2**30
LARGEST_ARRAYS = 4 * 2**30
MOST_FILES = 1_000
LARGEST_SIDE = 16_384
"""Limits far above any student: ImageNet-21k needs a manifest of 1 MiB, RegNetY-16GF has 0.3 GiB of weights."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Names of interpolations in Pillow and timm."""


@dataclass(frozen=True)
class OpenBundle:
    """A validated bundle: its folder and its manifest."""

    folder: Path
    manifest: Bundle

    def path(self, file: str | ArtifactCard) -> Path:
        """The path of a file of the bundle.

        Raises: BundleError for a file that is not listed in `bundle.json`.
        """
        name = file.file if isinstance(file, ArtifactCard) else file
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle '{self.folder}' has no file {name!r}; its {MANIFEST} lists the files that it has"
            )
        return self.folder / name

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
        path = self.path(file)
        try:
            # Checked before loading: a small zip file may unpack to any size.
            with zipfile.ZipFile(path) as archive:
                total = sum(entry.file_size for entry in archive.infolist())
            if total > LARGEST_ARRAYS:
                raise BundleError(f"{file} unpacks to {total:,} bytes; the limit is {LARGEST_ARRAYS:,}")
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        # Invalid zip files and array headers raise many types of errors.
        except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
            raise BundleError(f"the arrays of {file} cannot be read ({one_line(error)})") from error


def open_bundle(folder: Path) -> OpenBundle:
    """Open a bundle after all checks that need no runtime.

    The manifest must be valid, of a known schema and without unknown keys. Every listed file must exist, be a regular
    file inside the folder, and have the listed size and digest. Every artifact must be a listed file. ONNX files must
    contain all their weights and only operators of ONNX. Unlisted files are never read.
    Raises: BundleError with the first problem, in one sentence.
    """
    manifest = read_manifest(folder)
    _require_consistent(manifest)
    for name, card in manifest.files.items():
        file = _plain_file(folder, name)
        size = file.stat().st_size
        if size != card.bytes:
            _refuse_altered(name, f"has {size:,} bytes, but {MANIFEST} says {card.bytes:,}")
        if size > LARGEST_FILE:
            raise BundleError(f"{name} has {size:,} bytes; the limit for a file of a bundle is {LARGEST_FILE:,}")
        if sha256(file) != card.sha256:
            _refuse_altered(name, f"does not match the SHA-256 in {MANIFEST}")
    # By suffix too: a manifest that gives an ONNX file another format must not bypass the check.
    for name in manifest.files:
        if name.endswith(".onnx") or name in {card.file for card in manifest.artifacts if card.format == "onnx"}:
            require_safe(folder / name, name)
    return OpenBundle(folder, manifest)


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
    file = _plain_file(folder, name)
    if file.stat().st_size > LARGEST_TEXT:
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


def _require_consistent(manifest: Bundle) -> None:
    """Check what the types of the manifest cannot express.

    Raises: BundleError with the first problem.
    """
    entry = manifest.input
    problems = chain(
        _input_problems(entry), _shape_problems(entry), _class_problems(manifest), _file_problems(manifest)
    )
    problem = next(problems, None)
    if problem:
        raise BundleError(f"{MANIFEST} {problem}; export the student again")


def _input_problems(entry: InputCard) -> Iterator[str]:
    if not 1 <= min(entry.image_size) <= max(entry.image_size) <= LARGEST_SIDE:
        yield f"has an invalid image size: {' x '.join(map(str, entry.image_size))}"
    if not 0 < entry.crop <= 1:
        yield f"has a crop of {entry.crop}, which is not between 0 and 1"
    elif max(entry.image_size) / entry.crop > LARGEST_SIDE:
        yield f"has a crop of {entry.crop}, which would resize images to more than {LARGEST_SIDE:,} pixels"
    if entry.interpolation not in INTERPOLATIONS:
        yield f"has an unknown interpolation {entry.interpolation!r} (known: {', '.join(INTERPOLATIONS)})"
    if not entry.mean or len(entry.mean) != len(entry.std):
        yield f"has {counted(len(entry.mean), 'mean')} for {counted(len(entry.std), 'standard deviation')}"
    if not all(map(math.isfinite, (*entry.mean, *entry.std))) or min(entry.std, default=1) <= 0:
        yield "has a mean that is not finite or a standard deviation that is not positive"


def _shape_problems(entry: InputCard) -> Iterator[str]:
    sides = entry.shape[1:3] if entry.layout == "NHWC" else entry.shape[2:]
    channels = entry.shape[3:] if entry.layout == "NHWC" else entry.shape[1:2]
    is_dynamic = all(isinstance(side, str) for side in sides)
    if len(entry.shape) != 4 or channels != (len(entry.mean),) or not (is_dynamic or sides == entry.image_size):
        yield f"has an input of shape {list(entry.shape)}, which does not match its image size, mean and layout"


def _class_problems(manifest: Bundle) -> Iterator[str]:
    output, names = manifest.output, manifest.class_names
    if len(output.shape) != 2 or not isinstance(output.shape[-1], int):
        yield f"has an output of shape {list(output.shape)}, which is not [batch, classes]"
    elif names is not None and output.kind != "embedding" and output.shape[-1] != len(names):
        yield f"has {counted(len(names), 'class name')} for an output of {output.shape[-1]} classes"


def _file_problems(manifest: Bundle) -> Iterator[str]:
    if len(manifest.files) > MOST_FILES:
        yield f"lists {len(manifest.files):,} files, more than {MOST_FILES:,}"
    for name in manifest.files:
        if not is_inside(name) or name == MANIFEST:
            yield f"lists file {name!r}, which is not a path inside the bundle"
    for artifact in manifest.artifacts:
        if artifact.file not in manifest.files:
            yield f"lists artifact {artifact.file!r}, which is not among its files"


def _plain_file(folder: Path, name: str) -> Path:
    """The path of a regular file inside the folder.

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
    return path


def _require_readable(path: Path, name: str, folder: Path) -> None:
    """Raises: BundleError for a file that this user may not read, or that the disk does not return."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise BundleError(_unreadable(name, folder, error)) from error


def _unreadable(name: str, folder: Path, error: OSError) -> str:
    return f"{name} of bundle '{folder}' cannot be read ({error.strerror}); check its permissions, or copy it again"


def _refuse_altered(name: str, how: str) -> NoReturn:
    raise BundleError(f"{name} {how}: it was altered or truncated after the export; copy or export the bundle again")


LONGEST = 1_000
FORBIDDEN = frozenset('\\:*?"<>|')
"""Characters with a special meaning in paths of some operating system."""


def is_inside(path: str) -> bool:
    r"""Whether a path is relative, normalised, and stays inside its folder.

    >>> [is_inside(path) for path in ("model.onnx", "trt/a.plan", "../a", "/a", "a/../b", "C:a", r"a\b", "", ".")]
    [True, True, False, False, False, False, False, False, False]
    """
    if not 0 < len(path) <= LONGEST or FORBIDDEN & set(path) or not path.isprintable():
        return False
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and path == pure.as_posix() and ".." not in pure.parts
