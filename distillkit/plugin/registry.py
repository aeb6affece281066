"""Registry of the installed plugins by role and name. Only this module and `plugin.discovery` call pluggy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING

from pluggy import PluginValidationError

from distillkit.errors import (
    BrokenPluginError,
    DuplicatePluginError,
    PluginError,
    UnknownPluginError,
)
from distillkit.messages.nearest_name import nearest, unknown_name
from distillkit.plugin.discovery import (
    Broken,
    Discovered,
    SwitchedOff,
    discover,
    why,
)
from distillkit.plugin.error_attribution import author_of, blamed
from distillkit.plugin.plugin import Plugin, PluginRole

if TYPE_CHECKING:
    from pluggy import HookImpl

    from distillkit.contracts.run import RunInfo, RunModels


def installed_plugins() -> PluginRegistry:
    """Discover all installed plugins. Every call returns a new registry; there is no global one."""
    return PluginRegistry(discover())


def split_name(name: str) -> tuple[str, str | None]:
    """Split a name as typed by the user into the plugin's name and its argument.

    >>> split_name("timm:resnet18"), split_name("hard")
    (('timm', 'resnet18'), ('hard', None))
    """
    head, colon, argument = name.partition(":")
    return head, argument if colon else None


def _unexpected_argument(role: PluginRole, head: str, argument: str) -> str:
    """Message for an argument after the colon that the plugin does not accept."""
    if role != "loss":
        return f"{role} '{head}' accepts nothing after a colon; write '{head}' instead of '{head}:{argument}'"
    if argument.isidentifier():
        return f"loss '{head}': option '{argument}' has no value; write {head}:KEY=VALUE, such as soft:tau=2"
    return f"loss '{head}:{argument}': options are KEY=VALUE, such as soft:tau=2"


class PluginRegistry:
    """The installed plugins by role and name, and the life-cycle hooks of the observers of a run."""

    def __init__(self, discovered: Discovered) -> None:
        self._discovered = discovered

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The entry points that could not be loaded."""
        return self._discovered.broken

    @property
    def switched_off(self) -> tuple[SwitchedOff, ...]:
        """The entry points that the user switched off; they were not imported."""
        return self._discovered.switched_off

    def listing(self, role: PluginRole) -> tuple[Plugin, ...]:
        """All plugins of a role, sorted by name."""
        plugins = (plugin for plugin in self._discovered.plugins if plugin.role == role)
        return tuple(sorted(plugins, key=lambda plugin: (plugin.spec.name, plugin.owner.distribution)))

    def find(self, role: PluginRole, name: str) -> Plugin:
        """The plugin for a name as typed by the user ("timm:resnet18").

        Raises: UnknownPluginError with the nearest name; DuplicatePluginError with both owners; PluginError if an
        argument after the colon is missing or not accepted.
        """
        head, argument = split_name(name)
        matches = [plugin for plugin in self.listing(role) if plugin.spec.name == head]
        if not matches:
            raise UnknownPluginError(self._unknown(role, name))
        if len(matches) > 1:
            owners = " and ".join(f"{plugin.owner} ({plugin.owner.module})" for plugin in matches)
            raise DuplicatePluginError(f"{role} '{head}' is provided by {owners}; uninstall one of them")
        spec = matches[0].spec
        if spec.argument and not argument:
            raise PluginError(f"{role} '{head}' needs a name after the colon: {spec.shown_name}")
        if argument is not None and not spec.argument:
            raise PluginError(_unexpected_argument(role, head, argument))
        return replace(matches[0], argument=argument)

    def replacing(self, plugin: Plugin, other: Plugin) -> PluginRegistry:
        """A registry with `other` in place of one plugin; it has the same observers."""
        plugins = tuple(other if each == plugin else each for each in self._discovered.plugins)
        return PluginRegistry(replace(self._discovered, plugins=plugins))

    def copy(self) -> PluginRegistry:
        """A registry with the same plugins and observers; observers that are added to it are not added to this one."""
        return PluginRegistry(replace(self._discovered, manager=self._discovered.manager.copy()))

    def add_observers(self, *observers: object) -> None:
        """Register objects with life-cycle hooks in this registry: trackers, a progress display."""
        for observer in observers:
            try:
                self._discovered.manager.add(observer, name=self._free_name(author_of(observer)))
            except PluginValidationError as error:
                raise BrokenPluginError(f"{author_of(observer)} cannot observe a run: {why(error)}") from error

    def _free_name(self, author: str) -> str:
        """`author`, with a number if an observer of the same class is registered; pluggy needs unique names."""
        numbered = chain([author], (f"{author} ({number})" for number in count(2)))
        return next(name for name in numbered if not self._discovered.manager.has_plugin(name))

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
        """Call every hook, even if one fails. Its failure becomes a note of `error`, so that it does not hide it."""
        for implementation in self._implementations("distillkit_run_failed"):
            try:
                self._call_one(implementation, "distillkit_run_failed", run=run, error=error)
            except BrokenPluginError as failure:
                error.add_note(str(failure))

    def _call(self, hook: str, **arguments: object) -> None:
        for implementation in self._implementations(hook):
            self._call_one(implementation, hook, **arguments)

    def _implementations(self, hook: str) -> list[HookImpl]:
        implementations: list[HookImpl] = getattr(self._discovered.manager.hook, hook).get_hookimpls()
        return implementations

    @staticmethod
    def _call_one(implementation: HookImpl, hook: str, **arguments: object) -> None:
        """Call a life-cycle hook of one plugin. pluggy's own call would not say which plugin failed."""
        with blamed(implementation.plugin_name, hook):
            implementation.function(**{name: arguments[name] for name in implementation.argnames})

    def _unknown(self, role: PluginRole, name: str) -> str:
        specs = [plugin.spec for plugin in self.listing(role)]
        sentence = unknown_name(role, name, [spec.shown_name for spec in specs])
        names = [spec.name for spec in specs]
        # Not for a misspelt name of a plugin: that is closer to the plugin's name than a name of timm's is.
        if "timm" in names and ":" not in name and not nearest(name, names, cutoff=0.8):
            sentence += f"; for a timm model write timm:{name}"
        absent = [*self.broken, *self.switched_off]
        if absent:
            sentence += "; not loaded: " + "; ".join(map(str, absent))
        return sentence
