"""The types of the values inside a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


def values_of(model: ModelProto, *kinds: int) -> set[str]:
    """The names of all values that nodes write and whose element type is one of `kinds` (`TensorProto.FLOAT`, ...)."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    written = {name for node in model.graph.node for name in node.output}
    return {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.name in written and value.type.tensor_type.elem_type in kinds
    }
