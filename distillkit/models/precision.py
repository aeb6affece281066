"""The arithmetic that models answer in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
