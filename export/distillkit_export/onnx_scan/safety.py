"""Whether an ONNX file from elsewhere may be given to a runtime at all."""

from __future__ import annotations

from pathlib import Path

from distillkit.errors import BundleError
from distillkit.messages.text import visible
from distillkit_export.onnx_scan.allowed_operators import ALLOWED
from distillkit_export.onnx_scan.structure import (
    OnnxStructure,
    OnnxStructureError,
    read_structure,
)


def require_safe(file: Path, name: str) -> OnnxStructure:
    """Refuse an ONNX file that reaches out of itself or holds what no exporter of ours writes.

    `name` is its path in the bundle.
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
    if found.external:
        location = found.external[0].get("location", "")
        raise BundleError(
            f"{name} keeps weights outside itself, in '{_shown(location)}', which distillkit never writes; "
            "export the student again"
        )
    return found


def _shown(text: str) -> str:
    """A text from the file, for a terminal."""
    return visible(text[:100])
