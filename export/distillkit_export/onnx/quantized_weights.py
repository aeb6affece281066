"""Store the weights of a quantised graph in 8 bits: QuantizeLinear on a constant becomes an initializer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

LARGEST_FP8 = 448.0
"""The largest finite number of float8 E4M3."""


def fold_weights(model: ModelProto) -> int:
    """Replace each QuantizeLinear of an initializer, in place, by its result; return the number of replaced nodes.

    DequantizeLinear stays, as TensorRT needs it between a quantised weight and its layer. Results in ONNX Runtime are
    bit-equal to those of the unfolded graph.
    """
    graph = model.graph
    values = {entry.name: entry for entry in graph.initializer}
    folded = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in values]
    for node in folded:
        graph.initializer.append(_quantized(node, values))
        graph.node.remove(node)
    # After all nodes: a weight that two layers share has a QuantizeLinear for each.
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    unused = {name for node in folded for name in node.input} - used
    for name in unused:
        graph.initializer.remove(values[name])
    return len(folded)


def _quantized(node: NodeProto, values: dict[str, TensorProto]) -> TensorProto:
    """The output of a QuantizeLinear node whose inputs are all initializers."""
    from onnx import TensorProto, numpy_helper

    weight, scale, zero = (numpy_helper.to_array(values[name]) for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    kind = values[node.input[2]].data_type
    entry = TensorProto(name=node.output[0], data_type=kind, dims=weight.shape)
    entry.raw_data = _rounded(weight, _along(scale, axis, weight.ndim), _along(zero, axis, weight.ndim)).tobytes()
    return entry


def _along(parameter: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """A scale or zero point per channel in the shape that broadcasts with a weight: [N] to [1, N, 1]; [] stays."""
    if parameter.ndim == 0:
        return parameter
    shape = [1] * rank
    shape[axis] = len(parameter)
    return parameter.reshape(shape)  # [1, ..., N, ..., 1]


def _rounded(weight: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any]) -> NDArray[Any]:
    """As QuantizeLinear: divided in float32, rounded half to even, saturated, in the type of `zero`. Shapes: any."""
    scaled: NDArray[np.float32] = weight / scale
    stored: NDArray[Any]
    if zero.dtype == np.int8:
        stored = np.clip(np.rint(scaled) + zero, -128, 127).astype(np.int8)
        return stored
    # Without the clip, a value that rounds above the largest number becomes NaN: float8 E4M3FN has no infinity.
    stored = np.clip(scaled, -LARGEST_FP8, LARGEST_FP8).astype(zero.dtype)
    return stored
