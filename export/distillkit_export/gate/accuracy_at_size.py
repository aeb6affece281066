"""What a student loses at a size that is not its own, which parity with torch does not show: torch loses it, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from distillkit.running.directory import RunDirectory
    from distillkit_export.gate.parity import Evidence

FAR = 5.0
"""Percentage points below the run's own figure from which on it is said."""
SURE = 2.33
"""Standard errors that chance exceeds once in a hundred times."""


@dataclass(frozen=True)
class Reached:
    """The top-1 accuracy that a run measured, in percent, on images of `size`, (height, width)."""

    top1: float
    size: tuple[int, int]


def run_reached(run: RunDirectory, size: tuple[int, int]) -> Reached | None:
    """What `result.json` of a run says of its test images; None for a run without labels or that has not ended."""
    if not run.result.is_file():
        return None
    top1 = run.read_result()["figures"].get("test/top1")
    return None if top1 is None else Reached(top1, size)


def loss_at_size(against: Evidence, size: tuple[int, int], reached: Reached | None) -> str:
    """A sentence where the model itself is far worse at `size` than at its own; "" where not, or not measured."""
    labels = against.pictures.labels
    if reached is None or size == reached.size or labels is None or not (labels >= 0).any():
        return ""
    known = labels >= 0
    share = float((against.answers[known].argmax(axis=1) == labels[known]).mean())
    error = 100 * float(np.sqrt(max(share * (1 - share), 0.0) / known.sum()))
    if reached.top1 - 100 * share < max(FAR, SURE * error):
        return ""
    return (
        f"the student itself reaches only {100 * share:.1f} % at {_shown(size)} pixels, and {reached.top1:.1f} % at "
        f"its own {_shown(reached.size)}: train a student for this size, or leave out --image-size"
    )


def _shown(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
