"""`soft`: soft-label distillation, KL divergence from the teacher's softened class probabilities (DeiT)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, RecipeError, Signal, TargetSpec
from distillkit_plugins.losses.options import SoftOptions
from distillkit_plugins.losses.student_head import HeadSignal, distillation_head, head_logits

if TYPE_CHECKING:
    from torch import Tensor


class SoftDistillation(nn.Module):
    """Soft-label distillation: KL divergence between class probabilities softened with a temperature tau.

    Formula: tau^2 * KL(softmax(Z_t / tau) || softmax(Z_s / tau)), summed over the classes; divided by K with
        `reduction = "numel"`. Z_t are the teacher's logits, Z_s those of the student's distillation head, or of its
        class head where it has no distillation head.
        With `top_k = k` the teacher's probabilities are those of its k largest logits, and the rest of its probability,
        at this tau, is spread evenly over the other K - k classes.
    Shapes: teacher logits [B, K] -> target "logits" [B, K] float32; student logits [B, K] -> term "soft" [B].
        With `top_k`: targets "logits" [B, k] float32, minus their largest; "classes" [B, k] int32, their indices; and
        "tail" [B] float32, the logarithm of the sum of exp(logit / tau) of the others, relative to the largest.
    Range: >= 0; 0 when the logits are equal up to a constant.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2, for tau^2; Touvron, Cord, Douze, Massa,
        Sablayrolles & Jegou 2021, arXiv:2012.12877, section 4, eq. 2, which weights this term with lambda and
        the labels with 1 - lambda. Defaults tau = 3 and lambda = 0.1 are the paper's (section 6).
    Differs: eq. 2 writes KL(student || teacher); here, as in the authors' code, the teacher is the reference.
        `batchmean` (default) is eq. 2 and what timm does; `numel` is the authors' code, which averages over samples
        and classes and is exactly K times smaller; the recipes `deit-*` use it. The authors' command-line defaults
        (alpha = 0.5, tau = 1) do not reproduce the paper's result. Computed in float32 at least; the authors' code
        computes it under fp16 autocast.
    """

    Options = SoftOptions

    reads_teacher = frozenset({Read(Signal.LOGITS)})

    def __init__(self, options: SoftOptions, head: HeadSignal, classes: int) -> None:
        super().__init__()
        if options.top_k is not None and options.top_k >= classes:
            raise RecipeError(f"soft:top_k={options.top_k} keeps every one of {classes} classes; leave it out")
        self.top_k = options.top_k
        self.tau = options.tau
        self.weight = options.balance
        self.label_weight = 1 - options.balance
        self.scale = options.tau**2 / (classes if options.reduction == "numel" else 1)
        self.head = head
        self.reads_student = frozenset({Read(head)})
        self.targets: Mapping[str, TargetSpec] = {"logits": TargetSpec((classes,), "float32")}
        # The whole logits serve every tau. A tail is a sum at one tau: softening it later would be wrong.
        self.target_options = frozenset() if self.top_k is None else frozenset({"top_k", "tau"})
        if self.top_k is not None:
            self.targets = {
                "logits": TargetSpec((self.top_k,), "float32", exact=False),
                "classes": TargetSpec((self.top_k,), "int32"),
                "tail": TargetSpec((), "float32"),
            }

    @classmethod
    def build(cls, options: SoftOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, distillation_head(student), teacher.classes)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        # Raw logits, not softened ones: a target cached on disk then works for every tau.
        logits = head_logits(teacher, Signal.LOGITS).detach().float()  # [B, K]
        if self.top_k is None:
            return {"logits": logits}
        # Relative to the largest, which changes no probability: float16 is finest near 0.
        relative = logits - logits.amax(dim=1, keepdim=True)  # [B, K]
        kept, classes = relative.topk(self.top_k, dim=1)  # [B, k]
        others = relative.scatter(1, classes, -math.inf)  # [B, K]
        return {"logits": kept, "classes": classes.int(), "tail": torch.logsumexp(others / self.tau, dim=1)}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        logits = head_logits(student, self.head)
        student_log = functional.log_softmax(logits / self.tau, dim=1)  # [B, K]
        if self.top_k is not None:
            return {"soft": self.scale * self._from_top_k(student_log, target)}
        teacher_log = functional.log_softmax(target["logits"].to(logits.dtype) / self.tau, dim=1)  # [B, K]
        # kl_div(input, target) is KL(target || input): the teacher is the reference.
        divergence = functional.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)  # [B]
        return {"soft": self.scale * divergence}

    def _from_top_k(self, student_log: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """The divergence [B] from the top-k target; `student_log` [B, K] are the student's log-probabilities."""
        kept = target["logits"].to(student_log.dtype) / self.tau  # [B, k]
        tail = target["tail"].to(student_log.dtype)  # [B]
        # The kept logits were rounded for storage, so they and the tail are normalised here.
        norm = torch.logsumexp(torch.cat([kept, tail[:, None]], dim=1), dim=1)  # [B]
        kept_log, tail_log = kept - norm[:, None], tail - norm  # [B, k], [B]
        student_kept = student_log.gather(1, target["classes"].long())  # [B, k]
        others = student_log.shape[1] - kept.shape[1]
        student_others = (student_log.sum(dim=1) - student_kept.sum(dim=1)) / others  # [B]: the mean
        of_kept = (kept_log.exp() * (kept_log - student_kept)).sum(dim=1)  # [B]
        return of_kept + tail_log.exp() * (tail_log - math.log(others) - student_others)
