"""What a student starts from instead of random numbers: `student.weights`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from timm.models import is_model
from torch import Tensor

from distillkit.contracts import Model, ModelSpec
from distillkit.errors import WeightsError
from distillkit.models.hub import published_weights
from distillkit.models.saved_student import WEIGHTS, read_student
from distillkit.models.weight_files import read_weights
from distillkit.models.weights import LoadReport, load_weights

OPTION = "--student-weights (finetune: --weights)"


def start_from(model: Model, weights: str | None, *, keep: tuple[str, ...] = ()) -> LoadReport | None:
    """Load what a student starts from into it: a file, a run directory, or "pretrained", which is what timm publishes.

    A head for other classes stays as initialised, and tokens and positions are fitted; the report says so. `keep` names
    tensors that stay as the model has them. None and "none" leave the model as it is.
    Raises: WeightsError, RunDirectoryError for what cannot be read or does not fit.
    """
    if weights is None or weights == "none":
        return None
    return load_weights(model, _read(model, weights), source=weights, fresh_head=True, keep=keep)


def licensed(spec: ModelSpec, weights: str | None) -> ModelSpec:
    """A student's description: the licence of published weights counts only where the student starts from them."""
    return spec if weights == "pretrained" else replace(spec, licence=None)


def _read(model: Model, weights: str) -> dict[str, Tensor]:
    if weights == "pretrained":
        if not is_model(model.spec.architecture.partition(".")[0]):
            raise WeightsError(
                f"nobody publishes weights of '{model.spec.name}'; "
                "give a file, a run directory, or none to start at random"
            )
        return published_weights(model.spec.architecture, option=OPTION)
    path = Path(weights)
    if path.is_dir():
        read_student(path)
        path = path / WEIGHTS
    return read_weights(path)
