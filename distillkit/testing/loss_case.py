"""One loss built for one pair of model specs, with inputs for the checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, Protocol, TypeAlias

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from distillkit.contracts.loss import BatchInfo, Loss, preparation_of
from distillkit.contracts.model import Outputs
from distillkit.testing.subject import PluginUnderTest
from distillkit.testing.synthetic import SAMPLES, Pair, map_batch, map_outputs, synthetic_batch, synthetic_outputs

EVERY_ROW = tuple(range(SAMPLES))
LossTarget: TypeAlias = Mapping[str, Tensor]
Compute: TypeAlias = Callable[[Outputs, LossTarget, BatchInfo], dict[str, Tensor]]


class StatefulModule(Protocol):
    """The part of nn.Module that checkpoints use."""

    def state_dict(self) -> dict[str, Any]: ...


class LossModule(Loss, StatefulModule, Protocol):
    """A loss as an nn.Module. Shapes: as `Loss`, terms [B]."""

    def __call__(self, student: Outputs, target: LossTarget, batch: BatchInfo) -> dict[str, Tensor]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> object: ...
    def to(self, device: str) -> LossModule: ...
    def double(self) -> LossModule: ...


@dataclass(frozen=True)
class LossCase:
    """A loss and a pair of models that it is built for.

    Shapes: B = len(rows) images; tensors of `Outputs`, targets and labels as in the contracts; terms [B].
    `backend` is that of torch.compile; None skips compilation.
    """

    subject: PluginUnderTest
    options: BaseModel
    pair: Pair
    device: str
    backend: str | None

    def build(self, seed: int = 0, *, prepared: bool = True) -> LossModule:
        """Build a new loss; `seed` sets the initialisation of its parameters."""
        torch.manual_seed(seed)
        loss: LossModule = self.subject.factory.build(self.options, self.pair.student, self.pair.teacher)
        if not isinstance(loss, nn.Module):
            return loss
        loss = loss.to(self.device)
        if prepared and preparation_of(loss) is not None:
            for name, buffer in loss.named_buffers():
                buffer.copy_(self.prepared_buffers.get(name, buffer))
        return loss

    @cached_property
    def prepared_buffers(self) -> dict[str, Tensor]:
        """The buffers, of any shape, that `prepare` computes; those that change their shape are left out."""
        loss = self.build(prepared=False)
        if preparation_of(loss) is None:
            return {}
        shapes = {name: buffer.shape for name, buffer in loss.named_buffers()}
        self.prepare(loss)
        return {name: buffer for name, buffer in buffers_of(loss).items() if buffer.shape == shapes.get(name)}

    def prepare(self, loss: LossModule, batches: Iterable[Outputs] | None = None) -> None:
        """Prepare a loss without gradient as in a run, on synthetic outputs of the teacher or on the given ones."""
        preparing = preparation_of(loss)
        if preparing is not None:
            torch.manual_seed(0)
            with torch.no_grad():
                preparing.prepare(iter(self.preparation_batches() if batches is None else batches))

    def preparation_batches(self, *, split: bool = False) -> Iterator[Outputs]:
        """What the loss reads of the teacher for the images that `prepare` sees, in smaller batches with `split`."""
        loss: Any = self.build(prepared=False)
        left = min(loss.prepare_images, max(getattr(loss, "prepare_at_least", 1), 4 * SAMPLES))
        for seed in range(-(-left // SAMPLES)):
            outputs = synthetic_outputs(self.pair.teacher, loss.reads_teacher, seed=10 + seed)
            rows = slice(0, min(left, SAMPLES))
            for part in (slice(0, 2), slice(2, rows.stop)) if split and rows.stop > 2 else (rows,):
                yield map_outputs(outputs, partial(_rows_of, rows=part, device=self.device))
            left -= SAMPLES

    @cached_property
    def loss(self) -> LossModule:
        """The loss shared by all checks, which must not change it."""
        return self.build()

    @property
    def couples_batch(self) -> bool:
        """Whether the loss compares samples of a batch, so that its terms may be scalars."""
        return bool(getattr(self.loss, "couples_batch", False))

    def teacher(self, rows: tuple[int, ...] = EVERY_ROW, dtype: torch.dtype = torch.float32) -> Outputs:
        """Teacher outputs for some of the images, with exactly the signals that the loss reads."""
        outputs = synthetic_outputs(self.pair.teacher, self.loss.reads_teacher, seed=1)
        return map_outputs(outputs, lambda tensor: tensor[list(rows)].to(self.device, dtype))

    def student(self, rows: tuple[int, ...] = EVERY_ROW, dtype: torch.dtype = torch.float32) -> Outputs:
        """Student outputs for some of the images, as leaf tensors that collect gradients."""
        outputs = synthetic_outputs(self.pair.student, self.loss.reads_student, seed=2)
        return map_outputs(outputs, lambda tensor: tensor[list(rows)].to(self.device, dtype).requires_grad_())

    def batch(
        self,
        rows: tuple[int, ...] = EVERY_ROW,
        dtype: torch.dtype = torch.float32,
        kind: Literal["labelled", "partly", "unlabelled"] = "labelled",
    ) -> BatchInfo:
        """Labels of some of the images."""
        batch = synthetic_batch(self.pair.student.classes, kind)
        return map_batch(batch, lambda tensor: tensor[list(rows)].to(self.device, dtype))

    def target(self, rows: tuple[int, ...] = EVERY_ROW) -> LossTarget:
        """The target, computed without gradient as in a run."""
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
        """Terms [B] for some of the images. The random numbers of the loss, if any, are the same in every call."""
        compute = self.loss if loss is None else loss
        target = self.target(rows)
        torch.manual_seed(0)
        return compute(student or self.student(rows, dtype), target, batch or self.batch(rows, dtype))


def _rows_of(tensor: Tensor, *, rows: slice, device: str) -> Tensor:
    return tensor[rows].to(device, torch.float32)


def buffers_of(loss: LossModule) -> dict[str, Tensor]:
    """Copies of the buffers of a loss, any shape."""
    return {name: buffer.clone() for name, buffer in loss.named_buffers()}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Sum of all terms over all samples, a scalar []."""
    return torch.stack([term.sum() for term in terms.values()]).sum()


def tensor_state(module: StatefulModule) -> dict[str, Tensor]:
    """Tensors of a module's state_dict, any shape. The check `state` reports entries that are not tensors."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def difference(first: Tensor, second: Tensor) -> float | None:
    """Largest difference between two tensors of any shape, or None if it is within rounding; NaN equals NaN."""
    if first.shape != second.shape:
        return math.inf
    precise = torch.float64 in (first.dtype, second.dtype)
    tolerance = 1e-9 if precise else 1e-5  # rounding of float64 and of float32
    first, second = first.detach().double(), second.detach().double()
    if torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    return float((first - second).abs().max())


def differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, float]:
    """Differences beyond rounding, by name, between tensors of any shape."""
    return {
        name: found
        for name in sorted(first.keys() | second.keys())
        if (found := difference(first[name], second[name]) if name in first and name in second else math.inf)
        is not None
    }
