"""The formats of an export: their exporters, found by name and made with the options that were given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillkit.contracts.exporter import HasFlags
from distillkit.errors import UserError
from distillkit_export.export_options import ONNX, ExportOptions

if TYPE_CHECKING:
    from pydantic import BaseModel

    from distillkit.contracts.exporter import Exporter, Precision
    from distillkit.plugin.registry import PluginRegistry


@dataclass(frozen=True)
class Format:
    """An exporter by its name, and the options that it was made with, for the command that finishes its work."""

    name: str
    exporter: Exporter
    options: BaseModel

    def flags(self, precision: Precision) -> list[str]:
        """The options of the command line that choose this format and precision."""
        if isinstance(self.exporter, HasFlags):
            flags = list(self.exporter.flags())
        else:
            flags = ["--format", self.name]
            for key, value in self.options.model_dump(mode="json", exclude_defaults=True).items():
                flags += ["--set", f"{self.name}.{key}={value}"]
        return flags if precision == "fp32" else [*flags, f"--{precision}"]


def onnx_format(options: ExportOptions, plugins: PluginRegistry) -> Format:
    """The ONNX exporter, whose files all other formats are made from."""
    return _format(ONNX, options, plugins)


def other_formats(options: ExportOptions, plugins: PluginRegistry) -> list[Format]:
    """The exporters beside ONNX.

    Raises: UnknownPluginError; RecipeError for their options; UserError for a precision that they do not write, or
    for settings of a format that is not exported.
    """
    for name in options.settings_by_exporter():
        if name not in {ONNX, *options.exporters}:
            raise UserError(f"--set {name}.KEY is of a format that was not asked for; add --format {name}")
    return [_format(name, options, plugins) for name in options.exporters]


def _format(name: str, options: ExportOptions, plugins: PluginRegistry) -> Format:
    plugin = plugins.find("exporter", name)
    checked = plugin.options(options.settings_by_exporter().get(name, {}))
    exporter: Exporter = plugin.create(checked)
    for precision in options.precisions:
        if precision not in exporter.precisions:
            writes = ", ".join(exporter.precisions)
            raise UserError(f"exporter '{name}' writes {writes}, not {precision}; leave out --{precision}")
    return Format(name, exporter, checked)
