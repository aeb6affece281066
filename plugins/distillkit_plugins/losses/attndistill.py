"""`attndistill`: distil the embedding and last-layer attention of a self-supervised teacher, without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit_plugins.losses.attention_guidance import Guidance
from distillkit_plugins.losses.attention_rows import attention_rows, check_grids
from distillkit_plugins.losses.divergences import kl_divergence
from distillkit_plugins.losses.options import AttnDistillOptions
from distillkit_plugins.losses.projector import build_projector, project
from distillkit_plugins.losses.read_features import last_embedding

if TYPE_CHECKING:
    from torch import Tensor


class AttnDistill(nn.Module):
    """Projector alignment of the embedding, plus KL divergence of the class token's attention, in the last layer.

    Formula: align_weight * mean over the width of (P(E_s) - E_t)^2 + attention_weight * sum over heads of
        KL(a_t || a_s). E is the class token after the final norm, P the projector, a the attention row of the class
        token over itself and the patches, clamped to [1e-5, 0.996] and divided by its sum. If heads or patch grids
        differ, a is as in `attention_guidance.Guidance`. With `distance = "cosine"` the first term is
        1 - cos(P(E_s), E_t).
    Shapes: A heads; G = A, or 1 where the models' heads differ.
        Teacher embedding [B, D_t] -> target "embedding" [B, D_t] float32;
        student embedding [B, D_s] -> term "align" [B].
        Teacher rows [B, 1, A_t, 1 + N_t] -> target "attention" [B, G, 1 + N_s] float32;
        student rows [B, 1, A_s, 1 + N_s] -> term "attention" [B].
        Both terms include their weights. A term of weight 0 is neither read nor computed.
    Range: >= 0; "attention" is 0 when the attention is equal.
    Source: Wang, Yang & van de Weijer 2022, "Attention Distillation: self-supervised vision transformer students need
        more guidance", arXiv:2210.00944, cases (a), (b), (c); weights 1 and 0.1, T = 10 and the projector are those of
        the authors' scripts. Labels are not used: `label_weight` is 0.
    Differs: the paper sums the squared distance over the width; here, as in the authors' code, it is the mean, smaller
        by a factor of D_t. The authors' command line offers cosine, but their code never uses it. Different heads
        combined with different grids do not occur in the paper. Loss and projector are computed in float32 at least,
        also under autocast; the authors use fp16 autocast, where the logarithm of a small entry is minus infinity.
    """

    Options = AttnDistillOptions

    weight = 1.0
    label_weight = 0.0

    def __init__(self, options: AttnDistillOptions, student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.options = options
        reads: set[Read] = set()
        targets: dict[str, TargetSpec] = {}
        if options.align_weight:
            # Without an embedding the pair is refused right after `build`; a width of 1 leaves that error to it.
            width, goal = (spec.width if spec.widths else 1 for spec in (student, teacher))
            self.projector = build_projector(
                width,
                goal,
                depth=options.projector_depth,
                ratio=options.projector_ratio,
                norms=options.projector_norms,
            )
            reads.add(Read(Signal.EMBEDDING))
            targets["embedding"] = TargetSpec((goal,), "float32", exact=False)
        if options.attention_weight:
            check_grids("attndistill", student, teacher, options.interpolation)
            self.guidance = Guidance.between(student, teacher, options.interpolation, options.temperature)
            reads.add(Read(Signal.CLS_ATTENTION))
            targets["attention"] = TargetSpec(self.guidance.shape, "float32", exact=False)
        self.targets: Mapping[str, TargetSpec] = targets
        self.reads_teacher = self.reads_student = frozenset(reads)

    @classmethod
    def build(cls, options: AttnDistillOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, student, teacher)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        targets = {}
        if self.options.align_weight:
            targets["embedding"] = last_embedding(teacher).detach().float()  # [B, D_t]
        if self.options.attention_weight:
            # Only the last layer is read, so the layer axis has length 1.
            rows = attention_rows(teacher)[:, 0].detach()  # [B, A_t, 1 + N_t]
            targets["attention"] = self.guidance.teacher_rows(rows).float()  # [B, G, 1 + N_s]
        return targets

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        terms = {}
        if self.options.align_weight:
            projected = project(self.projector, last_embedding(student))  # [B, D_t]
            distance = self._distance(target["embedding"].to(projected.dtype), projected)  # [B]
            terms["align"] = self.options.align_weight * distance
        if self.options.attention_weight:
            student_rows = self.guidance.student_rows(attention_rows(student)[:, 0])  # [B, G, 1 + N_s]
            divergence = kl_divergence(target["attention"].to(student_rows.dtype), student_rows).sum(dim=-1)  # [B]
            terms["attention"] = self.options.attention_weight * divergence
        return terms

    def _distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self.options.distance == "cosine":
            return 1 - functional.cosine_similarity(student, teacher, dim=-1)
        return (student - teacher).square().mean(dim=-1)
