"""The projector that brings the student's embedding to the teacher's width."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from distillkit.models import at_least_float32

Norms: TypeAlias = Literal["both", "input", "output", "none"]

EPSILON = 1e-6
"""Of the layer norms; that of the ViTs."""


def projector_widths(width: int, goal: int, *, depth: int, ratio: int) -> tuple[int, ...]:
    """The widths between which `depth` linear layers go: D, rD, D, rD, ..., and D_t at the end, whatever the depth."""
    hidden = [ratio * width if layer % 2 == 0 else width for layer in range(depth - 1)]
    return (width, *hidden, goal)


def build_projector(width: int, goal: int, *, depth: int, ratio: int, norms: Norms) -> nn.Sequential:
    """LayerNorm, linear layers with GELU between them, LayerNorm.

    Shapes: [B, D] with D = `width` becomes [B, D_t] with D_t = `goal`.
    Source: Wang, Yang & van de Weijer 2022 (AttnDistill), arXiv:2210.00944, as in the authors' code: depth 4, ratio 2,
        both norms with scale and shift, biases, weights from a truncated normal of 0.02.
    Differs: a depth of 1, 2 or 3 ends in the teacher's width, too; the authors' ends in 2D, D or 2D. It is given the
        class token alone; the authors run it on all tokens and then read that one, which is the same number.
    """
    widths = projector_widths(width, goal, depth=depth, ratio=ratio)
    layers: list[nn.Module] = [nn.LayerNorm(width, eps=EPSILON)] if norms in ("both", "input") else []
    for layer, (inside, outside) in enumerate(pairwise(widths)):
        if layer:
            layers.append(nn.GELU())
        linear = nn.Linear(inside, outside)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
    if norms in ("both", "output"):
        layers.append(nn.LayerNorm(goal, eps=EPSILON))
    return nn.Sequential(*layers)


def project(projector: nn.Module, embedding: Tensor) -> Tensor:
    """Run it in float32 at least, whatever autocast is around it.

    The smaller the width, the smaller is what comes out at first, and the larger the gradient of its direction:
    millions at a width of 4, which half precision cannot hold.
    """
    embedding = at_least_float32(embedding)
    device = embedding.device.type
    knows_autocast = torch.amp.is_autocast_available(device)  # the meta device, on which plans are made, does not
    with torch.autocast(device, enabled=False) if knows_autocast else nullcontext():
        projected: Tensor = projector(embedding)
    return projected
