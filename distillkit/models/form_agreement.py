"""Agreement of a teacher's form with the plain form in float32: signal by signal, on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.contracts.model import Outputs, Signal
from distillkit.plugin.runtime_checks import tensors_of


@dataclass(frozen=True)
class FormLimits:
    """Limits for one signal: the largest error relative to the largest value, and the least SQNR in decibels."""

    max_relative: float
    min_sqnr_db: float


LIMITS: Mapping[torch.dtype, FormLimits] = {
    torch.float32: FormLimits(1e-4, 90.0),
    torch.float16: FormLimits(1e-2, 50.0),
    torch.bfloat16: FormLimits(5e-2, 35.0),
}
"""Limits for logits and features by precision: those of the export gate (docs/export.md)."""
ROW_LIMITS: Mapping[torch.dtype, FormLimits] = {
    torch.float32: FormLimits(1e-3, 70.0),
    torch.float16: FormLimits(5e-2, 35.0),
    torch.bfloat16: FormLimits(2e-1, 20.0),
}
"""Limits for attention rows: the softmax raises the absolute error of scores of 10 and more to a relative one."""


def disagreement(plain: Outputs, outputs: Outputs, precision: torch.dtype) -> str | None:
    """In which signal the outputs of a form in `precision` exceed a limit, as the end of a sentence; None if in none.

    A changed top-1 class has no limit of its own: beyond the limits of the logits it takes an error that exceeds them,
    and within them the teacher itself was undecided.
    Shapes: tensors [n, ...] of `plain`, in float32, and [b, ...] of `outputs`, whose first n images are compared.
    """
    others = tensors_of(outputs)
    for name, reference in tensors_of(plain).items():
        is_row = name == Signal.CLS_ATTENTION.value
        limits = (ROW_LIMITS if is_row else LIMITS)[precision]
        relative, sqnr_db = _errors(reference, others[name][: len(reference)])
        # Not "greater": an error that is not a number exceeds every limit.
        if not relative <= limits.max_relative:
            return f"{name} differ by {relative:.2g} of the largest value (limit {limits.max_relative:g})"
        if not sqnr_db >= limits.min_sqnr_db:
            return f"{name} have an SQNR of {sqnr_db:.1f} dB (at least {limits.min_sqnr_db:g} dB required)"
    return None


def _errors(reference: Tensor, value: Tensor) -> tuple[float, float]:
    """The largest error relative to the largest value, and the SQNR in decibels; tensors of any shape."""
    reference, value = reference.cpu().double(), value.cpu().double()  # not every device has float64
    error = value - reference
    largest, noise = float(reference.abs().max()), float(error.square().sum())
    relative = float(error.abs().max()) / largest if largest else float(noise > 0)
    if not math.isfinite(noise):
        return math.nan, math.nan
    if noise == 0:
        return relative, math.inf
    return relative, 10 * math.log10(float(reference.square().sum()) / noise) if largest else -math.inf
