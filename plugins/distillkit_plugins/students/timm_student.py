"""`timm:<any classifier>` as a student."""

from __future__ import annotations

from typing import Any, cast

from distillkit import ModelRequest, ModelSpec
from distillkit.models import TimmModel, licensed, start_from
from distillkit_plugins.students.options import TimmStudentOptions


class TimmStudent:
    """Any classifier of timm, with or without a tag: "timm:resnet18", "timm:resnet18.a1_in1k".

    The tag selects the normalisation, and the weights of `student.weights = "pretrained"`.
    """

    Options = TimmStudentOptions

    @classmethod
    def describe(cls, request: ModelRequest) -> ModelSpec:
        """Describe the student.

        Raises: RecipeError for a name, size or option that timm does not accept, or a network without class head.
        """
        spec = TimmModel.describe(request.argument or "", name=request.name, **_arguments(request))
        return licensed(spec, request.weights)

    @classmethod
    def build(cls, request: ModelRequest) -> TimmModel:
        """Build the student under torch's current seed, and load its starting weights, if any.

        Raises: as `describe`; WeightsError, RunDirectoryError for weights that do not fit.
        """
        model = TimmModel.create(request.argument or "", name=request.name, **_arguments(request))
        model.spec = licensed(model.spec, request.weights)
        model.load_report = start_from(model, request.weights)
        return model


def _arguments(request: ModelRequest) -> dict[str, Any]:
    """Given options under the argument names of timm and `TimmModel`."""
    options = cast("TimmStudentOptions", request.options)
    arguments = {
        "classes": request.classes,
        "class_names": request.class_names,
        "image_size": options.image_size,
        "drop_path_rate": options.drop_path,
        "drop_rate": options.dropout,
    }
    return {name: value for name, value in arguments.items() if value is not None}
