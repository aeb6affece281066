"""Patch tokens of student and teacher on one grid, for losses that compare them patch by patch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit import ModelSpec, Outputs, Read, RecipeError, Signal, TargetSpec
from distillkit_plugins.losses.attention_rows import Grid
from distillkit_plugins.losses.options import Resample
from distillkit_plugins.losses.read_features import patch_tokens
from distillkit_plugins.losses.token_grids import resample_tokens


def layer_index(spec: ModelSpec, layer: int) -> int:
    """The index of a layer that may be counted from the end; one that does not exist is returned as it is."""
    return layer + spec.layers if -spec.layers <= layer < 0 else layer


def layer_indices(loss: str, spec: ModelSpec, layers: tuple[int, ...]) -> tuple[int, ...]:
    """The indices of layers that may be counted from the end. Raises: RecipeError if two are the same layer."""
    indices = tuple(layer_index(spec, layer) for layer in layers)
    if len(set(indices)) != len(indices):
        raise RecipeError(
            f"loss '{loss}': layers = {list(layers)} names a layer of '{spec.name}' twice; name each once"
        )
    return indices


def layer_width(spec: ModelSpec, index: int) -> int:
    """Width of a layer; 1 for one that the model does not have, which is refused right after `build`."""
    return spec.widths[index] if 0 <= index < len(spec.widths) else 1


def layer_grid(spec: ModelSpec, index: int) -> Grid:
    """Grid of a layer; one patch for one that the model does not have, which is refused right after `build`."""
    return spec.grids[index] if 0 <= index < len(spec.grids) else (1, 1)


@dataclass(frozen=True)
class PatchPair:
    """The layers that are compared, their grids, and the grid on which they are.

    `target_options` and `target_geometry` are what the targets depend on of the student, as in the contract of losses.
    Shapes: N_t teacher patches, N_s student patches, M patches of `goal`; D the sum of `widths`.
    """

    layers: tuple[int, ...]
    widths: tuple[int, ...]
    grids: tuple[Grid, ...]
    student_layer: int
    student_width: int
    student_grid: Grid
    goal: Grid
    target_options: frozenset[str]
    target_geometry: frozenset[str]

    @classmethod
    def between(
        cls,
        loss: str,
        student: ModelSpec,
        teacher: ModelSpec,
        *,
        layers: tuple[int, ...],
        student_layer: int,
        resample: Resample,
    ) -> PatchPair:
        """The pair of two models.

        Raises: RecipeError if grids differ that `resample` does not bring together.
        """
        indices = layer_indices(loss, teacher, layers)
        own = layer_index(student, student_layer)
        grids = tuple(layer_grid(teacher, index) for index in indices)
        student_grid = layer_grid(student, own)
        exist = all(0 <= index < len(teacher.grids) for index in indices)
        if resample != "teacher" and exist and len(set(grids)) > 1:
            raise RecipeError(
                f"loss '{loss}': layers {', '.join(map(str, indices))} of teacher '{teacher.name}' have grids "
                f'{", ".join(map(_shown, grids))}; set resample = "teacher", or read layers of one grid'
            )
        reveal = all(Signal.PATCH_TOKENS in spec.signals for spec in (student, teacher))
        if resample == "none" and grids[0] != student_grid and reveal:
            raise RecipeError(
                f"loss '{loss}': teacher '{teacher.name}' has {_shown(grids[0])} patches and student '{student.name}' "
                f'{_shown(student_grid)}, but resample = "none" needs equal grids; set it to "student" or "teacher", '
                "or choose image sizes that give equal grids"
            )
        return cls(
            indices,
            tuple(layer_width(teacher, index) for index in indices),
            grids,
            own,
            layer_width(student, own),
            student_grid,
            student_grid if resample == "teacher" else grids[0],
            frozenset({"student_layer"} if resample == "teacher" else ()),
            frozenset({"grids"} if resample == "teacher" else ()),
        )

    @property
    def patches(self) -> int:
        """Number of patches that are compared, M."""
        return self.goal[0] * self.goal[1]

    @property
    def teacher_read(self) -> Read:
        return Read(Signal.PATCH_TOKENS, self.layers)

    @property
    def student_read(self) -> Read:
        return Read(Signal.PATCH_TOKENS, (self.student_layer,))

    @property
    def target(self) -> TargetSpec:
        """The target that `of_teacher` computes."""
        return TargetSpec((self.patches, sum(self.widths)), "float32", exact=False)

    @property
    def is_smaller_for_student(self) -> bool:
        """Whether the student's grid has fewer patches than the one of the target."""
        return self.student_grid[0] * self.student_grid[1] < self.patches

    def of_teacher(self, teacher: Outputs) -> Tensor:
        """The teacher's tokens on the goal's grid, the layers joined: [B, N_t, D_i] each -> [B, M, D] float32."""
        layers = zip(patch_tokens(teacher), self.grids, strict=True)
        resampled = [resample_tokens(tokens.detach().float(), grid, self.goal) for tokens, grid in layers]
        return torch.cat(resampled, dim=-1)

    def of_student(self, projected: Tensor) -> Tensor:
        """The student's projected tokens on the goal's grid: [B, N_s, D] -> [B, M, D]."""
        return resample_tokens(projected, self.student_grid, self.goal)


def _shown(grid: Grid) -> str:
    return f"{grid[0]} x {grid[1]}"
