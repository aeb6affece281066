"""What a run directory keeps of its student: the network's weights, and how to build the network again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from distillkit.contracts.model import Model, ModelRequest, ModelSpec
from distillkit.errors import RunDirectoryError, WeightsError
from distillkit.messages.validation import newer_version
from distillkit.models.build import Described, build_model, describe_model
from distillkit.models.heads import Answer, without_idle_heads
from distillkit.models.weight_files import read_weights
from distillkit.models.weight_loading import load_weights
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry
from distillkit.storage.atomic import write_json, write_tensors
from distillkit.storage.untrusted import read_json

DESCRIPTION, WEIGHTS = "student.json", "student.safetensors"
FORMAT = 1
"""Grows when an older distillkit could misread what a newer one wrote."""
MODEST = 2**27
"""Parameters, half a gigabyte: a network that is larger is built only where there are as many weights for it."""


@dataclass(frozen=True)
class SavedStudent:
    """The student of a run directory, described.

    `model` and `options` are those of its recipe. `head` and `fusion` say how it answers. `arguments`
    are what `timm.create_model(spec.architecture, ...)` needs to build the same network, where it is timm's.
    """

    format: Literal[1]
    model: str
    options: dict[str, Any]
    head: Literal["fused", "class", "distill"]
    fusion: Literal["logits", "softmax"]
    arguments: dict[str, Any]
    spec: ModelSpec
    idle_heads: tuple[Literal["class", "distill"], ...] = ()

    @property
    def answer(self) -> Answer:
        """How the student answers."""
        return Answer(self.head, self.fusion, self.idle_heads)


_ADAPTER = TypeAdapter(SavedStudent)


def save_student(
    directory: Path,
    model: Model,
    request: ModelRequest,
    answer: Answer,
    *,
    class_names: tuple[str, ...] | None = None,
) -> None:
    """Write `student.safetensors` and `student.json` into an existing directory.

    The weights are the network's own `state_dict`, so that `timm.create_model(architecture, checkpoint_path=...)`
    takes them where the architecture is timm's. `request` is what the model was built from; `class_names` are those
    of the data, where known.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.network.state_dict().items()}
    write_tensors(directory / WEIGHTS, state)
    own = getattr(model, "arguments", None)
    content = {
        "format": FORMAT,
        "model": request.name,
        "options": request.options.model_dump(mode="json", exclude_unset=True, by_alias=True),
        "head": answer.head,
        "fusion": answer.fusion,
        "idle_heads": answer.idle,
        "arguments": {} if own is None else {"num_classes": model.spec.classes, **own},
        "spec": without_idle_heads(replace(model.spec, class_names=class_names or model.spec.class_names), answer.idle),
    }
    saved = _ADAPTER.dump_python(_ADAPTER.validate_python(content), mode="json")
    saved["spec"]["signals"].sort()  # a set has no order, and equal students should have equal files
    write_json(directory / DESCRIPTION, saved)


def read_student(directory: Path) -> SavedStudent:
    """Read what a run directory says of its student; no weight is loaded.

    Raises: RunDirectoryError for a directory that is missing, holds no student, or whose description is torn.
    """
    if not directory.is_dir():
        raise RunDirectoryError(f"there is no run directory {directory}; check the path")
    path = directory / DESCRIPTION
    for part in (path, directory / WEIGHTS):
        if not part.is_file():
            raise RunDirectoryError(
                f"{directory} holds no {part.name}; give the directory of a run that has reached its end"
            )
    try:
        content = read_json(path)
        if newer := newer_version(content, "format", FORMAT):
            raise RunDirectoryError(
                f"{path} has format {newer} and this distillkit reads up to {FORMAT}; update distillkit"
            )
        return _ADAPTER.validate_python(content)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} is torn or not of distillkit; run the training again or restore it") from error


def load_saved_student(directory: Path, plugins: PluginRegistry) -> tuple[Model, SavedStudent]:
    """Build the student of a run directory, with its weights.

    Raises: as `read_student`; PluginError where its plugin is not installed; WeightsError where the weights do not
    fit.
    """
    saved = read_student(directory)
    path = directory / WEIGHTS
    weights = read_weights(path)
    plugin = plugins.find("student", saved.model)
    request = _request(saved, plugin)
    _require_modest(describe_model(plugin, request), path, sum(tensor.numel() for tensor in weights.values()))
    model = _described(saved, build_model(plugin, request))
    load_weights(model, weights, source=str(path), fit="nothing")
    return model, saved


def _require_modest(described: ModelSpec, path: Path, numbers: int) -> None:
    """Refuse a description of a larger network than there are weights for, before memory is taken for it.

    Raises: WeightsError.
    """
    if described.parameters > max(numbers, MODEST):
        raise WeightsError(
            f"{path} holds {numbers:,} numbers and the student that {DESCRIPTION} beside it describes has "
            f"{described.parameters:,} parameters; run the training again or restore both"
        )


def build_student(saved: SavedStudent, plugins: PluginRegistry) -> Model:
    """Build the network of a saved student as initialised, described with the classes that it was saved with."""
    plugin = plugins.find("student", saved.model)
    return _described(saved, build_model(plugin, _request(saved, plugin)))


def _request(saved: SavedStudent, plugin: Plugin) -> ModelRequest:
    return ModelRequest(plugin.name, plugin.argument, plugin.options(saved.options), classes=saved.spec.classes)


def _described(saved: SavedStudent, model: Model) -> Described:
    """The model with the class names that it was saved with, without the heads that were not trained."""
    return Described(
        model, without_idle_heads(replace(model.spec, class_names=saved.spec.class_names), saved.idle_heads)
    )
