"""INT8 and FP8 quantisation with explicit Q/DQ pairs, by ONNX Runtime's quantiser, calibrated on real images.

TensorRT's parser requires symmetric ranges (zero points of 0), a separate Q/DQ pair for weights, no quantised bias, and
a pair for every consumer. Weights leave this module as float32 behind their pair; `fold_weights` stores them in 8 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit_export.export_options import Calibrator
from distillkit_export.onnx.quantized_weights import LARGEST_FP8
from distillkit_export.onnx.value_ranges import scan

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from distillkit_export.images.gate_images import Pixels

BATCH = 16
QDQ = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,  # TensorRT accepts no int32 DequantizeLinear
    "AddQDQPairToWeight": True,  # `to_fp8` replaces scales, so weights are folded after it, not by the quantiser
    "DedicatedQDQPair": True,
}


def to_int8(file: Path, pixels: Pixels, calibrator: Calibrator) -> tuple[ModelProto, list[str]]:
    """INT8 weights, one scale per channel, and activations, one scale per tensor; also the quantised nodes' names."""
    from onnxruntime.quantization import CalibrationMethod, QuantType

    method = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[calibrator]
    return _quantized(file, pixels, QuantType.QInt8, method, per_channel=True)


def to_fp8(file: Path, pixels: Pixels) -> tuple[ModelProto, list[str]]:
    """E4M3 weights and activations, one scale per tensor; also the names of the quantised nodes.

    ONNX Runtime's only calibrator for FP8 uses the spread of the values and clips outliers. The scales are replaced by
    the largest value of the range scan over 448, since float8 has enough exponent range.
    """
    from onnx import numpy_helper
    from onnxruntime.quantization import CalibrationMethod, QuantType

    method = CalibrationMethod.Distribution
    first = pixels[np.arange(min(BATCH, len(pixels)))]
    model, nodes = _quantized(file, first, QuantType.QFLOAT8E4M3FN, method, per_channel=False)
    largest = scan(file, pixels)
    values = {entry.name: entry for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":  # DequantizeLinear reads the same scale
            continue
        source, scale = node.input[0], values[node.input[1]]
        weight = values.get(source)
        top = float(np.abs(numpy_helper.to_array(weight)).max()) if weight is not None else largest.get(source)
        if top is not None:
            # All zero, as a convolution is whose batch norm starts at zero: a scale of 0 would turn it into NaN.
            step = top / LARGEST_FP8 or 1.0
            scale.CopyFrom(numpy_helper.from_array(np.array(step, np.float32), scale.name))
    return model, nodes


def chosen_nodes(model: ModelProto) -> list[str]:
    """The nodes to quantise: MatMul and Conv with weights, except the class head, whose cost is negligible.

    In a network that is mostly attention the patch embedding's convolution and products of two activations also stay in
    float: quantising them costs more accuracy than it gains speed (37 against 31 dB on a trained ViT).
    """
    weights = {entry.name: int(np.prod(entry.dims)) for entry in model.graph.initializer}
    by_type: dict[str, list[NodeProto]] = {"MatMul": [], "Conv": []}
    for node in model.graph.node:
        if node.op_type in by_type and node.input[1] in weights:
            by_type[node.op_type].append(node)
    sizes = {kind: sum(weights[node.input[1]] for node in nodes) for kind, nodes in by_type.items()}
    chosen = by_type["MatMul"] + (by_type["Conv"] if sizes["Conv"] > sizes["MatMul"] else [])
    outputs = {value.name for value in model.graph.output}
    return [node.name for node in chosen if not outputs & set(node.output)]


def _quantized(
    file: Path, pixels: Pixels, kind: Any, method: Any, *, per_channel: bool
) -> tuple[ModelProto, list[str]]:
    import onnx
    from onnxruntime.quantization import QuantFormat, quantize_static

    nodes = chosen_nodes(onnx.load(file))
    with TemporaryDirectory() as folder, _quiet():
        written = Path(folder) / "quantized.onnx"
        quantize_static(
            file,
            written,
            _Reader(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=kind,
            weight_type=kind,
            nodes_to_quantize=nodes,
            calibrate_method=method,
            extra_options=QDQ,
        )
        return onnx.load(written), nodes


class _Reader:
    """Calibration data reader: the images in batches."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches = self._read(pixels)

    @staticmethod
    def _read(pixels: Pixels) -> Iterator[dict[str, Any]]:
        from distillkit.contracts.exporter import INPUT

        # The quantiser's histograms need equal batches, so the last one wraps around.
        size = min(BATCH, len(pixels))
        for start in range(0, len(pixels), size):
            yield {INPUT: pixels[np.arange(start, start + size) % len(pixels)]}

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantiser's logs and prints about its steps; users cannot act on them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(disabled)
