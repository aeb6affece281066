"""Opening a bundle that came from elsewhere: nothing in it is trusted before it is checked.

`verify`, `profile`, `predict` and `export BUNDLE` open it here. Needs neither torch nor onnx, and gives no file to a
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
"""More than any student has: the classes of ImageNet-21k take 1 MiB of manifest, RegNetY-16GF 0.3 GiB of weights."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""As Pillow and timm call them."""


@dataclass(frozen=True)
class OpenBundle:
    """A bundle that was checked: its folder, and what `bundle.json` says."""

    folder: Path
    manifest: Bundle

    def path(self, file: str | ArtifactCard) -> Path:
        """Where a file of the bundle lies.

        Raises: BundleError for one that `bundle.json` does not list.
        """
        name = file.file if isinstance(file, ArtifactCard) else file
        if name not in self.manifest.files:
            raise BundleError(f"bundle '{self.folder}' has no file {name!r}; its {MANIFEST} lists those that it has")
        return self.folder / name

    def artifact(self, format: str = "onnx", precision: Precision = "fp32") -> ArtifactCard:  # noqa: A002
        """The exported file of one format and precision.

        Raises: BundleError naming those that are there.
        """
        for artifact in self.manifest.artifacts:
            if (artifact.format, artifact.precision) == (format, precision):
                return artifact
        there = ", ".join(f"{artifact.format} {artifact.precision}" for artifact in self.manifest.artifacts)
        raise BundleError(
            f"bundle '{self.folder}' has no {format} file in {precision}; it has {there or 'none at all'}"
        )

    def arrays(self, file: str) -> dict[str, NDArray[Any]]:
        """The arrays of an .npz file of the bundle; pickled objects are refused.

        Raises: BundleError.
        """
        path = self.path(file)
        try:
            with zipfile.ZipFile(path) as archive:
                total = sum(entry.file_size for entry in archive.infolist())
            if total > LARGEST_ARRAYS:
                raise BundleError(f"{file} unpacks to {total:,} bytes, more than the {LARGEST_ARRAYS:,} that are read")
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        # A zip file or an array header that is not one fails in many ways.
        except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
            raise BundleError(f"{file} holds no arrays that can be read ({one_line(error)})") from error


def open_bundle(folder: Path) -> OpenBundle:
    """Check all that can be checked without a runtime, and hand the bundle over.

    The manifest must be whole, of a schema that is known here and without unknown keys; every file that it lists must
    be there, a plain file inside the folder, of the stated size and digest; every artefact must be listed; and ONNX
    files must hold all of their weights, and nothing but operators of ONNX. Files that are not listed are never read.
    Raises: BundleError, one sentence for the first thing that is wrong.
    """
    manifest = read_manifest(folder)
    _require_sensible(manifest)
    for name, card in manifest.files.items():
        file = _plain_file(folder, name)
        size = file.stat().st_size
        if size != card.bytes:
            _altered(name, f"has {size:,} bytes where {MANIFEST} says {card.bytes:,}")
        if size > LARGEST_FILE:
            raise BundleError(
                f"{name} has {size:,} bytes, more than the {LARGEST_FILE:,} that a bundle's file may have"
            )
        if sha256(file) != card.sha256:
            _altered(name, f"has not the content whose digest {MANIFEST} has")
    for name in manifest.files:
        if name.endswith(".onnx") or name in {card.file for card in manifest.artifacts if card.format == "onnx"}:
            require_safe(folder / name, name)
    return OpenBundle(folder, manifest)


def read_manifest(folder: Path) -> Bundle:
    """`bundle.json` alone: strict data of a known schema. Says nothing about the files.

    Raises: BundleError.
    """
    _require_finished(folder)
    text = plain_text(folder, MANIFEST)
    try:
        data = parse_json(text, finite=True)
    except ValueError as error:
        reason = one_line(error.__cause__ or error)
        raise BundleError(
            f"{MANIFEST} of '{folder}' is torn or no JSON ({reason}); copy or export the bundle again"
        ) from error
    if newer := newer_version(data, "schema_version", SCHEMA_VERSION):
        raise BundleError(
            f"bundle '{folder}' has schema {newer} and this distillkit reads {SCHEMA_VERSION}; upgrade distillkit"
        )
    try:
        return Bundle.model_validate_json(text, strict=True)
    except ValidationError as error:
        others = error.error_count() - 1
        more = f", and {counted(others, 'more mistake')}" if others else ""
        raise BundleError(
            f"{MANIFEST} of '{folder}' does not describe a bundle: {first_problem(error)}{more}; export it again"
        ) from error


def plain_text(folder: Path, name: str) -> str:
    """A text file of a folder that came from elsewhere, where it is a plain file of modest size.

    Raises: BundleError.
    """
    file = _plain_file(folder, name)
    if file.stat().st_size > LARGEST_TEXT:
        raise BundleError(f"{name} of '{folder}' has more than {LARGEST_TEXT:,} bytes, so it is none")
    try:
        return read_plain_text(file)
    except ValueError as error:
        raise BundleError(f"{name} of '{folder}' is torn: it is not UTF-8; copy or export the bundle again") from error


def _require_finished(folder: Path) -> None:
    """Refuse what is no folder, or one that an export has not finished."""
    if not folder.exists():
        raise BundleError(f"bundle '{folder}' does not exist; give a folder that `distillkit export` wrote")
    if not folder.is_dir():
        raise BundleError(f"'{folder}' is a file; give the folder of a bundle, which holds {MANIFEST}")
    name = folder.resolve().name
    if name.startswith(".") and name.endswith((".tmp", ".old")):
        raise BundleError(f"'{folder}' is an export that did not finish; export again")
    if name == REJECTED:
        raise BundleError(f"'{folder}' holds files that failed their gate, which are not served; export again")
    if not os.path.lexists(folder / MANIFEST):
        raise BundleError(
            f"'{folder}' has no {MANIFEST}, so it is no bundle or its export did not finish; "
            "give a folder that `distillkit export` wrote"
        )


def _require_sensible(manifest: Bundle) -> None:
    """What the types of the manifest cannot say."""
    taken = manifest.input
    problems = chain(
        _input_problems(taken), _shape_problems(taken), _class_problems(manifest), _file_problems(manifest)
    )
    problem = next(problems, None)
    if problem:
        raise BundleError(f"{MANIFEST} {problem}; export the student again")


def _input_problems(taken: InputCard) -> Iterator[str]:
    if not 1 <= min(taken.image_size) <= max(taken.image_size) <= LARGEST_SIDE:
        yield f"has an image size of {' x '.join(map(str, taken.image_size))}, which is none"
    if not 0 < taken.crop <= 1:
        yield f"has a crop of {taken.crop}, which is not between 0 and 1"
    elif max(taken.image_size) / taken.crop > LARGEST_SIDE:
        yield f"has a crop of {taken.crop}, for which images would be resized to more than {LARGEST_SIDE:,} pixels"
    if taken.interpolation not in INTERPOLATIONS:
        yield f"has an interpolation {taken.interpolation!r}, which is none of {', '.join(INTERPOLATIONS)}"
    if not taken.mean or len(taken.mean) != len(taken.std):
        yield f"has {counted(len(taken.mean), 'mean')} for {counted(len(taken.std), 'standard deviation')}"
    if not all(map(math.isfinite, (*taken.mean, *taken.std))) or min(taken.std, default=1) <= 0:
        yield "has a mean that is not finite or a standard deviation that is not positive"


def _shape_problems(taken: InputCard) -> Iterator[str]:
    sides = taken.shape[1:3] if taken.layout == "NHWC" else taken.shape[2:]
    channels = taken.shape[3:] if taken.layout == "NHWC" else taken.shape[1:2]
    chosen = all(isinstance(side, str) for side in sides)
    if len(taken.shape) != 4 or channels != (len(taken.mean),) or not (chosen or sides == taken.image_size):
        yield f"has an input of shape {list(taken.shape)}, which does not fit its image size, mean and layout"


def _class_problems(manifest: Bundle) -> Iterator[str]:
    given = manifest.output
    if len(given.shape) != 2 or not isinstance(given.shape[-1], int):
        yield f"has an output of shape {list(given.shape)}, which is not [batch, classes]"
    elif (
        manifest.class_names is not None and given.kind != "embedding" and given.shape[-1] != len(manifest.class_names)
    ):
        yield f"has {counted(len(manifest.class_names), 'class name')} for an output of {given.shape[-1]} classes"


def _file_problems(manifest: Bundle) -> Iterator[str]:
    if len(manifest.files) > MOST_FILES:
        yield f"lists {len(manifest.files):,} files, more than {MOST_FILES:,}"
    for name in manifest.files:
        if not inside(name) or name == MANIFEST:
            yield f"lists file {name!r}, which is not a path inside the bundle"
    for artifact in manifest.artifacts:
        if artifact.file not in manifest.files:
            yield f"names artefact {artifact.file!r}, which is not among its files"


def _plain_file(folder: Path, name: str) -> Path:
    """A file that lies in the folder itself: no link on the way, no device, no second name elsewhere."""
    place = folder
    for part in name.split("/"):
        place = place / part
        try:
            status = place.lstat()
        except OSError as error:
            raise BundleError(f"{name} is missing in bundle '{folder}'; copy or export the bundle again") from error
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(f"{name} of bundle '{folder}' is a link to elsewhere; copy the bundle with its files")
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{name} of bundle '{folder}' is no plain file; export the bundle again")
    if status.st_nlink > 1:
        raise BundleError(
            f"{name} of bundle '{folder}' is hard-linked to a file elsewhere, which can change it; copy the bundle"
        )
    return place


def _altered(name: str, how: str) -> NoReturn:
    raise BundleError(f"{name} {how}, so it was altered or torn after the export; copy or export the bundle again")


LONGEST = 1_000
FORBIDDEN = frozenset('\\:*?"<>|')
"""What a path has on one system and means something else on another."""


def inside(path: str) -> bool:
    r"""Whether a path is relative, in its shortest form, and cannot leave the folder that it is relative to.

    >>> [inside(path) for path in ("model.onnx", "trt/a.plan", "../a", "/a", "a/../b", "C:a", r"a\b", "", ".")]
    [True, True, False, False, False, False, False, False, False]
    """
    if not 0 < len(path) <= LONGEST or FORBIDDEN & set(path) or not path.isprintable():
        return False
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and path == pure.as_posix() and ".." not in pure.parts
