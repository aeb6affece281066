"""Precision of a model's outputs and weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights autocast casts in every forward."""


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float64 stays. Shapes: any shape."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def keep_cast(model: nn.Module, precision: torch.dtype) -> None:
    """Store the weights that autocast would cast to `precision` in that precision, in place: about half the memory.

    Under autocast the outputs stay the same, bit for bit. Norms, tokens and position embeddings are not changed.
    """
    if precision is torch.float32:
        return
    for module in model.modules():
        # The exact type: a subclass may compute with its weights in float32 before autocast casts them.
        if type(module) in MATRICES:
            module.to(precision)
