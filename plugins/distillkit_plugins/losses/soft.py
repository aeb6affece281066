"""Learn how the teacher spreads its belief over all classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit_plugins.losses.student_head import HeadSignal, distillation_head, head_logits

if TYPE_CHECKING:
    from torch import Tensor


class SoftDistillation(nn.Module):
    """Bring the student's softened distribution to the teacher's.

    Formula: tau^2 * KL(softmax(Z_t / tau) || softmax(Z_s / tau)), summed over the classes, on the distillation head,
        or on the class head of a student that has no other. With `reduction = "numel"` divided by K besides.
    Shapes: teacher logits [B, K] become a target "logits" [B, K] float32; term "soft" [B]. The temperature acts in
        `forward`, so that a stored target serves every tau.
    Range: >= 0; 0 when the logits are equal up to a constant.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2, for tau^2; Touvron, Cord, Douze, Massa,
        Sablayrolles & Jegou 2021, arXiv:2012.12877, section 4, eq. 2, which weighs this term with lambda and the
        labels with 1 - lambda. Defaults tau = 3 and lambda = 0.1 are the paper's (section 6).
    Differs: eq. 2 writes KL(student || teacher); here, as in the authors' code, the teacher is the reference.
        `batchmean` (default) is eq. 2, and what timm does; `numel` is the authors' code, whose mean runs over samples
        and classes and is exactly K times smaller. The authors' command line has other defaults (alpha = 0.5,
        tau = 1), with which the paper's row is not reproduced. Computed in float32 at least; the authors' code
        computes it inside fp16 autocast.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """The keys of a `soft` entry."""

        tau: Annotated[float, Field(gt=0)] = Field(3.0, description="temperature that softens both distributions")
        balance: Annotated[float, Field(ge=0, le=1)] = Field(
            0.1, alias="lambda", description="weight of this term; the labels get one minus it"
        )
        reduction: Literal["batchmean", "numel"] = Field(
            "batchmean", description="sum over classes, or the authors' mean, which is smaller by the number of classes"
        )

    reads_teacher = frozenset({Read(Signal.LOGITS)})

    def __init__(self, options: Options, head: HeadSignal, classes: int) -> None:
        super().__init__()
        self.tau = options.tau
        self.weight = options.balance
        self.label_weight = 1 - options.balance
        self.scale = options.tau**2 / (classes if options.reduction == "numel" else 1)
        self.head = head
        self.reads_student = frozenset({Read(head)})
        self.targets: Mapping[str, TargetSpec] = {"logits": TargetSpec((classes,), "float32")}

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, distillation_head(student), teacher.classes)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"logits": head_logits(teacher, Signal.LOGITS).detach().float()}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        logits = head_logits(student, self.head)
        student_log = functional.log_softmax(logits / self.tau, dim=1)
        teacher_log = functional.log_softmax(target["logits"].to(logits.dtype) / self.tau, dim=1)
        divergence = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)
        return {"soft": self.scale * divergence}
