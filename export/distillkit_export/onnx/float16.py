"""Convert a float32 graph to float16 with onnxconverter-common; nodes that could overflow stay in float32."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from distillkit_export.onnx.node_names import values_of
from distillkit_export.onnx.value_ranges import LARGEST_HALF

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

HEADROOM = 4.0
"""Safety factor below the float16 limit: other images may give larger values than the scanned ones."""
SMALLEST_HALF = 2.0**-24
NORMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization")


def to_half(model: ModelProto, largest: Mapping[str, float]) -> tuple[ModelProto, list[str]]:
    """A float16 copy with float32 input and output, and the names of the nodes that stay in float32.

    `largest` is the range scan of `model`. onnxconverter-common also keeps some operators in float32.
    """
    from copy import deepcopy

    from onnx import numpy_helper
    from onnxconverter_common.float16 import convert_float_to_float16

    weights = {
        entry.name: float(np.abs(numpy_helper.to_array(entry)).max(initial=0)) for entry in model.graph.initializer
    }
    pixels = _normalisation(model)
    # Converts the ONNX graph, not the network: batch norm is already folded in float32, which halves the error on CNNs.
    # onnxruntime.transformers.float16 is no alternative: it writes unsorted graphs with duplicate node names.
    kept = [
        node.name for node in model.graph.node if node.name in pixels or _needs_float32(node, {**weights, **largest})
    ]
    with warnings.catch_warnings():
        # It warns of weights below the smallest float16, which it rounds up; the parity gate judges the effect.
        warnings.simplefilter("ignore")
        half = convert_float_to_float16(
            deepcopy(model),
            min_positive_val=SMALLEST_HALF,
            max_finite_val=LARGEST_HALF,
            keep_io_types=True,
            node_block_list=kept,
        )
    _bypass_casts(half, model)
    return half, kept


def _normalisation(model: ModelProto) -> set[str]:
    """The nodes that normalise uint8 pixels, and all other casts to float32, which the converter does not touch.

    Normalisation stays in float32: the difference of two numbers around 128 has only three digits in float16.
    """
    from onnx import TensorProto

    integers = {entry.name for entry in model.graph.input if entry.type.tensor_type.elem_type == TensorProto.UINT8}
    names = set()
    for node in model.graph.node:
        follows = node.input and node.input[0] in integers
        if follows and node.op_type in {"Transpose", "Cast", "Sub", "Div"}:
            integers.update(node.output)
        if _casts_to(node, TensorProto.FLOAT) or (follows and node.op_type in {"Sub", "Div"}):
            names.add(node.name)
    return names


def _bypass_casts(half: ModelProto, exact: ModelProto) -> None:
    """Connect float32 nodes directly where the converter casts to float16 and back in between, which loses precision.

    Weights read only by float32 nodes are restored from `exact`.
    """
    from onnx import TensorProto

    floats = values_of(half, TensorProto.FLOAT) | {entry.name for entry in half.graph.input}
    shared = {name for node in half.graph.node if not _casts_to(node, TensorProto.FLOAT) for name in node.input}
    weights = {
        entry.name: entry
        for entry in half.graph.initializer
        if entry.data_type == TensorProto.FLOAT16 and entry.name not in shared
    }
    widened = {node.output[0]: node.input[0] for node in half.graph.node if _casts_to(node, TensorProto.FLOAT)}
    narrowed = {node.output[0]: node.input[0] for node in half.graph.node if _casts_to(node, TensorProto.FLOAT16)}
    straight = {
        value: narrowed.get(source, source)
        for value, source in widened.items()
        if narrowed.get(source) in floats or source in weights
    }
    for node in half.graph.node:
        for place, name in enumerate(node.input):
            if name in straight and not _casts_to(node, TensorProto.FLOAT16):
                node.input[place] = straight[name]
    _remove_unused_casts(half)
    originals = {entry.name: entry for entry in exact.graph.initializer}
    for name in set(straight.values()) & set(weights):
        weights[name].CopyFrom(originals[name])
    del half.graph.value_info[:]  # stale, since it includes the removed casts; shape inference restores it where needed


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(entry.name == "to" and entry.i == kind for entry in node.attribute)


def _remove_unused_casts(model: ModelProto) -> None:
    """Remove casts whose output is not read: first those back to float32, then those to float16 that only fed them."""
    for _ in range(2):
        read = {value.name for value in model.graph.output} | {name for node in model.graph.node for name in node.input}
        for node in [node for node in model.graph.node if node.op_type == "Cast" and not read & set(node.output)]:
            model.graph.node.remove(node)


def _needs_float32(node: NodeProto, largest: Mapping[str, float]) -> bool:
    """Whether an input or output, or a square inside a norm, could overflow float16."""
    values = [largest.get(name, 0.0) for name in (*node.input, *node.output)]
    # "not <=" rather than ">", so that NaN counts as an overflow.
    if any(not value <= LARGEST_HALF / HEADROOM for value in values):
        return True
    return node.op_type in NORMS and not values[0] <= math.sqrt(LARGEST_HALF / HEADROOM)
