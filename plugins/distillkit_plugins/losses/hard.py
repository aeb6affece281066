"""Learn the teacher's decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit_plugins.losses.student_head import HeadSignal, distillation_head, head_logits

if TYPE_CHECKING:
    from torch import Tensor


class HardDistillation(nn.Module):
    """Take the class that the teacher decides for as if it were the label.

    Formula: -log softmax(Z_s)[y_t] with y_t = argmax Z_t, on the distillation head, or on the class head of a student
        that has no other.
    Shapes: teacher logits [B, K] become a target "class" [B] int64; term "hard" [B].
    Range: >= 0; never 0 when student equals teacher, unless the teacher is certain.
    Source: Touvron, Cord, Douze, Massa, Sablayrolles & Jegou 2021, arXiv:2012.12877, section 4, eq. 3, from which the
        weights 1/2 and 1/2 are taken. There is no label smoothing here, whatever `labels.smoothing` says: "we do not
        smooth pseudo-labels" (section 4).
    Differs: the logarithm is taken in float32 at least; the authors' code takes it inside fp16 autocast. Where two
        classes tie for the teacher, the first wins. The paper's total is on one head for "usual distillation" and on
        two for the distillation token; the authors' code can run only the second.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """`hard` has no options: the paper calls it parameter-free."""

    weight = 0.5
    label_weight = 0.5
    reads_teacher = frozenset({Read(Signal.LOGITS)})
    targets: Mapping[str, TargetSpec] = {"class": TargetSpec((), "int64")}

    def __init__(self, head: HeadSignal) -> None:
        super().__init__()
        self.head = head
        self.reads_student = frozenset({Read(head)})

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(distillation_head(student))

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"class": head_logits(teacher, Signal.LOGITS).argmax(dim=1)}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        return {"hard": functional.cross_entropy(head_logits(student, self.head), target["class"], reduction="none")}
