"""Look up the plugins of a recipe. This comes first: before torch is imported and data is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distillkit.errors import RecipeError
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import LABELS_ONLY, Recipe


@dataclass(frozen=True)
class RecipePlugins:
    """The plugins of a recipe; teachers and losses are keyed by their names in the recipe."""

    student: Plugin
    teachers: Mapping[str, Plugin]
    losses: Mapping[str, Plugin]
    trackers: tuple[Plugin, ...]


def find_plugins(recipe: Recipe, plugins: PluginRegistry) -> RecipePlugins:
    """Find every plugin of a recipe except data sets, which may be folders.

    Raises: as `PluginRegistry.find`; RecipeError for a teacher that no loss reads.
    """
    for name in recipe.loss_options:
        plugins.find("loss", name)  # a misspelt name would never be used
    found = RecipePlugins(
        student=plugins.find("student", recipe.student.model),
        teachers={teacher.name: plugins.find("teacher", teacher.model) for teacher in recipe.teachers},
        losses={loss.name: plugins.find("loss", loss.loss) for loss in recipe.losses},
        trackers=tuple(plugins.find("tracker", tracker) for tracker in recipe.trackers),
    )
    if recipe.teachers and not recipe.losses:
        raise RecipeError(
            f"teacher '{recipe.teachers[0].name}' is given, but no loss uses it; "
            "add --loss hard or --loss soft, or give --loss ce to train on labels only"
        )
    return found


def check_labels_only(recipe: Recipe) -> None:
    """Refuse keys of the loss `ce`, which has no options, weight or terms; nothing would read them.

    Not part of `find_plugins`: runs that were started before this check can still be resumed.
    Raises: RecipeError.
    """
    for entry in recipe.losses:
        if entry.loss != LABELS_ONLY:
            continue
        values = {"weight": entry.weight, "teacher": entry.teacher, "name": entry.name} | entry.options
        given = [key for key, value in values.items() if value not in (None, LABELS_ONLY)]
        if given:
            raise RecipeError(
                f"loss '{LABELS_ONLY}' has no key {', '.join(map(repr, given))}: it is the cross-entropy on the "
                "labels, whose weight and smoothing are labels.weight and labels.smoothing, such as --set "
                f"labels.weight={1 if entry.weight is None else entry.weight:g}"
            )
