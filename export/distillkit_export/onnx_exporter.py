"""The exporter called `onnx`: one file, float32, dynamic batch, gated in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from distillkit.contracts import Model
from distillkit.errors import UnavailableError
from distillkit.exporting import Artifact, ExportRequest, Scorer
from distillkit.extras import require
from distillkit_export import onnx_file
from distillkit_export.onnx_session import PROVIDER, OnnxSession

FILE = "model.onnx"
LARGEST_BYTES = 2_000_000_000
"""Of float32 weights. One protobuf file holds less than 2 GiB, the rest is room for the graph and its constants."""


class OnnxExporter:
    """Write `model.onnx`.

    The gate: forty timm families differ from torch by at most 4.4e-6 of their largest score, at batches of 1 and 3;
    1e-4 leaves room for other CPUs and is still far below what can change an answer.
    """

    largest_relative_difference = 1e-4

    @property
    def runtime(self) -> str:
        return f"onnxruntime {version('onnxruntime')}, {PROVIDER}"

    def check(self) -> None:
        """Refuse where a package of the extra `export`, or torch and timm, are absent."""
        require("onnx", "onnxscript", "onnxruntime", "torch", "timm", what="the export to ONNX")

    def write(self, model: Model, directory: Path, request: ExportRequest, card: Mapping[str, str]) -> Artifact:
        """Export one answer of `model`, strip the traces, describe, check and save it."""
        from distillkit_export.torch_graph import onnx_graph

        size = sum(parameter.numel() for parameter in model.network.parameters()) * 4
        if size > LARGEST_BYTES:
            raise UnavailableError(
                f"model '{model.spec.name}' has {size:,} bytes of float32 weights and one ONNX file holds "
                f"{LARGEST_BYTES:,}; export a smaller student"
            )
        graph = onnx_graph(model, request)
        onnx_file.strip_traces(graph)
        onnx_file.describe_in(graph, card)
        onnx_file.save_checked(graph, directory / FILE)
        return Artifact("onnx", FILE)

    def open(self, file: Path) -> Scorer:
        return OnnxSession(file)
