"""Make the plan of a run: look up names, open data, build models on the meta device. Loads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from distillkit.contracts.model import ModelRequest, ModelSpec, Read, Signal
from distillkit.contracts.signal_matching import wanted_signals
from distillkit.data.order import samples_per_step, steps_per_epoch
from distillkit.data.splits import DataSets, open_datasets
from distillkit.data.suspicious_classes import fewer_than_a_batch
from distillkit.errors import DataError, RunDirectoryError, WeightsError
from distillkit.models.build import build_model
from distillkit.models.teacher_size import spec_at
from distillkit.planning.cost import Cost
from distillkit.planning.label_weight import resolve_label_weight
from distillkit.planning.losses import build_loss, plan_loss, signals_by_loss
from distillkit.planning.models import (
    describe_student,
    describe_teacher,
    initial_weight_notes,
    logit_teachers,
    map_to_classes,
    resolve_classes,
)
from distillkit.planning.names import RecipePlugins, find_plugins
from distillkit.planning.plan import LossPlan, Plan, StudentPlan, TeacherPlan
from distillkit.planning.probe import Build, Probe, forward_flops, probe_task
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe
from distillkit.training.optimisation import check_optimizer_name, warmup_steps

DEFAULT_EPOCHS = 20


def make_plan(
    recipe: Recipe, plugins: PluginRegistry, recipe_plugins: RecipePlugins | None = None, *, resuming: bool = False
) -> Plan:
    """Make the plan of a recipe; `recipe_plugins` are its plugins, if they were already looked up.

    With `resuming`, the student's initial weights may be missing: the checkpoint replaces them.
    Raises: a UserError with one sentence for the first problem.
    """
    found = recipe_plugins or find_plugins(recipe, plugins)
    check_optimizer_name(recipe.optimizer)
    # `ce` stands for the label term, which is part of every plan with labels.
    distilling = tuple(entry for entry in recipe.losses if entry.loss != "ce")
    reads_teacher = any(found.losses[entry.name].spec.signals for entry in distilling)
    datasets = _open(recipe, plugins, needs_labels=not reads_teacher)
    described = {entry.name: describe_teacher(found.teachers[entry.name], entry) for entry in recipe.teachers}
    mapped = logit_teachers(recipe, distilling, found.losses)
    space = resolve_classes(datasets, {name: described[name].native for name in mapped}, reads_features=reads_teacher)
    teachers = {name: map_to_classes(teacher, space, mapped=name in mapped) for name, teacher in described.items()}
    request, student = describe_student(found.student, recipe.student, space)
    try:
        start_notes = initial_weight_notes(found.student, request)
    except (WeightsError, RunDirectoryError):
        if not resuming:
            raise
        request, start_notes = replace(request, weights=None), ()
    # After the student is described: a teacher without a fixed input size takes the student's.
    teachers = {name: teacher.sized_for(student) for name, teacher in teachers.items()}
    specs = {name: teacher.spec for name, teacher in teachers.items()}
    alternatives = signals_by_loss(plugins.listing("loss"))
    losses = {
        entry.name: plan_loss(found.losses[entry.name], entry, recipe, student, specs, alternatives)
        for entry in distilling
    }
    if recipe.labels.weight is None and not datasets.labelled.any():
        _refuse_attention_only(losses)
    label_weight = resolve_label_weight(
        recipe.labels.weight,
        {name: plan.loss.label_weight for name, plan in losses.items()},
        labelled=int(datasets.labelled.sum()),
    )
    wanted = wanted_signals(_student_reads(losses, label_weight), student)
    probe = probe_task(_builder(found.student, request, losses, student), student, wanted, label_term=label_weight > 0)
    head, head_notes = prediction_head(recipe.evaluation.head, student, probe.untrained)
    student_plan = StudentPlan(found.student, request, student, wanted, head, probe.untrained, probe.fixed)
    head_notes += _head_notes(student_plan)
    planned = {name: teacher.plan(losses) for name, teacher in teachers.items()}
    per_epoch, samples = steps_per_epoch(datasets, recipe), samples_per_step(datasets, recipe)
    steps = recipe.training.steps or (recipe.training.epochs or DEFAULT_EPOCHS) * per_epoch
    return Plan(
        recipe=recipe,
        datasets=datasets,
        classes=space.classes,
        class_names=space.names,
        student=student_plan,
        teachers=planned,
        losses=losses,
        trackers=found.trackers,
        label_weight=label_weight,
        steps=steps,
        steps_per_epoch=per_epoch,
        samples_per_step=samples,
        cost=_cost(probe, student, planned, images=steps * samples),
        notes=(
            *recipe.about.notes,
            *datasets.notes,
            *start_notes,
            *head_notes,
            *_notes(recipe, datasets, losses, steps=steps, per_epoch=per_epoch),
        ),
    )


def prediction_head(configured: str, spec: ModelSpec, untrained: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The prediction head of a student: `evaluation.head`, unless that one is untrained and the other is trained.

    Returns the head, and a note where it is not the configured one.
    """
    if Signal.DISTILL_LOGITS not in spec.signals:
        return "class", ()
    class_trains, distill_trains = (f"{module}.weight" not in untrained for module in spec.head_modules[:2])
    if class_trains == distill_trains:
        return configured, ()
    trained, other, idle = ("class", "class", "distillation") if class_trains else ("distill", "distillation", "class")
    if configured == trained:
        return configured, ()
    return trained, (f"no loss term trains the {idle} head, so predictions use the {other} head only",)


def _open(recipe: Recipe, plugins: PluginRegistry, *, needs_labels: bool) -> DataSets:
    """Open the data; unlabelled images are dropped where no loss reads a teacher."""
    datasets = open_datasets(recipe.data, plugins)
    if needs_labels and datasets.labelled.any() and not datasets.labelled.all():
        return datasets.only_labelled()
    return datasets


def _refuse_attention_only(losses: Mapping[str, LossPlan]) -> None:
    """Refuse to match attention maps without any term that trains the heads; the papers train those on labels.

    Raises: DataError.
    """
    read = {read.signal for plan in losses.values() for read in plan.loss.reads_student}
    if read == {Signal.CLS_ATTENTION} and any(plan.loss.label_weight for plan in losses.values()):
        raise DataError(
            f"no image has a label, and loss '{next(iter(losses))}' matches attention maps only, so no head would be "
            "trained; give labels, add --loss hard or --loss attndistill, or set labels.weight=0"
        )


def _notes(
    recipe: Recipe, datasets: DataSets, losses: Mapping[str, LossPlan], *, steps: int, per_epoch: int
) -> tuple[str, ...]:
    """Warnings about settings that have no effect, or an unexpected one."""
    notes = []
    dropped = max((plan.loss.label_weight for plan in losses.values()), default=0.0)
    if not datasets.labelled.any() and dropped and recipe.labels.weight is None:
        notes.append(f"no image has a label, so the label term (weight {dropped:g}) is dropped")
    if recipe.about.needs_trained_student and recipe.student.weights in (None, "none"):
        notes.append(
            "this recipe is for a student that is already trained, but this one starts from random weights; "
            "give --from RUN or --student-weights"
        )
    if recipe.data.labeled_fraction is not None and datasets.labelled.all():
        notes.append("every image has a label, so data.labeled_fraction has no effect")
    few = fewer_than_a_batch(len(datasets.train), recipe.training.batch_size)
    if few is not None:
        notes.append(few)
    # A single step is always within the warm-up.
    if steps > 1 and warmup_steps(recipe, steps=steps, steps_per_epoch=per_epoch) >= steps:
        notes.append("warm-up covers all steps; lower schedule.warmup_epochs or train longer")
    return tuple(notes)


def _head_notes(student: StudentPlan) -> tuple[str, ...]:
    """A note where accuracy is not measured, with the reason."""
    if student.learns_classes:
        return ()
    has_head = Signal.LOGITS in student.spec.signals
    why = "no loss term trains a class head" if has_head else "the student has no class head"
    return (f"{why}, so top-1 is not measured; the student learns an embedding",)


def _student_reads(losses: Mapping[str, LossPlan], label_weight: float) -> set[Read]:
    reads = {Read(Signal.LOGITS)} if label_weight else set()
    for plan in losses.values():
        reads |= plan.loss.reads_student
    return reads


def _builder(plugin: Plugin, request: ModelRequest, losses: Mapping[str, LossPlan], student: ModelSpec) -> Build:
    """A function that builds the student with random weights, and its losses, on a device."""

    def build(device: torch.device) -> tuple[nn.Module, dict[str, nn.Module]]:
        # Building on the CPU draws random weights; a plan must not change the caller's random state.
        with device, torch.random.fork_rng(devices=[]):
            model = build_model(plugin, replace(request, weights=None))
            return cast("nn.Module", model), {name: build_loss(plan, student) for name, plan in losses.items()}

    return build


def _cost(probe: Probe, student: ModelSpec, teachers: Mapping[str, TeacherPlan], *, images: int) -> Cost:
    return Cost(
        student_flops=probe.student_flops,
        teacher_flops=sum(_teacher_flops(plan) for plan in teachers.values()),
        student_parameters=student.parameters,
        teacher_parameters=sum(plan.native.parameters for plan in teachers.values()),
        images=images,
    )


def _teacher_flops(plan: TeacherPlan) -> int:
    if not plan.wanted:  # no loss reads it, so the run does not build it
        return 0
    with torch.device("meta"):
        model = build_model(plan.plugin, replace(plan.request, weights="none"))
    return forward_flops(cast("nn.Module", model), spec_at(plan.native, plan.input_size), plan.wanted)
