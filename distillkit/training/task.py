"""The distillation task: one module with the student and the losses, from images to named loss terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from distillkit.contracts.loss import BatchInfo, Loss
from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal, Wanted
from distillkit.contracts.signal_matching import restrict
from distillkit.errors import BrokenPluginError
from distillkit.plugin.error_attribution import blamed
from distillkit.plugin.runtime_checks import (
    check_outputs,
    check_terms,
    forward_signals,
    require_mapping,
    tensors_of,
    unchanged,
)

Targets: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""The result of each loss's `target`, by loss name."""

AskMasked: TypeAlias = Callable[[Tensor], Targets]
"""The targets of masked teachers, from the student's attention rows [B, A, 1 + N] of its last layer."""

LABEL_TERM = "labels"


class DistillationTask(nn.Module):
    """The student and its losses in one module: DDP wraps it, and the optimiser trains its parameters.

    Shapes: images [B, C, H, W]; every returned term is [B], or [] for a loss that couples its batch. The label term is
    0 for an unlabelled sample and always reaches the class head.
    `precision` is the autocast dtype of the student's forward; the losses run in float32 or higher precision.
    Student and losses are checked against their contracts at the first batch of each size.
    """

    def __init__(
        self,
        student: nn.Module,
        losses: Mapping[str, nn.Module],
        *,
        spec: ModelSpec,
        wanted: Wanted,
        label_term: bool,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.student = student
        self.loss_names = tuple(losses)
        self.losses = nn.ModuleList(losses.values())
        self.spec = spec
        self.wanted = dict(wanted)
        self.label_term = label_term
        self.precision = precision
        self._checked: set[int] = set()

    @property
    def named_losses(self) -> dict[str, nn.Module]:
        """The losses by their names."""
        return dict(zip(self.loss_names, self.losses, strict=True))

    def forward(
        self, images: Tensor, targets: Targets, batch: BatchInfo, ask_masked: AskMasked | None = None
    ) -> dict[str, Tensor]:
        """One student forward on images [B, C, H, W], then every loss on the signals that it reads.

        `ask_masked` computes the targets that `targets` lacks: those of teachers that see what the student chooses.
        """
        is_new = len(images) not in self._checked
        given = {"the images": images} if is_new else {}
        with unchanged(self.student, "forward", given), self._autocast(images.device.type):
            outputs = forward_signals(self.student, images, self.wanted)
        if is_new:
            check_outputs(self.student, outputs, self.spec, self.wanted, images)
        if ask_masked is not None:
            row = restrict(outputs, self.wanted, {Read(Signal.CLS_ATTENTION)}, self.spec).cls_attention
            targets = {**targets, **ask_masked(cast("Tensor", row)[:, 0])}
        terms: dict[str, Tensor] = {}
        if self.label_term:
            terms[LABEL_TERM] = label_cross_entropy(outputs, batch, student=self.spec.name)
        for name, module in self.named_losses.items():
            loss = cast("Loss", module)
            seen = restrict(outputs, self.wanted, loss.reads_student, self.spec)
            for term, value in self._terms(loss, seen, targets[name], batch, check=is_new).items():
                terms[f"{name}/{term}"] = value
        self._checked.add(len(images))
        return terms

    @staticmethod
    def _terms(
        loss: Any, seen: Outputs, target: Mapping[str, Tensor], batch: BatchInfo, *, check: bool
    ) -> Mapping[str, Tensor]:
        """The terms of one loss."""
        given: dict[str, Tensor] = {}
        if check:
            given = {f"the student's {name}": tensor for name, tensor in tensors_of(seen).items()}
            given |= {f"target '{name}'": tensor for name, tensor in target.items()}
            given |= {} if batch.labels is None else {"the labels": batch.labels, "the label mass": batch.label_mass}
        with unchanged(loss, "forward", given), blamed(loss, "forward"):
            terms: Mapping[str, Tensor] = loss(seen, target, batch)
        require_mapping(loss, "forward", terms)
        if check:
            check_terms(loss, terms, batch.label_mass)
        return terms

    def no_weight_decay(self) -> set[str]:
        """Names, in this module, of the parameters that the student excludes from weight decay (tokens, positions)."""
        network: Any = self.student.network
        names = network.no_weight_decay() if hasattr(network, "no_weight_decay") else set()
        return {f"student.network.{name}" for name in names}

    def _autocast(self, device: str) -> AbstractContextManager[Any]:
        if self.precision in (torch.float32, torch.float64):
            return nullcontext()
        return torch.autocast(device, dtype=self.precision)


def label_cross_entropy(outputs: Outputs, batch: BatchInfo, *, student: str) -> Tensor:
    """Cross-entropy of the class head with smoothed and mixed labels [B, K]; 0 for unlabelled samples. Shape [B]."""
    logits = outputs.logits
    if logits is None or batch.labels is None:
        raise BrokenPluginError(f"the label term needs logits of student '{student}' and a batch with labels")
    # A factor, not a selection: the class head then gets a gradient, of 0, also from unlabelled samples. DDP needs it.
    return -(batch.labels * torch.log_softmax(logits, dim=-1)).sum(dim=-1) * batch.label_mass  # [B]


def batch_averages(
    terms: Mapping[str, Tensor], *, samples: int, labelled: int, micro_samples: int
) -> dict[str, Tensor]:
    """The contribution of one micro-batch to the average of each term over the effective batch, [] each.

    Contributions add up. `samples` and `labelled` count the effective batch, over all micro-batches and ranks. The
    label term [B] is divided by `labelled`, other [B] terms by `samples`; a [] term is weighted by the micro-batch's
    share of the samples.
    """
    averages: dict[str, Tensor] = {}
    for name, value in terms.items():
        if name == LABEL_TERM:
            averages[name] = value.sum() / max(labelled, 1)  # a batch may have no label
        elif value.dim():
            averages[name] = value.sum() / samples
        else:
            averages[name] = value * (micro_samples / samples)
    return averages


@dataclass(frozen=True)
class Objective:
    """The weights of the loss terms: `weights` by loss name, and `label_weight`."""

    weights: Mapping[str, float]
    label_weight: float

    def weighted(self, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each term [] times its weight, by name."""
        return {
            name: value * (self.label_weight if name == LABEL_TERM else self.weights[name.partition("/")[0]])
            for name, value in averages.items()
        }

    def total(self, averages: Mapping[str, Tensor]) -> Tensor:
        """`label_weight * labels + sum of weight * term`. Shape []."""
        weighted = list(self.weighted(averages).values())
        return sum(weighted[1:], start=weighted[0])
