"""One optimiser step: forward and backward of its micro-batches, clipping, weight update."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distillkit.compute.distributed import ALONE, Processes
from distillkit.contracts.loss import BatchInfo
from distillkit.plugin.backward_attribution import blame_backward
from distillkit.training.gradient_norms import TermGradientNorms, gradient_norm
from distillkit.training.model_seed import seed_model_noise
from distillkit.training.optimisation import Optimisation
from distillkit.training.skip_nonfinite import Buffers, anchored, step_if_finite
from distillkit.training.task import DistillationTask, Objective, batch_averages
from distillkit.training.teacher_targets import TeacherTargets

if TYPE_CHECKING:
    from distillkit.data.batches import MicroBatch, Window


@dataclass(frozen=True)
class StepSettings:
    """Number of optimiser steps of the run, seed of the model noise, gradient clipping norm, and processes."""

    steps: int
    seed: int
    clip: float | None = None
    processes: Processes = ALONE


@dataclass(frozen=True)
class StepResult:
    """The result of a step, on the device. All tensors are [].

    `averages` is this process's contribution to the average of each term and of `loss` over the effective batch; the
    sum over processes is the average. `parts` are the contributions of the micro-batches, which add up to `averages`.
    `skipped` is bool and equal in all processes: loss or gradient was not finite, and no weight was changed.
    """

    averages: Mapping[str, Tensor]
    parts: tuple[Mapping[str, Tensor], ...]
    skipped: Tensor


class Stepper:
    """Takes optimiser steps. Its only state between steps is `norms`, the gradient norms of the last measured step.

    `norms`, [] each: `grad_norm` of all trainable parameters, before clipping, and `grad_norm/<term>` of each weighted
    term on the student only.
    """

    def __init__(
        self,
        task: DistillationTask,
        teacher_targets: TeacherTargets,
        optimisation: Optimisation,
        objective: Objective,
        settings: StepSettings,
    ) -> None:
        self.task = task
        self.teacher_targets = teacher_targets
        self.optimisation = optimisation
        self.objective = objective
        self.settings = settings
        self.processes = settings.processes
        self.parallel = None if self.processes.is_alone else DistributedDataParallel(task)
        self.parameters = _trained(task)
        self.student_parameters = _trained(task.student)
        self.norms: dict[str, Tensor] = {}
        self._buffers = Buffers(task)
        # The smallest parameter, since anchoring the loss costs a sum over it.
        self._anchor = min(self.parameters, key=lambda parameter: parameter.numel())

    def step(self, window: Window, *, measure: bool = False) -> StepResult:
        """Update the weights from one window, unless loss or gradient is not finite.

        `measure` sets `norms` and does not change the update. Waits for the device only if the optimiser has no fused
        step.
        """
        optimizer, scaler, clip = self.optimisation.optimizer, self.optimisation.scaler, self.settings.clip
        self.optimisation.schedule.step_update(window.step)  # the learning rate of this step, also after a resume
        term_norms = TermGradientNorms(self.student_parameters, scaler, self.processes)
        parts: list[dict[str, Tensor]] = []
        self._buffers.save()  # before the forward, which changes BatchNorm statistics
        for number, micro_batch in enumerate(window.micro_batches):
            with self._without_sync(until_last=number + 1 < len(window.micro_batches)):
                averages = self._averages(window, number, micro_batch)
                loss = self.objective.total(averages)
                # DDP divides the sum of the gradients by the number of processes; a term is divided by all samples.
                scaled = scaler.scale(anchored(loss, self._anchor) * self.processes.world)
                with blame_backward((self.task.student, *self.task.losses)):
                    if measure:
                        term_norms.add(self.objective.weighted(averages))
                    scaled.backward()  # type: ignore[no-untyped-call]  # torch does not type it
            # Detached: otherwise the graphs of all micro-batches would stay in memory.
            parts.append({name: value.detach() for name, value in (*averages.items(), ("loss", loss))})
        if clip is not None or measure:
            scaler.unscale_(optimizer)  # without a scaler this does nothing
        # A scaler checks the gradients itself, so that the norm is only needed for clipping and measuring.
        norm = gradient_norm(self.parameters) if clip is not None or measure or not scaler.is_enabled() else None
        if norm is not None and measure:
            terms = {f"grad_norm/{name}": value for name, value in term_norms.norms().items()}
            self.norms = {"grad_norm": norm, **terms}
        if norm is not None and clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        skipped = step_if_finite(self.optimisation, norm)
        self._buffers.restore(skipped)
        optimizer.zero_grad(set_to_none=True)
        return StepResult(_sum_parts(parts), tuple(parts), skipped)

    def terms(self, window: Window, number: int, micro_batch: MicroBatch, *, rank: int) -> dict[str, Tensor]:
        """The terms of a micro-batch of b images, [b] or [] each, with the model noise of process `rank`."""
        images = micro_batch.images
        targets = self.teacher_targets(images, micro_batch.addresses)
        ask_masked = self.teacher_targets.ask_masked(images)
        # After the teachers, whose forward may draw random numbers.
        seed_model_noise(self.settings.seed, rank=rank, step=window.step, micro_batch=number, device=images.device)
        batch = BatchInfo(
            micro_batch.labels, micro_batch.label_mass, window.step / self.settings.steps, micro_batch.index
        )
        terms: dict[str, Tensor] = (self.parallel or self.task)(images, targets, batch, ask_masked)
        return terms

    def _averages(self, window: Window, number: int, micro_batch: MicroBatch) -> dict[str, Tensor]:
        terms = self.terms(window, number, micro_batch, rank=self.processes.rank)
        return averages_in(window, terms, micro_batch)

    def _without_sync(self, *, until_last: bool) -> AbstractContextManager[None]:
        """Let DDP sum gradients over processes only in the backward of the last micro-batch."""
        return self.parallel.no_sync() if self.parallel is not None and until_last else nullcontext()


def averages_in(window: Window, terms: Mapping[str, Tensor], micro_batch: MicroBatch) -> dict[str, Tensor]:
    """The contribution of one micro-batch's terms to the averages over its window, [] each."""
    samples, labelled = window.samples, window.labelled
    return batch_averages(terms, samples=samples, labelled=labelled, micro_samples=len(micro_batch.images))


def _sum_parts(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    first, *others = parts
    return {name: sum((part[name] for part in others), start=value) for name, value in first.items()}


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
