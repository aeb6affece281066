"""INT8 and FP8 as explicit Q/DQ pairs: ONNX Runtime's quantiser writes them, real images give the ranges.

What TensorRT's parser asks for: symmetric ranges (zero points of 0), weights behind a pair of their own, no quantised
bias, and a pair for every consumer.
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
from distillkit_export.onnx.value_ranges import scan

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from distillkit_export.images.gate_images import Pixels

BATCH = 16
LARGEST_FP8 = 448.0
"""The largest finite number of float8 E4M3."""
QDQ = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
}


def to_int8(file: Path, pixels: Pixels, calibrator: Calibrator) -> tuple[ModelProto, list[str]]:
    """Signed 8-bit weights, one scale per channel, and activations, one scale per tensor; also the nodes quantised."""
    from onnxruntime.quantization import CalibrationMethod, QuantType

    method = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[calibrator]
    return _quantized(file, pixels, QuantType.QInt8, method, per_channel=True)


def to_fp8(file: Path, pixels: Pixels) -> tuple[ModelProto, list[str]]:
    """E4M3 weights and activations, one scale per tensor; also the nodes quantised.

    ONNX Runtime's quantiser knows one calibrator for FP8, by the spread of the values, and cuts off what is beyond.
    The scales are set to the largest value of the range scan over 448 instead, as float8 has the exponents for it.
    """
    from onnx import numpy_helper
    from onnxruntime.quantization import CalibrationMethod, QuantType

    method = CalibrationMethod.Distribution
    first = pixels[np.arange(min(BATCH, len(pixels)))]
    model, nodes = _quantized(file, first, QuantType.QFLOAT8E4M3FN, method, per_channel=False)
    largest = scan(file, pixels)
    values = {entry.name: entry for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        source, scale = node.input[0], values[node.input[1]]
        weight = values.get(source)
        top = float(np.abs(numpy_helper.to_array(weight)).max()) if weight is not None else largest.get(source)
        if top:
            scale.CopyFrom(numpy_helper.from_array(np.array(top / LARGEST_FP8, np.float32), scale.name))
    return model, nodes


def chosen_nodes(model: ModelProto) -> list[str]:
    """The nodes worth quantising: products with weights, without the class head, which costs nothing.

    Of a network that is mostly attention the convolution that cuts patches stays in float as well, and so do the
    products of two activations: they lose more than they win (37 against 31 dB on a trained ViT).
    """
    weights = {entry.name: int(np.prod(entry.dims)) for entry in model.graph.initializer}
    by_type: dict[str, list[NodeProto]] = {"MatMul": [], "Conv": []}
    for node in model.graph.node:
        if node.op_type in by_type and node.input[1] in weights:
            by_type[node.op_type].append(node)
    sizes = {kind: sum(weights[node.input[1]] for node in nodes) for kind, nodes in by_type.items()}
    chosen = by_type["MatMul"] + (by_type["Conv"] if sizes["Conv"] > sizes["MatMul"] else [])
    answers = {value.name for value in model.graph.output}
    return [node.name for node in chosen if not answers & set(node.output)]


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
    """The images, batch by batch, as the quantiser asks for them."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches = self._read(pixels)

    @staticmethod
    def _read(pixels: Pixels) -> Iterator[dict[str, Any]]:
        from distillkit.contracts.exporter import INPUT

        # All batches are of one size, which the quantiser's histograms rely on.
        size = min(BATCH, len(pixels))
        for start in range(0, len(pixels), size):
            yield {INPUT: pixels[np.arange(start, start + size) % len(pixels)]}

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the quantiser logs and prints about its own steps from people who cannot act on it."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(disabled)
