"""Attention rows of the class token: reading, resampling between patch grids, and normalising.

A row is the softmax of the class token's query over the class token and the N patches, [..., 1 + N]. Entry 0 is the
class token itself; the patches follow in row-major order over the grid (rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional

from distillkit import BrokenPluginError, ModelSpec, Outputs, RecipeError, Signal
from distillkit.models import at_least_float32
from distillkit_plugins.losses.options import RowInterpolation

Grid: TypeAlias = tuple[int, int]

FLOOR = 1e-12
"""Lower bound of probabilities in logarithms and divisions, so that zeros give neither inf nor nan."""


@dataclass(frozen=True)
class Geometry:
    """Number of attention heads, and patch grid (rows, columns), of a model."""

    heads: int
    grid: Grid

    @property
    def patches(self) -> int:
        """Number of patches, N."""
        return self.grid[0] * self.grid[1]


def geometries(student: ModelSpec, teacher: ModelSpec) -> tuple[Geometry, Geometry]:
    """Head count and patch grid of student and teacher, in this order."""
    # Without attention in one model the pair is refused right after `build`, with an error that names the missing
    # signal. One head and one patch pass every check until then, so that no other error comes first.
    if not all(Signal.CLS_ATTENTION in spec.signals for spec in (student, teacher)):
        return Geometry(1, (1, 1)), Geometry(1, (1, 1))
    return Geometry(student.heads or 1, student.grid), Geometry(teacher.heads or 1, teacher.grid)


def attention_rows(outputs: Outputs) -> Tensor:
    """Attention rows [B, L, A, 1 + N] of a model's outputs, in float32 at least.

    Raises: BrokenPluginError if the model did not return the attention it was asked for.
    """
    if outputs.cls_attention is None:
        raise BrokenPluginError(
            "a loss reads cls_attention and the model returned none; its plugin breaks the contract"
        )
    return at_least_float32(outputs.cls_attention)


def check_grids(loss: str, student: ModelSpec, teacher: ModelSpec, interpolation: RowInterpolation) -> None:
    """Check that `interpolation` can resample the teacher's grid to the student's.

    Raises: RecipeError if the grids differ and `interpolation` is "none", or if it is "area" and the teacher's rows and
    columns are not multiples of the student's.
    """
    student_grid, teacher_grid = (geometry.grid for geometry in geometries(student, teacher))
    if student_grid == teacher_grid:
        return
    pair = (
        f"teacher '{teacher.name}' has {teacher_grid[0]} x {teacher_grid[1]} patches and "
        f"student '{student.name}' {student_grid[0]} x {student_grid[1]}"
    )
    if interpolation == "none":
        raise RecipeError(
            f"loss '{loss}': {pair}, but interpolation = \"none\" needs equal grids; "
            'use "bicubic" or "area", or choose patch and image sizes that give equal grids'
        )
    divides = all(side % goal == 0 for side, goal in zip(teacher_grid, student_grid, strict=True))
    if interpolation == "area" and not divides:
        raise RecipeError(
            f"loss '{loss}': {pair}, but interpolation = \"area\" needs multiples of the student's rows and columns; "
            'use "bicubic"'
        )


def resample(patches: Tensor, source: Grid, goal: Grid, interpolation: RowInterpolation) -> Tensor:
    """Resample patch entries from one grid to another. The result is not normalised; bicubic can go below 0.

    Shapes: patches [..., N] on `source` -> [..., M] on `goal`; unchanged if the grids are equal.
    Source: "bicubic" is that of the AttnDistill authors: sampled at the centres of the new patches, without
        antialiasing, borders repeated. "area" is the mean over the patches that a new patch covers.
    """
    if source == goal:
        return patches
    images = patches.reshape(-1, 1, *source)  # [B', 1, rows, columns], B' the product of the leading axes
    # interpolate raises an error if align_corners is set for "area".
    mode = "area" if interpolation == "area" else "bicubic"
    resampled = functional.interpolate(images, size=goal, mode=mode, align_corners=None if mode == "area" else False)
    return resampled.reshape(*patches.shape[:-1], goal[0] * goal[1])  # [..., M]


def normalised(values: Tensor) -> Tensor:
    """Divide by the sum over the last axis; zeros stay zeros. Shapes: [..., N] -> [..., N]."""
    return values / values.sum(dim=-1, keepdim=True).clamp(min=FLOOR)


def patch_distribution(rows: Tensor, source: Grid, goal: Grid, interpolation: RowInterpolation) -> Tensor:
    """Attention of the class token as a distribution over the patches of grid `goal`.

    Shapes: rows [..., 1 + N] on `source` -> [..., M] on `goal`; each row sums to 1.
    Differs: ADViT describes "an attention map of 196 tokens" and does not say how it treats the class token's own
        entry; here that entry is dropped and the rest divided by its sum. Entries below 0, which only bicubic
        interpolation gives, are set to 0.
    """
    patches = resample(rows[..., 1:], source, goal, interpolation)  # [..., M]
    return normalised(patches.clamp(min=0))  # [..., M]
