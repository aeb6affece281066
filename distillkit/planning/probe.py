"""Probe the student and losses with one forward and backward: untrained parameters, gradients and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from distillkit.contracts.loss import BatchInfo, Loss
from distillkit.contracts.model import ModelSpec, Outputs, Wanted
from distillkit.errors import BrokenPluginError
from distillkit.plugin.backward_attribution import blame_backward
from distillkit.plugin.runtime_checks import (
    check_gradients,
    check_outputs,
    forward_signals,
    revealed_shapes,
    tensors_of,
)
from distillkit.training.task import DistillationTask, Objective, batch_averages

# Not 1: BatchNorm in training mode can fail on a single sample, and some losses compare samples.
PROBE_SAMPLES = 2
ONE_VALUE = "Expected more than 1 value per channel when training"
"""How torch refuses batch normalisation of one value per channel."""


@dataclass(frozen=True)
class Probe:
    """Result of a probe: `untrained` names student parameters that no loss term reaches, `fixed` those it freezes.

    `student_flops` is for the forward of one image. `trains_on_one_image` is False where batch normalisation would see
    a single value per channel in a micro-batch of one image.
    """

    untrained: tuple[str, ...]
    fixed: tuple[str, ...]
    student_flops: int
    trains_on_one_image: bool


Build = Callable[[torch.device], tuple[nn.Module, Mapping[str, nn.Module]]]
"""Builds the student, with random weights, and the losses by name on a device."""


def probe_task(build: Build, spec: ModelSpec, wanted: Wanted, *, label_term: bool) -> Probe:
    """Run the task on the meta device, or on the CPU where an operation does not support meta tensors."""
    try:
        return _probe(build, spec, wanted, torch.device("meta"), label_term=label_term)
    except (NotImplementedError, BrokenPluginError) as error:
        # torch's NotImplementedError from inside a plugin arrives wrapped in a BrokenPluginError.
        if not isinstance(error, NotImplementedError) and not isinstance(error.__cause__, NotImplementedError):
            raise
        return _probe(build, spec, wanted, torch.device("cpu"), label_term=label_term)


def _probe(build: Build, spec: ModelSpec, wanted: Wanted, device: torch.device, *, label_term: bool) -> Probe:
    student, losses = build(device)
    task = DistillationTask(student, losses, spec=spec, wanted=wanted, label_term=label_term).train()
    with device:
        images = torch.zeros(PROBE_SAMPLES, 3, *spec.image_size)
        labels = torch.full((PROBE_SAMPLES, spec.classes), 1 / spec.classes) if label_term else None
        batch = BatchInfo(
            labels,
            torch.full((PROBE_SAMPLES,), float(label_term)),
            index=torch.zeros(PROBE_SAMPLES, dtype=torch.int64),
        )
        targets = {name: _zero_target(cast("Loss", loss)) for name, loss in losses.items()}
    # The task returns terms only; the checks below also need the outputs.
    recorded: list[Outputs] = []
    student.register_forward_hook(lambda _module, _inputs, outputs: recorded.append(outputs))
    with FlopCounterMode(display=False) as counter:
        terms = task(images, targets, batch)
    # A frozen student has no gradients to check.
    if any(parameter.requires_grad for parameter in student.parameters()):
        revealed = tensors_of(recorded[0])
        check_gradients(student, {name: revealed[name] for name in revealed_shapes(spec, wanted, PROBE_SAMPLES)})
        for term, value in terms.items():
            loss, _, name = term.partition("/")
            check_gradients(losses.get(loss, student), {f"term '{name}'": value})
    averages = batch_averages(terms, samples=PROBE_SAMPLES, labelled=PROBE_SAMPLES, micro_samples=PROBE_SAMPLES)
    # Weights of 1, not those of the recipe: only whether a parameter gets a gradient matters here.
    with blame_backward((student, *losses.values())):
        Objective(dict.fromkeys(losses, 1.0), 1.0).total(averages).backward()  # type: ignore[no-untyped-call]
    prefix = "student.network."
    parameters = [
        (name.removeprefix(prefix), parameter) for name, parameter in task.named_parameters() if name.startswith(prefix)
    ]
    return Probe(
        untrained=tuple(name for name, parameter in parameters if parameter.requires_grad and parameter.grad is None),
        fixed=tuple(name for name, parameter in parameters if not parameter.requires_grad),
        student_flops=counter.get_total_flops() // PROBE_SAMPLES,
        trains_on_one_image=_trains_on_one_image(task, images, targets, batch),
    )


def _trains_on_one_image(
    task: DistillationTask, images: Tensor, targets: Mapping[str, Mapping[str, Tensor]], batch: BatchInfo
) -> bool:
    """Whether a forward of the first of the images [B, C, H, W] works in training mode."""
    if not any(isinstance(module, _BatchNorm) for module in task.modules()):
        return True
    first = {loss: {name: target[:1] for name, target in each.items()} for loss, each in targets.items()}
    labels = None if batch.labels is None else batch.labels[:1]
    try:
        with torch.no_grad():
            index = None if batch.index is None else batch.index[:1]
            task(images[:1], first, BatchInfo(labels, batch.label_mass[:1], index=index))
    # A plugin's error arrives wrapped in a BrokenPluginError, which quotes it.
    except (ValueError, BrokenPluginError) as error:
        return ONE_VALUE not in str(error)
    return True


def forward_flops(model: nn.Module, spec: ModelSpec, wanted: Wanted) -> int:
    """FLOPs of the forward of one image; a multiply-add counts as two. The model's parameters are frozen.

    `spec` describes the model at its input size.
    Raises: BrokenPluginError where the outputs do not match `spec`.
    """
    images = torch.empty(1, 3, *spec.image_size, device="meta")
    # The counter looks for the gradient function of a parameter that is the input of a module, as in SigLIP's pooling.
    model.requires_grad_(requires_grad=False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = forward_signals(model.eval(), images, wanted)
    check_outputs(model, outputs, spec, wanted, images)
    return int(counter.get_total_flops())


def _zero_target(loss: Loss) -> dict[str, Tensor]:
    return {
        name: torch.zeros(PROBE_SAMPLES, *target.shape, dtype=getattr(torch, target.dtype))
        for name, target in loss.targets.items()
    }
