"""`ce`: no distillation, only the cross-entropy on the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, TargetSpec
from distillkit_plugins.losses.options import CeOptions

if TYPE_CHECKING:
    from torch import Tensor


class LabelsOnly(nn.Module):
    """No distillation loss: reads nothing of either model and returns no terms.

    Formula: none. The total is the label term alone: cross-entropy on the class head, weight 1, computed by the
        training loop. It is the baseline of every comparison, and the loss that fine-tunes a teacher.
    Shapes: no targets and no terms.
    """

    Options = CeOptions

    weight = 0.0
    label_weight = 1.0
    reads_teacher: frozenset[Read] = frozenset()
    reads_student: frozenset[Read] = frozenset()
    targets: Mapping[str, TargetSpec] = {}

    @classmethod
    def build(cls, options: CeOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls()

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        return {}
