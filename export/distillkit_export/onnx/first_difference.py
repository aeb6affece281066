"""First node at which an exported graph diverges from the float32 graph that it was made from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit_export.agreement import sqnr_db
from distillkit_export.onnx.node_names import values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto


def first_difference(reference: Path, file: Path, images: NDArray[Any], least_db: float) -> str | None:
    """First node, in execution order, whose output has an SQNR below `least_db`; None if the graphs share no value.

    If no node is below, the node with the largest loss compared with the worst node before it. Values are compared by
    name.
    Shapes: images [B, C, H, W] normalised, or [B, H, W, C] uint8.
    Raises: GateError or UnavailableError if ONNX Runtime cannot run one of the graphs.
    """
    import onnx

    from distillkit_export.onnx.session import all_outputs

    exact, other = onnx.load(reference), onnx.load(file)
    shared = _shared(exact, other)
    if not shared:
        return None
    for model in (exact, other):
        add_outputs(model, shared)
    expected, found = all_outputs(exact, reference.name)(images), all_outputs(other, file.name)(images)
    shown = {name: node.name or node.op_type for node in exact.graph.node for name in node.output}
    worst, lost, left = math.inf, {}, {}
    for name in shared:
        decibels = decibels_between(expected[name], found[name])
        if decibels < least_db:
            return with_decibels(shown[name], decibels)
        # Equal values have an infinite SQNR, from which no loss can be counted.
        lost[name] = worst - decibels if math.isfinite(worst) else 0.0
        left[name], worst = decibels, min(worst, decibels)
    steepest = max(shared, key=lambda name: lost[name])
    if lost[steepest] > 0:
        return f"{shown[steepest]} (loses {lost[steepest]:.1f} dB)"
    lowest = min(shared, key=lambda name: left[name])
    return with_decibels(shown[lowest], left[lowest]) if math.isfinite(left[lowest]) else None


def decibels_between(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """SQNR of a value inside a graph, any shape, in dB; minus infinity if it is not finite."""
    signal, received = expected.astype(np.float64), found.astype(np.float64)
    return sqnr_db(signal, received) if np.isfinite(received).all() else -math.inf


def with_decibels(layer: str, decibels: float) -> str:
    """A layer with its SQNR: "blocks.0.attn.qkv/MatMul (12.3 dB)"."""
    return f"{layer} ({decibels:.1f} dB)" if np.isfinite(decibels) else f"{layer} (not finite)"


def _shared(exact: ModelProto, other: ModelProto) -> list[str]:
    """Names of float values that nodes of both graphs write, in execution order of `exact`."""
    from onnx import TensorProto

    typed = [values_of(model, TensorProto.FLOAT, TensorProto.FLOAT16) for model in (exact, other)]
    written = {name for node in other.graph.node for name in node.output}
    return [
        name
        for node in exact.graph.node
        for name in node.output
        if name in written and all(name in names for names in typed)
    ]


def add_outputs(model: ModelProto, names: list[str]) -> None:
    """Add values inside a graph to its outputs."""
    import onnx

    there = {value.name for value in model.graph.output}
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value for value in graph.value_info}
    model.graph.output.extend(values[name] for name in names if name not in there)
