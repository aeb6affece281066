"""A faulty loss: NaN, infinite or overflowing at chosen steps, in chosen processes, for chosen classes."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, distributed, nn

from distillkit import BatchInfo, ModelSpec, Outputs, PluginSpec, Read, Signal, TargetSpec

Kind = Literal["nan", "inf", "root", "overflow"]


class Faulty(nn.Module):
    """The mean square of the logits, one value per sample; faulty at the steps `at`.

    `kinds` are the faults, one per step in turn. "nan" and "inf" are added to the value and leave the gradient finite;
    "root" has a finite value and a NaN gradient, "overflow" a gradient that is too large for float32.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """`at` are steps from 1, of the `steps` of the run; a `rank` or a class of -1 means all of them."""

        kinds: Annotated[tuple[Kind, ...], Field(strict=False)] = ("nan",)
        at: Annotated[tuple[int, ...], Field(strict=False)] = ()
        steps: int = 1
        rank: int = -1
        of_class: int = -1

    weight = 1.0
    label_weight = 1.0
    reads_teacher: frozenset[Read] = frozenset()
    reads_student = frozenset({Read(Signal.LOGITS)})
    targets: Mapping[str, TargetSpec] = {}

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("total", torch.zeros(()))

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec | None) -> "Faulty":
        return cls(options)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        square = student.logits.square().mean(dim=1)
        self.total += square.detach().sum()
        options = self.options
        step = round(batch.progress * options.steps) + 1
        if step not in options.at or options.rank not in (-1, rank()):
            return {"square": square}
        kind = options.kinds[options.at.index(step) % len(options.kinds)]
        chosen = torch.ones(len(square), dtype=torch.bool, device=square.device)
        if options.of_class >= 0:
            chosen = (batch.labels.argmax(dim=1) == options.of_class) & (batch.label_mass > 0)
        return {"square": torch.where(chosen, with_fault(square, kind), square)}


def with_fault(square: Tensor, kind: Kind) -> Tensor:
    match kind:
        case "nan" | "inf":
            return square + float(kind)
        case "root":
            return square + (square * 0).sqrt()
    return square + (square - square.detach()) * 3e38 * 1e3


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def distillkit_losses() -> list[PluginSpec]:
    return [
        PluginSpec(
            name="faulty",
            summary="not finite at the chosen steps",
            factory="training_faulty:Faulty",
        )
    ]
