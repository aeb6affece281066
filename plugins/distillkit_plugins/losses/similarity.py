"""`similarity`: distil how similar the patches of an image are to one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, TargetSpec
from distillkit_plugins.losses.divergences import softened_kl
from distillkit_plugins.losses.options import SimilarityOptions
from distillkit_plugins.losses.patch_pair import PatchPair
from distillkit_plugins.losses.projector import feature_projector, project, without_autocast
from distillkit_plugins.losses.read_features import patch_tokens

if TYPE_CHECKING:
    from torch import Tensor


class Similarity(nn.Module):
    """KL divergence between the softmaxes of the patch similarities of teacher and student, inside each image.

    Formula: mean over patches m of KL(softmax_n(t_m . t_n / tau) || softmax_n(s_m . s_n / tau)), with t the teacher's
        patch tokens and s the student's after projection and resampling, both divided by their length. n runs over all
        patches of the image, m included.
    Shapes: teacher patch tokens [B, N_t, D_t] -> target "patches" [B, M, D_t] float32; student patch tokens
        [B, N_s, D_s] -> [B, M, D_t] -> term "similarity" [B].
    Range: >= 0; 0 when the similarities are equal.
    Source: the local loss of the method `distillation` of LightlyTrain 0.15, with its temperature of 0.07. It is
        described there without a paper. Labels are not used: `label_weight` is 0.
    Differs: an own implementation, from a description of the formula.
    """

    Options = SimilarityOptions

    weight = 1.0
    label_weight = 0.0

    def __init__(self, options: SimilarityOptions, student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.options = options
        self.pair = PatchPair.between(
            "similarity",
            student,
            teacher,
            layers=(options.layer,),
            student_layer=options.student_layer,
            resample=options.resample,
        )
        self.target_options, self.target_geometry = self.pair.target_options, self.pair.target_geometry
        self.projector = feature_projector(
            options.projector, self.pair.student_width, self.pair.widths[0], ratio=options.projector_ratio
        )
        self.reads_teacher = frozenset({self.pair.teacher_read})
        self.reads_student = frozenset({self.pair.student_read})
        self.targets: Mapping[str, TargetSpec] = {"patches": self.pair.target}

    @classmethod
    def build(cls, options: SimilarityOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, student, teacher)

    @property
    def smaller_targets(self) -> tuple[Mapping[str, object], ...]:
        """Options with which the target is smaller."""
        is_smaller = self.options.resample == "student" and self.pair.is_smaller_for_student
        return ({"resample": "teacher"},) if is_smaller else ()

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"patches": self.pair.of_teacher(teacher)}  # [B, M, D_t]

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        projected = self.pair.of_student(project(self.projector, patch_tokens(student)[0]))  # [B, M, D_t]
        with without_autocast(projected.device):
            own = self._similarity(projected)  # [B, M, M]
            goal = self._similarity(target["patches"].to(projected.dtype))
            return {"similarity": softened_kl(goal, own, 1.0).mean(dim=-1)}  # [B]

    def _similarity(self, tokens: Tensor) -> Tensor:
        """Cosines of tokens [B, M, D] with each other, divided by the temperature: [B, M, M]."""
        unit = functional.normalize(tokens, dim=-1)
        return unit @ unit.transpose(1, 2) / self.options.temperature
