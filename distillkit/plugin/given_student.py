"""A registry whose student `module` builds a network that was given from Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from distillkit.errors import RecipeError
from distillkit.plugin.plugin import Plugin
from distillkit.plugin.registry import PluginRegistry

NAME = "module"
"""Name of the student plugin for networks given from Python; its argument is the name of the class or function."""


@dataclass(frozen=True)
class GivenStudent(Plugin):
    """The plugin `module` with the network, or the function that builds it, as `given`."""

    given: Any = None

    def load(self) -> Any:
        return super().load().of(self.given)


def registry_with(student: object, plugins: PluginRegistry) -> PluginRegistry:
    """The plugins, with the student `module` building what is given.

    Raises: RecipeError for an object that cannot be called; as `PluginRegistry.find`.
    """
    if not callable(student):
        raise RecipeError(
            f"student is {type(student).__name__}; give the name of a student, a torch.nn.Module, or a function that "
            "builds one"
        )
    plugin = plugins.find("student", given_name(student))
    given = GivenStudent(plugin.spec, plugin.role, plugin.owner, None, student)
    return plugins.replacing(replace(plugin, argument=None), given)


def given_name(student: object) -> str:
    """The name of a given student in a recipe: "module:ResNet".

    >>> given_name(registry_with)
    'module:registry_with'
    """
    name = str(getattr(student, "__name__", type(student).__name__))
    return f"{NAME}:{name if name.isidentifier() else 'function'}"
