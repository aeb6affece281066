"""Teacher targets: run the teachers on a batch, and compute each loss's target from the signals that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit.contracts.loss import Loss
from distillkit.contracts.model import ModelSpec, Outputs, Wanted
from distillkit.contracts.signal_matching import restrict
from distillkit.plugin.error_attribution import blamed
from distillkit.plugin.runtime_checks import (
    check_outputs,
    check_target,
    forward_signals,
    named_weights,
    require_mapping,
    tensors_of,
    unchanged,
)
from distillkit.training.task import Targets


@dataclass(frozen=True)
class LossSlot:
    """A loss and the name of its teacher, None if it reads no teacher."""

    loss: Loss
    teacher: str | None


@dataclass(frozen=True)
class TeacherSlot:
    """A built teacher, its description, and all signals that losses read from it."""

    model: nn.Module
    spec: ModelSpec
    wanted: Wanted


class TeacherTargets:
    """Runs every teacher once per batch, and computes every loss's target from its teacher's outputs.

    Types are checked at every batch, the rest of the contracts of teachers and losses at the first batch of each size.
    """

    def __init__(self, teachers: Mapping[str, TeacherSlot], losses: Mapping[str, LossSlot]) -> None:
        self.teachers = dict(teachers)
        self.losses = dict(losses)
        self._checked: set[int] = set()

    # Not inference_mode: autograd cannot save inference tensors for the backward of the losses.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> Targets:
        """The targets of one micro-batch; images [B, C, H, W] are normalised and sized for the student."""
        is_new = len(images) not in self._checked
        outputs = {name: self._outputs(slot, images, check=is_new) for name, slot in self.teachers.items()}
        targets = {name: self._target(slot, outputs, images, check=is_new) for name, slot in self.losses.items()}
        self._checked.add(len(images))
        return targets

    def _outputs(self, slot: TeacherSlot, images: Tensor, *, check: bool) -> Outputs:
        if not check:
            return forward_signals(slot.model, images, slot.wanted)
        with unchanged(slot.model, "forward", {"the images": images} | named_weights(slot.model)):
            outputs = forward_signals(slot.model, images, slot.wanted)
        check_outputs(slot.model, outputs, slot.spec, slot.wanted, images)
        return outputs

    def _target(
        self, slot: LossSlot, outputs: Mapping[str, Outputs], images: Tensor, *, check: bool
    ) -> Mapping[str, Tensor]:
        """The target of one loss."""
        loss, read = slot.loss, Outputs()
        if slot.teacher is not None:
            teacher = self.teachers[slot.teacher]
            read = restrict(outputs[slot.teacher], teacher.wanted, loss.reads_teacher, teacher.spec)
        given = {f"the teacher's {name}": tensor for name, tensor in tensors_of(read).items()} if check else {}
        with unchanged(loss, "target", given), blamed(loss, "target"):
            target = loss.target(read)
        require_mapping(loss, "target", target)
        if check:
            check_target(loss, target, images)
        return target
