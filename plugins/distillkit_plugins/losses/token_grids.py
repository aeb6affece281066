"""Patch tokens on a grid: resampling from one grid to another by matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit_plugins.losses.attention_rows import Grid
from distillkit_plugins.losses.projector import without_autocast


def resample_tokens(tokens: Tensor, source: Grid, goal: Grid) -> Tensor:
    """Resample tokens: the mean over whole blocks where rows and columns shrink by whole factors, else bilinear.

    Shapes: tokens [B, N, D], row-major on `source` -> [B, M, D] on `goal`; unchanged if the grids are equal.
    Source: bilinear as torch's `interpolate` with align_corners = False and without antialiasing.
    Differs: computed by matrix products, whose gradient is deterministic on every device; that of torch is not.
    """
    if source == goal:
        return tokens
    batch, _, width = tokens.shape
    if all(side % new == 0 for side, new in zip(source, goal, strict=True)):
        rows, columns = source[0] // goal[0], source[1] // goal[1]
        blocks = tokens.reshape(batch, goal[0], rows, goal[1], columns, width)
        return blocks.mean(dim=(2, 4)).reshape(batch, goal[0] * goal[1], width)
    with without_autocast(tokens.device):
        by_row = tokens.reshape(batch, source[0], source[1] * width)
        rows_done = _weights(source[0], goal[0], tokens) @ by_row  # [B, rows', columns * D]
        by_column = rows_done.reshape(batch, goal[0], source[1], width)
        columns_done = _weights(source[1], goal[1], tokens) @ by_column  # [B, rows', columns', D]
    return columns_done.reshape(batch, goal[0] * goal[1], width)


def _weights(source: int, goal: int, like: Tensor) -> Tensor:
    """Weights [goal, source] of linear interpolation along one axis, with the dtype and device of `like`, any shape."""
    new = torch.arange(goal, device=like.device, dtype=like.dtype)
    centres = ((new + 0.5) * (source / goal) - 0.5).clamp(0, source - 1)  # of the new cells, in old cells
    old = torch.arange(source, device=like.device, dtype=like.dtype)
    return (1 - (centres[:, None] - old).abs()).clamp(min=0)
