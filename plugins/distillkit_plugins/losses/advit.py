"""Learn where the teacher's class token looks, layer by layer (ADViT)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field
from torch import nn

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit.models import matched_layers
from distillkit_plugins.losses.attention_rows import (
    RowInterpolation,
    attention_rows,
    check_grids,
    geometries,
    patch_distribution,
)
from distillkit_plugins.losses.divergences import floored_log, l1_distance, softened_kl, squared_l2_distance
from distillkit_plugins.losses.head_aggregation import HeadAggregation, aggregate_heads, check_heads

if TYPE_CHECKING:
    from torch import Tensor


class AttentionTransfer(nn.Module):
    """What the three losses of ADViT share: which rows are compared, at which layers, and how they are averaged.

    The rows of a layer are brought to the same heads (`heads`), stripped of the class token's own entry, brought to the
    student's grid (`interpolation`) and divided by their sum, so that each is a distribution over its patches. Student
    layer i is compared with teacher layer `matched_layers(...)[i]`, and the distances are averaged over layers and,
    where heads are grouped, over groups.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """What is compared."""

        heads: HeadAggregation = Field(
            "mean",
            description="how the rows of all heads become comparable: their mean; means of groups of the teacher's, "
            "one for each head of the student; or their normalised geometric mean",
        )
        interpolation: RowInterpolation = Field(
            "bicubic",
            description="how the teacher's patches come to the student's grid; area takes whole multiples, none takes "
            "equal grids only",
        )

    name: str
    weight = 1.0
    label_weight = 1.0

    def __init__(self, options: Options, student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        check_heads(self.name, student, teacher, options.heads)
        check_grids(self.name, student, teacher, options.interpolation)
        self.options = options
        self.student, self.teacher = geometries(student, teacher)
        matched = matched_layers(student.layers, teacher.layers)
        layers = sorted(set(matched))
        self.matched_row = [layers.index(layer) for layer in matched]
        self.reads_teacher = frozenset({Read(Signal.CLS_ATTENTION, tuple(layers))})
        self.reads_student = frozenset({Read(Signal.CLS_ATTENTION, "all")})
        groups = self.student.heads if options.heads == "group" else 1
        shape = (len(layers), groups, self.student.patches)
        self.targets: Mapping[str, TargetSpec] = {"attention": TargetSpec(shape, "float32", exact=False)}

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, student, teacher)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        rows = self._aggregated(attention_rows(teacher).detach())
        teacher_rows = patch_distribution(rows, self.teacher.grid, self.student.grid, self.options.interpolation)
        return {"attention": teacher_rows.float()}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        rows = self._aggregated(attention_rows(student))
        student_rows = patch_distribution(rows, self.student.grid, self.student.grid, self.options.interpolation)
        teacher_rows = target["attention"][:, self.matched_row].to(student_rows.dtype)
        return {"attention": self.distance(teacher_rows, student_rows).mean(dim=(1, 2))}

    @abstractmethod
    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        """How far the student's rows are from the teacher's: [B, L, G, N] each become [B, L, G]."""

    def _aggregated(self, rows: Tensor) -> Tensor:
        return aggregate_heads(rows, self.options.heads, self.student.heads)


class AttentionL1(AttentionTransfer):
    """Bring the student's class-token attention to the teacher's, by absolute differences.

    Formula: mean over layers of sum over patches of |A_s - A_t|, plus the cross-entropy on the labels.
    Shapes: the teacher's rows [B, L_t, H_t, 1 + N_t] become a target "attention" [B, L, G, N_s] float32 of the layers
        that teach, on the student's grid, with G = 1 or the student's heads; term "attention" [B].
    Range: from 0, for equal attention, to 2.
    Source: Tanaka, Ishibashi, Xu & Meng, "Attention Distillation for Accuracy Improvement of Vision Transformer"
        (ADViT), eq. 5; "the losses calculated at each layer are then summed and averaged".
    Differs: the paper gives no factor for this term; `weight` is 1, and the labels' is 1. It leaves open how heads of
        different number compare: here both sides are averaged over heads. A is divided by its sum over the patches.
    """

    name = "advit-l1"

    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        return l1_distance(teacher_rows, student_rows)


class AttentionL2(AttentionTransfer):
    """Bring the student's class-token attention to the teacher's, by squared differences.

    Formula: mean over layers of sum over patches of (A_s - A_t)^2, plus the cross-entropy on the labels.
    Shapes: as `AttentionL1`.
    Range: from 0, for equal attention, to 2.
    Source: as `AttentionL1`, eq. 6, which is called the L2 norm and has no root.
    Differs: as `AttentionL1`. Of equal rows it is far the smaller number: a weight for one does not carry over.
    """

    name = "advit-l2"

    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        return squared_l2_distance(teacher_rows, student_rows)


class AttentionKl(AttentionTransfer):
    """Bring the student's class-token attention to the teacher's, by the Kullback-Leibler divergence.

    Formula: tau^2 * KL(softmax(X_t / tau) || softmax(X_s / tau)), averaged over layers, plus the cross-entropy on the
        labels. X is A itself for `form = "resoftmax"`, as the paper writes it, and log A for `form = "direct"`, which
        with tau = 1 is KL(A_t || A_s).
    Shapes: as `AttentionL1`. `form` and `tau` act in `forward`, so that a stored target serves all of them.
    Range: >= 0; 0 for equal attention.
    Source: as `AttentionL1`, eq. 4, with tau = 1 (section 4.1.3).
    Differs: eq. 4 writes KL(student, teacher); here, as in DeiT's code, the teacher is the reference. Its cross-entropy
        has softmax(A_s), which can only mean the logits. Its lambda and 1 - lambda, to which it gives no value, are
        `weight` and `labels.weight`, 1 and 1. `resoftmax` of N patches is the squared distance of eq. 6 divided by
        2 N, but for higher powers of A / tau: too little to teach anything, which docs/losses.md measures. In float32
        about 2e-7 of its value is rounding; the gradient does not suffer.
    """

    name = "advit-kl"

    class Options(AttentionTransfer.Options):
        """What is compared, and how."""

        form: Literal["resoftmax", "direct"] = Field(
            "resoftmax",
            description="take the softmax of the probabilities again, as the paper writes it, or compare them directly",
        )
        tau: Annotated[float, Field(gt=0)] = Field(1.0, description="temperature that softens both distributions")

    options: Options

    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        if self.options.form == "direct":
            teacher_rows, student_rows = floored_log(teacher_rows), floored_log(student_rows)
        return softened_kl(teacher_rows, student_rows, self.options.tau)
