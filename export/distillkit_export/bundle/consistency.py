"""Consistency of a manifest: what the types of `bundle.json` cannot express."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import PurePosixPath

from distillkit.errors import BundleError
from distillkit.messages.text import counted
from distillkit_export.bundle.manifest import MANIFEST, Bundle, InputCard

MOST_FILES = 1_000
"""Limit on the files of a bundle, far above what any export writes."""
LARGEST_SIDE = 16_384
"""Limit on height and width in pixels, also of the image before the crop; far above those of any student."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Names of interpolations in Pillow and timm."""

LONGEST_PATH = 1_000
"""Limit on the characters of a path inside a bundle."""
FORBIDDEN = frozenset('\\:*?"<>|')
"""Characters with a special meaning in paths of some operating system."""


def require_consistent(manifest: Bundle) -> None:
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


def is_inside(path: str) -> bool:
    r"""Whether a path is relative, normalised, and stays inside its folder.

    >>> [is_inside(path) for path in ("model.onnx", "trt/a.plan", "../a", "/a", "a/../b", "C:a", r"a\b", "", ".")]
    [True, True, False, False, False, False, False, False, False]
    """
    if not 0 < len(path) <= LONGEST_PATH or FORBIDDEN & set(path) or not path.isprintable():
        return False
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and path == pure.as_posix() and ".." not in pure.parts
