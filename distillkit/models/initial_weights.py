"""Initial weights of a student: `student.weights`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from timm.models import is_model
from torch import Tensor

from distillkit.contracts.model import Model, ModelSpec
from distillkit.errors import WeightsError
from distillkit.models.hub import published_weights
from distillkit.models.saved_student import read_student, student_weights
from distillkit.models.weight_files import read_weights
from distillkit.models.weight_loading import LoadReport, load_weights

PUBLISHED = "pretrained"
"""The value of `student.weights` for timm's published weights."""
OPTION = "--student-weights (finetune: --weights)"


def start_from(model: Model, weights: str | None, *, keep: tuple[str, ...] = ()) -> LoadReport | None:
    """Load a student's initial weights: a weight file, a run directory, or "pretrained" for timm's published weights.

    A head for other classes (another number, or from a run other names) stays as initialised; tokens and position
    embedding are fitted. The report lists both. `keep` names tensors that keep the model's values. None and "none"
    leave the model unchanged. On the meta device only the shapes of a file or run are read, for the same report.
    Raises: WeightsError, RunDirectoryError for weights that cannot be read or do not fit.
    """
    if weights is None or weights == "none":
        return None
    tensors, origin = _read(model, weights)
    return load_weights(model, tensors, source=weights, fit="all", keep=keep, origin=origin)


def licensed(spec: ModelSpec, weights: str | None) -> ModelSpec:
    """The spec of a student with the licence of its initial weights.

    The licence of published weights holds only if the student starts from them; from a run, its student's licence
    is inherited, with those that it was taught under.
    """
    if weights == PUBLISHED:
        return spec
    path = Path(weights or "none")
    if not path.is_dir():
        return replace(spec, licence=None)
    origin = read_student(path).spec
    return replace(spec, licence=origin.licence, taught_under=origin.taught_under)


def _read(model: Model, weights: str) -> tuple[dict[str, Tensor], ModelSpec | None]:
    """The weights and, if they are a run's, the spec of its student."""
    if weights == PUBLISHED:
        if not is_model(model.spec.architecture.partition(".")[0]):
            raise WeightsError(
                f"there are no published weights of '{model.spec.name}'; "
                "give --student-weights FILE, --student-weights RUN or none for random weights (finetune: --weights)"
            )
        return published_weights(model.spec.architecture, option=OPTION), None
    path, shapes_only = Path(weights), next(model.network.parameters()).is_meta
    if path.is_dir():
        origin = read_student(path).spec
        return student_weights(path, shapes_only=shapes_only), origin
    return read_weights(path, shapes_only=shapes_only), None
