"""Tiny ONNX model that every runtime can execute, and its expected output."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (3, 8, 8)
"""Channels, height and width of its images; any batch."""

ONNX = base64.b64decode(
    "CAg6jAEKIwoGaW1hZ2VzEgZwb29sZWQiEUdsb2JhbEF2ZXJhZ2VQb29sChkKBnBvb2xlZBIGbG9naXRzIgdGbGF0dGVuEgR0aW55WiUKBmlt"
    "YWdlcxIbChkIARIVCgcSBWJhdGNoCgIIAwoCCAgKAggIYh0KBmxvZ2l0cxITChEIARINCgcSBWJhdGNoCgIIA0IECgAQEg=="
)
"""An ONNX file of opset 18: GlobalAveragePool, then Flatten.

Stored as bytes, because building it would need the package onnx.
"""


def images(batch: int) -> NDArray[np.float32]:
    """A batch [B, 3, 8, 8] whose channels have very different means, so that a wrong output is noticed."""
    values: NDArray[np.float32] = np.linspace(0, 1, batch * math.prod(SHAPE), dtype=np.float32)
    return values.reshape(batch, *SHAPE)  # [B, C, H, W]


def expected_output(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """The expected output: the mean of each channel, from [B, 3, H, W] to [B, 3]."""
    means: NDArray[np.float32] = batch.mean(axis=(2, 3))
    return means
