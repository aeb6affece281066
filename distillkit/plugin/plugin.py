"""A registered plugin: load its factory, check its options, create its objects."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distillkit.contracts.plugin import MissingFile, PluginSpec
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
        return self._import(self.spec.factory)

    def missing_file(self, settings: object) -> MissingFile | None:
        """The file that the plugin would download for a recipe's entry; None if it has what it needs.

        Raises: as `create`.
        """
        if not self.spec.missing_file:
            return None
        find = self._import(self.spec.missing_file)
        with blamed(str(self), "missing_file"):
            missing: MissingFile | None = find(self.name, settings)
        return missing

    def _import(self, place: str) -> Any:
        """The object at "module:name". Raises: as `load`."""
        module, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except BaseException as error:
            if is_exempt(error) and not isinstance(error, MemoryError):
                raise
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and missing.partition(".")[0] in EXTRA_OF_MODULE:
                raise missing_extra(missing, f"{self.role} '{self.name}'") from error
            raise BrokenPluginError(f"{self} cannot be used: {place}: {with_type(error)}") from error

    def option_model(self) -> type[BaseModel] | None:
        """The plugin's `Options`; imports the factory only if its PluginSpec does not say where they are.

        Raises: as `load`.
        """
        model: type[BaseModel] | None
        if self.spec.options is None:
            model = getattr(self.load(), "Options", None)
        else:
            model = self._import(self.spec.options)
        return model

    def options(self, given: Mapping[str, Any]) -> BaseModel:
        """The plugin's validated `Options`, from the keys and values of a recipe.

        Raises: as `load`; RecipeError that lists every wrong key and value.
        """
        from pydantic import ValidationError

        from distillkit.messages.validation import explain

        options = self._required_options()
        with blamed(str(self), "Options"):
            try:
                return options.model_validate(dict(given))
            except ValidationError as error:
                raise RecipeError(*explain(error, options, prefix=f"{self.role} '{self.name}'")) from None

    def option_names(self) -> frozenset[str]:
        """The names of the plugin's options in a recipe.

        Raises: as `load`.
        """
        from distillkit.messages.validation import known_keys

        return frozenset(known_keys(self._required_options()))

    def _required_options(self) -> type[BaseModel]:
        options = self.option_model()
        if options is None:
            raise BrokenPluginError(
                f"{self} cannot be used: {self.spec.factory} has no 'Options'; add a nested frozen pydantic model, "
                "without fields if the plugin has no options"
            )
        return options

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
