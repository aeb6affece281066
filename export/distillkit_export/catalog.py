"""Catalogue of the built-in exporters (ONNX, TensorRT) and runtimes."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit.contracts.plugin import PluginSpec
from distillkit.plugin.hookspecs import hookimpl


@hookimpl
def distillkit_exporters() -> Sequence[PluginSpec]:
    """List ONNX, and TensorRT, which is built from the ONNX file."""
    return (
        PluginSpec(
            name="onnx",
            summary="one ONNX file with dynamic batch, checked in ONNX Runtime",
            factory="distillkit_export.onnx.exporter:OnnxExporter",
        ),
        PluginSpec(
            name="tensorrt",
            summary="a TensorRT engine for this machine's GPU, built from the ONNX file of the same precision",
            factory="distillkit_export.tensorrt.exporter:TensorRtExporter",
        ),
    )


@hookimpl
def distillkit_runtimes() -> Sequence[PluginSpec]:
    """List the runtimes, from the simplest to the fastest."""
    return (
        PluginSpec(
            name="torch",
            summary="PyTorch in eager mode, on the CPU or a GPU",
            factory="distillkit_export.runtimes.torch_eager:TorchEager",
        ),
        PluginSpec(
            name="torch-compile",
            summary="torch.compile, on a GPU with CUDA graphs",
            factory="distillkit_export.runtimes.torch_compile:TorchCompile",
        ),
        PluginSpec(
            name="onnxruntime-cpu",
            summary="ONNX Runtime on the CPU",
            factory="distillkit_export.runtimes.onnxruntime_cpu:OnnxRuntimeCpu",
        ),
        PluginSpec(
            name="openvino",
            summary="OpenVINO on the CPU, in float32 or bfloat16",
            factory="distillkit_export.runtimes.openvino_cpu:OpenVino",
        ),
        PluginSpec(
            name="onnxruntime-cuda",
            summary="ONNX Runtime on an NVIDIA GPU",
            factory="distillkit_export.runtimes.onnxruntime_gpu:OnnxRuntimeCuda",
        ),
        PluginSpec(
            name="onnxruntime-tensorrt",
            summary="TensorRT inside ONNX Runtime",
            factory="distillkit_export.runtimes.onnxruntime_gpu:OnnxRuntimeTensorrt",
        ),
        PluginSpec(
            name="tensorrt",
            summary="TensorRT engines built on this machine, on its GPU",
            factory="distillkit_export.tensorrt.runtime:TensorRt",
        ),
    )
