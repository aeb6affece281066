"""What a run will take, from counted arithmetic and a short measurement of this device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

ADAM_BYTES = 16
"""Bytes per trained parameter in float32: weight, gradient and the two moments of the Adam family."""


@dataclass(frozen=True)
class Cost:
    """Arithmetic and memory, counted; a multiply-add is two operations.

    `student_flops` and `teacher_flops` are one image's forward; a training step takes three student forwards' worth
    (one forward, two for the gradients) and one teacher forward. `memory_bytes` counts weights, gradients and
    optimiser state, not activations.
    """

    student_flops: int
    teacher_flops: int
    student_parameters: int
    teacher_parameters: int
    images: int

    @property
    def total_flops(self) -> int:
        """Operations of the whole run, evaluation left out."""
        return self.images * (3 * self.student_flops + self.teacher_flops)

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients and optimiser state."""
        return ADAM_BYTES * self.student_parameters + 4 * self.teacher_parameters


def matmul_rate(device: torch.device, seconds: float = 0.2) -> float:
    """Floating-point operations per second that this device reaches in a float32 matrix product, measured.

    No model reaches it, so that a time derived from it is a lower bound.
    """
    side = 1024
    left, right = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        float((left @ right)[0, 0])
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best
