"""Whether an ONNX file from elsewhere may be given to a runtime at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from distillkit.errors import BundleError
from distillkit_export.onnx_operators import ALLOWED
from distillkit_export.onnx_structure import OnnxStructure, OnnxStructureError, read_structure
from distillkit_export.paths import inside


def require_safe(file: Path, name: str, sizes: Mapping[str, int]) -> OnnxStructure:
    """Refuse an ONNX file that reaches out of its bundle or holds what no exporter of ours writes.

    `name` is its path in the bundle; `sizes` are the bytes of all files of the bundle, by path.
    Raises: BundleError.
    """
    try:
        found = read_structure(file)
    except OnnxStructureError as error:
        raise BundleError(f"{name} {error}; export the student again") from error
    if found.functions or found.trainings:
        what = "functions of its own" if found.functions else "a training graph"
        raise BundleError(f"{name} holds {what}, which distillkit never writes; export the student again")
    for domain, operator in found.operators:
        if domain not in ALLOWED:
            raise BundleError(
                f"{name} uses operator '{_shown(operator)}' of domain '{_shown(domain)}', whose code is not part of "
                "ONNX; export the student again"
            )
        if operator not in ALLOWED[domain]:
            raise BundleError(
                f"{name} uses operator '{_shown(operator)}', which is unknown{f' in {domain}' if domain else ''}; "
                "export the student again"
            )
    for entry in found.external:
        _require_inside(entry, name, sizes)
    return found


def _require_inside(entry: Mapping[str, str], name: str, sizes: Mapping[str, int]) -> None:
    """External data must lie in a file that the bundle lists, and within it."""
    location = entry.get("location", "")
    if not inside(location):
        raise BundleError(f"{name} keeps weights in '{_shown(location)}', outside the bundle; export the student again")
    path = (PurePosixPath(name).parent / location).as_posix()
    if path not in sizes:
        raise BundleError(
            f"{name} keeps weights in '{_shown(location)}', which bundle.json does not list; export the student again"
        )
    try:
        offset, length = (int(entry.get(key) or 0) for key in ("offset", "length"))
    except ValueError:
        offset = length = -1
    if min(offset, length) < 0 or offset + length > sizes[path]:
        raise BundleError(f"{name} keeps weights beyond the end of '{_shown(location)}'; export the student again")


def _shown(text: str) -> str:
    """A text from the file, fit for a terminal."""
    return text[:100].encode("unicode_escape").decode()
