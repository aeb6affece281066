"""Position embeddings at another image size."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from distillkit.errors import WeightsError
from distillkit.models.precision import at_least_float32


def resize_position_embedding(
    embedding: Tensor,
    *,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    prefix_tokens: int,
    antialias: bool = False,
) -> Tensor:
    """Stretch the positions of the patches over another grid; those of the prefix tokens stay.

    Shapes: embedding [1, P + h*w, D] to [1, P + h'*w', D], grids as (rows, columns).
    dtype: computed in float32 at least, returned as it came.
    Source: Touvron et al. 2021, arXiv:2012.12877, section 4 ("bicubic interpolation that approximately preserves the
        norm of the vectors"), as the authors' code does it: align_corners=False, no antialias.
    Differs: timm's own function antialiases by default, which changes the result even when the grid grows.
    """
    if old_grid == new_grid:
        return embedding
    prefix, patches = embedding[:, :prefix_tokens], embedding[:, prefix_tokens:]
    planes = at_least_float32(patches).reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    resized = functional.interpolate(planes, size=new_grid, mode="bicubic", align_corners=False, antialias=antialias)
    patches = resized.permute(0, 2, 3, 1).flatten(1, 2)  # [1, h'*w', D]
    return torch.cat([prefix, patches.to(embedding.dtype)], dim=1)


def grid_of(patches: int, like: tuple[int, int], source: str) -> tuple[int, int]:
    """The grid of a file's position embedding: `like` where the count agrees, else a square one.

    Raises: WeightsError where the count is neither.
    """
    if patches == like[0] * like[1]:
        return like
    side = math.isqrt(max(patches, 0))
    if side == 0 or side * side != patches:
        raise WeightsError(
            f"the position embedding in {source} has {patches} patches, which is no square grid; "
            f"only square grids can be resized to {like[0]}x{like[1]}"
        )
    return side, side
