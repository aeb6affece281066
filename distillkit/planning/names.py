"""Resolve every name of a recipe before anything heavy is imported, opened or built."""

from __future__ import annotations

from distillkit.errors import RecipeError
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe


def check_names(recipe: Recipe, plugins: PluginRegistry) -> None:
    """Find every plugin that a recipe names.

    Raises: as `PluginRegistry.find`; RecipeError for a teacher that no loss listens to.
    """
    plugins.find("student", recipe.student.model)
    for teacher in recipe.teachers:
        plugins.find("teacher", teacher.model)
    for loss in recipe.losses:
        plugins.find("loss", loss.loss)
    for tracker in recipe.trackers:
        plugins.find("tracker", tracker)
    if recipe.teachers and not recipe.losses:
        raise RecipeError(
            f"teacher '{recipe.teachers[0].name}' is given and no loss that listens to it; "
            "add --loss hard or --loss soft, or say --loss ce to learn from labels alone"
        )
