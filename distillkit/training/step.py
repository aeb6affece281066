"""One optimiser step: micro-batches in, moved weights and averaged terms out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distillkit.compute.distributed import ALONE, Processes
from distillkit.contracts.loss import BatchInfo
from distillkit.contracts.model import Outputs
from distillkit.plugin.backward_attribution import blamed_on_the_way_back
from distillkit.training.gradient_norms import Balance, gradient_norm
from distillkit.training.model_seed import seed_model_noise
from distillkit.training.nonfinite import Buffers, anchored, move_where_finite
from distillkit.training.optimisation import Optimisation
from distillkit.training.task import DistillationTask, Objective, Targets, Teach, batch_averages
from distillkit.training.teacher_targets import TeacherTargets

if TYPE_CHECKING:
    from distillkit.data.batches import MicroBatch, Window


@dataclass(frozen=True)
class StepSettings:
    """The run's optimiser steps, the seed of the model's noise, the largest gradient norm, and who takes part."""

    steps: int
    seed: int
    clip: float | None = None
    processes: Processes = ALONE


@dataclass(frozen=True)
class StepResult:
    """What a step came to, on the device.

    `averages` is what this process adds to the average of every term and of `loss` over the effective batch: of one
    process alone they are whole, else `Processes.sum` makes them so. `parts` are those of each micro-batch, which add
    up to them. `skipped`, [] bool and the same in all processes, is whether loss or gradient was not finite; then
    nothing was moved.
    """

    averages: Mapping[str, Tensor]
    parts: tuple[Mapping[str, Tensor], ...]
    skipped: Tensor


class Stepper:
    """Owns what a step needs; keeps nothing between steps but the gradient norms of the last one measured.

    `norms` has them, [] each: `grad_norm` of everything that trains, before clipping, and `grad_norm/<term>` of every
    weighted term on the student alone.
    """

    def __init__(
        self,
        task: DistillationTask,
        lessons: TeacherTargets,
        optimisation: Optimisation,
        objective: Objective,
        settings: StepSettings,
    ) -> None:
        self.task = task
        self.lessons = lessons
        self.optimisation = optimisation
        self.objective = objective
        self.settings = settings
        self.processes = settings.processes
        self.parallel = None if self.processes.is_alone else DistributedDataParallel(task)
        self.parameters = _trained(task)
        self.student_parameters = _trained(task.student)
        self.norms: dict[str, Tensor] = {}
        self._buffers = Buffers(task)
        self._anchor = min(self.parameters, key=lambda parameter: parameter.numel())

    def step(self, window: Window, *, measure: bool = False) -> StepResult:
        """Move the weights by one window, unless loss or gradient is not finite.

        `measure` asks for `norms`, and leaves the weights as they would be without. Nothing waits for the device, but
        an optimiser that has no fused step.
        """
        optimizer, scaler, clip = self.optimisation.optimizer, self.optimisation.scaler, self.settings.clip
        self.optimisation.schedule.step_update(window.step)
        balance = Balance(self.student_parameters, scaler, self.processes)
        parts: list[dict[str, Tensor]] = []
        self._buffers.keep()
        for number, micro_batch in enumerate(window.micro_batches):
            with self._gradients_kept(until_last=number + 1 < len(window.micro_batches)):
                averages = self._averages(window, number, micro_batch)
                loss = self.objective.total(averages)
                # DDP divides the sum of the gradients by the number of processes; a term is divided by all samples.
                scaled = scaler.scale(anchored(loss, self._anchor) * self.processes.world)
                with blamed_on_the_way_back((self.task.student, *self.task.losses)):
                    if measure:
                        balance.add(self.objective.weighted(averages))
                    scaled.backward()  # type: ignore[no-untyped-call]  # torch does not type it
            parts.append({name: value.detach() for name, value in (*averages.items(), ("loss", loss))})
        if clip is not None or measure:
            scaler.unscale_(optimizer)
        norm = gradient_norm(self.parameters) if clip is not None or measure or not scaler.is_enabled() else None
        if norm is not None and measure:
            terms = {f"grad_norm/{name}": value for name, value in balance.norms().items()}
            self.norms = {"grad_norm": norm, **terms}
        if norm is not None and clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        skipped = move_where_finite(self.optimisation, norm)
        self._buffers.put_back(skipped)
        optimizer.zero_grad(set_to_none=True)
        return StepResult(_added_up(parts), tuple(parts), skipped)

    def terms(self, window: Window, number: int, micro_batch: MicroBatch, *, rank: int) -> dict[str, Tensor]:
        """What every term says of a micro-batch, [b] or [] each, with the noise of the process `rank`."""
        images = micro_batch.images
        targets = self.lessons(images)
        seed_model_noise(self.settings.seed, rank=rank, step=window.step, micro_batch=number, device=images.device)
        batch = BatchInfo(micro_batch.labels, micro_batch.label_mass, window.step / self.settings.steps)
        terms: dict[str, Tensor] = (self.parallel or self.task)(images, given(targets), batch)
        return terms

    def _averages(self, window: Window, number: int, micro_batch: MicroBatch) -> dict[str, Tensor]:
        terms = self.terms(window, number, micro_batch, rank=self.processes.rank)
        return averages_in(window, terms, micro_batch)

    def _gradients_kept(self, *, until_last: bool) -> AbstractContextManager[None]:
        """Of several micro-batches only the last one sends the gradients to the other processes."""
        return self.parallel.no_sync() if self.parallel is not None and until_last else nullcontext()


def averages_in(window: Window, terms: Mapping[str, Tensor], micro_batch: MicroBatch) -> dict[str, Tensor]:
    """What the terms of one of a window's micro-batches add to the averages over the whole of it, [] each."""
    samples, labelled = window.samples, window.labelled
    return batch_averages(terms, samples=samples, labelled=labelled, micro_samples=len(micro_batch.images))


def _added_up(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    first, *others = parts
    return {name: sum((part[name] for part in others), start=value) for name, value in first.items()}


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def given(targets: Targets) -> Teach:
    """Targets that are there already, whatever the student says."""

    def teach(_outputs: Outputs) -> Targets:
        return targets

    return teach
