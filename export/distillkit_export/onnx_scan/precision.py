"""The precision that an ONNX file really has, read from its tensors. Needs no onnx package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distillkit.contracts.exporter import Precision
from distillkit.errors import GateError
from distillkit_export.onnx_scan.structure import OnnxStructureError, read_structure

FLOATS: Mapping[int, Precision] = {1: "fp32", 10: "fp16", 16: "bf16"}
QUANTIZED: Mapping[int, Precision] = {3: "int8", 17: "fp8"}
"""The element types of ONNX: TensorProto.FLOAT, FLOAT16, BFLOAT16; INT8, FLOAT8E4M3FN."""


def precision_of(file: Path) -> Precision:
    """The type in which the weights are multiplied: of Q/DQ pairs the quantised one, else that of most weights.

    Raises: GateError for a file that is no ONNX model.
    """
    try:
        found = read_structure(file)
    except OnnxStructureError as error:
        raise GateError(f"{file.name} {error}") from error
    quantized = {found.types.get(name) for name in found.zero_points}
    for kind, precision in QUANTIZED.items():
        if kind in quantized:
            return precision
    return FLOATS[max(FLOATS, key=lambda kind: found.numbers.get(kind, 0))]
