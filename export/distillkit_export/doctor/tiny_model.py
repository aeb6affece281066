"""The smallest model that every runtime can execute, with an answer that is known by hand."""

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
"""An ONNX file of opset 18: GlobalAveragePool, then Flatten. As bytes, because writing one takes the onnx package."""


def images(batch: int) -> NDArray[np.float32]:
    """A batch whose channels have averages far apart."""
    values: NDArray[np.float32] = np.linspace(0, 1, batch * math.prod(SHAPE), dtype=np.float32)
    return values.reshape(batch, *SHAPE)


def answer(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model answers: the average of each channel [B, 3]."""
    averages: NDArray[np.float32] = batch.mean(axis=(2, 3))
    return averages
