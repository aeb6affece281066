"""What a loss promises: what it reads of teacher and student, its target, and its terms.

Nothing here imports torch at run time, so that listing plugins and printing help stay fast.

The letters in shapes: B batch, C channels, H W pixels (H also heads beside L), L layers, N patches, D width, K classes.
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
    """What a loss may know about the batch beside the models' outputs.

    Shapes: labels [B, K], each row a distribution (smoothed and mixed) or zeros for an unlabelled sample, None where
    the run has no labels at all; label_mass [B], 1 for a labelled sample and 0 for an unlabelled one.
    `progress` is the share of the run's optimiser steps that are done, from 0 to 1.
    """

    labels: Tensor | None
    label_mass: Tensor
    progress: float = 0.0


@dataclass(frozen=True)
class TargetSpec:
    """One tensor of a loss's target: its shape without the batch, its dtype, and whether a bank must keep it exactly.

    `dtype` is torch's name without the prefix: "float32", "int64".
    """

    shape: tuple[int, ...]
    dtype: str
    exact: bool = True


class Loss(Protocol):
    """A distillation loss. Any nn.Module with these attributes satisfies it.

    Parameters that it owns (a projector) train, resume, and are never exported.
    `weight` and `label_weight` are its paper's: the factor of its terms, and of the cross-entropy on the labels.
    `targets` describes what `target` returns. `couples_batch = True` lets `forward` return scalars ([]), for losses
    that compare the samples of a batch; such a loss is exempt from the equality under gradient accumulation.
    """

    @property
    def Options(self) -> type[BaseModel]: ...  # noqa: N802 - how mypy is told of a class inside the class

    reads_teacher: frozenset[Read]
    reads_student: frozenset[Read]
    weight: float
    label_weight: float
    targets: Mapping[str, TargetSpec]

    @classmethod
    def build(cls, options: Any, student: ModelSpec, teacher: ModelSpec) -> Loss:
        """Make the loss for a pair of models. Touches no weight of either.

        A plan builds it on torch's meta device and runs `forward` there once: no shape and no branch may depend on the
        values of a tensor.
        """

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        """Read the teacher once, without gradient, into tensors of shape [B, ...].

        Sample by sample: what it says of one image must not depend on the other images of the batch.
        """

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        """The named terms, each [B]: one value per sample. The loop averages them over the effective batch."""
