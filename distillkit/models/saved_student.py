"""Saved student of a run directory: `student.safetensors` with its weights, `student.json` with how to build it."""

from __future__ import annotations

import os
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
"""Incremented when an older distillkit could misread what a newer one writes."""
ALWAYS_BUILT = 2**27
"""Parameters, half a gigabyte in float32. A larger network is built only if its file has as many weights."""


@dataclass(frozen=True)
class SavedStudent:
    """Content of `student.json`.

    `model` and `options` are those of the recipe. `head` and `fusion` choose the student's logits. `arguments` are
    those of `timm.create_model(spec.architecture, ...)` for the same network, if it is timm's.
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
        """The head that the student is evaluated by."""
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

    The weights are the `state_dict` of the network alone, so that `timm.create_model(architecture,
    checkpoint_path=...)` loads them if the architecture is timm's. `request` is what the model was built from;
    `class_names` are those of the data, if known.
    """
    # Cloned: safetensors refuses tensors that share memory, such as tied weights.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.network.state_dict().items()}
    write_tensors(directory / WEIGHTS, state)
    timm_arguments = getattr(model, "arguments", None)
    content = {
        "format": FORMAT,
        "model": request.name,
        "options": request.options.model_dump(mode="json", exclude_unset=True, by_alias=True),
        "head": answer.head,
        "fusion": answer.fusion,
        "idle_heads": answer.idle,
        "arguments": {} if timm_arguments is None else {"num_classes": model.spec.classes, **timm_arguments},
        "spec": without_idle_heads(replace(model.spec, class_names=class_names or model.spec.class_names), answer.idle),
    }
    saved = _ADAPTER.dump_python(_ADAPTER.validate_python(content), mode="json")
    saved["spec"]["signals"].sort()  # sets are unordered, and equal students should have equal files
    write_json(directory / DESCRIPTION, saved)


def read_student(directory: Path) -> SavedStudent:
    """Read `student.json` of a run directory; no weight is loaded.

    Raises: RunDirectoryError for a directory that is missing or has no student, or for an invalid student.json.
    """
    if not directory.is_dir():
        raise RunDirectoryError(f"there is no run directory '{directory}'; check the path")
    path = directory / DESCRIPTION
    for part in (path, directory / WEIGHTS):
        if not part.is_file():
            raise RunDirectoryError(
                f"{directory} has no {part.name}; give the directory of a run that has reached its end"
            )
        if not os.access(part, os.R_OK):
            raise RunDirectoryError(f"{part} cannot be read (Permission denied); change its permissions")
    try:
        content = read_json(path)
        if newer := newer_version(content, "format", FORMAT):
            raise RunDirectoryError(
                f"{path} has format {newer} and this distillkit reads up to {FORMAT}; update distillkit"
            )
        return _ADAPTER.validate_python(content)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{path} is truncated or not written by distillkit; run the training again or restore the file"
        ) from error


def load_saved_student(directory: Path, plugins: PluginRegistry) -> tuple[Model, SavedStudent]:
    """Build the student of a run directory and load its weights.

    Raises: as `read_student`; PluginError if its plugin is not installed; WeightsError if the weights do not fit.
    """
    saved = read_student(directory)
    path = directory / WEIGHTS
    weights = read_weights(path)
    plugin = plugins.find("student", saved.model)
    request = _request(saved, plugin)
    # Before the network is built: a made-up student.json must not fill the memory.
    _check_size(describe_model(plugin, request), path, sum(tensor.numel() for tensor in weights.values()))
    model = _described(saved, build_model(plugin, request))
    load_weights(model, weights, source=str(path), fit="nothing")
    return model, saved


def _check_size(described: ModelSpec, path: Path, saved_weights: int) -> None:
    """Refuse a network with more parameters than the file has weights.

    Raises: WeightsError.
    """
    if described.parameters > max(saved_weights, ALWAYS_BUILT):
        raise WeightsError(
            f"{path} has {saved_weights:,} weights and the student in its {DESCRIPTION} has "
            f"{described.parameters:,} parameters; run the training again or restore both files"
        )


def build_student(saved: SavedStudent, plugins: PluginRegistry) -> Model:
    """Build a saved student's network as initialised, with the class names that it was saved with."""
    plugin = plugins.find("student", saved.model)
    return _described(saved, build_model(plugin, _request(saved, plugin)))


def _request(saved: SavedStudent, plugin: Plugin) -> ModelRequest:
    return ModelRequest(plugin.name, plugin.argument, plugin.options(saved.options), classes=saved.spec.classes)


def _described(saved: SavedStudent, model: Model) -> Described:
    """The model with its saved class names, without logits if no head was trained."""
    return Described(
        model, without_idle_heads(replace(model.spec, class_names=saved.spec.class_names), saved.idle_heads)
    )
