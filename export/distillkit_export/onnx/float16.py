"""float16 from a float32 graph: onnxconverter-common does it, the range scan says what must stay in float32."""

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
"""Other images may go further than those that were scanned; what comes this near to the limit stays in float32."""
SMALLEST_HALF = 2.0**-24
NORMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization")


def to_half(model: ModelProto, largest: Mapping[str, float]) -> tuple[ModelProto, list[str]]:
    """A copy with float16 inside and float32 input and output; also the names of the nodes that stay in float32.

    `largest` is the range scan of `model`. onnxconverter-common keeps some operators in float32 by itself.
    """
    from copy import deepcopy

    from onnx import numpy_helper
    from onnxconverter_common.float16 import convert_float_to_float16

    weights = {
        entry.name: float(np.abs(numpy_helper.to_array(entry)).max(initial=0)) for entry in model.graph.initializer
    }
    pixels = _normalisation(model)
    kept = [node.name for node in model.graph.node if node.name in pixels or _must_stay(node, {**weights, **largest})]
    with warnings.catch_warnings():
        # A weight below the least float16 becomes that: what the parity with the model is there to judge.
        warnings.simplefilter("ignore")
        half = convert_float_to_float16(
            deepcopy(model),
            min_positive_val=SMALLEST_HALF,
            max_finite_val=LARGEST_HALF,
            keep_io_types=True,
            node_block_list=kept,
        )
    _join(half, model)
    return half, kept


def _normalisation(model: ModelProto) -> set[str]:
    """The nodes that make float pixels of whole ones, and all other casts to float32, which the tool does not touch.

    A difference of two numbers around 128 has three digits in float16.
    """
    from onnx import TensorProto

    whole = {entry.name for entry in model.graph.input if entry.type.tensor_type.elem_type == TensorProto.UINT8}
    names = set()
    for node in model.graph.node:
        follows = node.input and node.input[0] in whole
        if follows and node.op_type in {"Transpose", "Cast", "Sub", "Div"}:
            whole.update(node.output)
        if _casts_to(node, TensorProto.FLOAT) or (follows and node.op_type in {"Sub", "Div"}):
            names.add(node.name)
    return names


def _join(half: ModelProto, exact: ModelProto) -> None:
    """Lead float32 from one kept node to the next, where the tool casts it to float16 and back in between.

    The same for weights that kept nodes alone read: they are those of `exact` again.
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
    _remove_idle_casts(half)
    originals = {entry.name: entry for entry in exact.graph.initializer}
    for name in set(straight.values()) & set(weights):
        weights[name].CopyFrom(originals[name])
    del half.graph.value_info[:]  # they tell of the casts that are gone; whoever needs them infers them


def _casts_to(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(entry.name == "to" and entry.i == kind for entry in node.attribute)


def _remove_idle_casts(model: ModelProto) -> None:
    """Those that nobody reads: first the casts back, and then the casts that only they read."""
    for _ in range(2):
        read = {value.name for value in model.graph.output} | {name for node in model.graph.node for name in node.input}
        for node in [node for node in model.graph.node if node.op_type == "Cast" and not read & set(node.output)]:
            model.graph.node.remove(node)


def _must_stay(node: NodeProto, largest: Mapping[str, float]) -> bool:
    """Whether what goes in or comes out may leave float16, or the squares inside a norm."""
    values = [largest.get(name, 0.0) for name in (*node.input, *node.output)]
    if any(not value <= LARGEST_HALF / HEADROOM for value in values):
        return True
    return node.op_type in NORMS and not values[0] <= math.sqrt(LARGEST_HALF / HEADROOM)
