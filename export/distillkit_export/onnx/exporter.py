"""The exporter called `onnx`: one file per precision, dynamic batch, gated in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from distillkit.contracts.exporter import PRECISIONS, Artifact, ExportSource, Precision, Scorer
from distillkit.contracts.runtime import Servable
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
"""Limit on float32 weights. A protobuf file holds less than 2 GiB; the rest is for the graph and its constants."""


class OnnxOptions(BaseModel):
    """Options of the ONNX exporter; they apply to the files other than float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibrator: Calibrator = Field(
        "minmax",
        description="how INT8 activation ranges are set: by the largest value, or clipped by entropy or percentile",
    )
    float_weights: bool = Field(
        default=False, description="store the weights of INT8 and FP8 files as float32 behind Q/DQ pairs, not in 8 bits"
    )


class OnnxExporter:
    """Export `model.onnx` and `model.bf16.onnx` from the student, and the other precisions from `model.onnx`."""

    Options = OnnxOptions
    precisions: tuple[Precision, ...] = PRECISIONS

    def __init__(self, options: OnnxOptions) -> None:
        self.options = options

    @property
    def runtime(self) -> str:
        return f"onnxruntime {version('onnxruntime')}, {PROVIDER}"

    def check(self) -> None:
        """Refuse if torch, timm or a package of the extra `export` is missing."""
        needed = ("onnx", "onnxscript", "onnxconverter_common", "onnxruntime", "torch", "timm")
        require(*needed, what="the export to ONNX")

    def write(self, source: ExportSource, directory: Path, precision: Precision) -> Artifact:
        """Write the graph in `precision`: traces of this machine removed, metadata added, checked by onnx."""
        if source.model is None:
            raise UnavailableError("ONNX files are exported from a student, not from a bundle; export the run again")
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
                    f"bf16 needs --opset {BF16_OPSET} or later, the first with bf16 convolutions, not "
                    f"{source.request.opset}; leave out --opset"
                )
            return _exported(source, precision), {"tool": "torch.onnx", "float32": []}
        if source.images is None:
            raise UserError(f"{precision} needs real images for calibration; give --data DIR")
        images = {"images": len(source.images), "images_from": source.images_from}
        if precision == "fp16":
            return _half(source, images)
        return self._quantized(source, precision, images)

    def _quantized(
        self, source: ExportSource, precision: Precision, images: Mapping[str, Any]
    ) -> tuple[ModelProto, dict[str, Any]]:
        from distillkit_export.onnx.quantize import to_fp8, to_int8
        from distillkit_export.onnx.quantized_weights import fold_weights

        file, pixels = source.onnx["fp32"], source.images
        assert pixels is not None  # noqa: S101 - checked in `_graph`
        if precision == "int8":
            calibrator: str = self.options.calibrator
            graph, nodes = to_int8(file, pixels, self.options.calibrator)
        else:
            calibrator = "largest value over 448"
            graph, nodes = to_fp8(file, pixels)
        if not nodes:
            raise UnavailableError(
                f"the graph has no MatMul or Conv to quantize to {precision}; leave out --{precision}"
            )
        # Folded before the gate: OpenVINO rounds the two forms differently, so only the shipped one proves anything.
        if not self.options.float_weights:
            fold_weights(graph)
        tool = f"onnxruntime {version('onnxruntime')} quantize_static, explicit Q/DQ, symmetric"
        made_with = {"tool": tool, "calibrator": calibrator, **images, "quantized": nodes, "float32": "all else"}
        return graph, {**made_with, "weights": "fp32" if self.options.float_weights else precision}

    def precision_of(self, file: Path) -> Precision:
        return precision.precision_of(file)

    def open(self, file: Path) -> Scorer:
        return OnnxSession(file)

    def open_checked(self, servable: Servable) -> Scorer:
        """As `open`, for a file whose SHA-256 was checked."""
        with servable.checked() as model:
            return OnnxSession(Path(servable.source), model=model)


def _exported(source: ExportSource, precision: Precision = "fp32") -> ModelProto:
    """The student exported by torch, with nodes named after their modules."""
    from distillkit_export.from_torch.graph import onnx_graph
    from distillkit_export.onnx.node_names import name_nodes

    model = source.model
    assert model is not None  # noqa: S101 - checked in `write`
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
    assert pixels is not None  # noqa: S101 - checked in `_graph`
    graph, kept = to_half(onnx.load(file), scan(file, pixels))
    tool = f"onnxconverter-common {version('onnxconverter-common')} convert_float_to_float16"
    return graph, {"tool": tool, **images, "float32": kept}
