"""A masked teacher: a ViT that sees only the patches to which the student's class token attends most.

Source: Son, Ryu, Lee & Lee 2024, "The Role of Masking for Efficient Supervised Knowledge Distillation of Vision
    Transformers" (MaskedKD), ECCV 2024, arXiv:2302.10494.
Differs: where the grids of the two models differ, the student's row is resampled to the teacher's grid; the paper has
    equal grids. Of patches with equal attention, the first in row-major order is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from distillkit.contracts.model import ModelSpec

DROPPABLE = (VisionTransformer, VisionTransformerDistilled, Eva)
"""Networks that add positions to all patches and then pass the sequence through `patch_drop`."""


@dataclass(frozen=True)
class PatchChoice:
    """Chooses the patches of a teacher by the attention of a student.

    `masked` is the share of the patches that the teacher does not see. A grid is (rows, columns). A row on another grid
    is resampled by area: a patch of the teacher has the mean of the student's patches that it covers, or the value of
    the one that covers it.
    """

    masked: float
    student_grid: tuple[int, int]
    teacher_grid: tuple[int, int]

    @classmethod
    def between(cls, masked: float, student: ModelSpec, teacher: ModelSpec) -> PatchChoice | None:
        """The choice for a pair of models; None if `masked` is 0."""
        return cls(masked, student.grid, teacher.grid) if masked else None

    @property
    def kept(self) -> int:
        """The number of patches that the teacher sees, at least one."""
        patches = math.prod(self.teacher_grid)
        return max(1, patches - math.floor(self.masked * patches + 1e-9))  # 0.29 * 100 is below 29 in binary

    def __call__(self, rows: Tensor) -> Tensor:
        """Indices of the patches to keep, ascending, [B, n] int64, from the student's rows [B, A, 1 + N]."""
        attention = rows.detach().mean(dim=1)[:, 1:]  # [B, N]; the heads are averaged, as in the paper
        if self.student_grid != self.teacher_grid:
            maps = attention.reshape(len(rows), 1, *self.student_grid)  # [B, 1, rows, columns]
            attention = functional.adaptive_avg_pool2d(maps, self.teacher_grid).flatten(1)  # [B, N_t]
        # Not topk, whose choice among equal values depends on the device.
        order = attention.argsort(dim=1, descending=True, stable=True)
        return order[:, : self.kept].sort(dim=1).values


def why_not_droppable(network: nn.Module) -> str | None:
    """The reason why no patches of a network can be dropped, as the end of a sentence; None if they can."""
    # The exact type: a subclass may use its sequence in another way.
    if type(network) not in DROPPABLE:
        return "it is not one of timm's plain ViTs, whose sequence may have any length"
    if type(getattr(network, "patch_drop", None)) not in (nn.Identity, NoneType):
        return "it drops patches itself"
    return None


class KeptPatches(nn.Module):
    """Keeps the prefix tokens and the chosen patches of each image, in the place of timm's patch dropout.

    Positions were added before. Rotary positions are those of the kept patches: timm picks them by the indices that
    this module returns with the tokens in an Eva.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        timm: Any = network
        self._prefix = int(timm.num_prefix_tokens)
        self._returns_indices = isinstance(network, Eva)
        self._indices: Tensor | None = None
        timm.patch_drop = self

    @classmethod
    def of(cls, network: nn.Module) -> KeptPatches:
        """The one of a network, which several frozen teachers may share."""
        existing = getattr(network, "patch_drop", None)
        return existing if isinstance(existing, cls) else cls(network)

    @contextmanager
    def keeping(self, indices: Tensor) -> Iterator[None]:
        """Keep the patches at `indices` [B, n] inside the `with` block; otherwise all are kept."""
        self._indices = indices
        try:
            yield
        finally:
            self._indices = None

    def forward(self, tokens: Tensor) -> Any:
        """The kept tokens [B, P + n, D] of [B, P + N, D]."""
        indices = self._indices
        if indices is not None:
            prefix, patches = tokens[:, : self._prefix], tokens[:, self._prefix :]
            chosen = indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])  # [B, n, D]
            tokens = torch.cat((prefix, patches.gather(1, chosen)), dim=1)
        return (tokens, indices) if self._returns_indices else tokens
