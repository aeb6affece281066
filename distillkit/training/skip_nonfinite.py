"""Skip a step whose loss or gradient is not finite: weights, buffers and optimiser state stay unchanged.

The decision is made on the device, from the gradients that the optimiser receives. These are equal in all processes, so
all decide the same without communication.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.training.optimisation import Optimisation


def anchored(loss: Tensor, anchor: nn.Parameter) -> Tensor:
    """The loss, bit-equal; if it is not finite, the gradient of `anchor` (any shape) is NaN.

    x - x is 0 for a finite x, and NaN for infinity and NaN. Without this, an infinite loss could have a finite gradient
    or none (a clamp, a mask), and the other processes would not skip the step.
    Shapes: loss [].
    """
    return loss + (loss - loss).detach() * anchor.sum()


class Buffers:
    """The buffers of a module (BatchNorm statistics, the memory of a loss), any shape, restored after a skipped step.

    They are looked up once: most students have none, and then a step costs nothing extra.
    """

    def __init__(self, module: nn.Module) -> None:
        self._locations = [
            (owner, name) for owner in module.modules() for name, _ in owner.named_buffers(recurse=False)
        ]
        self._saved: list[Tensor] = []

    def save(self) -> None:
        """Copy the buffers before the step changes them."""
        self._saved = [buffer.clone() for buffer in self._current()]

    @torch.no_grad()
    def restore(self, skipped: Tensor) -> None:
        """Restore the copies if `skipped` [] is true, on the device and without waiting for it."""
        for saved, buffer in zip(self._saved, self._current(), strict=True):
            torch.where(skipped, saved, buffer, out=buffer)
        self._saved = []

    def _current(self) -> list[Tensor]:
        """The current buffers; looked up by name, since a module may assign a new tensor."""
        return [getattr(owner, name) for owner, name in self._locations]


def step_if_finite(optimisation: Optimisation, norm: Tensor | None) -> Tensor:
    """Take the optimiser step if the gradient is finite. Returns whether it was skipped, [] bool.

    `norm` is the gradient norm, []; it may be None with a loss scaler, which checks the gradients itself. A fused
    optimiser reads the decision on the device (`found_inf`, which torch added for the scaler); for others the host
    waits for it.
    """
    optimizer, scaler = optimisation.optimizer, optimisation.scaler
    if norm is None or scaler.is_enabled():
        scaler.step(optimizer)
        skipped = torch.stack(list(scaler._found_inf_per_device(optimizer).values())).sum() > 0  # noqa: SLF001 - torch has no public name for it
        scaler.update()
        return skipped
    skipped = ~torch.isfinite(norm)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]  # as GradScaler.step does
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif not skipped:  # waits for the device
        optimizer.step()
    return skipped
