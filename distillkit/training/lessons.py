"""What the teachers say of a batch, as the losses' targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit.contracts import Loss, ModelSpec, Outputs, Wanted
from distillkit.errors import BrokenPluginError
from distillkit.negotiation import restrict
from distillkit.training.task import Targets


@dataclass(frozen=True)
class Pupil:
    """A loss and the teacher that it listens to; a loss that reads no teacher has None."""

    loss: Loss
    teacher: str | None


@dataclass(frozen=True)
class Lectern:
    """A built teacher, how it describes itself, and what the losses together want of it."""

    model: nn.Module
    spec: ModelSpec
    wanted: Wanted


class Lessons:
    """Runs every teacher once per batch and lets every loss boil it down to its target."""

    def __init__(self, teachers: Mapping[str, Lectern], pupils: Mapping[str, Pupil]) -> None:
        self.teachers = dict(teachers)
        self.pupils = dict(pupils)
        self._checked = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Targets:
        """The targets of one micro-batch: images [B, C, H, W] as the student sees them."""
        said: dict[str, Outputs] = {name: seat.model(images, seat.wanted) for name, seat in self.teachers.items()}
        targets: dict[str, Mapping[str, Tensor]] = {}
        for name, pupil in self.pupils.items():
            if pupil.teacher is None:
                targets[name] = pupil.loss.target(Outputs())
                continue
            seat = self.teachers[pupil.teacher]
            targets[name] = pupil.loss.target(
                restrict(said[pupil.teacher], seat.wanted, pupil.loss.reads_teacher, seat.spec)
            )
        if not self._checked:
            self._check(targets, len(images))
            self._checked = True
        return targets

    def _check(self, targets: Targets, samples: int) -> None:
        """Hold the first targets against what the losses announced."""
        for name, pupil in self.pupils.items():
            announced = {key: ((samples, *spec.shape), spec.dtype) for key, spec in pupil.loss.targets.items()}
            found = {
                key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
                for key, tensor in targets[name].items()
            }
            if announced != found:
                raise BrokenPluginError(
                    f"loss '{name}' announced the targets {announced} and returned {found}; "
                    "`targets` and `target` must agree"
                )
