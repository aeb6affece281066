"""The typed face of the plugin system. Nobody but this module and `distillkit.plugin.discovery` calls pluggy."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pluggy import PluginValidationError

from distillkit.errors import (
    BrokenPluginError,
    DuplicatePluginError,
    PluginError,
    RecipeError,
    UnknownPluginError,
)
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.text import with_type
from distillkit.plugin.discovery import (
    Broken,
    Discovered,
    Owned,
    PluginRole,
    SwitchedOff,
    discover,
    why,
)
from distillkit.plugin.error_attribution import author_of, blamed, is_exempt, sign
from distillkit.plugin.extras import EXTRA_OF_MODULE, missing_extra

if TYPE_CHECKING:
    from pluggy import HookImpl
    from pydantic import BaseModel

    from distillkit.contracts.run import RunInfo, RunModels


def installed_plugins() -> PluginRegistry:
    """Discover every installed plugin. Each call looks anew; there is no global."""
    return PluginRegistry(discover())


def split_name(name: str) -> tuple[str, str | None]:
    """Split what the user types into the plugin's name and its argument.

    >>> split_name("timm:resnet18"), split_name("hard")
    (('timm', 'resnet18'), ('hard', None))
    """
    head, colon, argument = name.partition(":")
    return head, argument if colon else None


class PluginRegistry:
    """What is installed, by role and name, and the life-cycle hooks of all that follow a run."""

    def __init__(self, discovered: Discovered) -> None:
        self._discovered = discovered

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The entry points that could not be used."""
        return self._discovered.broken

    @property
    def switched_off(self) -> tuple[SwitchedOff, ...]:
        """The entry points that were not imported, since the user said so."""
        return self._discovered.switched_off

    def listing(self, role: PluginRole) -> tuple[Owned, ...]:
        """Every plugin of a role, by name."""
        found = (owned for owned in self._discovered.owned if owned.role == role)
        return tuple(sorted(found, key=lambda owned: (owned.spec.name, owned.owner.distribution)))

    def find(self, role: PluginRole, name: str) -> Owned:
        """The plugin that `name` ("timm:resnet18") means.

        Raises: UnknownPluginError with the nearest name; DuplicatePluginError naming both owners; PluginError where
        an argument after the colon is missing or not wanted.
        """
        head, argument = split_name(name)
        matches = [owned for owned in self.listing(role) if owned.spec.name == head]
        if not matches:
            raise UnknownPluginError(self._unknown(role, name))
        if len(matches) > 1:
            owners = " and ".join(f"{owned.owner} ({owned.owner.module})" for owned in matches)
            raise DuplicatePluginError(f"{role} '{head}' is offered by {owners}; uninstall one of them")
        spec = matches[0].spec
        if spec.argument and not argument:
            raise PluginError(f"{role} '{head}' needs a name after the colon: {spec.shown_name}")
        if argument is not None and not spec.argument:
            raise PluginError(f"{role} '{head}' takes nothing after a colon; write '{head}' instead of '{name}'")
        return matches[0]

    def factory(self, role: PluginRole, name: str) -> Any:
        """Import the factory of a plugin.

        Raises: as `find`; MissingExtraError where an optional dependency is absent; BrokenPluginError otherwise.
        """
        owned = self.find(role, name)
        module, _, attribute = owned.spec.factory.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except BaseException as error:
            if is_exempt(error) and not isinstance(error, MemoryError):
                raise
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and missing.partition(".")[0] in EXTRA_OF_MODULE:
                raise missing_extra(missing, f"{role} '{name}'") from error
            raise _broken(owned, error) from error

    def made(self, role: PluginRole, name: str, *arguments: object, by: str | None = None) -> Any:
        """What the factory of a plugin makes of `arguments`, or its class method `by` does; signed with its author.

        Raises: as `factory`; BrokenPluginError for whatever the plugin raises that is no error of distillkit.
        """
        owned, factory = self.find(role, name), self.factory(role, name)
        with blamed(str(owned), by or "its constructor"):
            return sign(getattr(factory, by)(*arguments) if by else factory(*arguments), str(owned))

    def options(self, role: PluginRole, name: str, given: Mapping[str, Any]) -> BaseModel:
        """Check the options that a recipe gives to a plugin against the plugin's own `Options`.

        Raises: RecipeError that lists every wrong key and value.
        """
        from pydantic import ValidationError

        from distillkit.messages.validation import explain

        owned = self.find(role, name)
        options: type[BaseModel] | None = getattr(self.factory(role, name), "Options", None)
        if options is None:
            raise BrokenPluginError(
                f"{owned} cannot be used: {owned.spec.factory} has no 'Options': a nested frozen pydantic model, "
                "without fields where there is nothing to choose"
            )
        with blamed(str(owned), "Options"):
            try:
                return options.model_validate(dict(given))
            except ValidationError as error:
                raise RecipeError(explain(error, options, prefix=f"{role} '{name}'")) from None

    def follow(self, *observers: object) -> None:
        """Register objects with life-cycle hooks for this `PluginRegistry` alone: trackers, a progress display."""
        for observer in observers:
            try:
                self._discovered.manager.add(observer, name=author_of(observer))
            except PluginValidationError as error:
                raise BrokenPluginError(f"{author_of(observer)} cannot follow a run: {why(error)}") from error

    def unfollow(self, *observers: object) -> None:
        """Let go of what `follow` registered, so that the next run with this `PluginRegistry` starts with its own."""
        for observer in observers:
            self._discovered.manager.unregister(observer)

    def run_started(self, run: RunInfo) -> None:
        self._call("distillkit_run_started", run=run)

    def steps_logged(self, run: RunInfo, record: Mapping[str, float]) -> None:
        self._call("distillkit_steps_logged", run=run, record=record)

    def epoch_ended(self, run: RunInfo, record: Mapping[str, float]) -> None:
        self._call("distillkit_epoch_ended", run=run, record=record)

    def noted(self, run: RunInfo, step: int, note: str) -> None:
        self._call("distillkit_noted", run=run, step=step, note=note)

    def run_ended(self, run: RunInfo, record: Mapping[str, float], models: RunModels) -> None:
        self._call("distillkit_run_ended", run=run, record=record, models=models)

    def run_failed(self, run: RunInfo, error: BaseException) -> None:
        """Tell everybody, whoever fails meanwhile: `error` is what the user must hear. It notes who did."""
        for implementation in self._followers("distillkit_run_failed"):
            try:
                self._tell(implementation, "distillkit_run_failed", run=run, error=error)
            except BrokenPluginError as failure:
                error.add_note(str(failure))

    def _call(self, hook: str, **arguments: object) -> None:
        for implementation in self._followers(hook):
            self._tell(implementation, hook, **arguments)

    def _followers(self, hook: str) -> list[HookImpl]:
        implementations: list[HookImpl] = getattr(self._discovered.manager.hook, hook).get_hookimpls()
        return implementations

    @staticmethod
    def _tell(implementation: HookImpl, hook: str, **arguments: object) -> None:
        """Call a life-cycle hook of one plugin, so that a failing one is known by name."""
        with blamed(implementation.plugin_name, hook):
            implementation.function(**{name: arguments[name] for name in implementation.argnames})

    def _unknown(self, role: PluginRole, name: str) -> str:
        sentence = unknown_name(role, name, [owned.spec.shown_name for owned in self.listing(role)])
        absent = [*self.broken, *self.switched_off]
        if absent:
            sentence += "; not loaded: " + "; ".join(map(str, absent))
        return sentence


def _broken(owned: Owned, error: BaseException) -> BrokenPluginError:
    return BrokenPluginError(f"{owned} cannot be used: {owned.spec.factory}: {with_type(error)}")
