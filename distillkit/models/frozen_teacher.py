"""A teacher as the loop uses it: frozen, and looking at the student's very pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillkit.compute.distributed import Processes
from distillkit.contracts.model import Model, ModelSpec, Outputs, Wanted
from distillkit.models.class_matching import ClassMap
from distillkit.models.precision import at_least_float32, keep_cast
from distillkit.models.sharding import shard
from distillkit.models.teacher_size import TeacherSize, spec_at, teacher_size


class FrozenTeacher(nn.Module):
    """Answers about the student's images, renormalised and resized for the teacher.

    Always in evaluation mode, whatever `train()` says; no parameter asks for a gradient and none is recorded. The
    pixels are prepared in float32, the network runs in `precision` by autocast, the outputs are float32 at least. The
    matrices are kept as autocast casts them, which takes half the memory and changes no bit of the answer.
    `spec` describes what comes out: the classes after `class_map`, the grids at the size that is seen.

    Shapes: images [B, 3, H, W], normalised with the student's mean and std, mixed and erased as the student's are.
    """

    def __init__(
        self,
        model: Model,
        *,
        student: ModelSpec,
        size: TeacherSize,
        class_map: ClassMap,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model = model
        self.size = teacher_size(model.spec, student, size)
        self.spec = class_map.apply(spec_at(model.spec, self.size))
        self.precision = precision
        self.sharded = False
        keep_cast(cast("nn.Module", model), precision)
        self.scale: Tensor
        self.shift: Tensor
        self.outputs: Tensor | None
        self.same_pixels = (student.mean, student.std) == (model.spec.mean, model.spec.std)
        scale, shift = renormalisation(student, model.spec)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        outputs = None if class_map.indices is None else torch.tensor(class_map.indices)
        self.register_buffer("outputs", outputs, persistent=False)
        self.requires_grad_(requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenTeacher:  # noqa: ARG002, FBT001, FBT002 - as nn.Module has it
        """Stays in evaluation mode, so that no statistic of the teacher moves."""
        return super().train(mode=False)

    def share_out(self, processes: Processes, device: torch.device) -> None:
        """Let every process hold a part of the weights; all of them must then call `forward` equally often."""
        shard(cast("nn.Module", self.model), processes, device)
        self.sharded = True

    @torch.no_grad()
    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        device = images.device.type
        with torch.autocast(device, enabled=False):
            seen = self.see(images)
        with torch.autocast(device, dtype=self.precision, enabled=self.precision is not torch.float32):
            outputs: Outputs = self.model(seen, wanted)
        if self.outputs is None:
            return outputs
        return replace(
            outputs,
            logits=None if outputs.logits is None else outputs.logits[:, self.outputs],
            distill_logits=None if outputs.distill_logits is None else outputs.distill_logits[:, self.outputs],
        )

    def see(self, images: Tensor) -> Tensor:
        """The student's pixels as the teacher wants them: its normalisation, its size."""
        seen = at_least_float32(images)
        if not self.same_pixels:
            seen = seen * self.scale.to(seen.dtype) + self.shift.to(seen.dtype)
        return resize(seen, self.size)


def renormalisation(student: ModelSpec, teacher: ModelSpec) -> tuple[Tensor, Tensor]:
    """The affine map from the student's normalised pixels to the teacher's, [1, C, 1, 1] each.

    With x the pixel, s and t the two normalisations: t = (x - mean_t) / std_t and x = s * std_s + mean_s, so
    t = s * (std_s / std_t) + (mean_s - mean_t) / std_t.
    """
    mean_s, std_s, mean_t, std_t = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
        for values in (student.mean, student.std, teacher.mean, teacher.std)
    )
    # Computed in float64, kept in float32: some devices have nothing wider.
    return (std_s / std_t).float(), ((mean_s - mean_t) / std_t).float()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, with antialias where the images shrink. Shapes: [B, C, H, W] to [B, C, *size]."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    shrinks = size[0] < height or size[1] < width
    return functional.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=shrinks)
