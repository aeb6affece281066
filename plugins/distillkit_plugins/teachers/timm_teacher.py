"""Any classifier of timm as a teacher, and those that go by names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from pydantic import BaseModel, Field
from timm.models import get_pretrained_cfg_value
from torch import Tensor

from distillkit import Model, ModelRequest, ModelSpec, WeightsError
from distillkit.models import (
    Fit,
    LoadReport,
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
from distillkit_plugins.image_size_option import ImageSizeOption
from distillkit_plugins.teachers.known import KNOWN, Known

OPTION = "--teacher-weights (evaluate and export: --weights)"


class TimmTeacher:
    """`timm:<any>`, with or without a tag, and the names in `known.py`: `regnety16gf`, `vit-b`, DINO, MAE and Mugs.

    The weights are the published ones, or a file's; then the file says for how many classes the head is. Every tensor
    of the network must be there, and no head is ever made anew. A network with two heads answers with the mean of its
    logits, as published. A teacher of ImageNet's 1,000 classes knows their names.

    The self-supervised ones know no classes and reveal no logits. Their embedding is the class token after the final
    norm: what DINO and Mugs train and judge, and for MAE too, whose loss never looks at that token. Their files may
    be the network alone or a whole training checkpoint, of which the network of the teacher is taken where there is one
    (DINO, Mugs); heads and decoders are left out, and the load report names them.

    A ViT sees images of its own size. With `image_size` it is built for another one, and its position embedding is
    resized as DeiT's authors resize a student's: a teacher at the resolution of a student that is tuned at 384 px.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """What is not given is the network's own."""

        image_size: ImageSizeOption | None = Field(None, description="pixels: a number, or [height, width]")

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the teacher. The header of a weight file is read, and the file refused where it does not fit.

        Raises: RecipeError for a name that timm does not know; WeightsError for a file that cannot be used, and where
            no file is given and nothing can be downloaded.
        """
        return one_answer(_sketch(request).spec)

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the teacher with its weights; with random ones where `weights` is "none".

        Raises: as `describe`; WeightsError where published weights cannot be had.
        """
        spec = _sketch(request).spec
        weights = None if request.weights == "none" else _weights(request)
        model = TimmModel.create(
            _known(request).network, name=spec.name, classes=spec.classes, image_size=_image_size(request)
        )
        model.spec = spec
        if weights is not None:
            model.load_report = _load(model, weights, request)
        return OneAnswer(model)

    @classmethod
    def why_unavailable(cls, request: ModelRequest) -> str | None:
        """Why the weights cannot be had now, None where they can; downloads nothing."""
        if request.weights == "none" or _file(request):
            return None
        return _only_in_files(request) or why_unavailable(_known(request).network)


def _known(request: ModelRequest) -> Known:
    return KNOWN.get(request.name) or Known(request.argument or "")


def _only_in_files(request: ModelRequest) -> str | None:
    """Why there is nothing to download, None where there is."""
    elsewhere = _known(request).elsewhere
    return elsewhere and f"the weights of '{request.name}' come from a file alone: {elsewhere}"


def _file(request: ModelRequest) -> Path | None:
    """The weight file, None where the weights are the published ones or none at all."""
    return None if request.weights in (None, "none", "pretrained") else Path(request.weights)


def _image_size(request: ModelRequest) -> tuple[int, int] | None:
    return cast("TimmTeacher.Options", request.options).image_size


def _load(model: TimmModel, weights: Mapping[str, Tensor], request: ModelRequest) -> LoadReport:
    fit: Fit = "nothing" if _image_size(request) is None else "positions"
    return load_weights(model, weights, source=_source(request), fit=fit)


def _source(request: ModelRequest) -> str:
    return str(_file(request) or f"the published weights of '{_known(request).network}'")


def _weights(request: ModelRequest) -> dict[str, Tensor]:
    path = _file(request)
    if path is not None:
        return read_weights(path)
    return published_weights(_known(request).network, option=OPTION)


def _sketch(request: ModelRequest) -> TimmModel:
    """The teacher on the meta device, checked against the shapes in its file."""
    known, path = _known(request), _file(request)
    reason = _only_in_files(request)
    if reason is not None and path is None and request.weights != "none":
        raise WeightsError(f"{reason}; give a file with {OPTION}")
    asked = TimmRequest(known.network, request.name, request.classes, _image_size(request))
    model = _described(TimmModel.sketch(asked), request)
    if path is not None:
        shapes = read_weights(path, shapes_only=True)
        found = classes_of(shapes, model)
        if request.classes is None and found not in (None, model.spec.classes):
            model = _described(TimmModel.sketch(replace(asked, classes=found)), request)
        _load(model, shapes, request)
    return model


def _described(model: TimmModel, request: ModelRequest) -> TimmModel:
    """The model with what its name and its weights say beside the network."""
    known, spec = _known(request), model.spec
    # Whose licence a file has is its owner's to know, unless the name says whose weights these are.
    is_timms = _file(request) is None and known.elsewhere is None
    licence = None if request.weights == "none" else known.licence or (spec.licence if is_timms else None)
    model.spec = replace(
        spec,
        architecture=known.architecture or spec.architecture,
        class_names=_class_names(spec),
        licence=licence,
    )
    return model


def _class_names(spec: ModelSpec) -> tuple[str, ...] | None:
    """ImageNet's, where the weights are of ImageNet-1k and there are 1,000 classes."""
    tag = get_pretrained_cfg_value(spec.architecture, "tag") or ""
    is_imagenet = "in1k" in tag and spec.classes == len(imagenet_class_names())
    return imagenet_class_names() if is_imagenet else None
