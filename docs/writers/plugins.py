"""docs/reference/plugins.md: every built-in plugin by role, and its options in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from writers.recipe import cell, key_table, one_line

from distillkit.plugin.plugin import Plugin, PluginRole
from distillkit.plugin.registry import PluginRegistry, installed_plugins

TITLES: dict[PluginRole, str] = {
    "dataset": "Data sets",
    "teacher": "Teachers",
    "student": "Students",
    "loss": "Losses",
    "tracker": "Trackers",
    "evaluator": "Evaluators",
    "exporter": "Exporters",
    "runtime": "Runtimes",
}


def page() -> str:
    """One section per role. Installed third-party plugins are left out."""
    found = installed_plugins()
    if found.broken:
        raise SystemExit("\n".join(str(broken) for broken in found.broken))
    return "\n\n".join(_section(found, role, title) for role, title in TITLES.items())


def _section(found: PluginRegistry, role: PluginRole, title: str) -> str:
    built_in = [plugin for plugin in found.listing(role) if plugin.owner.distribution == "distillkit"]
    of_models = any(plugin.spec.signals for plugin in built_in)
    table = _table(built_in, _models_row if of_models else _row)
    by_factory = groupby(sorted(built_in, key=_factory), key=_factory)
    options = (_options(list(plugins)) for _, plugins in by_factory)
    return "\n\n".join([f"## {title}", table, *filter(None, options)])


def _table(plugins: Iterable[Plugin], row: Callable[[Plugin], Mapping[str, str]]) -> str:
    rows = [row(plugin) for plugin in plugins]
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(plugin: Plugin) -> dict[str, str]:
    return {"name": f"`{plugin.spec.shown_name}`", "summary": cell(plugin.spec.summary)}


def _models_row(plugin: Plugin) -> dict[str, str]:
    signals = ", ".join(sorted(signal.value for signal in plugin.spec.signals))
    return _row(plugin) | {"signals": signals, "licence of the weights": cell(plugin.spec.licence or "")}


def _factory(plugin: Plugin) -> str:
    return plugin.spec.factory


def _options(plugins: list[Plugin]) -> str | None:
    """The options that the plugins of one factory share; None if it has no options."""
    options = getattr(plugins[0].load(), "Options", None)
    if options is None or not options.model_fields:
        return None
    names = ", ".join(f"`{plugin.spec.shown_name}`" for plugin in plugins)
    return f"### Options of {names}\n\n{one_line(options.__doc__ or '')}\n\n{key_table(options.model_json_schema())}"
