"""A loss that reads the labels: decoupled knowledge distillation."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional

from distillkit import BatchInfo, ModelSpec, Outputs, PluginSpec, Read, Signal, TargetSpec, UserError

Positive = Annotated[float, Field(gt=0)]


class DecoupledDistillation(nn.Module):
    """Decoupled knowledge distillation: separate weights for the label's class and for the other classes.

    Formula: tau^2 * alpha * KL(b_t || b_s) and tau^2 * beta * KL(q_t || q_s), where b = (p_y, 1 - p_y) is the
        probability of the label's class y against all others, and q is the softmax over the other classes only.
    Shapes: teacher logits [B, K] become a target "logits" [B, K]; terms "target_class" and "other_classes", [B] each.
    Range: >= 0; 0 when the logits are equal up to a constant.
    Source: Zhao, Cui, Song, Qiu & Liang 2022, arXiv:2203.08679, eqs. 6 and 7. Defaults are those of section 4 for
        CIFAR-100: alpha = 1, beta = 8, tau = 4.
    Differs: the terms of an unlabelled sample are 0. The class of a mixed sample is that with the larger share. No
        warm-up.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        tau: Positive = Field(4.0, description="temperature")
        alpha: Positive = Field(1.0, description="weight of the label's class against all others")
        beta: Positive = Field(8.0, description="weight of the other classes among themselves")

    weight = 1.0
    label_weight = 1.0
    reads_teacher = frozenset({Read(Signal.LOGITS)})
    reads_student = frozenset({Read(Signal.LOGITS)})

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        self.options = options
        self.targets = {"logits": TargetSpec((classes,), "float32")}

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> "DecoupledDistillation":
        return cls(options, teacher.classes)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"logits": teacher.logits.detach().float()}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        if batch.labels is None:
            raise UserError("loss 'label-aware' reads the labels and this run has none; give labels or choose another")
        tau = self.options.tau
        chosen = functional.one_hot(batch.labels.argmax(dim=1), batch.labels.shape[1]).bool()
        z_t, z_s = target["logits"].to(student.logits.dtype) / tau, student.logits / tau
        scale = tau**2 * batch.label_mass  # [B]
        return {
            "target_class": self.options.alpha * scale * divergence(binary(z_t, chosen), binary(z_s, chosen)),
            "other_classes": self.options.beta * scale * divergence(others(z_t, chosen), others(z_s, chosen)),
        }


def binary(logits: Tensor, chosen: Tensor) -> Tensor:
    """log (p_y, 1 - p_y), [B, 2], from logits and a mask of the label's class, [B, K] each."""
    inside = logits.masked_fill(~chosen, -float("inf")).logsumexp(dim=1)
    outside = logits.masked_fill(chosen, -float("inf")).logsumexp(dim=1)
    return functional.log_softmax(torch.stack([inside, outside], dim=1), dim=1)


def others(logits: Tensor, chosen: Tensor) -> Tensor:
    """log q, [B, K], with -inf for the label's class."""
    return functional.log_softmax(logits.masked_fill(chosen, -float("inf")), dim=1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL divergence [B] between log-probabilities [B, K]."""
    # -inf - -inf is nan, so classes of probability 0 are masked.
    return (log_p.exp() * (log_p - log_q).masked_fill(log_p == -float("inf"), 0.0)).sum(dim=1)


def distillkit_losses() -> list[PluginSpec]:
    return [
        PluginSpec(
            name="label-aware",
            summary="decoupled knowledge distillation",
            factory="contract_label_aware:DecoupledDistillation",
            signals=frozenset({Signal.LOGITS}),
        )
    ]
