"""Checks of an ONNX file besides its outputs: structure, float16 range, forward pass of torch in its precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.errors import DistillkitError
from distillkit.messages.text import first_line, one_line
from distillkit_export.gate.limits import Limits
from distillkit_export.gate.parity import Reference, measure
from distillkit_export.images.gate_images import normalised
from distillkit_export.onnx.node_names import values_of
from distillkit_export.onnx.value_ranges import LARGEST_HALF, scan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from distillkit.contracts.exporter import Artifact, ExportSource

IMAGES = 64
"""Number of gate images used by these checks."""


@dataclass(frozen=True)
class GateCheck:
    """Result of one check. `finding` completes a sentence that starts with the file name.

    `passed` is None if the check could not run.
    """

    name: str
    passed: bool | None
    finding: str


def checks(
    source: ExportSource, folder: Path, artifact: Artifact, reference: Reference, limits: Limits
) -> list[GateCheck]:
    """Run all checks for an ONNX file of this precision; float32 and other formats have no checks."""
    if artifact.format != "onnx" or artifact.precision == "fp32":
        return []
    return list(_checks(source, folder / artifact.file, artifact, _subset(reference), limits))


def _checks(
    source: ExportSource, file: Path, artifact: Artifact, subset: Reference, limits: Limits
) -> Iterator[GateCheck]:
    import onnx

    model = onnx.load(file)
    yield structure(model)
    if artifact.precision == "fp16":
        # Ranges of the float32 graph: ONNX Runtime's CPU kernels would not overflow in the float16 one.
        yield ranges(model, scan(source.onnx["fp32"], subset.images.pixels))
    if artifact.precision in {"fp16", "bf16"} and source.model is not None:
        yield _torch_forward(source, artifact, subset, limits)
    if artifact.precision == "fp8":
        yield _emulated(model, file.name, subset, limits)


def _subset(reference: Reference) -> Reference:
    """Evenly spaced images of the gate with their outputs."""
    count = len(reference.images.pixels)
    places = np.unique(np.linspace(0, count - 1, min(count, IMAGES)).astype(np.int64))
    pixels = reference.images.pixels[places]
    labels = None if reference.images.labels is None else reference.images.labels[places]
    images = replace(reference.images, pixels=pixels, labels=labels, other_sizes=())
    return replace(reference, images=images, outputs=reference.outputs[places], other_outputs=(), sample=True)


def structure(model: ModelProto) -> GateCheck:
    """Check that the graph is valid with consistent types, and that TensorRT's parser accepts its Q/DQ pairs."""
    import onnx

    name = "structure"
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return GateCheck(name, passed=False, finding=f"is not a valid graph: {one_line(error)}")
    problem = next(_quantization_problems(model), None)
    if problem:
        return GateCheck(name, passed=False, finding=problem)
    return GateCheck(name, passed=True, finding="is a valid graph with consistent types")


def _quantization_problems(model: ModelProto) -> Iterator[str]:
    """Yield what TensorRT rejects in quantised graphs: non-zero zero points and quantised biases."""
    from onnx import TensorProto, numpy_helper

    values = {entry.name: entry for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        point = values.get(node.input[2]) if len(node.input) > 2 else None
        if point is not None and np.any(numpy_helper.to_array(point).astype(np.float32)):
            yield f"has a non-zero zero point at {node.name}"
        weight = values.get(node.input[0])
        if weight is not None and weight.data_type == TensorProto.INT32:
            yield f"has a quantised bias at {node.name}"


def ranges(model: ModelProto, largest: Mapping[str, float]) -> GateCheck:
    """Check that no float16 tensor of `model` overflows float16 in the float32 graph, whose range scan is `largest`."""
    from onnx import TensorProto

    half = values_of(model, TensorProto.FLOAT16)
    nodes = {output: node.name for node in model.graph.node for output in node.output}
    for name, value in largest.items():
        if name in half and not value <= LARGEST_HALF:  # `not <=` also catches NaN
            node = nodes.get(name, name)
            finding = f"overflows float16 at {node}: {value:,.0f}, the largest float16 is {LARGEST_HALF:,.0f}"
            return GateCheck("range scan", passed=False, finding=finding)
    top = max((value for name, value in largest.items() if name in half), default=0.0)
    return GateCheck(
        "range scan", passed=True, finding=f"has values up to {top:.3g}, the largest float16 is {LARGEST_HALF:,.0f}"
    )


def _torch_forward(source: ExportSource, artifact: Artifact, subset: Reference, limits: Limits) -> GateCheck:
    """Check that the student itself, run by torch in that precision, has finite outputs within the limits."""
    from distillkit_export.gate.torch_half import half_scorer

    model = source.model
    assert model is not None  # noqa: S101 - `_checks` made sure
    name = f"torch forward in {artifact.precision}"
    score = half_scorer(model, source.request, artifact.precision, artifact.made_with.get("float32", ()))

    def on_pixels(images: NDArray[Any]) -> NDArray[np.float32]:
        # As in the file, which normalises in float32 in every precision.
        return score(normalised(images, model.spec) if source.request.uint8 else images)

    try:
        parity = measure(on_pixels, subset, artifact.precision, limits)
    except RuntimeError as error:
        finding = f"cannot be run by torch in {artifact.precision}: {first_line(error)}"
        return GateCheck(name, passed=None, finding=finding)
    if not parity.passed:
        return GateCheck(
            name, passed=False, finding=f"when run by torch in {artifact.precision}: {'; '.join(parity.failures())}"
        )
    return GateCheck(name, passed=True, finding=f"has an SQNR of {parity.overall.sqnr_db:.1f} dB when run by torch")


def _emulated(model: ModelProto, name: str, subset: Reference, limits: Limits) -> GateCheck:
    """Check the graph in ONNX Runtime on the CPU, which rounds values to FP8 and back and computes in float32."""
    from distillkit_export.onnx.session import all_outputs

    title = "emulation in float32"
    output = model.graph.output[0].name
    try:
        run = all_outputs(model, name)
        parity = measure(lambda images: run(images)[output], subset, "fp8", limits)
    except DistillkitError as error:
        return GateCheck(title, passed=None, finding=f"cannot be emulated: {error}")
    if not parity.passed:
        return GateCheck(title, passed=False, finding=f"when rounded to FP8: {'; '.join(parity.failures())}")
    return GateCheck(title, passed=True, finding=f"has an SQNR of {parity.overall.sqnr_db:.1f} dB when rounded to FP8")
