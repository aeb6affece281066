"""A registered plugin: load its factory, check its options, create its objects."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distillkit.contracts.plugin import PluginSpec
from distillkit.errors import BrokenPluginError, RecipeError
from distillkit.messages.text import with_type
from distillkit.plugin.error_attribution import blamed, is_exempt, sign
from distillkit.plugin.extras import EXTRA_OF_MODULE, missing_extra

if TYPE_CHECKING:
    from pydantic import BaseModel

PluginRole = Literal["dataset", "teacher", "student", "loss", "tracker", "evaluator", "exporter", "runtime"]


@dataclass(frozen=True)
class Owner:
    """The distribution of a plugin, and the module that registered it."""

    distribution: str
    version: str
    module: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Plugin:
    """A plugin that a distribution registered under one role and name.

    `argument` is the text after the colon ("resnet18" in "timm:resnet18"), None in a listing.
    """

    spec: PluginSpec
    role: PluginRole
    owner: Owner
    argument: str | None = None

    def __str__(self) -> str:
        return f"{self.role} '{self.spec.name}' of {self.owner}"

    @property
    def name(self) -> str:
        """Name as typed by the user: "timm:resnet18"."""
        return self.spec.name if self.argument is None else f"{self.spec.name}:{self.argument}"

    def load(self) -> Any:
        """Import the factory, the class that `spec.factory` names.

        Raises: MissingExtraError if an optional dependency is missing; BrokenPluginError otherwise.
        """
        module, _, attribute = self.spec.factory.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except BaseException as error:
            if is_exempt(error) and not isinstance(error, MemoryError):
                raise
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and missing.partition(".")[0] in EXTRA_OF_MODULE:
                raise missing_extra(missing, f"{self.role} '{self.name}'") from error
            raise BrokenPluginError(f"{self} cannot be used: {self.spec.factory}: {with_type(error)}") from error

    def options(self, given: Mapping[str, Any]) -> BaseModel:
        """The plugin's validated `Options`, from the keys and values of a recipe.

        Raises: as `load`; RecipeError that lists every wrong key and value.
        """
        from pydantic import ValidationError

        from distillkit.messages.validation import explain

        options: type[BaseModel] | None = getattr(self.load(), "Options", None)
        if options is None:
            raise BrokenPluginError(
                f"{self} cannot be used: {self.spec.factory} has no 'Options'; add a nested frozen pydantic model, "
                "without fields if the plugin has no options"
            )
        with blamed(str(self), "Options"):
            try:
                return options.model_validate(dict(given))
            except ValidationError as error:
                raise RecipeError(explain(error, options, prefix=f"{self.role} '{self.name}'")) from None

    def create(self, *arguments: object) -> Any:
        """Create an object of the factory, signed with its author.

        Raises: as `load`; BrokenPluginError for any exception of the plugin that is not an error of distillkit.
        """
        factory = self.load()
        with blamed(str(self), "its constructor"):
            return sign(factory(*arguments), str(self))

    def call(self, method: str, *arguments: object) -> Any:
        """Call a class method of the factory ("build", "describe", "open"); its result is signed with its author.

        Raises: as `create`.
        """
        factory = self.load()
        with blamed(str(self), method):
            return sign(getattr(factory, method)(*arguments), str(self))
