"""Precision and form of a teacher, by a rule: machine, model and length of the run decide, and no measured time.

A rule gives the same form, and so the same run, every time; a measurement may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch

from distillkit.compute.devices import computes_bf16, pick_device, pick_precision
from distillkit.contracts.teacher_form import PLAIN, TeacherForm, chosen_form
from distillkit.errors import RecipeError
from distillkit.models.attention_form import written_is_faster
from distillkit.planning.plan import TeacherPlan
from distillkit.recipe.schema import Recipe

LARGE_FLOPS = 1e9
"""FLOPs per image from which a teacher computes in bf16 on a CPU with bf16 instructions; a small one gains nothing."""
LEAST_WORK = 1e13
"""FLOPs of a teacher in a run from which it does not compute in the plain form: a minute or more on a CPU core."""
COMPILED_WORK = 2e14
"""FLOPs from which it is compiled on a CPU: that takes a minute, of a run of more than half an hour."""


def teacher_images(recipe: Recipe, *, steps: int, per_epoch: int, samples: int) -> int:
    """The number of images for which a run asks its teachers; with a bank, at most once for each row."""
    views = recipe.data.views if recipe.bank is not None else None
    return samples * (steps if views is None else min(steps, views * per_epoch))


def with_form(teacher: TeacherPlan, recipe: Recipe, flops: int, images: int) -> TeacherPlan:
    """The plan of a teacher with its FLOPs per image, and its form for a run that asks it for `images` images.

    Raises: RecipeError for a masked teacher that is to be compiled: it sees other patches in every batch.
    """
    planned, chosen = replace(teacher, flops=flops), chosen_form(teacher.entry.form)
    masked = teacher.entry.masked > 0
    if masked and (chosen == "measured" or (isinstance(chosen, TeacherForm) and chosen.compiled)):
        raise RecipeError(
            f"teacher '{teacher.entry.name}' is masked, and then its form cannot be '{teacher.entry.form}', because it "
            "cannot be compiled; set form to auto, plain or channels-last, or set masked to 0"
        )
    if teacher.entry.sharded or teacher.entry.only_in_bank or not teacher.wanted:
        return replace(planned, form=PLAIN)
    if chosen == "measured":
        return replace(planned, form=None)
    if isinstance(chosen, TeacherForm):
        return replace(planned, form=chosen)
    with suppress(RecipeError):  # a plan for another machine
        device = pick_device(recipe.training.device)
        form = _by_rule(planned, device, images)
        compiled = not masked and (form.compiled or recipe.training.compile)
        return replace(planned, form=replace(form, compiled=compiled))
    return planned


def teacher_precision(teacher: TeacherPlan, device: torch.device) -> torch.dtype:
    """The precision of a teacher on a device, see `teachers.precision` of the recipe."""
    is_auto = teacher.entry.precision == "auto"
    if is_auto and device.type == "cpu" and teacher.flops >= LARGE_FLOPS and computes_bf16(device):
        return torch.bfloat16
    return pick_precision(teacher.entry.precision, device)


def precision_notes(recipe: Recipe, teachers: Mapping[str, TeacherPlan], *, student_flops: float) -> Iterator[str]:
    """Notes on a CPU that emulates the bf16 of the recipe, or has instructions for bf16 that the student does not use.

    `student_flops` are those of the student in the run.
    """
    try:
        device = pick_device(recipe.training.device)
    except RecipeError:
        return
    if device.type != "cpu":
        return
    if computes_bf16(device):
        if recipe.training.precision == "auto" and student_flops >= LEAST_WORK:
            yield (
                "this CPU has bf16 instructions, and the student trains in float32; `distillkit plan --time` measures "
                "what training.precision=bf16 gains"
            )
        return
    keys = ["training.precision"] if recipe.training.precision == "bf16" else []
    keys += [f"teachers.{name}.precision" for name, each in teachers.items() if each.entry.precision == "bf16"]
    if keys:
        yield f"this CPU has no bf16 instructions, so {' and '.join(keys)} = bf16 saves no time"


def _by_rule(teacher: TeacherPlan, device: torch.device, images: int) -> TeacherForm:
    work = teacher.flops * images
    if work < LEAST_WORK or device.type not in {"cpu", "cuda"}:
        return PLAIN
    on_cpu, is_half = device.type == "cpu", teacher_precision(teacher, device) is not torch.float32
    in_bf16_on_cpu = on_cpu and is_half and computes_bf16(device)
    return TeacherForm(
        # Convolutions of oneDNN, and those of cuDNN in half precision, want the channels last.
        channels_last=teacher.native.kind == "cnn" and (on_cpu or is_half),
        written_attention=(
            in_bf16_on_cpu
            and teacher.native.kind == "vit"
            and written_is_faster(device, torch.bfloat16, teacher.spec.grids)
        ),
        half_weights=in_bf16_on_cpu,
        # In float32 convolutions take nearly all of the time of a CNN, and the compiler does not change them.
        compiled=on_cpu and work >= COMPILED_WORK and (in_bf16_on_cpu or teacher.native.kind == "vit"),
    )
