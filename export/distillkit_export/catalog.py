"""The formats that distillkit can write."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit.contracts import PluginSpec
from distillkit.hookspecs import hookimpl


@hookimpl
def distillkit_exporters() -> Sequence[PluginSpec]:
    """Name ONNX, from which the formats of the target machines are made."""
    return (
        PluginSpec(
            name="onnx",
            summary="one ONNX file with dynamic batch, checked in ONNX Runtime",
            factory="distillkit_export.onnx_exporter:OnnxExporter",
        ),
    )
