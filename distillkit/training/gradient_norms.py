"""The gradient norm of every loss term on the student, measured during a step without changing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._functorch import config as aot_config

from distillkit.compute.distributed import ALONE, Processes


class TermGradientNorms:
    """The gradient norm of every weighted term on the student's parameters, over one effective batch.

    One object measures one step: `add` the terms of each micro-batch before its backward, then read `norms` once the
    gradients are unscaled and before they are clipped. A norm is that of d(weight * term) / d(`parameters`), L2, with
    the term averaged over the whole effective batch; what a loss owns itself (a projector) is no part of it. A term
    that does not reach the student has 0. With fp16 the scaled term is differentiated and its norm divided by the
    scale: where that overflows, as it may while the scaler is still looking for its scale, the norm is not finite.

    Training is not affected: `torch.autograd.grad` leaves every `.grad` alone, and the step's own backward follows on
    the same graph. The cost is one more backward of the student for every term, and until `norms` one copy of the
    student's gradients for every term; a loss of a single term costs nothing, as its gradient is the step's own.

    Several processes: `torch.autograd.grad` does not call the hooks with which DDP adds up gradients, so `norms` sums
    over processes itself, as a term is divided by the samples of all.
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
        """Add the gradients of one micro-batch's terms, [] each, weighted and divided as they enter the loss."""
        if len(weighted) == 1:
            (self._only,) = weighted
            return
        for name, value in weighted.items():
            gradients = self._gradients(self.scaler.scale(value))
            so_far = self._sums.get(name)
            # Not in place: a gradient may be an expanded view, or the very tensor that another parameter was given.
            self._sums[name] = gradients if so_far is None else [a + b for a, b in zip(so_far, gradients, strict=True)]

    def norms(self) -> dict[str, Tensor]:
        """The norm of every term by its name, shape []. Nothing here waits for the device."""
        if self._only is not None:
            return {self._only: gradient_norm(self.parameters)}
        scale = self.scaler.scale(torch.ones((), device=self.parameters[0].device))
        return {
            name: nn.utils.get_total_norm(self.processes.sum_all(gradients)) / scale
            for name, gradients in self._sums.items()
        }

    def _gradients(self, value: Tensor) -> Sequence[Tensor]:
        if not value.requires_grad:
            return [torch.zeros_like(parameter) for parameter in self.parameters]
        return torch.autograd.grad(value, self.parameters, retain_graph=True, materialize_grads=True)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The L2 norm of the gradients that `parameters` hold. Shape []."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def keep_compiled_graphs() -> None:
    """Let a compiled forward be differentiated more than once; call it before anything is compiled.

    By default the compiled backward may write over what the forward kept for it ("donated buffers"), and torch then
    refuses the second backward. The setting holds for the whole process.
    """
    aot_config.donated_buffer = False
