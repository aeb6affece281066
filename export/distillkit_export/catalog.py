"""The formats that distillkit can write, and the runtimes that it can execute them in."""

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
        PluginSpec(
            name="tensorrt",
            summary="a TensorRT engine for the GPU of this machine, from the ONNX file of the same precision",
            factory="distillkit_export.tensorrt.exporter:TensorRtExporter",
        ),
    )


@hookimpl
def distillkit_runtimes() -> Sequence[PluginSpec]:
    """Name the runtimes, from the plainest to the fastest."""
    return (
        PluginSpec(
            name="onnxruntime-cpu",
            summary="ONNX Runtime on the CPU",
            factory="distillkit_export.runtimes.onnxruntime_cpu:OnnxRuntimeCpu",
        ),
        PluginSpec(
            name="tensorrt",
            summary="TensorRT engines that this machine built, on its GPU",
            factory="distillkit_export.tensorrt.runtime:TensorRt",
        ),
    )
