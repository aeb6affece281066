"""Position embeddings: fixed sine-cosine ones, and resizing of learned ones."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from distillkit.errors import WeightsError
from distillkit.models.precision import at_least_float32


def sincos_position_embedding(width: int, grid: tuple[int, int], *, prefix_tokens: int) -> Tensor:
    """Fixed position embedding: sines and cosines of the patch's column, then of its row; 0 for prefix tokens.

    With x the column, y the row and w_k = 10000^(-k / (D / 4)), k = 0 ... D / 4 - 1, a patch has
    [sin(x w), cos(x w), sin(y w), cos(y w)].
    Shapes: width D, a multiple of 4, and grid (rows, columns) to [1, P + h*w, D], patches row-major; float32, computed
        in float64.
    Source: He et al. 2022, arXiv:2111.06377, appendix A.1, in the order of the authors' code; Chen et al. 2021,
        arXiv:2104.02057, use them too.
    """
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = [torch.outer(torch.arange(side, dtype=torch.float64), rates) for side in grid]
    by_row, by_column = (torch.cat([each.sin(), each.cos()], dim=1) for each in angles)  # [h, D / 2] and [w, D / 2]
    rows, columns = grid
    patches = torch.cat(
        [by_column.expand(rows, -1, -1), by_row.unsqueeze(1).expand(-1, columns, -1)], dim=2
    )  # [h, w, D]
    prefix = patches.new_zeros(prefix_tokens, width)
    return torch.cat([prefix, patches.flatten(0, 1)]).unsqueeze(0).float()  # [1, P + h*w, D]


def resize_position_embedding(
    embedding: Tensor,
    *,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    prefix_tokens: int,
    antialias: bool = False,
    mode: Literal["bicubic", "bilinear"] = "bicubic",
) -> Tensor:
    """Resize a position embedding to another grid of patches; prefix tokens keep theirs.

    Shapes: embedding [1, P + h*w, D] to [1, P + h'*w', D], grids as (rows, columns).
    dtype: computed in at least float32, returned in the dtype of the input.
    Source: Touvron et al. 2021, arXiv:2012.12877, section 4 ("bicubic interpolation that approximately preserves the
        norm of the vectors"), as the authors' code does it: align_corners=False, no antialias. `mode` "bilinear" is for
        the networks whose authors resize so.
    Differs: timm's own function antialiases by default, which changes the result even when the grid grows.
    """
    if old_grid == new_grid:
        return embedding
    prefix, patches = embedding[:, :prefix_tokens], embedding[:, prefix_tokens:]
    planes = at_least_float32(patches).reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    resized = functional.interpolate(planes, size=new_grid, mode=mode, align_corners=False, antialias=antialias)
    patches = resized.permute(0, 2, 3, 1).flatten(1, 2)  # [1, h'*w', D]
    return torch.cat([prefix, patches.to(embedding.dtype)], dim=1)


def grid_of(patches: int, like: tuple[int, int], source: str) -> tuple[int, int]:
    """The grid of a file's position embedding: `like` if it has as many patches, else a square grid.

    Raises: WeightsError if the number of patches fits neither.
    """
    if patches == like[0] * like[1]:
        return like
    side = math.isqrt(max(patches, 0))
    if side == 0 or side * side != patches:
        raise WeightsError(
            f"the position embedding in {source} has {patches} patches, which is not a square number; "
            f"only square grids can be resized to {like[0]}x{like[1]}"
        )
    return side, side
