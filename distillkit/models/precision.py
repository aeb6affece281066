"""The arithmetic that models answer in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""The layers whose weights autocast casts in every forward."""


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def keep_cast(model: nn.Module, precision: torch.dtype) -> None:
    """Keep the weights that autocast would cast to `precision` as it casts them, in place: about half the memory.

    Under autocast the model answers as before, bit for bit. Norms, embeddings of position and tokens stay as they are;
    so do subclasses, which may compute with their weights before autocast sees them.
    """
    if precision is torch.float32:
        return
    for module in model.modules():
        if type(module) in MATRICES:
            module.to(precision)
