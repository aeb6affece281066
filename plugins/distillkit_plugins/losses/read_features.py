"""Embeddings and patch tokens as losses read them from a model's outputs."""

from __future__ import annotations

from torch import Tensor

from distillkit import BrokenPluginError, Outputs, Signal


def embeddings(outputs: Outputs) -> tuple[Tensor, ...]:
    """The embeddings [B, D_i] of the layers that are read.

    Raises: BrokenPluginError if the model did not return the signal it was asked for; so do the other functions.
    """
    return _found(outputs.embedding, Signal.EMBEDDING)


def last_embedding(outputs: Outputs) -> Tensor:
    """The embedding [B, D] of the last layer that is read."""
    return embeddings(outputs)[-1]


def patch_tokens(outputs: Outputs) -> tuple[Tensor, ...]:
    """The patch tokens [B, N_i, D_i] of the layers that are read."""
    return _found(outputs.patch_tokens, Signal.PATCH_TOKENS)


def _found(read: tuple[Tensor, ...], signal: Signal) -> tuple[Tensor, ...]:
    if not read:
        raise BrokenPluginError(f"a loss reads {signal} and the model returned none; its plugin breaks the contract")
    return read
