"""The teachers of a training session, built once for all runs that train together."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from distillkit.contracts.teacher_form import PLAIN
from distillkit.data.order import check_equal_micro_batches
from distillkit.data.randomness import isolated, reseed
from distillkit.models.build import build_model
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.kept_patches import PatchChoice
from distillkit.planning.bank_facts import tensors_digest
from distillkit.planning.teacher_form import teacher_precision
from distillkit.running.run_data import first_batch
from distillkit.running.teacher_forms import SettledForm, settle_form
from distillkit.training.teacher_targets import TeacherSlot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from distillkit.compute.distributed import Processes
    from distillkit.contracts.model import Model
    from distillkit.models.class_matching import ClassMap
    from distillkit.planning.plan import Plan, TeacherPlan


class BuiltTeachers:
    """Builds frozen teachers, each one once, also for several plans, which have to agree on their teachers.

    Only the class map of a teacher may differ: a run that reads no class signal has none. The weights are then shared.
    `with_digests` is needed if any of the plans has a bank.
    """

    def __init__(self, *, with_digests: bool) -> None:
        self._with_digests = with_digests
        self._models: dict[str, tuple[Model, str]] = {}
        self._frozen: dict[tuple[str, ClassMap], FrozenTeacher] = {}
        self._forms: dict[str, SettledForm] = {}

    def build(
        self, teacher: TeacherPlan, plan: Plan, device: torch.device, processes: Processes
    ) -> tuple[TeacherSlot, str]:
        """A teacher with its weights, for the student's images, and the digest of the weights, or "".

        Raises: RecipeError for a sharded teacher where a step cannot be split equally.
        """
        name = teacher.entry.name
        if teacher.entry.only_in_bank:
            return TeacherSlot(None, teacher.spec, teacher.wanted), ""
        if name not in self._models:
            with isolated():
                # Random weights ("none") are equal in every run, and after a resume: they do not follow `seed`, so that
                # runs that train together, or share a bank, have the same teacher.
                reseed("teacher", name)
                model = build_model(teacher.plugin, teacher.request)
            # Before they are cast: a bank does not depend on how a precision is reached.
            digest = tensors_digest(cast("nn.Module", model)) if self._with_digests else ""
            self._models[name] = model, digest
        model, digest = self._models[name]
        frozen = self._frozen.get((name, teacher.class_map))
        if frozen is None:
            frozen = FrozenTeacher(
                model,
                student=plan.student.spec,
                size=teacher.entry.size,
                class_map=teacher.class_map,
                # Another form is first compared with this one in float32.
                precision=teacher_precision(teacher, device) if teacher.form == PLAIN else torch.float32,
                masked=teacher.entry.masked > 0,
            )
            if teacher.entry.sharded and not processes.is_alone:
                check_equal_micro_batches(plan.samples_per_step, plan.recipe.training.micro_batch_size, processes.world)
                frozen.shard(processes, device)
            self._frozen[name, teacher.class_map] = frozen.to(device)
        choice = PatchChoice.between(teacher.entry.masked, plan.student.spec, teacher.spec)
        return TeacherSlot(frozen, teacher.spec, teacher.wanted, choice), digest

    def settle_forms(
        self, slots: Mapping[str, TeacherSlot], plan: Plan, device: torch.device, processes: Processes
    ) -> dict[str, SettledForm]:
        """Give the teachers of a plan their forms; one that is built for several plans has that of the first.

        Collective: all processes must call it.
        """
        images, found = None, {}
        for name, slot in slots.items():
            if slot.model is None:
                continue
            planned, teacher = plan.teachers[name], cast("FrozenTeacher", slot.model)
            if name not in self._forms and planned.form == PLAIN:
                self._forms[name] = SettledForm(PLAIN, teacher_precision(planned, device))
            elif name not in self._forms:
                images = first_batch(plan, device, processes) if images is None else images
                self._forms[name] = settle_form(name, teacher, plan, images, processes)
            settled = found[name] = self._forms[name]
            if (teacher.form, teacher.precision) != (settled.form, settled.precision):  # another class map
                teacher.take(settled.form, settled.precision, (settled.batch, slot.wanted))
        return found
