"""Class token attention of a student and its teachers for given images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from distillkit.contracts.model import Layers, Model, ModelSpec, Outputs, Read, Signal, TeacherView
from distillkit.contracts.signal_matching import KINDS
from distillkit.errors import BrokenPluginError, SignalError
from distillkit.evaluation.attention_figure import Sight
from distillkit.models.layer_mapping import matched_layers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def why_unreadable(spec: ModelSpec) -> str | None:
    """The reason why a model's class token attention cannot be read, as the end of a sentence; None if it can."""
    if Signal.CLS_ATTENTION in spec.signals:
        return None
    return spec.silent.get(Signal.CLS_ATTENTION) or f"it is {KINDS[spec.kind]} and reveals no class-token attention"


def see_attention(
    name: str, student: Model, teachers: Mapping[str, TeacherView], images: Tensor, layers: Layers = "all"
) -> list[tuple[Sight, ...]]:
    """Class token attention to each image: one `Sight` per teacher, then the student's; `name` is the student's.

    `layers` are the student's. For a teacher of another depth the layers that match them are shown (`matched_layers`).
    Shapes: images [B, C, H, W], normalised with the student's mean and std.
    Raises: SignalError for a layer that the student does not have.
    """
    shown = layers_of(name, student.spec, layers)
    sights = []
    for teacher_name, teacher in teachers.items():
        matched = matched_layers(student.spec.layers, teacher.spec.layers)
        teacher_layers = tuple(matched[layer] for layer in shown)
        sights.append(_sights_of(f"teacher {teacher_name}", teacher, images, teacher.see(images), teacher_layers))
    sights.append(_sights_of(name, student, images, images, shown))
    return list(zip(*sights, strict=True))  # by model to by image


def layers_of(name: str, spec: ModelSpec, layers: Layers) -> tuple[int, ...]:
    """The requested layers of a model as ascending indices; `name` is the model's, for errors.

    Raises: SignalError for a layer that the model does not have.
    """
    shown = Read(Signal.CLS_ATTENTION, layers).indices(spec)
    beyond = [layer for layer in shown if not 0 <= layer < spec.layers]
    if beyond:
        raise SignalError(f"{name} has no layer {beyond[0]}; choose from its layers 0 to {spec.layers - 1}")
    return tuple(sorted(set(shown)))


@torch.no_grad()
def _sights_of(
    name: str, model: Model | TeacherView, images: Tensor, received: Tensor, layers: Sequence[int]
) -> list[Sight]:
    """The attention of one model to images [B, C, H, W], in evaluation mode.

    `received` are the images after the model's own preprocessing, to draw below its attention.
    """
    module, spec = cast("nn.Module", model), model.spec
    wanted = tuple(sorted(set(layers)))
    was_training = module.training
    module.eval()
    try:
        # Eager: another set of wanted signals would compile a compiled model again.
        with torch.compiler.set_stance("force_eager"):
            outputs: Outputs = model(images, {Signal.CLS_ATTENTION: wanted})
    finally:
        module.train(was_training)
    if outputs.cls_attention is None:
        raise BrokenPluginError(
            f"{name} was asked for its CLS attention and returned none; its plugin breaks the contract"
        )
    # Signals are wanted in ascending order and once per layer; a shallow teacher's layers repeat.
    rows = outputs.cls_attention[:, [wanted.index(layer) for layer in layers]].float().cpu().numpy()  # [B, L, A, 1 + N]
    pixels = _pixels(received, spec)
    return [Sight(name, image, row, tuple(layers), spec.grid) for image, row in zip(pixels, rows, strict=True)]


def _pixels(images: Tensor, spec: ModelSpec) -> NDArray[np.float32]:
    """Normalised images [B, C, H, W] as colours from 0 to 1, [B, H, W, 3]."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))  # [C, 1, 1]
    colours = (images.float().cpu() * std + mean).clamp(0, 1).permute(0, 2, 3, 1)  # [B, H, W, C]
    return cast("NDArray[np.float32]", colours.expand(-1, -1, -1, 3).numpy())
