"""`timm:<any>` and the named teachers (`regnety16gf`, `vit-b`, DINO, DINOv2, SigLIP2, ...), all timm's networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from timm.models import get_pretrained_cfg_value
from torch import Tensor

from distillkit import Model, ModelRequest, ModelSpec, WeightsError
from distillkit.models import (
    FileGeometry,
    Fit,
    LoadReport,
    OneAnswer,
    TimmModel,
    TimmRequest,
    classes_of,
    geometry_of,
    imagenet_class_names,
    load_weights,
    one_answer,
    published_weights,
    read_weights,
    weight_option,
    why_unavailable,
)
from distillkit_plugins.teachers.known import KNOWN, KnownTeacher
from distillkit_plugins.teachers.options import TimmTeacherOptions


class TimmTeacher:
    """`timm:<any>`, with or without a tag, and the names in `known.py`: `regnety16gf`, `vit-b`, DINO and others.

    Weights are the published ones or come from a file, whose head then sets the number of classes and, for a ViT, whose
    embeddings set patch and image size. The weights must contain every tensor of the network: a teacher never gets a
    randomly initialised head. A network with two heads returns the mean of their logits, as published. A teacher with
    ImageNet's 1,000 classes has their names.

    Teachers trained without classes have no logits. Their embedding is the class token after the final norm, which DINO
    and Mugs train and evaluate; it is used for MAE and EVA02 too, although their losses do not involve that token. That
    of SigLIP2 is the output of its attention pooling, that of a DINOv3 ConvNeXt the pooled last stage.

    A file may contain the network only or a complete training checkpoint. From the latter, the teacher network is
    loaded if there is one (DINO, Mugs); heads and decoders are skipped and listed in the load report.

    A ViT expects images of its own size. With `image_size` it is built for another size and its position embedding is
    resized as DeiT's authors do for students, for example for a student fine-tuned at 384 px.
    """

    Options = TimmTeacherOptions

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the teacher. Reads only the header of a weight file, and refuses a file that does not fit.

        Raises: RecipeError for a name unknown to timm; WeightsError for an unusable file, or if no file is given and
            there are no weights to download.
        """
        return one_answer(_sketch(request).model.spec)

    @classmethod
    def build(cls, request: ModelRequest) -> Model:
        """Build the teacher with its weights, or random ones if `weights` is "none".

        Raises: as `describe`; WeightsError if the published weights are not available.
        """
        sketch = _sketch(request)
        weights = None if request.weights == "none" else _weights(request)
        model = TimmModel.create(
            sketch.request.architecture,
            name=sketch.request.name,
            classes=sketch.model.spec.classes,
            image_size=sketch.request.image_size,
            **sketch.request.arguments,
        )
        model.spec = sketch.model.spec
        if weights is not None:
            report, note = _load(model, weights, request), sketch.geometry.note
            model.load_report = report if note is None else replace(report, notes=(*report.notes, note))
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
    return cast("TimmTeacherOptions", request.options).image_size or _known(request).image_size


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
    return published_weights(_known(request).network, option=weight_option())


@dataclass(frozen=True)
class _Sketch:
    """A teacher on the meta device, timm's request for the same network, and what its file says of ViTs."""

    model: TimmModel
    request: TimmRequest
    geometry: FileGeometry


def _sketch(request: ModelRequest) -> _Sketch:
    """The teacher on the meta device, with the classes, patch and image size of its file, checked against the file."""
    known, path = _known(request), _file(request)
    reason = _why_no_download(request)
    if reason is not None and path is None and request.weights != "none":
        raise WeightsError(f"{reason}; give a file with {weight_option()}")
    shapes = {} if path is None else read_weights(path, shapes_only=True)
    network = known.with_biases if known.with_biases and any(map(_is_attention_bias, shapes)) else known.network
    classes = known.classes if request.classes is None else request.classes
    asked = TimmRequest(network, request.name, classes, _image_size(request), known.arguments)
    model = _described(TimmModel.sketch(asked), request)
    if path is None:
        return _Sketch(model, asked, FileGeometry())
    geometry = geometry_of(shapes, model)
    if asked.image_size is not None:
        geometry = replace(geometry, image_size=None)  # the network is built for this size, whatever the file's is
    if geometry.patch is not None and request.name in KNOWN:
        geometry = FileGeometry()  # dino-vits8 says which patch it has: the file is another teacher's, and is refused
    in_file = _as_in_file(asked, geometry, classes_of(shapes, model), own=model.spec.classes)
    if in_file != asked:
        model = _described(TimmModel.sketch(in_file), request)
    _load(model, shapes, request)
    return _Sketch(model, in_file, geometry)


def _as_in_file(asked: TimmRequest, geometry: FileGeometry, classes: int | None, *, own: int) -> TimmRequest:
    """The request with the classes, patch and image size of a file; a class count or size that it has already stays."""
    return replace(
        asked,
        classes=classes if asked.classes is None and classes != own else asked.classes,
        image_size=asked.image_size or geometry.image_size,
        arguments=asked.arguments if geometry.patch is None else {**asked.arguments, "patch_size": geometry.patch},
    )


def _is_attention_bias(name: str) -> bool:
    """Whether a tensor of this name is a bias of queries, in the names of timm or of the authors of DINOv3."""
    return name.endswith((".attn.q_bias", ".attn.qkv.bias"))


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
