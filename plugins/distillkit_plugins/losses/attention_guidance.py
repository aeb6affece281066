"""AttnDistill's attention guidance: make last-layer attention rows comparable across heads and patch grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distillkit import ModelSpec
from distillkit_plugins.losses.attention_rows import (
    FLOOR,
    Geometry,
    Grid,
    geometries,
    normalised,
    resample,
)
from distillkit_plugins.losses.head_aggregation import log_sum_heads
from distillkit_plugins.losses.options import RowInterpolation

CLAMP_MIN, CLAMP_MAX = 1e-5, 0.996
"""Bounds of every entry, from the authors' code."""


def clamped(rows: Tensor) -> Tensor:
    """Clamp the entries to [1e-5, 0.996] and divide by their sum over the last axis, as the authors' code does.

    Shapes: rows [..., 1 + N] -> [..., 1 + N].
    """
    return normalised(rows.clamp(CLAMP_MIN, CLAMP_MAX))


def interpolated(rows: Tensor, source: Grid, goal: Grid, interpolation: RowInterpolation) -> Tensor:
    """Interpolate the patch entries to another grid; keep the class token's entry and the sum of 1.

    Formula: (a, b) becomes (a, (1 - a) * IP(b) / sum IP(b)), with a the class token's own entry, b those of the
        patches, and IP the interpolation.
    Shapes: rows [..., 1 + N] on `source` -> [..., 1 + M] on `goal`.
    Source: Wang, Yang & van de Weijer 2022 (AttnDistill), arXiv:2210.00944, case (b): NR and IP. As in the authors'
        code, entries that bicubic makes negative count in the sum and are clamped later.
    Differs: any two grids, square or not; the authors' code supports those of 224 pixels only. The divisor is at least
        half the sum of the positive entries. From a grid twice as fine this bound never acts (the sum is at least 0.69
        of the positive entries). From a finer grid, bicubic sampling skips patches, and a single peak between the
        sampled ones makes the authors' sum zero or negative.
    """
    patches = resample(rows[..., 1:], source, goal, interpolation)  # [..., M]
    positive = patches.clamp(min=0).sum(dim=-1, keepdim=True)  # [..., 1]
    divisor = torch.maximum(patches.sum(dim=-1, keepdim=True), positive / 2).clamp(min=FLOOR)  # [..., 1]
    class_entry = rows[..., :1]  # [..., 1]
    return torch.cat([class_entry, (1 - class_entry) * patches / divisor], dim=-1)  # [..., 1 + M]


@dataclass(frozen=True)
class Guidance:
    """The steps that make the attention rows of one teacher and one student comparable.

    (a) Equal heads and grids: the rows as they are.
    (b) Different grids: the teacher's rows are interpolated to the student's grid.
    (c) Different heads: each model's heads become one row, by log-sum over the heads and softmax with temperature.
    (d) Both differ: (b), clamped, then (c).
    In every case the rows are finally clamped to [1e-5, 0.996] and divided by their sum.
    """

    student: Geometry
    teacher: Geometry
    interpolation: RowInterpolation
    temperature: float | Literal["heads"]

    @classmethod
    def between(
        cls,
        student: ModelSpec,
        teacher: ModelSpec,
        interpolation: RowInterpolation,
        temperature: float | Literal["heads"],
    ) -> Guidance:
        """Guidance for a pair of models."""
        return cls(*geometries(student, teacher), interpolation, temperature)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (G, 1 + N) of the compared rows: G is the number of heads, or 1 where the models' heads differ."""
        return self.student.heads if self._has_equal_heads else 1, 1 + self.student.patches

    def teacher_rows(self, rows: Tensor) -> Tensor:
        """Target rows: the teacher's rows [B, A_t, 1 + N_t] -> [B, G, 1 + N_s] on the student's grid."""
        if self.teacher.grid != self.student.grid:
            rows = interpolated(rows, self.teacher.grid, self.student.grid, self.interpolation)  # [B, A_t, 1 + N_s]
            # Bicubic interpolation gives entries below 0, and the log-sum takes logarithms.
            rows = rows if self._has_equal_heads else clamped(rows)
        return self._aggregated(rows)

    def student_rows(self, rows: Tensor) -> Tensor:
        """Rows to compare with the target: the student's rows [B, A_s, 1 + N_s] -> [B, G, 1 + N_s]."""
        return self._aggregated(rows)

    @property
    def _has_equal_heads(self) -> bool:
        return self.teacher.heads == self.student.heads

    def _aggregated(self, rows: Tensor) -> Tensor:
        if self._has_equal_heads:
            return clamped(rows)
        heads = rows.shape[-2]
        return clamped(log_sum_heads(rows, heads if self.temperature == "heads" else self.temperature))  # [B, 1, 1 + N]
