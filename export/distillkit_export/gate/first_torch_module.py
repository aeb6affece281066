"""First torch module whose output differs from the exported float32 graph.

torch.onnx.verification compares the graph with the traced program, so an error of tracing itself, such as a size that
became a constant, is on both sides. Here the original modules run in eager mode.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distillkit_export.from_torch.graph import folded_scores
from distillkit_export.onnx.first_difference import add_outputs, decibels_between, with_decibels
from distillkit_export.onnx.node_names import values_of
from distillkit_export.onnx.session import all_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import ExportRequest
    from distillkit.contracts.model import Model


def first_module(model: Model, request: ExportRequest, file: Path, images: NDArray[Any], least_db: float) -> str | None:
    """Name of the first module of the student's network whose SQNR in `file` is below `least_db`; None if none is.

    A module is compared with the graph values of equal shape whose nodes carry its name; the closest value counts. A
    module without such values is skipped: a convolution that was merged into its norm carries the norm's name.
    Shapes: images [B, C, H, W], or [B, H, W, C] for a file that normalises.
    Raises: GateError or UnavailableError if ONNX Runtime cannot run the graph.
    """
    import onnx

    graph = onnx.load(file)
    names = values_of(graph, onnx.TensorProto.FLOAT)
    writers = {name: node.name for node in graph.graph.node for name in node.output if name in names}
    add_outputs(graph, list(writers))
    values = all_outputs(graph, file.name)(images)
    for module, output in _module_outputs(model, request, images):
        named = [values[name] for name, node in writers.items() if node.startswith((f"{module}/", f"{module}."))]
        decibels = [decibels_between(output, value) for value in named if value.shape == output.shape]
        if decibels and max(decibels) < least_db:
            return with_decibels(module, max(decibels))
    return None


def _module_outputs(model: Model, request: ExportRequest, images: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """Name and output tensor of each module of the exported copy's network, in the order in which they finish."""
    scores = folded_scores(model, request)
    outputs: list[tuple[str, NDArray[Any]]] = []

    def record(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append((name, output.numpy().copy()))  # the next module may change it in place

    for name, module in scores.model.network.named_modules():
        if name:
            module.register_forward_hook(partial(record, name))
    with torch.inference_mode():
        scores(torch.from_numpy(images))
    return outputs
