"""`anchors`: distil the similarity of an image's embedding to those of a fixed set of training images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from distillkit import BatchInfo, Loss, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit_plugins.losses.divergences import softened_kl
from distillkit_plugins.losses.options import AnchorsOptions
from distillkit_plugins.losses.projector import feature_projector, project, without_autocast
from distillkit_plugins.losses.read_features import last_embedding

if TYPE_CHECKING:
    from torch import Tensor


class Anchors(nn.Module):
    """KL divergence between the softmaxes of the similarities of teacher and student to fixed anchors.

    Formula: KL(softmax(t . a_k / tau) || softmax(P(s) . a_k / tau)) over the anchors k, with t and s the embeddings, P
        the projector, a_k the teacher's embeddings of A training images; t, P(s) and a_k are divided by their length.
    Shapes: teacher embedding [B, D_t] -> target "embedding" [B, D_t] float32; student embedding [B, D_s] -> term
        "anchors" [B]. Buffer: anchors [A, D_t], filled before the first step.
    Range: >= 0; 0 when the similarities are equal.
    Source: the global loss of the methods `distillationv1` and `distillation` of LightlyTrain, with its temperature of
        0.07. Labels are not used: `label_weight` is 0.
    Differs: an own variant. There the anchors are a queue of the embeddings of the last batches, which starts with
        zeros and contains the sample itself; here they are fixed. So the term of an image depends on that image alone,
        gradient accumulation and resuming are exact, and targets can be stored in a bank.
    """

    Options = AnchorsOptions

    weight = 1.0
    label_weight = 0.0
    reads_teacher = reads_student = frozenset({Read(Signal.EMBEDDING)})
    target_options: frozenset[str] = frozenset()
    target_buffers: frozenset[str] = frozenset()
    prepare_remedy = "set a smaller number of anchors"

    def __init__(self, options: AnchorsOptions, student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.options = options
        # Without an embedding the pair is refused right after `build`; a width of 1 leaves that error to it.
        width, goal = (spec.width if spec.widths else 1 for spec in (student, teacher))
        self.prepare_images = self.prepare_at_least = options.anchors
        self.projector = feature_projector(options.projector, width, goal, ratio=options.projector_ratio)
        self.targets: Mapping[str, TargetSpec] = {"embedding": TargetSpec((goal,), "float32", exact=False)}
        self.anchors: Tensor
        self.register_buffer("anchors", torch.zeros(options.anchors, goal))

    @classmethod
    def build(cls, options: AnchorsOptions, student: ModelSpec, teacher: ModelSpec) -> Loss:
        return cls(options, student, teacher)

    def prepare(self, teacher: Iterable[Outputs]) -> None:
        found = torch.cat([last_embedding(outputs).detach() for outputs in teacher])  # [A, D_t]
        self.anchors.copy_(functional.normalize(found.float(), dim=-1))

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"embedding": last_embedding(teacher).detach().float()}  # [B, D_t]

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        projected = project(self.projector, last_embedding(student))  # [B, D_t]
        with without_autocast(projected.device):
            own = self._similarity(projected)  # [B, A]
            goal = self._similarity(target["embedding"].to(projected.dtype))
            return {"anchors": softened_kl(goal, own, 1.0)}  # [B]

    def _similarity(self, vectors: Tensor) -> Tensor:
        """Cosines of vectors with the anchors, divided by the temperature: [B, D_t] -> [B, A]."""
        unit = functional.normalize(vectors, dim=-1)
        return unit @ self.anchors.to(unit.dtype).T / self.options.temperature
