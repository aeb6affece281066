"""Difference and accuracy metrics of the gate: max error, cosine, SQNR, top-1 agreement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distillkit.errors import GateError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Difference:
    """Difference between the outputs of the exported file and the model's, over one or several batches.

    `max_absolute` is max |file - model| and `max_relative` is that over max |model|. `min_cosine` is the smallest
    cosine similarity of the two outputs of an image. `sqnr_db` is 10 log10 of sum(model²) / sum((file - model)²),
    infinite if they are equal. `top1_agreement` is the share of images with the same top-1 class, from 0 to 1, None
    for embeddings.
    """

    finite: bool
    max_absolute: float
    max_relative: float
    min_cosine: float
    sqnr_db: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of model and file on the same labelled images, in percent.

    `lost` counts the images that only the model gets right, `gained` those that only the file gets right. `drop` is
    in percentage points; `drop_error` is its standard error over the choice of images.
    Source: McNemar 1947, Psychometrika 12: the difference of two paired shares depends only on the images where they
        differ; its variance is (lost + gained - (lost - gained)² / n) / n².
    """

    images: int
    model: float
    file: float
    lost: int
    gained: int

    @property
    def drop(self) -> float:
        return 100 * (self.lost - self.gained) / self.images

    @property
    def drop_error(self) -> float:
        variance = self.lost + self.gained - (self.lost - self.gained) ** 2 / self.images
        return 100 * math.sqrt(max(variance, 0.0)) / self.images


def difference(model: NDArray[np.float32], file: NDArray[np.float32], *, classes: bool = True) -> Difference:
    """Compare two arrays of outputs [B, K] in float64. If the model's are all zero, the file's must be too.

    Raises: GateError if the shapes differ.
    """
    expected, actual = model.astype(np.float64), file.astype(np.float64)
    if expected.shape != actual.shape:
        raise GateError(f"the exported file outputs shape {list(actual.shape)}, torch {list(expected.shape)}")
    absolute = float(np.abs(actual - expected).max())
    scale = float(np.abs(expected).max())
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    # Two zero vectors have no angle; they count as equal (cosine 1), a zero and a non-zero one as orthogonal.
    same = (expected == actual).all(axis=1)
    cosine = np.divide((expected * actual).sum(axis=1), lengths, out=same.astype(np.float64), where=lengths > 0)
    agreement = float((expected.argmax(axis=1) == actual.argmax(axis=1)).mean())
    return Difference(
        finite=bool(np.isfinite(actual).all()),
        max_absolute=absolute,
        max_relative=absolute / scale if scale > 0 else (0.0 if absolute == 0 else float("inf")),
        min_cosine=float(cosine.min()),
        sqnr_db=sqnr_db(expected, actual),
        top1_agreement=agreement if classes else None,
    )


def sqnr_db(model: NDArray[np.float64], file: NDArray[np.float64]) -> float:
    """Signal-to-quantisation-noise ratio (SQNR) in decibels; both arrays have the same shape, any shape."""
    noise = float(np.square(file - model).sum())
    signal = float(np.square(model).sum())
    if noise == 0:
        return float("inf")
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else float("-inf")


def accuracy(
    model: NDArray[np.float32], file: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> Accuracy | None:
    """Top-1 accuracy of both on the labelled images (label >= 0); None if no image has a label.

    Shapes: model and file [B, K], labels [B].
    """
    if labels is None or not (labels >= 0).any():
        return None
    known = labels >= 0
    model_right, file_right = (outputs[known].argmax(axis=1) == labels[known] for outputs in (model, file))
    return Accuracy(
        images=int(known.sum()),
        model=100 * float(model_right.mean()),
        file=100 * float(file_right.mean()),
        lost=int((model_right & ~file_right).sum()),
        gained=int((~model_right & file_right).sum()),
    )
