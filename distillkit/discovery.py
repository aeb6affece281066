"""From installed distributions to registered plugins.

Entry points of the group ``distillkit`` are walked here rather than by pluggy, which lets one of two entry points of
the same name silently replace the other. What a plugin gets wrong is kept as `Broken` and stops nobody else's run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal

import pluggy

from distillkit import hookspecs
from distillkit.contracts import PluginSpec
from distillkit.suggestions import nearest

GROUP = "distillkit"
PREFIX = "distillkit_"

Role = Literal["dataset", "teacher", "student", "loss", "tracker", "evaluator", "exporter", "runtime"]
REGISTRATION_HOOKS: dict[Role, str] = {
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
class Owner:
    """The distribution that a plugin comes from, and the module that registered it."""

    distribution: str
    version: str
    module: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Owned:
    """A registered plugin and who registered it."""

    spec: PluginSpec
    role: Role
    owner: Owner


@dataclass(frozen=True)
class Broken:
    """An entry point that could not be used, and why."""

    entry_point: str
    owner: Owner
    reason: str

    def __str__(self) -> str:
        return f"plugin '{self.entry_point}' of {self.owner} is broken: {self.reason}"


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, for which the name alone makes a hook."""

    def __init__(self) -> None:
        super().__init__(GROUP)
        self.add_hookspecs(hookspecs)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name.startswith(PREFIX) and inspect.isroutine(getattr(plugin, name)):
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
        """Register a plugin, or raise PluginValidationError for a hook that does not exist or takes other arguments."""
        known = {hook for hook in vars(hookspecs) if hook.startswith(PREFIX)}
        for hook in dir(plugin):
            if hook.startswith(PREFIX) and hook not in known and inspect.isroutine(getattr(plugin, hook)):
                guess = nearest(hook, known)
                question = f"did you mean '{guess}'?" if guess else f"known: {', '.join(sorted(known))}"
                raise pluggy.PluginValidationError(plugin, f"hook '{hook}' does not exist; {question}")
        self.register(plugin, name=name)


@dataclass(frozen=True)
class Discovered:
    """All that was found: the manager, what is registered, what is broken."""

    manager: PluginManager
    owned: tuple[Owned, ...]
    broken: tuple[Broken, ...]


def discover() -> Discovered:
    """Load every entry point of the group ``distillkit`` and collect what its registration hooks return."""
    manager = PluginManager()
    owned: list[Owned] = []
    broken: list[Broken] = []
    for entry_point in sorted(entry_points(group=GROUP), key=lambda found: (_owner(found).distribution, found.name)):
        owner = _owner(entry_point)
        try:
            module = entry_point.load()
            manager.add(module, name=f"{owner.distribution}:{entry_point.name}")
            owned.extend(_registered(module, owner))
        # A plugin may fail in any way, sys.exit included; it is reported and stops nobody else's run.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's module raises
            manager.set_blocked(f"{owner.distribution}:{entry_point.name}")
            broken.append(Broken(entry_point.name, owner, reason(error)))
    return Discovered(manager, tuple(owned), tuple(broken))


def reason(error: BaseException) -> str:
    """One line for what a plugin raised."""
    if isinstance(error, pluggy.PluginValidationError):
        text = str(error).strip()
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _owner(entry_point: EntryPoint) -> Owner:
    distribution = entry_point.dist
    if distribution is None:
        return Owner("an unknown distribution", "", entry_point.module)
    return Owner(distribution.name, distribution.version, entry_point.module)


def _registered(module: ModuleType, owner: Owner) -> Iterator[Owned]:
    """Call the registration hooks of one module by itself, so that a failing one is known by name."""
    for role, hook in REGISTRATION_HOOKS.items():
        function: Any = getattr(module, hook, None)
        if function is None:
            continue
        specs = tuple(function())
        for spec in specs:
            if not isinstance(spec, PluginSpec):
                raise TypeError(f"{hook} must return PluginSpec objects, not {type(spec).__name__}")
        yield from (Owned(spec, role, owner) for spec in specs)
