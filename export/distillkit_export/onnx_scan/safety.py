"""Safety check of an untrusted ONNX file before a runtime loads it."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from distillkit.errors import BundleError
from distillkit.messages.text import visible
from distillkit_export.onnx_scan.allowed_operators import ALLOWED
from distillkit_export.onnx_scan.structure import (
    OnnxStructure,
    OnnxStructureError,
    read_structure,
)


def require_safe(file: Path | BinaryIO, name: str) -> OnnxStructure:
    """Refuse an ONNX file with external data, functions, a training graph or unknown operators.

    `file` may be opened already; `name` is its path in the bundle.
    Raises: BundleError.
    """
    try:
        found = read_structure(file)
    except OnnxStructureError as error:
        raise BundleError(f"{name} {error}; export the student again") from error
    if found.functions or found.trainings:
        what = "model-local functions" if found.functions else "a training graph"
        raise BundleError(f"{name} contains {what}, which distillkit never writes; export the student again")
    for domain, operator in found.operators:
        if domain not in ALLOWED:
            raise BundleError(
                f"{name} uses operator '{_shown(operator)}' of domain '{_shown(domain)}', which is not part of ONNX; "
                "export the student again"
            )
        if operator not in ALLOWED[domain]:
            raise BundleError(
                f"{name} uses operator '{_shown(operator)}', which is unknown{f' in {domain}' if domain else ''}; "
                "export the student again"
            )
    if found.external:
        location = found.external[0].get("location", "")
        raise BundleError(
            f"{name} stores weights in another file, '{_shown(location)}', which distillkit never does; "
            "export the student again"
        )
    return found


def _shown(text: str) -> str:
    """A text from the file, safe to print."""
    return visible(text[:100])
