"""`advit-l1`, `advit-l2`, `advit-kl`: distil class-token attention layer by layer (ADViT)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit.models import matched_layers
from distillkit_plugins.losses.attention_rows import (
    attention_rows,
    check_grids,
    geometries,
    patch_distribution,
)
from distillkit_plugins.losses.divergences import floored_log, l1_distance, softened_kl, squared_l2_distance
from distillkit_plugins.losses.head_aggregation import aggregate_heads, check_heads
from distillkit_plugins.losses.options import AttentionKlOptions, AttentionOptions

if TYPE_CHECKING:
    from torch import Tensor


class AttentionTransfer(nn.Module):
    """Base class of ADViT's three losses; a subclass supplies the distance between attention rows.

    The rows of each layer are aggregated over heads (`heads`), stripped of the class token's own entry, resampled to
    the student's patch grid (`interpolation`) and divided by their sum, so each is a distribution over patches.
    Student layer i is compared with teacher layer `matched_layers(...)[i]`. The distances are averaged over layers,
    and over groups if heads are grouped.
    Shapes: A heads; L_t teacher layers that are read, L_s student layers; G = 1, or the student's heads for "group".
        Teacher rows [B, L_t, A_t, 1 + N_t] -> target "attention" [B, L_t, G, N_s] float32;
        student rows [B, L_s, A_s, 1 + N_s] -> [B, L_s, G, N_s] -> term "attention" [B].
    """

    Options = AttentionOptions

    name: str
    weight = 1.0
    label_weight = 1.0

    def __init__(self, options: AttentionOptions, student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        check_heads(self.name, student, teacher, options.heads)
        check_grids(self.name, student, teacher, options.interpolation)
        self.options = options
        self.student, self.teacher = geometries(student, teacher)
        matched = matched_layers(student.layers, teacher.layers)
        layers = sorted(set(matched))  # a deeper student compares several layers with one teacher layer; read it once
        self.matched_row = [layers.index(layer) for layer in matched]
        self.reads_teacher = frozenset({Read(Signal.CLS_ATTENTION, tuple(layers))})
        self.reads_student = frozenset({Read(Signal.CLS_ATTENTION, "all")})
        groups = self.student.heads if options.heads == "group" else 1
        shape = (len(layers), groups, self.student.patches)
        self.targets: Mapping[str, TargetSpec] = {"attention": TargetSpec(shape, "float32", exact=False)}

    @classmethod
    def build(cls, options: AttentionOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, student, teacher)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        # Heads are averaged before the class token's entry is dropped: a head that attends mostly to the class token
        # says little about the patches, and counts little.
        rows = self._aggregated(attention_rows(teacher).detach())  # [B, L_t, G, 1 + N_t]
        teacher_rows = patch_distribution(rows, self.teacher.grid, self.student.grid, self.options.interpolation)
        return {"attention": teacher_rows.float()}  # [B, L_t, G, N_s]

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        rows = self._aggregated(attention_rows(student))  # [B, L_s, G, 1 + N_s]
        student_rows = patch_distribution(rows, self.student.grid, self.student.grid, self.options.interpolation)
        teacher_rows = target["attention"][:, self.matched_row].to(student_rows.dtype)  # [B, L_s, G, N_s]
        return {"attention": self.distance(teacher_rows, student_rows).mean(dim=(1, 2))}  # [B]

    @abstractmethod
    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        """Distance between teacher and student rows: [B, L, G, N] each -> [B, L, G]."""

    def _aggregated(self, rows: Tensor) -> Tensor:
        return aggregate_heads(rows, self.options.heads, self.student.heads)


class AttentionL1(AttentionTransfer):
    """L1 distance between the class-token attention of student and teacher, averaged over layers.

    Formula: mean over layers of sum over patches of |a_s - a_t|, with a the attention from the class token to the
        patches. The training loop adds the cross-entropy on the labels.
    Shapes: teacher rows [B, L_t, A_t, 1 + N_t] -> target "attention" [B, L_t, G, N_s] float32, for the teacher layers
        that are read, on the student's grid; G = 1, or the student's heads for `heads = "group"`.
        Student rows [B, L_s, A_s, 1 + N_s] -> term "attention" [B].
    Range: 0 to 2; 0 when the attention is equal.
    Source: Tanaka, Ishibashi, Xu & Meng, "Attention Distillation for Accuracy Improvement of Vision Transformer"
        (ADViT), eq. 5; "the losses calculated at each layer are then summed and averaged".
    Differs: the paper gives no factor for this term; here its weight and that of the labels are 1. The paper leaves
        open how to compare models with different numbers of heads; here each side is averaged over its heads. The
        class token's own entry is dropped and a is divided by its sum over the patches.
    """

    name = "advit-l1"

    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        return l1_distance(teacher_rows, student_rows)


class AttentionL2(AttentionTransfer):
    """Squared L2 distance between the class-token attention of student and teacher, averaged over layers.

    Formula: mean over layers of sum over patches of (a_s - a_t)^2, with a the attention from the class token to the
        patches. The training loop adds the cross-entropy on the labels.
    Shapes: as `AttentionL1`.
    Range: 0 to 2; 0 when the attention is equal.
    Source: as `AttentionL1`, eq. 6, which the paper calls the L2 norm and writes without a root.
    Differs: as `AttentionL1`. For the same rows it is far smaller than `advit-l1`, so a weight does not carry over.
    """

    name = "advit-l2"

    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        return squared_l2_distance(teacher_rows, student_rows)


class AttentionKl(AttentionTransfer):
    """KL divergence between the class-token attention of student and teacher, averaged over layers.

    Formula: tau^2 * KL(softmax(x_t / tau) || softmax(x_s / tau)), averaged over layers, with a the attention from the
        class token to the patches. x = a for `form = "resoftmax"`, as the paper writes it; x = log a for
        `form = "direct"`, which with tau = 1 is KL(a_t || a_s). The training loop adds the cross-entropy on the labels.
    Shapes: as `AttentionL1`.
    Range: >= 0; 0 when the attention is equal.
    Source: as `AttentionL1`, eq. 4, with tau = 1 (section 4.1.3).
    Differs: eq. 4 writes KL(student, teacher); here, as in DeiT's code, the teacher is the reference. Its cross-entropy
        has softmax(a_s), which can only mean the logits. It gives no values for lambda and 1 - lambda; here `weight`
        and `labels.weight` are 1. `resoftmax` over N patches equals the squared distance of eq. 6 divided by 2 N, up
        to higher powers of a / tau: too small to have an effect, as docs/losses.md measures. In float32 its value has
        a rounding error of about 2e-7; its gradient is not affected.
    """

    name = "advit-kl"

    Options = AttentionKlOptions

    options: AttentionKlOptions

    def distance(self, teacher_rows: Tensor, student_rows: Tensor) -> Tensor:
        # Here and not in `target`, so that one cached target works for every form and tau.
        if self.options.form == "direct":
            teacher_rows, student_rows = floored_log(teacher_rows), floored_log(student_rows)
        return softened_kl(teacher_rows, student_rows, self.options.tau)
