"""What the teachers say of a batch, as the losses' targets."""

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
    named,
    named_weights,
    tensors_of,
    unchanged,
)
from distillkit.training.task import Targets


@dataclass(frozen=True)
class LossSlot:
    """A loss and the teacher that it listens to; a loss that reads no teacher has None."""

    loss: Loss
    teacher: str | None


@dataclass(frozen=True)
class TeacherSlot:
    """A built teacher, how it describes itself, and what the losses together want of it."""

    model: nn.Module
    spec: ModelSpec
    wanted: Wanted


class TeacherTargets:
    """Runs every teacher once per batch and lets every loss boil it down to its target.

    What they return is held against what they promised at the first batch of every size, their types at every batch.
    """

    def __init__(self, teachers: Mapping[str, TeacherSlot], pupils: Mapping[str, LossSlot]) -> None:
        self.teachers = dict(teachers)
        self.pupils = dict(pupils)
        self._checked: set[int] = set()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Targets:
        """The targets of one micro-batch: images [B, C, H, W] as the student sees them."""
        is_new = len(images) not in self._checked
        said = {name: self._lecture(seat, images, check=is_new) for name, seat in self.teachers.items()}
        targets = {name: self._heard(pupil, said, images, check=is_new) for name, pupil in self.pupils.items()}
        self._checked.add(len(images))
        return targets

    def _lecture(self, seat: TeacherSlot, images: Tensor, *, check: bool) -> Outputs:
        if not check:
            return forward_signals(seat.model, images, seat.wanted)
        with unchanged(seat.model, "forward", {"the images": images} | named_weights(seat.model)):
            outputs = forward_signals(seat.model, images, seat.wanted)
        check_outputs(seat.model, outputs, seat.spec, seat.wanted, images)
        return outputs

    def _heard(
        self, pupil: LossSlot, said: Mapping[str, Outputs], images: Tensor, *, check: bool
    ) -> Mapping[str, Tensor]:
        """The target of one loss."""
        loss, outputs = pupil.loss, Outputs()
        if pupil.teacher is not None:
            seat = self.teachers[pupil.teacher]
            outputs = restrict(said[pupil.teacher], seat.wanted, loss.reads_teacher, seat.spec)
        given = {f"the teacher's {name}": tensor for name, tensor in tensors_of(outputs).items()} if check else {}
        with unchanged(loss, "target", given), blamed(loss, "target"):
            target = loss.target(outputs)
        named(loss, "target", target)
        if check:
            check_target(loss, target, images)
        return target
