"""Contract of a loss: the signals it reads from teacher and student, its target, and its terms.

Does not import torch at run time, so that listing plugins and printing help stay fast.

Letters in shapes: B batch, C channels, H W pixels, L layers, A heads, N patches, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from distillkit.contracts.model import ModelSpec, Outputs, Read

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor


@dataclass(frozen=True)
class BatchInfo:
    """Batch data for a loss besides the models' outputs: labels, progress, and which images these are.

    Shapes: labels [B, K], each row a distribution (smoothed and mixed) or zeros for an unlabelled sample, None if the
    run has no labels at all; label_mass [B], 1 for a labelled sample and 0 for an unlabelled one.
    `progress` is the completed share of the run's optimiser steps, from 0 to 1.
    `index` [B] int64 is the number of each sample's image in the training set, as in the addresses of a target bank;
    None in a stream, which has no numbers. A mixed image has the number of the image that gave its pixels first.
    """

    labels: Tensor | None
    label_mass: Tensor
    progress: float = 0.0
    index: Tensor | None = None


@dataclass(frozen=True)
class TargetSpec:
    """One target tensor of a loss: its shape without the batch, its dtype, and whether a bank must store it exactly.

    `dtype` is torch's name without the prefix: "float32", "int64". With `exact = False` a bank stores float32 and
    float64 as float16 with one power of two per image as their scale: 11 significant bits.
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

    A loss may also have:
        target_options   frozenset with the names of the options that `target` depends on; without it a bank keeps the
                         targets of different options apart
        target_buffers   frozenset with the names of the buffers that `target` depends on; without it all of them
        target_geometry  frozenset with the names of the student's facts that `target` depends on, of "kind", "layers",
                         "heads", "grids" and "prefix_tokens"; without it those that `build` and `target` read
        smaller_targets  other options, as mappings from names to values, with which the targets are smaller; a plan
                         proposes them where a bank is large
        needs_index      True if `forward` reads `BatchInfo.index`; a plan then refuses a stream
        prepare          see `PreparedLoss`
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


class PreparedLoss(Loss, Protocol):
    """A loss that needs the teacher's outputs for some training images before the first step: statistics, anchors.

    What `prepare` computes is kept in buffers of the loss, of the shapes and dtypes that `build` gave them. They are
    part of every checkpoint, so that a resumed run does not prepare again, and equal in all processes.
    `prepare_images` is the number of images that `prepare` sees; fewer if an epoch has fewer, but a plan refuses to
    start with fewer than `prepare_at_least` (1 if the loss does not have it), and adds `prepare_remedy` to its message,
    if the loss has it: "set a smaller number of anchors". With 0 the loss is not prepared: options
    may decide that it needs nothing.
    """

    prepare_images: int

    def prepare(self, teacher: Iterable[Outputs]) -> None:
        """Compute the buffers, before the first step and without gradient.

        `teacher` gives the signals of `reads_teacher`, one batch after the other, for the images that the first steps
        of the run show, augmented and mixed as there: the same images in the same order in every process and run.
        Raises: a UserError for images from which the buffers cannot be computed.
        """


def preparation_of(loss: object) -> PreparedLoss | None:
    """The loss itself if it prepares, else None."""
    has_one = callable(getattr(loss, "prepare", None)) and getattr(loss, "prepare_images", None) != 0
    return cast("PreparedLoss", loss) if has_one else None


def target_buffers(loss: Any) -> frozenset[str] | None:
    """Names of the buffers that the target of a loss depends on; None means all of them."""
    named: frozenset[str] | None = getattr(loss, "target_buffers", None)
    return named
