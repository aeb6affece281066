"""Any classifier of timm as a teacher, and the two that go by names of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel
from timm.models import get_pretrained_cfg_value
from torch import Tensor

from distillkit import Model, ModelRequest, ModelSpec
from distillkit.models import (
    OneAnswer,
    TimmModel,
    TimmRequest,
    classes_of,
    imagenet_class_names,
    load_weights,
    one_answer,
    published_weights,
    read_weights,
    why_unavailable,
)

ARCHITECTURES = {
    "regnety16gf": "regnety_160.deit_in1k",
    "vit-b": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
}
OPTION = "--teacher-weights (evaluate and export: --weights)"


class TimmTeacher:
    """`regnety16gf`, the teacher of DeiT; `vit-b`; and `timm:<any>`, with or without a tag.

    The weights are the published ones, or a file's; then the file says for how many classes the head is. Every tensor
    of the network must be there, and no head is ever made anew. A network with two heads answers with the mean of its
    logits, as published. A teacher of ImageNet's 1,000 classes knows their names.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """A timm teacher has no options of its own."""

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the teacher. The header of a weight file is read, and the file refused where it does not fit.

        Raises: RecipeError for a name that timm does not know; WeightsError for a file that cannot be used.
        """
        return one_answer(_sketch(request).spec)

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the teacher with its weights; with random ones where `weights` is "none".

        Raises: as `describe`; WeightsError where published weights cannot be had.
        """
        spec = _sketch(request).spec
        weights = None if request.weights == "none" else _weights(request)
        model = TimmModel.create(spec.architecture, name=spec.name, classes=spec.classes)
        model.spec = spec
        if weights is not None:
            model.load_report = load_weights(model, weights, source=_source(request), fresh_head=False)
        return OneAnswer(model)

    @classmethod
    def why_unavailable(cls, request: ModelRequest) -> str | None:
        """Why the weights cannot be had now, None where they can; downloads nothing."""
        return None if request.weights == "none" or _file(request) else why_unavailable(_architecture(request))


def _architecture(request: ModelRequest) -> str:
    return ARCHITECTURES.get(request.name) or request.argument or ""


def _file(request: ModelRequest) -> Path | None:
    """The weight file, None where the weights are the published ones or none at all."""
    return None if request.weights in (None, "none", "pretrained") else Path(request.weights)


def _source(request: ModelRequest) -> str:
    return str(_file(request) or f"the published weights of '{_architecture(request)}'")


def _weights(request: ModelRequest) -> dict[str, Tensor]:
    path = _file(request)
    return read_weights(path) if path else published_weights(_architecture(request), option=OPTION)


def _sketch(request: ModelRequest) -> TimmModel:
    """The teacher on the meta device, checked against the shapes in its file."""
    asked = TimmRequest(_architecture(request), request.name, request.classes)
    model = TimmModel.sketch(asked)
    path = _file(request)
    if path is not None:
        shapes = read_weights(path, shapes_only=True)
        found = classes_of(shapes, model)
        if request.classes is None and found not in (None, model.spec.classes):
            model = TimmModel.sketch(replace(asked, classes=found))
        load_weights(model, shapes, source=_source(request), fresh_head=False)
    # Whose licence a file has is its owner's to know.
    licence = None if path is not None or request.weights == "none" else model.spec.licence
    model.spec = replace(model.spec, class_names=_class_names(model.spec), licence=licence)
    return model


def _class_names(spec: ModelSpec) -> tuple[str, ...] | None:
    """ImageNet's, where the weights are of ImageNet-1k and there are 1,000 classes."""
    tag = get_pretrained_cfg_value(spec.architecture, "tag") or ""
    is_imagenet = "in1k" in tag and spec.classes == len(imagenet_class_names())
    return imagenet_class_names() if is_imagenet else None
