"""Which layer first: where an exported float32 graph begins to differ from the modules of torch that it was made from.

torch.onnx.verification compares a graph with the program that was traced, so what tracing itself got wrong, such as a
size that became a constant, is the same on both sides. Here the modules run as they are, in eager mode.
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
    """The first module inside the student's network that `file` answers for with too little signal over noise.

    A module is held against the values of its shape that the nodes called by it write, and the nearest counts. One
    without any is passed over: a convolution is merged into its norm and called by it. None where every module agrees.
    Raises: GateError or UnavailableError where ONNX Runtime cannot run the graph.
    """
    import onnx

    graph = onnx.load(file)
    names = values_of(graph, onnx.TensorProto.FLOAT)
    writers = {name: node.name for node in graph.graph.node for name in node.output if name in names}
    add_outputs(graph, list(writers))
    found = all_outputs(graph, file.name)(images)
    for module, answer in _answers(model, request, images):
        own = [found[name] for name, node in writers.items() if node.startswith((f"{module}/", f"{module}."))]
        alike = [decibels_between(answer, value) for value in own if value.shape == answer.shape]
        if alike and max(alike) < least_db:
            return with_decibels(module, max(alike))
    return None


def _answers(model: Model, request: ExportRequest, images: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """What the modules answer inside the network of the copy that is exported, one tensor each, as they finish."""
    scores = folded_scores(model, request)
    answers: list[tuple[str, NDArray[Any]]] = []

    def note(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            answers.append((name, output.numpy().copy()))  # the next module may work in place

    for name, module in scores.model.network.named_modules():
        if name:
            module.register_forward_hook(partial(note, name))
    with torch.inference_mode():
        scores(torch.from_numpy(images))
    return answers
