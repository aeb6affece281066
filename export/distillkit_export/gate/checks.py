"""What is checked of an ONNX file beside its answers: its structure, its ranges, and torch in its precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.errors import DistillkitError
from distillkit.messages.text import first_line, one_line
from distillkit_export.gate.limits import Limits
from distillkit_export.gate.parity import Evidence, measure
from distillkit_export.images.gate_images import normalised
from distillkit_export.onnx.node_names import values_of
from distillkit_export.onnx.value_ranges import LARGEST_HALF, scan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from distillkit.contracts.exporter import Artifact, ExportSource

IMAGES = 64
"""How many images of the gate these checks look at."""


@dataclass(frozen=True)
class GateCheck:
    """One check. `finding` ends a sentence that the file begins; `passed` is None where the check was not run."""

    name: str
    passed: bool | None
    finding: str


def checks(
    source: ExportSource, folder: Path, artifact: Artifact, against: Evidence, limits: Limits
) -> list[GateCheck]:
    """Every check that there is for an ONNX file of this precision; of other formats none."""
    if artifact.format != "onnx" or artifact.precision == "fp32":
        return []
    some = _some(against)
    return list(_checks(source, folder / artifact.file, artifact, some, limits))


def _checks(
    source: ExportSource, file: Path, artifact: Artifact, some: Evidence, limits: Limits
) -> Iterator[GateCheck]:
    import onnx

    model = onnx.load(file)
    yield structure(model)
    if artifact.precision == "fp16":
        yield ranges(model, scan(source.onnx["fp32"], some.pictures.pixels))
    if artifact.precision in {"fp16", "bf16"} and source.model is not None:
        yield _torch_forward(source, artifact, some, limits)
    if artifact.precision == "fp8":
        yield _emulated(model, file.name, some, limits)


def _some(against: Evidence) -> Evidence:
    """Some images of the gate, spread evenly."""
    count = len(against.pictures.pixels)
    places = np.unique(np.linspace(0, count - 1, min(count, IMAGES)).astype(np.int64))
    pixels = against.pictures.pixels[places]
    labels = None if against.pictures.labels is None else against.pictures.labels[places]
    pictures = replace(against.pictures, pixels=pixels, labels=labels, others=())
    return replace(against, pictures=pictures, answers=against.answers[places], others=(), sample=True)


def structure(model: ModelProto) -> GateCheck:
    """A valid graph whose types agree, and Q/DQ pairs as TensorRT's parser takes them."""
    import onnx

    name = "structure"
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return GateCheck(name, passed=False, finding=f"is no valid graph: {one_line(error)}")
    problem = next(_quantization_problems(model), None)
    if problem:
        return GateCheck(name, passed=False, finding=problem)
    return GateCheck(name, passed=True, finding="is a valid graph whose types agree")


def _quantization_problems(model: ModelProto) -> Iterator[str]:
    """What TensorRT refuses in quantised graphs: zero points that are not 0, and quantised biases."""
    from onnx import TensorProto, numpy_helper

    values = {entry.name: entry for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        point = values.get(node.input[2]) if len(node.input) > 2 else None
        if point is not None and np.any(numpy_helper.to_array(point).astype(np.float32)):
            yield f"has a zero point that is not 0 at {node.name}"
        weight = values.get(node.input[0])
        if weight is not None and weight.data_type == TensorProto.INT32:
            yield f"has a quantised bias at {node.name}"


def ranges(model: ModelProto, largest: Mapping[str, float]) -> GateCheck:
    """No tensor that is float16 in `model` goes beyond float16 in the float32 graph whose range scan is `largest`."""
    from onnx import TensorProto

    half = values_of(model, TensorProto.FLOAT16)
    nodes = {output: node.name for node in model.graph.node for output in node.output}
    for name, value in largest.items():
        if name in half and not value <= LARGEST_HALF:
            finding = (
                f"holds {value:,.0f} in float16 at {nodes.get(name, name)}, whose largest number is {LARGEST_HALF:,.0f}"
            )
            return GateCheck("range scan", passed=False, finding=finding)
    top = max((value for name, value in largest.items() if name in half), default=0.0)
    return GateCheck("range scan", passed=True, finding=f"needs {top:.3g} of float16's {LARGEST_HALF:,.0f}")


def _torch_forward(source: ExportSource, artifact: Artifact, some: Evidence, limits: Limits) -> GateCheck:
    """The student itself in that precision, finite and close."""
    from distillkit_export.gate.torch_half import half_scorer

    model = source.model
    assert model is not None  # noqa: S101 - `_checks` looked
    name = f"torch forward in {artifact.precision}"
    score = half_scorer(model, source.request, artifact.precision, artifact.made_with.get("float32", ()))

    def on_pixels(images: NDArray[Any]) -> NDArray[np.float32]:
        return score(normalised(images, model.spec) if source.request.uint8 else images)

    try:
        parity = measure(on_pixels, some, artifact.precision, limits)
    except RuntimeError as error:
        finding = f"was not run by torch in {artifact.precision}: {first_line(error)}"
        return GateCheck(name, passed=None, finding=finding)
    if not parity.passed:
        return GateCheck(
            name, passed=False, finding=f"run by torch in {artifact.precision} {'; '.join(parity.failures())}"
        )
    return GateCheck(name, passed=True, finding=f"has {parity.overall.sqnr_db:.1f} dB when torch runs it")


def _emulated(model: ModelProto, name: str, some: Evidence, limits: Limits) -> GateCheck:
    """The graph as it stands in ONNX Runtime: values rounded to FP8 and back, the products in float32."""
    from distillkit_export.onnx.session import all_outputs

    title = "emulation in float32"
    output = model.graph.output[0].name
    try:
        run = all_outputs(model, name)
        parity = measure(lambda images: run(images)[output], some, "fp8", limits)
    except DistillkitError as error:
        return GateCheck(title, passed=None, finding=f"was not emulated: {error}")
    if not parity.passed:
        return GateCheck(title, passed=False, finding=f"rounded to FP8 {'; '.join(parity.failures())}")
    return GateCheck(title, passed=True, finding=f"has {parity.overall.sqnr_db:.1f} dB when rounded to FP8")
