"""What the class token of the last layer attends to, as AttnDistill compares it across heads and grids."""

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
    RowInterpolation,
    geometries,
    normalised,
    resample,
)
from distillkit_plugins.losses.head_aggregation import log_sum_heads

LEAST, MOST = 1e-5, 0.996
"""Between these the authors clamp every entry."""


def clamped(rows: Tensor) -> Tensor:
    """Clamp the entries to [1e-5, 0.996] and divide by their sum over the last axis, as the authors' code does."""
    return normalised(rows.clamp(LEAST, MOST))


def interpolated(rows: Tensor, source: Grid, goal: Grid, interpolation: RowInterpolation) -> Tensor:
    """Keep the class token's entry, and share the rest among the patches of another grid.

    Formula: (a, b) becomes (a, (1 - a) * IP(b) / sum IP(b)), a the class token's own entry and b the patches'.
    Shapes: rows [..., 1 + N] on `source` become [..., 1 + M] on `goal`.
    Source: Wang, Yang & van de Weijer 2022 (AttnDistill), arXiv:2210.00944, case (b): NR and IP. As in the authors'
        code, entries that bicubic makes negative count in the sum and are clamped later.
    Differs: any grids, square or not; the authors' are those of 224 pixels. The sum by which is divided is at least
        half of what the positive entries sum to. From a grid twice as fine it always is (at least 0.69); from a finer
        one bicubic sampling passes patches over, and a lone peak there makes the authors' sum zero or negative.
    """
    patches = resample(rows[..., 1:], source, goal, interpolation)
    positive = patches.clamp(min=0).sum(dim=-1, keepdim=True)
    whole = torch.maximum(patches.sum(dim=-1, keepdim=True), positive / 2).clamp(min=FLOOR)
    kept = rows[..., :1]
    return torch.cat([kept, (1 - kept) * patches / whole], dim=-1)


@dataclass(frozen=True)
class Guidance:
    """How the rows of this teacher and this student become comparable.

    (a) equal heads and grids: as they are; (b) other grids: the teacher's are interpolated; (c) other heads: both
    become one row by the log-sum over heads and a softmax with temperature; (d) both: (b), clamped, and then (c).
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
        """For a pair of models."""
        return cls(*geometries(student, teacher), interpolation, temperature)

    @property
    def shape(self) -> tuple[int, int]:
        """(G, 1 + N) of what is compared: the student's patches, and its heads or 1."""
        return self.student.heads if self._has_equal_heads else 1, 1 + self.student.patches

    def teacher_rows(self, rows: Tensor) -> Tensor:
        """The teacher's rows [B, H_t, 1 + N_t] as what the student is to learn, [B, G, 1 + N_s]."""
        if self.teacher.grid != self.student.grid:
            rows = interpolated(rows, self.teacher.grid, self.student.grid, self.interpolation)
            rows = rows if self._has_equal_heads else clamped(rows)
        return self._merged(rows)

    def student_rows(self, rows: Tensor) -> Tensor:
        """The student's rows [B, H_s, 1 + N_s] as what is compared, [B, G, 1 + N_s]."""
        return self._merged(rows)

    @property
    def _has_equal_heads(self) -> bool:
        return self.teacher.heads == self.student.heads

    def _merged(self, rows: Tensor) -> Tensor:
        if self._has_equal_heads:
            return clamped(rows)
        heads = rows.shape[-2]
        return clamped(log_sum_heads(rows, heads if self.temperature == "heads" else self.temperature))
