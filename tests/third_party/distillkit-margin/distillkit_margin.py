"""Hinge loss on the teacher's predicted class: a complete distillkit plugin in one file."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field
from torch import Tensor, nn

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, PluginSpec, Read, Signal, TargetSpec


class MarginDistillation(nn.Module):
    """Multi-class hinge loss with the teacher's predicted class as the label.

    Formula: mean over the other classes j of max(0, margin - Z_s[y_t] + Z_s[j]), with y_t = argmax Z_t.
    Shapes: teacher logits [B, K] become a target "class" [B] int64; term "margin" [B].
    Range: >= 0; 0 when the student's logit of the teacher's class exceeds every other by `margin`.
    Source: Weston & Watkins 1999, "Support vector machines for multi-class pattern recognition", eq. 2, with the
        teacher's prediction as the label.
    Differs: a mean over the other classes where eq. 2 has a sum.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """The options of a `margin` entry."""

        margin: Annotated[float, Field(gt=0)] = Field(1.0, description="required lead of the teacher's class")

    weight = 1.0
    label_weight = 1.0
    reads_teacher = frozenset({Read(Signal.LOGITS)})
    targets: Mapping[str, TargetSpec] = {"class": TargetSpec((), "int64")}

    def __init__(self, margin: float, head: Signal) -> None:
        super().__init__()
        self.margin = margin
        self.head = head
        self.reads_student = frozenset({Read(head)})

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options.margin, Signal.DISTILL_LOGITS if Signal.DISTILL_LOGITS in student.signals else Signal.LOGITS)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"class": teacher.logits.argmax(dim=1)}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        logits = student.logits if self.head is Signal.LOGITS else student.distill_logits
        chosen = logits.gather(1, target["class"][:, None])  # [B, 1]
        shortfalls = (self.margin - chosen + logits).clamp(min=0)  # [B, K]
        # The teacher's class adds `margin` to the sum, and does not count in the mean.
        return {"margin": (shortfalls.sum(dim=1) - self.margin) / (logits.shape[1] - 1)}


def distillkit_losses() -> list[PluginSpec]:
    """Register the loss."""
    return [
        PluginSpec(
            name="margin",
            summary="hinge loss on the teacher's predicted class",
            factory="distillkit_margin:MarginDistillation",
            signals=frozenset({Signal.LOGITS}),
        )
    ]
