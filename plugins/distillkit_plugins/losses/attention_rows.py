"""The attention rows of a pair of models, and the grids of patches they lie on.

Row: the softmax of the class token's query over the class token and the N patches, [..., 1 + N]; entry 0 is the class
token's own, the rest is row-major over the grid of (rows, columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional

from distillkit import BrokenPluginError, ModelSpec, Outputs, RecipeError, Signal
from distillkit.models import at_least_float32

Grid: TypeAlias = tuple[int, int]
RowInterpolation: TypeAlias = Literal["bicubic", "area", "none"]

FLOOR = 1e-12
"""Below this a probability counts as this under a logarithm or a division, so that zeros give no inf and no nan."""


@dataclass(frozen=True)
class Geometry:
    """What of a model shapes its attention rows: heads, and the grid of its patches."""

    heads: int
    grid: Grid

    @property
    def patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


def geometries(student: ModelSpec, teacher: ModelSpec) -> tuple[Geometry, Geometry]:
    """The geometry of student and teacher.

    Where one of them reveals no attention the pair is impossible, and is refused right after `build` in words that
    name the signal; until then both count as having one head and one patch, which fits any option.
    """
    if not all(Signal.CLS_ATTENTION in spec.signals for spec in (student, teacher)):
        return Geometry(1, (1, 1)), Geometry(1, (1, 1))
    return Geometry(student.heads or 1, student.grid), Geometry(teacher.heads or 1, teacher.grid)


def attention_rows(outputs: Outputs) -> Tensor:
    """The rows [B, L, H, 1 + N], in float32 at least.

    Raises: BrokenPluginError where the model was asked for them and returned none.
    """
    if outputs.cls_attention is None:
        raise BrokenPluginError(
            "a loss reads cls_attention and the model returned none; its plugin breaks the contract"
        )
    return at_least_float32(outputs.cls_attention)


def check_grids(loss: str, student: ModelSpec, teacher: ModelSpec, interpolation: RowInterpolation) -> None:
    """Refuse grids that `interpolation` cannot bring together.

    Raises: RecipeError where the grids differ and it is "none", or where it is "area" and the teacher's rows and
    columns are not whole multiples of the student's.
    """
    of_student, of_teacher = (geometry.grid for geometry in geometries(student, teacher))
    if of_student == of_teacher:
        return
    pair = (
        f"teacher '{teacher.name}' has {of_teacher[0]} x {of_teacher[1]} patches and "
        f"student '{student.name}' {of_student[0]} x {of_student[1]}"
    )
    if interpolation == "none":
        raise RecipeError(
            f"loss '{loss}': {pair}, and interpolation = \"none\" allows no unequal grids; "
            'use "bicubic" or "area", or a patch and image size that give equal grids'
        )
    whole = all(here % there == 0 for here, there in zip(of_teacher, of_student, strict=True))
    if interpolation == "area" and not whole:
        raise RecipeError(
            f"loss '{loss}': {pair}, and interpolation = \"area\" needs whole multiples of the student's rows and "
            'columns; use "bicubic"'
        )


def resample(patches: Tensor, source: Grid, goal: Grid, interpolation: RowInterpolation) -> Tensor:
    """Bring patch entries from one grid to another. Not normalised; bicubic can give entries below 0.

    Shapes: patches [..., N] on `source` become [..., M] on `goal`; on equal grids they stay as they are.
    Source: the bicubic form is the AttnDistill authors': sampled at the centres of the new patches, without
        antialiasing, borders repeated. "area" is the mean over the patches that a new one covers.
    """
    if source == goal:
        return patches
    images = patches.reshape(-1, 1, *source)
    mode = "area" if interpolation == "area" else "bicubic"
    found = functional.interpolate(images, size=goal, mode=mode, align_corners=None if mode == "area" else False)
    return found.reshape(*patches.shape[:-1], goal[0] * goal[1])


def normalised(values: Tensor) -> Tensor:
    """Divide by the sum over the last axis; zeros stay zeros."""
    return values / values.sum(dim=-1, keepdim=True).clamp(min=FLOOR)


def patch_distribution(rows: Tensor, source: Grid, goal: Grid, interpolation: RowInterpolation) -> Tensor:
    """The patches' shares of what the class token gives to patches at all, on the grid `goal`.

    Shapes: rows [..., 1 + N] on `source` become [..., M] on `goal`, each a distribution over the patches.
    Differs: ADViT speaks of "an attention map of 196 tokens" and does not say what becomes of the class token's own
        entry; here it is left out and the rest divided by its sum. Entries below 0, which only bicubic gives, count 0.
    """
    patches = resample(rows[..., 1:], source, goal, interpolation)
    return normalised(patches.clamp(min=0))
