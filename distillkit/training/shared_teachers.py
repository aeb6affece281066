"""One forward of each teacher per micro-batch for several runs that train on the same windows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from distillkit.contracts.model import Outputs, Read, Signal, Wanted
from distillkit.contracts.signal_matching import restrict, wanted_signals
from distillkit.plugin.runtime_checks import tensors_of
from distillkit.training.task import Targets
from distillkit.training.teacher_targets import TeacherTargets

CLASS_SIGNALS = frozenset({Signal.LOGITS, Signal.DISTILL_LOGITS})


class SharedTeachers:
    """Runs the teachers of several `TeacherTargets` once, on the union of the signals that their losses read.

    The first run that asks for the targets of a micro-batch has those of all runs computed; they are kept until each of
    them has asked. Every run gets the targets that it would compute alone, bit for bit: on a CPU, at the first
    micro-batch of each size, a teacher also runs on the signals of each run alone, and where a bit of its outputs
    differs, it continues to. An error of one run's losses or bank is raised when that run asks.
    """

    def __init__(self) -> None:
        self._members: Sequence[TeacherTargets] = ()
        self._ready: dict[tuple[TeacherTargets, int], Targets | Exception] = {}
        self._are_equal: dict[Hashable, bool] = {}

    @contextmanager
    def shared_by(self, members: Sequence[TeacherTargets]) -> Iterator[None]:
        """Share the teachers between `members` for one window; one alone runs them itself."""
        self._members = members
        for member in members:
            member.shared = self if len(members) > 1 else None
        try:
            yield
        finally:
            self._ready.clear()
            for member in members:
                member.shared = None

    def __call__(self, of: TeacherTargets, images: Tensor, addresses: Tensor | None) -> Targets:
        """The targets of one member; images [B, C, H, W], addresses [B, 4] as in `TeacherTargets`."""
        # The window keeps its images in memory, so that no other tensor has the same id.
        if (of, id(images)) not in self._ready:
            self._compute(images, addresses)
        targets = self._ready.pop((of, id(images)))
        if isinstance(targets, Exception):
            raise targets
        return targets

    def _compute(self, images: Tensor, addresses: Tensor | None) -> None:
        lookups = {member: member.look_up(addresses) for member in self._members}
        running = dict.fromkeys(name for lookup in lookups.values() for name in lookup.teachers)
        outputs = {name: self._outputs(name, images) for name in running}
        for member, lookup in lookups.items():
            try:
                seen = {name: outputs[name][member] for name in lookup.teachers}
                self._ready[member, id(images)] = member.complete(lookup, images, seen)
            except Exception as error:  # noqa: BLE001 - the run that it concerns raises it
                self._ready[member, id(images)] = error

    def _outputs(self, name: str, images: Tensor) -> dict[TeacherTargets, Outputs]:
        """What each member reads of a teacher."""
        slots = {member: member.teachers[name] for member in self._members if name in member.teachers}
        reads = [read for slot in slots.values() for read in _reads(slot.wanted)]
        # A run that reads no class signal may not have the teacher's classes matched to those of the data.
        runner = max(slots, key=lambda member: len(CLASS_SIGNALS & slots[member].wanted.keys()))
        union = wanted_signals(reads, slots[runner].spec)
        together = runner.outputs(name, images, union)
        found: dict[Hashable, Outputs] = {}
        for member, slot in slots.items():
            if _key(slot.wanted) not in found:
                found[_key(slot.wanted)] = self._part(name, member, images, together, union)
        return {member: found[_key(slot.wanted)] for member, slot in slots.items()}

    def _part(self, name: str, member: TeacherTargets, images: Tensor, together: Outputs, union: Wanted) -> Outputs:
        """The signals that one member reads, from the forward on all of them if that is bit-equal to its own."""
        slot = member.teachers[name]
        part = restrict(together, union, _reads(slot.wanted), slot.spec)
        if slot.wanted == union or images.device.type != "cpu":
            return part
        key = (name, len(images), _key(slot.wanted), _key(union))
        if self._are_equal.get(key, False):
            return part
        alone = member.outputs(name, images)
        self._are_equal.setdefault(key, _equal(part, alone))
        return part if self._are_equal[key] else alone


def _reads(wanted: Wanted) -> list[Read]:
    return [Read(signal, layers) for signal, layers in wanted.items()]


def _key(wanted: Wanted) -> Hashable:
    return tuple(wanted.items())


def _equal(first: Outputs, second: Outputs) -> bool:
    """Whether two outputs have the same tensors, of any shape, bit for bit."""
    ours, theirs = tensors_of(first), tensors_of(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
