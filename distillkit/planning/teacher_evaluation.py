"""How many validation images a teacher is evaluated on before the first step."""

from __future__ import annotations

import math

from distillkit.contracts.model import Signal
from distillkit.data.sources import is_stream
from distillkit.data.splits import DataSets
from distillkit.planning.plan import TeacherPlan

MOST = 1_000
SHARE = 0.04
"""Limit on the teacher's computation for the evaluation, as a share of its computation in the training steps."""
LEAST = 20
"""Fewer images show too little."""


def images_to_evaluate(teacher: TeacherPlan, datasets: DataSets, *, run_images: int) -> int:
    """Number of validation images on which the teacher is evaluated; 0 where it is not.

    The classes of a teacher are matched only where a loss reads its logits. `run_images` counts every repetition.
    """
    validation = datasets.validation
    if teacher.entry.only_in_bank:  # it is not built
        return 0
    if Signal.LOGITS not in teacher.wanted or datasets.classes is None or validation is None or is_stream(validation):
        return 0
    # Computation grows with the number of pixels.
    cost = sum(math.prod(size) for size in teacher.compared) / math.prod(teacher.input_size)
    images = min(MOST, len(validation), int(SHARE * run_images / cost))
    return images if images >= LEAST else 0
