"""Skip a step whose loss or gradient is not finite: weights, buffers and the optimiser's state stay as they were.

Whether a step is taken is decided on the device, from the gradients as the optimiser gets them. Of several processes
these are the same in all, so all decide alike without another message.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.training.optimisation import Optimisation


def anchored(loss: Tensor, anchor: nn.Parameter) -> Tensor:
    """The loss, bit for bit; where it is not finite, the gradient of `anchor` is NaN, whatever else it reaches.

    A finite x has x - x = 0, and inf - inf and NaN - NaN are NaN. Without this an infinite loss could have a finite
    gradient, or none (a clamp, a mask), and the other processes would not know.
    Shapes: loss [].
    """
    return loss + (loss - loss).detach() * anchor.sum()


class Buffers:
    """The buffers of a module (the statistics of BatchNorm, the memory of a loss), restored after a skipped step.

    They are found once: most students have none, and a step then costs nothing here.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [(owner, name) for owner in module.modules() for name, _ in owner.named_buffers(recurse=False)]
        self._saved: list[Tensor] = []

    def save(self) -> None:
        """Copy what the step is about to change."""
        self._saved = [buffer.clone() for buffer in self._current()]

    @torch.no_grad()
    def restore(self, skipped: Tensor) -> None:
        """Undo the changes where `skipped` [] is true; on the device, which is not waited for."""
        for saved, buffer in zip(self._saved, self._current(), strict=True):
            torch.where(skipped, saved, buffer, out=buffer)
        self._saved = []

    def _current(self) -> list[Tensor]:
        """The buffers by their places, as a module may put another tensor there."""
        return [getattr(owner, name) for owner, name in self._places]


def step_if_finite(optimisation: Optimisation, norm: Tensor | None) -> Tensor:
    """Take the optimiser's step unless the gradient is not finite. Returns whether it was skipped, [] bool.

    `norm` is that of the whole gradient, []; it may be None with a loss scaler, which has its own verdict. A fused
    optimiser reads the verdict on the device (`found_inf`, which torch made for the scaler); for any other one the
    host waits for it.
    """
    optimizer, scaler = optimisation.optimizer, optimisation.scaler
    if norm is None or scaler.is_enabled():
        scaler.step(optimizer)
        skipped = torch.stack(list(scaler._found_inf_per_device(optimizer).values())).sum() > 0  # noqa: SLF001 - torch has no public word for it
        scaler.update()
        return skipped
    skipped = ~torch.isfinite(norm)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]  # as GradScaler.step does
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif not skipped:
        optimizer.step()
    return skipped
