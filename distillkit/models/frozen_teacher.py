"""A frozen teacher that receives the student's images, renormalised and resized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillkit.compute.distributed import Processes
from distillkit.contracts.model import Model, ModelSpec, Outputs, Wanted
from distillkit.contracts.teacher_form import PLAIN, TeacherForm
from distillkit.models.class_matching import ClassMap
from distillkit.models.constant_weights import compile_with_constants
from distillkit.models.kept_patches import KeptPatches
from distillkit.models.precision import at_least_float32
from distillkit.models.sharding import shard
from distillkit.models.teacher_form import apply_form
from distillkit.models.teacher_size import TeacherSize, spec_at, teacher_size


class FrozenTeacher(nn.Module):
    """A frozen teacher: its outputs for the student's images, renormalised and resized to what the teacher expects.

    Always in evaluation mode, even after `train()`; no parameter requires a gradient and no graph is recorded. Images
    are prepared in float32, the network runs under autocast in `precision`, outputs are at least float32. Weight
    matrices are stored as autocast casts them, which halves their memory and changes no bit of the outputs. `take`
    gives it another form. `spec` describes the outputs: the classes after `class_map`, the grids at the teacher's image
    size.

    One that is `masked` sees the patches that it is given in `keeping`, and all of them outside.

    Shapes: images [B, 3, H, W], normalised with the student's mean and std, after the student's mixing and erasing.
    """

    def __init__(
        self,
        model: Model,
        *,
        student: ModelSpec,
        size: TeacherSize,
        class_map: ClassMap,
        precision: torch.dtype = torch.float32,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.size = teacher_size(model.spec, student, size)
        self.spec = class_map.apply(spec_at(model.spec, self.size))
        self.sharded = False
        self._patches = KeptPatches.of(model.network) if masked else None
        self._compiled: Callable[[Tensor, Wanted], Outputs] | None
        self._usual: tuple[int, tuple[int, int], Wanted] | None
        self.take(PLAIN, precision)
        self.scale: Tensor
        self.shift: Tensor
        self.outputs: Tensor | None
        self.same_pixels = (student.mean, student.std) == (model.spec.mean, model.spec.std)
        scale, shift = renormalisation(student, model.spec)
        # Buffers, to move with the module; not persistent, so that the state dict is the model's alone.
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        outputs = None if class_map.indices is None else torch.tensor(class_map.indices)
        self.register_buffer("outputs", outputs, persistent=False)
        self.requires_grad_(requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenTeacher:  # noqa: ARG002, FBT001, FBT002 - as nn.Module has it
        """Stay in evaluation mode, so that the teacher's BatchNorm statistics do not change."""
        return super().train(mode=False)

    def shard(self, processes: Processes, device: torch.device) -> None:
        """Shard the weights over all processes, each of which must then call `forward` equally often."""
        shard(self.network, processes, device)
        self.sharded = True

    def take(self, form: TeacherForm, precision: torch.dtype, usual: tuple[int, Wanted] | None = None) -> None:
        """Compute in this form and precision from now on; the weights are changed in place.

        `usual` are the batch size and signals for which a compiled form is compiled, at the first such batch; other
        batches run as they are.
        """
        self.form, self.precision = form, precision
        apply_form(self.network, form, precision)
        self._compiled, self._usual = None, None
        if form.compiled and usual is not None:
            self._usual = (usual[0], self.size, dict(usual[1]))
            self._compiled = compile_with_constants(self.network)

    @property
    def network(self) -> nn.Module:
        """The model as a module."""
        return cast("nn.Module", self.model)

    @torch.no_grad()  # not inference_mode: autograd cannot save its tensors for the student's backward
    def forward(self, images: Tensor, wanted: Wanted) -> Outputs:
        device = images.device.type
        # Images are renormalised and resized in float32 even if the caller runs under autocast.
        with torch.autocast(device, enabled=False):
            seen = self.see(images)
        is_half = self.precision is not torch.float32
        if self.form.half_weights and is_half:
            seen = seen.to(self.precision)
        if self.form.channels_last:
            seen = seen.contiguous(memory_format=torch.channels_last)
        is_usual = self._usual == (len(images), self.size, wanted)
        run = self._compiled if self._compiled is not None and is_usual else self.model
        with torch.autocast(device, dtype=self.precision, enabled=is_half and not self.form.half_weights):
            outputs: Outputs = run(seen, wanted)
        if self.outputs is None:
            return outputs
        return replace(
            outputs,
            logits=None if outputs.logits is None else outputs.logits[:, self.outputs],  # [B, K]
            distill_logits=None if outputs.distill_logits is None else outputs.distill_logits[:, self.outputs],
        )

    @contextmanager
    def at_size(self, size: tuple[int, int]) -> Iterator[None]:
        """Let the teacher see images at another size (height, width), which it must accept."""
        seen, self.size = self.size, size
        try:
            yield
        finally:
            self.size = seen

    @contextmanager
    def keeping(self, patches: Tensor) -> Iterator[None]:
        """Let a masked teacher see only the patches at these indices, [B, n]."""
        with nullcontext() if self._patches is None else self._patches.keeping(patches):
            yield

    def see(self, images: Tensor) -> Tensor:
        """Renormalise and resize images for the teacher. Shapes: [B, C, H, W] to [B, C, *size]."""
        seen = at_least_float32(images)
        if not self.same_pixels:
            seen = seen * self.scale.to(seen.dtype) + self.shift.to(seen.dtype)
        return resize(seen, self.size)


def renormalisation(student: ModelSpec, teacher: ModelSpec) -> tuple[Tensor, Tensor]:
    """Scale and shift from the student's normalised pixels to the teacher's, [1, C, 1, 1] each.

    With x the pixel, s and t the two normalisations: t = (x - mean_t) / std_t and x = s * std_s + mean_s, so
    t = s * (std_s / std_t) + (mean_s - mean_t) / std_t.
    """
    mean_s, std_s, mean_t, std_t = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)  # [1, C, 1, 1]
        for values in (student.mean, student.std, teacher.mean, teacher.std)
    )
    # Computed in float64, stored in float32: some devices have no float64.
    return (std_s / std_t).float(), ((mean_s - mean_t) / std_t).float()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images by bicubic interpolation, antialiased if they shrink. Shapes: [B, C, H, W] to [B, C, *size]."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    shrinks = size[0] < height or size[1] < width
    return functional.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=shrinks)
