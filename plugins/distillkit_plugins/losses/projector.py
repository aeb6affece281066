"""Projector: an MLP that maps the student's embedding to the teacher's width."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from distillkit.models import at_least_float32
from distillkit_plugins.losses.options import Norms, Projector

EPSILON = 1e-6
"""Epsilon of the layer norms, the same as in the ViTs."""


def projector_widths(width: int, goal: int, *, depth: int, ratio: int) -> tuple[int, ...]:
    """Input and output widths of `depth` linear layers: D, rD, D, rD, ..., always ending in the teacher's width."""
    hidden = [ratio * width if layer % 2 == 0 else width for layer in range(depth - 1)]
    return (width, *hidden, goal)


def build_projector(width: int, goal: int, *, depth: int, ratio: int, norms: Norms) -> nn.Sequential:
    """Projector: LayerNorm, `depth` linear layers with GELU between them, LayerNorm.

    Shapes: maps [B, D] to [B, D_t], with D = `width` and D_t = `goal`.
    Source: Wang, Yang & van de Weijer 2022 (AttnDistill), arXiv:2210.00944, as in the authors' code: depth 4, ratio 2,
        both norms with scale and shift, biases, weights from a truncated normal of 0.02.
    Differs: a depth of 1, 2 or 3 ends in the teacher's width too; the authors' ends in 2D, D or 2D. It runs on
        the class token only; the authors run it on all tokens and use only the class token's output: the same result.
        Its input is the class token after the student's final norm; in the authors' code before it, and that norm is
        never trained.
    """
    widths = projector_widths(width, goal, depth=depth, ratio=ratio)
    layers: list[nn.Module] = [nn.LayerNorm(width, eps=EPSILON)] if norms in ("both", "input") else []
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        if layer:
            layers.append(nn.GELU())
        linear = nn.Linear(inputs, outputs)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
    if norms in ("both", "output"):
        layers.append(nn.LayerNorm(goal, eps=EPSILON))
    return nn.Sequential(*layers)


def feature_projector(kind: Projector, width: int, goal: int, *, ratio: int) -> nn.Module:
    """Projector from `width` to `goal`: linear; layer norm and linear; or layer norm, linear, GELU, linear."""
    norms: Norms = "none" if kind == "linear" else "input"
    return build_projector(width, goal, depth=2 if kind == "mlp2" else 1, ratio=ratio, norms=norms)


def project(projector: nn.Module, embedding: Tensor) -> Tensor:
    """Run the projector in float32 at least, also under autocast.

    Shapes: embedding [B, D] -> [B, D_t], or tokens [B, N, D] -> [B, N, D_t].
    """
    # The narrower the student, the smaller the first outputs, and the larger the gradient with respect to their
    # direction: millions at a width of 4, which overflows half precision.
    embedding = at_least_float32(embedding)
    with without_autocast(embedding.device):
        projected: Tensor = projector(embedding)  # [B, D_t]
    return projected


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations keep the precision of their inputs."""
    has_autocast = torch.amp.is_autocast_available(device.type)  # not on the meta device, which `distillkit plan` uses
    return torch.autocast(device.type, enabled=False) if has_autocast else nullcontext()
