"""The plugin under test: found by its registered name, or given as a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from distillkit.errors import RecipeError
from distillkit.messages.validation import explain
from distillkit.plugin.plugin import Plugin, PluginRole
from distillkit.plugin.registry import installed_plugins


@dataclass(frozen=True)
class PluginUnderTest:
    """A plugin's factory, and its title in messages. `registered` is None for an unregistered class."""

    name: str
    title: str
    role: PluginRole
    factory: Any
    registered: Plugin | None

    def options(self, given: Mapping[str, Any] | None) -> BaseModel:
        """Validate options as given in a recipe.

        Raises: RecipeError for invalid options.
        """
        model: type[BaseModel] = self.factory.Options
        try:
            return model.model_validate(dict(given or {}))
        except ValidationError as error:
            raise RecipeError(*explain(error, model, prefix=self.title)) from None


def find_subject(role: PluginRole, plugin: str | type) -> PluginUnderTest:
    """Look up a registered name, or wrap a class.

    Raises: as `PluginRegistry.find` and `Plugin.load`.
    """
    if isinstance(plugin, type):
        return PluginUnderTest(plugin.__name__, f"{role} {plugin.__module__}.{plugin.__qualname__}", role, plugin, None)
    found = installed_plugins().find(role, plugin)
    return PluginUnderTest(plugin, f"{role} '{plugin}' of {found.owner}", role, found.load(), found)
