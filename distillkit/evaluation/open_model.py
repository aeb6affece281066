"""What can be judged: the student of a run, one of its siblings (best, ema), or a teacher by name."""

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
    """A model, the recipe that says how to look at images, and the answer it was saved with.

    `student` starts a run from this very model, None where no student is built as it is. `home` is the run directory
    that keeps what is found out about the model, None for a teacher by name.
    """

    model: nn.Module
    spec: ModelSpec
    recipe: Recipe
    answer: Answer
    student: StudentEntry | None = None
    home: Path | None = None


def open_model(target: str, plugins: PluginRegistry, weights: str | None) -> EvaluatedModel:
    """The saved student in a directory, or a teacher by name with its published weights or those of a file.

    `run:DIR`, as a teacher is called that is a run, is that run.
    Raises: RunDirectoryError for a target that is neither; WeightsError for weights beside a run's own; what building a
        teacher raises.
    """
    name, argument = split_name(target)
    path = Path(argument if name == "run" and argument else target)
    if (path / "student.json").is_file():
        if weights is not None:
            raise WeightsError(f"'{target}' has weights of its own and {weights} were given too; leave --weights out")
        return open_student(path, plugins)
    known = {plugin.spec.name: plugin.spec.shown_name for plugin in plugins.listing("teacher")}
    if name not in known:
        raise RunDirectoryError(
            f"'{target}' is neither a run directory (with student.json) nor a teacher; "
            f"teachers: {', '.join(known.values())}"
        )
    plugin = plugins.find("teacher", target)
    model = build_model(plugin, ModelRequest(plugin.name, plugin.argument, plugin.options({}), weights=weights))
    return EvaluatedModel(
        cast("nn.Module", model),
        model.spec,
        Recipe.model_validate({"augment": {"eval_crop": model.spec.crop}}),
        Answer(),
        _timm_student(model.spec, weights),
    )


def open_student(path: Path, plugins: PluginRegistry) -> EvaluatedModel:
    """The saved student in a directory, with the recipe of its run, where it has one.

    Raises: as `load_saved_student`; RecipeError for a recipe that cannot be read.
    """
    model, saved = load_saved_student(path, plugins)
    home = path if (path / "recipe.toml").is_file() else path.parent
    has_recipe = (home / "recipe.toml").is_file()
    recipe = load_recipe(home / "recipe.toml") if has_recipe else Recipe()
    student = StudentEntry(model=saved.model, weights=str(path), **saved.options)
    return EvaluatedModel(
        cast("nn.Module", model), model.spec, recipe, saved.answer, student, home if has_recipe else path
    )


def _timm_student(spec: ModelSpec, weights: str | None) -> StudentEntry | None:
    """The student that is built as a teacher of timm's is."""
    if not is_model(spec.architecture.partition(".")[0]):
        return None
    return StudentEntry(model=f"timm:{spec.architecture}", weights=weights or "pretrained")
