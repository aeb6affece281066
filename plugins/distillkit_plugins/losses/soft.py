"""`soft`: soft-label distillation, KL divergence from the teacher's softened class probabilities (DeiT)."""

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
    """Soft-label distillation: KL divergence between class probabilities softened with a temperature tau.

    Formula: tau^2 * KL(softmax(Z_t / tau) || softmax(Z_s / tau)), summed over the classes; divided by K with
        `reduction = "numel"`. Z_t are the teacher's logits, Z_s those of the student's distillation head, or of its
        class head where it has no distillation head.
    Shapes: teacher logits [B, K] -> target "logits" [B, K] float32; student logits [B, K] -> term "soft" [B].
    Range: >= 0; 0 when the logits are equal up to a constant.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2, for tau^2; Touvron, Cord, Douze, Massa,
        Sablayrolles & Jegou 2021, arXiv:2012.12877, section 4, eq. 2, which weights this term with lambda and
        the labels with 1 - lambda. Defaults tau = 3 and lambda = 0.1 are the paper's (section 6).
    Differs: eq. 2 writes KL(student || teacher); here, as in the authors' code, the teacher is the reference.
        `batchmean` (default) is eq. 2 and what timm does; `numel` is the authors' code, which averages over samples
        and classes and is exactly K times smaller. The authors' command-line defaults (alpha = 0.5, tau = 1) do not
        reproduce the paper's result. Computed in float32 at least; the authors' code computes it under fp16 autocast.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """Options of a `soft` entry."""

        tau: Annotated[float, Field(gt=0)] = Field(3.0, description="temperature that softens both distributions")
        balance: Annotated[float, Field(ge=0, le=1)] = Field(
            0.1, alias="lambda", description="weight of this term; the labels get 1 - lambda"
        )
        reduction: Literal["batchmean", "numel"] = Field(
            "batchmean",
            description="sum over the classes, or the mean over them, as in the authors' code: K times smaller",
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
        # Raw logits, not softened ones: a target cached on disk then works for every tau.
        return {"logits": head_logits(teacher, Signal.LOGITS).detach().float()}  # [B, K]

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        logits = head_logits(student, self.head)
        student_log = functional.log_softmax(logits / self.tau, dim=1)  # [B, K]
        teacher_log = functional.log_softmax(target["logits"].to(logits.dtype) / self.tau, dim=1)  # [B, K]
        # kl_div(input, target) is KL(target || input): the teacher is the reference.
        divergence = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)  # [B]
        return {"soft": self.scale * divergence}
