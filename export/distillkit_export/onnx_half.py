"""float16 from a float32 graph: onnxconverter-common does it, the range scan says what must stay in float32."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distillkit_export.range_scan import LARGEST_HALF

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

    from onnxconverter_common.float16 import convert_float_to_float16

    kept = [node.name for node in model.graph.node if _must_stay(node, largest)]
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
    return half, kept


def _must_stay(node: NodeProto, largest: Mapping[str, float]) -> bool:
    """Whether what goes in or comes out may leave float16, or the squares inside a norm."""
    values = [largest.get(name, 0.0) for name in (*node.input, *node.output)]
    if any(not value <= LARGEST_HALF / HEADROOM for value in values):
        return True
    return node.op_type in NORMS and not values[0] <= math.sqrt(LARGEST_HALF / HEADROOM)
