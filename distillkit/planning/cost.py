"""The cost of a run: counted FLOPs and memory, and a short measurement of the device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

ADAM_BYTES = 16
"""Bytes per trained parameter in float32: weight, gradient and the two moments of the Adam family."""


@dataclass(frozen=True)
class Cost:
    """FLOPs and memory of a run; a multiply-add counts as two operations.

    `student_flops` and `teacher_flops` are for the forward of one image. A training step costs three student forwards
    (one forward, two for the gradients) and one teacher forward. `memory_bytes` counts weights, gradients and
    optimiser state, not activations. `prepare_flops` are those of the teachers for losses that are prepared before the
    first step, for all of their images.
    """

    student_flops: int
    teacher_flops: int
    student_parameters: int
    teacher_parameters: int
    images: int
    prepare_flops: int = 0

    @property
    def total_flops(self) -> int:
        """FLOPs of the run, without evaluation."""
        return self.images * (3 * self.student_flops + self.teacher_flops) + self.prepare_flops

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights, gradients and optimiser state."""
        # The teacher is frozen: its float32 weights only, 4 bytes each.
        return ADAM_BYTES * self.student_parameters + 4 * self.teacher_parameters


def matmul_rate(device: torch.device, seconds: float = 0.05) -> float:
    """Measured FLOP/s of this device in a float32 matrix multiplication.

    No model reaches this rate, so a time derived from it is a lower bound.
    """
    side = 1024
    left, right = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    float((left @ right)[0, 0])  # the first one includes start-up
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        float((left @ right)[0, 0])  # reading one element waits for the device
        # The fastest one: others may be interrupted.
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best
