"""The exporter called `onnx`: one file per precision, dynamic batch, gated in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from distillkit.contracts.exporter import PRECISIONS, Artifact, ExportSource, Precision, Scorer
from distillkit.errors import UnavailableError, UserError
from distillkit.plugin.extras import require
from distillkit_export.export_options import BF16_OPSET, Calibrator
from distillkit_export.onnx import metadata
from distillkit_export.onnx.session import PROVIDER, OnnxSession
from distillkit_export.onnx_scan import precision

if TYPE_CHECKING:
    from onnx import ModelProto

FILES: Mapping[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "bf16": "model.bf16.onnx",
    "int8": "model.int8.onnx",
    "fp8": "model.fp8.onnx",
}
LARGEST_BYTES = 2_000_000_000
"""Of float32 weights. One protobuf file holds less than 2 GiB, the rest is room for the graph and its constants."""


class OnnxOptions(BaseModel):
    """How the files beside float32 are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibrator: Calibrator = Field(
        "minmax",
        description="where INT8 ranges of activations end: at the largest value, or where cutting off loses least",
    )


class OnnxExporter:
    """Write `model.onnx` from the student, `model.bf16.onnx` likewise, and the other precisions from `model.onnx`."""

    Options = OnnxOptions
    precisions: tuple[Precision, ...] = PRECISIONS

    def __init__(self, options: OnnxOptions) -> None:
        self.options = options

    @property
    def runtime(self) -> str:
        return f"onnxruntime {version('onnxruntime')}, {PROVIDER}"

    def check(self) -> None:
        """Refuse where a package of the extra `export`, or torch and timm, are absent."""
        needed = ("onnx", "onnxscript", "onnxconverter_common", "onnxruntime", "torch", "timm")
        require(*needed, what="the export to ONNX")

    def write(self, source: ExportSource, directory: Path, precision: Precision) -> Artifact:
        """Write the graph in `precision`, without traces of this machine, described and checked."""
        if source.model is None:
            raise UnavailableError("ONNX is written from the student, not from a bundle; export the run again")
        graph, made_with = self._graph(source, precision)
        metadata.strip_traces(graph)
        metadata.describe_in(graph, source.card)
        metadata.save_checked(graph, directory / FILES[precision])
        return Artifact("onnx", FILES[precision], precision, made_with)

    def _graph(self, source: ExportSource, precision: Precision) -> tuple[ModelProto, dict[str, Any]]:
        """The graph, and how it was made."""
        if precision == "fp32":
            return _exported(source), {"tool": "torch.onnx"}
        if precision == "bf16":
            if source.request.opset < BF16_OPSET:
                raise UserError(
                    f"bf16 needs opset {BF16_OPSET} or later, where ONNX has convolutions of it, and "
                    f"{source.request.opset} was asked for; leave out --opset"
                )
            return _exported(source, precision), {"tool": "torch.onnx", "float32": []}
        if source.images is None:
            raise UserError(f"{precision} needs real images to take ranges from; give --data DIR")
        images = {"images": len(source.images), "images_from": source.images_from}
        if precision == "fp16":
            return _half(source, images)
        return self._quantized(source, precision, images)

    def _quantized(
        self, source: ExportSource, precision: Precision, images: Mapping[str, Any]
    ) -> tuple[ModelProto, dict[str, Any]]:
        from distillkit_export.onnx.quantize import to_fp8, to_int8

        file, pixels = source.onnx["fp32"], source.images
        assert pixels is not None  # noqa: S101 - `_graph` looked
        if precision == "int8":
            calibrator: str = self.options.calibrator
            graph, nodes = to_int8(file, pixels, self.options.calibrator)
        else:
            calibrator = "largest value over 448"
            graph, nodes = to_fp8(file, pixels)
        if not nodes:
            raise UnavailableError(
                f"no product with weights was found that could be {precision}; leave out --{precision}"
            )
        tool = f"onnxruntime {version('onnxruntime')} quantize_static, explicit Q/DQ, symmetric"
        return graph, {"tool": tool, "calibrator": calibrator, **images, "quantized": nodes, "float32": "all else"}

    def precision_of(self, file: Path) -> Precision:
        return precision.precision_of(file)

    def open(self, file: Path) -> Scorer:
        return OnnxSession(file)


def _exported(source: ExportSource, precision: Precision = "fp32") -> ModelProto:
    """The student as torch's exporter writes it, its nodes called by their modules."""
    from distillkit_export.from_torch.graph import onnx_graph
    from distillkit_export.onnx.node_names import name_nodes

    model = source.model
    assert model is not None  # noqa: S101 - `write` looked
    size = sum(parameter.numel() for parameter in model.network.parameters()) * 4
    if size > LARGEST_BYTES:
        raise UnavailableError(
            f"model '{model.spec.name}' has {size:,} bytes of float32 weights and one ONNX file holds "
            f"{LARGEST_BYTES:,}; export a smaller student"
        )
    graph = onnx_graph(model, source.request, precision)
    name_nodes(graph)
    return graph


def _half(source: ExportSource, images: Mapping[str, Any]) -> tuple[ModelProto, dict[str, Any]]:
    import onnx

    from distillkit_export.onnx.float16 import to_half
    from distillkit_export.onnx.value_ranges import scan

    file, pixels = source.onnx["fp32"], source.images
    assert pixels is not None  # noqa: S101 - `_graph` looked
    graph, kept = to_half(onnx.load(file), scan(file, pixels))
    tool = f"onnxconverter-common {version('onnxconverter-common')} convert_float_to_float16"
    return graph, {"tool": tool, **images, "float32": kept}
