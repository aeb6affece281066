"""Training session: models, data and optimiser of a plan, on the training device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from distillkit.compute.compiler_cache import use_private_cache
from distillkit.compute.devices import pick_device, pick_precision
from distillkit.compute.distributed import ALONE, Processes
from distillkit.compute.freed_memory import keep_freed_memory
from distillkit.contracts.incidents import BrokenImage
from distillkit.contracts.loss import Loss
from distillkit.contracts.model import Model
from distillkit.contracts.run import RunModels
from distillkit.data.batches import TrainingData
from distillkit.data.evaluation import EvaluationData, none_readable
from distillkit.data.samples import evaluation_samples
from distillkit.data.sources import Source, Stream
from distillkit.models.attention_form import set_attention
from distillkit.models.build import build_model
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.sharding import parameter_bytes
from distillkit.models.weight_loading import load_notes
from distillkit.planning.losses import build_loss
from distillkit.planning.plan import Plan
from distillkit.planning.render import plan_as_dict
from distillkit.running.checkpoint import (
    Checkpoint,
    join_optimizer_state,
    restoring,
    split_optimizer_state,
)
from distillkit.running.run_bank import open_target_bank
from distillkit.running.run_data import training_data
from distillkit.running.teacher_forms import SettledForm
from distillkit.running.teachers import BuiltTeachers
from distillkit.training.accuracy import top1
from distillkit.training.gradient_norms import keep_compiled_graphs
from distillkit.training.optimisation import Optimisation, build_optimisation
from distillkit.training.step import Stepper, StepSettings
from distillkit.training.target_bank import TargetBank
from distillkit.training.task import DistillationTask, Objective
from distillkit.training.teacher_targets import LossSlot, TeacherTargets


@dataclass(frozen=True)
class TrainingSession:
    """Models, losses, data and optimiser of a run in memory.

    `broken` collects the unreadable images of this process until the run adds them to its incidents.
    `teacher_digests` are digests of the teachers' weights, by name, for a bank. `forms` says how the teachers compute.
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
    teacher_digests: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, SettledForm] = field(default_factory=dict)

    @property
    def written_bytes(self) -> int:
        """Bytes that a run writes at least: the weights in a checkpoint, and those of the final student."""
        tensors = (*self.task.state_dict().values(), *self.task.student.state_dict().values())
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def bank(self) -> TargetBank | None:
        """The target bank of the run, None without one."""
        return self.stepper.teacher_targets.bank

    def open_bank(self) -> None:
        """Open the target bank of the plan, if it has one. Its key may depend on the losses' buffers.

        Raises: BankError if it cannot be opened or created.
        """
        targets = self.stepper.teacher_targets
        targets.bank = open_target_bank(
            self.plan, self.task.named_losses, self.teacher_digests, self.device, self.processes, self.forms
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the loaded weights of student and teachers that are not in the plan."""
        of_student = (note for note in load_notes(self.task.student) if note not in self.plan.notes)
        of_teachers = (
            f"teacher '{name}': {note}"
            for name, teacher in self.teachers.items()
            for note in (*load_notes(cast("nn.Module", teacher.model)), *self._sharding_notes(name))
        )
        return (*of_student, *(note for note in of_teachers if note not in self.plan.notes), *self.form_notes)

    @property
    def form_notes(self) -> tuple[str, ...]:
        """Notes on the forms of the teachers that were measured or could not be used."""
        return tuple(note for settled in self.forms.values() for note in settled.notes)

    @property
    def facts(self) -> dict[str, Any]:
        """The plan as plain data, with device, precision, seed and the notes on loaded weights."""
        facts = plan_as_dict(self.plan)
        precision = str(self.precision).removeprefix("torch.")
        settled = {"device": str(self.device), "precision": precision, "seed": self.plan.recipe.seed}
        teachers = [
            teacher | (self.forms[name].as_dict() if (name := teacher["recipe_name"]) in self.forms else {})
            for teacher in facts["teachers"]
        ]
        return facts | settled | {"teachers": teachers, "notes": [*facts["notes"], *self.notes]}

    def evaluate(
        self,
        model: nn.Module,
        split: Literal["validation", "test"],
        report: Callable[[str, int, int], None] | None = None,
    ) -> dict[str, float]:
        """Figures of `model` on a split; empty where the run has no such split or trains no class head.

        `report` is called as by `EvaluationData`.
        Raises: DataError, in all processes, where none of the images can be read.
        """
        source = self.plan.datasets.validation if split == "validation" else self.plan.datasets.test
        if source is None or not self.plan.student.learns_classes:
            return {}
        spec, limit = self.plan.student.spec, self.plan.recipe.evaluation.images
        # With fewer images than processes, each process evaluates all: one without images would have no sums to add.
        processes = self.processes if min(len(source), limit or len(source)) >= self.processes.world else ALONE
        data = self.evaluation_data(source, split, limit=limit, report=report)
        data = data.shard_images(processes.rank, processes.world)
        figures = top1(model, spec, data, self.plan.answer, precision=self.precision, processes=processes)
        if not figures["images"] and len(source):
            raise none_readable(source)
        return figures

    def evaluation_data(
        self,
        source: Source | Stream,
        split: Literal["validation", "test"],
        *,
        limit: int | None,
        report: Callable[[str, int, int], None] | None = None,
    ) -> EvaluationData:
        """The images of a split, prepared for the student; unreadable ones are added to `broken`.

        `limit` and `report` are those of `EvaluationData`.
        """
        recipe = self.plan.recipe
        return EvaluationData(
            source,
            self.plan.student.spec,
            recipe.augment,
            batch_size=recipe.evaluation.batch_size,
            workers=recipe.data.workers,
            device=self.device,
            split=split,
            broken=self.broken if recipe.data.broken else None,
            limit=limit,
            report=report,
        )

    @property
    def teachers(self) -> dict[str, FrozenTeacher]:
        """The teachers that at least one loss reads, without those whose targets are all in a bank."""
        slots = self.stepper.teacher_targets.teachers
        return {name: cast("FrozenTeacher", slot.model) for name, slot in slots.items() if slot.model is not None}

    def _sharding_notes(self, name: str) -> tuple[str, ...]:
        """Notes on a teacher with `teachers.sharded`."""
        if not self.plan.teachers[name].entry.sharded:
            return ()
        if self.processes.is_alone:
            return ("not sharded, because there is only one process (teachers.sharded)",)
        held, everything = parameter_bytes(self.teachers[name])
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
            teachers={name: teacher for name, teacher in self.teachers.items() if not teacher.sharded},
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
            _check_shapes(self.optimisation.optimizer)
            self.optimisation.scaler.load_state_dict(checkpoint.state["scaler"])


def _check_types(current: Sequence[Mapping[str, Any]], restored: Sequence[Mapping[str, Any]]) -> None:
    """Raise TypeError where a restored optimiser setting has another type than the current one.

    torch's `load_state_dict` accepts any type.
    """
    for current_group, restored_group in zip(current, restored, strict=True):
        for key, value in current_group.items():
            kind = int | float if isinstance(value, float) else type(value)
            restored_value = restored_group[key]
            fits = isinstance(restored_value, kind)
            if fits and isinstance(value, tuple):  # betas
                fits = [type(each) for each in value] == [type(each) for each in restored_value]
            if value is not None and not fits:
                raise TypeError(f"{key} of the optimiser is {restored_value!r}")


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError where a restored tensor has not the shape of its parameter.

    Only for fused optimisers: their kernels check no shape, and would read and write memory next to a smaller tensor.
    """
    if not any(group.get("fused") for group in optimizer.param_groups):
        return
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            wanted = torch.Size(()) if name == "step" else parameter.shape
            if isinstance(value, Tensor) and value.shape != wanted:
                raise ValueError(f"{name} of the optimiser has shape {list(value.shape)}, not {list(wanted)}")


def build_session(plan: Plan, processes: Processes = ALONE, teachers: BuiltTeachers | None = None) -> TrainingSession:
    """Build the models with their weights, the losses, the data and the optimiser.

    Every process builds the same models and reads its share of the data. `teachers` are those that sessions of other
    plans have built.
    """
    recipe, teachers = plan.recipe, teachers or BuiltTeachers(with_digests=plan.bank is not None)
    device = pick_device(recipe.training.device, processes.local_rank)
    precision = pick_precision(recipe.training.precision, device)
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    if device.type == "cpu":
        keep_freed_memory()
    # A teacher that no loss reads is not built.
    built = {
        name: teachers.build(teacher, plan, device, processes)
        for name, teacher in plan.teachers.items()
        if teacher.wanted
    }
    weights = {name: digest for name, (_, digest) in built.items()}
    slots = {name: slot for name, (slot, _) in built.items()}
    # After the teachers: how they are built must not change the student's random weights.
    torch.manual_seed(recipe.seed)
    task = _build_task(plan, precision).to(device)
    task.train()
    set_attention(task.student, recipe.training.attention, device, precision, plan.student.spec.grids)
    optimisation = build_optimisation(task, recipe, steps=plan.steps, steps_per_epoch=plan.steps_per_epoch)
    ema = ModelEmaV3(task.student, decay=recipe.training.ema) if recipe.training.ema else None
    if recipe.training.compile:
        use_private_cache()
        keep_compiled_graphs()
        task.student.compile()
    losses = {name: LossSlot(cast("Loss", loss), plan.losses[name].teacher) for name, loss in task.named_losses.items()}
    stepper = _build_stepper(plan, task, TeacherTargets(slots, losses, None, processes), optimisation)
    data = training_data(plan, device, processes)
    forms = teachers.settle_forms(slots, plan, device, processes)
    session = TrainingSession(
        plan, device, precision, task, stepper, optimisation, data, ema, processes, teacher_digests=weights, forms=forms
    )
    if not plan.prepares_targets:  # else once the losses are prepared
        session.open_bank()
    return session


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
    teacher_targets: TeacherTargets,
    optimisation: Optimisation,
) -> Stepper:
    weights = {name: loss.weight for name, loss in plan.losses.items()}
    return Stepper(
        task,
        teacher_targets,
        optimisation,
        Objective(weights, plan.label_weight),
        StepSettings(plan.steps, plan.recipe.seed, plan.recipe.training.clip, teacher_targets.processes),
    )
