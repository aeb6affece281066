"""The actual precision of an ONNX file, read from its tensors without the onnx package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distillkit.contracts.exporter import Precision
from distillkit.errors import GateError
from distillkit_export.onnx_scan.structure import OnnxStructureError, read_structure

FLOATS: Mapping[int, Precision] = {1: "fp32", 10: "fp16", 16: "bf16"}
QUANTIZED: Mapping[int, Precision] = {3: "int8", 17: "fp8"}
"""ONNX element types: TensorProto.FLOAT, FLOAT16, BFLOAT16; INT8, FLOAT8E4M3FN."""


def precision_of(file: Path) -> Precision:
    """The type in which weights are multiplied: the quantised type if there are Q/DQ pairs, else that of most weights.

    Raises: GateError for a file that is not an ONNX model.
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
