"""Gradient norms of the loss terms on the student, measured during a step without changing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._functorch import config as aot_config

from distillkit.compute.distributed import ALONE, Processes


class TermGradientNorms:
    """Gradient norm of every weighted term with respect to the student's parameters, over one effective batch.

    One object measures one step: `add` the terms of each micro-batch before its backward, then read `norms` after the
    gradients are unscaled and before they are clipped. The norm is the L2 norm of d(weight * term) / d(`parameters`),
    with the term averaged over the effective batch. Parameters of the losses (a projector) are not included. A term
    that does not reach the student has norm 0. In fp16 the scaled term is differentiated and its norm divided by the
    scale: where that overflows, for example while the scaler searches for its scale, the norm is not finite.

    Training is not affected: `torch.autograd.grad` does not touch `.grad`, and the backward of the step follows on the
    same graph. The cost is one more backward of the student per term and, until `norms`, one copy of the student's
    gradients per term. A single term costs nothing: its gradient is that of the step.

    Several processes: `torch.autograd.grad` does not trigger DDP's gradient hooks, so `norms` sums over processes
    itself. A sum, not a mean: each term is already divided by the samples of all processes.

    Shapes: terms and norms [].
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], scaler: torch.amp.GradScaler, processes: Processes = ALONE
    ) -> None:
        self.parameters = parameters
        self.scaler = scaler
        self.processes = processes
        self._sums: dict[str, Sequence[Tensor]] = {}
        self._only: str | None = None

    def add(self, weighted: Mapping[str, Tensor]) -> None:
        """Add the gradients of the terms of one micro-batch, [] each, weighted and divided as in the loss."""
        if len(weighted) == 1:
            (self._only,) = weighted
            return
        for name, value in weighted.items():
            gradients = self._gradients(self.scaler.scale(value))
            so_far = self._sums.get(name)
            # Not in place: a gradient may be an expanded view, or share its tensor with another parameter.
            self._sums[name] = gradients if so_far is None else [a + b for a, b in zip(so_far, gradients, strict=True)]

    def norms(self) -> dict[str, Tensor]:
        """The norm of each term by name, []. Does not wait for the device."""
        if self._only is not None:
            return {self._only: gradient_norm(self.parameters)}
        # Scaling 1 gives the scale as a tensor; `get_scale` would wait for the device.
        scale = self.scaler.scale(torch.ones((), device=self.parameters[0].device))
        return {
            name: nn.utils.get_total_norm(self.processes.sum_all(gradients)) / scale
            for name, gradients in self._sums.items()
        }

    def _gradients(self, value: Tensor) -> Sequence[Tensor]:
        if not value.requires_grad:  # a loss may return a constant, and autograd.grad would raise
            return [torch.zeros_like(parameter) for parameter in self.parameters]
        # The graph is kept for the backward of the step; parameters that the term does not reach get zeros.
        return torch.autograd.grad(value, self.parameters, retain_graph=True, materialize_grads=True)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The L2 norm of the gradients of `parameters`, []."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def keep_compiled_graphs() -> None:
    """Allow several backward passes through a compiled forward; call it before anything is compiled.

    By default a compiled backward may overwrite the tensors that its forward saved ("donated buffers"), and torch then
    refuses a second backward. The setting applies to the whole process.
    """
    aot_config.donated_buffer = False
