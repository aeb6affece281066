"""Learn a self-supervised teacher's embedding and where its class token looks, without a label (AttnDistill)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, model_validator
from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, BrokenPluginError, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit_plugins.losses.attention_guidance import Guidance
from distillkit_plugins.losses.attention_rows import RowInterpolation, attention_rows, check_grids
from distillkit_plugins.losses.divergences import kl_divergence
from distillkit_plugins.losses.projector import Norms, build_projector, project

if TYPE_CHECKING:
    from torch import Tensor

Weight = Annotated[float, Field(ge=0)]


class AttnDistill(nn.Module):
    """Project the student's class token onto the teacher's, and look where the teacher's class token looks.

    Formula: align_weight * mean over the width of (P(E_s) - E_t)^2 + attention_weight * sum over heads of
        KL(A_t || A_s), both of the last layer; E is the class token after the final norm, A the row of its attention
        over itself and the patches, clamped to [1e-5, 0.996] and divided by its sum. For what A is where heads or
        grids differ see `attention_guidance`. With `distance = "cosine"` the first is 1 - cos(P(E_s), E_t).
    Shapes: the teacher's embedding [B, D_t] and rows [B, 1, H_t, 1 + N_t] become targets "embedding" [B, D_t] and
        "attention" [B, G, 1 + N_s], float32, G the heads or, where they differ, 1; terms "align" and "attention", [B]
        each, their weights included. A term of weight 0 is neither read nor computed.
    Range: >= 0; "attention" is 0 for equal attention.
    Source: Wang, Yang & van de Weijer 2022, "Attention Distillation: self-supervised vision transformer students need
        more guidance", arXiv:2210.00944, cases (a), (b), (c); weights 1 and 0.1, T = 10 and the projector are those of
        the authors' scripts. Reads no label: `label_weight` is 0.
    Differs: the paper sums the squared distance over the width; as in the authors' code it is the mean here, smaller
        by a factor of D_t. Cosine is offered by the authors' command line and never used by their code. Unequal heads
        together with unequal grids do not occur in the paper. Computed in float32 at least, the projector too
        and under autocast too; the authors compute inside fp16 autocast, where the logarithm of a small entry is minus
        infinity.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """The keys of an `attndistill` entry."""

        align_weight: Weight = Field(1.0, description="factor of the projector alignment; 0 leaves it out")
        attention_weight: Weight = Field(0.1, description="factor of the attention guidance; 0 leaves it out")
        distance: Literal["mse", "cosine"] = Field(
            "mse", description="between embeddings: mean square over the width, or one minus the cosine"
        )
        temperature: Annotated[float, Field(gt=0)] | Literal["heads"] = Field(
            10.0,
            description="of the softmax over the log-sum of the heads, where their numbers differ; "
            '"heads" is the number of heads of each model, which makes it a geometric mean',
        )
        interpolation: RowInterpolation = Field(
            "bicubic",
            description="how the teacher's patches come to the student's grid; area takes whole multiples, none equal "
            "grids",
        )
        projector_depth: Annotated[int, Field(gt=0)] = Field(4, description="linear layers, with GELU between them")
        projector_ratio: Annotated[int, Field(gt=0)] = Field(
            2, description="every second hidden layer is this many times as wide as the student, the others as wide"
        )
        projector_norms: Norms = Field("both", description="layer norms before and after the linear layers")

        @model_validator(mode="after")
        def _teaches_something(self) -> AttnDistill.Options:
            if not self.align_weight and not self.attention_weight:
                raise ValueError("align_weight and attention_weight are both 0; leave one above 0")
            return self

    weight = 1.0
    label_weight = 0.0

    def __init__(self, options: Options, student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.options = options
        reads: set[Read] = set()
        targets: dict[str, TargetSpec] = {}
        if options.align_weight:
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
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, student, teacher)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        made = {}
        if self.options.align_weight:
            made["embedding"] = last_embedding(teacher).detach().float()
        if self.options.attention_weight:
            made["attention"] = self.guidance.teacher_rows(attention_rows(teacher)[:, 0].detach()).float()
        return made

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        terms = {}
        if self.options.align_weight:
            projected = project(self.projector, last_embedding(student))
            distance = self._distance(target["embedding"].to(projected.dtype), projected)
            terms["align"] = self.options.align_weight * distance
        if self.options.attention_weight:
            student_rows = self.guidance.student_rows(attention_rows(student)[:, 0])
            divergence = kl_divergence(target["attention"].to(student_rows.dtype), student_rows).sum(dim=-1)
            terms["attention"] = self.options.attention_weight * divergence
        return terms

    def _distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self.options.distance == "cosine":
            return 1 - functional.cosine_similarity(student, teacher, dim=-1)
        return (student - teacher).square().mean(dim=-1)


def last_embedding(outputs: Outputs) -> Tensor:
    """The embedding [B, D] of the last layer.

    Raises: BrokenPluginError where the model was asked for it and returned none.
    """
    if not outputs.embedding:
        raise BrokenPluginError("a loss reads embedding and the model returned none; its plugin breaks the contract")
    return outputs.embedding[-1]
