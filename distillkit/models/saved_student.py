"""Saved student of a run: `student.safetensors` with its weights, `student.json` with how to build it.

The student in a checkpoint is read in the same way; the run's recipe.toml and plan.json describe it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from torch import Tensor

from distillkit.contracts.model import Model, ModelRequest, ModelSpec
from distillkit.contracts.student_directory import CHECKPOINT_WEIGHTS, DESCRIPTION, RECIPE, is_checkpoint, run_of
from distillkit.errors import CheckpointError, RecipeError, RunDirectoryError, WeightsError
from distillkit.messages.text import one_line
from distillkit.messages.validation import newer_version
from distillkit.models.build import Described, build_model, describe_model
from distillkit.models.heads import Answer, without_idle_heads
from distillkit.models.weight_files import read_weights
from distillkit.models.weight_loading import load_weights
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry, installed_plugins
from distillkit.storage.atomic import write_json, write_tensors
from distillkit.storage.untrusted import parse_toml, read_json, read_plain_text

WEIGHTS = "student.safetensors"
FORMAT: Literal[1] = 1
"""Incremented when an older distillkit could misread what a newer one writes."""
CHECKPOINT_PREFIX = "student.network."
"""Prefix of the student's tensors in a checkpoint."""
MAX_RECIPE = 2**20
"""Size limit of a run's recipe.toml in bytes."""
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
_HEADS: tuple[Literal["class", "distill"], ...] = ("class", "distill")


class _Student(BaseModel, extra="allow"):
    """The table `student` of recipe.toml; its other keys are options of the plugin."""

    model: str


class _Evaluation(BaseModel):
    fusion: Literal["logits", "softmax"]


class _Recipe(BaseModel):
    """The part of recipe.toml that is read here: the room `recipe` may not be imported."""

    student: _Student
    evaluation: _Evaluation


class _PlannedStudent(BaseModel):
    answers_with: Literal["fused", "class", "distill"]
    untrained: list[str]
    taught_under: list[str] = []


class _Plan(BaseModel):
    """The part of plan.json that is read here."""

    classes: int | None
    class_names: list[str] | None
    student: _PlannedStudent


def save_student(
    directory: Path,
    model: Model,
    request: ModelRequest,
    answer: Answer,
    *,
    class_names: tuple[str, ...] | None = None,
    taught_under: tuple[str, ...] = (),
) -> None:
    """Write `student.safetensors` and `student.json` into an existing directory.

    The weights are the `state_dict` of the network alone, so that `timm.create_model(architecture,
    checkpoint_path=...)` loads them if the architecture is timm's. `request` is what the model was built from;
    `class_names` are those of the data, if known, and `taught_under` the licences of the run's teachers.
    """
    # Cloned: safetensors refuses tensors that share memory, such as tied weights.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.network.state_dict().items()}
    write_tensors(directory / WEIGHTS, state)
    timm_arguments = getattr(model, "arguments", None)
    spec = replace(model.spec, class_names=class_names or model.spec.class_names, taught_under=taught_under)
    content = {
        "format": FORMAT,
        "model": request.name,
        "options": request.options.model_dump(mode="json", exclude_unset=True, by_alias=True),
        "head": answer.head,
        "fusion": answer.fusion,
        "idle_heads": answer.idle,
        "arguments": {} if timm_arguments is None else {"num_classes": model.spec.classes, **timm_arguments},
        "spec": without_idle_heads(spec, answer.idle),
    }
    saved = _ADAPTER.dump_python(_ADAPTER.validate_python(content), mode="json")
    saved["spec"]["signals"].sort()  # sets are unordered, and equal students should have equal files
    write_json(directory / DESCRIPTION, saved)


def read_student(directory: Path, plugins: PluginRegistry | None = None) -> SavedStudent:
    """Read `student.json` of a run directory, or describe the student of a checkpoint; no weight is loaded.

    `plugins` are the installed ones by default.
    Raises: RunDirectoryError for a directory that is missing or has no student, or for an invalid student.json.
    """
    if not directory.is_dir():
        raise RunDirectoryError(f"there is no run directory '{directory}'; check the path")
    if is_checkpoint(directory):
        return _student_of_checkpoint(directory, plugins or installed_plugins())
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


def weights_file(directory: Path) -> Path:
    """The file with the weights of a student, in its directory or in a checkpoint."""
    return directory / (CHECKPOINT_WEIGHTS if is_checkpoint(directory) else WEIGHTS)


def student_weights(directory: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """The weights (any shape) of a student, from its directory or from a checkpoint.

    Raises: WeightsError, or CheckpointError of a checkpoint, for a file that is missing or damaged.
    """
    file = weights_file(directory)
    if not is_checkpoint(directory):
        return read_weights(file, shapes_only=shapes_only)
    try:
        weights = read_weights(file, shapes_only=shapes_only)
    except WeightsError as error:
        raise CheckpointError(f"checkpoint {directory} cannot be read ({error}); use another one") from None
    # The other tensors of a checkpoint belong to the losses.
    return {
        name.removeprefix(CHECKPOINT_PREFIX): tensor
        for name, tensor in weights.items()
        if name.startswith(CHECKPOINT_PREFIX)
    }


def _student_of_checkpoint(directory: Path, plugins: PluginRegistry) -> SavedStudent:
    """Describe the student of a checkpoint from the recipe and the plan of its run.

    Raises: RunDirectoryError for a recipe or plan that is missing or damaged; a PluginError.
    """
    run = run_of(directory) or directory
    file = run / RECIPE
    try:
        recipe = _Recipe.model_validate(parse_toml(read_plain_text(file, largest=MAX_RECIPE)))
        file = run / "plan.json"
        plan = _Plan.model_validate(read_json(file))
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{file} is missing or damaged; restore it or run the training again") from error
    options = {key: value for key, value in (recipe.student.model_extra or {}).items() if key != "weights"}
    plugin = plugins.find("student", recipe.student.model)
    request = ModelRequest(plugin.name, plugin.argument, plugin.options(options), classes=plan.classes)
    spec = describe_model(plugin, request)
    heads = zip(_HEADS, spec.head_modules, strict=False)
    idle = tuple(name for name, module in heads if f"{module}.weight" in plan.student.untrained)
    names = None if plan.class_names is None else tuple(plan.class_names)
    return SavedStudent(
        format=FORMAT,
        model=recipe.student.model,
        options=request.options.model_dump(mode="json", exclude_unset=True, by_alias=True),
        head=plan.student.answers_with,
        fusion=recipe.evaluation.fusion,
        arguments={},
        spec=without_idle_heads(replace(spec, class_names=names, taught_under=tuple(plan.student.taught_under)), idle),
        idle_heads=idle,
    )


def load_saved_student(directory: Path, plugins: PluginRegistry) -> tuple[Model, SavedStudent]:
    """Build the student of a run directory or of a checkpoint and load its weights.

    Raises: as `read_student`; PluginError if its plugin is not installed; WeightsError if the weights do not fit.
    """
    saved = read_student(directory, plugins)
    path = weights_file(directory)
    weights = student_weights(directory)
    plugin = plugins.find("student", saved.model)
    try:
        request = _request(saved, plugin)
    except RecipeError as error:
        raise RunDirectoryError(
            f"{directory / DESCRIPTION}: {one_line(error)}; restore it or run the training again"
        ) from None
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
    """The model with its saved class names and licences, without logits if no head was trained."""
    of_file = saved.spec
    spec = replace(
        model.spec, class_names=of_file.class_names, licence=of_file.licence, taught_under=of_file.taught_under
    )
    return Described(model, without_idle_heads(spec, saved.idle_heads))
