"""Training session: models, data and optimiser of a plan, on the training device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from distillkit.compute.devices import keep_freed_memory, pick_device, pick_precision
from distillkit.compute.distributed import ALONE, Processes
from distillkit.contracts.incidents import BrokenImage
from distillkit.contracts.loss import Loss
from distillkit.contracts.model import Model
from distillkit.contracts.run import RunModels
from distillkit.data.batches import TrainingData
from distillkit.data.evaluation import EvaluationData, none_readable
from distillkit.data.order import check_equal_micro_batches
from distillkit.data.samples import evaluation_samples
from distillkit.models.build import build_model
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.sharding import parameter_bytes
from distillkit.models.weight_loading import load_notes
from distillkit.planning.losses import build_loss
from distillkit.planning.plan import Plan, TeacherPlan
from distillkit.planning.render import plan_as_dict
from distillkit.running.checkpoint import (
    Checkpoint,
    join_optimizer_state,
    restoring,
    split_optimizer_state,
)
from distillkit.training.accuracy import top1
from distillkit.training.gradient_norms import keep_compiled_graphs
from distillkit.training.optimisation import Optimisation, build_optimisation
from distillkit.training.step import Stepper, StepSettings
from distillkit.training.task import DistillationTask, Objective
from distillkit.training.teacher_targets import LossSlot, TeacherSlot, TeacherTargets


@dataclass(frozen=True)
class TrainingSession:
    """Models, losses, data and optimiser of a run in memory.

    `broken` collects the unreadable images of this process until the run adds them to its incidents.
    """

    plan: Plan
    device: torch.device
    precision: torch.dtype
    task: DistillationTask
    stepper: Stepper
    optimisation: Optimisation
    data: TrainingData
    ema: ModelEmaV3 | None
    processes: Processes = ALONE
    broken: list[BrokenImage] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the loaded weights of student and teachers that are not in the plan."""
        of_student = (note for note in load_notes(self.task.student) if note not in self.plan.notes)
        of_teachers = (
            f"teacher '{name}': {note}"
            for name, teacher in self._teachers.items()
            for note in (*load_notes(cast("nn.Module", teacher.model)), *self._sharding_notes(name))
        )
        return (*of_student, *of_teachers)

    @property
    def facts(self) -> dict[str, Any]:
        """The plan as plain data, with device, precision, seed and the notes on loaded weights."""
        facts = plan_as_dict(self.plan)
        precision = str(self.precision).removeprefix("torch.")
        settled = {"device": str(self.device), "precision": precision, "seed": self.plan.recipe.seed}
        return facts | settled | {"notes": [*facts["notes"], *self.notes]}

    def evaluate(self, model: nn.Module, split: Literal["validation", "test"]) -> dict[str, float]:
        """Figures of `model` on a split; empty where the run has no such split or trains no class head.

        Raises: DataError, in all processes, where none of the images can be read.
        """
        source = self.plan.datasets.validation if split == "validation" else self.plan.datasets.test
        if source is None or not self.plan.student.learns_classes:
            return {}
        recipe, spec = self.plan.recipe, self.plan.student.spec
        # With fewer images than processes, each process evaluates all: one without images would have no sums to add.
        processes = self.processes if len(source) >= self.processes.world else ALONE
        data = EvaluationData(
            source,
            spec,
            recipe.augment,
            batch_size=recipe.evaluation.batch_size,
            workers=recipe.data.workers,
            device=self.device,
            split=split,
            # With data.broken=0 the first unreadable image is an error.
            broken=self.broken if recipe.data.broken else None,
        ).shard_images(processes.rank, processes.world)
        figures = top1(model, spec, data, self.plan.answer, precision=self.precision, processes=processes)
        if not figures["images"] and len(source):
            raise none_readable(source)
        return figures

    @property
    def _teachers(self) -> dict[str, FrozenTeacher]:
        return {name: cast("FrozenTeacher", slot.model) for name, slot in self.stepper.teacher_targets.teachers.items()}

    def _sharding_notes(self, name: str) -> tuple[str, ...]:
        """Notes on a teacher with `teachers.sharded`."""
        if not self.plan.teachers[name].entry.sharded:
            return ()
        if self.processes.is_alone:
            return ("not sharded, because there is only one process (teachers.sharded)",)
        held, everything = parameter_bytes(self._teachers[name])
        first = f"{held / 1e6:,.1f} of {everything / 1e6:,.1f} MB in the first"
        sharded = f"its weights are sharded over {self.processes.world} processes, {first}"
        return (f"{sharded}; no attention figure shows it",)

    @property
    def models(self) -> RunModels:
        """The models that trackers receive at the end of the run."""
        spec, augment = self.plan.student.spec, self.plan.recipe.augment
        return RunModels(
            student=cast("Model", self.task.student),
            # Trackers run in the first process, and a sharded teacher needs all processes for a forward.
            teachers={name: teacher for name, teacher in self._teachers.items() if not teacher.sharded},
            samples=lambda count: evaluation_samples(
                self.plan.datasets, spec, augment, count=count, device=self.device
            ),
        )

    def checkpoint(self, step: int, progress: Mapping[str, Any]) -> Checkpoint:
        """The state after optimiser step `step`; `progress` is stored unchanged."""
        tensors, rest = split_optimizer_state(self.optimisation.optimizer.state_dict())
        parts: dict[str, dict[str, Tensor]] = {"task": self.task.state_dict(), "optimizer": tensors}
        if self.ema is not None:
            parts["ema"] = self.ema.module.state_dict()
        state = {"optimizer": rest, "scaler": self.optimisation.scaler.state_dict(), "progress": dict(progress)}
        return Checkpoint(step, parts, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint.

        Raises: CheckpointError where it belongs to another model.
        """
        with restoring(checkpoint.step):
            self.task.load_state_dict(dict(checkpoint.parts["task"]))
            if self.ema is not None:
                self.ema.module.load_state_dict(dict(checkpoint.parts["ema"]))
            state = join_optimizer_state(checkpoint.parts["optimizer"], checkpoint.state["optimizer"])
            _check_types(self.optimisation.optimizer.param_groups, state["param_groups"])
            self.optimisation.optimizer.load_state_dict(state)
            self.optimisation.scaler.load_state_dict(checkpoint.state["scaler"])


def _check_types(current: Sequence[Mapping[str, Any]], restored: Sequence[Mapping[str, Any]]) -> None:
    """Raise TypeError where a restored optimiser setting has another type than the current one.

    torch's `load_state_dict` accepts any type.
    """
    for current_group, restored_group in zip(current, restored, strict=True):
        for key, value in current_group.items():
            kind = int | float if isinstance(value, float) else type(value)
            if value is not None and not isinstance(restored_group[key], kind):
                raise TypeError(f"{key} of the optimiser is {restored_group[key]!r}")


def build_session(plan: Plan, processes: Processes = ALONE) -> TrainingSession:
    """Build the models with their weights, the losses, the data and the optimiser.

    Every process builds the same models and reads its share of the data.
    """
    recipe = plan.recipe
    device = pick_device(recipe.training.device, processes.local_rank)
    precision = pick_precision(recipe.training.precision, device)
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    if device.type == "cpu":
        keep_freed_memory()
    # A teacher that no loss reads is not built.
    teachers = {
        name: _build_teacher(teacher, plan, device, processes)
        for name, teacher in plan.teachers.items()
        if teacher.wanted
    }
    # After the teachers: how they are built must not change the student's random weights.
    torch.manual_seed(recipe.seed)
    task = _build_task(plan, precision).to(device)
    task.train()
    optimisation = build_optimisation(task, recipe, steps=plan.steps, steps_per_epoch=plan.steps_per_epoch)
    ema = ModelEmaV3(task.student, decay=recipe.training.ema) if recipe.training.ema else None
    if recipe.training.compile:
        keep_compiled_graphs()
        task.student.compile()
        for slot in teachers.values():
            slot.model.compile()
    stepper = _build_stepper(plan, task, teachers, optimisation, processes)
    broken: list[BrokenImage] = []
    data = TrainingData(
        plan.datasets,
        recipe,
        spec=plan.student.spec,
        device=device,
        rank=processes.rank,
        world=processes.world,
        broken=broken if recipe.data.broken else None,
    )
    return TrainingSession(plan, device, precision, task, stepper, optimisation, data, ema, processes, broken)


def _build_task(plan: Plan, precision: torch.dtype) -> DistillationTask:
    """Build the student with its weights, and the losses; parameters that no loss term reaches are frozen."""
    student: Any = build_model(plan.student.plugin, plan.student.request)
    losses = {name: build_loss(loss, plan.student.spec) for name, loss in plan.losses.items()}
    # DDP fails on parameters without a gradient unless they are frozen.
    untrained = set(plan.student.untrained)
    for name, parameter in student.network.named_parameters():
        if name in untrained:
            parameter.requires_grad_(False)
    return DistillationTask(
        student,
        losses,
        spec=plan.student.spec,
        wanted=plan.student.wanted,
        label_term=plan.trains_on_labels,
        precision=precision,
    )


def _build_stepper(
    plan: Plan,
    task: DistillationTask,
    teachers: Mapping[str, TeacherSlot],
    optimisation: Optimisation,
    processes: Processes,
) -> Stepper:
    losses = {
        name: LossSlot(cast("Loss", loss), plan.losses[name].teacher)
        for name, loss in zip(task.loss_names, task.losses, strict=True)
    }
    weights = {name: loss.weight for name, loss in plan.losses.items()}
    return Stepper(
        task,
        TeacherTargets(teachers, losses),
        optimisation,
        Objective(weights, plan.label_weight),
        StepSettings(plan.steps, plan.recipe.seed, plan.recipe.training.clip, processes),
    )


def _build_teacher(teacher: TeacherPlan, plan: Plan, device: torch.device, processes: Processes) -> TeacherSlot:
    """Build a frozen teacher with its weights, for the student's images.

    Raises: RecipeError for a sharded teacher where a step cannot be split equally.
    """
    model = build_model(teacher.plugin, teacher.request)
    frozen = FrozenTeacher(
        model,
        student=plan.student.spec,
        size=teacher.entry.size,
        class_map=teacher.class_map,
        precision=pick_precision(teacher.entry.precision, device),
    )
    if teacher.entry.sharded and not processes.is_alone:
        check_equal_micro_batches(plan.samples_per_step, plan.recipe.training.micro_batch_size, processes.world)
        frozen.shard(processes, device)
    return TeacherSlot(frozen.to(device), teacher.spec, teacher.wanted)
