"""The exporter called `onnx`: one file, float32, dynamic batch, gated in ONNX Runtime on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distillkit.errors import UnavailableError
from distillkit.exporting import Artifact, ExportSource, Precision, Scorer
from distillkit.extras import require
from distillkit_export import onnx_file
from distillkit_export.onnx_session import PROVIDER, OnnxSession

FILE = "model.onnx"
LARGEST_BYTES = 2_000_000_000
"""Of float32 weights. One protobuf file holds less than 2 GiB, the rest is room for the graph and its constants."""


class OnnxOptions(BaseModel):
    """There is nothing to set yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OnnxExporter:
    """Write `model.onnx`."""

    Options = OnnxOptions
    precisions: tuple[Precision, ...] = ("fp32",)

    def __init__(self, options: OnnxOptions) -> None:
        self.options = options

    @property
    def runtime(self) -> str:
        return f"onnxruntime {version('onnxruntime')}, {PROVIDER}"

    def check(self) -> None:
        """Refuse where a package of the extra `export`, or torch and timm, are absent."""
        require("onnx", "onnxscript", "onnxruntime", "torch", "timm", what="the export to ONNX")

    def write(self, source: ExportSource, directory: Path, precision: Precision) -> Artifact:
        """Export one answer of the model, strip the traces, describe, check and save it."""
        from distillkit_export.torch_graph import onnx_graph

        model = source.model
        if model is None:
            raise UnavailableError("ONNX is written from the student, not from a bundle; export the run again")
        size = sum(parameter.numel() for parameter in model.network.parameters()) * 4
        if size > LARGEST_BYTES:
            raise UnavailableError(
                f"model '{model.spec.name}' has {size:,} bytes of float32 weights and one ONNX file holds "
                f"{LARGEST_BYTES:,}; export a smaller student"
            )
        graph = onnx_graph(model, source.request)
        onnx_file.strip_traces(graph)
        onnx_file.describe_in(graph, source.card)
        onnx_file.save_checked(graph, directory / FILE)
        return Artifact("onnx", FILE, precision)

    def precision_of(self, file: Path) -> Precision:  # noqa: ARG002 - it writes nothing else yet
        return "fp32"

    def open(self, file: Path) -> Scorer:
        return OnnxSession(file)
