"""What a student starts from instead of random numbers: `student.weights`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from timm.models import is_model
from torch import Tensor

from distillkit.contracts.model import Model, ModelSpec
from distillkit.errors import WeightsError
from distillkit.models.hub import published_weights
from distillkit.models.saved_student import WEIGHTS, read_student
from distillkit.models.weight_files import read_weights
from distillkit.models.weight_loading import LoadReport, load_weights

PUBLISHED = "pretrained"
"""What `student.weights` calls the weights that timm publishes."""
OPTION = "--student-weights (finetune: --weights)"


def start_from(model: Model, weights: str | None, *, keep: tuple[str, ...] = ()) -> LoadReport | None:
    """Load what a student starts from into it: a file, a run directory, or "pretrained", which is what timm publishes.

    A head for other classes, by their number or, from a run, their names, stays as initialised, and tokens and
    positions are fitted; the report says so. `keep` names tensors that stay as the model has them. None and "none"
    leave the model as it is. On the meta device the shapes alone of a file or a run are read, for the same report.
    Raises: WeightsError, RunDirectoryError for what cannot be read or does not fit.
    """
    if weights is None or weights == "none":
        return None
    tensors, origin = _read(model, weights)
    return load_weights(model, tensors, source=weights, fit="all", keep=keep, origin=origin)


def licensed(spec: ModelSpec, weights: str | None) -> ModelSpec:
    """A student's description: the licence of published weights counts only where the student starts from them.

    Who starts from a run inherits the licence of its student.
    """
    if weights == PUBLISHED:
        return spec
    path = Path(weights or "none")
    return replace(spec, licence=read_student(path).spec.licence if path.is_dir() else None)


def _read(model: Model, weights: str) -> tuple[dict[str, Tensor], ModelSpec | None]:
    """The weights and, where they are a run's, the description of its student."""
    if weights == PUBLISHED:
        if not is_model(model.spec.architecture.partition(".")[0]):
            raise WeightsError(
                f"nobody publishes weights of '{model.spec.name}'; "
                "give a file, a run directory, or none to start at random"
            )
        return published_weights(model.spec.architecture, option=OPTION), None
    path, shapes_only = Path(weights), next(model.network.parameters()).is_meta
    if path.is_dir():
        origin = read_student(path).spec
        return read_weights(path / WEIGHTS, shapes_only=shapes_only), origin
    return read_weights(path, shapes_only=shapes_only), None
