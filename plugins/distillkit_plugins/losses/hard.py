"""`hard`: hard-label distillation, cross-entropy with the teacher's predicted class (DeiT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit_plugins.losses.options import HardOptions
from distillkit_plugins.losses.student_head import HeadSignal, distillation_head, head_logits

if TYPE_CHECKING:
    from torch import Tensor


class HardDistillation(nn.Module):
    """Hard-label distillation: cross-entropy with the teacher's predicted class (argmax) as the label.

    Formula: -log softmax(Z_s)[y_t] with y_t = argmax Z_t; Z_t are the teacher's logits, Z_s those of the student's
        distillation head, or of its class head where it has no distillation head.
    Shapes: teacher logits [B, K] -> target "class" [B] int64; student logits [B, K] -> term "hard" [B].
    Range: >= 0. Above 0 even when student equals teacher, unless the teacher's softmax is exactly one-hot.
    Source: Touvron, Cord, Douze, Massa, Sablayrolles & Jegou 2021, arXiv:2012.12877, section 4, eq. 3, from which the
        weights 1/2 and 1/2 are taken. `labels.smoothing` does not apply to this term: "we do not smooth pseudo-labels"
        (section 4).
    Differs: the logarithm is computed in float32 at least; the authors' code computes it under fp16 autocast. If two
        classes tie in the teacher, the first wins. The paper trains one head in "usual distillation" and two with the
        distillation token; the authors' code can run only the latter.
    """

    Options = HardOptions

    weight = 0.5
    label_weight = 0.5
    reads_teacher = frozenset({Read(Signal.LOGITS)})
    targets: Mapping[str, TargetSpec] = {"class": TargetSpec((), "int64")}

    def __init__(self, head: HeadSignal) -> None:
        super().__init__()
        self.head = head
        self.reads_student = frozenset({Read(head)})

    @classmethod
    def build(cls, options: HardOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(distillation_head(student))

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        # argmax has no gradient, so the target needs no detach.
        return {"class": head_logits(teacher, Signal.LOGITS).argmax(dim=1)}  # [B]

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        logits = head_logits(student, self.head)
        return {"hard": functional.cross_entropy(logits, target["class"], reduction="none")}  # [B]
