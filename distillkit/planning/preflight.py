"""Checks of a recipe before torch is imported, which takes seconds: plugins and their options, downloads, the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillkit.errors import RecipeError
from distillkit.planning.missing_files import require_downloads
from distillkit.planning.names import RecipePlugins, check_labels_only, find_plugins
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from distillkit.data.splits import DataSets


@dataclass(frozen=True)
class CheckedRecipe:
    """The plugins and the data of a recipe, looked up and opened once."""

    plugins: RecipePlugins
    datasets: DataSets


def check_recipe(recipe: Recipe, plugins: PluginRegistry) -> CheckedRecipe:
    """Look up the plugins, check their options, and open the data.

    Raises: as `check_plugins`; DataError; a PluginError if a plugin of the recipe is broken or lacks a package.
    """
    return open_data(recipe, plugins, check_plugins(recipe, plugins))


def open_data(recipe: Recipe, plugins: PluginRegistry, found: RecipePlugins) -> CheckedRecipe:
    """Open the data of a recipe whose plugins are `found`. Raises: as `check_recipe`."""
    reads_teacher = any(found.losses[entry.name].spec.signals for entry in recipe.distilling_losses)
    return CheckedRecipe(found, _open(recipe, plugins, needs_labels=not reads_teacher))


def check_new_run(recipe: Recipe, plugins: PluginRegistry, *, loads_weights: bool = True) -> RecipePlugins:
    """Check the plugins of a run that starts, and that missing weights and data can be downloaded.

    `loads_weights` is that of `require_downloads`.
    Raises: as `check_labels_only`, `check_plugins` and `require_downloads`.
    """
    # Not in `check_plugins`: runs that were started before this check can still be resumed.
    check_labels_only(recipe)
    found = check_plugins(recipe, plugins)
    require_downloads(recipe, found, plugins, loads_weights=loads_weights)
    return found


def check_plugins(recipe: Recipe, plugins: PluginRegistry) -> RecipePlugins:
    """Look up the plugins, and check the options of those that say where their `Options` are.

    Raises: as `find_plugins`; RecipeError for a wrong option, or for a loss that lacks a teacher.
    """
    found = find_plugins(recipe, plugins)
    for entry in recipe.distilling_losses:
        if found.losses[entry.name].spec.signals and recipe.teacher_of(entry) is None:
            raise RecipeError(f"loss '{entry.name}' needs a teacher, but the recipe has none; give --teacher")
    given = [(found.student, recipe.student.options)]
    given += [(found.teachers[entry.name], entry.options) for entry in recipe.teachers]
    given += [(found.losses[entry.name], entry.options) for entry in recipe.distilling_losses]
    for plugin, options in given:
        # The options of other plugins are checked when the plan needs them: their factory may import torch.
        if plugin.spec.options is not None:
            plugin.options(options)
    return found


def _open(recipe: Recipe, plugins: PluginRegistry, *, needs_labels: bool) -> DataSets:
    """Open the data; unlabelled images are dropped where no loss reads a teacher."""
    from distillkit.data.splits import open_datasets

    datasets = open_datasets(recipe.data, plugins)
    if needs_labels and datasets.labelled.any() and not datasets.labelled.all():
        return datasets.only_labelled()
    return datasets
