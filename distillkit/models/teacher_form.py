"""Give a frozen network another form (memory layout, precision of its weights, attention), and take it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillkit.contracts.teacher_form import TeacherForm
from distillkit.models.attention_form import attention_modules, write_out
from distillkit.models.precision import keep_cast


class PlainState:
    """What a form changes in a network, to restore it: float tensors where the precision is half, and attention.

    Holds a copy of all weights in half precision, which should not live longer than the form is tried.
    """

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        self.network = network
        self._attention = [(module, cast("Any", module).fused_attn) for module in attention_modules(network)]
        self._tensors = (
            [] if precision is torch.float32 else [(each, each.detach().clone()) for each in _floats(network)]
        )

    def restore(self) -> None:
        """Make the network what it was."""
        for module, fused in self._attention:
            cast("Any", module).fused_attn = fused
        for tensor, value in self._tensors:
            tensor.data = value.clone()
        _set_layout(self.network, torch.contiguous_format)


def apply_form(network: nn.Module, form: TeacherForm, precision: torch.dtype) -> None:
    """Change a frozen network in place; `compiled` is not a property of the network.

    Shapes and names of all tensors stay the same. With `half_weights`, images must be in `precision`.
    """
    if form.written_attention:
        write_out(network)
    if form.half_weights and precision is not torch.float32:
        for tensor in _floats(network):
            tensor.data = tensor.data.to(precision)
    else:
        keep_cast(network, precision)
    if form.channels_last:
        _set_layout(network, torch.channels_last)


def _floats(network: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of floating point, of any shape."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            yield tensor


def _set_layout(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Store all 4-dimensional tensors in a memory format."""
    for tensor in _floats(network):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
