"""Accuracy loss of a student at an image size it was not trained for.

Parity with torch does not show it, because the torch model loses the same accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distillkit_export.gate.parity import Z_99

if TYPE_CHECKING:
    from distillkit.running.directory import RunDirectory
    from distillkit_export.gate.parity import Reference

MIN_LOSS = 5.0
"""Smallest accuracy loss that is reported, in percentage points."""


@dataclass(frozen=True)
class RunAccuracy:
    """Top-1 accuracy that a run measured, in percent, on images of `size` (height, width)."""

    top1: float
    size: tuple[int, int]


def read_run_accuracy(run: RunDirectory, size: tuple[int, int]) -> RunAccuracy | None:
    """Test accuracy from a run's `result.json`; None if the run is unfinished or has no labelled test images."""
    if not run.result.is_file():
        return None
    top1 = run.read_result()["figures"].get("test/top1")
    return None if top1 is None else RunAccuracy(top1, size)


def accuracy_loss_note(reference: Reference, size: tuple[int, int], measured: RunAccuracy | None) -> str:
    """Note if the model is much less accurate at `size` than at its own image size; "" if not, or not measured."""
    labels = reference.images.labels
    if measured is None or size == measured.size or labels is None or not (labels >= 0).any():
        return ""
    known = labels >= 0
    share = float((reference.outputs[known].argmax(axis=1) == labels[known]).mean())
    # Standard error of the share: a few images must not trigger the note by chance.
    error = 100 * float(np.sqrt(max(share * (1 - share), 0.0) / known.sum()))
    if measured.top1 - 100 * share < max(MIN_LOSS, Z_99 * error):
        return ""
    return (
        f"the student has a top-1 accuracy of only {100 * share:.1f} % at {_shown(size)} pixels, and "
        f"{measured.top1:.1f} % at its own {_shown(measured.size)}: train a student for this size, or leave out "
        "--image-size"
    )


def _shown(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
