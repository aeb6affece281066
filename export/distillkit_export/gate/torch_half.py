"""Forward pass of the student in half precision by torch.

ONNX Runtime's CPU kernels compute float16 in float32, which hides an overflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distillkit.contracts.exporter import ExportRequest, Scorer
from distillkit.contracts.model import Model
from distillkit_export.from_torch.graph import HALVES, frozen_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PASS_THROUGH = (nn.Identity, nn.Dropout)
"""Modules that do not change values in inference, so they are not in the graph."""


def half_scorer(model: Model, request: ExportRequest, precision: str, float32_nodes: Iterable[str] = ()) -> Scorer:
    """Scorer that runs a copy of `model` with weights and activations in `precision`; its outputs are float32.

    Modules that compute one of `float32_nodes` ("blocks.0.mlp.fc1/MatMul") stay in float32, as in the file.
    The scorer maps normalised images [B, C, H, W] to scores [B, K].
    """
    dtype = HALVES[precision]
    scores = frozen_scores(model, replace(request, uint8=False))
    modules = dict(scores.model.network.named_modules())
    kept = {modules[name] for name in (node.rpartition("/")[0] for node in float32_nodes) if name in modules}
    wide = {inner for module in kept for inner in module.modules()}
    for module in set(scores.modules()) - wide:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
    # Inputs are cast at every leaf, because the outputs of the float32 modules are float32.
    for module in modules.values():
        if module in wide:
            module.register_forward_pre_hook(_cast_to(torch.float32))
        elif not any(module.children()) and not isinstance(module, PASS_THROUGH):
            module.register_forward_pre_hook(_cast_to(dtype))

    def score(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            answer: Tensor = scores(torch.from_numpy(images).to(dtype))
        return answer.float().numpy()

    return score


def _cast_to(dtype: torch.dtype) -> Any:
    def cast(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value for value in inputs
        )

    return cast
