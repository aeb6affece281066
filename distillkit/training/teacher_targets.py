"""Teacher targets: run the teachers on a batch, and compute each loss's target from the signals that it reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from distillkit.bank.shelf import Addresses
from distillkit.compute.distributed import ALONE, Processes
from distillkit.contracts.loss import Loss
from distillkit.contracts.model import ModelSpec, Outputs, Wanted
from distillkit.contracts.signal_matching import restrict
from distillkit.errors import BankError
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.kept_patches import PatchChoice
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
from distillkit.training.target_bank import StoredTargets, TargetBank
from distillkit.training.task import AskMasked, Targets


@dataclass(frozen=True)
class LossSlot:
    """A loss and the name of its teacher, None if it reads no teacher."""

    loss: Loss
    teacher: str | None


@dataclass(frozen=True)
class TeacherSlot:
    """A built teacher, its description, and all signals that losses read from it.

    `model` is None where the weights are not loaded because a bank has every target. `choice` chooses the patches that
    a masked teacher sees, which is a `FrozenTeacher`.
    """

    model: nn.Module | None
    spec: ModelSpec
    wanted: Wanted
    choice: PatchChoice | None = None


class SharedTargets(Protocol):
    """Computes the targets of one of several runs for a micro-batch, see `training.shared_teachers`."""

    def __call__(self, of: TeacherTargets, images: Tensor, addresses: Tensor | None) -> Targets:
        """The targets of `of` for images [B, C, H, W] at addresses [B, 4]."""
        ...


@dataclass(frozen=True)
class Lookup:
    """What a bank has for a micro-batch, the losses that lack a target there, and the teachers that have to run."""

    addresses: Addresses | None
    stored: Mapping[str, StoredTargets]
    losses: Sequence[str]
    teachers: Collection[str]


class TeacherTargets:
    """Runs every teacher once per batch, and computes every loss's target from its teacher's outputs.

    With a bank, targets that are stored are read, and a teacher runs only for a micro-batch in which one of its losses
    lacks a target. Types are checked at every batch, the rest of the contracts of teachers and losses at the first
    batch of each size.

    `shared` runs the teachers instead while several runs train on the same windows.
    """

    def __init__(
        self,
        teachers: Mapping[str, TeacherSlot],
        losses: Mapping[str, LossSlot],
        bank: TargetBank | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.teachers = dict(teachers)
        self.losses = dict(losses)
        self.bank = bank
        self.processes = processes
        masked = {name for name, slot in self.teachers.items() if slot.choice is not None}
        self._of_masked = [name for name, slot in self.losses.items() if slot.teacher in masked]
        self.shared: SharedTargets | None = None
        self._checked: set[tuple[str, int]] = set()

    # Not inference_mode: autograd cannot save inference tensors for the backward of the losses.
    @torch.no_grad()
    def __call__(self, images: Tensor, addresses: Tensor | None = None) -> Targets:
        """The targets of one micro-batch; images [B, C, H, W] are normalised and sized for the student.

        Without those of masked teachers, which come after the student's forward, see `ask_masked`.
        `addresses` [B, 4] is where a bank has them, see `HostBatch.addresses`; None computes all of them.
        """
        if self.shared is not None:
            return self.shared(self, images, addresses)
        lookup = self.look_up(addresses)
        return self.complete(lookup, images, {name: self.outputs(name, images) for name in lookup.teachers})

    def ask_masked(self, images: Tensor) -> AskMasked | None:
        """What computes the targets of masked teachers for a micro-batch [B, C, H, W]; None without such a teacher."""
        if not self._of_masked:
            return None

        @torch.no_grad()
        def ask(rows: Tensor) -> Targets:
            teachers = self._teachers_of(self._of_masked)
            outputs = {name: self._masked_outputs(name, images, rows) for name in teachers}
            return {name: self._target(name, self.losses[name], outputs, images) for name in self._of_masked}

        return ask

    def look_up(self, addresses: Tensor | None) -> Lookup:
        """What has to be computed for the images at `addresses` [B, 4]. Collective for sharded teachers with a bank."""
        if self.bank is None or addresses is None:
            losses = [name for name in self.losses if name not in self._of_masked]
            return Lookup(None, {}, losses, self._teachers_of(losses))
        places = addresses.numpy()
        stored = self.bank.read(places)
        lacking = [name for name in self.losses if name not in stored or self.bank.needs_teacher(name, stored[name])]
        return Lookup(places, stored, lacking, self._agreed(self._teachers_of(lacking)))

    def complete(self, lookup: Lookup, images: Tensor, outputs: Mapping[str, Outputs]) -> Targets:
        """The targets of all losses for images [B, C, H, W], from the bank and from the outputs of the teachers.

        Of losses that lack a row, or compare some with the teacher's, the computed ones are stored.
        """
        computed = {name: self._target(name, self.losses[name], outputs, images) for name in lookup.losses}
        if self.bank is None or lookup.addresses is None:
            return computed
        targets: dict[str, Mapping[str, Tensor]] = {}
        for name in self.losses:
            if name not in computed:
                targets[name] = self.bank.stored(name, lookup.stored[name], images.device)
            elif name in lookup.stored:
                targets[name] = self.bank.merge(name, lookup.stored[name], computed[name], lookup.addresses)
            else:
                targets[name] = computed[name]
        return targets

    def _masked_outputs(self, name: str, images: Tensor, rows: Tensor) -> Outputs:
        """One forward of a masked teacher, on the patches that the student's attention rows [B, A, 1 + N] choose."""
        slot = self.teachers[name]
        with cast("FrozenTeacher", slot.model).keeping(cast("PatchChoice", slot.choice)(rows)):
            return self.outputs(name, images)

    def outputs(self, name: str, images: Tensor, wanted: Wanted | None = None) -> Outputs:
        """One forward of a teacher on images [B, C, H, W]; `wanted` are by default the signals that the losses read."""
        slot = self.teachers[name]
        wanted = slot.wanted if wanted is None else wanted
        if slot.model is None:
            raise BankError(
                f"the bank lacks targets of this micro-batch, and teacher '{name}' has no weights to compute them "
                '(teachers.weights = "bank"); give its weights, or fill the bank with `distillkit bank build`'
            )
        if not self._is_new(f"teacher {name}", images):
            return forward_signals(slot.model, images, wanted)
        with unchanged(slot.model, "forward", {"the images": images} | named_weights(slot.model)):
            outputs = forward_signals(slot.model, images, wanted)
        check_outputs(slot.model, outputs, slot.spec, wanted, images)
        return outputs

    def _teachers_of(self, losses: Iterable[str]) -> list[str]:
        read = {self.losses[name].teacher for name in losses}
        return [name for name in self.teachers if name in read]

    def _agreed(self, running: Collection[str]) -> list[str]:
        """The teachers that run in this process: a sharded one runs in all of them if any needs it."""
        sharded = {name for name, slot in self.teachers.items() if getattr(slot.model, "sharded", False)}
        return [
            name
            for name in self.teachers
            if (self.processes.max(int(name in running)) if name in sharded else name in running)
        ]

    def _target(
        self, name: str, slot: LossSlot, outputs: Mapping[str, Outputs], images: Tensor
    ) -> Mapping[str, Tensor]:
        """The target of one loss."""
        loss, read, is_new = slot.loss, Outputs(), self._is_new(f"loss {name}", images)
        if slot.teacher is not None:
            teacher = self.teachers[slot.teacher]
            read = restrict(outputs[slot.teacher], teacher.wanted, loss.reads_teacher, teacher.spec)
        given = {f"the teacher's {name}": tensor for name, tensor in tensors_of(read).items()} if is_new else {}
        with unchanged(loss, "target", given), blamed(loss, "target"):
            target = loss.target(read)
        require_mapping(loss, "target", target)
        if is_new:
            check_target(loss, target, images)
        return target

    def _is_new(self, whose: str, images: Tensor) -> bool:
        """Whether this teacher or loss has not seen a batch of this size yet."""
        seen = (whose, len(images))
        is_new = seen not in self._checked
        self._checked.add(seen)
        return is_new
