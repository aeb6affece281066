"""Plugins of others that a user switched off: they are not imported.

`DISTILLKIT_DISABLE_PLUGINS` is the one channel, so that every process that a command starts hears of it too;
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
    """The names in the environment variable, which commas separate."""
    names = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def switch_off(names: Sequence[str]) -> Callable[[], None]:
    """Add names to the environment variable, for this process and all that it starts. Returns what undoes it."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ",".join([*switched_off(), *names])

    def undo() -> None:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before

    return undo


def switch_for(distribution: str, entry_point: str, names: Iterable[str]) -> str | None:
    """Which of `names` switches an entry point off: its own, that of its distribution, or "all"; None where none does.

    The plugins of distillkit itself stay.
    """
    if distribution == OURS:
        return None
    known = {_normal(distribution), _normal(entry_point), ALL}
    return next((name for name in names if _normal(name) in known), None)


def check_names(names: Iterable[str], installed: Iterable[tuple[str, str]]) -> None:
    """Hold names against what is installed, pairs of a distribution and one of its entry points.

    Raises: PluginError for one that nothing is called.
    """
    pairs = list(installed)
    others = {name for pair in pairs if pair[0] != OURS for name in pair}
    own = {OURS, *(entry_point for distribution, entry_point in pairs if distribution == OURS)}
    for name in names:
        if _normal(name) in {ALL, *map(_normal, others)}:
            continue
        if _normal(name) in own:
            raise PluginError(
                f"'{name}' is of distillkit itself and cannot be switched off; --no-plugin and {VARIABLE} are for the "
                "plugins of others"
            )
        raise PluginError(f"--no-plugin or {VARIABLE} names an {unknown_name('plugin', name, {ALL, *others})}")


def _normal(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
