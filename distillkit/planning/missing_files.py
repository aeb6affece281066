"""Weights and data that have to be downloaded: whether they can be, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlparse

from distillkit.compute.reachable import is_reachable
from distillkit.contracts.plugin import MissingFile
from distillkit.errors import MissingFileError
from distillkit.planning.names import RecipePlugins
from distillkit.plugin.registry import PluginRegistry, split_name
from distillkit.recipe.schema import Recipe


def require_downloads(
    recipe: Recipe, found: RecipePlugins, plugins: PluginRegistry, *, loads_weights: bool = True
) -> None:
    """Check that missing weights and data can be downloaded. Takes a few seconds at most and downloads nothing.

    Without `loads_weights`, as for a plan, missing weights alone are not an error.
    Raises: MissingFileError that lists every file with its URL and where to put it.
    """
    data = _unavailable(_missing_data(recipe, plugins))
    weights = _unavailable(_missing_weights(recipe, found)) if data or loads_weights else []
    lacking = [*weights, *data]
    if lacking:
        hosts = " and ".join(dict.fromkeys(_host(file) for file in lacking))
        listed = " and ".join(f"{file.what} (from {file.url}; {file.remedy})" for file in lacking)
        raise MissingFileError(f"{hosts} cannot be reached, and this machine lacks {listed}")


def _unavailable(missing: Iterable[MissingFile]) -> list[MissingFile]:
    """The files whose server cannot be reached."""
    files = list(missing)
    reachable = {host: is_reachable(url) for host, url in {_host(file): file.url for file in files}.items()}
    return [file for file in files if not reachable[_host(file)]]


def _missing_weights(recipe: Recipe, found: RecipePlugins) -> Iterator[MissingFile]:
    """The weights of teachers that a loss reads."""
    read = (recipe.teacher_of(loss) for loss in recipe.distilling_losses)
    for entry in {entry.name: entry for entry in read if entry is not None}.values():
        missing = found.teachers[entry.name].missing_file(entry)
        if missing is not None:
            yield missing


def _missing_data(recipe: Recipe, plugins: PluginRegistry) -> Iterator[MissingFile]:
    """The data sets of the recipe; for one that the user did not name, with the reason for it."""
    data, reason = recipe.data, recipe.about.data_reason
    known = {plugin.spec.name: plugin for plugin in plugins.listing("dataset")}
    named = (data.train, data.unlabeled, data.validation, data.test)
    for name in dict.fromkeys(split_name(each)[0] for each in named if isinstance(each, str)):
        missing = known[name].missing_file(data) if name in known else None
        if missing is not None:
            yield replace(missing, what=f"{missing.what}, {reason}") if reason else missing


def _host(file: MissingFile) -> str:
    return urlparse(file.url).hostname or file.url
