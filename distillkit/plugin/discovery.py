"""Discovery of installed plugins by their entry points.

pluggy's own discovery is not used: of two entry points with the same name, one silently replaces the other there. An
entry point that fails is recorded as `Broken` and does not stop runs that do not use it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy

from distillkit.contracts.model import Signal
from distillkit.contracts.plugin import PluginSpec
from distillkit.messages.nearest_name import nearest
from distillkit.messages.text import one_line, with_type
from distillkit.plugin import hookspecs
from distillkit.plugin.disabled import VARIABLE, check_names, switch_for, switched_off
from distillkit.plugin.error_attribution import GROUP, kind_of
from distillkit.plugin.plugin import Owner, Plugin, PluginRole

PREFIX = "distillkit_"

REGISTRATION_HOOKS: dict[PluginRole, str] = {
    "dataset": "distillkit_datasets",
    "teacher": "distillkit_teachers",
    "student": "distillkit_students",
    "loss": "distillkit_losses",
    "tracker": "distillkit_trackers",
    "evaluator": "distillkit_evaluators",
    "exporter": "distillkit_exporters",
    "runtime": "distillkit_runtimes",
}


@dataclass(frozen=True)
class SwitchedOff:
    """An entry point that was switched off and not imported; `by` is the name that switched it off."""

    entry_point: str
    owner: Owner
    by: str

    def __str__(self) -> str:
        return (
            f"plugin '{self.entry_point}' of {self.owner} is switched off: --no-plugin or {VARIABLE} names '{self.by}'"
        )


@dataclass(frozen=True)
class Broken:
    """An entry point that could not be loaded, with the reason."""

    entry_point: str
    owner: Owner
    reason: str

    def __str__(self) -> str:
        return f"plugin '{self.entry_point}' of {self.owner} is broken: {self.reason}"


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, extended: a function is a hook by its name, without a decorator."""

    def __init__(self) -> None:
        super().__init__(GROUP)
        self.add_hookspecs(hookspecs)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name.startswith(PREFIX) and inspect.isroutine(getattr(plugin, name)):
            # The defaults of pluggy's decorator.
            return {
                "wrapper": False,
                "hookwrapper": False,
                "optionalhook": False,
                "tryfirst": False,
                "trylast": False,
                "specname": None,
            }
        return options

    def add(self, plugin: object, name: str) -> None:
        """Register a plugin.

        Raises: PluginValidationError for a hook that does not exist or has other arguments.
        """
        # pluggy ignores functions that are not in its specifications, so a misspelt hook would never be called.
        known = {hook for hook in vars(hookspecs) if hook.startswith(PREFIX)}
        for hook in dir(plugin):
            if hook.startswith(PREFIX) and hook not in known and inspect.isroutine(getattr(plugin, hook)):
                guess = nearest(hook, known)
                question = f"did you mean '{guess}'?" if guess else f"known: {', '.join(sorted(known))}"
                raise pluggy.PluginValidationError(plugin, f"hook '{hook}' does not exist; {question}")
        self.register(plugin, name=name)

    def copy(self) -> PluginManager:
        """A manager with the same plugins."""
        other = PluginManager()
        for name, plugin in self.list_name_plugin():
            if plugin is None:
                other.set_blocked(name)
            else:
                other.register(plugin, name=name)
        return other


@dataclass(frozen=True)
class Discovered:
    """Result of discovery: pluggy's manager, the plugins, and the broken and switched-off entry points."""

    manager: PluginManager
    plugins: tuple[Plugin, ...]
    broken: tuple[Broken, ...]
    switched_off: tuple[SwitchedOff, ...]


def discover() -> Discovered:
    """Load every entry point of the group ``distillkit`` and call its registration hooks.

    Raises: PluginError if --no-plugin or DISTILLKIT_DISABLE_PLUGINS names a plugin that is not installed.
    """
    manager = PluginManager()
    plugins: list[Plugin] = []
    broken: list[Broken] = []
    off: list[SwitchedOff] = []
    owners = [(entry_point, _owner(entry_point)) for entry_point in entry_points(group=GROUP)]
    names = switched_off()
    check_names(names, [(owner.distribution, entry_point.name) for entry_point, owner in owners])
    # Sorted, so that listings and the order of hooks do not depend on the order of sys.path.
    for entry_point, owner in sorted(owners, key=lambda found: (found[1].distribution, found[0].name)):
        switch = switch_for(owner.distribution, entry_point.name, names)
        if switch is not None:
            off.append(SwitchedOff(entry_point.name, owner, switch))
            continue
        name = f"plugin '{entry_point.name}' of {owner}"
        try:
            module = entry_point.load()
            manager.add(module, name=name)
            plugins.extend(_registered(module, owner))
        except KeyboardInterrupt:
            raise
        # A plugin may fail in any way, such as sys.exit or out of memory; runs without it must still work.
        except BaseException as error:  # noqa: BLE001 - see above
            manager.set_blocked(name)  # it may be registered already, and its hooks must not be called
            broken.append(Broken(entry_point.name, owner, why(error)))
    return Discovered(manager, tuple(plugins), tuple(broken), tuple(off))


def why(error: BaseException) -> str:
    """The reason on one line; without the class of the error if pluggy or distillkit raised it."""
    if isinstance(error, pluggy.PluginValidationError | _RegistrationError):
        return one_line(error)
    return with_type(error)


class _RegistrationError(TypeError):
    """A registration hook failed or returned a wrong value."""


def _owner(entry_point: EntryPoint) -> Owner:
    distribution = entry_point.dist
    if distribution is None:
        return Owner("an unknown distribution", "", entry_point.module)
    return Owner(distribution.name, distribution.version, entry_point.module)


def _registered(module: ModuleType, owner: Owner) -> Iterator[Plugin]:
    """Call the registration hooks of one module, one by one, so that an error names the hook."""
    for role, hook in REGISTRATION_HOOKS.items():
        function: Any = getattr(module, hook, None)
        if function is None:
            continue
        try:
            answer = function()
            specs = tuple(answer) if isinstance(answer, Iterable) else answer
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _RegistrationError(f"{hook} raised {with_type(error)}") from error
        if not isinstance(specs, tuple):
            raise _RegistrationError(f"{hook} must return a sequence of PluginSpec, not {kind_of(specs)}")
        for spec in specs:
            _check_spec(hook, spec)
        yield from (Plugin(spec, role, owner) for spec in specs)


def _check_spec(hook: str, spec: object) -> None:
    """Check the type of every field; a wrong one would break the listing of all plugins later."""
    if not isinstance(spec, PluginSpec):
        raise _RegistrationError(f"{hook} must return PluginSpec objects, not {kind_of(spec)}")
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name == "signals":
            is_valid = isinstance(value, frozenset) and all(isinstance(signal, Signal) for signal in value)
            wanted = "a frozenset of Signal"
        else:
            is_valid = isinstance(value, str) or (value is None and field.default is None)
            wanted = "a string"
        if not is_valid:
            raise _RegistrationError(
                f"{hook} returned a PluginSpec whose {field.name} is {value!r}; it must be {wanted}"
            )
    if ":" not in spec.factory:
        raise _RegistrationError(
            f"{hook} returned factory '{spec.factory}' for '{spec.name}'; it must have the form module:Class"
        )
