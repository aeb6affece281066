"""Make the plan of a run: look up names, open data, build models on the meta device. Loads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from distillkit.contracts.model import ModelRequest, ModelSpec, Read, Signal
from distillkit.contracts.signal_matching import wanted_signals
from distillkit.data.images_in_memory import bytes_in_memory, keeps_images
from distillkit.data.micro_batches import check_no_single_samples
from distillkit.data.order import samples_per_step, steps_per_epoch
from distillkit.data.sources import is_stream
from distillkit.data.splits import DataSets
from distillkit.data.suspicious_classes import fewer_than_a_batch
from distillkit.errors import DataError, RecipeError, RunDirectoryError, WeightsError
from distillkit.models.build import build_model
from distillkit.models.initial_weights import PUBLISHED
from distillkit.models.kept_patches import KeptPatches, PatchChoice
from distillkit.models.teacher_size import spec_at
from distillkit.planning.bank_plan import bank_notes, plan_bank
from distillkit.planning.bank_proposals import large_shelves
from distillkit.planning.cost import Cost
from distillkit.planning.label_weight import check_label_term, resolve_label_weight
from distillkit.planning.licences import licence_notes, taught_by
from distillkit.planning.losses import build_loss, plan_loss, signals_by_loss
from distillkit.planning.masked_teachers import masked_reads
from distillkit.planning.models import (
    ClassSpace,
    DescribedTeacher,
    check_default_data,
    classes_by_position,
    describe_student,
    describe_teacher,
    initial_weight_notes,
    logit_teachers,
    map_to_classes,
    resolve_classes,
    teacher_weight_notes,
)
from distillkit.planning.plan import LossPlan, Plan, StudentPlan, TeacherPlan
from distillkit.planning.preflight import CheckedRecipe, check_recipe
from distillkit.planning.preparation import check_index, with_preparation
from distillkit.planning.probe import Build, Probe, forward_flops, probe_task
from distillkit.planning.surprises import enlarged_images, left_out_of_each_epoch, small_share_of_teacher
from distillkit.planning.teacher_evaluation import images_to_evaluate
from distillkit.planning.teacher_form import precision_notes, teacher_images, with_form
from distillkit.planning.unused_settings import unused_settings
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe
from distillkit.training.optimisation import check_optimizer_name, warmup_steps

DEFAULT_EPOCHS = 20


def make_plan(
    recipe: Recipe, plugins: PluginRegistry, checked: CheckedRecipe | None = None, *, resuming: bool = False
) -> Plan:
    """Make the plan of a recipe; `checked` is the result of `check_recipe`, if it was already called.

    With `resuming`, the student's initial weights may be missing: the checkpoint replaces them.
    Raises: a UserError with one sentence for the first problem.
    """
    checked = checked or check_recipe(recipe, plugins)
    found, datasets, distilling = checked.plugins, checked.datasets, recipe.distilling_losses
    check_optimizer_name(recipe.optimizer)
    reads_teacher = any(found.losses[entry.name].spec.signals for entry in distilling)
    described = {entry.name: describe_teacher(found.teachers[entry.name], entry) for entry in recipe.teachers}
    mapped = logit_teachers(recipe, distilling, found.losses)
    check_default_data(recipe, (described[name] for name in mapped))
    space = resolve_classes(datasets, {name: described[name].native for name in mapped}, reads_features=reads_teacher)
    teachers = {name: map_to_classes(teacher, space, mapped=name in mapped) for name, teacher in described.items()}
    request, student = _describe_student(found.student, recipe, space)
    request, start_notes = _initial_weights(found.student, request, resuming=resuming)
    # After the student is described: a teacher without a fixed input size takes the student's.
    teachers = {name: teacher.sized_for(student) for name, teacher in teachers.items()}
    losses = _plan_losses(recipe, plugins, found.losses, student, teachers)
    student = taught_by(student, losses)
    label_weight = _label_weight(recipe, datasets, losses)
    check_label_term(student, label_weight)
    reads = _student_reads(losses, label_weight) | masked_reads(losses, teachers, student)
    wanted = wanted_signals(reads, student)
    probe = probe_task(_builder(found.student, request, losses, student), student, wanted, label_term=label_weight > 0)
    head, head_notes = prediction_head(recipe.evaluation.head, student, probe.untrained)
    student_plan = StudentPlan(
        found.student, request, student, wanted, head, probe.untrained, probe.fixed, probe.trains_on_one_image
    )
    head_notes += _head_notes(student_plan)
    per_epoch, samples = steps_per_epoch(datasets, recipe), samples_per_step(datasets, recipe)
    if not student_plan.trains_on_one_image:
        check_no_single_samples(samples, recipe.training.micro_batch_size, world=1)
    steps = recipe.training.steps or (recipe.training.epochs or DEFAULT_EPOCHS) * per_epoch
    check_index(losses, datasets.train)
    losses = with_preparation(losses, recipe, images=per_epoch * samples, resuming=resuming)
    planned = {
        name: _with_evaluation(teacher.plan(losses, student), datasets, run_images=steps * samples)
        for name, teacher in teachers.items()
    }
    taught = teacher_images(recipe, steps=steps, per_epoch=per_epoch, samples=samples)
    planned = {
        name: with_form(teacher, recipe, _teacher_flops(teacher, student), taught) for name, teacher in planned.items()
    }
    plan = Plan(
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
        cost=_cost(probe, student, planned, losses, images=steps * samples),
        notes=(
            *recipe.about.notes,
            *datasets.notes,
            *teacher_weight_notes(recipe.teachers),
            *classes_by_position((teachers[name] for name in teachers if name in mapped), space),
            *start_notes,
            *licence_notes(student),
            *head_notes,
            *unused_settings(recipe, student),
            *precision_notes(recipe, planned, student_flops=3 * probe.student_flops * steps * samples),
            *_notes(recipe, datasets, losses, steps=steps, per_epoch=per_epoch),
            *left_out_of_each_epoch(len(datasets.train), samples=samples, steps=per_epoch, recipe=recipe),
            *enlarged_images(datasets.train, student, recipe, has_labels=bool(datasets.labelled.any())),
            *small_share_of_teacher(losses, label_weight, recipe),
        ),
        bytes_in_memory=_bytes_in_memory(recipe, datasets, shown=steps * samples // recipe.augment.repeats),
    )
    return _with_bank(plan)


def _bytes_in_memory(recipe: Recipe, datasets: DataSets, *, shown: int) -> int | None:
    """Estimated bytes of the decoded training images, None if the run of `shown` of them does not keep them."""
    train, limit_mb = datasets.train, recipe.data.cache_mb
    if is_stream(train) or not limit_mb or shown < len(train):
        return None
    estimate = bytes_in_memory(train)
    return estimate if keeps_images(estimate, limit_mb, shown=shown, images=len(train)) else None


def _describe_student(plugin: Plugin, recipe: Recipe, space: ClassSpace) -> tuple[ModelRequest, ModelSpec]:
    """As `describe_student`; an error carries the notes on the student's options, which may explain it."""
    try:
        return describe_student(plugin, recipe.student, space)
    except RecipeError as error:
        for note in recipe.about.notes:
            if note.startswith("student."):
                error.add_note(note)
        raise


def _initial_weights(plugin: Plugin, request: ModelRequest, *, resuming: bool) -> tuple[ModelRequest, tuple[str, ...]]:
    """The request of the student, and the notes on its weights; when resuming, without weights that are missing."""
    try:
        return request, initial_weight_notes(plugin, request)
    except (WeightsError, RunDirectoryError):
        if not resuming:
            raise
        return replace(request, weights=None), ()


def _plan_losses(
    recipe: Recipe,
    plugins: PluginRegistry,
    found: Mapping[str, Plugin],
    student: ModelSpec,
    teachers: Mapping[str, DescribedTeacher],
) -> dict[str, LossPlan]:
    specs = {name: teacher.spec for name, teacher in teachers.items()}
    alternatives = signals_by_loss(plugins.listing("loss"))
    return {
        entry.name: plan_loss(found[entry.name], entry, recipe, student, specs, alternatives)
        for entry in recipe.distilling_losses
    }


def _label_weight(recipe: Recipe, datasets: DataSets, losses: Mapping[str, LossPlan]) -> float:
    """The weight of the label term. Raises: as `resolve_label_weight`; DataError if no head would be trained."""
    if recipe.labels.weight is None and not datasets.labelled.any():
        _refuse_attention_only(losses)
    return resolve_label_weight(
        recipe.labels.weight,
        {name: plan.loss.label_weight for name, plan in losses.items()},
        labelled=int(datasets.labelled.sum()),
    )


def _with_evaluation(teacher: TeacherPlan, datasets: DataSets, *, run_images: int) -> TeacherPlan:
    return replace(teacher, evaluated=images_to_evaluate(teacher, datasets, run_images=run_images))


def _with_bank(plan: Plan) -> Plan:
    """The plan with its target bank, if it has one."""
    bank = plan_bank(plan)
    if bank is None:
        return plan
    large = large_shelves(bank, plan.losses, plan.student.spec)
    return replace(plan, bank=bank, notes=(*plan.notes, *bank_notes(bank, len(plan.datasets.train)), *large))


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
            "give `run --from RUN`, or --student-weights (finetune: --weights)"
        )
    if recipe.data.labeled_fraction is not None and datasets.labelled.all():
        notes.append("every image has a label, so data.labeled_fraction has no effect")
    if recipe.evaluation.images is not None:
        notes.append(f"each evaluation measures at most {recipe.evaluation.images:,} images of a split")
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


def _cost(
    probe: Probe,
    student: ModelSpec,
    teachers: Mapping[str, TeacherPlan],
    losses: Mapping[str, LossPlan],
    *,
    images: int,
) -> Cost:
    return Cost(
        student_flops=probe.student_flops,
        teacher_flops=sum(teacher.flops for teacher in teachers.values()),
        student_parameters=student.parameters,
        teacher_parameters=sum(plan.native.parameters for plan in teachers.values()),
        images=images,
        prepare_flops=sum(
            loss.prepares * teachers[loss.teacher].flops for loss in losses.values() if loss.teacher is not None
        ),
    )


def _teacher_flops(plan: TeacherPlan, student: ModelSpec) -> int:
    if not plan.wanted:  # no loss reads it, so the run does not build it
        return 0
    # A file sets facts of its model, such as the classes. On the meta device only its header is read.
    weights = "none" if plan.request.weights in (None, PUBLISHED) else plan.request.weights
    with torch.device("meta"):
        model = build_model(plan.plugin, replace(plan.request, weights=weights))
    choice = PatchChoice.between(plan.entry.masked, student, plan.spec)
    kept: AbstractContextManager[None] = nullcontext()
    if choice is not None:
        kept = KeptPatches(model.network).keeping(torch.zeros(1, choice.kept, dtype=torch.int64, device="meta"))
    with kept:
        return forward_flops(cast("nn.Module", model), spec_at(plan.native, plan.input_size), plan.wanted)
