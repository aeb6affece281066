"""Attention of timm's ViTs: torch's fused function, or written out where that is faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

MOST_TOKENS = 1024
"""Maximum number of tokens whose attention is written out: the maps, [B, A, tokens, tokens] per layer, are kept."""
AttentionForm = Literal["auto", "fused", "written"]


def set_attention(
    network: nn.Module, form: AttentionForm, device: torch.device, precision: torch.dtype, tokens: int
) -> None:
    """Write out the attention of timm's ViTs for training, if `form` says so; "auto" does in bf16 on a CPU.

    torch's fused attention, with its backward, takes longer there than matrix products and a softmax
    (docs/benchmarks/README.md). Both forms compute the same function; in bf16 they are equal within rounding.
    """
    is_faster = device.type == "cpu" and precision == torch.bfloat16 and tokens <= MOST_TOKENS
    if form == "written" or (form == "auto" and is_faster):
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
