"""Value ranges inside a float32 graph on real images, to find what would overflow in half precision.

ONNX Runtime computes half precision in float32 on the CPU, so a tensor that overflows to infinity on a GPU stays finite
there. The range of every tensor reveals the overflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit_export.onnx.node_names import values_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from distillkit_export.images.gate_images import Pixels

LARGEST_HALF = 65504.0
"""The largest finite number of IEEE 754 binary16."""
BATCH = 16
PREFIX = "largest of "


def scan(file: Path, pixels: Pixels) -> Mapping[str, float]:
    """The largest absolute value of every float node output of `file`, over all images.

    Raises: GateError if ONNX Runtime cannot run the graph.
    """
    import onnx

    from distillkit_export.onnx.session import all_outputs

    model = onnx.load(file)
    names = _add_range_outputs(model)
    largest = dict.fromkeys(names, 0.0)
    run = all_outputs(model, file.name)
    for start in range(0, len(pixels), BATCH):
        images: NDArray[Any] = pixels[np.arange(start, min(start + BATCH, len(pixels)))]
        found = run(images)
        for name in names:
            largest[name] = float(np.fmax(largest[name], found[PREFIX + name]))
    return largest


def _add_range_outputs(model: ModelProto) -> list[str]:
    """Add an output with the largest absolute value of each float tensor; returns the tensors' names."""
    from onnx import TensorProto, helper

    floats = values_of(model, TensorProto.FLOAT)
    names = [name for node in model.graph.node for name in node.output if name in floats]
    for name in names:
        model.graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"absolute of {name}"]),
                helper.make_node("ReduceMax", [f"absolute of {name}"], [PREFIX + name], keepdims=0),
            ]
        )
        model.graph.output.append(helper.make_tensor_value_info(PREFIX + name, TensorProto.FLOAT, []))
    return names
