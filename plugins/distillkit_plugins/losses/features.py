"""`features`: distil the embedding and the patch tokens of any teacher into any student, with or without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, RecipeError, Signal, TargetSpec
from distillkit_plugins.losses.options import FeaturesOptions
from distillkit_plugins.losses.patch_pair import PatchPair, layer_indices, layer_width
from distillkit_plugins.losses.projector import feature_projector, project, without_autocast
from distillkit_plugins.losses.read_features import embeddings, last_embedding, patch_tokens
from distillkit_plugins.losses.target_normalisation import TargetNormalisation, fit_all

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING, PATCHES = "embedding", "patches"
SIGNALS = {EMBEDDING: "embedding", PATCHES: "patch tokens"}


class FeatureDistillation(nn.Module):
    """Distance between the student's projected features and the teacher's normalised ones.

    Formula: weight * mean over the vectors of d(P(s), n(t)). s and t are the embeddings, one vector each, or the patch
        tokens; P is the projector of this signal, n the normalisation of `TargetNormalisation`, d the mean over the
        width of smooth-L1 (x^2 / (2 beta) up to beta, |x| - beta / 2 beyond) or of the square, or 1 - cosine. With
        `normalise = "l2"` the student's vectors are divided by their length too. Grids are matched by
        `resample_tokens`: the student's after the projection, the teacher's before the normalisation.
    Shapes: teacher embedding [B, D_t] and patch tokens [B, N_t, D_t] of each layer that is read -> targets "embedding"
        [B, D] and "patches" [B, M, D] float32, D the sum of the widths, M the patches on the compared grid;
        student embedding [B, D_s] and patch tokens [B, N_s, D_s] -> terms "embedding" [B] and "patches" [B].
        Both terms include their weights. A term of weight 0 is neither read nor computed.
    Range: >= 0; 0 when the projected features equal the targets.
    Source: Wei et al. 2022, "Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via Feature
        Distillation", arXiv:2205.14141: affine-free layer norm of the target, one linear layer, smooth-L1 with beta 2.
        PHI-S: Ranzinger et al. 2024, arXiv:2410.01680. Labels are not used: `label_weight` is 0.
    Differs: embedding and patch tokens are separate terms, each with a projector; the authors of Feature Distillation
        compare all tokens of a ViT in one mean, with the class token among them. Statistics are those of the first
        images of the run, computed once.
    """

    Options = FeaturesOptions

    weight = 1.0
    label_weight = 0.0
    target_buffers: frozenset[str] = frozenset()  # the target is raw; `forward` normalises it

    def __init__(self, options: FeaturesOptions, student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.options = options
        self.target_options = self.target_geometry = frozenset[str]()
        self.targets: Mapping[str, TargetSpec] = {}
        self.projectors = nn.ModuleDict()
        self.normalisations = nn.ModuleDict()
        teacher_reads, student_reads = set[Read](), set[Read]()
        vectors: dict[str, int] = {}
        if options.embedding_weight:
            layers = layer_indices("features", teacher, options.layers)
            widths = tuple(layer_width(teacher, layer) for layer in layers)
            self._add(EMBEDDING, student.width if student.widths else 1, widths)
            self.targets[EMBEDDING] = TargetSpec((sum(widths),), "float32", exact=False)
            teacher_reads.add(Read(Signal.EMBEDDING, layers))
            student_reads.add(Read(Signal.EMBEDDING))
            vectors[EMBEDDING] = 1
        if options.patch_weight:
            self.pair = PatchPair.between(
                "features",
                student,
                teacher,
                layers=options.layers,
                student_layer=options.student_layer,
                resample=options.resample,
            )
            self.target_options, self.target_geometry = self.pair.target_options, self.pair.target_geometry
            self._add(PATCHES, self.pair.student_width, self.pair.widths)
            self.targets[PATCHES] = self.pair.target
            teacher_reads.add(self.pair.teacher_read)
            student_reads.add(self.pair.student_read)
            vectors[PATCHES] = self.pair.patches
        self.reads_teacher, self.reads_student = frozenset(teacher_reads), frozenset(student_reads)
        self.prepare_images, self.prepare_at_least = self._preparation(vectors, teacher)

    prepare_remedy = 'set normalise to "layernorm", "l2" or "none", which need no statistics'

    @classmethod
    def build(cls, options: FeaturesOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, student, teacher)

    @property
    def smaller_targets(self) -> tuple[Mapping[str, Any], ...]:
        """Options with which the targets are smaller."""
        changes: list[Mapping[str, Any]] = []
        if PATCHES in self.targets and self.options.resample == "student" and self.pair.is_smaller_for_student:
            changes.append({"resample": "teacher"})
        if len(self.targets) > 1:
            changes.append({"patch_weight": 0.0})
        if len(self.options.layers) > 1:
            changes.append({"layers": [self.options.layers[-1]]})
        return tuple(changes)

    def prepare(self, teacher: Iterable[Outputs]) -> None:
        moments = {signal: [layer.moments() for layer in self._layers(signal)] for signal in self.targets}
        for outputs in teacher:
            for signal, target in self.target(outputs).items():
                for collected, part in zip(moments[signal], self._parts(signal, target), strict=True):
                    collected.add(part)
        for signal, collected_by_layer in moments.items():
            what = f"loss 'features': the teacher's {SIGNALS[signal]}"
            fit_all(self._layers(signal), collected_by_layer, what=what)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        targets = {}
        if EMBEDDING in self.targets:
            targets[EMBEDDING] = torch.cat(embeddings(teacher), dim=-1).detach().float()  # [B, D]
        if PATCHES in self.targets:
            targets[PATCHES] = self.pair.of_teacher(teacher)  # [B, M, D]
        return targets

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        terms = {}
        if EMBEDDING in self.targets:
            projected = project(self.projectors[EMBEDDING], last_embedding(student))  # [B, D]
            distance = self._distance(EMBEDDING, projected, target[EMBEDDING])  # [B]
            terms[EMBEDDING] = self.options.embedding_weight * distance
        if PATCHES in self.targets:
            projected = self.pair.of_student(project(self.projectors[PATCHES], patch_tokens(student)[0]))  # [B, M, D]
            distance = self._distance(PATCHES, projected, target[PATCHES]).mean(dim=1)  # [B]
            terms[PATCHES] = self.options.patch_weight * distance
        return terms

    def _add(self, signal: str, width: int, widths: Sequence[int]) -> None:
        """Add the projector of a signal, and the normalisation of each of its layers."""
        self.projectors[signal] = feature_projector(
            self.options.projector, width, sum(widths), ratio=self.options.projector_ratio
        )
        self.normalisations[signal] = nn.ModuleList(
            TargetNormalisation(self.options.normalise, width) for width in widths
        )

    def _layers(self, signal: str) -> Sequence[TargetNormalisation]:
        return cast("Sequence[TargetNormalisation]", self.normalisations[signal])

    def _parts(self, signal: str, target: Tensor) -> Sequence[Tensor]:
        """The layers [..., D_i] of a target [..., D]."""
        return torch.split(target, [layer.width for layer in self._layers(signal)], dim=-1)

    def _preparation(self, vectors: Mapping[str, int], teacher: ModelSpec) -> tuple[int, int]:
        """The number of images for statistics, 0 without, and the least: as many vectors as channels.

        `vectors` is the number of vectors of an image, by signal. Raises: RecipeError for fewer.
        """
        options, least = self.options, 1
        if options.normalise not in {"standardise", "phi-s"}:
            return 0, 1
        for signal, count in vectors.items():
            channels = max(layer.width for layer in self._layers(signal))
            needed = -(-channels // count)
            if options.statistics_images < needed:
                raise RecipeError(
                    f"loss 'features': statistics_images = {options.statistics_images:,} gives fewer vectors than the "
                    f"{channels:,} channels of the {SIGNALS[signal]} of teacher '{teacher.name}'; set it to "
                    f'{needed:,} or more, or normalise = "layernorm", which needs no statistics'
                )
            least = max(least, needed)
        return options.statistics_images, least

    def _distance(self, signal: str, projected: Tensor, target: Tensor) -> Tensor:
        """Distance of vectors [..., D] to a target [..., D], one per vector: [...]."""
        with without_autocast(projected.device):
            parts = self._parts(signal, target.to(projected.dtype))
            goals = [layer(part) for layer, part in zip(self._layers(signal), parts, strict=True)]
            goal = torch.cat(goals, dim=-1)
            if self.options.normalise == "l2":
                own = self._parts(signal, projected)
                projected = torch.cat([functional.normalize(part, dim=-1) for part in own], dim=-1)
            if self.options.distance == "cosine":
                return 1 - functional.cosine_similarity(projected, goal, dim=-1)
            if self.options.distance == "mse":
                return (projected - goal).square().mean(dim=-1)
            return functional.smooth_l1_loss(projected, goal, reduction="none", beta=self.options.beta).mean(dim=-1)
