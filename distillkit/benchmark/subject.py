"""The subject of a benchmark: one teacher, one student and batches in memory, which all arms share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from distillkit.benchmark.generated_images import NAME, generated_data
from distillkit.benchmark.settings import CPU_BATCH, GPU_BATCH, PLAIN_ARMS, BenchSettings
from distillkit.compute.devices import pick_device
from distillkit.contracts.model import ModelSpec, Signal
from distillkit.data.batches import Window
from distillkit.errors import UserError
from distillkit.messages.text import size_text
from distillkit.models.build import build_model
from distillkit.planning.cost import ADAM_BYTES
from distillkit.planning.make_plan import make_plan
from distillkit.planning.models import ClassSpace, describe_student, describe_teacher
from distillkit.planning.plan import LossPlan, Plan, TeacherPlan
from distillkit.planning.preflight import CheckedRecipe, check_plugins
from distillkit.planning.teacher_form import with_form
from distillkit.plugin.registry import PluginRegistry
from distillkit.running.session import TrainingSession, build_session
from distillkit.running.teacher_forms import SettledForm

WINDOWS = 2
"""Batches in memory."""


@dataclass(frozen=True)
class BenchSubject:
    """Our models in a session whose bank is filled, and the batches that all arms get."""

    session: TrainingSession
    windows: tuple[Window, ...]

    @property
    def plan(self) -> Plan:
        return self.session.plan

    @property
    def device(self) -> torch.device:
        return self.session.device

    @property
    def loss(self) -> LossPlan:
        """The distillation loss."""
        (loss,) = self.plan.losses.values()
        return loss

    @property
    def form(self) -> SettledForm:
        """How the teacher computes in our arms."""
        (form,) = self.session.forms.values()
        return form

    @property
    def has_two_heads(self) -> bool:
        """Whether the student learns from the teacher with a head of its own."""
        return hasattr(self.session.task.student.network, "set_distilled_training")

    @cached_property
    def teacher_network(self) -> nn.Module:
        """The bare network of the teacher in float32, shared by all plain arms."""
        (teacher,) = self.plan.teachers.values()
        return build_model(teacher.plugin, teacher.request).network.to(self.device).eval()

    def student_network(self) -> nn.Module:
        """A bare network of the student in training mode; with two heads it returns the logits of both."""
        network: Any = build_model(self.plan.student.plugin, self.plan.student.request).network
        if self.has_two_heads:
            network.set_distilled_training(True)
        trained: nn.Module = network.to(self.device).train()
        return trained

    def autocast(self, dtype: torch.dtype) -> AbstractContextManager[Any]:
        """Autocast to `dtype` on the device; without effect for float32."""
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32)


def open_subject(settings: BenchSettings, plugins: PluginRegistry, bank: Path) -> BenchSubject:
    """Build the models with random weights, load the batches, and fill the bank in folder `bank` with their targets.

    Raises: UserError where the memory is too small; the errors of planning and building.
    """
    batch = settings.batch or (CPU_BATCH if pick_device(settings.device).type == "cpu" else GPU_BATCH)
    recipe = settings.recipe(bank, batch)
    found = check_plugins(recipe, plugins)
    (entry,) = recipe.teachers
    teacher = describe_teacher(found.teachers[entry.name], entry).native
    _, student = describe_student(found.student, recipe.student, ClassSpace(teacher.classes, None, NAME))
    _require_fitting(teacher, student)
    plan = make_plan(recipe, plugins, CheckedRecipe(found, generated_data(WINDOWS * batch, teacher.classes)))
    plan = replace(plan, teachers={name: _in_a_long_run(plan, name) for name in plan.teachers})
    _require_memory(plan, settings)
    session = build_session(plan)
    windows = tuple(session.data.windows(0, WINDOWS))
    _fill(session, windows)
    return BenchSubject(session, windows)


def _in_a_long_run(plan: Plan, name: str) -> TeacherPlan:
    """A teacher in the form of a run without a bank, which asks it for every image."""
    teacher, recipe = plan.teachers[name], plan.recipe.model_copy(update={"bank": None})
    return with_form(teacher, recipe, teacher.flops, plan.steps * plan.samples_per_step)


def _fill(session: TrainingSession, windows: tuple[Window, ...]) -> None:
    """Store the targets of the batches, and leave out the comparison that a run makes once, at its start."""
    bank = session.bank
    assert bank is not None  # noqa: S101 - the recipe names one
    for use in bank.uses.values():
        use.to_compare = 0
    for window in windows:
        for batch in window.micro_batches:
            session.stepper.teacher_targets(batch.images, batch.addresses)
    if bank.notes:
        raise UserError(bank.notes[0])


def _require_fitting(teacher: ModelSpec, student: ModelSpec) -> None:
    """Refuse a teacher without logits, or one that does not accept the student's images: other arms do not resize them.

    Raises: UserError.
    """
    if Signal.LOGITS not in teacher.signals:
        raise UserError(f"teacher '{teacher.name}' has no class logits, which hard and soft read; give another one")
    height, width = teacher.image_size
    if teacher.image_size != student.image_size and not teacher.flexible_size:
        raise UserError(
            f"teacher '{teacher.name}' accepts only images of {height}x{width} pixels, and student '{student.name}' "
            f"gets {student.image_size[0]}x{student.image_size[1]}; give --image-size {height}"
        )


def _require_memory(plan: Plan, settings: BenchSettings) -> None:
    """Refuse models that do not fit into the memory of the device even without their activations."""
    plain = [name for name in settings.chosen_arms if name in PLAIN_ARMS]
    teachers = 4 * plan.cost.teacher_parameters * (2 if plain else 1)
    needed = teachers + ADAM_BYTES * plan.cost.student_parameters * (1 + len(plain))
    device = pick_device(settings.device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"the models need {size_text(needed)} without activations, and {size_text(free)} of memory is free; name "
            "smaller ones, or fewer --arms"
        )
