"""One loss, built for one pair of models that exist on paper, and everything that a check may ask of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from distillkit.contracts.loss import BatchInfo, Loss
from distillkit.contracts.model import Outputs
from distillkit.testing.subject import PluginUnderTest
from distillkit.testing.synthetic import SAMPLES, Pair, map_batch, map_outputs, synthetic_batch, synthetic_outputs

EVERY_ROW = tuple(range(SAMPLES))
LossTarget: TypeAlias = Mapping[str, Tensor]
Compute: TypeAlias = Callable[[Outputs, LossTarget, BatchInfo], dict[str, Tensor]]


class StatefulModule(Protocol):
    """What of an nn.Module matters to a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...


class LossModule(Loss, StatefulModule, Protocol):
    """A loss, seen as the nn.Module that it is."""

    def __call__(self, student: Outputs, target: LossTarget, batch: BatchInfo) -> dict[str, Tensor]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> object: ...
    def to(self, device: str) -> LossModule: ...
    def double(self) -> LossModule: ...


@dataclass(frozen=True)
class LossCase:
    """A loss and a pair for which it can be built.

    `backend` is torch.compile's, None to leave compilation out.
    """

    subject: PluginUnderTest
    options: BaseModel
    pair: Pair
    device: str
    backend: str | None

    def build(self, seed: int = 0) -> LossModule:
        """Build the loss anew; `seed` decides how its own parameters start."""
        torch.manual_seed(seed)
        loss: LossModule = self.subject.factory.build(self.options, self.pair.student, self.pair.teacher)
        return loss.to(self.device) if isinstance(loss, nn.Module) else loss

    @cached_property
    def loss(self) -> LossModule:
        """The loss that checks share; nothing may change it."""
        return self.build()

    @property
    def couples_batch(self) -> bool:
        """Whether the loss compares the samples of a batch, so that its terms may be scalars."""
        return bool(getattr(self.loss, "couples_batch", False))

    def teacher(self, rows: tuple[int, ...] = EVERY_ROW, dtype: torch.dtype = torch.float32) -> Outputs:
        """What the teacher says about some of the images: exactly the signals that the loss reads."""
        outputs = synthetic_outputs(self.pair.teacher, self.loss.reads_teacher, seed=1)
        return map_outputs(outputs, lambda tensor: tensor[list(rows)].to(self.device, dtype))

    def student(self, rows: tuple[int, ...] = EVERY_ROW, dtype: torch.dtype = torch.float32) -> Outputs:
        """What the student says, with tensors that collect gradients."""
        outputs = synthetic_outputs(self.pair.student, self.loss.reads_student, seed=2)
        return map_outputs(outputs, lambda tensor: tensor[list(rows)].to(self.device, dtype).requires_grad_())

    def batch(
        self,
        rows: tuple[int, ...] = EVERY_ROW,
        dtype: torch.dtype = torch.float32,
        kind: Literal["labelled", "partly", "unlabelled"] = "labelled",
    ) -> BatchInfo:
        """What the loop says about the images."""
        batch = synthetic_batch(self.pair.student.classes, kind)
        return map_batch(batch, lambda tensor: tensor[list(rows)].to(self.device, dtype))

    def target(self, rows: tuple[int, ...] = EVERY_ROW) -> LossTarget:
        """The target as the core makes it."""
        torch.manual_seed(0)
        with torch.no_grad():
            return self.loss.target(self.teacher(rows))

    def terms(
        self,
        rows: tuple[int, ...] = EVERY_ROW,
        dtype: torch.dtype = torch.float32,
        *,
        loss: Compute | None = None,
        student: Outputs | None = None,
        batch: BatchInfo | None = None,
    ) -> dict[str, Tensor]:
        """The terms for some of the images. The noise of the loss, if it has any, is the same at every call."""
        compute = self.loss if loss is None else loss
        target = self.target(rows)
        torch.manual_seed(0)
        return compute(student or self.student(rows, dtype), target, batch or self.batch(rows, dtype))


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of all terms over all samples, as a scalar."""
    return torch.stack([term.sum() for term in terms.values()]).sum()


def tensor_state(module: StatefulModule) -> dict[str, Tensor]:
    """The tensors of a module's state; what else it keeps there is another check's finding."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def difference(first: Tensor, second: Tensor) -> float | None:
    """The largest difference between two tensors, None where rounding explains it; NaN equals NaN."""
    if first.shape != second.shape:
        return math.inf
    precise = torch.float64 in (first.dtype, second.dtype)
    tolerance = 1e-9 if precise else 1e-5
    first, second = first.detach().double(), second.detach().double()
    if torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    return float((first - second).abs().max())


def differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, float]:
    """By name, the differences that rounding does not explain."""
    return {
        name: found
        for name in sorted(first.keys() | second.keys())
        if (found := difference(first[name], second[name]) if name in first and name in second else math.inf)
        is not None
    }
