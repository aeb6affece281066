"""Open a model to evaluate: the student of a run, its best or EMA student, or a teacher by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from timm.models import is_model
from torch import nn

from distillkit.contracts.model import ModelRequest, ModelSpec
from distillkit.contracts.student_directory import run_of, student_name
from distillkit.models.build import build_model
from distillkit.models.heads import Answer
from distillkit.models.saved_student import load_saved_student
from distillkit.models.weight_option import weights_are_given_by
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe, StudentEntry
from distillkit.running.directory import RunDirectory
from distillkit.running.target import student_folder


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate, with the recipe for its images and the head that it is evaluated by.

    `student` is the recipe entry for a run that starts from this model, None if it cannot be built as a student. `home`
    is the run directory in which results are saved, None for a teacher by name; `checkpoint` says which student of the
    run it is.
    """

    model: nn.Module
    spec: ModelSpec
    recipe: Recipe
    answer: Answer
    student: StudentEntry | None = None
    home: Path | None = None
    checkpoint: str | None = None


def open_model(
    target: str, plugins: PluginRegistry, weights: str | None, checkpoint: str | None = None
) -> EvaluatedModel:
    """Open the student in a directory, or a teacher by name with its published weights or a weight file.

    `run:DIR`, the name of a run as a teacher, opens that run. `checkpoint` chooses the student of a run.
    Raises: as `student_folder`; what building a teacher raises.
    """
    path = student_folder(target, plugins, checkpoint, weights)
    if path is not None:
        return open_student(path, plugins)
    plugin = plugins.find("teacher", target)
    request = ModelRequest(plugin.name, plugin.argument, plugin.options({}), weights=weights)
    with weights_are_given_by("--weights"):
        model = build_model(plugin, request)
    # A teacher has no recipe: its images are cropped as its weights expect, and come from its default data.
    return EvaluatedModel(
        cast("nn.Module", model),
        model.spec,
        Recipe.model_validate({"augment": {"eval_crop": model.spec.crop}, "data": {"train": plugin.spec.default_data}}),
        Answer(),
        _timm_student(model.spec, weights),
    )


def open_student(path: Path, plugins: PluginRegistry) -> EvaluatedModel:
    """Open the saved student in a directory, with the recipe of its run, if it has one.

    Raises: as `load_saved_student`; RecipeError for a recipe that cannot be read.
    """
    model, saved = load_saved_student(path, plugins)
    # The best and the EMA student and checkpoints are in directories inside the run's, which has the recipe.
    home = run_of(path)
    recipe = Recipe() if home is None else RunDirectory(home).read_recipe()
    student = StudentEntry(model=saved.model, weights=str(path), **saved.options)
    network, name = cast("nn.Module", model), student_name(path)
    return EvaluatedModel(network, model.spec, recipe, saved.answer, student, home or path, name)


def _timm_student(spec: ModelSpec, weights: str | None) -> StudentEntry | None:
    """The recipe entry of a student with a timm teacher's architecture and weights."""
    if not is_model(spec.architecture.partition(".")[0]):
        return None
    return StudentEntry(model=f"timm:{spec.architecture}", weights=weights or "pretrained")
