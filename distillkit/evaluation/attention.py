"""Where the class tokens of a student and of its teachers look."""

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
    """Why the class token's attention of a model cannot be read, as the end of a sentence; None where it can."""
    if Signal.CLS_ATTENTION in spec.signals:
        return None
    return spec.silent.get(Signal.CLS_ATTENTION) or f"it is {KINDS[spec.kind]} and does not reveal it"


def see_attention(
    name: str, student: Model, teachers: Mapping[str, TeacherView], images: Tensor, layers: Layers = "all"
) -> list[tuple[Sight, ...]]:
    """For each image what every teacher saw of it, and last what the student, called `name`, saw.

    `layers` are the student's. A teacher of another depth shows those that would teach them (`matched_layers`).
    Shapes: images [B, C, H, W], normalised with the student's mean and std.
    Raises: SignalError for a layer that the student does not have.
    """
    shown = layers_of(name, student.spec, layers)
    sights = []
    for called, teacher in teachers.items():
        matched = matched_layers(student.spec.layers, teacher.spec.layers)
        its_layers = tuple(matched[layer] for layer in shown)
        sights.append(_see(f"teacher {called}", teacher, images, teacher.see(images), its_layers))
    sights.append(_see(name, student, images, images, shown))
    return list(zip(*sights, strict=True))


def layers_of(name: str, spec: ModelSpec, layers: Layers) -> tuple[int, ...]:
    """The layers that are asked for, ascending.

    Raises: SignalError for one that the model, called `name`, does not have.
    """
    shown = Read(Signal.CLS_ATTENTION, layers).indices(spec)
    beyond = [layer for layer in shown if not 0 <= layer < spec.layers]
    if beyond:
        raise SignalError(
            f"layer {beyond[0]} is asked for, and {name} has layers 0 to {spec.layers - 1}; choose among these"
        )
    return tuple(sorted(set(shown)))


@torch.no_grad()
def _see(name: str, model: Model | TeacherView, images: Tensor, seen: Tensor, layers: Sequence[int]) -> list[Sight]:
    """The attention of one model to images, in evaluation mode; a compiled model is not compiled again.

    `seen` are the images as the model sees them, to draw below its attention.
    """
    module, spec = cast("nn.Module", model), model.spec
    wanted = tuple(sorted(set(layers)))
    was_training = module.training
    module.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            outputs: Outputs = model(images, {Signal.CLS_ATTENTION: wanted})
    finally:
        module.train(was_training)
    if outputs.cls_attention is None:
        raise BrokenPluginError(
            f"{name} was asked for its CLS attention and returned none; its plugin breaks the contract"
        )
    rows = outputs.cls_attention[:, [wanted.index(layer) for layer in layers]].float().cpu().numpy()
    pixels = _pixels(seen, spec)
    return [Sight(name, each, its, tuple(layers), spec.grid) for each, its in zip(pixels, rows, strict=True)]


def _pixels(images: Tensor, spec: ModelSpec) -> NDArray[np.float32]:
    """Normalised images [B, C, H, W] as colours from 0 to 1, [B, H, W, 3]."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    colours = (images.float().cpu() * std + mean).clamp(0, 1).permute(0, 2, 3, 1)  # [B, H, W, C]
    return cast("NDArray[np.float32]", colours.expand(-1, -1, -1, 3).numpy())
