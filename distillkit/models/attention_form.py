"""Attention of timm's ViTs: torch's fused function, or written out where that is faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

MOST_PATCHES = 1024
"""Maximum number of patches N whose attention is written out: the maps, [B, A, N, N] per layer, are kept."""
Grids = tuple[tuple[int, int], ...]
AttentionForm = Literal["auto", "fused", "written"]


def written_is_faster(device: torch.device, precision: torch.dtype, grids: Grids) -> bool:
    """Whether written-out attention is taken to be faster than torch's fused function: in bf16 on a CPU.

    There a forward takes less time, and with its backward it saves more (docs/benchmarks/README.md).
    `grids` are the (rows, columns) of patches, layer by layer.
    """
    patches = max((rows * columns for rows, columns in grids), default=0)
    return device.type == "cpu" and precision == torch.bfloat16 and patches <= MOST_PATCHES


def set_attention(
    network: nn.Module, form: AttentionForm, device: torch.device, precision: torch.dtype, grids: Grids
) -> None:
    """Write out the attention of timm's ViTs for training, if `form` says so; "auto" does where that is faster.

    Both forms compute the same function; in bf16 they are equal within rounding.
    """
    if form == "written" or (form == "auto" and written_is_faster(device, precision, grids)):
        write_out(network)


def write_out(network: nn.Module) -> None:
    """Compute attention by two matrix products and a softmax in place of torch's fused function."""
    for module in attention_modules(network):
        setattr(module, "fused_attn", False)  # noqa: B010 - an nn.Module declares no such attribute


def attention_modules(network: nn.Module) -> Iterator[nn.Module]:
    """The modules of timm that have both forms of attention."""
    for module in network.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):
            yield module
