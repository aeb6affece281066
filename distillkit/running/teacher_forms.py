"""The forms of the teachers of a run, each compared with the plain form in float32 on images of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distillkit.compute.devices import pick_device, pick_precision
from distillkit.compute.distributed import Processes
from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.models.form_check import FormCheck
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.planning.plan import Plan
from distillkit.planning.teacher_form import teacher_images, teacher_precision
from distillkit.recipe.schema import Recipe, TeacherEntry
from distillkit.running.measured_forms import measure_forms

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class SettledForm:
    """How a teacher computes in this run, and the notes on how that came about; `batch` is its usual batch size."""

    form: TeacherForm
    precision: torch.dtype
    notes: tuple[str, ...] = ()
    batch: int = 0

    def as_dict(self) -> dict[str, str]:
        """The form as plain data, as in plan.json."""
        return {"form": str(self.form), "precision": PRECISIONS[self.precision]}


def settle_form(name: str, teacher: FrozenTeacher, plan: Plan, images: Tensor, processes: Processes) -> SettledForm:
    """Give a teacher the form of its plan, or the fastest of those measured.

    A form that fails, or disagrees with the plain one in any process, is not used; a note says why.
    The teacher must be plain and in float32. Collective: all processes must call it.
    Shapes: images [B, C, H, W], normalised for the student.
    """
    planned = plan.teachers[name]
    precision, notes = teacher_precision(planned, images.device), []
    check, form = FormCheck(teacher, planned.wanted, images), planned.form
    if form is None:
        form, sentence = _measured(check, precision, plan, processes)
        notes.append(f"teacher '{name}': {sentence}")
    fault = check.take(form, precision)
    if not processes.max(int(fault is not None)):
        check.accept()
        return SettledForm(form, precision, tuple(notes), len(images))
    check.restore()
    # A precision that the recipe names is the user's choice; another one has to agree in the plain form, too.
    if planned.entry.precision == "auto" and precision is not torch.float32:
        disagrees = check.take(PLAIN, precision)
        precision = torch.float32 if processes.max(int(disagrees is not None)) else precision
        check.restore()
    teacher.take(PLAIN, precision)
    why = fault or "fails in another process"
    notes.append(f"teacher '{name}' computes in the plain form, in {PRECISIONS[precision]}, because {form} {why}")
    return SettledForm(PLAIN, precision, tuple(notes))


def _measured(check: FormCheck, precision: torch.dtype, plan: Plan, processes: Processes) -> tuple[TeacherForm, str]:
    """The fastest form in the first process, for all of them, and a sentence on what was measured."""
    found = ("", "")
    if processes.is_first:
        images = teacher_images(
            plan.recipe, steps=plan.steps, per_epoch=plan.steps_per_epoch, samples=plan.samples_per_step
        )
        measured = measure_forms(check, precision, images // processes.world)
        found = (str(measured.fastest.form), measured.sentence())
    form, sentence = json.loads(processes.broadcast(json.dumps(found)))
    return TeacherForm.parse(form), sentence


def with_recorded_forms(recipe: Recipe, plan: Mapping[str, Any]) -> Recipe:
    """The recipe of a run that continues, with the forms and precisions in its plan.json.

    On another kind of device they are chosen again.
    """
    device = pick_device(recipe.training.device)
    if str(plan.get("device", "")).partition(":")[0] != device.type:
        return recipe
    written = {teacher.get("recipe_name"): teacher for teacher in plan["teachers"]}
    teachers = tuple(_recorded(entry, written.get(entry.name, {}), device) for entry in recipe.teachers)
    return recipe.model_copy(update={"teachers": teachers})


def _recorded(entry: TeacherEntry, written: Mapping[str, Any], device: torch.device) -> TeacherEntry:
    """A teacher with its recorded form; runs of earlier versions have none, and computed as follows."""
    earlier = PRECISIONS[pick_precision(entry.precision, device)]
    update = {"form": written.get("form", str(PLAIN)), "precision": written.get("precision") or earlier}
    return entry.model_copy(update=update)
