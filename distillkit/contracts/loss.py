"""Contract of a loss: the signals it reads from teacher and student, its target, and its terms.

Does not import torch at run time, so that listing plugins and printing help stay fast.

Letters in shapes: B batch, C channels, H W pixels, L layers, A heads, N patches, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from distillkit.contracts.model import ModelSpec, Outputs, Read

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor


@dataclass(frozen=True)
class BatchInfo:
    """Batch data for a loss besides the models' outputs: labels and progress.

    Shapes: labels [B, K], each row a distribution (smoothed and mixed) or zeros for an unlabelled sample, None if the
    run has no labels at all; label_mass [B], 1 for a labelled sample and 0 for an unlabelled one.
    `progress` is the completed share of the run's optimiser steps, from 0 to 1.
    """

    labels: Tensor | None
    label_mass: Tensor
    progress: float = 0.0


@dataclass(frozen=True)
class TargetSpec:
    """One target tensor of a loss: its shape without the batch, its dtype, and whether a bank must store it exactly.

    `dtype` is torch's name without the prefix: "float32", "int64".
    """

    shape: tuple[int, ...]
    dtype: str
    exact: bool = True


class Loss(Protocol):
    """A distillation loss. Any nn.Module with these attributes satisfies it.

    Its parameters (a projector) are trained and saved in checkpoints, but never exported.
    `weight` and `label_weight` are the paper's: the factors of its terms, and of the cross-entropy on the labels.
    `targets` describes the tensors that `target` returns. `couples_batch = True` lets `forward` return scalars [], for
    losses that compare the samples of a batch; these need not be equal under gradient accumulation.
    """

    @property
    def Options(self) -> type[BaseModel]: ...  # noqa: N802 - mypy accepts a nested class for a property of this name

    reads_teacher: frozenset[Read]
    reads_student: frozenset[Read]
    weight: float
    label_weight: float
    targets: Mapping[str, TargetSpec]

    @classmethod
    def build(cls, options: Any, student: ModelSpec, teacher: ModelSpec) -> Loss:
        """Build the loss for a pair of models from their descriptions.

        A plan builds it on torch's meta device and runs `forward` there once: no shape and no branch may depend on the
        values of a tensor.
        """

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        """Target tensors [B, ...] from the teacher's outputs, without gradient, as `targets` describes.

        The target of one image must not depend on the other images of the batch.
        """

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        """The named terms, each [B]: one value per sample. The loop averages them over the effective batch."""
