"""Open a model to evaluate: the student of a run, its best or EMA student, or a teacher by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from timm.models import is_model
from torch import nn

from distillkit.contracts.model import ModelRequest, ModelSpec
from distillkit.errors import RunDirectoryError, WeightsError
from distillkit.models.build import build_model
from distillkit.models.heads import Answer
from distillkit.models.saved_student import load_saved_student
from distillkit.plugin.registry import PluginRegistry, split_name
from distillkit.recipe.files import load_recipe
from distillkit.recipe.schema import Recipe, StudentEntry


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate, with the recipe for its images and the head that it is evaluated by.

    `student` is the recipe entry for a run that starts from this model, None if it cannot be built as a student. `home`
    is the run directory in which results are saved, None for a teacher by name.
    """

    model: nn.Module
    spec: ModelSpec
    recipe: Recipe
    answer: Answer
    student: StudentEntry | None = None
    home: Path | None = None


def open_model(target: str, plugins: PluginRegistry, weights: str | None) -> EvaluatedModel:
    """Open the saved student in a directory, or a teacher by name with its published weights or a weight file.

    `run:DIR`, the name of a run as a teacher, opens that run.
    Raises: RunDirectoryError for an unknown target; WeightsError if `weights` are given for a run; what building a
        teacher raises.
    """
    name, argument = split_name(target)
    path = Path(argument if name == "run" and argument else target)
    if (path / "student.json").is_file():
        if weights is not None:
            raise WeightsError(f"'{target}' is a run with its own weights; leave out --weights {weights}")
        return open_student(path, plugins)
    known = {plugin.spec.name: plugin.spec.shown_name for plugin in plugins.listing("teacher")}
    if name not in known:
        raise RunDirectoryError(
            f"'{target}' is neither a run directory (with student.json) nor a teacher; "
            f"teachers: {', '.join(known.values())}"
        )
    plugin = plugins.find("teacher", target)
    model = build_model(plugin, ModelRequest(plugin.name, plugin.argument, plugin.options({}), weights=weights))
    # A teacher has no recipe: its images are cropped as its weights expect.
    return EvaluatedModel(
        cast("nn.Module", model),
        model.spec,
        Recipe.model_validate({"augment": {"eval_crop": model.spec.crop}}),
        Answer(),
        _timm_student(model.spec, weights),
    )


def open_student(path: Path, plugins: PluginRegistry) -> EvaluatedModel:
    """Open the saved student in a directory, with the recipe of its run, if it has one.

    Raises: as `load_saved_student`; RecipeError for a recipe that cannot be read.
    """
    model, saved = load_saved_student(path, plugins)
    # The best and the EMA student are in directories inside the run's, which has the recipe.
    home = path if (path / "recipe.toml").is_file() else path.parent
    has_recipe = (home / "recipe.toml").is_file()
    recipe = load_recipe(home / "recipe.toml") if has_recipe else Recipe()
    student = StudentEntry(model=saved.model, weights=str(path), **saved.options)
    return EvaluatedModel(
        cast("nn.Module", model), model.spec, recipe, saved.answer, student, home if has_recipe else path
    )


def _timm_student(spec: ModelSpec, weights: str | None) -> StudentEntry | None:
    """The recipe entry of a student with a timm teacher's architecture and weights."""
    if not is_model(spec.architecture.partition(".")[0]):
        return None
    return StudentEntry(model=f"timm:{spec.architecture}", weights=weights or "pretrained")
