"""`timm:<any>` and the named teachers (`regnety16gf`, `vit-b`, DINO, MAE, Mugs), all from timm's networks."""

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
from distillkit_plugins.teachers.known import KNOWN, KnownTeacher

OPTION = "--teacher-weights (evaluate and export: --weights)"


class TimmTeacher:
    """`timm:<any>`, with or without a tag, and the names in `known.py`: `regnety16gf`, `vit-b`, DINO, MAE and Mugs.

    Weights are the published ones or come from a file, whose head then sets the number of classes. The weights must
    contain every tensor of the network: a teacher never gets a randomly initialised head. A network with two heads
    returns the mean of their logits, as published. A teacher with ImageNet's 1,000 classes has their names.

    Self-supervised teachers have no classes and no logits. Their embedding is the class token after the final norm,
    which DINO and Mugs train and evaluate; it is used for MAE too, although MAE's loss does not involve that token.
    Their files may contain the network only or a complete training checkpoint. From the latter, the teacher network is
    loaded if there is one (DINO, Mugs); heads and decoders are skipped and listed in the load report.

    A ViT expects images of its own size. With `image_size` it is built for another size and its position embedding is
    resized as DeiT's authors do for students, for example for a student fine-tuned at 384 px.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        """Options of the network; the defaults are timm's."""

        image_size: ImageSizeOption | None = Field(None, description="pixels: a number, or [height, width]")

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the teacher. Reads only the header of a weight file, and refuses a file that does not fit.

        Raises: RecipeError for a name unknown to timm; WeightsError for an unusable file, or if no file is given and
            there are no weights to download.
        """
        return one_answer(_sketch(request).spec)

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the teacher with its weights, or random ones if `weights` is "none".

        Raises: as `describe`; WeightsError if the published weights are not available.
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
        """Why the weights are not available now, or None if they are. Downloads nothing."""
        if request.weights == "none" or _file(request):
            return None
        return _why_no_download(request) or why_unavailable(_known(request).network)


def _known(request: ModelRequest) -> KnownTeacher:
    return KNOWN.get(request.name) or KnownTeacher(request.argument or "")


def _why_no_download(request: ModelRequest) -> str | None:
    """Why the weights cannot be downloaded, or None if they can."""
    file_source = _known(request).file_source
    return file_source and f"the weights of '{request.name}' cannot be downloaded: {file_source}"


def _file(request: ModelRequest) -> Path | None:
    """The weight file, or None for published or random weights."""
    return None if request.weights in (None, "none", "pretrained") else Path(request.weights)


def _image_size(request: ModelRequest) -> tuple[int, int] | None:
    return cast("TimmTeacher.Options", request.options).image_size


def _load(model: TimmModel, weights: Mapping[str, Tensor], request: ModelRequest) -> LoadReport:
    # Only a requested image size may change a tensor; otherwise the weights must fit exactly.
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
    reason = _why_no_download(request)
    if reason is not None and path is None and request.weights != "none":
        raise WeightsError(f"{reason}; give a file with {OPTION}")
    sketch_request = TimmRequest(known.network, request.name, request.classes, _image_size(request))
    model = _described(TimmModel.sketch(sketch_request), request)
    if path is not None:
        shapes = read_weights(path, shapes_only=True)
        file_classes = classes_of(shapes, model)
        # The head in the file sets the number of classes, so the network is described again with it.
        if request.classes is None and file_classes not in (None, model.spec.classes):
            model = _described(TimmModel.sketch(replace(sketch_request, classes=file_classes)), request)
        _load(model, shapes, request)
    return model


def _described(model: TimmModel, request: ModelRequest) -> TimmModel:
    """Complete the spec with the architecture name, class names and licence of these weights."""
    known, spec = _known(request), model.spec
    # The licence of a user's file is unknown, unless the teacher's name says whose weights they are.
    from_timm = _file(request) is None and known.file_source is None
    licence = None if request.weights == "none" else known.licence or (spec.licence if from_timm else None)
    model.spec = replace(
        spec,
        architecture=known.architecture or spec.architecture,
        class_names=_class_names(spec),
        licence=licence,
    )
    return model


def _class_names(spec: ModelSpec) -> tuple[str, ...] | None:
    """ImageNet's class names if the weights are trained on ImageNet-1k and have 1,000 classes."""
    tag = get_pretrained_cfg_value(spec.architecture, "tag") or ""
    is_imagenet = "in1k" in tag and spec.classes == len(imagenet_class_names())
    return imagenet_class_names() if is_imagenet else None
