"""How fast a device multiplies matrices: the rate that limits every training step, in any program."""

from __future__ import annotations

import time

import torch

from distillkit.compute.devices import computes_bf16, wait_for

SIDES = (1024, 4096, 8192)
"""Rows and columns of the matrices."""
REPEATS = 10
"""Products of each size."""


def peak_precision(device: torch.device) -> torch.dtype:
    """bf16 where the device has instructions for it, else float32."""
    return torch.bfloat16 if computes_bf16(device) else torch.float32


def matmul_rate(device: torch.device, seconds: float) -> float:
    """FLOP/s of the fastest square matrix product in `peak_precision`, of those that fit into the time."""
    dtype = peak_precision(device)
    best, ends = 0.0, time.perf_counter() + seconds
    for side in SIDES:
        flops = 2 * side**3
        if best and time.perf_counter() + 2 * flops / best > ends:
            break
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        for _ in range(REPEATS):
            start = time.perf_counter()
            left @ right
            wait_for(device)
            best = max(best, flops / (time.perf_counter() - start))
            if time.perf_counter() > ends:
                return best
    return best
