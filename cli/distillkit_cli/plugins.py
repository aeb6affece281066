"""`distillkit plugins`: list installed plugins, their owners, and those that cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from distillkit_cli.options import JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.plugin.plugin import Plugin, PluginRole
    from distillkit.plugin.registry import PluginRegistry

TITLES: dict[PluginRole, str] = {
    "teacher": "Teachers",
    "student": "Students",
    "loss": "Losses",
    "dataset": "Data sets",
    "tracker": "Trackers",
    "evaluator": "Evaluators",
    "exporter": "Exporters",
    "runtime": "Runtimes",
}
OURS = ("distillkit_plugins", "distillkit_export")
REMEDY = "run `pip install -e .` or reinstall distillkit: pip reads entry points only at installation"


def plugins(context: typer.Context, *, as_json: Annotated[bool, JSON] = False) -> None:
    """List every plugin with its owner: teachers, students, losses, data sets and more.

    Signals are the outputs that a model provides, or that a loss or an evaluator reads. The licence is that of the
    weights. Plugins that cannot be loaded, or that are switched off, come last.

    To switch one off: distillkit --no-plugin NAME run ..., or DISTILLKIT_DISABLE_PLUGINS=NAME,...

    For example:
      distillkit plugins
      distillkit plugins --json
    """
    from distillkit.plugin.registry import installed_plugins

    terminal: Terminal = context.obj
    registry = installed_plugins()
    unregistered = unregistered_catalogs(OURS)
    if as_json:
        terminal.show_json(_as_dict(registry, unregistered))
        return
    for role, title in TITLES.items():
        terminal.show_table(_table(title, registry.listing(role)))
        terminal.show("")
    for unavailable in (*registry.broken, *registry.switched_off):
        terminal.show(str(unavailable))
    for module in unregistered:
        terminal.show(f"{module} exists but has no entry point; {REMEDY}")


def unregistered_catalogs(packages: Iterable[str]) -> list[str]:
    """Catalogues of built-in plugins without an entry point, which discovery therefore misses. Imports nothing."""
    registered = {entry_point.module for entry_point in entry_points(group="distillkit")}
    modules: list[str] = []
    for package in packages:
        specification = find_spec(package)
        for folder in (specification and specification.submodule_search_locations) or ():
            root = Path(folder)
            paths = (path.relative_to(root).with_suffix("") for path in sorted(root.rglob("catalog.py")))
            modules += [".".join((package, *path.parts)) for path in paths]
    return [module for module in modules if module not in registered]


def _table(title: str, listing: Iterable[Plugin]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in ("name", "summary", "signals", "licence", "owner"):
        table.add_column(column, header_style="dim", overflow="fold", no_wrap=column == "name")
    for plugin in listing:
        row = _row(plugin)
        table.add_row(row["name"], row["summary"], ", ".join(row["signals"]), row["licence"], str(plugin.owner))
    return table


def _row(plugin: Plugin) -> dict[str, Any]:
    spec = plugin.spec
    return {
        "role": plugin.role,
        "name": spec.shown_name,
        "summary": spec.summary,
        "signals": sorted(signal.value for signal in spec.signals),
        "licence": spec.licence,
        "distribution": plugin.owner.distribution,
        "version": plugin.owner.version,
        "module": plugin.owner.module,
    }


def _as_dict(registry: PluginRegistry, unregistered: list[str]) -> dict[str, Any]:
    return {
        "plugins": [_row(plugin) for role in TITLES for plugin in registry.listing(role)],
        "broken": [
            {
                "entry_point": broken.entry_point,
                "distribution": broken.owner.distribution,
                "version": broken.owner.version,
                "module": broken.owner.module,
                "reason": broken.reason,
            }
            for broken in registry.broken
        ],
        "switched_off": [
            {
                "entry_point": off.entry_point,
                "distribution": off.owner.distribution,
                "version": off.owner.version,
                "module": off.owner.module,
                "by": off.by,
            }
            for off in registry.switched_off
        ],
        "unregistered": unregistered,
    }
