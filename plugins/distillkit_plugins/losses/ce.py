"""No distillation: the labels teach alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import nn

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, TargetSpec

if TYPE_CHECKING:
    from torch import Tensor


class LabelsOnly(nn.Module):
    """The name for "no distillation loss": reads nothing and has no terms.

    What remains of the total is the label term, which belongs to the training loop: the cross-entropy on the class
    head, with weight 1. It is the baseline of every comparison, and what fine-tunes a teacher.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """`ce` has no options; label smoothing is `labels.smoothing`, which holds for every loss."""

    weight = 0.0
    label_weight = 1.0
    reads_teacher: frozenset[Read] = frozenset()
    reads_student: frozenset[Read] = frozenset()
    targets: Mapping[str, TargetSpec] = {}

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls()

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        return {}
