"""Find the plugins of a recipe before anything heavy is imported, opened or built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distillkit.errors import RecipeError
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe


@dataclass(frozen=True)
class RecipePlugins:
    """The plugins that a recipe names; teachers and losses by their names in the recipe."""

    student: Plugin
    teachers: Mapping[str, Plugin]
    losses: Mapping[str, Plugin]
    trackers: tuple[Plugin, ...]


def find_plugins(recipe: Recipe, plugins: PluginRegistry) -> RecipePlugins:
    """Find every plugin that a recipe names, but for data sets, which may be folders.

    Raises: as `PluginRegistry.find`; RecipeError for a teacher that no loss reads.
    """
    found = RecipePlugins(
        student=plugins.find("student", recipe.student.model),
        teachers={teacher.name: plugins.find("teacher", teacher.model) for teacher in recipe.teachers},
        losses={loss.name: plugins.find("loss", loss.loss) for loss in recipe.losses},
        trackers=tuple(plugins.find("tracker", tracker) for tracker in recipe.trackers),
    )
    if recipe.teachers and not recipe.losses:
        raise RecipeError(
            f"teacher '{recipe.teachers[0].name}' is given and no loss that listens to it; "
            "add --loss hard or --loss soft, or say --loss ce to learn from labels alone"
        )
    return found
