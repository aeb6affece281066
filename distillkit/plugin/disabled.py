"""Switch off third-party plugins, so that they are not imported.

The names are in the environment variable `DISTILLKIT_DISABLE_PLUGINS`, which all processes of a command inherit.
`--no-plugin` adds to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence

from distillkit.errors import PluginError
from distillkit.messages.nearest_name import unknown_name

VARIABLE = "DISTILLKIT_DISABLE_PLUGINS"
ALL = "all"
OURS = "distillkit"
"""The distribution of the built-in plugins."""


def switched_off() -> tuple[str, ...]:
    """The comma-separated names in the environment variable."""
    names = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def switch_off(names: Sequence[str]) -> Callable[[], None]:
    """Add names to the environment variable, for this process and its children. Returns a function that undoes it."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ",".join([*switched_off(), *names])

    def undo() -> None:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before

    return undo


def switch_for(distribution: str, entry_point: str, names: Iterable[str]) -> str | None:
    """The one of `names` that switches an entry point off, or None: its name, its distribution's name, or "all".

    Built-in plugins cannot be switched off.
    """
    if distribution == OURS:
        return None
    known = {_normal(distribution), _normal(entry_point), ALL}
    return next((name for name in names if _normal(name) in known), None)


def check_names(names: Iterable[str], installed: Iterable[tuple[str, str]]) -> None:
    """Check names against the installed plugins, given as pairs of distribution and entry point.

    Raises: PluginError for an unknown name and for a built-in plugin.
    """
    pairs = list(installed)
    others = {name for pair in pairs if pair[0] != OURS for name in pair}
    own = {OURS, *(entry_point for distribution, entry_point in pairs if distribution == OURS)}
    for name in names:
        if _normal(name) in {ALL, *map(_normal, others)}:
            continue
        if _normal(name) in own:
            raise PluginError(
                f"'{name}' is part of distillkit and cannot be switched off; --no-plugin and {VARIABLE} accept "
                "third-party plugins only"
            )
        raise PluginError(f"--no-plugin or {VARIABLE} names an {unknown_name('plugin', name, {ALL, *others})}")


def _normal(name: str) -> str:
    """A name normalised as in package indexes: "Acme.Losses" is "acme-losses"."""
    return re.sub(r"[-_.]+", "-", name).lower()
