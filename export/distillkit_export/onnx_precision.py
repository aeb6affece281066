"""The precision that an ONNX file really has, read from its tensors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.exporting import Precision

if TYPE_CHECKING:
    from onnx import ModelProto


def precision_of(file: Path) -> Precision:
    """As `precision_of_graph`."""
    import onnx

    return precision_of_graph(onnx.load(file))


def precision_of_graph(model: ModelProto) -> Precision:
    """The type in which the weights are multiplied: of Q/DQ pairs the quantised one, else that of most weights."""
    from onnx import TensorProto

    types = {entry.name: entry.data_type for entry in model.graph.initializer}
    quantized = {types.get(node.input[2]) for node in model.graph.node if node.op_type == "QuantizeLinear"}
    if TensorProto.INT8 in quantized:
        return "int8"
    if TensorProto.FLOAT8E4M3FN in quantized:
        return "fp8"
    sizes: Counter[int] = Counter()
    for entry in model.graph.initializer:
        size = 1
        for side in entry.dims:
            size *= side
        sizes[entry.data_type] += size
    floats: dict[int, Precision] = {
        TensorProto.FLOAT: "fp32",
        TensorProto.FLOAT16: "fp16",
        TensorProto.BFLOAT16: "bf16",
    }
    return floats[max(floats, key=lambda kind: sizes[kind])]
